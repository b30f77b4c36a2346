"""The guard: whether the residual does better than the base, and off with it where it does not.

What the base would have earned cannot be read off the past, because load drifts; so now and then
the base decides alone for a while, and its reward is compared with that of the windows just before.
All nodes take part at once. Nodes of a control group beside adapted ones would be a cheaper
comparison, but not a fair one: a router gives a node with another share other requests, and the
work per request of base nodes differed by up to 70 % from that of neighbours whose residual did the
cluster good (docs/adapter.md).

A trial is: the residual is faded out, caches settle, ``block`` windows are measured, and it is
faded in again. Every trial gives one Welch statistic, its error widened by ``inflation`` because
windows in a row are alike; the statistics of the last ``horizon`` trials are added (Stouffer) and
tested one-sided. So a residual that is far worse is off after one trial, one that is a little worse
after several. Trials cost what the residual gains, so the time between them grows fourfold while it
is not worse; a reward that falls out of its own range begins one at once. A fall that load has
brought shows in the trial as well, and trips nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from helm_gym.agents.adapter.config import ResidualConfig

Floats = NDArray[np.float64]

SUSPICION = 4.0  # standard deviations below its average at which the reward asks for a trial
LEAST_ERROR = 0.005  # of a mean reward; a stream without any noise proves nothing
LONGEST_REST = 4  # times that the rest doubles, once for every further trip
GROWTH = 4  # of the time between trials while the residual is not worse
KEEP = 0.95  # of average and variance of the reward, per window


class Guard:
    """Follows one stream and says how much of the residual is in force.

    Args:
        config: the guard's settings.
    """

    def __init__(self, config: ResidualConfig) -> None:
        self._config = config
        self.gate = 1.0
        self.trips = 0  # times that the residual was switched off
        self.trials = 0  # finished comparisons
        self._rest = 0  # windows of base alone still to come
        self._trial = -1  # windows into the trial under way; -1: none is
        self._wait = config.period  # windows until the next one
        self._period = config.period
        self._recent: Floats = np.zeros(0)  # (block,) rewards with the residual, newest last
        self._alone: Floats = np.zeros(0)  # (block,) rewards of the base in this trial
        self._scores: Floats = np.zeros(0)  # (horizon,) Welch statistics, positive: worse
        self._average, self._variance = np.nan, 0.0
        self.worse_by = 0.0  # reward that the last trial says the residual costs

    @property
    def resting(self) -> bool:
        """Whether the base decides alone, because the residual was worse."""
        return self._rest > 0

    def follow(self, reward: float) -> bool:
        """Count a window.

        Args:
            reward: of the cluster in it.

        Returns:
            True if the residual was switched off just now: whoever learns should forget.
        """
        if not self._config.guard:
            return False
        if self._rest:
            self._rest -= 1
            return False
        if self._trial < 0:
            self._watch(reward)
            return False
        return self._try(reward)

    def _watch(self, reward: float) -> None:
        """The residual is in force, or fading in."""
        config = self._config
        whole = self.gate == 1.0
        self.gate = min(1.0, self.gate + 1.0 / config.ramp)
        if not whole:
            return
        self._recent = np.append(self._recent, reward)[-config.block :]
        self._wait -= 1
        if self._suspicious(reward):
            self._wait, self._period = 0, config.period
        if self._wait <= 0 and len(self._recent) == config.block:
            self._trial, self._alone = 0, np.zeros(0)
            self.gate = 1.0 - 1.0 / config.ramp

    def _suspicious(self, reward: float) -> bool:
        if not np.isfinite(self._average):
            self._average = reward
        below = self._average - reward
        known = self._variance > 0.0 and len(self._recent) == self._config.block
        odd = below > SUSPICION * max(self._variance**0.5, LEAST_ERROR)
        self._average = KEEP * self._average + (1.0 - KEEP) * reward
        self._variance = KEEP * self._variance + (1.0 - KEEP) * below**2
        return bool(odd and known)

    def _try(self, reward: float) -> bool:
        """A trial is under way."""
        config = self._config
        self._trial += 1
        self.gate = max(0.0, 1.0 - (self._trial + 1.0) / config.ramp)
        if self._trial > config.ramp + config.settle:
            self._alone = np.append(self._alone, reward)
        if len(self._alone) < config.block:
            return False
        self._trial = -1
        self.trials += 1
        worse = self._compare()
        self._recent = np.zeros(0)
        if worse:
            self.trips += 1
            self._rest = config.rest * 2 ** min(self.trips - 1, LONGEST_REST)
            self._period = config.period
            self._scores = np.zeros(0)
        elif len(self._scores) and self._scores[-1] <= 0.0:
            self._period = min(GROWTH * self._period, config.longest_period)
        self._wait = self._period
        self.gate = 0.0 if worse else 1.0 / config.ramp
        return worse

    def _compare(self) -> bool:
        """Add the trial's statistic and test them all."""
        config = self._config
        self.worse_by = float(self._alone.mean() - self._recent.mean())
        spread = (self._alone.var(ddof=1) + self._recent.var(ddof=1)) / config.block
        error = config.inflation * max(spread**0.5, LEAST_ERROR)
        score = (self.worse_by - config.margin) / error
        self._scores = np.append(self._scores, score)[-config.horizon :]
        total = float(self._scores.sum()) / len(self._scores) ** 0.5
        freedom = 2 * (config.block - 1) * len(self._scores)
        return bool(stats.t.sf(total, freedom) < config.level)

    def state(self) -> dict[str, Any]:
        """Everything that changes."""
        return {name: getattr(self, name) for name in _STATE}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state` gave."""
        for name in _STATE:
            setattr(self, name, state[name])


_STATE = (
    "gate", "trips", "trials", "worse_by", "_rest", "_trial", "_wait", "_period", "_recent",
    "_alone", "_scores", "_average", "_variance",
)  # fmt: skip
