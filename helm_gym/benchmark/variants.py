"""What the prize depends on: courses beside the suite's, searched once each.

The prize shrinks as the ends of a drift come nearer to each other. A drift that follows the hour
table is the trend as a real day loads it. And where the whole table fits into the pool there is
nothing to move. All at one load, under one router, on one seed: directions, not figures to compare
policies by.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from helm_gym.benchmark.searches import SUITE_SEARCH
from helm_gym.config.quantity import Frozen
from helm_gym.config.scenario import Scenario
from helm_gym.hindsight.objective import TAIL
from helm_gym.hindsight.search import hindsight
from helm_gym.store import Codec, Store, json_codec, open_store
from helm_gym.suites import moving
from helm_gym.suites.capacity import SEEDS, Probe
from helm_gym.suites.courses import FEED_PARTS, course, lone_stretches, mix_name
from helm_gym.suites.seeds import EVALUATION_SEEDS

LOAD = 1.05
ROUTER = moving.ROUTERS[0]
DATASET = "amazon-books"  # its ends lie farthest apart; nothing is tuned here
ENDS = ((0.9, 0.1), (0.9, 0.3), (0.7, 0.1), (0.9, 0.5), (0.7, 0.3), (0.7, 0.5))
"""Feed parts between which a drift goes."""
FITTING_GB = 20.0  # a third of the pool
MEASURED_S = 60.0
FOLDER = Path(__file__).parent / "published" / "variants"


class Variant(Frozen):
    """One course and what the search found on it."""

    kind: str  # ends, hours or fits
    label: str
    distance: float  # between the shares that carry most at the two ends
    static_share: float
    static_ms: float  # P99 of the best static share in hindsight
    schedule_ms: float
    low: float  # 10th and 90th percentile of the schedule's shares
    high: float

    @property
    def headroom(self) -> float:
        """P99 of the best static share / that of the schedule."""
        return self.static_ms / self.schedule_ms


CODEC: Codec[Variant] = json_codec(Variant)
Job = tuple[str, str, tuple[float, float]]  # kind, label, ends


def all_jobs() -> dict[str, Job]:
    """Every variant by the name of its file."""
    jobs: dict[str, Job] = {
        f"ends-{a:g}-{b:g}": ("ends", f"feed {a:g} to {b:g}", (a, b)) for a, b in ENDS
    }
    jobs["hours"] = ("hours", "the suite's drift, loaded by the hour table", ENDS[0])
    jobs["fits"] = ("fits", f"a table of {FITTING_GB:g} GB, which fits", ENDS[0])
    return jobs


def make(job: Job) -> Variant:
    """Search for the schedule of a variant."""
    kind, label, ends = job
    shares = {feed: by_share(feed, FITTING_GB if kind == "fits" else None) for feed in FEED_PARTS}
    scenario = scenario_of(kind, ends, {feed: max(own.values()) for feed, own in shares.items()})
    found = hindsight(scenario, EVALUATION_SEEDS[0], TAIL, SUITE_SEARCH)
    counted = found.schedule.shares[scenario.episode.uncounted :]
    return Variant(
        kind=kind,
        label=label,
        distance=abs(peak(shares[ends[0]]) - peak(shares[ends[1]])),
        static_share=found.static_share,
        static_ms=found.static.tail_ms,
        schedule_ms=found.best.tail_ms,
        low=float(np.quantile(counted, 0.1)),
        high=float(np.quantile(counted, 0.9)),
    )


def scenario_of(
    kind: str, ends: tuple[float, float], capacities: Mapping[float, float]
) -> Scenario:
    """The course between two mixes, loaded in proportion to what each carries.

    Args:
        kind: what the variant changes: ``ends``, ``hours`` or ``fits``.
        ends: feed parts.
        capacities: requests/s per node, by feed part.
    """
    cell = moving.cell(DATASET, "trend", ROUTER, LOAD)
    hours = cell.workload.profile.hourly if kind == "hours" else ()
    hourly = [hour.value for hour in hours] or None
    known = {mix_name(feed): rate for feed, rate in capacities.items()}
    stretches = course("trend", known, ends, 0, hourly)
    changes: dict[str, Any] = {
        "name": f"variant-{kind}",
        "workload.regime": {"kind": "course", "stretches": stretches},
        "workload.capacity_rps_per_node": max(s["capacity_rps_per_node"] for s in stretches),
    }
    if kind == "fits":
        changes["emb.table_gb"] = FITTING_GB
    return cell.replace(changes)


def by_share(feed: float, table_gb: float | None) -> dict[float, float]:
    """Requests/s per node that each share carries in a mix: the suite's, or measured."""
    if table_gb is None:
        found = moving.carried()[f"{DATASET} / {ROUTER} / {mix_name(feed)}"].by_share
        return {float(share): rate for share, rate in found.items()}
    alone = moving.alone(DATASET, ROUTER, lone_stretches()[mix_name(feed)], table_gb)
    return Probe(alone, SEEDS, MEASURED_S).capacities(moving.GRID, moving.GUESS_RPS)


def peak(by_share: Mapping[float, float]) -> float:
    """The share that carries most, between the measured ones: the top of a parabola."""
    shares = sorted(by_share)
    rates = [by_share[share] for share in shares]
    top = int(np.argmax(rates))
    if not 0 < top < len(shares) - 1:
        return shares[top]
    step = shares[top + 1] - shares[top]
    left, middle, right = rates[top - 1 : top + 2]
    bend = left - 2.0 * middle + right
    return shares[top] + (0.5 * step * (left - right) / bend if bend < 0.0 else 0.0)


def make_all(folder: Path = FOLDER, *, processes: int = 1, progress: bool = False) -> list[Variant]:
    """Make the variants that the folder does not have.

    Raises:
        ConfigError: another process writes there, or nobody can.
    """
    with open_store(folder, CODEC) as store:
        found = store.complete(
            all_jobs(), make, processes=processes, title="variants", progress=progress
        )
    return list(found.values())


def load(folder: Path = FOLDER) -> list[Variant]:
    """All variants of a folder."""
    return Store(folder, CODEC).pieces()
