"""The one search for the highest rate: it stays where it may look."""

from __future__ import annotations

import math

import pytest

from helm_gym.errors import ConfigError
from helm_gym.suites.capacity import STEP, highest_rate


@pytest.mark.parametrize("limit", [41.0, 100.0, 239.0])
@pytest.mark.parametrize("guess", [40.0, 100.0, 240.0])
def test_a_bounded_search_finds_the_rate_and_tries_none_outside(limit: float, guess: float) -> None:
    tried: list[float] = []

    def margin(rate: float) -> float:
        tried.append(rate)
        return limit - rate

    assert highest_rate(margin, guess, 40.0, 250.0) == pytest.approx(limit, rel=1e-3)
    assert 40.0 / STEP <= min(tried) and max(tried) <= 250.0 * STEP
    assert len(tried) == len(set(tried)) < 20


def test_what_lies_outside_is_told_apart() -> None:
    assert highest_rate(lambda rate: 20.0 - rate, 100.0, 40.0, 250.0) == 0.0
    with pytest.raises(ConfigError, match="still meet the SLO"):
        highest_rate(lambda rate: 900.0 - rate, 100.0, 40.0, 250.0)


def test_a_search_from_the_best_so_far_costs_one_simulation_for_a_worse_share() -> None:
    tried: list[float] = []

    def margin(rate: float) -> float:
        tried.append(rate)
        return 50.0 - rate

    assert highest_rate(margin, 100.0, 100.0, 250.0) == 0.0
    assert len(tried) == 1 and math.isclose(tried[0], 100.0, rel_tol=STEP - 1.0)
