"""``helm-gym routers``: what it runs, what it keeps, and how it counts."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from helm_gym import cli
from helm_gym.benchmark.replay import find_row, replay
from helm_gym.config.routers import ROUTERS
from helm_gym.config.scenario import Scenario
from helm_gym.errors import ConfigError
from helm_gym.studies.routers import page as routers_report
from helm_gym.studies.routers import plan as routers
from helm_gym.studies.routers.plan import REFERENCE, VARIANTS, Age, Study, ages, run_routers

CELL = "amazon-video-games-steady"
WAYS = dict(
    cells=[CELL],
    loads=[0.5],
    routers=["round_robin", "foresight", "helm_score+spare"],
    staleness_ms=[0, 100],
    seeds=2,
    policy="static:0.3",
    steps=14,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Study]:
    out = tmp_path_factory.mktemp("routers")
    return out, run_routers(out, **WAYS)


def test_every_router_meets_the_same_requests_under_every_age(made: tuple[Path, Study]) -> None:
    rows = made[1].rows
    runs = {(row["router_label"], row["age"]) for row in rows}
    assert runs == {
        (router, age)
        for router in (REFERENCE, "foresight", "helm_score+spare")
        for age in ("live", "100 ms", "100 ms, books")
    } | {("round_robin", "live")}
    assert len(rows) == 2 * len(runs)
    for seed in {row["seed"] for row in rows}:
        assert len({row["requests"] for row in rows if row["seed"] == seed}) == 1
        tails = {row["tail_ms"] for row in rows if row["seed"] == seed}
        assert len(tails) > len(runs) / 2, "routers that make no difference"


def test_it_resumes_and_writes_its_rows(
    made: tuple[Path, Study], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, study = made
    table = pq.read_table(out / "routers.parquet")
    assert table.num_rows == len(study.rows)
    assert {"router_label", "age", "kv_hit_rate"} <= set(table.column_names)

    def refuse(*_: object) -> None:
        raise AssertionError("ran again")

    monkeypatch.setattr("helm_gym.benchmark.run.work", refuse)
    again = run_routers(out, **WAYS)
    assert [row["key"] for row in again.rows] == [row["key"] for row in study.rows]


def test_a_row_with_stale_signals_replays(made: tuple[Path, Study]) -> None:
    found = find_row(f"{made[0] / 'foresight' / '100ms-books' / 'rows.parquet'}#0")
    scenario = Scenario.load(json.loads(found["scenario"]))
    assert scenario.router.staleness_ms == 100
    assert replay(found).same


def test_ratios_are_paired_and_intervals_are_over_seeds() -> None:
    tails = {  # (router, age) -> cell -> per seed
        (REFERENCE, "live"): {"a": (10.0, 20.0), "b": (40.0, 40.0)},
        ("foresight", "live"): {"a": (5.0, 10.0), "b": (40.0, 80.0)},
        ("foresight", "50 ms"): {"a": (20.0, 20.0), "b": (20.0, 20.0)},
        (REFERENCE, "50 ms"): {"a": (20.0, 20.0), "b": (20.0, 20.0)},
    }
    rows = [
        {
            "router_label": router, "age": age, "cell": cell, "load": 0.9, "seed": seed,
            "tail_ms": tail, "slo_satisfaction": 1.0, "kv_hit_rate": 0.5, "miss_gb": 1.0,
        }
        for (router, age), by_cell in tails.items()
        for cell, pair in by_cell.items()
        for seed, tail in enumerate(pair)
    ]  # fmt: skip
    found = routers_report.lines(Study(rows, {}, "static:0.3", False))
    line = found[1]
    # Logs of ratios: a halves on both seeds, b keeps on the first and doubles on the second.
    assert line.ratio.mean == pytest.approx(2 ** ((-1 - 1 + 0 + 1) / 4))
    assert (line.ratio.low, line.ratio.high) == pytest.approx((2**-0.5, 1.0))
    assert (line.best, line.worst) == pytest.approx((0.5, math.sqrt(2)))
    late = found[2]
    assert late.ratio.mean == pytest.approx(1.0)
    assert late.against_live == pytest.approx((2 * 1 * 0.5 * 0.5) ** 0.25)


def test_the_page_has_every_run(made: tuple[Path, Study], tmp_path: Path) -> None:
    page = tmp_path / "docs" / "routers.md"
    routers_report.save(made[1], page)
    text = page.read_text()
    assert text.count("\n| foresight |") == 3
    assert "static:0.3" in text
    assert "20000 to 20001" in text
    assert CELL in text


def test_ages() -> None:
    assert ages([0, 50, 50]) == [Age(0, False), Age(50, False), Age(50, True)]
    assert Age(50, True).name == "50 ms, books"
    assert set(VARIANTS).isdisjoint(ROUTERS)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"cells": ["kuairand"]}, "no cell"),
        ({"routers": ["foresigt"]}, "foresight"),
        ({"staleness_ms": [0, 900]}, "staleness_ms"),
        ({"policy": "sttic:0.3"}, "static"),
    ],
)
def test_what_does_not_exist_is_refused(
    change: dict[str, object], text: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as error:
        run_routers(tmp_path, **{**WAYS, **change})
    assert text in str(error.value)
    assert not list(tmp_path.rglob("*.parquet")), "something ran"


def test_the_command(
    made: tuple[Path, Study], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: dict[str, object] = {}

    def instead(out: Path, **ways: object) -> Study:
        asked.update(ways, out=out)
        return made[1]

    monkeypatch.setattr(routers, "run_routers", instead)
    monkeypatch.chdir(tmp_path)
    options = ["routers", "--cell", "burst", "--staleness", "0", "--seeds", "3", "--quick", "-q"]
    result = CliRunner().invoke(cli.app, options, env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    assert (asked["cells"], asked["staleness_ms"], asked["seeds"]) == (["burst"], [0.0], 3)
    assert "foresight" in result.output
