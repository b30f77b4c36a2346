"""What the assumed numbers decide: every one moved over its range, one at a time.

Variants run in worker processes, and each finished one is kept, so that a study that was stopped,
or killed, goes on where it was.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helm_gym.config.scenario import Scenario
from helm_gym.config.vary import Left, Variant, make_points
from helm_gym.errors import ConfigError
from helm_gym.evaluation.specs import SEARCHES, make_policy
from helm_gym.store import json_codec, open_store
from helm_gym.studies.sensitivity.measure import (
    BEST,
    FULL,
    QUICK,
    Budget,
    Task,
    fingerprint,
    key_of,
    measure,
)

DEFAULT_POLICIES = (BEST, "balance")
SAME = "no effect in this scenario: the simulator gets the same numbers"
Found = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """One finished variant."""

    variant: Variant
    found: Found  # see sensitivity_measure.measure
    same: bool  # not simulated, because it cannot differ from the scenario as stated


@dataclass(frozen=True)
class Study:
    """A finished study; the first row is the scenario as stated."""

    scenario: Scenario
    rows: tuple[Row, ...]
    left: tuple[Left, ...]
    specs: tuple[str, ...]
    budget: Budget

    @property
    def base(self) -> Row:
        """The scenario as stated."""
        return self.rows[0]

    @property
    def quick(self) -> bool:
        """Whether this was a smoke test."""
        return self.budget == QUICK


def run_sensitivity(
    scenario: Scenario,
    *,
    only: Sequence[str] = (),
    specs: Sequence[str] = DEFAULT_POLICIES,
    points: int = 3,
    quick: bool = False,
    seeds: int | None = None,
    out: Path = Path("runs/sensitivity"),
    processes: int | None = None,
    progress: bool = False,
    budget: Budget | None = None,
) -> Study:
    """Move every assumed number of a scenario over its range.

    Args:
        scenario: as stated.
        only: paths or their beginnings; all numbers if empty.
        specs: policies to rank; the best static share is always among them.
        points: values per number, 3 or 5, the stated one included.
        quick: a smoke test on a smaller cluster.
        seeds: held-out episodes per policy.
        out: folder; ``variants/`` in it holds a file per finished variant, so that a later call
            goes on.
        processes: worker processes; as many as cores by default, at most two.
        progress: show a progress bar on stderr.
        budget: how much is measured per variant, in place of what ``quick`` says.

    Raises:
        ConfigError: something cannot be used as asked.
    """
    budget = budget or (QUICK if quick else FULL)
    if seeds is not None:
        budget = Budget(**{**vars(budget), "seeds": seeds})
    if scenario.workload.replay is not None:
        raise ConfigError("sensitivity needs generated requests; this scenario replays a log")
    specs = _checked(specs)
    scenario = scenario.replace(budget.overrides)
    planned = make_points(scenario, only, points)
    tasks: dict[str, Task] = {}
    by_print: dict[str, str] = {}  # digest of what the simulator gets -> key
    keys = []
    for variant in planned.variants:
        task = Task(variant.scenario.to_dict(), budget, specs)
        told = fingerprint(variant.scenario)
        keys.append(by_print.setdefault(told, key_of(task, told)))
        tasks.setdefault(keys[-1], task)
    with open_store(out / "variants", json_codec()) as store:
        found = store.complete(
            tasks,
            measure,
            processes=processes or min(2, os.cpu_count() or 1),
            title="variants",
            progress=progress,
        )
    rows = [
        Row(variant, found[key], n > 0 and key == keys[0])
        for n, (key, variant) in enumerate(zip(keys, planned.variants, strict=True))
    ]
    return Study(scenario, tuple(rows), planned.left, specs, budget)


def _checked(specs: Sequence[str]) -> tuple[str, ...]:
    """Specs with the best static share first; made once, so that a typo costs no time."""
    for spec in specs:
        if spec == BEST:
            continue
        if spec in SEARCHES:
            raise ConfigError(
                f"policy {spec!r} is a search that would run for every variant; name its winner, "
                "such as balance:gain=0.6,bias=0.05"
            )
        make_policy(spec)
    return tuple(dict.fromkeys((BEST, *specs)))
