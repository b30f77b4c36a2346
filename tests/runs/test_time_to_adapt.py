"""Time to adapt after a change: three good windows in a row, counted from the change."""

from __future__ import annotations

import math

import numpy as np
import pytest

from helm_gym.errors import ConfigError
from helm_gym.runs.time_to_adapt import Adapted, adapted, bounds, mean_seconds

SLO, STEP = 30.0, 5.0


def after(tails: list[float], changes: list[float], uncounted: int = 0) -> list[Adapted]:
    played = np.array(tails)
    return adapted(played, bounds(SLO, windows=len(played)), changes, STEP, uncounted)


def test_it_takes_three_good_windows_in_a_row() -> None:
    """One and two good ones among bad ones are luck; the third run begins 30 s after."""
    tails = [20, 20, 99, 20, 99, 20, 20, 99, 20, 20, 20, 99]
    assert after(tails, [10.0]) == [Adapted(10.0, 30.0, True)]


def test_who_stays_inside_the_slo_needs_no_time() -> None:
    assert after([20.0] * 8, [10.0]) == [Adapted(10.0, 0.0, True)]
    assert after([20.0] * 8, [12.0]) == [Adapted(12.0, 0.0, True)], "in the midst of a window"


def test_a_change_inside_a_window_is_counted_from_itself() -> None:
    assert after([20, 20, 99, 30, 30, 30], [12.0])[0].seconds == pytest.approx(3.0)


def test_who_has_not_adapted_by_the_next_change_did_not() -> None:
    """Windows after the next change are not his: two good ones before it are no three."""
    tails = [99, 99, 20, 20, 20, 20, 20, 99]
    assert after(tails, [0.0, 20.0]) == [Adapted(0.0, 20.0, False), Adapted(20.0, 0.0, True)]
    assert mean_seconds(after(tails, [0.0, 20.0])) == (10.0, 1)


def test_an_episode_may_end_first() -> None:
    assert after([20, 99, 99, 20, 20], [5.0]) == [Adapted(5.0, 20.0, False)]


def test_a_change_before_anything_counts_is_left_out() -> None:
    assert [one.at_s for one in after([99.0] * 8, [0.0, 9.0, 10.0, 20.0], 2)] == [10.0, 20.0]
    seconds, missed = mean_seconds(after([20.0] * 8, []))
    assert math.isnan(seconds) and missed == 0


def test_nobody_is_asked_for_more_than_the_schedule_reaches() -> None:
    """Where the schedule misses the SLO, 10 % above it is good; elsewhere the SLO is."""
    schedule = np.array([20.0, 40.0, 40.0, math.nan, 40.0])
    good = bounds(SLO, schedule)
    assert good == pytest.approx([30.0, 44.0, 44.0, 30.0, 44.0])
    tails = np.array([25.0, 44.5, 43.0, math.nan, 43.0])
    assert adapted(tails, good, [5.0], STEP) == [Adapted(5.0, 5.0, True)]
    assert not adapted(tails, bounds(SLO, windows=5), [5.0], STEP)[0].settled


def test_what_cannot_be_compared_is_refused() -> None:
    for changes in ([10.0, 10.0], [-1.0], [40.0], [20.0, 5.0]):
        with pytest.raises(ConfigError, match="must rise and lie within the 40 s"):
            after([20.0] * 8, changes)
    with pytest.raises(ConfigError, match="8 windows were played and bounds are given for 3"):
        adapted(np.ones(8), bounds(SLO, windows=3), [], STEP)
