"""What a hindsight schedule minimises: a sum over windows, so that dynamic programming applies.

The reward presets are such sums already. The 99th percentile of an episode is not, but it is at
most x exactly where at most 1 % of the arrivals are slower than x, and arrivals do not depend on
decisions. So the objective ``tail`` counts the arrivals slower than a threshold, a shed one among
them, and the search lowers the threshold to the percentile that it just reached until that stops
falling: the lowest percentile is where the fewest slow arrivals are 1 % of all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from helm_gym.config.scenario import Scenario
from helm_gym.envs.reward import PRESETS, RewardConfig
from helm_gym.errors import ConfigError, nearest
from helm_gym.runs.figures import tail_ms
from helm_gym.runs.rollout import Episode
from helm_gym.sim.layout import N_BINS, Node
from helm_gym.sim.simulator import Telemetry
from helm_gym.sim.stages import bin_edge
from helm_gym.units import MS

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

TAIL = "tail"
BESIDE_TAIL = "paper"  # preset of the episodes' reward column then; it decides nothing
OBJECTIVES: tuple[str, ...] = (TAIL, *PRESETS)
TIE = 1e-3  # slow arrivals
TIE_REWARD = 1e-6  # reward
"""What an SLO of latency costs beside the objective itself (per request, and per window of mean
latency): it decides only where hardly anything is slow, so that every share looks the same."""
BELOW_DEADLINE = 0.98  # highest threshold, in deadlines: a shed arrival is always slow


@dataclass(frozen=True)
class Window:
    """What one window of one cluster did, as far as an objective asks."""

    arrived: float
    shed: float
    inside: float  # finished within the SLO
    latency_s: float  # sum over admitted requests
    latency: Counts  # (L,) histogram of them
    reward: float
    counts: bool = True  # in figures of the episode, and so in the objective

    @classmethod
    def of(cls, told: Telemetry, reward: float, counts: bool = True) -> Window:
        """The window of the only cluster."""
        sums = told.total[0]
        latency = told.latency[0].astype(np.int64)
        columns = (Node.ARRIVED, Node.SHED, Node.WITHIN_SLO, Node.LATENCY_S)
        arrived, shed, inside, latency_s = (float(sums[column]) for column in columns)
        return cls(arrived, shed, inside, latency_s, latency, reward, counts)

    @property
    def alone(self) -> Window:
        """The same, to be judged by itself: it counts, wherever it lies."""
        return replace(self, counts=True)


def counted(windows: Sequence[Window]) -> list[Window]:
    """Those that figures of the episode count."""
    return [window for window in windows if window.counts]


@dataclass(frozen=True)
class Objective:
    """A cost per window, in named units.

    Args:
        name: ``tail``, or a reward preset, whose negative is the cost.
        scenario: where.
        threshold_ms: of ``tail``: latency above which an arrival is slow; the SLO by default.

    Raises:
        ConfigError: no such objective.
    """

    name: str
    scenario: Scenario
    threshold_ms: float = 0.0

    def __post_init__(self) -> None:
        if self.name not in OBJECTIVES:
            raise ConfigError(f"objective {self.name!r}{nearest(self.name, OBJECTIVES)}")
        slo = self.scenario.slo
        top = BELOW_DEADLINE * slo.deadline_ms.value
        threshold = min(self.threshold_ms or slo.p99_ms.value, top)
        object.__setattr__(self, "threshold_ms", threshold if self.name == TAIL else 0.0)

    @property
    def reward(self) -> RewardConfig:
        """Reward under which episodes are run."""
        return PRESETS[BESIDE_TAIL if self.name == TAIL else self.name]

    @property
    def unit(self) -> str:
        """Unit of :meth:`of_episode`."""
        return "ms P99" if self.name == TAIL else f"-{self.name} reward per window"

    @property
    def least(self) -> float:
        """What a window costs at least; nothing is known of the rewards."""
        return 0.0 if self.name == TAIL else float("-inf")

    def at(self, threshold_ms: float) -> Objective:
        """The same objective with another threshold."""
        return replace(self, threshold_ms=threshold_ms)

    def of_window(self, window: Window) -> float:
        """Cost of a window: what dynamic programming sums."""
        if not window.counts:
            return 0.0
        in_slos = window.latency_s / (self.scenario.slo.p99_ms.value * MS)
        if self.name != TAIL:
            return TIE_REWARD * in_slos / max(window.arrived - window.shed, 1.0) - window.reward
        slow = float(slower_part(self.threshold_ms) @ window.latency) + window.shed
        return slow + TIE * in_slos

    def of_episode(self, episode: Episode) -> float:
        """Cost of a whole episode, by which schedules and policies are compared."""
        if self.name == TAIL:
            return episode.figures["tail_ms"]
        return -float(episode.series["reward"][episode.uncounted :].mean())

    def of_windows(self, windows: Sequence[Window]) -> float:
        """The same of windows, bit for bit, wherever they come from."""
        if self.name != TAIL:
            return -float(np.array([window.reward for window in counted(windows)]).mean())
        return tail_of(self.scenario, windows)


def tail_of(scenario: Scenario, windows: Sequence[Window]) -> float:
    """P99 over all arrivals of those windows that count, a shed one being the deadline (ms)."""
    windows = counted(windows)
    latency: Counts = np.sum([window.latency for window in windows], axis=0, dtype=np.int64)
    arrived = sum(window.arrived for window in windows)
    shed = sum(window.shed for window in windows)
    return tail_ms(latency, shed / max(arrived, 1.0), scenario.slo.deadline_ms.value)


@cache
def slower_part(threshold_ms: float) -> Floats:
    """(L,) part of every latency bin above a threshold, linear inside a bin as in quantiles."""
    edges = np.array([bin_edge(i) for i in range(N_BINS + 1)]) / MS
    above = (edges[1:] - threshold_ms) / np.diff(edges)
    return np.asarray(np.clip(above, 0.0, 1.0))
