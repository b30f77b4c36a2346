"""The benchmark runner: its rows, what stops it and what does not, and what it refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from helm_gym.benchmark import jobs as bench_jobs
from helm_gym.benchmark import run as bench
from helm_gym.benchmark.hparams import write_hparams
from helm_gym.benchmark.jobs import run_job
from helm_gym.benchmark.plan import REWARD, Job, changes_of, make_plan, settings
from helm_gym.benchmark.replay import find_row, replay, setting_of
from helm_gym.benchmark.rows import COLUMNS, FIGURES, JUDGED, WALL_CLOCK, Row, read_rows, schema
from helm_gym.cli import app
from helm_gym.config.scenario import Scenario
from helm_gym.errors import ConfigError
from helm_gym.evaluation import search as searching
from helm_gym.evaluation.specs import make_policy
from helm_gym.runs.rollout import run_policy
from helm_gym.store import locked
from helm_gym.suites import moving
from helm_gym.suites import splits as bench_splits
from helm_gym.suites.splits import SPLITS, TEST, TRAINING, VALIDATION, Split

STRANGER = """
import os, time
import numpy as np

class Half:
    def reset(self, seed):
        self.seed = seed
    def act(self, obs):
        return np.full((len(obs), 1), 0.5)

class Random(Half):
    def reset(self, seed):
        self.rng = np.random.default_rng(seed)
    def act(self, obs):
        return self.rng.random((len(obs), 1))

class Single:
    batched = False
    def reset(self, seed): pass
    def act(self, obs):
        assert obs.ndim == 1
        return 0.5

class Raises(Half):
    def act(self, obs): raise ValueError("out of ideas")

class RaisesOnce(Half):
    def act(self, obs):
        if self.seed == 20001: raise ValueError("an unlucky number")
        return super().act(obs)

class Nan(Half):
    def act(self, obs): return np.full((len(obs), 1), np.nan)

class Shape(Half):
    def act(self, obs): return np.full((len(obs), 3), 0.5)

class Slow(Half):
    def act(self, obs):
        time.sleep(0.2)
        return super().act(obs)

class Hangs(Half):
    calls = 0
    def act(self, obs):
        self.calls += 1
        while self.calls > 1:
            try:
                time.sleep(0.1)
            except Exception:
                pass
        return super().act(obs)

class Quits(Half):
    def act(self, obs): raise SystemExit

class Dies(Half):
    def act(self, obs): os._exit(3)

class Unhurried(Half):
    def act(self, obs):
        time.sleep(0.04)
        return super().act(obs)
"""


@pytest.fixture
def suite(
    tmp_path: Path, tiny_scenario: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """A folder with one cell, beside a stranger's module; the working folder is above it."""
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells" / "tiny.yaml").write_text(yaml.safe_dump(tiny_scenario))
    (tmp_path / "stranger.py").write_text(STRANGER)
    monkeypatch.chdir(tmp_path)
    yield "cells"
    sys.modules.pop("stranger", None)


def planned(suite: str, *policies: str, seeds: int = 2, **changes: Any) -> list[Job]:
    return make_plan(suite, policies, seeds, steps=6, **changes)


def lasting(rows: list[Row]) -> list[Row]:
    """Rows without what a clock measured."""
    return [{name: row[name] for name in COLUMNS if name not in WALL_CLOCK} for row in rows]


def parts(out: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (out / "rows").glob("*.parquet")}


# Rows


def test_rows_are_complete(suite: str, tmp_path: Path) -> None:
    plan = planned(suite, "static:0.3", "balance", loads=[0.7, 0.9], routers=["round_robin"])
    found = bench.run_bench(plan, tmp_path / "out")
    assert found.ran == len(found.rows) == 2 * 2 * 2
    assert len({row["key"] for row in found.rows}) == len(found.rows)
    stored = read_rows(found.path)
    assert [tuple(row) for row in stored] == [COLUMNS] * 8
    for row in stored:
        empty = {name for name in COLUMNS if row[name] is None}
        assert empty <= {"own_router", *JUDGED}
        assert (row["status"], row["router"], row["steps"]) == ("ok", "round_robin", 6)
        assert row["requests"] == round(row["offered_rps"] * 30.0) > 0
        assert row["decision_p50_us"] <= row["decision_p99_us"]
    series = read_series(tmp_path / "out")
    assert {row["key"] for row in stored} == set(series)
    assert all(len(one["share_by_window"]) == 6 for one in series.values())


def read_series(out: Path) -> dict[str, Row]:
    import pyarrow.parquet as pq

    return {row["key"]: row for row in pq.read_table(out / "series.parquet").to_pylist()}


def test_figures_are_those_of_a_plain_rollout(suite: str) -> None:
    (job,) = planned(suite, "balance")
    rows = run_job(job)
    scenario, balance = job.setting.scenario, make_policy("balance")
    episodes = run_policy(scenario, balance, "balance", job.seeds, reward=REWARD)
    assert [{n: row[n] for n in FIGURES} for row in rows] == [e.figures for e in episodes]


def test_a_row_depends_on_its_own_seed_only(suite: str) -> None:
    (job,) = planned(suite, "stranger:Random", seeds=3)
    together = run_job(job)
    alone = [run_job(replace(job, seeds=(seed,)))[0] for seed in job.seeds]
    for a, b in zip(together, alone, strict=True):
        assert {n: a[n] for n in FIGURES} == {n: b[n] for n in FIGURES}
    assert len({row["tail_ms"] for row in together}) == 3


def test_policies_of_one_observation_at_a_time(suite: str) -> None:
    single, batch = (run_job(job)[0] for job in planned(suite, "stranger:Single", "static:0.5"))
    assert single["status"] == "ok"
    assert single["emb_share"] == batch["emb_share"] == 0.5


def test_processes_and_the_order_of_jobs_change_nothing(suite: str, tmp_path: Path) -> None:
    pytest.importorskip("joblib")
    plan = planned(suite, "static:0.4", "stranger:Random", "balance", loads=[0.7, 0.9])
    one = bench.run_bench(plan, tmp_path / "one", processes=1)
    two = bench.run_bench(plan[::-1], tmp_path / "two", processes=2)
    assert lasting(one.rows) == lasting(two.rows)
    assert read_series(tmp_path / "one") == read_series(tmp_path / "two")


# Going on


def test_nothing_finished_runs_twice(
    suite: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[str, tuple[int, ...]]] = []

    def counted(job: Job) -> list[Row]:
        ran.append((job.policy, job.seeds))
        return run_job(job)

    monkeypatch.setattr(bench_jobs, "run_job", counted)
    first = bench.run_bench(planned(suite, "static:0.4"), tmp_path / "out")
    again = bench.run_bench(planned(suite, "static:0.4"), tmp_path / "out")
    assert again.ran == 0 and again.rows == first.rows
    more = bench.run_bench(planned(suite, "static:0.4", "balance", seeds=3), tmp_path / "out")
    assert sorted(ran) == [
        ("balance", (20000, 20001, 20002)),
        ("static:0.4", (20000, 20001)),
        ("static:0.4", (20002,)),
    ]
    assert len(more.rows) == 6 and more.ran == 4


def test_a_changed_policy_is_run_again_and_replaces_its_rows(suite: str, tmp_path: Path) -> None:
    plan = planned(suite, "stranger:Half", "static:0.4")
    before = bench.run_bench(plan, tmp_path / "out")
    (tmp_path / "stranger.py").write_text(STRANGER.replace("0.5", "0.625"))
    del sys.modules["stranger"]
    after = bench.run_bench(plan, tmp_path / "out")
    assert after.ran == 2
    assert [row["emb_share"] for row in before.rows][2:] == [0.5, 0.5]
    assert [row["emb_share"] for row in read_rows(after.path)][2:] == [0.625, 0.625]
    assert len(read_rows(after.path)) == 4


def test_ctrl_c_in_the_middle_loses_nothing(
    suite: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned(suite, "static:0.3", "static:0.4", "static:0.5")
    whole = bench.run_bench(plan, tmp_path / "whole")
    with monkeypatch.context() as patch:
        done: list[Job] = []

        def stops(job: Job) -> list[Row]:
            if len(done) == 2:
                raise KeyboardInterrupt
            done.append(job)
            return run_job(job)

        patch.setattr(bench_jobs, "run_job", stops)
        with pytest.raises(KeyboardInterrupt):
            bench.run_bench(plan, tmp_path / "out")
    kept = parts(tmp_path / "out")
    assert len(kept) == 2
    rest = bench.run_bench(plan, tmp_path / "out")
    assert rest.ran == 2
    assert lasting(rest.rows) == lasting(whole.rows)
    assert kept.items() <= parts(tmp_path / "out").items()


@pytest.mark.skipif(os.name != "posix", reason="kill -9 is POSIX")
def test_kill_9_in_the_middle_loses_nothing(suite: str, tmp_path: Path) -> None:
    pytest.importorskip("joblib")
    specs = ["stranger:Unhurried", *(f"static:0.{n}" for n in range(2, 9))]
    command = [sys.executable, "-c", "from helm_gym.cli import main; main()", "bench"]
    command += ["--suite", suite, "--out", "out"]
    command += ["--steps", "6", "--seeds", "2", "--jobs", "2", "--quiet", "--policies", *specs]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    out = tmp_path / "out"
    while not parts(out) and running.poll() is None:
        time.sleep(0.01)
    running.kill()
    assert running.wait() == -signal.SIGKILL
    kept = parts(out)
    assert 0 < len(kept) < len(specs)
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert kept.items() <= parts(out).items()  # none was written again
    rows = read_rows(out / "rows.parquet")
    assert len(rows) == 2 * len(specs)
    assert {row["status"] for row in rows} == {"ok"}
    assert not list((out / "rows").glob(".*.tmp"))


def test_damaged_rows_are_run_again(
    suite: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = planned(suite, "static:0.4", "static:0.5")
    first = bench.run_bench(plan, tmp_path / "out")
    part = sorted((tmp_path / "out" / "rows").glob("*.parquet"))[0]
    part.write_bytes(part.read_bytes()[:200])
    again = bench.run_bench(plan, tmp_path / "out")
    assert again.ran == 2
    assert lasting(again.rows) == lasting(first.rows)
    assert "left out" in capsys.readouterr().err


def test_two_benchmarks_do_not_share_a_folder(suite: str, tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    (tmp_path / "out").mkdir()
    with locked(tmp_path / "out" / "rows"), pytest.raises(ConfigError, match="another process"):
        bench.run_bench(planned(suite, "static:0.4"), tmp_path / "out")


# Failures


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        ("Raises", "raised ValueError: out of ideas"),
        ("Nan", "returned nan"),
        ("Shape", "returned shape (1, 3)"),
        ("Quits", "ended the program"),
        ("Slow", "longer than 50 ms"),
        pytest.param(
            "Hangs",
            "was interrupted",
            marks=pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs an alarm"),
        ),
    ],
)
def test_a_failing_policy_is_reported_and_the_others_go_on(
    suite: str, tmp_path: Path, policy: str, reason: str
) -> None:
    found = bench.run_bench(planned(suite, f"stranger:{policy}", "static:0.5"), tmp_path / "out")
    by_policy = {row["policy"]: row for row in found.rows}
    failed = by_policy[f"stranger:{policy}"]
    assert failed["status"] == "failed" and reason in failed["reason"]
    assert all(failed[name] is None for name in FIGURES)
    assert by_policy["static:0.5"]["status"] == "ok"
    assert list(found.failed) == [f"stranger:{policy}"]


def test_a_failure_on_one_seed_leaves_the_others(suite: str) -> None:
    (job, good) = planned(suite, "stranger:RaisesOnce", "stranger:Half", seeds=3)
    rows = run_job(job)
    assert [row["status"] for row in rows] == ["ok", "failed", "ok"]
    expected = run_job(good)
    for row, other in zip(rows[::2], expected[::2], strict=True):
        assert {n: row[n] for n in FIGURES} == {n: other[n] for n in FIGURES}


def test_failed_rows_run_again_only_when_asked(suite: str, tmp_path: Path) -> None:
    plan = planned(suite, "stranger:Slow")
    bench.run_bench(plan, tmp_path / "out")
    assert bench.run_bench(plan, tmp_path / "out").ran == 0
    patient = planned(suite, "stranger:Slow", budget_ms=1e6)
    found = bench.run_bench(patient, tmp_path / "out", retry=True)
    assert (found.ran, found.failed) == (2, {})


def test_a_policy_that_kills_its_process_is_reported(suite: str, tmp_path: Path) -> None:
    pytest.importorskip("joblib")
    plan = planned(suite, "static:0.3", "stranger:Dies", "static:0.5", "balance")
    found = bench.run_bench(plan, tmp_path / "out", processes=2)
    assert [row["status"] for row in found.rows if row["policy"] != "stranger:Dies"] == ["ok"] * 6
    reasons = {row["reason"] for row in found.failed["stranger:Dies"]}
    assert reasons == {"policy 'stranger:Dies': its process died"}


def test_ray_gives_the_same_rows_and_survives_a_dead_worker(suite: str, tmp_path: Path) -> None:
    ray = pytest.importorskip("ray")
    plan = planned(suite, "static:0.3", "stranger:Random", "balance", "static:0.6")
    expected = bench.run_bench(plan, tmp_path / "one")
    deadly = planned(
        suite, "static:0.3", "stranger:Random", "stranger:Dies", "balance", "static:0.6"
    )
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        found = bench.run_bench(deadly, tmp_path / "ray", processes=2, backend="ray")
    finally:
        ray.shutdown()
    good = [row for row in found.rows if row["policy"] != "stranger:Dies"]
    assert lasting(good) == lasting(expected.rows)
    assert list(found.failed) == ["stranger:Dies"]


# Replays


@pytest.fixture
def rows_file(suite: str, tmp_path: Path) -> Path:
    plan = planned(suite, "static:0.4", "stranger:Random", "stranger:Raises", loads=[0.9])
    return bench.run_bench(plan, tmp_path / "out").path


def test_every_row_is_reproduced_bit_for_bit(rows_file: Path) -> None:
    for place, row in enumerate(read_rows(rows_file)):
        again = replay(find_row(f"{rows_file}#{place}"), [row["policy"]])
        assert again.same and not again.causes, again.lines()
        said = "failed again" if row["status"] == "failed" else "bit for bit"
        assert said in again.lines()[0]


def test_a_changed_row_is_noticed(rows_file: Path) -> None:
    row = find_row(f"{rows_file}#1")
    row["p99_ms"] *= 1.0 + 2.0**-52
    again = replay(find_row(json.dumps(row)))
    assert [one.column for one in again.figures] == ["p99_ms"]
    assert "the row was changed" in again.lines()[-1]


def test_another_version_is_named_as_the_cause(rows_file: Path) -> None:
    row = find_row(f"{rows_file}#0") | {"helm_gym": "0.0.1", "shed_rate": 0.75}
    again = replay(row)
    assert [one.column for one in again.figures] == ["shed_rate"]
    assert [one.column for one in again.causes] == ["helm_gym"]


def test_a_row_of_the_suite_needs_no_file() -> None:
    routers = ["kv_affinity"]  # which has a file of its own
    name = "paper-v2-amazon-books-trend"
    plan = make_plan(name, ["static:0.5"], 1, steps=14, loads=[0.7], routers=routers)
    (row,) = run_job(plan[0])
    assert row["scenario"] is None and row["held_out"] and row["router"] == "kv_affinity"
    assert setting_of(row).scenario == plan[0].setting.scenario
    assert plan[0].setting.scenario.name == f"{name}-kv-affinity"
    assert replay(row).same


@pytest.mark.parametrize("reference", ["rows.parquet#99", "rows.parquet#x", "{}", "{", "no.json"])
def test_a_row_that_is_not_there_is_refused(rows_file: Path, reference: str) -> None:
    where = reference.replace("rows.parquet", str(rows_file))
    with pytest.raises(ConfigError):
        find_row(where)


# Searches and splits


def test_a_search_is_resolved_on_validation_seeds_and_recorded(
    suite: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def watched(scenario: Scenario, policy: Any, name: str, seeds: Any, **more: Any) -> Any:
        seen.extend(seeds)
        return run_policy(scenario, policy, name, seeds, **more)

    monkeypatch.setattr(searching, "run_policy", watched)
    plan = planned(suite, "static:best")
    first = bench.run_bench(plan, tmp_path / "out")
    spec = first.rows[0]["spec"]
    assert spec in searching.grid(plan[0].setting.scenario, "static:best")
    assert {row["policy"] for row in first.rows} == {"static:best"}
    assert seen and all(seed in VALIDATION.seeds for seed in seen)
    seen.clear()
    more = bench.run_bench(planned(suite, "static:best", seeds=3), tmp_path / "out")
    assert not seen, "the search is kept, so a new seed does not repeat it"
    assert {row["spec"] for row in more.rows} == {spec}


def test_a_search_finds_what_a_plain_comparison_finds(suite: str) -> None:
    scenario = planned(suite, "static:best")[0].setting.scenario
    specs = searching.grid(scenario, "static:best")
    seeds = searching.CHEAP.seeds[:2]
    budget = searching.Budget(seeds, together=True)
    found = searching.search(scenario, "static:best", budget)
    for spec in specs[::5]:
        episodes = run_policy(scenario, make_policy(spec), spec, seeds)
        assert found.figures[spec] == searching.means(episodes)


def test_the_splits_are_disjoint() -> None:
    bench_splits.check_splits()
    names = [name for split in SPLITS for name in split.scenarios]
    assert len(names) == len(set(names)) == len(moving.CELLS)
    assert not set(TRAINING.seeds) & set(TEST.seeds)


def test_overlapping_splits_are_refused() -> None:
    seeds = Split("b", range(50, 200), (), "")
    with pytest.raises(ConfigError, match="seeds 50 to 99 are in a and in b"):
        bench_splits.check_splits([Split("a", range(100), (), ""), seeds])
    cell = TEST.scenarios[:1]
    with pytest.raises(ConfigError, match="are the same scenario"):
        bench_splits.check_splits([Split("a", range(50), cell, ""), replace(seeds, scenarios=cell)])


def test_a_scenario_stays_itself_under_another_name_load_and_router() -> None:
    cell = Scenario.load(TEST.scenarios[0])
    other = cell.replace({"name": "mine", "workload.load": 0.5, "router.name": "round_robin"})
    assert other.digest() != cell.digest()
    assert bench_splits.substance(other) == bench_splits.substance(cell)
    bigger = cell.replace({"workload.users": 1000})
    assert bench_splits.substance(bigger) != bench_splits.substance(cell)


@pytest.mark.parametrize(("seed", "split"), [(0, "training"), (10_000, "validation")])
def test_seeds_of_other_splits_are_refused(seed: int, split: str) -> None:
    with pytest.raises(ConfigError, match=f"seed {seed} is for {split}"):
        bench_splits.check_test_seeds([20_000, seed])


@pytest.mark.parametrize(
    ("scenario", "seed", "text"),
    [
        (TEST.scenarios[0], 0, "which is for test"),
        ("taobao-shift", 10_000, "seed 10000, which is for validation"),
        ("taobao-shift", 20_000, "seed 20000, which is for test"),
    ],
)
def test_a_model_that_saw_what_is_held_out_is_refused(scenario: str, seed: int, text: str) -> None:
    card = SimpleNamespace(scenario=scenario, seed=seed, scenario_digest="0")
    with pytest.raises(ConfigError, match=text):
        bench_splits.check_policy("ppo:x", SimpleNamespace(card=card), {})


def test_a_card_may_name_a_scenario_that_does_not_exist() -> None:
    card = SimpleNamespace(scenario="paper-v0-gone", seed=3, scenario_digest="0")
    bench_splits.check_policy("ppo:x", SimpleNamespace(card=card), {"abc": "a trend"})


def test_a_renamed_copy_of_what_is_held_out_is_refused() -> None:
    card = SimpleNamespace(scenario="mine", seed=0, scenario_digest="abc")
    with pytest.raises(ConfigError, match="under the name mine"):
        bench_splits.check_policy("ppo:x", SimpleNamespace(card=card), {"abc": "a trend"})
    bench_splits.check_policy("ppo:x", SimpleNamespace(card=card), {})


def test_a_changed_cell_of_the_suite_is_refused(tmp_path: Path) -> None:
    cell = Scenario.load("paper-v2-taobao-steady").replace({"workload.users": 1000})
    (tmp_path / "cell.yaml").write_text(cell.to_yaml())
    with pytest.raises(ConfigError, match="was frozen with"):
        settings(str(tmp_path))


# Plan and command


def test_the_suite_is_cells_by_loads_by_routers() -> None:
    found = settings("paper")
    assert len(found) == 12 * 3 * 2
    assert len({one.scenario.digest() for one in found}) == len(found)
    assert sum(one.held_out for one in found) == 4 * 3 * 2
    own = {moving.frozen_cell(one.cell, one.router).episode.steps for one in found}
    assert own == {one.scenario.episode.steps for one in found}  # whole episodes
    assert settings(moving.PREFIX) == found
    quick = settings("paper", quick=True)
    assert len(quick) == 12 and {one.load for one in quick} == {moving.LOADS[-1]}


def test_a_setting_that_holds_already_is_not_replaced(tiny: Scenario) -> None:
    assert changes_of(tiny, 0.9, tiny.router.name, 6) == {}
    assert changes_of(tiny, 0.5, tiny.router.name, 7) == {"workload.load": 0.5, "episode.steps": 7}


@pytest.mark.parametrize(
    ("policies", "changes", "text"),
    [
        ((), {}, "nothing to compare"),
        (("balance", "balance"), {}, "named twice"),
        (("statc:0.4",), {}, "did you mean 'static'"),
        (("nothing:best",), {}, "is no search"),
        (("balance",), {"routers": ["round"]}, "router 'round'"),
        (("balance",), {"budget_ms": 0.0}, "budget"),
    ],
)
def test_a_plan_that_cannot_run_is_refused(
    suite: str, policies: tuple[str, ...], changes: dict[str, Any], text: str
) -> None:
    with pytest.raises(ConfigError, match=text):
        planned(suite, *policies, **changes)


def test_the_command_runs_and_replays(suite: str) -> None:
    runner = CliRunner()
    arguments = [
        "--suite",
        suite,
        "--steps",
        "6",
        "--seeds",
        "1",
        "--jobs",
        "1",
        "--out",
        "out",
        "-q",
    ]
    ran = runner.invoke(app, ["bench", *arguments, "--policies", "static:0.4", "stranger:Raises"])
    assert ran.exit_code == 0, ran.output
    assert "(2 asked for, 2 run now)" in ran.output
    assert "failed: stranger:Raises, 1 rows" in ran.output
    again = runner.invoke(app, ["bench", "--replay", "out/rows.parquet#0"])
    assert again.exit_code == 0, again.output
    assert "bit for bit" in again.output
    changed = find_row("out/rows.parquet#0") | {"reward": 1.0}
    again = runner.invoke(app, ["bench", "--replay", json.dumps(changed)])
    assert again.exit_code == 1
    assert "reward: 1.0 in the row" in again.output


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--loads", "much"], "write numbers"),
        (["--backend", "dask"], "backend 'dask'"),
        (["--suite", "papre"], "did you mean"),
    ],
)
def test_the_command_says_what_is_wrong(suite: str, arguments: list[str], text: str) -> None:
    ran = CliRunner().invoke(app, ["bench", "--suite", suite, "-p", "static:0.5", *arguments])
    assert ran.exit_code == 2
    assert text in ran.stderr


def test_the_command_shows_the_splits() -> None:
    ran = CliRunner().invoke(app, ["bench", "--splits"], env={"COLUMNS": "160"})
    assert ran.exit_code == 0
    assert "20000-29999" in ran.output and "taobao-trend" in ran.output


def test_tensorboard_has_a_run_per_policy_and_setting(rows_file: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    rows = read_rows(rows_file)
    assert write_hparams(rows, tmp_path / "board") == 2  # the policy that fails has none
    assert write_hparams(rows, tmp_path / "board") == 2  # and a second time replaces them
    means = []
    for folder in sorted(path for path in (tmp_path / "board").iterdir() if path.is_dir()):
        events = EventAccumulator(str(folder)).Reload()
        means.append(events.Scalars("bench/tail_ms")[0].value)
    expected = [
        sum(row["tail_ms"] for row in rows if row["policy"] == policy) / 2
        for policy in ("static:0.4", "stranger:Random")
    ]
    assert means == pytest.approx(expected)


def test_the_schema_has_every_column() -> None:
    assert schema().names[: len(COLUMNS)] == list(COLUMNS)
