"""Courses of the moving suite: what lies in them, at which rates, and what a seed changes."""

from __future__ import annotations

import numpy as np
import pytest
from small import small_scenario

from helm_gym.config.workload import Course
from helm_gym.suites import courses
from helm_gym.suites.courses import AMPLITUDE, EPISODE_S, FEED_PARTS, REGIMES, RUSHES, course
from helm_gym.workload.regimes import Schedule, build_schedule

# A steep line, so that no two stretches have the same capacity.
CAPACITIES = {name: 100.0 + 10.0 * k for k, name in enumerate(courses.lone_stretches())}
ENDS = (0.9, 0.3)
SURFACES = [{"name": "feed", "candidates": 256}, {"name": "search", "candidates": 1024}]


def made(regime: str, seed: int = 0, hourly: list[float] | None = None) -> list[dict]:
    return course(regime, CAPACITIES, ENDS, seed, hourly)


def schedule_of(stretches: list[dict]) -> Schedule:
    scenario = small_scenario(
        **{
            "workload.mix": {},
            "workload.surfaces": SURFACES,
            "workload.regime": {"kind": "course", "stretches": stretches},
        }
    )
    return build_schedule(scenario.workload, np.random.default_rng(0))


@pytest.mark.parametrize("regime", REGIMES)
def test_every_course_is_one_and_lasts_an_episode(regime: str) -> None:
    stretches = made(regime)
    Course.parse({"kind": "course", "stretches": stretches}, "course")
    assert sum(stretch["duration_s"] for stretch in stretches) == pytest.approx(EPISODE_S, abs=1)


@pytest.mark.parametrize("regime", REGIMES)
def test_every_moment_is_loaded_alike(regime: str) -> None:
    """At a knot the rate is what its stretch carries; ramps lie between those of their ends."""
    schedule, stretches = schedule_of(made(regime)), made(regime)
    top = max(stretch["capacity_rps_per_node"] for stretch in stretches)
    total = top * schedule.rate.sum(axis=1)
    begins = np.cumsum([0.0, *(stretch["duration_s"] for stretch in stretches[:-1])])
    for begin, stretch in zip(begins, stretches, strict=True):
        expected = stretch["capacity_rps_per_node"] * stretch.get("load", 1.0)
        assert total[int(np.ceil(begin))] == pytest.approx(expected, rel=0.02)


def test_a_trend_goes_there_and_back_along_the_measured_mixes() -> None:
    stretches = made("trend")
    feeds = [stretch["mix"]["feed"] for stretch in stretches]
    assert feeds == [0.9, 0.7, 0.5, 0.3, 0.5, 0.7]
    part = schedule_of(stretches).rate
    feed = part[:, 0] / part.sum(axis=1)
    assert np.abs(np.diff(feed)).max() < 0.002, "no jump"
    assert (feed.min(), feed.max()) == (pytest.approx(0.3, abs=0.01), pytest.approx(0.9, abs=0.01))


def test_a_trend_may_follow_the_hours() -> None:
    hourly = [1.0 + (hour == 20) for hour in range(24)]
    loads = [stretch["load"] for stretch in made("trend", hourly=hourly)]
    assert max(loads) == 1.0
    assert min(loads) < 1.0


@pytest.mark.parametrize("seed", range(4))
def test_bursts_differ_in_what_they_bring(seed: int) -> None:
    stretches = made("burst", seed)
    rushes = [stretch["rush"] for stretch in stretches[1::2]]
    assert sorted((rush["surface"], rush["who"]) for rush in rushes) == sorted(RUSHES)
    for calm, burst in zip(stretches[::2], stretches[1::2], strict=True):
        assert "rush" not in calm
        assert calm["load"] * AMPLITUDE == pytest.approx(1.0)
        assert calm["capacity_rps_per_node"] == burst["capacity_rps_per_node"]
    schedule = schedule_of(stretches)
    total = schedule.rate.sum(axis=1)
    on = schedule.excess.any(axis=1)
    steps = np.flatnonzero(~on[:-1] & on[1:])
    np.testing.assert_allclose(total[steps + 1] / total[steps], AMPLITUDE)


def test_seeds_draw_other_bursts_and_another_order_of_the_day() -> None:
    for regime in ("burst", "day"):
        assert len({str(made(regime, seed)) for seed in range(6)}) == 6
    firsts = {made("day", seed)[0]["duration_s"] for seed in range(20)}
    assert len(firsts) > 2, "the parts come in any order"
    assert made("steady", 0) == made("steady", 1)
    assert made("trend", 0) == made("trend", 1)


def test_a_day_drifts_to_both_ends_and_ends_where_it_began() -> None:
    feeds = [stretch["mix"]["feed"] for stretch in made("day")]
    assert {*ENDS} <= {*feeds}
    assert {*feeds} <= {*FEED_PARTS}
