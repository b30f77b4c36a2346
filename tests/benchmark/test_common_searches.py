"""Searches once for many settings, as a benchmark makes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from helm_gym.benchmark import run as bench
from helm_gym.benchmark.plan import among, make_plan
from helm_gym.benchmark.rekey import rekey
from helm_gym.benchmark.rows import asked_digest, read_rows, write_rows
from helm_gym.config.scenario import Scenario
from helm_gym.errors import ConfigError
from helm_gym.evaluation import common
from helm_gym.evaluation.golden import Golden
from helm_gym.suites.splits import TEST, held_out


def test_a_common_search_gives_all_its_settings_one_spec_and_is_made_once(
    tiny_scenario: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(tiny_scenario))
    loads = (0.5, 0.9)
    plan = make_plan(str(file), ["static:suite", "kv-opt:dataset"], 2, steps=6, loads=loads)
    first = bench.run_bench(plan, tmp_path / "out")
    assert not first.failed and first.ran == 8
    specs = {row["spec"] for row in first.rows if row["policy"] == "static:suite"}
    assert len(specs) == 1
    monkeypatch.setattr(common, "scores", lambda job: pytest.fail("searched again"))
    again = bench.run_bench(plan, tmp_path / "out")
    assert again.ran == 0 and again.rows == first.rows
    plan = make_plan(str(file), ["static:suite"], 3, steps=6, loads=loads)
    more = bench.run_bench(plan, tmp_path / "out")
    assert more.ran == 2 and {row["spec"] for row in more.rows} == specs


def test_what_a_common_search_is_made_over(tiny: Scenario) -> None:
    other = tiny.replace({"workload.load": 0.4})
    routed = tiny.replace({"router.name": "kv_affinity"})
    planned = [tiny, other, routed]
    assert among("static:dataset", tiny, planned) == (tiny,)
    assert among("static:suite", tiny, planned) == (tiny, other)
    assert among("static:suite", routed, planned) == (routed,)
    assert among("static:best", tiny, planned) == among("static:0.5", tiny, planned) == ()


def test_no_suite_of_held_out_cells_tunes_anything() -> None:
    with pytest.raises(ConfigError, match=r"all cells are held out.*static:best"):
        make_plan(TEST.scenarios[0], ["static:suite"], 1, quick=True)
    jobs = make_plan("paper", ["static:suite", "static:dataset"], 1, quick=True)
    for job in jobs:
        own = job.setting.scenario.workload.profile.name
        if job.policy == "static:dataset":
            assert [cell.workload.profile.name for cell in job.among] == [own] * 4
        else:
            assert len(job.among) == 8 and not any(map(held_out, job.among))


def test_another_cell_in_the_set_is_another_search(tiny: Scenario) -> None:
    other = tiny.replace({"workload.load": 0.4})
    digests = {
        asked_digest(tiny, spec, among=cells)
        for spec in ("static:suite", "static:dataset", "kv-opt:suite")
        for cells in ((tiny,), (tiny, other))
    }
    assert len(digests) == 6
    back = asked_digest(tiny, "static:suite", among=(other, tiny))
    assert back == asked_digest(tiny, "static:suite", among=(tiny, other, tiny))


def test_rows_of_a_common_search_get_the_digests_of_today(
    tiny_scenario: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    same = {"machine": "m", "versions": {}, "trajectories": {"t": "1"}}
    now = Golden(code=("new",), **same)
    monkeypatch.setattr(Golden, "play", classmethod(lambda cls: now))
    Golden(code=("old",), **same).save(tmp_path / "golden.json")
    file, old = tmp_path / "tiny.yaml", tmp_path / "old.parquet"
    file.write_text(yaml.safe_dump(tiny_scenario))
    plan = make_plan(str(file), ["kv-opt:suite"], 1, steps=2, loads=(0.5, 0.7))
    rows = bench.run_bench(plan, tmp_path / "out").rows
    before = {"code_digest": "old", "policy_digest": "p", "asked_digest": "a", "key": "k"}
    write_rows([{**row, **before} for row in rows], old, list(rows[0]))
    rekey([old], tmp_path / "golden.json")
    assert read_rows(old) == rows
