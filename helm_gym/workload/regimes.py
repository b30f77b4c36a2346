"""Regimes as schedules: how the rate, the surface mix and the burst part change over time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from helm_gym.config.workload import Burst, Phases, Steady, Trend, Workload
from helm_gym.errors import ConfigError

Floats = NDArray[np.float64]
STEADY_PERIOD_S = 60.0  # nothing changes; the period only spreads the warm starts


@dataclass(frozen=True)
class Schedule:
    """A repeating table; cell i covers ``[i, i + 1) * cell_s``."""

    cell_s: float
    rate: Floats  # (T, F) requests/s of each surface over the scenario's base rate
    excess: Floats  # (T,) part of the session starts that a burst adds

    @property
    def period_s(self) -> float:
        """Seconds after which the schedule repeats."""
        return self.cell_s * len(self.rate)


def build_schedule(workload: Workload, rng: np.random.Generator) -> Schedule:
    """Turn a workload's regime into a schedule; ``rng`` places bursts."""
    regime = workload.regime
    if isinstance(regime, Phases):
        return _phases(workload, regime)
    if isinstance(regime, Trend):
        return _trend(workload, regime)
    if isinstance(regime, Burst):
        return _burst(workload, regime, rng)
    assert isinstance(regime, Steady)
    return _constant(workload, STEADY_PERIOD_S, np.ones(int(STEADY_PERIOD_S)))


def _row(workload: Workload, mix: dict[str, float]) -> Floats:
    return np.array(list(workload.normalised(mix).values()))


def _constant(workload: Workload, period_s: float, rate: Floats) -> Schedule:
    row = _row(workload, workload.base_mix())
    return Schedule(period_s / rate.size, rate[:, None] * row, np.zeros(rate.size))


def _phases(workload: Workload, regime: Phases) -> Schedule:
    """Phases in proportion to their own capacities; each surface's rate ramps to the next.

    Ramping the rates of surfaces, not rate and mix apart, keeps the load of a ramp between the
    loads of its ends: half of one phase's requests plus half of the other's.
    """
    durations = np.array([phase.duration_s for phase in regime.phases])
    own = [p.capacity_rps_per_node or workload.capacity_rps_per_node for p in regime.phases]
    rates = np.array([quantity.value for quantity in own])
    rates /= rates.max()  # the scenario's capacity is that of the busiest phase
    mixes = np.stack([_row(workload, phase.mix) for phase in regime.phases])
    ends = np.cumsum(durations)
    times = np.arange(0.5, np.floor(ends[-1]))  # middles of 1-s cells
    current = np.searchsorted(ends, times, side="right")
    following = (current + 1) % len(rates)
    ramp = min(regime.ramp_s, float(durations.min()))
    ahead = (
        np.clip(1.0 - (ends[current] - times) / ramp, 0.0, 1.0)
        if ramp > 0
        else np.zeros(times.size)
    )
    levels = rates[:, None] * mixes
    rate = (1 - ahead)[:, None] * levels[current] + ahead[:, None] * levels[following]
    return Schedule(1.0, rate, np.zeros(times.size))


def _trend(workload: Workload, regime: Trend) -> Schedule:
    """The hourly table from ``start_hour``; the load refers to the span's busiest hour."""
    seconds = int(np.ceil(regime.span_hours * 3600.0 / regime.speedup))
    hourly = np.array([q.value for q in workload.profile.hourly])
    progress = np.arange(0.5, seconds) / seconds
    hours = regime.start_hour + regime.span_hours * progress
    rate = np.interp(hours % 24.0, np.arange(25), np.append(hourly, hourly[0]))
    start = _row(workload, workload.base_mix())
    end = start if regime.mix_end is None else _row(workload, regime.mix_end)
    if not rate.max() > 0.0:
        raise ConfigError(
            f"workload.regime: the profile's hourly rates are 0 for {regime.span_hours:g} h from "
            f"{regime.start_hour:g} h on; choose another span"
        )
    mix = (1 - progress)[:, None] * start + progress[:, None] * end
    return Schedule(1.0, (rate / rate.max())[:, None] * mix, np.zeros(seconds))


def _burst(workload: Workload, regime: Burst, rng: np.random.Generator) -> Schedule:
    """Off and on stretches in turn; the base rate holds between bursts."""
    amplitude = regime.amplitude.value
    cells: list[float] = []
    for _ in range(regime.cycles):
        cells += [1.0] * max(1, round(rng.uniform(*regime.off_s)))
        cells += [amplitude] * max(1, round(rng.uniform(*regime.on_s)))
    rate = np.array(cells)
    schedule = _constant(workload, float(rate.size), rate)
    excess = np.maximum(0.0, rate - 1.0) / rate
    return Schedule(schedule.cell_s, schedule.rate, excess)
