"""Logs that users bring become held-out cells beside the suite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helm_gym.benchmark import plan as bench_plan
from helm_gym.errors import ConfigError
from helm_gym.suites import moving
from helm_gym.suites import splits as bench_splits
from helm_gym.suites.courses import MIDDLE, mix_name
from helm_gym.suites.replays import replay_cell, replay_cells, steady_base

pq = pytest.importorskip("pyarrow.parquet")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Arrivals, a Poisson process of 2,000 in about 200 s."""
    import pyarrow as pa

    rng = np.random.default_rng(0)
    path = tmp_path / "arrivals.parquet"
    pq.write_table(pa.table({"timestamp": np.cumsum(rng.exponential(0.1, 2_000))}), path)
    return path


def test_a_log_becomes_a_held_out_cell() -> None:
    scenario = replay_cell("shop=clicks.parquet,base=amazon-books,overlay=7,time_unit=ms")
    replay = scenario.workload.replay
    assert scenario.name == "replay-shop"
    assert scenario.workload.profile.name == "amazon-books"
    assert replay is not None and (replay.overlay, replay.time_unit) == (7, "ms")
    assert replay.items == "profile"  # a sample of users cannot tell the popularity of items
    assert bench_splits.held_out(scenario)
    assert replay_cell("taobao=a.parquet").workload.profile.name == "taobao"


@pytest.mark.parametrize("dataset", moving.DATASETS)
def test_its_load_is_of_what_the_steady_mix_carries(dataset: str) -> None:
    workload = replay_cell(f"{dataset}=a.parquet").workload
    carried = moving.carried()[f"{dataset} / {moving.ROUTERS[0]} / {mix_name(MIDDLE)}"]
    assert workload.capacity_rps_per_node.value == carried.rps_per_node
    assert workload.regime.kind == "steady"
    assert not bench_splits.held_out(steady_base("taobao"))


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ("clicks.parquet", "write NAME=PATH"),
        ("shop=clicks.parquet,overly=3", "did you mean 'overlay'"),
        ("shop=clicks.parquet,overlay=many", "overlay: .*valid integer"),
        ("shop=clicks.parquet,base=taobo", "did you mean 'taobao'"),
        ("shop=clicks.parquet,kind=arrivals,overlay=3", "overlay copies users"),
    ],
)
def test_what_is_no_log_is_refused(reference: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        replay_cell(reference)


def test_two_logs_need_two_names() -> None:
    with pytest.raises(ConfigError, match="a second log of that name"):
        replay_cells(["a=x.parquet", "a=y.parquet"])


def test_a_plan_has_the_cells_and_replays_behind_them(log: Path) -> None:
    wanted: dict[str, Any] = {"loads": [0.9], "routers": ["least_loaded"], "steps": 14}
    settings = bench_plan.settings("paper", logs=[f"own={log},kind=arrivals"], **wanted)
    assert [s.cell for s in settings] == [*moving.CELL_NAMES, "replay-own"]
    assert [s.shipped for s in settings] == [*(True for _ in moving.CELL_NAMES), False]
    assert {s.suite for s in settings[:-1]} == {moving.PREFIX}
    replay = settings[-1]
    assert replay.held_out and not replay.suite
    assert (replay.load, replay.router) == (0.9, "least_loaded")
    with pytest.raises(ConfigError, match="--log adds replays to --suite paper"):
        bench_plan.make_plan("taobao-shift", ["balance"], 1, logs=["own=x.parquet"])


def test_a_replay_tunes_nothing(log: Path) -> None:
    jobs = bench_plan.make_plan(
        "paper", ["static:dataset"], 1, quick=True, logs=[f"taobao={log},kind=arrivals"]
    )
    assert jobs[-1].setting.cell == "replay-taobao"
    for job in (jobs[0], jobs[-1]):
        names = [scenario.name for scenario in job.among]
        assert names == [name for name in moving.CELL_NAMES if "taobao" in name]
