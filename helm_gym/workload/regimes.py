"""Regimes as schedules: how the rate, the surface mix and the burst part change over time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from helm_gym.config.workload import Burst, Course, Phases, Steady, Stretch, Trend, Workload
from helm_gym.errors import ConfigError

Floats = NDArray[np.float64]
STEADY_PERIOD_S = 60.0  # nothing changes; the period only spreads the warm starts


@dataclass(frozen=True)
class Schedule:
    """A repeating table; cell i covers ``[i, i + 1) * cell_s``."""

    cell_s: float
    rate: Floats  # (T, F) requests/s of each surface over the scenario's base rate
    excess: Floats  # (T, F) part of each surface's session starts that a burst adds
    newcomers: Floats  # (T,) part of those that are not by regular users
    hot_items: Floats  # (T,) part of those that are for the hot items

    @property
    def period_s(self) -> float:
        """Seconds after which the schedule repeats."""
        return self.cell_s * len(self.rate)


def build_schedule(workload: Workload, rng: np.random.Generator) -> Schedule:
    """Turn a workload's regime into a schedule; ``rng`` places bursts."""
    regime = workload.regime
    if isinstance(regime, Phases):
        return _phases(workload, regime)
    if isinstance(regime, Course):
        return _course(workload, regime.stretches)
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
    return _without_rush(period_s / rate.size, rate[:, None] * row)


def _without_rush(cell_s: float, rate: Floats) -> Schedule:
    nobody = np.zeros(len(rate))
    return Schedule(cell_s, rate, np.zeros_like(rate), nobody, nobody)


def _phases(workload: Workload, regime: Phases) -> Schedule:
    """Phases as stretches, all with the same ramp."""
    ramp_s = min(regime.ramp_s, *(phase.duration_s for phase in regime.phases))
    return _course(
        workload, [Stretch(**phase.model_dump(), ramp_s=ramp_s) for phase in regime.phases]
    )


def _course(workload: Workload, stretches: Sequence[Stretch]) -> Schedule:
    """Stretches in proportion to their own capacities; each surface's rate ramps to the next.

    Ramping the rates of surfaces, not rate and mix apart, keeps the load of a ramp between the
    loads of its ends: half of one stretch's requests plus half of the other's.
    """
    durations = np.array([stretch.duration_s for stretch in stretches])
    own = [s.capacity_rps_per_node or workload.capacity_rps_per_node for s in stretches]
    rates = np.array([quantity.value for quantity in own])
    rates /= rates.max()  # the scenario's capacity is that of the busiest stretch
    rates *= np.array([stretch.load for stretch in stretches])
    levels = np.stack([_level(workload, stretch) for stretch in stretches])  # (P, 4, F)
    levels *= rates[:, None, None]
    ends = np.cumsum(durations)
    times = np.arange(0.5, np.floor(ends[-1]))  # middles of 1-s cells
    current = np.searchsorted(ends, times, side="right")
    following = (current + 1) % len(rates)
    ramp = np.minimum([stretch.ramp_s for stretch in stretches], durations)[current]
    ahead = np.zeros(times.size)
    on = ramp > 0
    ahead[on] = np.clip(1.0 - (ends[current] - times)[on] / ramp[on], 0.0, 1.0)
    part = ahead[:, None, None]
    level = (1 - part) * levels[current] + part * levels[following]
    rate, excess = level[:, 0], level[:, 1]
    added = excess.sum(axis=1)
    return Schedule(
        1.0, rate, _part(excess, rate), *(_part(level[:, k].sum(axis=1), added) for k in (2, 3))
    )


def _level(workload: Workload, stretch: Stretch) -> Floats:
    """(4, F) of all requests: all, those of the rush, of these by newcomers, and for hot items."""
    level = np.zeros((4, len(workload.surfaces)))
    level[0] = _row(workload, stretch.mix)
    rush = stretch.rush
    if rush is not None:
        added = rush.part * _row(workload, {rush.surface: 1.0})
        level[0] = (1.0 - rush.part) * level[0] + added
        level[1] = added
        level[2] = added if rush.who == "newcomers" else 0.0
        level[3] = added if rush.who == "hot_items" else 0.0
    return level


def _part(part: Floats, whole: Floats) -> Floats:
    """``part / whole``; 0 of nothing."""
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0.0)


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
    return _without_rush(1.0, (rate / rate.max())[:, None] * mix)


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
    every = np.ones(rate.size)
    return Schedule(
        schedule.cell_s,
        schedule.rate,
        np.repeat(excess[:, None], schedule.rate.shape[1], axis=1),
        regime.new_user_share.value * every,
        regime.hot_item_share.value * every,
    )
