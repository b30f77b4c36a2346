from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from helm_gym.cli import app
from helm_gym.config.scenario import Scenario
from helm_gym.errors import ConfigError
from helm_gym.store import save_rows
from helm_gym.studies.atlas import page as atlas_report
from helm_gym.studies.atlas import points as atlas_points
from helm_gym.studies.atlas import rule as atlas_fit
from helm_gym.studies.atlas import run as atlas
from helm_gym.studies.atlas.points import FACTORS, Point, base_values, parse_at, scenario_at
from helm_gym.suites.capacity import Probe, basin, best_share, highest_rate
from helm_gym.suites.mixes import measure_capacity
from helm_gym.workload.popularity import shard_mass

BRIEF = atlas.Effort(5.0, 5.0, (0.1, 0.5, 0.9), False)


def invented(optimum: float, cluster: str = "a", **changes: float) -> atlas.Row:
    """A row whose capacity falls, and whose P99 rises, with the distance from an optimum."""
    values = base_values() | changes
    row = atlas.identity(Point("made up", cluster, values), BRIEF)
    off = [abs(share - optimum) for share in atlas.SHARES]
    row |= {"feasible": True, "slo_ms": 30.0, "shares": list(atlas.SHARES)}
    row |= {"capacity": [100.0 - 50.0 * x for x in off], "best_share": optimum}
    row |= {"best_capacity": 100.0, "basin_low": optimum, "basin_high": optimum, "hot_share": 0.5}
    for load in atlas.LOADS:
        mark = atlas.column(load)
        row |= {f"p99_{mark}": [10.0 * (1.0 + x) for x in off], f"p99_best_{mark}": 10.0}
        row |= {f"p99_{end}_{mark}": optimum for end in ("share", "low", "high")}
    return row


def line_of_rows(count: int = 40) -> list[atlas.Row]:
    """Optima that follow the rule's own form in one feature, over many clusters."""
    rows = []
    for place in range(count):
        candidates = 64.0 * 2.0 ** (6.0 * place / count)
        row = invented(0.5, cluster=f"{place}", candidates=candidates)
        row["best_share"] = 0.1 + 0.8 / (1.0 + math.exp(-(0.5 + 1.2 * math.log(row["ratio"]))))
        rows.append(row)
    return rows


# Points


def test_the_list_is_fixed_and_every_point_is_a_scenario() -> None:
    first, again = atlas_points.points(), atlas_points.points()
    assert [p.key for p in first] == [p.key for p in again]
    assert len({p.key for p in first}) == len(first) > 250
    for point in first[:: len(first) // 12]:
        scenario = scenario_at(point.values)
        emb, host = scenario.emb, scenario.hardware.host
        assert emb.candidate_row_bytes.value == point.values["row_bytes"]
        assert emb.table_gb.value == pytest.approx(60.0 * point.values["table"])
        assert host.miss_gbps.value == point.values["miss_gbps"]
        model = scenario.hardware.model
        assert model.kv_bytes_per_token == point.values["kv_bytes"]


def test_points_stay_inside_the_ranges_and_reach_their_ends() -> None:
    values = [point.values for point in atlas_points.points()]
    for name, factor in FACTORS.items():
        found = [value[name] for value in values]
        assert min(found) == pytest.approx(factor.levels[0])
        assert max(found) == pytest.approx(factor.levels[-1])


def test_sobol_points_come_in_pairs_of_one_cluster() -> None:
    sobol = [p for p in atlas_points.points() if p.design == "sobol"]
    for first, second in zip(sobol[::2], sobol[1::2], strict=True):
        assert first.cluster == second.cluster
        assert first.values != second.values


def test_a_tenth_of_the_catalogue_has_the_same_shards() -> None:
    law = Scenario.load(atlas_points.BASE).workload.profile.popularity
    thin = scenario_at({}).workload.profile.popularity
    assert thin.catalogue_items.value < law.catalogue_items.value / 9
    np.testing.assert_allclose(shard_mass(thin, 1024), shard_mass(law, 1024), rtol=0.01)


@pytest.mark.parametrize("text", ["histroy=3", "history", "history=", "history=-1", "gap=inf"])
def test_at_refuses_what_is_no_factor_or_number(text: str) -> None:
    with pytest.raises(ConfigError, match="--at"):
        parse_at(text)


def test_at_reads_numbers() -> None:
    assert parse_at("history=8000, candidates=512") == {"history": 8000.0, "candidates": 512.0}


# Search


@pytest.mark.parametrize("guess", [5.0, 90.0, 101.0, 4000.0])
def test_the_search_finds_where_the_margin_falls_through_zero(guess: float) -> None:
    assert highest_rate(lambda rate: 100.0 - rate, guess) == pytest.approx(100.0, rel=1e-3)


def test_the_search_says_nothing_is_carried_and_refuses_the_limitless() -> None:
    assert highest_rate(lambda rate: -1.0, 100.0) == 0.0
    with pytest.raises(ConfigError, match="nothing limits"):
        highest_rate(lambda rate: 1.0, 100.0)


def test_the_search_agrees_with_helm_gym_capacity() -> None:
    scenario, shares = scenario_at({}), (0.2, 0.5, 0.8)
    slow = measure_capacity(scenario, shares, measure_s=60.0)[0].rps_per_node
    quick = Probe(scenario, measure_s=60.0).capacities(shares, 100.0)
    for share in shares:
        assert quick[share] == pytest.approx(slow[share], rel=0.04)


def test_a_basin_has_no_gap_and_its_middle_is_the_best() -> None:
    capacity = {0.1: 99.0, 0.2: 90.0, 0.3: 99.0, 0.4: 100.0, 0.5: 98.5, 0.6: 80.0}
    assert basin(capacity, highest=True) == [0.3, 0.4, 0.5]
    assert best_share(capacity, highest=True) == 0.4
    assert best_share({0.1: 10.0, 0.2: 10.1, 0.3: 10.15, 0.4: 20.0}, highest=False) == 0.2


# Pairs and rule


def test_a_pair_loses_what_the_middle_share_loses() -> None:
    found = atlas_fit.pairs([invented(0.2, candidates=64.0), invented(0.8, candidates=4096.0)])
    assert len(found) == 1
    assert found[0].distance == pytest.approx(0.6)
    assert found[0].capacity_loss == pytest.approx(0.15)  # 0.5 is 0.3 away from both
    assert found[0].p99_loss[0.95] == pytest.approx(0.3)


def test_points_of_other_clusters_are_no_pair() -> None:
    rows = [invented(0.2), invented(0.8, cluster="b", history=1000.0)]
    assert atlas_fit.pairs(rows) == []


def test_the_rule_recovers_optima_of_its_own_form() -> None:
    rows = line_of_rows()
    rule = atlas_fit.fit_rule(rows)
    assert rule.error < 0.01 < rule.naive
    assert rule.share(rows[7]) == pytest.approx(rows[7]["best_share"], abs=0.01)


def test_too_few_points_make_no_rule() -> None:
    with pytest.raises(ConfigError, match="too few"):
        atlas_fit.fit_rule([invented(0.5)])


def test_the_nearest_point_to_a_point_is_itself() -> None:
    rows = line_of_rows()
    apart, row = atlas_fit.nearest(rows, {"candidates": rows[9]["candidates"]})[0]
    assert apart == pytest.approx(0.0)
    assert row["key"] == rows[9]["key"]


# Runs


@pytest.fixture
def three_points(monkeypatch: pytest.MonkeyPatch) -> list[Point]:
    wanted = [p for p in atlas_points.points() if p.design in ("base", "one: candidates")][:3]
    monkeypatch.setattr(atlas, "points", lambda quick: wanted)
    monkeypatch.setattr(atlas, "QUICK", BRIEF)
    return wanted


def test_a_stopped_run_goes_on_and_ends_the_same(
    three_points: list[Point], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = atlas.run_atlas(tmp_path / "a", quick=True, jobs=1, progress=False)
    measured: list[str] = []
    real = atlas.measure

    def stops_after_one(point: Point, effort: atlas.Effort) -> atlas.Row:
        if measured:
            raise KeyboardInterrupt
        measured.append(point.key)
        return real(point, effort)

    monkeypatch.setattr(atlas, "measure", stops_after_one)
    with pytest.raises(KeyboardInterrupt):
        atlas.run_atlas(tmp_path / "b", quick=True, jobs=1, progress=False)

    def counted(point: Point, effort: atlas.Effort) -> atlas.Row:
        measured.append(point.key)
        return real(point, effort)

    monkeypatch.setattr(atlas, "measure", counted)
    assert atlas.run_atlas(tmp_path / "b", quick=True, jobs=1, progress=False) == whole
    assert sorted(measured) == sorted(p.key for p in three_points)  # none twice
    assert pq.read_table(tmp_path / "b" / "atlas.parquet").num_rows == 3


def test_rows_of_other_code_or_cut_short_are_measured_again(
    three_points: list[Point], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = atlas.run_atlas(tmp_path, quick=True, jobs=1, progress=False)
    (cut,) = [
        file
        for file in (tmp_path / "points").glob("*.json")
        if json.loads(file.read_text())["key"] == three_points[1].key
    ]
    cut.write_text(cut.read_text()[:50])
    again: list[str] = []
    real = atlas.measure

    def counted(point: Point, effort: atlas.Effort) -> atlas.Row:
        again.append(point.key)
        return real(point, effort)

    monkeypatch.setattr(atlas, "measure", counted)
    with pytest.warns(UserWarning, match=f"{cut.name} is damaged"):
        assert atlas.run_atlas(tmp_path, quick=True, jobs=1, progress=False) == rows
    assert again == [three_points[1].key]
    monkeypatch.setattr(atlas, "code_digest", lambda *modules: "other")
    atlas.run_atlas(tmp_path, quick=True, jobs=1, progress=False)
    assert again[1:] == [point.key for point in three_points]


def test_a_point_says_how_it_was_measured(three_points: list[Point]) -> None:
    row = atlas.measure(three_points[0], BRIEF)
    assert row["digest"] == scenario_at(three_points[0].values).digest()
    assert row["seeds"] and row["code"]
    assert row["best_capacity"] == max(row["capacity"]) > 0.0
    assert len(row["p99_95"]) == len(row["shares"]) == 3
    assert row["p99_best_95"] == min(row["p99_95"])


# Page and command


def test_the_page_has_its_figures_and_a_rule(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    page = tmp_path / "atlas.md"
    atlas_report.save(line_of_rows(), page, quick=False)
    text = page.read_text()
    assert "The rule, fitted to 40 points" in text
    for name in ("atlas-loss", "atlas-optimum"):
        assert f"({name}.svg)" in text
        assert (tmp_path / f"{name}.svg").read_bytes().startswith(b"<?xml")


def test_the_page_of_few_points_claims_no_rule(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    atlas_report.save([invented(0.3)], tmp_path / "atlas.md", quick=True)
    text = (tmp_path / "atlas.md").read_text()
    assert "smoke test" in text and "too few for a rule" in text


def test_the_command_answers_from_rows(tmp_path: Path) -> None:
    save_rows(line_of_rows(), tmp_path / "atlas.parquet")
    ran = CliRunner().invoke(app, ["atlas", "--out", str(tmp_path), "--at", "candidates=9000"])
    assert ran.exit_code == 0, ran.output
    assert "rule: an EMB share of" in ran.output
    assert "candidates = 9000 lies outside 64 to 4096" in ran.output


def test_the_command_says_what_to_run_first(tmp_path: Path) -> None:
    ran = CliRunner().invoke(app, ["atlas", "--out", str(tmp_path), "--at", "history=8000"])
    assert ran.exit_code == 2
    assert "run helm-gym atlas" in ran.output
