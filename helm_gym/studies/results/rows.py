"""Rows of the controller's comparison, by system, cell and load: figures and ratios."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from helm_gym.benchmark.arrange import REFERENCE, Benchmark, Row, Setting, arrange
from helm_gym.benchmark.rows import OK
from helm_gym.runs.stats import Interval, iqm, mean_interval
from helm_gym.studies.results.plan import (
    AFFINITY,
    PAPERS,
    POLICIES,
    ROUTERS,
    SCHEDULER,
    System,
    runs_under,
)

Floats = NDArray[np.float64]
Place = tuple[str, float]
"""A cell at a load."""
UNKNOWN = Interval(math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class Study:
    """Rows by system. Make it with :func:`study_of`.

    ``distances`` is |share - hindsight optimum| by key of a row, for the rows that have one.
    """

    benchmark: Benchmark
    policies: tuple[str, ...]  # in tables, whether there are rows of them or not
    routers: tuple[str, ...]
    scheduler: str
    distances: Mapping[str, float] = field(default_factory=dict)

    @property
    def places(self) -> list[Place]:
        """Every cell at every load."""
        those = [setting for cell in self.benchmark.settings.values() for setting in cell]
        return list(dict.fromkeys((setting.cell, setting.load) for setting in those))

    @property
    def loads(self) -> list[float]:
        """Rising."""
        return sorted({load for _, load in self.places})

    @property
    def systems(self) -> list[System]:
        """What the tables ask for."""
        every = [
            System(policy, router)
            for router in self.routers
            for policy in self.policies
            if runs_under(policy, router, self.scheduler)
        ]
        return [*every, *(System(policy, AFFINITY) for policy in PAPERS)]

    def rows(self, system: System, place: Place) -> list[Row | None]:
        """A system's row on every seed; None where it was not run."""
        policy, router = system
        key = (*Setting(*place, router), policy)
        return [self.benchmark.runs.get((*key, seed)) for seed in self.benchmark.seeds[place[0]]]

    def spec(self, system: System, place: Place) -> str:
        """What a system was run as there; empty if it was not."""
        return next((str(row["spec"]) for row in self.rows(system, place) if row), "")

    def values(self, system: System, place: Place, column: str) -> Floats:
        """A column on every seed; NaN where a run failed or was not made."""
        return np.array(
            [_figure(row, column, self.distances) for row in self.rows(system, place)], np.float64
        )

    def tail(self, system: System, place: Place) -> Floats:
        """P99 on every seed, ms."""
        return self.values(system, place, self.benchmark.figure)

    def ratio(self, system: System, base: System, place: Place, column: str = "") -> Floats:
        """A column, P99 by default, over another system's on the same requests."""
        name = column or self.benchmark.figure
        with np.errstate(divide="ignore", invalid="ignore"):
            found: Floats = self.values(system, place, name) / self.values(base, place, name)
        return found

    def score(self, system: System, base: System, loads: Sequence[float]) -> Interval:
        """Interquartile mean of P99 over another system's, over all cells at some loads."""
        cells = []
        for cell in self.benchmark.settings:
            places = [place for place in self.places if place[0] == cell and place[1] in loads]
            if places:
                cells.append(np.stack([self.ratio(system, base, place) for place in places]))
        return iqm(cells) if cells else UNKNOWN

    def mean(self, system: System, column: str, loads: Sequence[float]) -> Interval:
        """Mean of a column over cells; the interval resamples seeds, all cells' together."""
        places = [place for place in self.places if place[1] in loads]
        values = [self.values(system, place, column) for place in places]
        if len({len(one) for one in values}) != 1:
            return UNKNOWN
        return mean_interval(np.mean(values, axis=0).tolist())

    def missing(self, system: System) -> str:
        """Why a system has no figure in some run; empty if it has one in all."""
        found = [
            why(row, self.benchmark.figure) for p in self.places for row in self.rows(system, p)
        ]
        bad = [reason for reason in found if reason]
        if not bad:
            return ""
        reasons = list(dict.fromkeys(bad))
        more = f" (and {len(reasons) - 1} other reasons)" if len(reasons) > 1 else ""
        return f"{len(bad)} of {len(found)} runs: {' '.join(reasons[0].split())}{more}"

    def best_router(self) -> str:
        """The router under which the best static share has the lowest P99 of all.

        It is chosen on these very rows, for the opponents' benefit.
        """
        base = System(REFERENCE, self.routers[0])
        scores = {r: self.score(System(REFERENCE, r), base, self.loads).mean for r in self.routers}
        known = {router: score for router, score in scores.items() if not math.isnan(score)}
        return min(known, key=lambda router: known[router])


def why(row: Row | None, figure: str) -> str:
    """Why a run has no figure; empty if it has one."""
    if row is None:
        return "not run"
    if row["status"] != OK:
        return str(row["reason"] or "failed without a reason")
    good = row.get(figure) is not None and math.isfinite(float(row[figure]))
    return "" if good else f"{figure} is not known: no request was served"


def _figure(row: Row | None, column: str, distances: Mapping[str, float]) -> float:
    if row is None or row["status"] != OK:
        return math.nan
    if column == "distance":
        return distances.get(str(row.get("key")), math.nan)
    value = row.get(column)
    return math.nan if value is None else float(value)


def study_of(
    rows: Sequence[Row],
    *,
    scheduler: str = SCHEDULER,
    policies: Sequence[str] | None = None,
    distances: Mapping[str, float] | None = None,
) -> Study:
    """Check rows and arrange them by system.

    Args:
        rows: of ``helm-gym bench`` or ``helm-gym results``; those of other policies are left out.
        scheduler: router of the full system.
        policies: in tables; :data:`~helm_gym.studies.results.plan.POLICIES` by default.
        distances: to the hindsight optimum, by key of a row.

    Raises:
        ConfigError: rows contradict each other, or the best static share is not among them.
    """
    shown = tuple(p for p in (POLICIES if policies is None else policies) if p not in PAPERS)
    kept = [row for row in rows if row["policy"] in (*shown, *PAPERS, REFERENCE)]
    benchmark = arrange(kept or rows)
    there = {setting.router for those in benchmark.settings.values() for setting in those}
    order = dict.fromkeys((*ROUTERS, scheduler, *sorted(there)))
    routers = tuple(router for router in order if router in there or router == scheduler)
    return Study(benchmark, shown, routers, scheduler, distances or {})


def facts_of(study: Study) -> dict[str, Any]:
    """What the rows are: settings, seeds, state of the code; and what to be warned of."""
    from helm_gym.benchmark.leaderboard import facts, warnings

    return {**facts(study.benchmark), "warnings": warnings(study.benchmark)}
