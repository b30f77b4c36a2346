"""The worst moment of a policy: where it was slowest beside the schedule, and what it did there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from helm_gym.benchmark.yardsticks import Played, Yardstick
from helm_gym.config.scenario import Scenario
from helm_gym.config.workload import Course, Rush, Stretch
from helm_gym.runs.figures import uncounted_windows
from helm_gym.suites.score_draws import Draw

Floats = NDArray[np.float64]

AROUND_S = 60.0  # before and after the moment
WHO = {"regular": "of regular users", "newcomers": "of newcomers", "hot_items": "for hot items"}


@dataclass(frozen=True)
class Outcome:
    """What a policy did in one draw, beside both ends of what there is to be won."""

    draw: Draw
    yardstick: Yardstick
    played: Played | None  # None if it failed
    series: Mapping[str, Floats]  # of its episode, (T,) each; empty if it failed
    reason: str  # why it failed


@dataclass(frozen=True)
class Shares:
    """Mean EMB share over nodes, around a moment."""

    before: float  # a minute earlier, or where control begins
    then: float
    after: float  # a minute later, or where the episode ends
    low: float  # the least of the minute before and the minute after
    high: float  # the most of them


@dataclass(frozen=True)
class Moment:
    """The counted window in which a policy's P99 exceeds the schedule's most."""

    outcome: Outcome
    window: int  # counted from 0 since the start of the policy's control
    at_s: float  # when it begins, since then
    since_s: float  # from then on the excess was at least half of the worst
    until_s: float  # the end of that
    stretch: str  # of the course, in words
    policy_ms: float  # P99 over all arrivals of the window
    schedule_ms: float
    static_ms: float
    policy: Shares
    schedule: Shares

    @property
    def excess_ms(self) -> float:
        """By how much the policy's P99 is above the schedule's; below 0 if nowhere slower."""
        return self.policy_ms - self.schedule_ms


def worst_moment(outcomes: Sequence[Outcome]) -> Moment | None:
    """Find the worst moment of all draws, the first of several.

    Args:
        outcomes: what one policy did.

    Returns:
        None if the policy failed in all of them.
    """
    found = [moment for one in outcomes if (moment := _worst_of(one)) is not None]
    return max(found, key=lambda moment: moment.excess_ms, default=None)


def _worst_of(outcome: Outcome) -> Moment | None:
    if outcome.played is None:
        return None
    scenario, schedule = outcome.draw.scenario, outcome.yardstick.schedule
    excess = np.array(outcome.played.tails) - np.array(schedule.tails)
    excess[: uncounted_windows(scenario)] = np.nan
    if np.isnan(excess).all():
        return None
    window, step_s = int(np.nanargmax(excess)), scenario.episode.step_s
    around = max(1, round(AROUND_S / step_s))
    first, end = _bad_windows(excess, window)
    return Moment(
        outcome=outcome,
        window=window,
        at_s=window * step_s,
        since_s=first * step_s,
        until_s=end * step_s,
        stretch=stretch_in_words(scenario, window * step_s),
        policy_ms=outcome.played.tails[window],
        schedule_ms=schedule.tails[window],
        static_ms=outcome.yardstick.static.tails[window],
        policy=_shares(outcome.played, window, around),
        schedule=_shares(schedule, window, around),
    )


def _bad_windows(excess: Floats, worst: int) -> tuple[int, int]:
    """First window, and the one after the last, of those in a row that are half as bad."""
    good = np.flatnonzero(~(excess >= excess[worst] / 2.0))  # a NaN is good, too
    before, after = good[good < worst], good[good > worst]
    first = int(before[-1]) + 1 if before.size else 0
    return first, int(after[0]) if after.size else len(excess)


def _shares(played: Played, window: int, around: int) -> Shares:
    near = played.shares[max(0, window - around) : window + around + 1]
    return Shares(near[0], played.shares[window], near[-1], min(near), max(near))


# Where in its course


def stretch_in_words(scenario: Scenario, at_s: float) -> str:
    """What a stream does at a time, such as ``20 s into a burst of newcomers on feed (90 s)``.

    Args:
        scenario: one with a course; of another the regime's name is all there is to say.
        at_s: since the start of the policy's control, which is where a course begins.
    """
    regime = scenario.workload.regime
    if not isinstance(regime, Course):
        return f"the regime {regime.kind}"
    stretches = regime.stretches
    ends = np.cumsum([stretch.duration_s for stretch in stretches])
    at = at_s % float(ends[-1])  # a course repeats for ever
    place = int(np.searchsorted(ends, at, side="right"))
    stretch, following = stretches[place], stretches[(place + 1) % len(stretches)]
    into = at - float(ends[place]) + stretch.duration_s
    return f"{into:.0f} s into {_what(stretch, following)} ({stretch.duration_s:.0f} s long)"


def _what(stretch: Stretch, following: Stretch) -> str:
    if stretch.rush is not None:
        return _burst(stretch.rush)
    mix = _mix(stretch)
    if stretch.ramp_s > 0.0:
        return f"a drift of the mix from {mix} to {_mix(following)}"
    if following.rush is not None and stretch.load < 1.0:
        return f"a calm stretch of {mix}, before {_burst(following.rush)}"
    return f"a steady mix of {mix}"


def _burst(rush: Rush) -> str:
    return f"a burst {WHO[rush.who]} on {rush.surface}"


def _mix(stretch: Stretch) -> str:
    return " and ".join(f"{100.0 * part:.0f} % {name}" for name, part in stretch.mix.items())
