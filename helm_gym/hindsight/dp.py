"""Dynamic programming over EMB shares, with the cost of every step simulated from a snapshot.

A snapshot holds the random streams too, so every branch meets the same requests. What a window
costs depends on more than the share in force: caches fill for some windows after a move, and queues
carry over. So this is a lattice rather than a table: for every window and share it keeps the
``width`` best ways to get there, each with its own simulated state, at first the best one from each
share of the window before and then whatever else is cheapest. With ``width=1`` it is dynamic
programming on the share alone; with no limit it is exhaustive.

A full fine grid is wasteful, since a coarse one already tells where the schedule runs. The choices
are therefore given window by window, and :func:`corridor` makes them from an earlier schedule
(discrete differential dynamic programming: Heidari, Chow, Kokotovic and Meredith, Water Resources
Research 7(2), 1971).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from helm_gym.config.scenario import Scenario
from helm_gym.envs.action import ROUNDING, Layout, move
from helm_gym.envs.reward import Reward, total
from helm_gym.envs.vector_env import EmbKvVectorEnv
from helm_gym.errors import ConfigError
from helm_gym.hindsight.objective import Objective, Window
from helm_gym.metrics import window_metrics

Floats = NDArray[np.float64]
Buffer = NDArray[np.uint8]
Choices = Sequence[Sequence[float]]
Tick = Callable[[int, int], None]  # windows done, of how many


class Stand(NamedTuple):
    """Where a branch stands: the cluster's state before a decision, and the shares in force."""

    snapshot: Buffer
    shares: Floats  # (1, M)

    @property
    def share(self) -> float:
        """The share in force, the same on all nodes."""
        return float(self.shares[0, 0])


class Plan(NamedTuple):
    """A schedule: what to ask for in every window."""

    initial_share: float  # of the warm start
    shares: tuple[float, ...]  # (T,)


class Branches:
    """One cluster on one request stream, which can go on from any state that it was in.

    Args:
        scenario: what is simulated.
        objective: its reward is what windows report; see :attr:`Objective.reward`.
        seed: seed of the episode, as in :func:`helm_gym.runs.rollout.run_policy`.
    """

    def __init__(self, objective: Objective, seed: int) -> None:
        self.scenario: Scenario = objective.scenario
        self.seed = seed
        self.steps = 0  # windows simulated so far
        self._env = EmbKvVectorEnv(1, scenario=self.scenario, autoreset_mode=AutoresetMode.DISABLED)
        layout = Layout("cluster", 1, self.scenario.nodes)
        self._reward = Reward(objective.reward, self.scenario, layout)
        self._starts: dict[float, Stand] = {}

    def start(self, share: float) -> Stand:
        """The beginning of the episode, warmed up with ``share``."""
        if share not in self._starts:
            self._env.reset(seed=[self.seed], options={"share": share})
            self._starts[share] = Stand(self._env.simulator.snapshot(), self._env.shares)
        return self._starts[share]

    def step(self, stand: Stand, target: float) -> Window:
        """Simulate a window from ``stand`` with one share on all nodes."""
        self._env.simulator.restore(stand.snapshot)
        return self._go(stand.shares, self._reached(stand, target))

    def after(self, stand: Stand, target: float) -> Stand:
        """Where such a window ends."""
        self.step(stand, target)
        return Stand(self._env.simulator.snapshot(), self._reached(stand, target))

    def follow(self, plan: Plan) -> list[Window]:
        """Simulate a whole schedule from its beginning."""
        stand = self.start(plan.initial_share)
        self._env.simulator.restore(stand.snapshot)
        windows, shares = [], stand.shares
        for target in plan.shares:
            before, shares = shares, self._reached(stand._replace(shares=shares), target)
            windows.append(self._go(before, shares))
        return windows

    def close(self) -> None:
        """Stop the simulator's threads."""
        self._env.close()

    def _reached(self, stand: Stand, target: float) -> Floats:
        """(1, M) shares that a decision puts into force, as the environment would."""
        return move(self.scenario.episode, stand.shares, np.full_like(stand.shares, target))

    def _go(self, before: Floats, shares: Floats) -> Window:
        told = self._env.simulator.step(shares)
        self.steps += 1
        figures = window_metrics(self.scenario, told, before)
        return Window.of(told, float(total(self._reward.terms(told, figures))[0]))


class Unreachable(ConfigError):
    """No allowed move leads from the shares of one window to those of the next."""


@dataclass(frozen=True)
class Way:
    """The cheapest known way to some share and state: the last of its decisions, and the rest."""

    cost: float  # so far
    target: float  # share asked for in the last window; of the warm start at the beginning
    before: Way | None


def solve(
    branches: Branches,
    objective: Objective,
    choices: Choices,
    *,
    longest_move: float,
    width: int = 1,
    starts: Sequence[float] | None = None,
    tick: Tick = lambda done, of: None,
) -> tuple[Plan, float]:
    """Find the schedule with the lowest cost.

    Args:
        branches: the request stream.
        objective: what a window costs.
        choices: shares that each window chooses from.
        longest_move: between two decisions.
        width: ways kept for every window and share.
        starts: shares that the cluster may be warmed up with; the first window's by default.
        tick: called after every window.

    Returns:
        The schedule, and what its windows cost together.

    Raises:
        Unreachable: no choice of some window can be reached from those of the one before.
    """
    begin = choices[0] if starts is None else starts
    front = [(Way(0.0, share, None), branches.start(share)) for share in begin]
    for window, shares in enumerate(choices):
        reached = []
        for target in shares:
            arrived = [
                (Way(way.cost + objective.of_window(branches.step(at, target)), target, way), at)
                for way, at in front
                if abs(at.share - target) <= longest_move + ROUNDING
            ]
            reached += _choose(arrived, width)
        if not reached:
            raise Unreachable(
                f"no share of window {window} lies within {longest_move:g} of one before; allow "
                "longer moves, or a finer step"
            )
        if window + 1 < len(choices):
            front = [(way, branches.after(at, way.target)) for way, at in reached]
        tick(window + 1, len(choices))
    best = min((way for way, _ in reached), key=lambda way: way.cost)
    return _plan(best), best.cost


def _choose(arrived: list[tuple[Way, Stand]], width: int) -> list[tuple[Way, Stand]]:
    """The best way from each share, cheapest first, then the others, cheapest first."""
    order = sorted(arrived, key=lambda found: found[0].cost)
    leaders: list[tuple[Way, Stand]] = []
    others: list[tuple[Way, Stand]] = []
    known: set[float] = set()
    for found in order:
        (others if found[1].share in known else leaders).append(found)
        known.add(found[1].share)
    return [*leaders, *others][:width]


def _plan(way: Way) -> Plan:
    """Go back to the beginning."""
    shares = []
    while way.before is not None:
        shares.append(way.target)
        way = way.before
    return Plan(way.target, tuple(reversed(shares)))


def corridor(plan: Plan, grid: Sequence[float], radius: float) -> Choices:
    """Shares of a grid that lie within ``radius`` of a schedule, window by window."""
    return [
        [share for share in grid if abs(share - middle) <= radius + ROUNDING]
        for middle in plan.shares
    ]
