"""Figures of an episode: shed requests, silent windows, the uncounted beginning."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from small import REGIMES, small_scenario

from helm_gym.baselines.static import StaticPolicy
from helm_gym.benchmark.distance import distance, distance_good, shares_of
from helm_gym.benchmark.jobs import run_job
from helm_gym.benchmark.plan import Job, Setting, windows
from helm_gym.benchmark.rows import IDENTITY
from helm_gym.config.scenario import Scenario
from helm_gym.errors import ConfigError
from helm_gym.evaluation.specs import make_policy
from helm_gym.hindsight.branches import Branches, Plan
from helm_gym.hindsight.objective import Objective
from helm_gym.hindsight.search import Search, hindsight
from helm_gym.runs.figures import EXTRA, mean_tail, moves, window_tails, worst_window
from helm_gym.runs.rollout import Episode, run_policy
from helm_gym.sim.layout import N_BINS
from helm_gym.sim.stages import bin_edge

SEED = 20_000
DEADLINE_MS = 150.0


def scenario(**changes: Any) -> Scenario:
    """Overloaded, so that requests are shed; a window is 0.4 s, an episode eight."""
    busy = {"workload.regime": REGIMES["phases"], "workload.load": 4, "slo.deadline_ms": 10}
    return small_scenario(**(busy | changes))


def play(spec: str, seed: int = SEED, **changes: Any) -> Episode:
    (episode,) = run_policy(scenario(**changes), make_policy(spec), spec, [seed])
    return episode


def histogram(ms: float, requests: int) -> np.ndarray:
    counts = np.zeros((1, N_BINS), np.uint32)
    edges = [bin_edge(i) * 1e3 for i in range(N_BINS)]
    counts[0, int(np.searchsorted(edges, ms, side="right")) - 1] = requests
    return counts


# Windows


def test_a_shed_request_counts_as_the_deadline_in_its_window() -> None:
    ten = np.array([10.0])
    few = window_tails(ten, histogram(10.0, 1000), np.array([5.0]), DEADLINE_MS)
    many = window_tails(ten, histogram(10.0, 1000), np.array([50.0]), DEADLINE_MS)
    assert few[0] == pytest.approx(10.0, rel=0.02)
    assert many[0] == pytest.approx(DEADLINE_MS, rel=0.02)


def test_all_shed_is_the_deadline_and_silence_is_nothing() -> None:
    unknown, none = np.array([math.nan]), histogram(10.0, 0)
    assert window_tails(unknown, none, np.array([3.0]), DEADLINE_MS) == DEADLINE_MS
    assert np.isnan(window_tails(unknown, none, np.array([0.0]), DEADLINE_MS))[0]
    assert mean_tail(np.array([10.0, math.nan, 40.0])) == 25.0
    assert math.isnan(mean_tail(np.array([math.nan])))


def test_where_nothing_is_shed_it_is_the_p99_of_the_window() -> None:
    episode = play("static:0.5")
    shed = episode.series["shed_rate"] > 0.0
    assert shed.any() and not shed.all(), "both kinds of windows must be there"
    tail, p99 = episode.series["tail_ms"], episode.series["p99_ms"]
    assert (tail[~shed] == p99[~shed]).all()
    assert (tail[shed] != p99[shed]).any()
    assert episode.figures["window_tail_ms"] == mean_tail(tail)


def test_the_worst_window_says_when_and_with_which_shares() -> None:
    tails, shares = np.array([99.0, 20.0, math.nan, 50.0, 50.0]), np.linspace(0.1, 0.5, 5)
    worst = worst_window(tails, shares, 5.0, uncounted=1)
    assert worst[:3] == (3, 15.0, 50.0), "the first of two, and not one that does not count"
    assert worst.shares.tolist() == [shares[3]]
    by_node = np.stack([shares, shares + 0.1], axis=1)
    assert worst_window(tails, by_node, 5.0).shares.tolist() == by_node[0].tolist()
    silent = worst_window(tails[2:3], by_node[2:3], 5.0)
    assert silent.window == -1 and math.isnan(silent.tail_ms)


def test_moves_are_windows_and_bytes_are_memory_that_changed_hands() -> None:
    assert moves(np.array([0.0, 0.1, 0.0, 1e-3])) == 2
    assert play("static:0.5").figures["moves"] == 0.0
    moving = play("balance")
    by_node = np.abs(np.diff(moving.shares, axis=0, prepend=0.5)).sum()
    pool_gb = scenario().memory.pool_gb.value
    assert moving.figures["moved_gb"] == pytest.approx(by_node * pool_gb)
    assert 0.0 < moving.figures["moves"] <= 8.0


# The uncounted beginning


def test_without_it_scenarios_are_what_they_were() -> None:
    plain = scenario()
    assert "uncounted_s" not in plain.to_dict()["episode"]
    assert scenario(**{"episode.uncounted_s": 0}).digest() == plain.digest()
    late = scenario(**{"episode.uncounted_s": 0.8})
    assert late.digest() != plain.digest()
    assert Scenario.load(late.to_dict()) == late
    assert (plain.episode.uncounted, late.episode.uncounted) == (0, 2)


@pytest.mark.parametrize(("seconds", "expected"), [(0.4, 1), (0.41, 2), (1.2, 3), (0.01, 1)])
def test_a_window_that_begins_before_it_ends_is_uncounted(seconds: float, expected: int) -> None:
    assert scenario(**{"episode.uncounted_s": seconds}).episode.uncounted == expected


def test_the_stream_and_the_policy_stay_and_figures_begin_later() -> None:
    whole, late = play("balance"), play("balance", **{"episode.uncounted_s": 1.2})
    assert (late.uncounted, whole.uncounted) == (3, 0)
    for name, series in whole.series.items():
        assert np.array_equal(series, late.series[name], equal_nan=True), name
    assert np.array_equal(whole.shares, late.shares)
    for name in ("reward", "refill_gb", "miss_gb"):
        assert late.figures[name] == pytest.approx(late.series[name][3:].sum()), name
    assert late.figures["window_tail_ms"] == pytest.approx(late.series["tail_ms"][3:].mean())
    assert late.figures["share_moved"] == pytest.approx(late.series["share_moved"][3:].sum())
    assert late.latency.sum() < whole.latency.sum()
    arrived = late.series["offered_rps"][3:].mean()
    assert late.figures["offered_rps"] == pytest.approx(arrived)


def test_an_episode_that_counts_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="leaves none of 8 windows"):
        play("static:0.5", **{"episode.uncounted_s": 3.2})
    minute = scenario(**{"episode.step_s": 5.0, "episode.uncounted_s": 60.0})
    assert windows(minute, quick=True) == 24, "what is quick has a minute that counts"


def test_hindsight_counts_what_policies_count() -> None:
    """The same bits as of an episode, and a plan that may do as it likes before it counts."""
    late = scenario(**{"episode.uncounted_s": 1.2})
    for name in ("tail", "mean_latency"):
        objective = Objective(name, late)
        (episode,) = run_policy(
            late, StaticPolicy(0.3), "static:0.3", [SEED], reward=objective.reward
        )
        played = Branches(objective, SEED).follow(Plan(0.3, (0.3,) * 8))
        assert [window.counts for window in played] == [False] * 3 + [True] * 5
        assert objective.of_windows(played) == objective.of_episode(episode)
        assert objective.of_window(played[0]) == 0.0 != objective.of_window(played[0].alone)


def test_a_search_may_leave_its_beginning_uncounted() -> None:
    late = scenario(**{"episode.uncounted_s": 1.2})
    coarse = Search(step=0.2, coarse_step=0.2, longest_move=0.2, radius=0.2, width=1, rounds=1)
    found = hindsight(late, SEED, search=coarse)
    assert found.best.cost <= found.static.cost
    assert all(found.good), "every window has shares that are good, counted or not"
    own = np.array(found.schedule.shares)[:, None]
    assert distance_good(own, found.good, found.grid, 3) == 0.0


# Rows and distances


def test_distances_leave_the_beginning_out() -> None:
    shares = np.array([[0.9, 0.9], [0.2, 0.4]])
    assert distance(shares, (0.1, 0.3), uncounted=1) == pytest.approx(0.1)
    assert distance_good(shares, [(0.1,), (0.2, 0.4)], [0.1, 0.2, 0.4], 1) == pytest.approx(0.0)
    with pytest.raises(ConfigError, match="2 windows cannot be compared with 3"):
        distance(shares, (0.1, 0.2, 0.3))


@pytest.mark.parametrize("spec", ["static:0.4", "hill", "balance"])
def test_rows_carry_what_the_measures_need(spec: str) -> None:
    late = scenario(**{"episode.uncounted_s": 0.8})
    (row,) = run_job(Job(Setting("", "small", late, shipped=False), spec, (SEED,)))
    episode = play(spec, **{"episode.uncounted_s": 0.8})
    assert (row["uncounted"], row["step_s"], row["slo_ms"]) == (2, 0.4, 30.0)
    assert {"uncounted", "step_s", "slo_ms"} <= set(IDENTITY)
    assert {name: row[name] for name in EXTRA if name != "reward"} == {
        name: episode.figures[name] for name in EXTRA if name != "reward"
    }
    assert row["tail_by_window"] == episode.series["tail_ms"].tolist()
    arrived = episode.series["offered_rps"][2:].sum() * 0.4
    assert row["requests"] == round(arrived)
    kept = shares_of(row)
    assert kept.shape == (8, 3 if spec == "balance" else 1)
    # A mean over nodes that agree is rounded.
    assert np.broadcast_to(kept, (8, 3)) == pytest.approx(episode.shares, abs=1e-15)


def test_a_mean_over_nodes_is_no_share_of_a_node() -> None:
    by_node = {"share_by_window": [0.3, 0.5], "shares_by_node": [0.2, 0.4, 0.4, 0.6]}
    assert shares_of(by_node).tolist() == [[0.2, 0.4], [0.4, 0.6]]
    assert distance(shares_of(by_node), (0.3, 0.5)) == pytest.approx(0.1)
    with pytest.raises(ConfigError, match="run the rows again"):
        shares_of({"share_by_window": [0.3, 0.5]})
