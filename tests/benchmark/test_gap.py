"""Headroom, the gap closed and what is absent, each rule on numbers where it can fail."""

from __future__ import annotations

import math

import numpy as np
import pytest

from helm_gym.benchmark.gap import Absent, Gap, Why, cheapest, per_ms
from helm_gym.errors import ConfigError
from helm_gym.runs.stats import Interval

STATIC = np.array([40.0, 44.0, 48.0])
SCHEDULE = np.array([30.0, 32.0, 34.0])


def why(figure: object) -> Why:
    assert isinstance(figure, Absent), figure
    assert figure.detail
    return figure.why


def closed(figure: object) -> Interval:
    assert isinstance(figure, Interval), figure
    return figure


def test_headroom_and_gap_are_of_seed_means() -> None:
    gap = Gap(STATIC, SCHEDULE, loss=0.0)
    assert gap.absent is None
    assert gap.headroom.mean == pytest.approx(44.0 / 32.0)
    assert gap.width.mean == pytest.approx(12.0)
    assert closed(gap.closed([35.0, 38.0, 41.0])).mean == pytest.approx((44.0 - 38.0) / 12.0)
    assert closed(gap.closed(STATIC)) == (0.0, 0.0, 0.0)
    assert closed(gap.closed(SCHEDULE)) == pytest.approx((1.0, 1.0, 1.0))
    assert closed(gap.closed(STATIC + 12.0)).mean == pytest.approx(-1.0), "it is not clipped"


def test_the_gap_closed_is_no_mean_of_ratios() -> None:
    """One seed with a gap of 1 ms lost altogether, one with 19 ms won altogether: 0.9, not 0."""
    gap = Gap(np.array([31.0, 50.0]), np.array([30.0, 31.0]), loss=0.0)
    assert closed(gap.closed([32.0, 31.0])).mean == pytest.approx((41 / 2 + 40 / 2 - 63 / 2) / 10)


def test_the_interval_pairs_seeds() -> None:
    """The policy closes half of the gap on every seed, however hard the seed is."""
    hard = np.array([30.0, 300.0, 31.0, 120.0])
    gap = Gap(hard * 1.5, hard, loss=0.0)
    low, high = closed(gap.closed(hard * 1.25))[1:]
    assert (low, high) == pytest.approx((0.5, 0.5))
    shuffled = closed(gap.closed((hard * 1.25)[[1, 0, 3, 2]]))
    assert shuffled.mean == pytest.approx(0.5)
    assert shuffled.high - shuffled.low > 1.0, "without the pairs the interval is another"


@pytest.mark.parametrize(
    ("factor", "expected"), [(1.049, Why.HEADROOM), (1.051, None), (0.9, Why.HEADROOM)]
)
def test_less_headroom_than_five_percent_is_no_gap(factor: float, expected: Why | None) -> None:
    gap = Gap(SCHEDULE * factor, SCHEDULE, loss=0.0)
    assert (gap.absent.why if gap.absent else None) is expected
    assert isinstance(gap.closed(SCHEDULE), Absent) is (expected is not None)


def test_a_gap_whose_interval_holds_zero_is_none() -> None:
    """8 % on average, and on two of three seeds the other way."""
    gap = Gap(np.array([44.0, 30.0, 30.0]), np.array([32.0, 32.0, 32.0]), loss=0.0)
    assert gap.headroom.mean > 1.05
    assert why(gap.closed(SCHEDULE)) is Why.UNCERTAIN
    assert Gap(np.array([44.0, 33.0, 33.0]), np.array([32.0] * 3), 0.0).absent is None


def test_one_seed_has_a_gap_and_no_interval() -> None:
    found = closed(Gap(STATIC[:1], SCHEDULE[:1], loss=0.0).closed([35.0]))
    assert found.mean == pytest.approx(0.5)
    assert math.isnan(found.low)


@pytest.mark.parametrize(("loss", "expected"), [(1.19, None), (1.21, Why.LOSS)])
def test_a_search_may_lose_a_tenth_of_the_gap(loss: float, expected: Why | None) -> None:
    gap = Gap(STATIC, SCHEDULE, loss)
    assert (gap.absent.why if gap.absent else None) is expected


def test_what_was_not_searched_or_not_played_has_none() -> None:
    nobody = np.array([])
    assert why(Gap(nobody, nobody, 0.0).closed([])) is Why.NOT_SEARCHED
    gap = Gap(STATIC, SCHEDULE, 0.0)
    assert why(gap.closed([30.0, math.nan, 30.0])) is Why.NOT_PLAYED
    assert why(gap.closed([30.0])) is Why.NOT_PLAYED
    assert why(Gap(STATIC, SCHEDULE * math.nan, 0.0).closed(STATIC)) is Why.HEADROOM


def test_absence_says_why_in_a_table() -> None:
    assert str(Absent(Why.HEADROOM, "static / schedule is 1.02")) == "n/a (headroom below 5 %)"


def test_wrong_parts_of_a_gap_are_refused() -> None:
    with pytest.raises(ConfigError, match="3 of the static share and 2 of the schedule"):
        Gap(STATIC, SCHEDULE[:2], 0.0)
    for loss in (-0.1, math.nan):
        with pytest.raises(ConfigError, match="cannot lose"):
            Gap(STATIC, SCHEDULE, loss)


def test_the_cheapest_replay_is_taken_seed_by_seed() -> None:
    search, policy = np.array([30.0, 35.0, math.nan]), np.array([31.0, 33.0, 40.0])
    failed = np.full(3, math.nan)
    assert cheapest([search, policy, failed]).tolist() == [30.0, 33.0, 40.0]
    assert math.isnan(cheapest([failed, failed])[0])


def test_a_price_needs_a_gain() -> None:
    assert closed(per_ms([10.0, 30.0], [1.0, 4.0])).mean == pytest.approx(8.0)
    assert closed(per_ms([-10.0], [4.0])).mean == pytest.approx(-2.5), "it may save as well"
    assert why(per_ms([10.0, 30.0], [-1.0, -4.0])) is Why.NO_GAIN
    assert why(per_ms([10.0, 30.0], [-1.0, 4.0])) is Why.NO_GAIN
    assert why(per_ms([], [])) is Why.NO_GAIN
