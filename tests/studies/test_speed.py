"""The speed command's arithmetic and table; its figures are the machine's business."""

from __future__ import annotations

import io
import json
import os
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from helm_gym.config.scenario import Scenario
from helm_gym.sim.layout import Node
from helm_gym.studies.speed import report, speed, yardsticks


@pytest.fixture
def quick(tiny: Scenario, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole command on a scenario and with yardsticks that take milliseconds."""

    def small(**changes: Any) -> Scenario:
        kept = {key: value for key, value in changes.items() if not key.startswith("workload")}
        return tiny.replace({**kept, "nodes": min(4, kept.get("nodes", 4))})

    def missing(requests: int, hash_bits: int = 24) -> float:
        raise yardsticks.Missing("not built for this machine")

    monkeypatch.setattr(speed, "feasibility", small)
    monkeypatch.setattr(yardsticks, "lru_seconds", missing)
    monkeypatch.setattr(yardsticks, "simpy_seconds", lambda requests: 2e-5)


def test_every_figure_is_measured_and_what_is_missing_has_a_reason(
    quick: None, tmp_path: Path
) -> None:
    printed = io.StringIO()
    file = tmp_path / "new" / "speed.jsonl"
    console = Console(file=printed, width=200)
    found = report.run_speed(quick=True, file=file, progress=False, console=console)
    names = [m.name for m in found.measures]
    assert len(names) == len(set(names)) == 11
    for measure in found.measures:
        assert measure.low <= measure.value <= measure.high
        assert np.isfinite([measure.low, measure.value, measure.high]).all()
    ours = found.value("request, one 32-node cluster")
    simpy = "SimPy, 32 servers, shortest queue"
    assert found.value(simpy) == pytest.approx(2e4)
    assert found.value(f"ours to {simpy}") == pytest.approx(ours / 2e4)
    assert set(found.skipped) == {"libcachesim LRU", "libcachesim LRU, small table"}
    assert set(found.skipped.values()) == {"not built for this machine"}

    text = printed.getvalue()
    assert "not built for this machine" in text and "--quick: rough" in text
    written = json.loads(file.read_text())
    assert [m["name"] for m in written["measures"]] == names
    assert written["quick"] is True and written["versions"]["helm_gym"]
    assert f"on {written['date'][:10]}" not in text
    again = io.StringIO()
    known = speed.Speed(found.measures, found.skipped)
    Console(file=again, width=200).print(report.speed_table(known, True, written))
    assert f"on {written['date'][:10]}" in again.getvalue()


def test_time_per_request_counts_every_request(
    tiny: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a clock that advances one second per look, seconds * requests is known."""
    simulator = speed.started(tiny, clusters=2)
    snapshot = simulator.snapshot()
    arrived = 0.0
    for _ in range(3):
        shares = np.full((2, tiny.nodes), speed.SHARE)
        arrived += simulator.step(shares).node[:, :, Node.ARRIVED].sum()
    simulator.restore(snapshot)
    ticks = iter(range(100))
    monkeypatch.setattr(speed.time, "perf_counter", lambda: float(next(ticks)))
    (found,) = speed.seconds_per_request(simulator, speed.Effort(repeats=1, windows=3))
    assert found == pytest.approx(1.0 / arrived)


def test_a_target_is_met_by_the_median() -> None:
    values = [1.0, 2.0, 90.0]
    measure = speed.Measure.of("x", values, "ms", at_most=2.0)
    assert (measure.value, measure.low, measure.high) == (statistics.median(values), 1.0, 90.0)
    assert measure.met is True
    assert speed.Measure.of("x", values, "ms", at_most=1.9).met is False
    assert speed.Measure.of("x", values, "ms").met is None


def test_figures_refer_to_the_scenario_they_name() -> None:
    scenario = speed.feasibility()
    assert (scenario.nodes, scenario.router.name) == (32, "predicted_completion")
    assert speed.feasibility(nodes=256).nodes == 256


def test_the_kernels_share_of_a_step_is_its_own_time(tiny: Scenario) -> None:
    simulator = speed._Timed(tiny)
    simulator.reset(0, speed.streams_from_seed(0))
    assert simulator.kernel_s == 0.0
    simulator.step(np.full((1, tiny.nodes), 0.5))
    once = simulator.kernel_s
    simulator.step(np.full((1, tiny.nodes), 0.5))
    assert 0.0 < once < simulator.kernel_s


def test_the_yardsticks_stream_follows_its_law() -> None:
    rows = yardsticks._zipf_trace(200_000)
    assert rows.dtype.itemsize == 24  # libCacheSim's packed record
    weights = np.arange(1.0, yardsticks.OBJECTS + 1.0) ** -yardsticks.EXPONENT
    expected = 200_000 * weights[:3] / weights.sum()
    counts = np.bincount(rows["object"])[1:4]
    np.testing.assert_allclose(counts, expected, atol=5 * np.sqrt(expected.max()))
    assert rows["object"].min() >= 1 and rows["object"].max() <= yardsticks.OBJECTS


def test_the_lru_yardstick_is_an_lru_of_the_stated_size() -> None:
    libcachesim = pytest.importorskip("libcachesim", exc_type=ImportError)
    requests = 50_000
    assert yardsticks.lru_seconds(requests) > 0.0
    # The stream's distinct objects all fit, so that every miss is a first sight.
    distinct = np.unique(yardsticks._zipf_trace(requests)["object"]).size
    assert distinct < yardsticks.CACHED
    cache = libcachesim.LRU(yardsticks.CACHED)
    misses = sum(
        not cache.get(libcachesim.Request(obj_size=1, obj_id=int(i)))
        for i in yardsticks._zipf_trace(2_000)["object"]
    )
    assert misses == np.unique(yardsticks._zipf_trace(2_000)["object"]).size


def test_a_yardstick_that_is_not_installed_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for name, timed in (
        ("libcachesim", yardsticks.lru_seconds),
        ("simpy", yardsticks.simpy_seconds),
    ):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(yardsticks.Missing, match=f"{name} is not installed"):
            timed(10)


def test_code_is_timed_in_a_process_of_its_own_elsewhere(tmp_path: Path) -> None:
    from helm_gym.runs import warmup as starts

    own = f"import os; print(os.getpid() * (os.getcwd() != {str(Path.cwd())!r}))"
    assert starts._python(own) not in (0.0, float(os.getpid()))
    cache = "import os; print(len(os.environ['NUMBA_CACHE_DIR']))"
    assert starts._python(cache, str(tmp_path)) == len(str(tmp_path))


def test_a_warm_up_leaves_nothing_to_compile(tmp_path: Path) -> None:
    """After it, an episode, a recording and a search compile no kernel: no new machine code."""
    from helm_gym.evaluation.specs import make_policy
    from helm_gym.runs import warmup as starts
    from helm_gym.runs.rollout import run_policy

    _, folder = starts.warm_up()
    before = {path.name for path in folder.rglob("*.nbc")}
    assert before
    for name in ("taobao-shift", "taobao-burst", "taobao-trend"):
        small = {"nodes": 2, "workload.users": 1000, "episode.steps": 1, "episode.warm_starts": 1}
        scenario = Scenario.load(name).replace({**small, "episode.warmup_s": 5.0})
        run_policy(scenario, make_policy("balance"), "x", [0], threads=2)
    assert {path.name for path in folder.rglob("*.nbc")} == before
