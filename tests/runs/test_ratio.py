"""A ratio of seed means: means first, seeds drawn together."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from helm_gym.runs.stats import ratio


def test_it_is_a_ratio_of_means_and_no_mean_of_ratios() -> None:
    top, bottom = [1.0, 10.0], [1.0, 100.0]
    assert ratio(top, bottom).mean == pytest.approx(11.0 / 101.0)
    assert np.mean(np.divide(top, bottom)) == pytest.approx(0.55)


def test_seeds_are_drawn_together() -> None:
    """Seeds differ a thousandfold, and on each the ratio is the same: nothing is uncertain."""
    top, bottom = [1.0, 1000.0, 3.0, 50.0], [2.0, 2000.0, 6.0, 100.0]
    assert ratio(top, bottom) == pytest.approx((0.5, 0.5, 0.5))
    # Drawn apart, the same numbers would give an interval over orders of magnitude.
    apart = [
        (a + b) / (c + d)
        for (a, b), (c, d) in itertools.product(
            itertools.product(top, repeat=2), itertools.product(bottom, repeat=2)
        )
    ]
    assert np.quantile(apart, 0.975) / np.quantile(apart, 0.025) > 100.0


def test_the_interval_is_that_of_an_enumerated_bootstrap() -> None:
    """Two seeds have the resamples 1/1, 3/2 and (1 + 3)/(1 + 2), the last half of the time."""
    assert ratio([1.0, 3.0], [1.0, 2.0]) == pytest.approx((4.0 / 3.0, 1.0, 1.5))


def test_what_cannot_be_known_is_nan() -> None:
    single = ratio([1.0], [2.0])
    assert single.mean == 0.5
    assert math.isnan(single.low) and math.isnan(single.high)
    for top, bottom in (([], []), ([1.0, math.nan], [1.0, 1.0]), ([1.0, 1.0], [1.0, -1.0])):
        assert all(math.isnan(value) for value in ratio(top, bottom))
    with pytest.raises(ValueError, match="1 figures above and 2 below"):
        ratio([1.0], [1.0, 2.0])


def test_a_resample_that_divides_by_zero_makes_no_nan() -> None:
    low, high = ratio([1.0, 1.0], [0.0, 1.0])[1:]
    assert low == pytest.approx(1.0)
    assert math.isfinite(high) and high > 1e100
