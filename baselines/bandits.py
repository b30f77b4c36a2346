"""Bandits: shares as arms, latency as their reward, and a window to forget by.

Common to both, and ours: an arm is a share; from one arm only its neighbours may be played next, as
a jump across the pool costs more than it can teach; a play lasts a few decisions, of which the last
window counts, so that the move before it does not; and an arm that is not in the window counts as
one play with the mean of all, or every neighbour would have to be tried again and again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal
from zlib import crc32

import numpy as np

from helm_gym.baselines.rule import Count, Grid, Move, Positive, Rule, share_points
from helm_gym.envs.reading import Floats, Signals

Figure = Literal["latency", "p99"]
BANDIT_SEARCH: Grid = {
    "window": (8, 16),
    "explore": (0.01, 0.02, 0.05),
    "play": (1, 2),
    "figure": ("latency", "p99"),
}


@dataclass(kw_only=True)
class Bandit(Rule):
    """Plays arms and keeps the rewards of the last plays.

    Args:
        window: plays that are remembered.
        explore: how much an arm that is little known is favoured, in units of reward.
        play: decisions per play.
        reach: arms to each side that may be played next.
        step: distance of arms.
        figure: the reward is 1 / (1 + figure / SLO), of the mean ``latency`` or the ``p99``.
    """

    SEARCH: ClassVar[Grid] = BANDIT_SEARCH

    window: Count = 16
    explore: Positive = 0.02
    play: Count = 2
    reach: Count = 1
    step: Move = 0.1
    figure: Figure = "latency"
    _clock: int = field(default=0, init=False, repr=False)
    _arms: Floats = field(init=False, repr=False)  # (A,) shares
    _arm: Floats = field(init=False, repr=False)  # (R,) arm in play
    _plays: list[tuple[Floats, Floats]] = field(init=False, repr=False)  # (R,) arms and rewards

    def begin(self, seen: Signals) -> None:
        """The first play is of the arm nearest to the share."""
        self._arms, self._plays, self._clock = share_points(self.step), [], 0
        self._arm = np.abs(self._arms - seen.share[:, None]).argmin(axis=1)

    def target(self, seen: Signals) -> Floats:
        """Book the play that ends, if one does, and begin the next."""
        self._clock += 1
        if self._clock % self.play == 0:
            figure = seen.latency if self.figure == "latency" else seen.p99
            self._plays = [*self._plays, (self._arm, 1.0 / (1.0 + figure))][-self.window :]
            number = np.arange(len(self._arms))
            near = np.abs(number - self._arm[:, None]) <= self.reach
            self._arm = np.where(near, self.index(*self._known()), -np.inf).argmax(axis=1)
        return np.asarray(self._arms[self._arm])

    def _known(self) -> tuple[Floats, Floats]:
        """(R, A) means and numbers of plays in the window, the play that all have included."""
        arms = np.stack([arm for arm, _ in self._plays], axis=1)[:, :, None]
        rewards = np.stack([reward for _, reward in self._plays], axis=1)[:, :, None]
        played = arms == np.arange(len(self._arms))
        count = played.sum(axis=1) + 1.0
        return (rewards.mean(axis=1) + (played * rewards).sum(axis=1)) / count, count

    def index(self, mean: Floats, count: Floats) -> Floats:
        """(R, A) of which the highest within reach is played."""
        raise NotImplementedError


@dataclass(kw_only=True)
class SlidingUcb(Bandit):
    """Sliding-window upper confidence bounds.

    SW-UCB (Garivier & Moulines, "On Upper-Confidence Bound Policies for Switching Bandit Problems",
    ALT 2011): mean over the window plus ``explore * sqrt(log(plays in the window) / plays of the
    arm)``. Adapted as the module says.
    """

    NAME: ClassVar[str] = "ucb"

    def index(self, mean: Floats, count: Floats) -> Floats:
        """The upper confidence bound."""
        return np.asarray(mean + self.explore * np.sqrt(np.log(len(self._plays) + 1.0) / count))


@dataclass(kw_only=True)
class Thompson(Bandit):
    """Thompson sampling on the last plays.

    Sliding-window Thompson sampling (Trovò et al., "Sliding-Window Thompson Sampling for
    Non-Stationary Settings", JAIR 2020) with normal rewards of known spread ``explore``. Adapted as
    the module says. A row draws from a generator seeded with ``seed`` and the row's first signals:
    not with the seed of reset, which rows share, so that a row alone repeats what it did among
    others.

    Args:
        seed: of the draws.
    """

    NAME: ClassVar[str] = "thompson"

    seed: int = 0
    _draws: list[np.random.Generator] = field(init=False, repr=False)

    def begin(self, seen: Signals) -> None:
        """Seed every row's draws."""
        super().begin(seen)
        rows = np.stack(seen, axis=1)
        self._draws = [np.random.default_rng([self.seed, crc32(row.tobytes())]) for row in rows]

    def state(self) -> dict[str, Any]:
        """What :class:`Bandit` remembers, and the state of every row's generator."""
        state = super().state()
        if "_draws" in state:
            state["_draws"] = [draw.bit_generator.state for draw in self._draws]
        return state

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state` gave, bit for bit."""
        super().restore(state)
        if "_draws" in state:
            self._draws = [np.random.default_rng() for _ in state["_draws"]]
            for draw, own in zip(self._draws, state["_draws"], strict=True):
                draw.bit_generator.state = own

    def index(self, mean: Floats, count: Floats) -> Floats:
        """A draw from each arm's posterior."""
        noise = np.stack([draw.standard_normal(mean.shape[1]) for draw in self._draws])
        return np.asarray(mean + self.explore * noise / np.sqrt(count))
