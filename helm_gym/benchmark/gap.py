"""How much of what knowing the future is worth a policy gets.

On the seeds of one cell, load and router, with one figure where less is better (P99, or the mean of
the 5-s P99s), and all means over seeds:

* **headroom** is static / schedule;
* **gap closed** is (static - policy) / (static - schedule): 0 is the best static share, 1 the
  schedule, less than 0 worse than standing still.

Where there is next to no gap its parts mean nothing. Then an :class:`Absent` stands in the place of
a number and says why, so that nobody averages it by accident.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from helm_gym.errors import ConfigError
from helm_gym.runs.stats import Interval, paired, ratio

Floats = NDArray[np.float64]

LEAST_HEADROOM = 0.05  # static / schedule - 1
MOST_LOSS = 0.10  # of the gap, that a search may lose


class Why(Enum):
    """Why there is no number."""

    NOT_SEARCHED = "not searched"
    NOT_PLAYED = "not played on every seed"
    HEADROOM = "headroom below 5 %"
    UNCERTAIN = "the gap's interval holds 0"
    LOSS = "the search loses more than 10 % of the gap"
    NO_GAIN = "no gain"
    OUTSIDE = "not between the loads played"


@dataclass(frozen=True)
class Absent:
    """A figure that cannot be given."""

    why: Why
    detail: str  # the numbers behind it, in a sentence

    def __str__(self) -> str:
        """What tables show."""
        return f"n/a ({self.why.value})"


Figure = Interval | Absent


@dataclass(frozen=True)
class Gap:
    """What there is to be won on the seeds of one cell, load and router.

    Args:
        static: (n,) of the best static share, seed by seed.
        schedule: (n,) of the cheapest known replay, on the same seeds.
        loss: how much the search is known to lose, in the figure's unit: the mean by which its
            schedules cost more than those of a search without short cuts.

    Raises:
        ConfigError: the two have different numbers of seeds, or the loss is negative.
    """

    static: Floats
    schedule: Floats
    loss: float

    def __post_init__(self) -> None:
        if len(self.static) != len(self.schedule):
            raise ConfigError(
                f"a gap pairs seeds: there are {len(self.static)} of the static share and "
                f"{len(self.schedule)} of the schedule; give both on the same seeds"
            )
        if not self.loss >= 0.0:
            raise ConfigError(f"a search cannot lose {self.loss:g}; write what it costs more, or 0")

    @property
    def headroom(self) -> Interval:
        """Static / schedule, a ratio of seed means; everything NaN without seeds."""
        return ratio(self.static.tolist(), self.schedule.tolist())

    @property
    def width(self) -> Interval:
        """Static - schedule, in the figure's unit."""
        return paired(self.static.tolist(), self.schedule.tolist())

    @property
    def absent(self) -> Absent | None:
        """Why no part of this gap can be given, whatever the policy; None if it can."""
        if not len(self.static):
            return Absent(Why.NOT_SEARCHED, "no schedule is known on any seed")
        headroom, width = self.headroom.mean, self.width
        # Written so that a figure that is not known, a NaN, is no headroom.
        if not headroom - 1.0 >= LEAST_HEADROOM:
            return Absent(Why.HEADROOM, f"static / schedule is {headroom:.3f}")
        if width.low <= 0.0 <= width.high:  # never of one seed, whose interval is not known
            detail = f"static - schedule is {width.mean:.3g} [{width.low:.3g}, {width.high:.3g}]"
            return Absent(Why.UNCERTAIN, detail)
        if self.loss > MOST_LOSS * width.mean:
            detail = f"it loses {self.loss:.3g} of {width.mean:.3g}"
            return Absent(Why.LOSS, detail)
        return None

    def closed(self, policy: Sequence[float] | Floats) -> Figure:
        """The part of the gap that a policy closes.

        Args:
            policy: (n,) on the same seeds; not finite where it failed.
        """
        absent = self.absent
        if absent is not None:
            return absent
        played = np.asarray(policy, np.float64)
        missing = len(self.static) - int(np.isfinite(played).sum())
        if len(played) != len(self.static) or missing:
            of = f"{len(self.static)} seeds, of which {missing} have no figure"
            return Absent(Why.NOT_PLAYED, of)
        won, there = self.static - played, self.static - self.schedule
        return ratio(won.tolist(), there.tolist())


def per_ms(paid: Sequence[float], won_ms: Sequence[float]) -> Figure:
    """What a millisecond costs: GB refilled, or moves, per ms that P99 fell.

    Args:
        paid: what the policy spent beyond the best static share, seed by seed. Static shares
            refill too, because the hot rows of the table change.
        won_ms: (n,) static - policy, on the same seeds.
    """
    gain = paired(won_ms, np.zeros(len(won_ms)).tolist())
    sure = not gain.low <= 0.0 <= gain.high  # of one seed the interval is not known
    if not (gain.mean > 0.0 and sure):
        detail = f"static - policy is {gain.mean:.3g} ms [{gain.low:.3g}, {gain.high:.3g}]"
        return Absent(Why.NO_GAIN, detail)
    return ratio(paid, won_ms)


def cheapest(replays: Sequence[Floats]) -> Floats:
    """The least of several replays, seed by seed: what the schedule counts as.

    Args:
        replays: (n,) each: of the search's schedule and of every policy; NaN where one was not
            played.

    Returns:
        (n,); NaN on a seed without any.
    """
    least: Floats = np.fmin.reduce(np.stack([np.asarray(one, np.float64) for one in replays]))
    return least
