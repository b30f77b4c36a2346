"""Settings of burst recovery, and how they become the machine's parameters."""

from __future__ import annotations

import math
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from helm_gym.config.quantity import (
    Count,
    Factor,
    Fraction,
    Frozen,
    Quantity,
    Seconds,
    Weight,
    within,
)
from helm_gym.config.workload import assumed
from helm_gym.envs.observation import FAST_S
from helm_gym.envs.recovery_machine import N_PARAMS, Param

Floats = NDArray[np.float64]
STEP_S = 5.0  # of a decision, where nobody says otherwise


def _ours(value: float, low: float, high: float, unit: str, why: str) -> Any:
    return Field(default_factory=lambda: assumed(value, low, high, unit, why))


def _chosen(value: float, low: float, high: float, unit: str, why: str) -> Any:
    source = f"helm-gym bursts, at most 0.5 false alarms per hour on steady tuning seeds; {why}"
    return Field(
        default_factory=lambda: Quantity(value=value, unit=unit, source=source, low=low, high=high)
    )


class RecoveryConfig(Frozen):
    """Everything that the burst machine may be told; an infinite threshold is written as None."""

    p99_sigmas: Factor | None = _chosen(12.0, 2.0, 20.0, "sd", "HELM has 3")
    p99_average_s: Seconds = _ours(50.0, 20.0, 200.0, "s", "ten decisions")
    p99_least: Weight = _ours(0.0, 0.0, 1.0, "SLO", "no P99 below this is an alarm")
    rate_sigmas: Factor | None = _chosen(1.0, 0.5, 12.0, "sd", "threshold of the CUSUM")
    rate_slack: Weight = _chosen(2.0, 0.5, 3.0, "sd", "with 1 an evening's rise is a burst")
    rate_average_s: Seconds = _ours(120.0, 60.0, 600.0, "s", "as the slow arrival rate")
    rate_rise: Fraction = _ours(0.1, 0.05, 1.0, "1", "of the level's speed, upward")
    rate_start_sd: Factor = _ours(0.1, 0.03, 0.3, "ln", "before any is measured")
    rate_least_sd: Factor = _chosen(0.06, 0.03, 0.12, "ln", "however steady the traffic was")
    queue_sum: Factor | None = _chosen(0.1, 0.05, 2.0, "deadlines", "threshold of the CUSUM")
    queue_slack: Weight = _chosen(0.05, 0.0, 0.2, "deadlines", "growth that is not looked at")
    warm_up: Count = _ours(4.0, 1.0, 12.0, "windows", "before the first alarm")
    burst_learning: Fraction = _ours(0.25, 0.0, 1.0, "1", "of the averages, in a burst")
    burst_grow: Fraction = _ours(0.06, 0.0, 0.2, "share", "EMB may grow per decision in a burst")
    burst_shrink: Fraction = _ours(0.06, 0.0, 0.2, "share", "and shrink: HELM's largest increment")
    burst_pace: Fraction = _ours(1.0, 0.0, 1.0, "1", "of refill in a burst; slower gained nothing")
    hot_high: Fraction = _ours(0.9, 0.3, 1.0, "1", "hot-user share from which KV is leaned to")
    lean: Fraction = _ours(0.0, 0.0, 0.2, "share", "toward KV")
    calm_sigmas: Factor = _ours(2.0, 1.0, 4.0, "sd", "ln rate above average, of a calm window")
    calm_queue: Factor = _ours(0.2, 0.05, 1.0, "deadlines", "longest queue of a calm window")
    calm_windows: Annotated[Count, within(1, 1e6)] = _ours(1.0, 1.0, 6.0, "windows", "in a row")
    longest_s: Seconds = _ours(60.0, 30.0, 600.0, "s", "burst; longer is a new normal")
    steps: Count = _ours(2.0, 0.0, 6.0, "1", "of recovery")
    step_windows: Annotated[Count, within(1, 1e6)] = _ours(1.0, 1.0, 6.0, "windows", "of each")
    longest_step: Annotated[Count, within(1, 1e6)] = _ours(3.0, 1.0, 12.0, "windows", "of each")
    recover_move: Fraction = _ours(0.18, 0.02, 0.6, "share", "thrice HELM's largest increment")

    @classmethod
    def strict(cls) -> RecoveryConfig:
        """HELM's way as far as it is known, with our detectors: hold, pause refill, lean to KV."""
        return cls.parse(
            {
                "burst_grow": 0.0,
                "burst_shrink": 0.06,
                "burst_pace": 0.0,
                "hot_high": 0.5,
                "lean": 0.06,
                "recover_move": 0.06,
            },
            "recovery",
        )

    def lower(
        self,
        step_s: float = STEP_S,
        share_min: float = 0.0,
        share_max: float = 1.0,
        rate_average_s: float = FAST_S,
    ) -> Floats:
        """Parameters of the machine, (N_PARAMS,).

        Args:
            step_s: s between decisions.
            share_min: lowest share allowed.
            share_max: highest.
            rate_average_s: time constant (s) of the average that the RATE signal is; 0 for none.
        """
        keep = {
            Param.RATE_KEEP: rate_average_s,
            Param.P99_KEEP: self.p99_average_s.value,
            Param.RATE_MEAN_KEEP: self.rate_average_s.value,
        }
        plain = {
            Param.SHARE_MIN: share_min,
            Param.SHARE_MAX: share_max,
            Param.P99_SIGMAS: _threshold(self.p99_sigmas),
            Param.RATE_THRESHOLD: _threshold(self.rate_sigmas),
            Param.QUEUE_THRESHOLD: _threshold(self.queue_sum),
            Param.LONGEST: max(round(self.longest_s.value / step_s), 1),
            **{place: getattr(self, name).value for place, name in _SAME.items()},
        }
        params = np.full(N_PARAMS, np.nan)
        for place, value in plain.items():
            params[place] = value
        for place, seconds in keep.items():
            params[place] = math.exp(-step_s / seconds) if seconds > 0.0 else 0.0
        return params


_SAME = {
    Param.BURST_LEARNING: "burst_learning",
    Param.WARM_UP: "warm_up",
    Param.P99_LEAST: "p99_least",
    Param.RATE_RISE: "rate_rise",
    Param.RATE_START_SD: "rate_start_sd",
    Param.RATE_LEAST_SD: "rate_least_sd",
    Param.RATE_SLACK: "rate_slack",
    Param.QUEUE_SLACK: "queue_slack",
    Param.BURST_GROW: "burst_grow",
    Param.BURST_SHRINK: "burst_shrink",
    Param.BURST_PACE: "burst_pace",
    Param.HOT_HIGH: "hot_high",
    Param.LEAN: "lean",
    Param.CALM_SIGMAS: "calm_sigmas",
    Param.CALM_QUEUE: "calm_queue",
    Param.CALM_WINDOWS: "calm_windows",
    Param.STEPS: "steps",
    Param.STEP_WINDOWS: "step_windows",
    Param.LONGEST_STEP: "longest_step",
    Param.RECOVER_MOVE: "recover_move",
}


def _threshold(quantity: Quantity | None) -> float:
    return math.inf if quantity is None else quantity.value
