"""What the assumed numbers decide: which are varied, what is measured, and what is said of it."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from helm_gym import cli
from helm_gym.config.quantity import Quantity
from helm_gym.config.scenario import Scenario
from helm_gym.config.vary import (
    STATED,
    Variant,
    assumed_numbers,
    make_points,
    values_of,
)
from helm_gym.errors import ConfigError
from helm_gym.evaluation.specs import make_policy
from helm_gym.runs.rollout import run_policy
from helm_gym.store import locked
from helm_gym.studies.sensitivity import run as room
from helm_gym.studies.sensitivity.effects import (
    by_influence,
    effects,
    kept,
    optimum,
    ranking,
    ranking_change,
)
from helm_gym.studies.sensitivity.measure import Budget, Task, with_capacities
from helm_gym.studies.sensitivity.page import cells, findings, flat_rows, headings, save
from helm_gym.studies.sensitivity.plots import tornado
from helm_gym.studies.sensitivity.run import Row, Study, run_sensitivity
from helm_gym.suites.capacity import SEED, Probe
from helm_gym.suites.mixes import steady
from helm_gym.suites.seeds import EVALUATION_SEEDS, TUNING_SEEDS

BUDGET = Budget(share_step=0.4, capacity_seeds=1, capacity_s=10.0, tuning_seeds=2, seeds=3)
ONLY = ("emb.candidate_row_bytes", "emb.bytes_per_key", "router.affinity_bonus")


def assumed(value: float, low: float, high: float) -> dict[str, Any]:
    return {"value": value, "source": "assumed", "assumed": True, "low": low, "high": high}


@pytest.fixture(scope="module")
def scenario() -> Scenario:
    """A tiny scenario with a range that matters, one that cannot, and one without effect."""
    from conftest import TINY

    return Scenario.load(TINY).replace(
        {
            "emb.candidate_row_bytes": assumed(8192, 512, 32768),
            "emb.bytes_per_key": assumed(512, 64, 2048),
        }
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sensitivity")


def run(scenario: Scenario, out: Path, **changes: Any) -> Study:
    settings = {"only": ONLY, "budget": BUDGET, "out": out, "processes": 1, **changes}
    return run_sensitivity(scenario, **settings)


@pytest.fixture(scope="module")
def study(scenario: Scenario, folder: Path) -> Study:
    return run(scenario, folder)


def row_of(study: Study, number: str, value: float) -> Row:
    (row,) = [r for r in study.rows if (r.variant.number, r.variant.value) == (number, value)]
    return row


def test_every_assumed_number_with_a_range_is_varied_and_the_others_are_named() -> None:
    shift = Scenario.load("taobao-shift")
    points = make_points(shift)
    varied = {path for number in points.numbers for path in number.paths}
    left = {item.number for item in points.left}
    for path, quantity in shift.assumptions():
        assert (path in varied) == (quantity.low is not None and quantity.high is not None)
        assert (path in left) == (path not in varied)
    assert {"workload.users", "emb.tick_s", "kv.block_tokens", "episode.hot_user_s"} <= varied
    assert points.variants[0].number == STATED and points.variants[0].scenario is shift


def test_one_number_that_surfaces_share_moves_as_one() -> None:
    shift = Scenario.load("taobao-shift")
    scale = next(n for n in assumed_numbers(shift) if n.name == "workload.surfaces.*.gap_scale")
    assert len(scale.paths) == 2
    variants = make_points(shift, ["workload.surfaces.1.gap_scale"]).variants[1:]
    assert [v.value for v in variants] == [0.01, 1.0]
    for variant in variants:
        scales = {surface.gap_scale.value for surface in variant.scenario.workload.surfaces}
        assert scales == {variant.value}
    names = [n.name for n in assumed_numbers(shift)]  # candidates differ, so they are two numbers
    assert {"workload.surfaces.0.candidates", "workload.surfaces.1.candidates"} <= set(names)


@pytest.mark.parametrize(
    ("low", "own", "high", "three", "five"),
    [
        (2, 3, 7, [2, 7], [2, 2.5, 5, 7]),
        (1, 10, 1000, [1, 1000], [1, 3, 100, 1000]),  # a wide range of counts
        (0, 0.5, 1, [0, 1], [0, 0.25, 0.75, 1]),
        (0.5, 0.5, 2, [2], [1.25, 2]),  # at the end of its own range
        (0, 1, 3, [0, 3], [0, 0.5, 2, 3]),
    ],
)
def test_values_of_a_range(
    low: float, own: float, high: float, three: list[float], five: list[float]
) -> None:
    quantity = Quantity(value=own, assumed=True, low=low, high=high)
    assert values_of(quantity, 3) == three
    assert values_of(quantity, 5) == pytest.approx(five)


def test_a_part_of_the_memory_moves_the_pool_and_the_sum_stays(tiny: Scenario) -> None:
    changed = tiny.replace({"memory.workspace_gb": assumed(12, 2, 15), "memory.pool_gb": 4})
    points = make_points(changed, ["memory"])
    variant, higher = points.variants[1:]
    assert higher.scenario.memory.pool_gb.value == pytest.approx(1)
    assert variant.scenario.memory.workspace_gb.value == 2
    assert variant.scenario.memory.pool_gb.value == pytest.approx(14)
    assert variant.scenario.memory.total_gb == pytest.approx(changed.memory.total_gb)
    assert "memory.pool_gb 14" in variant.note


def test_what_leaves_nothing_for_the_pool_is_left_out_with_the_reason(tiny: Scenario) -> None:
    changed = tiny.replace({"memory.workspace_gb": assumed(12, 2, 16)})  # the pool has 4 GB
    points = make_points(changed, ["memory.workspace_gb"])
    assert [variant.value for variant in points.variants[1:]] == [2]
    (left,) = points.left
    assert left.number == "memory.workspace_gb = 16" and "no memory for the pool" in left.reason


def test_a_deadline_is_never_below_the_target(tiny: Scenario) -> None:
    changed = tiny.replace({"slo.p99_ms": assumed(30, 10, 200), "slo.deadline_ms": 150})
    low, high = make_points(changed, ["slo.p99_ms"]).variants[1:]
    assert (low.scenario.slo.deadline_ms.value, low.note) == (150, "")
    assert high.scenario.slo.deadline_ms.value == 200 and "slo.deadline_ms 200" in high.note
    below = tiny.replace({"slo.deadline_ms": assumed(150, 20, 300)})
    points = make_points(below, ["slo"])
    assert [variant.value for variant in points.variants[1:]] == [300]
    assert "below the latency target" in points.left[-1].reason


def test_what_cannot_be_asked_for(tiny: Scenario, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'emb\.tick_s'"):
        make_points(tiny, ["emb.tick"])
    with pytest.raises(ConfigError, match="points=4: write 3"):
        make_points(tiny, points=4)
    with pytest.raises(ConfigError, match="would run for every variant"):
        run(tiny, tmp_path, only=["emb"], specs=["balance:best"])
    with pytest.raises(ConfigError, match="did you mean 'balance'"):
        run(tiny, tmp_path, only=["emb"], specs=["balanze"])
    log = {"path": "log.parquet"}
    with pytest.raises(ConfigError, match="replays a log"):
        run(tiny.replace({"workload.replay": log}), tmp_path, only=["emb"])
    assert not list(tmp_path.iterdir())


def test_a_capacity_is_the_highest_rate_that_any_share_carries(
    study: Study, scenario: Scenario
) -> None:
    for value in (512, 32768):
        variant = row_of(study, "emb.candidate_row_bytes", value)
        (mix,) = variant.found["mixes"]
        changed = scenario.replace({"emb.candidate_row_bytes": value})

        def carried(share: float, rate: float, s: Scenario = changed, m: Any = mix) -> bool:
            return Probe(steady(s, m["mix"]), [SEED], 10.0).margin(share, rate) >= 0.0

        assert any(carried(share, mix["capacity"] / 1.03) for share in (0.1, 0.5, 0.9))
        assert not any(carried(share, 1.5 * mix["capacity"]) for share in (0.1, 0.5, 0.9))
    low, high = (row_of(study, "emb.candidate_row_bytes", v).found["mixes"] for v in (512, 32768))
    stated = study.base.found["mixes"]
    assert low[0]["capacity"] >= stated[0]["capacity"] >= high[0]["capacity"]
    assert low[0]["capacity"] > high[0]["capacity"]


def test_the_optimum_and_the_comparison_are_those_of_direct_runs(
    study: Study, scenario: Scenario
) -> None:
    row = row_of(study, "emb.candidate_row_bytes", 32768)
    changed = scenario.replace({"emb.candidate_row_bytes": 32768})
    loaded = with_capacities(changed, [row.found["mixes"][0]["capacity"]])
    for kind, where in (("relative", loaded), ("fixed", changed)):
        tails = {}
        for share in (0.1, 0.5, 0.9):
            spec = f"static:{share}"
            episodes = run_policy(where, make_policy(spec), spec, TUNING_SEEDS[:2])
            tails[share] = float(np.mean([e.figures["tail_ms"] for e in episodes]))
        found = optimum(row, kind)
        assert found is not None
        assert found["best"] == min(tails, key=lambda share: tails[share])
        assert [np.mean(point["tail_ms"]) for point in found["grid"]] == pytest.approx(
            list(tails.values())
        )
    relative = optimum(row, "relative")
    assert relative is not None
    for policy in relative["policies"]:
        spec = policy["spec"]
        assert spec == ("balance" if policy["asked"] == "balance" else f"static:{relative['best']}")
        episodes = run_policy(loaded, make_policy(spec), spec, EVALUATION_SEEDS[:3])
        assert policy["tail_ms"] == [e.figures["tail_ms"] for e in episodes]


def test_a_number_that_the_simulator_never_sees_is_not_simulated(study: Study) -> None:
    for value in (64, 2048):  # the link is slower than any rate of keys
        row = row_of(study, "emb.bytes_per_key", value)
        assert row.same and row.found == study.base.found
    assert not row_of(study, "router.affinity_bonus", 0.5).same
    assert "`emb.bytes_per_key`" in findings(study)[0]
    assert "emb.bytes_per_key" not in {line[0] for line in cells(study)}


def test_a_finished_study_is_read_not_run(
    study: Study, scenario: Scenario, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = sorted((folder / "variants").glob("*.json"))
    assert len(kept) == 5  # stated, two of the row bytes, two of the bonus
    monkeypatch.setattr(room, "measure", None)
    assert run(scenario, folder).rows == study.rows
    with pytest.raises(TypeError):  # anything else is another study
        run(scenario, folder, seeds=4)


def test_a_torn_file_costs_one_variant(
    study: Study, scenario: Scenario, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(folder / "variants", tmp_path / "variants")
    torn = min((tmp_path / "variants").glob("*.json"))
    torn.write_text(torn.read_text()[:-40])
    measured: list[str] = []
    real = room.measure
    monkeypatch.setattr(room, "measure", lambda task: (measured.append(""), real(task))[1])
    with pytest.warns(UserWarning, match=f"{torn.name} is damaged"):
        again = run(scenario, tmp_path)
    assert len(measured) == 1
    for mine, theirs in zip(again.rows, study.rows, strict=True):
        assert {**mine.found, "seconds": 0} == {**theirs.found, "seconds": 0}


def test_ctrl_c_keeps_what_is_done(
    scenario: Scenario, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = room.measure, iter([0])

    def interrupted(task: Task) -> room.Found:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return real(task)

    monkeypatch.setattr(room, "measure", interrupted)
    with pytest.raises(KeyboardInterrupt, match=r"1 finished pieces are kept"):
        run(scenario, tmp_path, only=["emb.candidate_row_bytes"])
    assert len(list((tmp_path / "variants").glob("*.json"))) == 1


def test_two_studies_do_not_share_a_folder(study: Study, scenario: Scenario, folder: Path) -> None:
    with locked(folder / "variants"), pytest.raises(ConfigError, match="another process"):
        run(scenario, folder)


def made_up(tails: dict[str, list[float]], grid: dict[float, float], number: str = "x") -> Row:
    """A row with given P99 per policy and seed, and per share of the grid."""
    seeds = min(map(len, tails.values()), default=0)
    policies = [{"asked": spec, "tail_ms": values[:seeds]} for spec, values in tails.items()]
    points = [{"share": s, "tail_ms": [t], "mean_ms": [t / 3], "shed_rate": [0.0]}
              for s, t in grid.items()]  # fmt: skip
    best = min(grid, key=lambda share: grid[share])
    found = {"grid": points, "best": best, "alike": [best, best], "policies": policies}
    mixes = [{"name": "mix", "mix": {"A": 1.0}, "capacity": 100.0, "share": best}]
    variant = Variant(number, 1.0, Scenario.load("taobao-shift"))
    return Row(variant, {"mixes": mixes, "relative": found, "fixed": found}, False)


GRID = {0.1: 60.0, 0.5: 40.0, 0.9: 50.0}
AHEAD = [41.0, 44.0, 39.0, 42.0, 43.0]
BEHIND = [51.0, 53.0, 50.0, 52.0, 55.0]
MIXED = [40.0, 46.0, 36.0, 43.0, 44.0]


def compared(stated: list[float], changed: list[float]) -> tuple[Study, Row]:
    base = made_up({"static:best": AHEAD, "balance": stated}, GRID, STATED)
    row = made_up({"static:best": AHEAD, "balance": changed}, {0.1: 30.0, 0.5: 45.0, 0.9: 90.0})
    specs = ("static:best", "balance")
    return Study(Scenario.load("taobao-shift"), (base, row), (), specs, BUDGET), row


@pytest.mark.parametrize(
    ("stated", "changed", "order", "change"),
    [
        (BEHIND, BEHIND, "static:best < balance", ""),
        (BEHIND, [x - 20 for x in BEHIND], "balance < static:best", "reversed"),
        (BEHIND, MIXED, " ≈ ", "lost"),
        (MIXED, BEHIND, "static:best < balance", "new"),
        (BEHIND[:4], BEHIND[:4], " ≈ ", ""),  # too few seeds for any verdict
    ],
)
def test_a_ranking_and_how_it_changes(
    stated: list[float], changed: list[float], order: str, change: str
) -> None:
    study, row = compared(stated, changed)
    assert order in ranking(row, study.specs)
    assert ranking_change(row, study) == change
    said = " ".join(findings(study))
    assert ("reversed with `x` 1" in said) == (change == "reversed")


def test_the_price_of_the_stated_share_is_read_off_the_grid() -> None:
    study, row = compared(BEHIND, BEHIND)
    assert kept(row, study.base) == pytest.approx(100 * (45 / 30 - 1))
    assert kept(study.base, study.base) == 0.0
    (line,) = cells(study)[1:]
    assert line[headings(study).index("stated share loses")] == "50 %"
    assert "Share of least P99, at the load: 0.5 as stated" in " ".join(findings(study))


def test_what_ceases_to_exist_outweighs_what_moves() -> None:
    study, _ = compared(BEHIND, BEHIND)
    gone = made_up({}, GRID, "gone")
    gone.found.update(relative=None, mixes=[{**gone.found["mixes"][0], "capacity": 0.0}])
    gone.found["mixes"][0]["share"] = None
    study = Study(study.scenario, (*study.rows, gone), (), study.specs, BUDGET)
    assert by_influence(study)[0] == "gone"
    said = " ".join(findings(study))
    assert "No share meets the SLO at any rate with `gone` 1" in said
    assert cells(study)[1][0] == "gone" and "–" in cells(study)[1]


def test_everything_is_written_and_written_alike(study: Study, tmp_path: Path) -> None:
    page = save(study, tmp_path, tmp_path / "docs" / "page.md")
    text = page.read_text()
    assert "](page.svg)" in text and (page.parent / "page.svg").is_file()
    for line in cells(study):
        assert f"| {' | '.join(line)} |" in text
    for sentence in findings(study):
        assert f"* {sentence}" in text
    assert (page.parent / "page.png").read_bytes().startswith(b"\x89PNG")
    assert pq.read_table(tmp_path / "sensitivity.parquet").num_rows == len(study.rows)
    again = save(study, tmp_path, tmp_path / "page.md")
    assert again.read_text() == text
    assert (tmp_path / "page.svg").read_bytes() == (page.parent / "page.svg").read_bytes()


def test_the_tornado_has_a_panel_per_figure_and_a_row_per_number(study: Study) -> None:
    svg = tornado(study, "svg").decode()
    for effect in effects(study):
        for part in effect.title.split("\n"):
            assert part in svg
    assert "emb.candidate_row_bytes" in svg and "emb.bytes_per_key" not in svg


def test_parquet_rows_hold_the_figures(study: Study) -> None:
    rows = flat_rows(study)
    assert [row["number"] for row in rows[:1]] == [STATED] and math.isnan(rows[0]["value"])
    for flat, row in zip(rows, study.rows, strict=True):
        assert flat["capacity_rps_per_node[A + B]"] == row.found["mixes"][0]["capacity"]
        assert flat["relative_share"] == row.found["relative"]["best"]
        assert len(flat["tail_ms_less_best[balance]"]) == 3


@pytest.fixture
def tiny_file(scenario: Scenario, tmp_path: Path) -> Iterator[Path]:
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(scenario.to_dict()))
    return file


def test_the_command(tiny_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    out = tmp_path / "out"
    asked = ["sensitivity", "-s", tiny_file, "--quick", "--only", "emb.candidate_row_bytes", "-q"]
    asked += ["--out", out, "--processes", 1]
    result = CliRunner().invoke(cli.app, [str(x) for x in asked])
    assert result.exit_code == 0, result.output
    assert "smoke test" in result.stdout and "emb.candidate_row_bytes" in result.stdout
    names = {path.name for path in out.iterdir()}
    assert names == {"variants", *(f"sensitivity.{x}" for x in ("md", "svg", "png", "parquet"))}
    wrong = CliRunner().invoke(cli.app, ["sensitivity", "--only", "emb.tick", "--out", str(out)])
    assert wrong.exit_code == 2 and "did you mean" in wrong.stderr
