"""Means over seeds with bootstrap intervals, and paired differences.

Policies on one seed meet the same requests, so a difference is taken seed by seed before it is
averaged. Intervals are percentile bootstrap over seeds (SciPy), 95 %. With few seeds they are too
narrow: with five, about 85 % rather than 95 % cover the truth when figures are normal (measured in
tests/evaluation/test_evaluate.py), which is why tables also say on how many seeds the sign held.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
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


class Sign(NamedTuple):
    """On how many of the seeds a figure is lower than the reference's."""

    lower: int
    of: int


def sign(values: Sequence[float], reference: Sequence[float]) -> Sign:
    """Count the seeds with ``values < reference``."""
    return Sign(int(np.sum(np.less(values, reference))), len(values))
