"""Comparisons: equal requests, held-out seeds, honest intervals, rows that can be repeated."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from helm_gym.config.scenario import Scenario
from helm_gym.errors import ConfigError, PolicyError
from helm_gym.evaluation.evaluate import Entry, Evaluation, evaluate, save_rows
from helm_gym.evaluation.search import Budget, search
from helm_gym.evaluation.specs import make_policy
from helm_gym.evaluation.tables import result_table, span, verdict
from helm_gym.runs import stats
from helm_gym.runs.figures import tail_ms
from helm_gym.runs.rollout import Episode, run_policy
from helm_gym.sim.layout import N_BINS
from helm_gym.sim.stages import latency_bin
from helm_gym.suites import mixes
from helm_gym.suites import seeds as seeds_of
from helm_gym.suites.capacity import SEED, Probe

SEEDS = seeds_of.EVALUATION_SEEDS[:3]


class Fixed:
    """The same share, seen and decided in any way."""

    def __init__(self, control: str, observation: str, per_row: int, share: float = 0.5) -> None:
        self.control, self.observation = control, observation
        self.per_row, self.share = per_row, share

    def reset(self, seed: int) -> None:
        pass

    def act(self, obs: np.ndarray) -> np.ndarray:
        return np.full((len(obs), self.per_row), self.share)


def histogram(latencies_s: np.ndarray) -> np.ndarray:
    counts = np.zeros(N_BINS, np.int64)
    for value in latencies_s:
        counts[latency_bin(value)] += 1
    return counts


def comparison(scenario: Scenario, **tails: list[float]) -> Evaluation:
    """A finished comparison with made-up tails per seed; ``best`` is the best static."""
    entries = []
    for name, values in tails.items():
        episodes = [
            Episode(name, 20_000 + i, {"tail_ms": v}, {}, np.zeros((1, 1)), *2 * [np.zeros(1)])
            for i, v in enumerate(values)
        ]
        asked = "static:best" if name == "best" else name
        entries.append(Entry(asked, name, name, tuple(episodes)))
    seeds = tuple(20_000 + i for i in range(len(entries[0].episodes)))
    return Evaluation(scenario, seeds, tuple(entries), ())


def test_seeds_for_training_tuning_and_comparing_are_apart() -> None:
    ranges = (seeds_of.TRAINING_SEEDS, seeds_of.TUNING_SEEDS, seeds_of.EVALUATION_SEEDS)
    for one, other in itertools.pairwise(ranges):
        assert one.stop <= other.start
    assert seeds_of.EVALUATION_SEEDS.stop <= SEED


def test_every_policy_meets_the_same_requests_whatever_it_sees_or_does(tiny: Scenario) -> None:
    policies = [
        Fixed("cluster", "extended", 1),
        Fixed("cluster", "paper7", 1, share=0.2),
        Fixed("per_node", "extended", tiny.nodes, share=0.9),
        Fixed("node", "paper7", 1),
        make_policy("static:0.8"),  # another warm start too
    ]
    runs = [run_policy(tiny, policy, "x", SEEDS) for policy in policies]
    for run in runs[1:]:
        for mine, first in zip(run, runs[0], strict=True):
            for figure in ("offered_rps", "hot_user_share"):
                np.testing.assert_array_equal(mine.series[figure], first.series[figure])
    assert not np.array_equal(runs[0][0].series["p99_ms"], runs[2][0].series["p99_ms"])


def test_views_of_one_decision_give_one_result(tiny: Scenario) -> None:
    first, *others = (
        run_policy(tiny, Fixed(control, "extended", per_row), "x", SEEDS)
        for control, per_row in (("cluster", 1), ("node", 1), ("per_node", tiny.nodes))
    )
    for other in others:
        assert [e.figures for e in other] == [e.figures for e in first]


def test_an_episode_depends_neither_on_its_neighbours_nor_on_threads(tiny: Scenario) -> None:
    together = run_policy(tiny, make_policy("balance"), "x", SEEDS, threads=2)
    for episode in together:
        alone = run_policy(tiny, make_policy("balance"), "x", [episode.seed])[0]
        assert alone.figures == episode.figures
        np.testing.assert_array_equal(alone.shares, episode.shares)
    assert len({e.figures["offered_rps"] for e in together}) == len(SEEDS)


def test_a_static_share_holds_from_the_first_window(tiny: Scenario) -> None:
    for episode in run_policy(tiny, make_policy("static:0.3"), "x", SEEDS):
        np.testing.assert_array_equal(episode.shares, 0.3)
        assert episode.figures["share_moved"] == 0.0
        assert episode.shares.shape == (tiny.episode.steps, tiny.nodes)


def test_a_share_outside_the_scenarios_range_starts_at_its_edge(tiny: Scenario) -> None:
    episode = run_policy(tiny, make_policy("static:0"), "x", SEEDS[:1])[0]
    np.testing.assert_array_equal(episode.shares, tiny.episode.share_min)
    assert episode.figures["share_moved"] == 0.0


def test_episode_figures_agree_with_their_windows(tiny: Scenario) -> None:
    episode = run_policy(tiny, make_policy("balance"), "x", SEEDS[:1])[0]
    series, figures = episode.series, episode.figures
    assert figures["reward"] == pytest.approx(series["reward"].sum())
    assert figures["refill_gb"] == pytest.approx(series["refill_gb"].sum())
    arrived = series["offered_rps"]
    satisfied = (series["slo_satisfaction"] * arrived).sum() / arrived.sum()
    assert figures["slo_satisfaction"] == pytest.approx(satisfied)
    assert episode.latency.sum() == round((arrived * (1 - series["shed_rate"])).sum() * 5)


def test_a_policy_that_fails_is_named(tiny: Scenario) -> None:
    with pytest.raises(PolicyError, match=r"'stranger'.*shape \(3, 2\)"):
        run_policy(tiny, Fixed("cluster", "extended", 2), "stranger", SEEDS)
    with pytest.raises(ConfigError, match=r"'stranger'.*did you mean 'node'"):
        run_policy(tiny, Fixed("nodes", "extended", 1), "stranger", SEEDS)


@pytest.mark.parametrize("shed", [0, 4, 30])
def test_the_tail_counts_shed_requests_as_the_deadline(shed: int) -> None:
    rng = np.random.default_rng(1)
    admitted = rng.lognormal(-4.0, 0.5, 1000)
    everyone = np.append(admitted, np.full(shed, 0.150))
    got = tail_ms(histogram(admitted), shed / (1000 + shed), 150.0)
    want = 1e3 * float(np.quantile(everyone, 0.99, method="inverted_cdf"))
    assert got == pytest.approx(want, rel=1 / 64)
    assert (got > 149.0) == (shed > 10)  # more than 1 % shed: the tail is the deadline


def test_the_tail_of_nothing_and_of_all_shed() -> None:
    nothing = np.zeros(N_BINS, np.int64)
    assert np.isnan(tail_ms(nothing, 0.0, 150.0))
    assert tail_ms(nothing, 1.0, 150.0) == 150.0


def test_intervals_of_samples_that_have_none() -> None:
    assert stats.mean_interval([2.0, 2.0, 2.0]) == (2.0, 2.0, 2.0)
    mean, low, high = stats.mean_interval([3.0])
    assert mean == 3.0 and np.isnan(low) and np.isnan(high)
    assert np.isnan(stats.mean_interval([1.0, float("nan")])).all()
    assert np.isnan(stats.mean_interval([])).all()


def test_an_interval_can_be_repeated_and_holds_its_mean() -> None:
    sample = [1.0, 4.0, 2.0, 8.0, 5.0]
    interval = stats.mean_interval(sample)
    assert interval == stats.mean_interval(sample)
    assert min(sample) <= interval.low < interval.mean == 4.0 < interval.high <= max(sample)


def test_pairing_removes_what_seeds_have_in_common() -> None:
    seeds = np.array([10.0, 50.0, 20.0, 90.0, 30.0])
    interval = stats.paired((seeds - 2.0 + 0.1 * np.arange(5)).tolist(), seeds.tolist())
    assert interval.mean == pytest.approx(-1.8)
    assert interval.excludes_zero
    assert stats.sign([1, 5, 3], [2, 4, 3]) == (1, 3)


def test_five_seeds_give_intervals_as_narrow_as_the_docstring_says() -> None:
    rng = np.random.default_rng(0)
    intervals = [stats.mean_interval(rng.normal(size=5).tolist()) for _ in range(300)]
    covered = np.mean([interval.low <= 0.0 <= interval.high for interval in intervals])
    assert 0.78 < covered < 0.90


def test_a_search_takes_the_lowest_tail_on_tuning_seeds(tiny: Scenario) -> None:
    found = search(tiny, "static:best", Budget(tuple(seeds_of.TUNING_SEEDS[:2])))
    tails = {spec: figures["tail_ms"] for spec, figures in found.figures.items()}
    assert found.best == min(tails, key=lambda spec: tails[spec])
    tried = list(tails)
    assert (tried[0], tried[-1]) == ("static:0.1", "static:0.9")
    spec = tried[3]
    episodes = run_policy(tiny, make_policy(spec), spec, seeds_of.TUNING_SEEDS[:2])
    assert tails[spec] == pytest.approx(np.mean([e.figures["tail_ms"] for e in episodes]))


def test_a_search_may_not_see_the_seeds_of_the_comparison(tiny: Scenario) -> None:
    with pytest.raises(ConfigError, match="seed 20001 is for comparisons"):
        search(tiny, "static:best", Budget((10_000, 20_001)))
    with pytest.raises(ConfigError, match="did you mean 'static:best'"):
        search(tiny, "static:bets")


def test_a_comparison_resolves_searches_and_compares_with_the_best_static(tiny: Scenario) -> None:
    found = evaluate(tiny, ["balance", "static:best"], seeds=SEEDS)
    assert found.reference.asked == "static:best"
    assert found.reference.spec == found.searches[0].best
    assert found.reference.label == f"best static ({found.searches[0].best[7:]})"
    balance, best = found.entry("balance"), found.reference
    differences = np.subtract(balance.values("tail_ms"), best.values("tail_ms"))
    assert found.difference(balance, "tail_ms").mean == pytest.approx(differences.mean())
    assert result_table(found).row_count == 2


@pytest.mark.parametrize(
    ("specs", "seeds", "message"),
    [
        ([], SEEDS, "nothing to evaluate"),
        (["balance", "balance"], SEEDS, "named twice"),
        (["balance"], [10_003], "seed 10003 is not held out"),
        (["balance"], [20_000, 20_000], "only once"),
        (["balance"], [], "at least one seed"),
        (["balance", "statik"], SEEDS, "did you mean 'static'"),
    ],
)
def test_a_comparison_that_makes_no_sense_is_refused(
    tiny: Scenario, specs: list[str], seeds: list[int], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        evaluate(tiny, specs, seeds=seeds)


def test_a_row_has_all_that_is_needed_to_repeat_it(tiny: Scenario) -> None:
    found = evaluate(tiny, ["static:0.4", "balance:gain=0.3"], seeds=SEEDS)
    rows = found.rows()
    assert len(rows) == 2 * len(SEEDS)
    for row in rows:
        assert row["scenario_digest"] == tiny.digest() and row["helm_gym"]
        again = run_policy(tiny, make_policy(row["spec"]), "again", [row["seed"]])[0]
        assert {name: row[name] for name in again.figures} == again.figures


def test_rows_survive_both_formats(tiny: Scenario, tmp_path: Path) -> None:
    found = evaluate(tiny, ["static:0.4"], seeds=SEEDS)
    save_rows([found, found], tmp_path / "new" / "rows.parquet")
    save_rows([found, found], tmp_path / "rows.json")
    assert pq.read_table(tmp_path / "new" / "rows.parquet").to_pylist() == 2 * found.rows()
    assert json.loads((tmp_path / "rows.json").read_text()) == 2 * found.rows()
    with pytest.raises(ConfigError, match=r"\.parquet or \.json"):
        save_rows([found], tmp_path / "rows.csv")


@pytest.mark.parametrize(
    ("mine", "sentence"),
    [
        ([41, 52, 39, 47, 43], "mine is better than best"),
        ([61, 73, 58, 66, 70], "mine is worse than best"),
        ([51, 61, 50, 54, 54], "no difference between mine and best is shown"),
        ([41, 52, 39, 47, float("nan")], "cannot be compared"),
    ],
)
def test_a_verdict_follows_from_the_interval(
    tiny: Scenario, mine: list[float], sentence: str
) -> None:
    found = comparison(tiny, best=[50, 62, 48, 55, 53], mine=mine)
    said = verdict(found, found.entry("mine"), found.reference)
    assert sentence in said
    assert "meet the SLO" not in said


def test_a_verdict_admits_what_does_not_matter_and_what_cannot_be_told(tiny: Scenario) -> None:
    found = comparison(tiny, best=[20.0, 21, 22, 23, 24], mine=[19.0, 20, 21, 22, 23])
    said = verdict(found, found.entry("mine"), found.reference)
    assert "better" in said and "Both meet the SLO of 30 ms on every seed" in said
    few = comparison(tiny, best=[50.0, 51, 52, 53], mine=[10.0, 11, 12, 13])
    said = verdict(few, few.entry("mine"), few.reference)
    assert "4 seeds cannot tell" in said and "better" not in said


def test_seeds_are_written_as_a_range_only_if_they_are_one() -> None:
    assert span([20_000, 20_001, 20_002]) == "20000-20002"
    assert span([20_000, 20_002]) == "20000, 20002"
    assert span([20_000]) == "20000"


def test_a_capacity_is_the_last_rate_that_meets_the_slo(tiny: Scenario) -> None:
    settings: dict[str, Any] = {"seeds": [30_000], "measure_s": 10.0}
    (result,) = mixes.measure_capacity(tiny, [0.3, 0.6], threads=2, **settings)
    probe = Probe(mixes.steady(tiny, result.mix), **settings)
    for share, rate in result.rps_per_node.items():
        # It is interpolated between neighbours on a grid of 3 %.
        assert probe.margin(share, rate / 1.03) >= 0.0 > probe.margin(share, 1.5 * rate)
    assert result.capacity == max(result.rps_per_node.values())
    again = mixes.measure_capacity(tiny, [0.3, 0.6], **settings)
    assert again == [result]  # threads decide nothing


def test_the_middle_of_equal_shares_is_best() -> None:
    flat = {0.1: 90.0, 0.2: 99.0, 0.3: 100.0, 0.4: 99.8, 0.5: 80.0}
    assert mixes.MixCapacity("mix", {"A": 1.0}, flat).best_share == 0.3


def test_capacities_can_be_pasted_into_the_scenario() -> None:
    shift = Scenario.load("taobao-shift")
    own = mixes.mixes_of(shift)
    assert list(own.values()) == [{"feed": 1.0, "search": 0.0}, {"feed": 0.0, "search": 1.0}]
    results = [
        mixes.MixCapacity(name, mix, {0.2: rate, 0.7: rate / 2})
        for (name, mix), rate in zip(own.items(), (251.26, 99.4), strict=True)
    ]
    blocks = [
        yaml.safe_load(line)["capacity_rps_per_node"]
        for line in mixes.capacity_yaml(shift, results).splitlines()
        if not line.startswith("#")
    ]
    assert [block["value"] for block in blocks] == [251.0, 251.0, 99.4]  # the scenario's first
    changed = shift.replace(
        {
            "workload.capacity_rps_per_node": blocks[0],
            "workload.regime.phases.0.capacity_rps_per_node": blocks[1],
            "workload.regime.phases.1.capacity_rps_per_node": blocks[2],
        }
    )
    assert changed.workload.capacity_rps_per_node.value == 251.0


def test_the_demos_scenario_wants_different_shares_in_its_phases() -> None:
    """The point of the scenario, by its measured capacities: no share serves both phases."""
    shift = Scenario.load("taobao-shift")
    small = shift.replace({"workload.users": 50_000, "nodes": 4})
    settings: dict[str, Any] = {"seeds": [30_000], "measure_s": 20.0}
    feed, search = mixes.measure_capacity(small, [0.2, 0.7], threads=2, **settings)
    assert feed.rps_per_node[0.2] > 1.1 * feed.rps_per_node[0.7]
    assert search.rps_per_node[0.7] > 1.2 * search.rps_per_node[0.2]


@pytest.mark.parametrize("name", Scenario.names())
def test_every_shipped_scenario_runs(name: str) -> None:
    small = {"nodes": 2, "workload.users": 5000, "episode.steps": 2, "episode.warm_starts": 2}
    small["episode.uncounted_s"] = 0  # nothing of two windows would be left
    scenario = Scenario.load(name).replace({**small, "episode.warmup_s": 10.0})
    (episode,) = run_policy(scenario, make_policy("balance"), "balance", SEEDS[:1])
    expected = scenario.workload.load * scenario.workload.capacity_rps_per_node.value
    assert 0.1 * expected < episode.figures["offered_rps"] / 2 < 2.0 * expected
    assert 0.0 < episode.figures["kv_hit_rate"] < 1.0
