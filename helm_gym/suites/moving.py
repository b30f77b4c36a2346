"""The suite of moving optima: three data sets in four regimes, under two routers.

All data sets have a table of the same size, so that they differ in popularity, activity and
sessions; it is the size at which optima lie inside the range of shares and move most. The ends
between which a mix moves are those whose capacity-optimal shares lie farthest apart.
:mod:`helm_gym.suites.measuring` finds the capacity of every stretch, by static shares alone. What
it found stands in ``capacities.json``, and :func:`cell` makes a scenario of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from helm_gym.baselines.static import share_grid
from helm_gym.config.scenario import SCENARIOS, Scenario
from helm_gym.errors import ConfigError, nearest
from helm_gym.suites.courses import (
    EPISODE_S,
    FEED_PARTS,
    MIDDLE,
    REGIMES,
    Stretches,
    course,
    lone_stretches,
    mix_name,
)
from helm_gym.suites.freezing import pinned, write_frozen

VERSION = 2
PREFIX = f"paper-v{VERSION}"
DATASETS = ("taobao", "amazon-books", "amazon-video-games")
ROUTERS = ("foresight", "kv_affinity")
CELLS = tuple(product(DATASETS, REGIMES, ROUTERS))
LOADS = (0.8, 0.95, 1.05)
"""Parts of what each stretch's best static share carries: calm, the edge, beyond it."""
LOAD = 0.95  # that the frozen files have
DIGESTS = SCENARIOS / f"{PREFIX}.sha"
TABLES_GB = (50.0, 100.0, 150.0, 200.0)
TABLE_GB = 100.0
"""A node's slice of the table, of all data sets; :func:`best_table` says why this one."""
NODES = 8
STEP_S = 5.0
UNCOUNTED_S = 60.0  # under a policy's control, until it has left the initial share
GRID = tuple(share_grid(0.1, 0.9, 0.1))
BASE = "taobao-shift"
CAPACITIES = Path(__file__).with_name("capacities.json")
GUESS_RPS = 130.0  # per node, where a search begins
HELD_OUT = "held_out"  # section of the table


def frozen() -> dict[str, str]:
    """Digest of every frozen scenario, by name."""
    return pinned(DIGESTS)


@dataclass(frozen=True)
class Carried:
    """What the static shares carry in one stretch alone."""

    rps_per_node: float  # of the best one
    best_share: float
    alike: tuple[float, float]  # shares within 2 % of it
    by_share: dict[str, float]  # requests/s per node, 0 where no rate meets the SLO


Changes = Mapping[str, Any]  # dotted paths of a scenario, such as hardware.model -> their values


def base(
    dataset: str, router: str, table_gb: float = TABLE_GB, changes: Changes | None = None
) -> dict[str, Any]:
    """A data set's scenario as plain data, its stream still to be given.

    Args:
        dataset: one of :data:`DATASETS`.
        router: one of :data:`ROUTERS`.
        table_gb: a node's slice of the table.
        changes: what is replaced in the scenario that all cells share, such as the model.

    Raises:
        ConfigError: no such data set or router.
    """
    for name, known in ((dataset, DATASETS), (router, ROUTERS)):
        if name not in known:
            raise ConfigError(f"suite {PREFIX}: {name!r} is not one of it{nearest(name, known)}")
    data = Scenario.load(BASE).replace({"nodes": NODES, **(changes or {})}).to_dict()
    data["version"] = VERSION
    data["emb"]["table_gb"] = {
        "value": table_gb, "unit": "GB", "assumed": True, "low": 20.0, "high": 1000.0,
        "source": "assumed: this node's slice of a production table, the same for all data sets",
    }  # fmt: skip
    data["workload"] |= {"profile": dataset, "mix": {"feed": MIDDLE, "search": 1.0 - MIDDLE}}
    data["router"]["name"] = router
    data["episode"] |= {
        "step_s": STEP_S,
        "steps": round((EPISODE_S + UNCOUNTED_S) / STEP_S),
        "uncounted_s": UNCOUNTED_S,
        "warm_starts": 1,
    }
    return data


def alone(
    dataset: str,
    router: str,
    stretch: Mapping[str, Any],
    table_gb: float = TABLE_GB,
    changes: Changes | None = None,
) -> Scenario:
    """One stretch for ever."""
    data = base(dataset, router, table_gb, changes)
    data["workload"]["regime"] = {"kind": "course", "stretches": [dict(stretch)]}
    return Scenario.parse(data | {"name": "stretch", "description": ""}, "suite")


Optima = Mapping[str, Sequence[float]]  # by data set: best shares of mostly feed, mostly search


def best_table(optima: Mapping[float, Optima]) -> float:
    """The table whose optima are least often at an end of the range, and of several move most.

    Args:
        optima: by size in GB.
    """

    def rank(size: float) -> tuple[int, float]:
        shares = [share for pair in optima[size].values() for share in pair]
        at_an_end = sum(not GRID[0] < share < GRID[-1] for share in shares)
        return at_an_end, -sum(abs(first - last) for first, last in optima[size].values())

    return min(optima, key=rank)


def optima() -> dict[float, dict[str, tuple[float, float]]]:
    """Best shares of mostly feed and mostly search, by size of the table and data set."""
    found = _table()["tables"]
    return {
        size: {
            d: tuple(
                found[f"{size:g} GB / {d} / {mix_name(feed)}"]["best_share"]
                for feed in (FEED_PARTS[0], FEED_PARTS[-1])
            )
            for d in DATASETS
        }
        for size in TABLES_GB
    }


def _table() -> dict[str, Any]:
    if not CAPACITIES.is_file():
        raise ConfigError(f"{CAPACITIES} is missing; run helm-gym suite measure")
    found: dict[str, Any] = json.loads(CAPACITIES.read_text(encoding="utf-8"))
    return found


@cache
def carried(section: str = "found") -> Mapping[str, Carried]:
    """What was measured, by ``data set / router / stretch``.

    Args:
        section: part of the table; :data:`HELD_OUT` for what held-out cells change.

    Raises:
        ConfigError: nothing was.
    """
    found = _table().get(section, {})
    return {
        name: Carried(**{**about, "alike": tuple(about["alike"])}) for name, about in found.items()
    }


def ends(dataset: str, router: str) -> tuple[float, float]:
    """Feed parts of the two mixes whose best shares lie farthest apart, the larger one first.

    Of equals the widest: more of the way lies between them.
    """
    best = {
        feed: carried()[f"{dataset} / {router} / {mix_name(feed)}"].best_share
        for feed in FEED_PARTS
    }
    pairs = [(a, b) for a in FEED_PARTS for b in FEED_PARTS if a > b]
    return max(pairs, key=lambda pair: (abs(best[pair[0]] - best[pair[1]]), pair[0] - pair[1]))


def stretches(dataset: str, router: str, regime: str, seed: int = 0) -> Stretches:
    """The stretches of a cell, with their capacities under a router.

    The ends of a mix are those under the first router, so that both routers see the same course.
    """
    names = lone_stretches()
    capacities = {n: carried()[f"{dataset} / {router} / {n}"].rps_per_node for n in names}
    return course(regime, capacities, ends(dataset, ROUTERS[0]), seed)


def cell(
    dataset: str, regime: str, router: str = ROUTERS[0], load: float = LOAD, seed: int = 0
) -> Scenario:
    """A cell's scenario, as :func:`draft` has it."""
    return Scenario.parse(draft(dataset, regime, router, load, seed), "suite")


def name_of(dataset: str, regime: str, router: str) -> str:
    """Name of a frozen scenario."""
    return under(f"{PREFIX}-{dataset}-{regime}", router)


def under(name: str, router: str) -> str:
    """Name of a cell's file under a router, given that under the first one."""
    return name if router == ROUTERS[0] else f"{name}-{router.replace('_', '-')}"


def frozen_cell(name: str, router: str) -> Scenario:
    """A frozen cell under a router; its loads are fractions of what is carried under that router.

    Args:
        name: the cell under the first router, such as ``paper-v2-taobao-day``.
        router: any; one that the suite has not is given the capacities of the first.
    """
    if router in ROUTERS:
        return Scenario.load(under(name, router))
    return Scenario.load(name).replace({"router.name": router})


CELL_NAMES = tuple(name_of(d, r, ROUTERS[0]) for d, r in product(DATASETS, REGIMES))
MOVING = tuple(name for name in CELL_NAMES if not name.endswith(REGIMES[0]))
"""Cells whose optimum moves: all but the steady ones."""


def freeze(folder: Path = SCENARIOS) -> list[Path]:
    """Write the cells' scenarios under every router, and the table of their digests.

    Args:
        folder: where to.

    Raises:
        ConfigError: the folder cannot be written, or nothing was measured.
    """
    return write_frozen([draft(*parts) for parts in CELLS], folder, DIGESTS.name)


def draft(
    dataset: str, regime: str, router: str = ROUTERS[0], load: float = LOAD, seed: int = 0
) -> dict[str, Any]:
    """A cell's scenario as plain data.

    Args:
        dataset: one of :data:`DATASETS`.
        regime: one of :data:`REGIMES`.
        router: one of :data:`ROUTERS`.
        load: part of what each stretch's best static share carries under that router.
        seed: draws its bursts and the order of its day.

    Raises:
        ConfigError: no such cell.
    """
    if regime not in REGIMES:
        raise ConfigError(f"suite {PREFIX}: regime {regime!r}{nearest(regime, REGIMES)}")
    data, found = base(dataset, router), stretches(dataset, router, regime, seed)
    data |= {
        "name": name_of(dataset, regime, router),
        "description": describe(dataset, regime, router),
    }
    return filled(data, found, load, "in this stretch alone")


def filled(data: dict[str, Any], found: Stretches, load: float, how: str) -> dict[str, Any]:
    """A scenario with its stream: stretches at a load, with a source for every capacity.

    Args:
        data: as :func:`base` has it; changed, and returned.
        found: stretches whose capacities are plain numbers.
        load: part of what each stretch carries.
        how: the capacities were measured, for the source.
    """
    rates: Sequence[float] = [stretch["capacity_rps_per_node"] for stretch in found]
    work, router = data["workload"], data["router"]["name"]
    work["load"] = load
    work["capacity_rps_per_node"] = {
        "value": max(rates), "unit": "requests/s", "source": "of the busiest stretch",
    }  # fmt: skip
    source = f"helm-gym suite measure: the best static share {how}, {router}"
    for stretch in found:
        rate = stretch["capacity_rps_per_node"]
        stretch["capacity_rps_per_node"] = {"value": rate, "unit": "requests/s", "source": source}
    work["regime"] = {"kind": "course", "stretches": found}
    return data


def describe(dataset: str, regime: str, router: str) -> str:
    """A cell's description."""
    what = {
        "steady": "half and half of two surfaces, unchanging",
        "trend": "the surface mix drifts from one end to the other and back",
        "burst": "calm stretches and bursts of one to three minutes, each on one surface and of "
        "regular users, newcomers or hot items",
        "day": "a steady stretch, a drift and bursts, in an order that was drawn",
    }[regime]
    return (
        f"Suite of moving optima, version {VERSION}: {dataset}, {what}. At load x every moment is "
        f"offered x times what its own best static share carries under {router}."
    )
