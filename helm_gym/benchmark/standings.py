"""Who gets how much of what knowing the future is worth, over all settings of a suite.

A policy's line holds its score, the gap it closes by regime, what it does at worst, and what it
costs. Medians are over settings, so that one setting beyond the edge does not decide a line. What
cannot be given is an :class:`~helm_gym.benchmark.gap.Absent`, never a number.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from helm_gym.benchmark.arrange import Row, Setting
from helm_gym.benchmark.contest import TAIL, WINDOW_TAIL, Contest, Prize, contests, prize
from helm_gym.benchmark.gap import Absent, Figure, Why
from helm_gym.benchmark.rows import OK
from helm_gym.benchmark.score import REFERENCE, Score, score
from helm_gym.benchmark.searches import LOADS

STEADY = "steady"
"""Regime whose optimum stands still; it counts in no score."""
RUNAWAY = 1.5
"""An episode whose P99 is more than so many times the schedule's has run away."""
FIGURES = ("slo_satisfaction", "moves", "moved_gb", "refill_gb", "decision_p50_us",
           "distance_good", "adapt_s")  # fmt: skip
Replays = Mapping[str, Mapping[Setting, Mapping[int, float]]]
"""What the schedules cost: figure -> setting -> seed -> ms."""


@dataclass(frozen=True)
class Stand:
    """One setting: what standing still costs there, and what there is to be won."""

    setting: Setting
    tail: Contest
    static: str | Absent  # best static share for P99
    gap: Prize | Absent  # in P99
    window_gap: Prize | Absent  # in the mean of the 5-s P99s
    half_gap: Prize | Absent  # the same with static:0.5 in the place of the best static share

    def static_ms(self) -> float:
        """P99 of the best static share, mean over seeds; NaN if it is not known."""
        return math.nan if isinstance(self.static, Absent) else mean(self.tail, self.static)


@dataclass(frozen=True)
class Line:
    """One policy over all settings."""

    policy: str
    specs: tuple[str, ...]  # what it was run as
    score: Score | Absent
    closed: Mapping[str, float]  # median gap closed in P99, by regime; without those that lack it
    worst: tuple[Setting, float] | None  # setting where it closes least
    runaways: int  # episodes
    episodes: int  # that have a schedule
    missing: int  # settings in which it has no row
    harm: tuple[Setting, float] | None  # P99 / best static's, the highest where nothing is to win
    figures: Mapping[str, float]  # means over the rows that have them


def stands(rows: Sequence[Row], replays: Replays, loss: Mapping[str, float]) -> list[Stand]:
    """All settings of some rows.

    Args:
        rows: what a benchmark wrote.
        replays: what :func:`helm_gym.benchmark.searches.replays` gives for both figures.
        loss: part of the gap that a search is known to lose, by regime.
    """
    tails, windows = contests(rows, TAIL), contests(rows, WINDOW_TAIL)
    found = []
    for setting, tail in tails.items():
        lost = loss.get(regime_of(setting.cell), 0.0)
        gaps = [
            _prize(contest, replays[contest.figure].get(setting, {}), lost, static)
            for contest, static in (
                (tail, None), (windows[setting], None), (windows[setting], REFERENCE),
            )
        ]  # fmt: skip
        found.append(Stand(setting, tail, tail.best_static(), *gaps))
    return found


def _prize(
    contest: Contest, replays: Mapping[int, float], lost: float, static: str | None
) -> Prize | Absent:
    """A gap, and the search's loss in the unit of the figure."""
    if static is not None and static not in contest.values:
        return Absent(Why.NOT_PLAYED, f"no row is of {static}")
    found = prize(contest, replays, 0.0, static)
    if isinstance(found, Absent) or not found.seeds:
        return found
    return prize(contest, replays, lost * max(0.0, found.gap.width.mean), static)


def lines(found: Sequence[Stand], rows: Sequence[Row]) -> list[Line]:
    """A line for every policy, best first; those that lack settings come last, whatever they have.

    Args:
        found: all settings.
        rows: that they were made from.
    """
    moving = {stand.setting.cell for stand in found if regime_of(stand.setting.cell) != STEADY}
    policies = sorted({policy for stand in found for policy in stand.tail.values})
    by_policy: dict[str, list[Row]] = {policy: [] for policy in policies}
    for row in rows:
        by_policy[row["policy"]].append(row)
    made = [_line(policy, found, by_policy[policy], moving) for policy in policies]
    return sorted(made, key=lambda line: (line.missing > 0, -_value(line.score), line.policy))


def _value(found: Score | Absent) -> float:
    return -1.0 if isinstance(found, Absent) else found.value


def _line(
    policy: str, found: Sequence[Stand], rows: Sequence[Row], moving: Collection[str]
) -> Line:
    mine = [stand for stand in found if policy in stand.tail.values]
    closed = {
        stand.setting: part.mean
        for stand in mine
        if stand.setting.cell in moving and not isinstance(part := closed_in(stand, policy), Absent)
    }
    ran, of = _runaways(mine, policy)
    good = [row for row in rows if row["status"] == OK]
    calm = {
        stand.setting: mean(stand.tail, policy) / stand.static_ms()
        for stand in mine
        if is_calm(stand)
    }
    calm = {setting: ratio for setting, ratio in calm.items() if math.isfinite(ratio)}
    return Line(
        policy=policy,
        specs=tuple(sorted({str(row["spec"]) for row in rows if row["spec"]})),
        score=score({s.setting: s.half_gap for s in mine}, policy, moving),
        closed=medians(closed),
        worst=min(closed.items(), key=lambda item: item[1]) if closed else None,
        runaways=ran,
        episodes=of,
        missing=len(found) - len(mine),
        harm=max(calm.items(), key=lambda item: item[1]) if calm else None,
        figures={name: _known_mean([row.get(name) for row in good]) for name in FIGURES},
    )


def is_calm(stand: Stand) -> bool:
    """Whether there is nothing to win: the optimum stands still, or the gap is known to be small.

    Below the loads that are searched a moving optimum costs next to nothing either.
    """
    cell, load, _ = stand.setting
    if regime_of(cell) == STEADY or load < min(LOADS):
        return True
    gap = None if isinstance(stand.gap, Absent) else stand.gap.gap.absent
    return gap is not None and gap.why is Why.HEADROOM


def _known_mean(values: Sequence[float | None]) -> float:
    """Mean of what is known; NaN if nothing is."""
    known = [value for value in values if value is not None and not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan


def closed_in(stand: Stand, policy: str) -> Figure:
    """The part of a setting's gap in P99 that a policy closes."""
    return stand.gap if isinstance(stand.gap, Absent) else stand.gap.closed(policy)


def medians(by_setting: Mapping[Setting, float]) -> dict[str, float]:
    """Median over the settings of each regime."""
    by_regime: dict[str, list[float]] = {}
    for setting, value in by_setting.items():
        by_regime.setdefault(regime_of(setting.cell), []).append(value)
    return {regime: float(np.median(values)) for regime, values in by_regime.items()}


def _runaways(found: Sequence[Stand], policy: str) -> tuple[int, int]:
    """Episodes far above the schedule, and how many have one."""
    ran = of = 0
    for stand in found:
        if isinstance(stand.gap, Absent):
            continue
        by_seed = dict(zip(stand.tail.seeds, stand.tail.of(policy).tolist(), strict=True))
        for seed, best in zip(stand.gap.seeds, stand.gap.gap.schedule.tolist(), strict=True):
            of += not math.isnan(by_seed[seed])
            ran += by_seed[seed] > RUNAWAY * best
    return ran, of


def mean(contest: Contest, policy: str) -> float:
    """Mean over the seeds that a policy was played on; NaN if it has none."""
    values = contest.values[policy] if policy in contest.values else np.array([math.nan])
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else math.nan


def regime_of(cell: str) -> str:
    """The regime, which is the last word in the name of a cell."""
    return cell.rpartition("-")[2]
