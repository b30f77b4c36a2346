"""The held-out suite: frozen, of the test split alone, and open to logs that users bring."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helm_gym.benchmark import plan as bench_plan
from helm_gym.config.scenario import Scenario
from helm_gym.config.workload import Phases
from helm_gym.errors import ConfigError
from helm_gym.suites import heldout
from helm_gym.suites import splits as bench_splits
from helm_gym.suites.heldout import replay_cell, replay_cells

pq = pytest.importorskip("pyarrow.parquet")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Arrivals, a Poisson process of 2,000 in about 200 s."""
    import pyarrow as pa

    rng = np.random.default_rng(0)
    path = tmp_path / "arrivals.parquet"
    pq.write_table(pa.table({"timestamp": np.cumsum(rng.exponential(0.1, 2_000))}), path)
    return path


def test_cells_are_frozen_and_loaded_halves_alike() -> None:
    assert set(heldout.frozen()) == set(heldout.CELLS)
    for name, scenario in heldout.cells().items():
        assert scenario.digest() == heldout.frozen()[name]
        regime = scenario.workload.regime
        assert isinstance(regime, Phases) and regime.ramp_s == 0.0
        own = [phase.capacity_rps_per_node for phase in regime.phases]
        assert all(own) and own[0] != own[1]  # each half in proportion to what it can carry


def test_a_changed_cell_is_refused() -> None:
    cells = heldout.cells()
    name = heldout.CELLS[0]
    with pytest.raises(ConfigError, match="its suite was frozen with"):
        bench_splits.check_frozen({name: cells[name].replace({"workload.users": 1000})})


def test_the_cells_belong_to_test_and_nobody_may_train_on_them() -> None:
    bench_splits.check_splits()
    for name, scenario in heldout.cells().items():
        assert bench_splits.held_out(scenario)
        with pytest.raises(ConfigError, match="which is for test"):
            bench_splits.check_training(name, [0])
    assert not bench_splits.held_out(Scenario.load("paper-v1-taobao-steady"))


def test_a_log_becomes_a_held_out_cell() -> None:
    scenario = replay_cell("shop=clicks.parquet,base=amazon-books,overlay=7,time_unit=ms")
    replay = scenario.workload.replay
    assert scenario.name == f"{heldout.HELD_OUT}-shop-replay"
    assert scenario.workload.profile.name == "amazon-books"
    assert replay is not None and (replay.overlay, replay.time_unit) == (7, "ms")
    assert replay.items == "profile"  # a sample of users cannot tell the popularity of items
    assert bench_splits.held_out(scenario)
    assert replay_cell("taobao=a.parquet").workload.profile.name == "taobao"


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


def test_a_plan_has_frozen_cells_and_replays(log: Path) -> None:
    wanted: dict[str, Any] = {"loads": [0.9], "routers": ["least_loaded"], "steps": 2}
    settings = bench_plan.settings("heldout", logs=[f"own={log},kind=arrivals"], **wanted)
    assert [s.cell for s in settings] == [*heldout.CELLS, f"{heldout.HELD_OUT}-own-replay"]
    assert [s.shipped for s in settings] == [True, True, True, False]
    assert all(s.held_out and s.suite == heldout.HELD_OUT for s in settings)
    with pytest.raises(ConfigError, match="--log adds replays to --suite heldout"):
        bench_plan.make_plan("paper", ["balance"], 1, logs=["own=x.parquet"])
