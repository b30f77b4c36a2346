"""Statistics over seeds: means with bootstrap intervals, paired differences, and many cells.

Policies on one seed meet the same requests, so a difference is taken seed by seed before it is
averaged. Intervals are percentile bootstrap over seeds (SciPy), 95 %. With few seeds they are too
narrow: with five, about 85 % rather than 95 % cover the truth when figures are normal (measured in
tests/evaluation/test_evaluate.py), which is why tables also say on how many seeds the sign held.

Over many cells it is what rliable recommends, on SciPy.

After Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice",
NeurIPS 2021 (arXiv:2108.13264). Its package rliable asks for arch, seaborn and absl, and with them
pandas and statsmodels, so the four figures that are used are computed here:

* the interquartile mean: the mean of the middle half of all runs;
* percentile bootstrap intervals, 95 %, in which seeds are resampled within cells. A seed means the
  same requests under every load and router of a cell, and they are drawn together: drawing them
  apart would take what they share for independent evidence;
* the probability of improvement. rliable compares every run of one with every run of the other,
  because its runs have nothing in common; ours meet the same requests, so run is compared with
  run, a tie counting half;
* performance profiles: the part of runs whose score is at most tau (Dolan and More, 2002).

Intervals say what other seeds would change, and nothing about other cells. With few seeds they are
too narrow (tests/runs/test_stats.py measures by how much).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

LEVEL = 0.95
RESAMPLES = 9_999
RANDOM = 0  # of the bootstrap, so that a table can be repeated to the last digit


class Interval(NamedTuple):
    """A mean and its bootstrap interval; the ends are NaN if they cannot be known."""

    mean: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the whole interval lies on one side of zero."""
        return self.low > 0.0 or self.high < 0.0


def mean_interval(values: Sequence[float]) -> Interval:
    """Mean over seeds with its interval.

    Args:
        values: one figure per seed. A NaN (nothing was served) makes everything NaN; a single
            value has a mean and no interval.
    """
    sample = np.asarray(values, np.float64)
    if sample.size == 0 or not np.isfinite(sample).all():
        return Interval(math.nan, math.nan, math.nan)
    mean = float(sample.mean())
    if sample.size == 1:
        return Interval(mean, math.nan, math.nan)
    if np.ptp(sample) == 0.0:  # SciPy calls this degenerate and warns
        return Interval(mean, mean, mean)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        found = stats.bootstrap(
            (sample,),
            np.mean,
            confidence_level=LEVEL,
            n_resamples=RESAMPLES,
            method="percentile",
            random_state=np.random.default_rng(RANDOM),
        ).confidence_interval
    return Interval(mean, float(found.low), float(found.high))


def paired(values: Sequence[float], reference: Sequence[float]) -> Interval:
    """Mean of ``values - reference``, seed by seed, with its interval."""
    return mean_interval(np.subtract(values, reference).tolist())


def ratio(top: Sequence[float], bottom: Sequence[float]) -> Interval:
    """Ratio of two means over the same seeds, with its interval.

    Means are taken first: a mean of ratios would give most weight to the seed whose bottom happens
    to be the smallest. Seeds are drawn together for both, because they met the same requests.

    Args:
        top: one figure per seed. A NaN makes everything NaN; a single seed has no interval.
        bottom: the other's, in the same order. Its mean should be clearly apart from zero.
    """
    a, b = np.asarray(top, np.float64), np.asarray(bottom, np.float64)
    if a.shape != b.shape:
        raise ValueError(f"a ratio pairs seeds: {a.size} figures above and {b.size} below")
    if a.size == 0 or not (np.isfinite(a).all() and np.isfinite(b).all()) or b.mean() == 0.0:
        return Interval(math.nan, math.nan, math.nan)
    mean = float(a.mean() / b.mean())
    if a.size == 1:
        return Interval(mean, math.nan, math.nan)
    drawn = np.random.default_rng(RANDOM).integers(0, a.size, (RESAMPLES, a.size))
    tops, bottoms = a[drawn].mean(axis=1), b[drawn].mean(axis=1)
    # A resample whose bottom is 0 stands for a ratio beyond all others, and must not be a NaN.
    apart = np.copysign(np.maximum(np.abs(bottoms), np.finfo(np.float64).tiny ** 0.5), bottoms)
    low, high = np.quantile(tops / apart, ((1.0 - LEVEL) / 2.0, (1.0 + LEVEL) / 2.0))
    return Interval(mean, float(low), float(high))


class Sign(NamedTuple):
    """On how many of the seeds a figure is lower than the reference's."""

    lower: int
    of: int


def sign(values: Sequence[float], reference: Sequence[float]) -> Sign:
    """Count the seeds with ``values < reference``."""
    return Sign(int(np.sum(np.less(values, reference))), len(values))


# Many cells with few seeds

Floats = NDArray[np.float64]
Cells = Sequence[Floats]
"""One (K, n) array per cell: K pairs of load and router, n seeds."""

TRIM = 0.25  # of the runs at each end: what is left is the middle half
PROFILE_RESAMPLES = 2_000  # as rliable's
BATCH = 500  # resamples at a time, so that memory stays small


def interquartile_mean(runs: Floats) -> Floats:
    """Mean of the middle half along the last axis, (..., N) to (...)."""
    found: Floats = np.asarray(stats.trim_mean(runs, TRIM, axis=-1), np.float64)
    return found


def iqm(cells: Cells, random: int = RANDOM) -> Interval:
    """Interquartile mean over all runs, with its interval.

    Args:
        cells: scores.
        random: seed of the bootstrap.
    """
    return _interval(cells, interquartile_mean, random)


def improvement(better: Cells, than: Cells, random: int = RANDOM) -> Interval:
    """Probability that one policy's score is lower than another's on the same requests.

    Args:
        better: scores of the policy that is asked about.
        than: the other's, in the same runs.
        random: seed of the bootstrap.
    """
    return _interval([_won(a, b) for a, b in zip(better, than, strict=True)], _mean, random)


def chance(better: Cells, than: Cells) -> float:
    """:func:`improvement` without its interval, for tables of all pairs."""
    return float(_all_runs([_won(a, b) for a, b in zip(better, than, strict=True)]).mean())


def _won(a: Floats, b: Floats) -> Floats:
    """1 where ``a`` is lower, 0.5 where they are equal."""
    won: Floats = np.where(a == b, 0.5, a < b)
    return won


def profile(cells: Cells, taus: Floats, random: int = RANDOM) -> tuple[Floats, Floats, Floats]:
    """Part of the runs whose score is at most tau, and its interval.

    Args:
        cells: scores.
        taus: (T,) thresholds.
        random: seed of the bootstrap.

    Returns:
        Three (T,) arrays: the part, and the ends of its interval (NaN with a single seed).
    """

    def at_most(runs: Floats) -> Floats:
        return np.stack([(runs <= tau).mean(axis=-1) for tau in taus])

    low, high = _ends(cells, at_most, random, PROFILE_RESAMPLES)
    return (
        at_most(_all_runs(cells)),
        np.broadcast_to(low, taus.shape),
        np.broadcast_to(high, taus.shape),
    )


def _mean(runs: Floats) -> Floats:
    found: Floats = np.mean(runs, axis=-1)
    return found


def _all_runs(cells: Cells) -> Floats:
    return np.concatenate([cell.ravel() for cell in cells])


def _interval(cells: Cells, statistic: Callable[[Floats], Floats], random: int) -> Interval:
    runs = _all_runs(cells)
    if runs.size == 0 or not np.isfinite(runs).all():
        return Interval(math.nan, math.nan, math.nan)
    mean = float(statistic(runs))
    low, high = _ends(cells, statistic, random, RESAMPLES)
    return Interval(mean, float(low), float(high))


def _ends(
    cells: Cells, statistic: Callable[[Floats], Floats], random: int, resamples: int
) -> tuple[Floats, Floats]:
    """Ends of the bootstrap interval of a statistic of all runs.

    SciPy resamples every sample it is given by itself: given the seeds' places of every cell, that
    is a stratified bootstrap.
    """
    unknown = np.asarray(math.nan)
    if min(cell.shape[1] for cell in cells) < 2:
        return unknown, unknown

    def of(*places: NDArray[Any], axis: int = -1) -> Floats:
        """Places are (..., n) of every cell, with the resamples in front."""
        drawn = [cell[:, p.astype(np.intp)] for cell, p in zip(cells, places, strict=True)]
        rows = [np.moveaxis(runs, 0, -2).reshape(*runs.shape[1:-1], -1) for runs in drawn]
        return statistic(np.concatenate(rows, axis=-1))

    found = stats.bootstrap(
        [np.arange(cell.shape[1]) for cell in cells],
        of,
        vectorized=True,
        confidence_level=LEVEL,
        n_resamples=resamples,
        batch=BATCH,
        method="percentile",
        random_state=np.random.default_rng(random),
    ).confidence_interval
    return np.asarray(found.low, np.float64), np.asarray(found.high, np.float64)
