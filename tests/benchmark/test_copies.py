"""A spec that was played under another name is not played again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from helm_gym.benchmark import run as bench
from helm_gym.benchmark.copies import copied, first_of_each
from helm_gym.benchmark.plan import Job, Setting
from helm_gym.benchmark.rows import WALL_CLOCK, read_rows
from helm_gym.config.scenario import Scenario


@pytest.fixture
def plain(tiny: Scenario) -> Job:
    scenario = tiny.replace({"episode.steps": 6})
    return Job(Setting("", "tiny", scenario, False), "static:0.5", (20_000, 20_001))


def test_a_search_that_found_what_was_played_copies_its_rows(
    plain: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = replace(plain, policy="static:best", resolved="static:0.5")
    bench.run_bench([plain], tmp_path)
    monkeypatch.setattr(bench, "work", lambda *_: pytest.fail("played again"))
    found = bench.run_bench([plain, asked], tmp_path)
    assert found.ran == 0 and len(found.rows) == 4
    by_policy = {(row["policy"], row["seed"]): row for row in found.rows}
    for seed in plain.seeds:
        one, other = by_policy["static:0.5", seed], by_policy["static:best", seed]
        assert other["spec"] == "static:0.5" and other["key"] != one["key"]
        names = {"policy", "key", "asked_digest"}
        assert {k: v for k, v in one.items() if k not in names} == {
            k: v for k, v in other.items() if k not in names
        }
    assert len(read_rows(found.path)) == 4


def test_twins_of_one_command_are_played_once(plain: Job, tmp_path: Path) -> None:
    twins = [replace(plain, policy=f"static:{word}", resolved="static:0.4") for word in
             ("best", "suite")]  # fmt: skip
    assert first_of_each([plain, *twins]) == ([plain, twins[0]], [twins[1]])
    found = bench.run_bench([plain, *twins], tmp_path)
    rows = {(row["policy"], row["seed"]): row for row in found.rows}
    assert len(rows) == 6 and found.ran == 4
    wall = rows["static:best", 20_000]
    assert all(wall[name] == rows["static:suite", 20_000][name] for name in WALL_CLOCK)


def test_rows_of_other_code_or_another_budget_are_no_copies(plain: Job, tmp_path: Path) -> None:
    bench.run_bench([plain], tmp_path)
    stored = {row["key"]: row for row in read_rows(tmp_path / "rows.parquet")}
    asked = replace(plain, policy="static:best", resolved="static:0.5")
    assert len(copied([asked], stored)[0]) == 1
    for other in ({"code_digest": "old"}, {"policy_digest": "old"}, {"status": "failed"}):
        changed = {key: {**row, **other} for key, row in stored.items()}
        assert copied([asked], changed) == ([], [asked])
    tight = replace(asked, budget_ms=1.0)
    assert copied([tight], stored) == ([], [tight])
    unknown = replace(asked, resolved=None)
    assert copied([unknown], stored) == ([], [unknown])
