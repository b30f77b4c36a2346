"""Streams whose optimum moves, as courses of stretches: steady, trend, burst and day.

Every stretch is loaded in proportion to what the best static share carries in it alone, so that a
load means the same in all of them. Those capacities are given: :mod:`helm_gym.suites.moving`
measures them. Nothing here knows a policy.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from helm_gym.config.scenario import Scenario
from helm_gym.config.workload import Course

FEED_PARTS = (0.9, 0.7, 0.5, 0.3, 0.1)
"""Parts of the requests that the feed has in a mix; the rest is search."""
MIDDLE = 0.5
AMPLITUDE = 1.7
"""Rate in a burst over that around it: the height of ServeGen's bursts of a day."""
RUSH_PART = 1.0 - 1.0 / AMPLITUDE  # of a burst's requests
BURST_S = (60.0, 180.0)  # ServeGen's 10 to 30 min, ten times faster; calm stretches take as long
WHO = ("regular", "newcomers", "hot_items")
RUSHES = tuple(itertools.product(("feed", "search"), WHO))
EPISODE_S = 1500.0
REGIMES = ("steady", "trend", "burst", "day")
WHAT = ("mix", "load", "capacity_rps_per_node", "rush")  # of a stretch, that a jump changes
SHORTEST_S = 1.0  # of a stretch
HOUR_KNOTS = 8  # stretches of a trend that follows the hour table, there and back

Capacities = Mapping[str, float]  # name of a stretch -> requests/s per node
Stretches = list[dict[str, Any]]


def mix_name(feed: float) -> str:
    """Name of a mix, such as ``feed 0.7``."""
    return f"feed {feed:g}"


def rush_name(surface: str, who: str) -> str:
    """Name of a burst, such as ``rush feed newcomers``."""
    return f"rush {surface} {who}"


def lone_stretches() -> dict[str, dict[str, Any]]:
    """Every stretch that a course may have, by name, an hour long and without its capacity."""
    found = {mix_name(feed): _stretch(3600.0, feed) for feed in FEED_PARTS}
    for surface, who in RUSHES:
        found[rush_name(surface, who)] = _stretch(3600.0, MIDDLE) | {
            "rush": {"surface": surface, "part": RUSH_PART, "who": who}
        }
    return found


def course(
    regime: str,
    capacities: Capacities,
    ends: tuple[float, float],
    seed: int,
    hourly: Sequence[float] | None = None,
) -> Stretches:
    """The stretches of a regime, 25 minutes long.

    Args:
        regime: one of :data:`REGIMES`.
        capacities: what every stretch carries, requests/s per node, by name.
        ends: feed parts between which a mix moves, of :data:`FEED_PARTS`, the larger one first.
        seed: draws the order, kind and length of bursts, and the order of a day.
        hourly: rates of 24 hours; a trend then follows the hours from 7 to 23 as well.
    """
    rng = np.random.default_rng([seed, REGIMES.index(regime)])
    if regime == "steady":
        return [_at(EPISODE_S, MIDDLE, capacities)]
    if regime == "trend":
        stretches = _there_and_back(EPISODE_S, _between(*ends), capacities)
        return stretches if hourly is None else _by_hour(stretches, hourly)
    if regime == "burst":
        return _bursts(EPISODE_S, len(RUSHES), capacities, rng)
    first, last = ends
    swing = [*_between(MIDDLE, first), *_between(first, last)[1:], *_between(last, MIDDLE)[1:]]
    parts = [
        [_at(0.2 * EPISODE_S, MIDDLE, capacities)],
        _along(0.4 * EPISODE_S, swing, capacities),
        _bursts(0.4 * EPISODE_S, len(RUSHES) // 2, capacities, rng),
    ]
    return [stretch for place in rng.permutation(3) for stretch in parts[place]]


def _stretch(seconds: float, feed: float) -> dict[str, Any]:
    return {"duration_s": seconds, "mix": {"feed": feed, "search": round(1.0 - feed, 9)}}


def _at(seconds: float, feed: float, capacities: Capacities, **more: Any) -> dict[str, Any]:
    """A mix at its own capacity."""
    return _stretch(seconds, feed) | {"capacity_rps_per_node": capacities[mix_name(feed)]} | more


def _between(first: float, last: float) -> list[float]:
    """Feed parts from one to another, both included."""
    low, high = sorted((first, last))
    parts = [part for part in FEED_PARTS if low <= part <= high]
    return parts if first >= last else parts[::-1]


def _along(seconds: float, parts: Sequence[float], capacities: Capacities) -> Stretches:
    """A drift along mixes: each stretch is a ramp to the next one's mix, the last one's to its own.

    The last stretch is short, so that whatever follows begins where the drift ended.
    """
    each = seconds / (len(parts) - 1)
    return [_at(each, part, capacities, ramp_s=each) for part in parts[:-2]] + [
        _at(each - 1.0, parts[-2], capacities, ramp_s=each - 1.0),
        _at(1.0, parts[-1], capacities),
    ]


def _there_and_back(seconds: float, parts: Sequence[float], capacities: Capacities) -> Stretches:
    """A drift from the first mix to the last and back, which goes on for ever."""
    way = [*parts[:-1], *parts[:0:-1]]
    each = seconds / len(way)
    return [_at(each, part, capacities, ramp_s=each) for part in way]


def _by_hour(stretches: Stretches, hourly: Sequence[float]) -> Stretches:
    """Loads that follow the hours from 7 to 23, the busiest of them at full load."""
    hours = np.interp(
        np.linspace(7.0, 23.0, len(stretches)), np.arange(25), np.append(hourly, hourly[0])
    )
    loads = hours / hours.max()
    return [s | {"load": float(load)} for s, load in zip(stretches, loads, strict=True)]


def _bursts(seconds: float, n: int, capacities: Capacities, rng: np.random.Generator) -> Stretches:
    """Calm and burst in turn, no kind twice; a calm rate is its burst's over the amplitude."""
    lengths = rng.uniform(*BURST_S, size=2 * n)
    lengths *= seconds / lengths.sum()
    found: Stretches = []
    for k, place in enumerate(rng.permutation(len(RUSHES))[:n]):
        surface, who = RUSHES[place]
        rate = {"capacity_rps_per_node": capacities[rush_name(surface, who)]}
        calm, burst = (round(float(length), 1) for length in lengths[2 * k : 2 * k + 2])
        found.append(_stretch(calm, MIDDLE) | rate | {"load": 1.0 / AMPLITUDE})
        rush = {"surface": surface, "part": RUSH_PART, "who": who}
        found.append(_stretch(burst, MIDDLE) | rate | {"rush": rush})
    return found


def faster(scenario: Scenario, factor: float) -> Scenario:
    """A course played so many times faster, over an episode as many times shorter.

    Every stretch is still there, so a search sees the whole schedule at a part of the price. What
    it loses is in docs/benchmark.md: a policy has fewer windows to answer in. The uncounted
    beginning stays as long as it is.

    Args:
        scenario: a course, or any other, which then is only cut.
        factor: at least 1.
    """
    episode, regime = scenario.episode, scenario.workload.regime
    counted = max(1, round((episode.steps - episode.uncounted) / factor))
    changes: dict[str, Any] = {"episode.steps": counted + episode.uncounted}
    if isinstance(regime, Course):
        stretches = [
            stretch.model_copy(
                update={
                    "duration_s": max(SHORTEST_S, stretch.duration_s / factor),
                    "ramp_s": stretch.ramp_s / factor,
                }
            )
            for stretch in regime.stretches
        ]
        quick = regime.model_copy(update={"stretches": tuple(stretches)})
        changes["workload.regime"] = quick.model_dump(mode="json")
    return scenario.replace(changes)


def jumps(scenario: Scenario) -> list[float]:
    """Instants at which a course changes at once, in s since a policy's control began, rising.

    A stretch that was led up to by a ramp begins with no jump, nor does one that is as the last.
    """
    regime, episode = scenario.workload.regime, scenario.episode
    if not isinstance(regime, Course):
        return []
    found: list[float] = []
    now = 0.0
    for number in itertools.count():
        stretch = regime.stretches[number % len(regime.stretches)]
        after = regime.stretches[(number + 1) % len(regime.stretches)]
        now += stretch.duration_s
        if now >= episode.steps * episode.step_s:
            return found
        alike = all(getattr(stretch, name) == getattr(after, name) for name in WHAT)
        if not stretch.ramp_s and not alike:
            found.append(now)
    raise AssertionError("an episode ends")
