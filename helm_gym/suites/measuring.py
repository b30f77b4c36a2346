"""How much every stretch of the suite carries: the command ``helm-gym suite measure``.

A stretch is measured alone, for ever, by static shares only. What was found stands in
``capacities.json``, of which :mod:`helm_gym.suites.moving` makes cells. Stretches of held-out cells
differ from those of the suite in what their scenario changes; they have a section of their own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from helm_gym.errors import ConfigError
from helm_gym.files import write_text
from helm_gym.suites.capacity import SEEDS, WITHIN, Probe, basin, best_share
from helm_gym.suites.courses import FEED_PARTS, lone_stretches, mix_name
from helm_gym.suites.freezing import mapper, today
from helm_gym.suites.moving import (
    CAPACITIES,
    DATASETS,
    GRID,
    GUESS_RPS,
    HELD_OUT,
    ROUTERS,
    TABLE_GB,
    TABLES_GB,
    Carried,
    Changes,
    alone,
)

MEASURED_S = 120.0
CHOSEN_S = 60.0  # of a measurement that chooses the table
CLEARLY = 1.0 - 1.5 * WITHIN  # of the best: a share that carries less ends a walk


@dataclass(frozen=True)
class Alone:
    """A stretch whose capacity is to be measured, nothing before or after it.

    Args:
        stretch: name of one of :func:`~helm_gym.suites.courses.lone_stretches`.
        seconds: simulated per rate and cluster.
        changes: what is replaced in the data set's scenario; nothing for the suite.
        first: share from which the best one is climbed to; None: all of the grid are tried.
    """

    dataset: str
    router: str
    stretch: str
    table_gb: float = TABLE_GB
    seconds: float = MEASURED_S
    changes: Changes = field(default_factory=dict)
    first: float | None = None


def _carried(job: Alone) -> Carried:
    stretch = lone_stretches()[job.stretch]
    scenario = alone(job.dataset, job.router, stretch, job.table_gb, job.changes)
    probe = Probe(scenario, SEEDS, job.seconds)
    found = probe.capacities(GRID, GUESS_RPS) if job.first is None else climbed(probe, job.first)
    top = max(found.values())
    if top <= 0.0:
        raise ConfigError(f"{job.dataset}, {job.router}, {job.stretch}: no share meets the SLO")
    good = basin(found, highest=True)
    return Carried(
        float(f"{top:.4g}"),
        best_share(found, highest=True),
        (good[0], good[-1]),
        {f"{share:g}": float(f"{rate:.4g}") for share, rate in found.items()},
    )


def climbed(probe: Probe, first: float) -> dict[float, float]:
    """Capacity of the shares around the best one, which has one hill on the grid.

    A walk from ``first`` goes up, then one down, each until a share carries clearly less than the
    best that is known. It takes a third to a half of the time of the whole grid.
    """
    found: dict[float, float] = {}
    up = [share for share in GRID if share >= first]
    down = [share for share in GRID if share < first]
    for walk in (up, down[::-1]):
        guess = found.get(first, GUESS_RPS)
        for share in walk:
            guess = found[share] = probe.capacities([share], guess)[share]
            if guess < CLEARLY * max(found.values()):
                break
            guess = guess or GUESS_RPS
    return dict(sorted(found.items()))


def _of_the_suite() -> dict[tuple[str, str], Alone]:
    """What the suite needs, by section of the table and key in it."""
    outer = (mix_name(FEED_PARTS[0]), mix_name(FEED_PARTS[-1]))
    jobs = {
        ("tables", f"{size:g} GB / {d} / {n}"): Alone(d, ROUTERS[0], n, size, CHOSEN_S)
        for size, d, n in product(TABLES_GB, DATASETS, outer)
    }
    for d, r, n in product(DATASETS, ROUTERS, lone_stretches()):
        jobs["found", f"{d} / {r} / {n}"] = Alone(d, r, n)
    return jobs


def measure(
    path: Path = CAPACITIES,
    *,
    more: Mapping[str, Alone] | None = None,
    jobs: int = 2,
    say: Callable[[str], None] = print,
) -> None:
    """Measure the capacity of every stretch and write the table.

    Args:
        path: where to; a file of the same name keeps what it has, so that a run may go on.
        more: stretches of held-out cells by key, for a section of their own.
        jobs: processes.
        say: told what was found.
    """
    table: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    wanted = _of_the_suite() | {(HELD_OUT, key): job for key, job in (more or {}).items()}
    left = {at: job for at, job in wanted.items() if at[1] not in table.get(at[0], {})}
    about = f"helm-gym suite measure, {today()}: highest rate that a static share carries"
    with mapper(jobs) as pool:
        measured = pool(_carried, list(left.values()))
        for (section, name), found in zip(left, measured, strict=True):
            table.setdefault("source" if section != HELD_OUT else f"source_{HELD_OUT}", about)
            table.setdefault(section, {})[name] = asdict(found)
            write_text(path, json.dumps(table, indent=1, sort_keys=True) + "\n")
            say(f"{name}: {found.rps_per_node:g} at share {found.best_share:g}")
