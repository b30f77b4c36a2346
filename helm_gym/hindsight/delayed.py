"""What a schedule can do that learns of every change late: a causal bound for controllers.

A hindsight schedule begins to move before the workload changes, which no controller can. Here a
planner knows the requests of the stretch that it is in, its ramp too, and believes that it goes on
for ever. It learns of the next stretch so many whole windows after that began, and plans again from
the state that the cluster is in by then. Random numbers are those of the true stream throughout.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from helm_gym.baselines.static import share_grid
from helm_gym.config.scenario import Scenario
from helm_gym.config.workload import Course, Stretch
from helm_gym.errors import ConfigError
from helm_gym.hindsight.branches import Branches, Plan, Stand
from helm_gym.hindsight.dp import corridor, reachable, solve
from helm_gym.hindsight.objective import TAIL, Objective
from helm_gym.hindsight.search import FAST, Search

FOREVER_S = 7200.0  # longer than any episode
BEYOND = 3  # windows that a plan looks beyond its end, so that it does not end in a queue


class Part(NamedTuple):
    """Windows that are planned at once."""

    scenario: Scenario  # what the planner believes
    first: int
    end: int  # window that is no longer part of it


def delayed(
    scenario: Scenario, seed: int, delay: int, threshold_ms: float, search: Search = FAST
) -> tuple[float, ...]:
    """Shares of the delayed schedule, window by window.

    Args:
        scenario: a course.
        seed: fixes the request stream, as for policies.
        delay: whole windows between a change and the first decision that knows of it.
        threshold_ms: latency above which an arrival is slow; the P99 of the hindsight schedule.
        search: how hard to look in every stretch.

    Raises:
        ConfigError: the scenario is no course, or the delay is negative.
    """
    objective = Objective(TAIL, scenario, threshold_ms)
    true = Branches(objective, seed)
    shares: list[float] = []
    try:
        stand = true.fork(true.start(scenario.episode.initial_share))
        for part in parts(scenario, delay):
            plan = _planned(objective, seed, part, stand, search)
            for share in plan.shares[: part.end - part.first]:
                true.go(stand, share)
                shares.append(share)
    finally:
        true.close()
    return tuple(shares)


def parts(scenario: Scenario, delay: int) -> Iterator[Part]:
    """What is planned when, and what the planner believes then."""
    regime, episode = scenario.workload.regime, scenario.episode
    if not isinstance(regime, Course):
        raise ConfigError(f"{scenario.name}: only courses have stretches to learn of late")
    if delay < 0:
        raise ConfigError(f"a delay of {delay} windows would know a change before it comes")
    seconds, first, n = 0.0, 0, len(regime.stretches)
    past: list[Stretch] = []
    for number in range(10**6):
        stretch = regime.stretches[number % n]
        seconds += stretch.duration_s
        end = min(episode.steps, math.ceil(seconds / episode.step_s) + delay)
        if end > first:
            after = regime.stretches[(number + 1) % n]
            yield Part(_believed(scenario, past, stretch, after), first, end)
            first = end
        if first == episode.steps:
            return
        past.append(stretch)


def _believed(
    scenario: Scenario, past: list[Stretch], stretch: Stretch, after: Stretch
) -> Scenario:
    """The course so far, then the present stretch for ever, or where its ramp leads."""
    if stretch.ramp_s > 0.0:
        believed = [*past, stretch, after.model_copy(update={"ramp_s": 0.0})]
    else:
        believed = [*past, stretch]
    last = believed[-1].model_copy(update={"duration_s": FOREVER_S})
    course: Any = scenario.workload.regime
    changed = course.model_copy(update={"stretches": (*believed[:-1], last)})
    return scenario.replace({"workload.regime": changed.model_dump(mode="json")})


def _planned(objective: Objective, seed: int, part: Part, stand: Stand, search: Search) -> Plan:
    """The best plan for a part, from where the cluster stands."""
    branches = Branches(objective, seed, begin=stand, stream=part.scenario)
    try:
        return _solved(branches, objective, part.end - part.first + BEYOND, search)
    finally:
        branches.close()


def _solved(branches: Branches, objective: Objective, windows: int, search: Search) -> Plan:
    """A coarse plan, then the best one near it."""
    episode, hold = objective.scenario.episode, search.hold
    coarse, fine = (
        share_grid(episode.share_min, episode.share_max, step)
        for step in (search.coarse_step, search.step)
    )
    lengths = [min(hold, windows - at) for at in range(0, windows, hold)]
    found, _ = solve(
        branches, objective, [coarse] * len(lengths), longest_move=search.longest_move,
        lengths=lengths, tries=search.tries,
    )  # fmt: skip
    start = branches.fixed_start
    assert start is not None
    near = reachable(found, start, search.longest_move)
    choices = corridor(near, fine, search.radius)
    plan, _ = solve(
        branches, objective, choices, longest_move=search.longest_move, width=search.width,
        tries=search.tries,
    )  # fmt: skip
    return plan
