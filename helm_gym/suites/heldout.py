"""Held-out cells beside the suite of moving optima: what no policy and no search has seen.

Episodes, loads, routers and tables are those of the suite. What differs is one thing at a time: how
fast the mix changes, the model, how many nodes there are, the host link, or the rate, which then is
a real one. Capacities of what differs were measured as those of the suite were; all others are the
suite's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from helm_gym.config.scenario import SCENARIOS
from helm_gym.errors import ConfigError, nearest
from helm_gym.suites import moving
from helm_gym.suites.courses import EPISODE_S, FEED_PARTS, Stretches, course, mix_name, rush_name
from helm_gym.suites.freezing import pinned, write_frozen
from helm_gym.suites.measuring import MEASURED_S, Alone
from helm_gym.suites.moving import DATASETS, ROUTERS, Changes

VERSION = 2
PREFIX = f"heldout-v{VERSION}"
DIGESTS = SCENARIOS / f"{PREFIX}.sha"
FLIP_S = 150.0  # a mix lasts, before it is the other one at once
NODES = 32
RATES = Path(__file__).with_name("rates.json")
ARRIVALS = ("azure", "servegen")


@dataclass(frozen=True)
class Kind:
    """What sets held-out cells apart from those of the suite.

    Args:
        datasets: that have such a cell.
        what: in words, for the cells' descriptions.
        regime: the suite's regime whose stretches it has; empty if it has its own.
        changes: what is replaced in the suite's scenario, by dotted path.
        measured_s: simulated per rate when its stretches are measured.
    """

    datasets: tuple[str, ...]
    what: str
    regime: str = ""
    changes: Changes = field(default_factory=dict)
    measured_s: float = MEASURED_S


ONE = DATASETS[:1]
# Under 30 ms no share carries any load with the larger model: one request takes too long.
SLO = {"slo.p99_ms": 60.0, "slo.deadline_ms": 300.0}
KINDS: Mapping[str, Kind] = {
    "flips": Kind(DATASETS, f"the surface mix flips between its ends every {FLIP_S:g} s"),
    "model": Kind(
        ONE,
        "its day with a model of 8 layers and 1,024 channels, and twice the time for a request",
        "day",
        {"hardware.model": "hstu-8x1024", **SLO},
    ),
    "nodes": Kind(ONE, f"its trend on {NODES} nodes", "trend", {"nodes": NODES}, 60.0),
    "link": Kind(
        ONE,
        "its burst on a link that carries twice as many rows",
        "burst",
        {"hardware.host": "duplex-link"},
    ),
    "azure": Kind(ONE, "its drift at the rate of an hour of Azure's LLM conversations"),
    "servegen": Kind(ONE, "its drift at the rate of a day of a language model in ServeGen"),
}
CELLS = tuple((d, k, r) for k, kind in KINDS.items() for d, r in product(kind.datasets, ROUTERS))


def to_measure() -> dict[str, Alone]:
    """Stretches that only held-out cells have, by key: all under one router, then the other."""
    found = {}
    for router, (name, kind) in product(ROUTERS, KINDS.items()):
        if not kind.changes:
            continue
        for dataset, stretch in product(kind.datasets, _used(kind)):
            found[_key(dataset, name, router, stretch)] = Alone(
                dataset,
                router,
                stretch,
                seconds=kind.measured_s,
                changes=kind.changes,
                first=moving.carried()[f"{dataset} / {router} / {stretch}"].best_share,
            )
    return found


def _key(dataset: str, kind: str, router: str, stretch: str) -> str:
    return f"{dataset}/{kind} / {router} / {stretch}"


def _used(kind: Kind) -> list[str]:
    """Names of the stretches that cells of a kind have."""
    found = []
    for stretch in moving.stretches(kind.datasets[0], ROUTERS[0], kind.regime):
        rush = stretch.get("rush")
        found.append(
            rush_name(rush["surface"], rush["who"]) if rush else mix_name(stretch["mix"]["feed"])
        )
    # Calm stretches of bursts have the capacity of the burst that follows.
    if kind.regime == "burst":
        found = [name for name in found if name.startswith("rush")]
    return list(dict.fromkeys(found))


def frozen() -> dict[str, str]:
    """Digest of every frozen scenario, by name."""
    return pinned(DIGESTS)


def name_of(dataset: str, kind: str, router: str) -> str:
    """Name of a frozen scenario."""
    return moving.under(f"{PREFIX}-{dataset}-{kind}", router)


CELL_NAMES = tuple(dict.fromkeys(name_of(d, k, ROUTERS[0]) for d, k, _ in CELLS))


def freeze(folder: Path = SCENARIOS) -> list[Path]:
    """Write the cells' scenarios under every router, and the table of their digests.

    Args:
        folder: where to.

    Raises:
        ConfigError: the folder cannot be written, or nothing was measured.
    """
    return write_frozen([draft(*parts) for parts in CELLS], folder, DIGESTS.name)


@cache
def rates(arrivals: str) -> tuple[float, ...]:
    """A real rate over that of its busiest moment, in bins that fill an episode.

    Args:
        arrivals: one of :data:`ARRIVALS`; ``rates.json`` says where they come from.
    """
    found = json.loads(RATES.read_text(encoding="utf-8"))
    return tuple(found[arrivals]["rates"])


def draft(
    dataset: str, kind: str, router: str = ROUTERS[0], load: float = moving.LOAD
) -> dict[str, Any]:
    """A cell's scenario as plain data.

    Args:
        dataset: one that has such a cell.
        kind: one of :data:`KINDS`.
        router: one of :data:`moving.ROUTERS`.
        load: part of what each stretch's best static share carries under that router; at real
            rates so much is offered in the busiest moment.

    Raises:
        ConfigError: no such cell.
    """
    if kind not in KINDS:
        raise ConfigError(f"suite {PREFIX}: kind {kind!r}{nearest(kind, KINDS)}")
    about = KINDS[kind]
    if dataset not in about.datasets:
        raise ConfigError(
            f"suite {PREFIX}: {dataset!r} has no cell {kind!r}; take {' or '.join(about.datasets)}"
        )
    data = moving.base(dataset, router, changes=about.changes)
    data |= {
        "name": name_of(dataset, kind, router),
        "description": (
            f"Held out beside the suite of moving optima, version {VERSION}: {dataset}, "
            f"{about.what}. At load x every moment is offered x times what its own best static "
            f"share carries under {router}"
            + (", times the real rate over its highest." if kind in ARRIVALS else ".")
        ),
    }
    how = "in this stretch alone"
    if kind in ARRIVALS:
        how = "in mixes on either side, on the line between them"
    return moving.filled(data, stretches(dataset, kind, router), load, how)


def stretches(dataset: str, kind: str, router: str) -> Stretches:
    """The stretches of a cell, with their capacities under a router."""
    about = KINDS[kind]
    ends = moving.ends(dataset, ROUTERS[0])
    if about.regime:
        found = moving.carried(moving.HELD_OUT)
        own = {n: found[_key(dataset, kind, router, n)].rps_per_node for n in _used(about)}
        return course(about.regime, own, ends, seed=0)
    known = {
        feed: moving.carried()[f"{dataset} / {router} / {mix_name(feed)}"].rps_per_node
        for feed in FEED_PARTS
    }
    if kind == "flips":
        return [
            _stretch(FLIP_S, feed, known[feed]) for feed in ends * round(EPISODE_S / FLIP_S / 2)
        ]
    return _at_real_rates(rates(kind), ends, known)


def _at_real_rates(
    loads: Sequence[float], ends: tuple[float, float], known: Mapping[float, float]
) -> Stretches:
    """A drift from one end to the other and back, in short stretches at the loads of a real rate.

    Mixes lie on the line between the ends, and their capacities on the lines between those known.
    Every stretch ramps to the next, so that rates lie on lines as well.
    """
    there = np.linspace(0.0, 2.0, len(loads), endpoint=False)
    feeds = np.interp(1.0 - np.abs(there - 1.0), (0.0, 1.0), ends)
    parts = sorted(known)
    carried = np.interp(feeds, parts, [known[part] for part in parts])
    each = EPISODE_S / len(loads)
    return [
        _stretch(each, round(float(feed), 4), round(float(rate), 1))
        | {"load": float(load), "ramp_s": each}
        for feed, rate, load in zip(feeds, carried, loads, strict=True)
    ]


def _stretch(seconds: float, feed: float, rate: float) -> dict[str, Any]:
    return {
        "duration_s": seconds,
        "mix": {"feed": feed, "search": round(1.0 - feed, 9)},
        "capacity_rps_per_node": rate,
    }
