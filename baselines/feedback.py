"""Feedback rules: they see that something is wrong and move until it is not.

A P99 says how bad it is, not which way to go: a cluster with too little EMB and one with too much
look alike. AIMD and PID therefore take their sign from :attr:`Signals.blame`, the stage that has
more of the work; that part is ours.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np

from helm_gym.baselines.rule import CONTROLS, Count, Finite, Fraction, Grid, Positive, Rule
from helm_gym.envs.reading import Floats, Signals


@dataclass(kw_only=True)
class Aimd(Rule):
    """Additive increase, multiplicative decrease on P99.

    Chiu & Jain, "Analysis of the increase and decrease algorithms for congestion avoidance", 1989;
    on a latency objective as Clipper does with batch sizes (Crankshaw et al., NSDI 2017). Adapted:
    there are two sides to feed. While P99 is within the objective, the busier stage's side gains
    ``up``; once it is beyond, the other side loses the fraction ``down`` of what it has.

    Args:
        up: share per decision while all is well.
        down: fraction of the less busy side's memory per decision while it is not.
        objective: the P99 to hold, in SLOs.
        calm: difference of utilisations, relative to their sum, below which nothing moves.
    """

    NAME: ClassVar[str] = "aimd"
    SEARCH: ClassVar[Grid] = {
        "up": (0.002, 0.005, 0.02),
        "down": (0.06, 0.12),
        "objective": (0.8, 1.0),
        "control": CONTROLS,
    }

    up: Fraction = 0.005
    down: Fraction = 0.12
    objective: Positive = 1.0
    calm: Fraction = 0.05

    def target(self, seen: Signals) -> Floats:
        """Feed the busier stage's side."""
        starve = np.where(seen.blame > 0.0, 1.0 - seen.share, seen.share)
        size = np.where(seen.p99 > self.objective, self.down * starve, self.up)
        sign = np.sign(seen.blame) * (np.abs(seen.blame) > self.calm)
        return np.asarray(seen.share + sign * size)


@dataclass(kw_only=True)
class Pid(Rule):
    """PID on P99 in its incremental (velocity) form, so that limits cause no wind-up.

    Textbook: Åström & Hägglund, "Advanced PID Control", 2006; for computers, Hellerstein et al.,
    "Feedback Control of Computing Systems", 2004. Adapted: the error is how far P99 / (P99 + SLO)
    lies above the objective's, times the blame, which gives it a sign.

    Args:
        kp: share per change of the error.
        ki: share per error and decision.
        kd: share per change of the error's change.
        objective: the P99 at which there is no error, in SLOs.
    """

    NAME: ClassVar[str] = "pid"
    SEARCH: ClassVar[Grid] = {
        "kp": (0.3, 1.0),
        "ki": (0.1, 0.3, 0.9),
        "objective": (0.25, 0.5),
        "control": CONTROLS,
    }

    kp: Finite = 1.0
    ki: Positive = 0.1
    kd: Finite = 0.0
    objective: Positive = 0.25
    _errors: Floats = field(init=False, repr=False)  # (2, R) of the last two decisions

    def begin(self, seen: Signals) -> None:
        """No change of the error is known yet."""
        self._errors = np.repeat(self._error(seen)[None], 2, axis=0)

    def target(self, seen: Signals) -> Floats:
        """Move by the three terms' changes."""
        error, (last, before) = self._error(seen), self._errors
        self._errors = np.stack([error, last])
        change, bend = error - last, error - 2.0 * last + before
        return np.asarray(seen.share + self.kp * change + self.ki * error + self.kd * bend)

    def _error(self, seen: Signals) -> Floats:
        tail = seen.p99 / (seen.p99 + 1.0) - self.objective / (self.objective + 1.0)
        return np.asarray(seen.blame * np.maximum(tail, 0.0))


@dataclass(kw_only=True)
class Hysteresis(Rule):
    """A relay with hysteresis on hit rates: the cache that hits less gets memory.

    Textbook two-threshold switch (Schmitt, "A thermionic trigger", 1938); no paper about it for a
    split pool is known to us, so signal and thresholds are ours. It begins to move when the hit
    rates differ by more than ``start`` and goes on until they differ by less than ``stop``.

    Args:
        start: difference of hit rates at which it begins to move.
        stop: difference at which it rests again; at most ``start`` counts.
        bias: KV hit rate less EMB hit rate that counts as equal.
        step: share per decision.
    """

    NAME: ClassVar[str] = "hysteresis"
    SEARCH: ClassVar[Grid] = {
        "bias": (-0.6, -0.5, -0.4, -0.3, -0.2, 0.0),
        "start": (0.05, 0.15),
        "step": (0.02, 0.06),
    }

    start: Fraction = 0.05
    stop: Fraction = 0.03
    bias: Finite = -0.3
    step: Fraction = 0.04
    _going: Floats = field(init=False, repr=False)  # (R,) -1, 0 or 1

    def begin(self, seen: Signals) -> None:
        """Nobody moves yet."""
        self._going = np.zeros(self._rows)

    def target(self, seen: Signals) -> Floats:
        """Move toward the cache that hits less."""
        gap = seen.kv_hit - seen.emb_hit - self.bias  # positive: EMB hits less
        goes_on = (self._going * gap > 0.0) & (np.abs(gap) > min(self.stop, self.start))
        moving = (np.abs(gap) > self.start) | goes_on
        self._going = np.where(moving, np.sign(gap), 0.0)
        return np.asarray(seen.share + self.step * self._going)


@dataclass(kw_only=True)
class Hill(Rule):
    """Hill climbing on latency that remembers its direction.

    The climber of Caffeine's adaptive W-TinyLFU (Einziger, Eytan, Friedman & Manes, "Adaptive
    Software Cache Management", Middleware 2018), which moves the boundary between two regions of
    one cache: go on while the figure improves, turn round when it gets worse, take smaller steps
    with time, and start anew with a full step when the figure jumps. Adapted: it climbs latency,
    not hit rate, judges a period of a few windows, and the jump is relative.

    Args:
        step: first step.
        decay: what is left of a step after each period.
        restart: relative change of the figure at which steps are long again.
        period: decisions between two moves.
        figure: what has to fall, ``latency`` (mean) or ``p99``.
    """

    NAME: ClassVar[str] = "hill"
    SEARCH: ClassVar[Grid] = {
        "step": (0.02, 0.04, 0.06),
        "restart": (0.05, 0.2),
        "period": (1, 2),
        "figure": ("latency", "p99"),
    }

    step: Positive = 0.02
    decay: Fraction = 0.98
    restart: Fraction = 0.2
    period: Count = 1
    figure: Literal["latency", "p99"] = "latency"
    _clock: int = field(default=0, init=False, repr=False)
    _sum: Floats = field(init=False, repr=False)  # (R,) of the figure in this period
    _last: Floats = field(init=False, repr=False)  # (R,) mean of the last period
    _stride: Floats = field(init=False, repr=False)  # (R,) signed size of the next step

    def begin(self, seen: Signals) -> None:
        """The first step goes toward the busier stage's side."""
        self._clock, self._sum = 0, np.zeros(self._rows)
        self._last = np.full(self._rows, np.inf)
        self._stride = self.step * np.where(seen.blame < 0.0, -1.0, 1.0)

    def target(self, seen: Signals) -> Floats:
        """Step at the end of a period, else stay."""
        self._clock += 1
        self._sum = self._sum + (seen.latency if self.figure == "latency" else seen.p99)
        if self._clock % self.period:
            return seen.share
        now, self._sum = self._sum / self.period, np.zeros(self._rows)
        jumped = np.abs(now - self._last) > self.restart * np.minimum(now, self._last)
        size = np.where(jumped, self.step, self.decay * np.abs(self._stride))
        self._stride = np.sign(self._stride) * np.where(now > self._last, -1.0, 1.0) * size
        self._last = now
        return np.asarray(seen.share + self._stride)
