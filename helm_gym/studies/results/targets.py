"""What the controller has to reach, cell by cell, and whether it does."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import ge, le, lt

import numpy as np

from helm_gym.benchmark.hindsight import YARDSTICK
from helm_gym.runs.stats import Interval, mean_interval
from helm_gym.studies.results.plan import (
    AFFINITY,
    FULL,
    OPPONENTS,
    OWN,
    STRONGEST,
    System,
)
from helm_gym.studies.results.rows import Floats, Place, Study

Compare = Callable[[float, float], bool]

REDUCTION = (24.0, 38.0)
"""Percent by which P99 is lower per cell, as HELM reports (arXiv 2605.04450); bar: the first."""
SATISFACTION = (93.5, 99.6)
"""Percent of requests inside the SLO, as HELM reports it; bar: the first."""
THROUGHPUT = 0.999
"""Ratio that counts as not lower: assumed, since what is unfinished at an episode's end is cut off
(0.99 would forgive shed requests, 1 would punish a single request in flight)."""
NEVER_WORSE = 1.02
"""P99 over the strongest opponent's, where it need not be better."""
HARD_LOAD = 0.95
HARD = ("-trend", "-burst")
"""Ends of the names of the cells where, at the highest load, P99 must be lower."""
DISTANCE = YARDSTICK[0]

MET, MISSED, NOT_KNOWN = "met", "missed", "not known"
PAPER, SAME_ROUTER, OPTIMUM = "paper", "strongest", "distance"


@dataclass(frozen=True)
class Check:
    """A figure of one cell at one load against its bar."""

    place: Place
    found: Interval
    bar: float
    compare: Compare

    @property
    def verdict(self) -> str:
        """By the mean over seeds."""
        if math.isnan(self.found.mean):
            return NOT_KNOWN
        return MET if self.compare(self.found.mean, self.bar) else MISSED

    @property
    def certain(self) -> bool:
        """Whether the whole interval is on the mean's side of the bar."""
        ends = (self.found.low, self.found.high)
        if any(math.isnan(end) for end in ends):
            return False
        return all(self.compare(end, self.bar) == (self.verdict == MET) for end in ends)

    @property
    def margin(self) -> float:
        """How far above (better) or below its bar, in the figure's unit."""
        return (self.found.mean - self.bar) * (1.0 if self.compare is ge else -1.0)

    @property
    def sign(self) -> str:
        """Of the bar, as in ``>= 24``."""
        return {ge: ">=", le: "<=", lt: "<"}[self.compare]  # type: ignore[index]


@dataclass(frozen=True)
class Target:
    """One figure that has to be reached in several cells."""

    group: str
    name: str  # a sentence's subject
    heading: str  # of its column
    label: str  # in a verdict
    form: str
    checks: tuple[Check, ...]
    policy: str  # whose target it is
    router: str = ""  # if all that is compared runs under one

    def count(self, verdict: str) -> int:
        """Cells with a verdict."""
        return sum(check.verdict == verdict for check in self.checks)

    @property
    def verdict(self) -> str:
        """Of all cells together: one miss is a miss, and what is not known is not met."""
        if not self.checks:
            return NOT_KNOWN
        return next((v for v in (MISSED, NOT_KNOWN) if self.count(v)), MET)

    @property
    def worst(self) -> Check | None:
        """The check farthest below, or least above, its bar."""
        known = [check for check in self.checks if check.verdict != NOT_KNOWN]
        return min(known, key=lambda check: check.margin, default=None)


def targets(study: Study) -> list[Target]:
    """Everything that is asked of the full system, untuned and with the site's setting."""
    return [target for policy in judged(study) for target in targets_of(study, policy)]


def judged(study: Study) -> list[str]:
    """Whose targets are evaluated: those in the tables, and HELM in any case."""
    return [policy for policy in OWN if policy == FULL or policy in study.policies]


def targets_of(study: Study, policy: str) -> list[Target]:
    """Everything that is asked of one of :data:`~helm_gym.studies.results.plan.OWN`."""
    return [
        *as_the_paper(study, policy),
        *against_the_strongest(study, policy),
        distance(study, policy),
    ]


def full(study: Study, policy: str = FULL) -> System:
    """The full system: with the scheduler."""
    return System(policy, study.scheduler)


def as_the_paper(study: Study, policy: str = FULL) -> list[Target]:
    """The full system against the paper's baselines with affinity routing."""
    own = full(study, policy)
    lower = [_lower(study, own, System(policy, AFFINITY)) for policy in OPPONENTS]
    inside = [100.0 * study.values(own, place, "slo_satisfaction") for place in study.places]
    slo = Target(PAPER, f"requests of {own} inside the SLO, %", "in SLO, %", "SLO", ".2f",
                 _checks(study, inside, SATISFACTION[0], ge), own.policy)  # fmt: skip
    through = [_through(study, own, System(policy, AFFINITY)) for policy in OPPONENTS]
    return [*lower, slo, *through]


def _lower(study: Study, own: System, other: System) -> Target:
    percent = [100.0 * (1.0 - study.ratio(own, other, place)) for place in study.places]
    return Target(
        PAPER,
        f"P99 of {own} lower than that of {other}, %",
        f"P99 lower than {other.policy}'s, %",
        f"P99 {other.policy}",
        ".1f",
        _checks(study, percent, REDUCTION[0], ge),
        own.policy,
    )


def _through(study: Study, own: System, other: System) -> Target:
    ratios = [study.ratio(own, other, place, "throughput_rps") for place in study.places]
    return Target(
        PAPER,
        f"throughput of {own} over that of {other}",
        f"throughput / {other.policy}'s",
        f"throughput {other.policy}",
        ".4f",
        _checks(study, ratios, THROUGHPUT, ge),
        own.policy,
    )


def same_routers(study: Study) -> list[str]:
    """Routers under which all are compared: the best for a static share, and the scheduler."""
    return list(dict.fromkeys((study.best_router(), study.scheduler)))


def against_the_strongest(study: Study, policy: str = FULL) -> list[Target]:
    """HELM against the best simple rules, under the same router."""
    found = []
    for router in same_routers(study):
        own = System(policy, router)
        for opponent in STRONGEST:
            other = System(opponent, router)
            checks = tuple(
                _check(place, study.ratio(own, other, place), *_allowed(place))
                for place in study.places
            )
            heading = f"P99 / {opponent}'s"
            name = f"P99 of {policy} over that of {opponent}, both under {router}"
            found.append(
                Target(SAME_ROUTER, name, heading, opponent, ".3f", checks, policy, router)
            )
    return found


def _allowed(place: Place) -> tuple[float, Compare]:
    cell, load = place
    hard = load == HARD_LOAD and cell.endswith(HARD)
    return (1.0, lt) if hard else (NEVER_WORSE, le)


def distance(study: Study, policy: str = FULL) -> Target:
    """|share - hindsight optimum| of the full system; not known where no optimum was found."""
    own, known = full(study, policy), []
    for place in study.places:
        values = study.values(own, place, "distance")
        found = values[np.isfinite(values)]
        known.append(found if found.size else values)
    name = f"|share - hindsight optimum| of {own}"
    checks = _checks(study, known, DISTANCE, le)
    return Target(OPTIMUM, name, "distance", "distance", ".3f", checks, policy)


def _checks(
    study: Study, values: Sequence[Floats], bar: float, compare: Compare
) -> tuple[Check, ...]:
    """A check per place; ``values`` are those of its seeds."""
    pairs = zip(study.places, values, strict=True)
    return tuple(_check(place, found, bar, compare) for place, found in pairs)


def _check(place: Place, values: Floats, bar: float, compare: Compare) -> Check:
    return Check(place, mean_interval(values.tolist()), bar, compare)


def misses_first(those: Sequence[Target]) -> list[Target]:
    """Missed targets, then what is not known, then what is met; otherwise in their order."""
    order = (MISSED, NOT_KNOWN, MET)
    return sorted(those, key=lambda target: order.index(target.verdict))
