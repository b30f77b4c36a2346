"""The highest load with P99 inside the SLO, between loads that were played."""

from __future__ import annotations

import math

import numpy as np
import pytest

from helm_gym.benchmark.gap import Absent, Why
from helm_gym.benchmark.interpolated import Capacity, capacity
from helm_gym.errors import ConfigError

LOADS = np.array([1.05, 0.8, 0.95])


def found(tails: list[list[float]]) -> Capacity:
    carried = capacity(LOADS, np.array(tails), 30.0)
    assert isinstance(carried, Capacity), carried
    return carried


def test_it_lies_where_a_straight_line_crosses_the_slo() -> None:
    one = found([[50.0], [10.0], [25.0]])
    assert one.load.mean == pytest.approx(0.95 + 0.1 * 5.0 / 25.0)
    assert math.isnan(one.load.low)
    assert not one.at_least


def test_p99_is_the_mean_over_seeds_before_it_is_interpolated() -> None:
    assert found([[40.0, 60.0], [10.0, 10.0], [20.0, 30.0]]).load.mean == pytest.approx(0.97)


def test_what_is_inside_everywhere_is_a_lower_bound() -> None:
    one = found([[30.0, 30.0], [10.0, 10.0], [20.0, 20.0]])
    assert one.at_least
    assert one.load == (1.05, 1.05, 1.05)


def test_a_lower_load_that_misses_does_not_hide_a_higher_one() -> None:
    assert found([[40.0], [31.0], [20.0]]).load.mean == pytest.approx(1.0)


def test_the_interval_is_cut_at_the_loads_played() -> None:
    """On one seed no load is inside, on the other all are."""
    one = found([[80.0, 20.0], [32.0, 10.0], [40.0, 15.0]])
    assert (one.load.low, one.load.high) == (0.8, 1.05)
    assert one.load.low < one.load.mean < one.load.high


def test_seeds_are_drawn_together_for_all_loads() -> None:
    """At each seed P99 crosses at the same load; drawn apart, it would not."""
    ratios = np.array([[2.0], [0.5], [1.0]])
    one = found((30.0 + (ratios - 1.0) * np.array([[1.0, 20.0, 5.0]])).tolist())
    assert one.load == pytest.approx((0.95, 0.95, 0.95))


def test_what_cannot_be_said_is_absent_or_refused() -> None:
    never = capacity(LOADS, np.full((3, 2), 31.0), 30.0)
    assert isinstance(never, Absent) and never.why is Why.OUTSIDE
    assert "at load 0.8" in never.detail
    failed = capacity(LOADS, np.array([[1.0], [math.nan], [1.0]]), 30.0)
    assert isinstance(failed, Absent) and failed.why is Why.NOT_PLAYED
    with pytest.raises(ConfigError, match="as many rows"):
        capacity(LOADS, np.ones((2, 2)), 30.0)
    with pytest.raises(ConfigError, match="there twice"):
        capacity(np.array([1.0, 1.0]), np.ones((2, 2)), 30.0)
