"""The highest load that a policy carries, from the loads that were played.

Unlike :mod:`helm_gym.benchmark.goodput`, which searches for it, this plays nothing: P99 is a
straight line between neighbouring loads, and capacity is where that line crosses the SLO. P99 rises
steeply at the edge, so the answer is as good as the loads lie close.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from helm_gym.benchmark.gap import Absent, Why
from helm_gym.errors import ConfigError
from helm_gym.runs.stats import LEVEL, RANDOM, RESAMPLES, Interval

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Capacity:
    """The highest load with P99 inside the SLO."""

    load: Interval  # its ends lie within the loads played; NaN with one seed
    at_least: bool  # whether the highest load played is still inside, so that more may be


def capacity(loads: Floats, tails: Floats, slo_ms: float) -> Capacity | Absent:
    """Interpolate the highest load whose P99, the mean over seeds, meets the SLO.

    Args:
        loads: (L,) loads that were played, in any order, each once.
        tails: (L, n) P99 over all arrivals by load and seed, in ms.
        slo_ms: P99 that the scenario promises.

    Returns:
        The load, or that even the lowest misses the SLO, or that a row is missing.

    Raises:
        ConfigError: shapes do not fit, or a load is there twice.
    """
    loads, tails = np.asarray(loads, np.float64), np.asarray(tails, np.float64)
    if tails.ndim != 2 or len(tails) != len(loads) or not tails.size:
        raise ConfigError(
            f"{len(loads)} loads need as many rows of P99s by seed, not an array of {tails.shape}"
        )
    if len(np.unique(loads)) != len(loads):
        raise ConfigError(f"a load is there twice in {loads.tolist()}; give each once")
    if not np.isfinite(tails).all():
        return Absent(Why.NOT_PLAYED, f"{int((~np.isfinite(tails)).sum())} runs have no P99")
    order = np.argsort(loads)
    loads, tails = loads[order], tails[order]
    means = tails.mean(axis=1)
    if not (means <= slo_ms).any():
        detail = f"P99 is {means[0]:.1f} ms at load {loads[0]:g}, and {slo_ms:g} are allowed"
        return Absent(Why.OUTSIDE, detail)
    found = float(_crossing(loads, means[:, None], slo_ms)[0])
    low = high = float("nan")
    n = tails.shape[1]
    if n > 1:
        drawn = np.random.default_rng(RANDOM).integers(0, n, (RESAMPLES, n))
        resampled = _crossing(loads, tails[:, drawn].mean(axis=2), slo_ms)
        ends = np.quantile(resampled, ((1.0 - LEVEL) / 2.0, (1.0 + LEVEL) / 2.0))
        low, high = (float(end) for end in ends)
    return Capacity(Interval(found, low, high), bool(means[-1] <= slo_ms))


def _crossing(loads: Floats, means: Floats, slo_ms: float) -> Floats:
    """Where P99 crosses the SLO above the highest load that meets it.

    Args:
        loads: (L,) rising.
        means: (L, R) P99s of R resamples.
        slo_ms: P99 that the scenario promises.

    Returns:
        (R,); the lowest load where none meets it, the highest where that does.
    """
    top = len(loads) - 1
    inside = means <= slo_ms
    last = np.where(inside.any(axis=0), top - np.argmax(inside[::-1], axis=0), 0)
    above = np.minimum(last + 1, top)
    at = np.arange(means.shape[1])
    here, there = means[last, at], means[above, at]
    between = inside.any(axis=0) & (last < top)
    rise = np.where(between, there - here, 1.0)  # above 0: the one is inside, the other is not
    part = np.where(between, (slo_ms - here) / rise, 0.0)
    found: Floats = loads[last] + part * (loads[above] - loads[last])
    return found
