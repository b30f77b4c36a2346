"""Statistics of a benchmark, against numbers worked by hand, SciPy's, and simulated truth."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from benchmark_built import CELLS, LOADS, ROUTERS, SEEDS, build, failed, row, save
from scipy import stats as scipy_stats

from helm_gym.runs import stats
from helm_gym.benchmark.arrange import arrange, load_rows, load_schedules
from helm_gym.benchmark.goodput import Sustained
from helm_gym.errors import ConfigError


def cells(mean: float, n: int = 5, k: int = 6, number: int = 9, seed: int = 0) -> list[np.ndarray]:
    """Scores around a mean."""
    rng = np.random.default_rng(seed)
    return [rng.normal(mean, 0.1, (k, n)) for _ in range(number)]


def test_the_interquartile_mean_is_the_mean_of_the_middle_half() -> None:
    one = np.array([[100.0, 1.0, 2.0, 3.0], [4.0, 5.0, 6.0, -50.0]])
    assert stats.iqm([one]).mean == pytest.approx((2.0 + 3.0 + 4.0 + 5.0) / 4.0)
    those = cells(1.0)
    runs = np.concatenate([cell.ravel() for cell in those])
    assert stats.iqm(those).mean == pytest.approx(scipy_stats.trim_mean(runs, 0.25))


def test_what_is_equal_in_all_runs_has_an_interval_without_width() -> None:
    assert stats.iqm([np.ones((2, 5)), np.ones((3, 4))]) == (1.0, 1.0, 1.0)


def test_the_interval_is_that_of_an_enumerated_bootstrap() -> None:
    """One cell with two seeds has four resamples: both, both, and twice one or the other."""
    one = np.array([[1.0, 3.0]])
    mean, low, high = stats.iqm([one])
    assert (mean, low, high) == (2.0, 1.0, 3.0)
    # Two loads whose seeds are drawn together: their mean is 1.5, 2.5 or 2, never 1 or 3.
    both = np.array([[1.0, 3.0], [2.0, 2.0]])
    assert stats.improvement([both], [both + 1.0]) == (1.0, 1.0, 1.0)
    assert stats.iqm([both])[1:] == (1.5, 2.5)


def test_seeds_are_resampled_within_cells_only() -> None:
    """What differs between cells and not between seeds is no uncertainty."""
    apart = [np.full((2, 5), mean) for mean in (0.5, 1.0, 1.5, 2.0)]
    assert stats.iqm(apart) == (1.25, 1.25, 1.25)


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    """Five seeds in each of four cells: a little less than 95 %, because five are few."""
    covered = 0
    for trial in range(200):
        _, low, high = stats.iqm(cells(1.0, number=4, k=2, seed=trial))
        covered += low <= 1.0 <= high
    assert 0.85 <= covered / 200 <= 0.98


def test_what_loads_share_is_not_taken_for_evidence() -> None:
    """A seed that is hard under all six loads: intervals must be as wide as with one load."""
    rng = np.random.default_rng(3)
    hard = [rng.normal(1.0, 0.1, (1, 5)) for _ in range(9)]
    once, often = stats.iqm(hard), stats.iqm([np.repeat(cell, 6, axis=0) for cell in hard])
    width = often.high - often.low
    assert width == pytest.approx(once.high - once.low, rel=0.25)


def test_equal_policies_improve_on_each_other_half_of_the_time() -> None:
    a, b = cells(1.0, seed=1), cells(1.0, seed=2)
    mean, low, high = stats.improvement(a, b)
    assert low < 0.5 < high
    assert abs(mean - 0.5) < 0.1
    assert stats.improvement(a, a) == (0.5, 0.5, 0.5)


def test_improvement_is_worked_by_hand() -> None:
    a = [np.array([[1.0, 5.0, 2.0, 3.0]])]
    b = [np.array([[2.0, 4.0, 2.0, 4.0]])]  # won, lost, even, won
    assert stats.improvement(a, b).mean == pytest.approx(2.5 / 4.0)
    assert stats.chance(a, b) + stats.chance(b, a) == pytest.approx(1.0)
    assert stats.improvement(a, b).mean == stats.chance(a, b)


def test_profiles_are_distribution_functions_of_scores() -> None:
    those = cells(1.0)
    taus = np.linspace(0.6, 1.4, 30)
    part, low, high = stats.profile(those, taus)
    runs = np.concatenate([cell.ravel() for cell in those])
    expected = scipy_stats.ecdf(runs).cdf.evaluate(taus)
    np.testing.assert_allclose(part, expected)
    assert (np.diff(part) >= 0.0).all()
    assert (low <= part).all() and (part <= high).all() and (low < high).any()


def test_one_seed_has_no_interval() -> None:
    mean, low, high = stats.iqm([np.array([[1.0], [2.0]])])
    assert mean == 1.5 and math.isnan(low) and math.isnan(high)
    part, low_end, _ = stats.profile([np.ones((2, 1))], np.array([0.5, 1.5]))
    assert part.tolist() == [0.0, 1.0] and np.isnan(low_end).all()


def test_the_same_seed_gives_the_same_interval() -> None:
    those = cells(1.0)
    assert stats.iqm(those, random=7) == stats.iqm(those, random=7)
    assert stats.iqm(those, random=7) != stats.iqm(those, random=8)


# Rows


def test_scores_are_ratios_on_the_same_requests() -> None:
    benchmark = arrange(build(noise=0.0))
    assert benchmark.policies == ("static:best", "better", "worse")
    assert benchmark.n_runs == len(CELLS) * len(LOADS) * len(ROUTERS) * len(SEEDS)
    for policy, true in (("static:best", 1.0), ("better", 0.8), ("worse", 1.3)):
        for cell in benchmark.scores[policy]:
            np.testing.assert_allclose(cell, true)  # whatever the request stream cost
    assert benchmark.held_out == [False, True]


def test_the_order_of_rows_does_not_matter() -> None:
    rows = build()
    assert (
        arrange(rows).scores["worse"][0].tolist() == arrange(rows[::-1]).scores["worse"][0].tolist()
    )


def test_a_policy_that_failed_anywhere_is_left_out_with_its_reasons() -> None:
    rows = build()
    rows += failed(rows, "broken", "act(obs) returned nan")
    rows.remove(next(one for one in rows if one["policy"] == "worse"))
    benchmark = arrange(rows)
    assert benchmark.policies == ("static:best", "better")
    broken, worse = benchmark.left_out
    assert (broken.runs, broken.of, broken.reasons) == (32, 32, ("act(obs) returned nan",))
    assert (worse.runs, worse.of, worse.reasons) == (1, 32, ("not run",))


def test_p99_of_nothing_served_is_no_figure() -> None:
    rows = build()
    next(one for one in rows if one["policy"] == "better")["tail_ms"] = math.nan
    (better,) = arrange(rows).left_out
    assert "no request was served" in better.reasons[0]


def test_rows_that_cannot_be_compared_are_refused() -> None:
    rows = build()
    with pytest.raises(ConfigError, match=r"no row is of static:best, .*better, worse"):
        arrange([one for one in rows if one["policy"] != "static:best"])
    other = [{**rows[0], "tail_ms": 1.0}]
    with pytest.raises(ConfigError, match="differ in tail_ms"):
        arrange(rows + other)
    moved = [{**one, "scenario_digest": "another"} for one in rows if one["policy"] == "worse"]
    with pytest.raises(ConfigError, match="rows of two scenarios"):
        arrange([one for one in rows if one["policy"] != "worse"] + moved)
    gone = next(one for one in rows if one["policy"] == "static:best")
    with pytest.raises(ConfigError, match="finish the benchmark"):
        arrange([one for one in rows if one is not gone])
    lost = [{**one, "status": "failed", "reason": "x"} if one is gone else one for one in rows]
    with pytest.raises(ConfigError, match="static:best is what scores refer to"):
        arrange(lost)


def test_the_same_rows_twice_count_once(tmp_path: Path) -> None:
    rows = build()
    again = [{**one, "wall_s": 9.9} for one in rows]
    assert arrange(rows + again).n_runs == arrange(rows).n_runs
    save(rows, tmp_path, series=True)
    save(build({"static:best": 1.0, "third": 0.9}), tmp_path / "other")
    (tmp_path / "other" / "rows.parquet").rename(tmp_path / "more.parquet")
    assert len(load_rows(tmp_path)) == len(rows) + 2 * len(rows) // 3


def test_files_without_rows_are_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pytest.raises(ConfigError, match="holds no rows"):
        load_rows(tmp_path)
    pq.write_table(pa.table({"scenario_digest": ["x"]}), tmp_path / "x.parquet")
    with pytest.raises(ConfigError, match="has no column 'cell'"):
        load_rows(tmp_path)
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(ConfigError, match="schedule"):
        load_schedules(tmp_path)


def test_a_single_row_keeps_what_it_says() -> None:
    one = row("c", 0.5, "r", "static:best", 1, tail_ms=2.0)
    assert arrange([one]).scores["static:best"][0].tolist() == [[1.0]]


def test_loads_sustained_are_compared_seed_by_seed() -> None:
    a = Sustained("a", "a", {1: 0.9, 2: 1.1, 3: 1.0})
    b = Sustained("b", "b", {1: 0.8, 2: 1.0, 3: 0.9})
    assert a.interval().mean == pytest.approx(1.0)
    assert a.above(b) == pytest.approx((0.1, 0.1, 0.1))
