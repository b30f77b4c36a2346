"""The figures that real and generated streams are compared by, and the card's workload rooms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from real_data import trace
from scipy.stats import ks_2samp

from helm_gym.config.quantity import load_preset
from helm_gym.config.workload import PROFILES, Profile
from helm_gym.fidelity import replays, streams, workload
from helm_gym.fidelity.finding import Effort, Finding, Skipped
from helm_gym.sim.simulator import Simulator


def data_folder() -> Path:
    """Folder that holds traces/; the test is skipped where it is absent."""
    return trace("taobao_userbehavior_users1095.parquet").parents[1]


def test_the_distance_is_kolmogorovs() -> None:
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(0, 1, 700), rng.normal(0.3, 1.2, 900)
    value, critical = streams.distance(ours, theirs)
    assert value == pytest.approx(ks_2samp(ours, theirs).statistic)
    assert value > critical
    same = [streams.distance(rng.normal(0, 1, 400), rng.normal(0, 1, 400)) for _ in range(300)]
    assert np.mean([v > c for v, c in same]) == pytest.approx(0.05, abs=0.035)


def test_an_lru_of_everything_misses_each_user_once() -> None:
    keys = np.array([1, 2, 1, 3, 1, 2, 4, 1])
    assert streams.lru_curve(keys, [1.0])[0] == pytest.approx(4 / 8)
    assert streams.lru_curve(keys, [0.25])[0] == 0.0  # one entry
    assert streams.lru_curve(keys, [0.5])[0] == pytest.approx(2 / 8)


def test_poisson_arrivals_have_dispersion_one_and_clusters_more() -> None:
    rng = np.random.default_rng(1)
    times = np.sort(rng.uniform(0, 60_000, 60_000))
    np.testing.assert_allclose(streams.dispersion(times), 1.0, atol=0.12)
    pairs = np.sort(np.repeat(rng.uniform(0, 60_000, 30_000), 2))
    np.testing.assert_allclose(streams.dispersion(pairs), 2.0, atol=0.25)
    kept = pairs[rng.random(pairs.size) < 0.5]
    assert streams.dispersion(kept)[1] == pytest.approx(1.5, abs=0.15)
    assert streams.dispersion(kept, 0.5)[1] == pytest.approx(2.0, abs=0.3)
    # A rate that doubles over hours is a trend, not dispersion.
    drifting = 60_000 * np.sqrt(np.sort(rng.random(60_000)))
    np.testing.assert_allclose(streams.dispersion(drifting), 1.0, atol=0.12)


def test_a_stream_is_cut_into_sessions_on_the_users_clock() -> None:
    user = np.array([0, 1, 0, 0, 1])
    time = np.array([0.0, 1.0, 10.0, 100.0, 200.0])
    found = streams.figures(streams.Stream(user, time), scale=0.05)
    assert sorted(found.gaps.tolist()) == [200.0, 1800.0]
    assert found.returns.tolist() == [3980.0]
    assert sorted(found.lengths.tolist()) == [1.0, 1.0, 3.0]


def test_top_mass_counts_the_commonest_items() -> None:
    counts = np.array([50] + [1] * 50)
    mass = streams.top_mass(counts)
    assert mass[0] == mass[1] == pytest.approx(0.5)
    assert mass[-1] == pytest.approx((50 + 25) / 100, abs=0.02)


def test_deviations_come_with_an_interval_that_holds_them() -> None:
    rng = np.random.default_rng(2)
    inside = 0
    for _ in range(300):
        off, half = replays.deviation(rng.normal(11, 1, 5), rng.normal(10, 1, 5))
        inside += abs(off - 10.0) < half
    assert inside / 300 > 0.93


def test_the_simulated_node_serves_the_users_it_is_compared_with() -> None:
    profile = load_preset(Profile, "taobao", PROFILES, "profile")
    scenario = workload.steady_scenario(profile, 2, 0.01)
    assert scenario.workload.users.value == 2 * 1095
    assert Simulator(scenario).lowered.users.size == 2190


def test_without_data_the_round_trip_still_runs() -> None:
    found = list(workload.checks(Effort(None, quick=True)))
    assert [type(row) for row in found] == [Finding, Finding, Skipped]
    trip = found[0]
    assert isinstance(trip, Finding)
    assert 0.1 < trip.value < 4.0  # standard errors mean what they say
    assert isinstance(next(iter(replays.checks(Effort(None, quick=True)))), Skipped)


def test_the_quick_rooms_run_on_the_real_log() -> None:
    effort = Effort(data_folder(), quick=True)
    found = [row for row in workload.checks(effort) if isinstance(row, Finding)]
    assert {row.part for row in found} == {
        "profile fit",
        "gaps inside sessions",
        "gaps between sessions",
        "session lengths",
        "LRU over users",
        "dispersion of arrivals",
        "popularity of items",
    }
    gaps = [row for row in found if row.part == "gaps inside sessions"]
    assert len(gaps) == 3
    assert max(row.value for row in gaps) < 0.05
    replayed = [row for row in replays.checks(effort) if isinstance(row, Finding)]
    assert [row.part for row in replayed] == [
        "replay, P99",
        "replay, KV hit rate",
        "replay, EMB hit rate",
    ]
    assert max(row.value for row in replayed[1:]) < 10.0
