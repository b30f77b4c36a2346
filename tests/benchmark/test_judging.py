"""Published rows say how far they are from the schedule, and how soon they followed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmark_built import row

from helm_gym.baselines.schedule import Schedule
from helm_gym.benchmark import judging
from helm_gym.benchmark.rows import JUDGED, read_rows, write_rows
from helm_gym.benchmark.searches import Job, Searched
from helm_gym.errors import ConfigError
from helm_gym.hindsight.search import Hindsight, Outcome
from helm_gym.provenance import code_digest
from helm_gym.suites import moving
from helm_gym.suites.courses import jumps

JOB = Job("paper-v2-taobao-burst", 1.05, "foresight", 20_000)
N = 312
OUTCOME = Outcome(cost=30.0, tail_ms=30.0, mean_ms=9.0, slo_satisfaction=0.99)


def searched() -> Searched:
    """A schedule that stands at 0.4, from which 0.5 is as good and 0.6 is not."""
    schedule = Schedule(
        scenario=JOB.cell, scenario_digest=JOB.scenario.digest(), seed=JOB.seed, objective="tail",
        initial_share=0.5, shares=(0.4,) * N,
    )  # fmt: skip
    found = Hindsight(
        key="", schedule=schedule, unit="ms P99", best=OUTCOME, source="", static_share=0.5,
        static=OUTCOME, free_shares=(0.5,), free=OUTCOME, jumped=OUTCOME,
        good=((0.4, 0.5),) * N, grid=(0.3, 0.4, 0.5, 0.6), rounds=(), simulated=1,
    )  # fmt: skip
    return Searched(**JOB._asdict(), found=found, code_digest="", figures={})


def played(share: float, slow: range, **own: Any) -> dict[str, Any]:
    """A row that held a share, with slow windows."""
    tails = np.full(N, 20.0)
    tails[list(slow)] = 90.0
    return row(
        JOB.cell, JOB.load, JOB.router, "rule", JOB.seed, steps=N, uncounted=12, step_s=5.0,
        slo_ms=30.0, scenario_digest=JOB.scenario.digest(), code_digest=code_digest(),
        tail_by_window=tails.tolist(), share_by_window=[share] * N, shares_by_node=None, **own,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def schedule_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "schedule_tails", lambda row, found: np.full(N, 20.0))


def test_a_burst_begins_and_ends_with_a_jump_and_a_drift_has_none() -> None:
    assert len(jumps(JOB.scenario)) == 12 and jumps(moving.cell("taobao", "trend")) == []
    assert jumps(moving.cell("taobao", "steady")) == []
    day = jumps(moving.cell("taobao", "day"))
    assert day == sorted(day) and 5 <= len(day) <= 8


def test_a_row_beside_a_schedule_has_distances_and_time_to_adapt() -> None:
    first = jumps(JOB.scenario)[0]
    slow = range(int(first // 5), int(first // 5) + 4)
    (near,) = judging.judge([played(0.5, slow)], [searched()])
    assert near["distance"] == pytest.approx(0.1) and near["distance_good"] == 0.0
    seconds = 5.0 * (slow.stop) - first
    assert near["adapt_s"] == pytest.approx(seconds / len(jumps(JOB.scenario)))
    assert near["unsettled"] == 0.0
    (far,) = judging.judge([played(0.6, range(0))], [searched()])
    assert far["distance_good"] == pytest.approx(0.1) and far["adapt_s"] == 0.0


def test_a_stream_without_a_schedule_is_left_as_it_is(tmp_path: Path) -> None:
    (plain,) = judging.judge([played(0.5, range(0))], [])
    assert not set(JUDGED) & {name for name, value in plain.items() if value is not None}


def test_publishing_keeps_good_rows_of_this_code(tmp_path: Path) -> None:
    rows = [
        played(0.5, range(0)),
        played(0.5, range(0)) | {"key": "old", "code_digest": "old"},
        played(0.5, range(0)) | {"key": "bad", "status": "failed"},
    ]
    write_rows(rows, tmp_path / "rows" / "a.parquet")
    found = judging.publish(tmp_path, [searched()], tmp_path / "out.parquet")
    (stored,) = read_rows(tmp_path / "out.parquet")
    assert len(found) == 1 and stored["distance"] == pytest.approx(0.1)
    assert "tail_by_window" not in stored
    write_rows(rows[1:], tmp_path / "rows" / "a.parquet")
    with pytest.raises(ConfigError, match="no finished rows of this code"):
        judging.publish(tmp_path, [], tmp_path / "out.parquet")
