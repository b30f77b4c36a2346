"""Measuring this machine: the files, resuming, what is refused, and CUDA on a stand-in."""

from __future__ import annotations

import csv
import json
import sys
import threading
import types
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from helm_gym import cli
from helm_gym.config.quantity import walk
from helm_gym.config.safe_yaml import read_yaml
from helm_gym.config.scenario import Scenario
from helm_gym.errors import ConfigError
from helm_gym.hardware import benchmarks as bench
from helm_gym.hardware import clock
from helm_gym.hardware import measure as room
from helm_gym.hardware.clock import CudaMachine, Machine, UnavailableError
from helm_gym.hardware.host_file import write_hosts
from helm_gym.hardware.presets import Host

torch = pytest.importorskip("torch", reason="measuring needs torch")

TINY = bench.Shapes(
    gemm=((16, 32, 64), (32, 32, 64)),
    prefill=((1, 32, 2), (2, 64, 2)),
    incremental=((2, 8, 0), (2, 8, 24)),
    gather=((16, 32), (16, 128)),
    table_bytes=2**16,
    copies=(2**10, 2**14, 2**18),
    together=(2**18,),
    head_dim=16,
    budget_s=0.001,
)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("measured")
    room.measure(out, "cpu", shapes=TINY, progress=False)
    return out


# -- what is written -----------------------------------------------------------------------------
def test_every_case_has_a_row_with_time_spread_and_source(folder: Path) -> None:
    for sheet in room.SHEETS:
        rows, cases = rows_of(folder / sheet.file), list(sheet.cases(TINY, "cpu"))
        assert len(rows) == len(cases) > 0
        for row, case in zip(rows, cases, strict=True):
            assert {name: row[name] for name in case} == {k: str(v) for k, v in case.items()}
            assert float(row["value"]) > 0 and float(row["spread"]) >= 0
            assert int(row["repeats"]) >= clock.FEWEST_REPEATS
            assert f"torch {torch.__version__}" in row["source"]
            assert "fp32" in row["source"]
            assert "CPU" in row["hardware"] and "CPU stand-in" in row["source"]


COLUMNS = {
    "gemm.csv": "hardware,dtype,m,k,n,value,unit,source",
    "attention_prefill.csv": (
        "hardware,dtype,batch,seq_len,n_heads,n_kv_heads,head_dim,value,unit,source"
    ),
    "attention_incremental.csv": (
        "hardware,dtype,n_heads,n_kv_heads,head_dim,n_new,n_cached,value,unit,source"
    ),
    "embedding_gather.csv": (
        "hardware,dtype,engine,config,phase,dim,lookups,unique_rows,value,unit,M_lookups_per_s,"
        "unique_GBps,source"
    ),
    "h2d.csv": "hardware,direction,host_memory,bytes,value,unit,time_us,source,note",
}


@pytest.mark.parametrize("name", COLUMNS)
def test_files_have_the_columns_of_the_published_ones(folder: Path, name: str) -> None:
    header = set(rows_of(folder / name)[0])
    assert header == set(COLUMNS[name].split(",")) | {"spread", "repeats"}


def test_rates_and_times_agree(folder: Path) -> None:
    for row in rows_of(folder / "h2d.csv"):
        seconds = float(row["time_us"]) * 1e-6
        assert float(row["bytes"]) / seconds / 1e9 == pytest.approx(float(row["value"]), rel=1e-3)
        assert row["note"] == Machine.note, "no link was measured, and every row says so"
    for row in rows_of(folder / "embedding_gather.csv"):
        moved = float(row["lookups"]) * float(row["dim"]) * 4
        assert moved / float(row["value"]) / 1e3 == pytest.approx(
            float(row["unique_GBps"]), rel=1e-2
        )


def test_cached_tokens_are_seen_by_new_ones_and_later_ones_are_not() -> None:
    machine = Machine(torch, 0.001)
    assert bench._lower_right(machine, 2, 5).int().tolist() == [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]


def test_a_gather_reads_rows_that_no_cache_can_hold() -> None:
    """A look-up sees other rows each time, until the table is through."""
    seen: list[frozenset[int]] = []

    class Watching(Machine):
        def time(self, work: Any) -> clock.Timing:
            for _ in range(6):
                work()
            return clock.Timing(1.0, 0.0, 5)

    watching = types.SimpleNamespace(**{name: getattr(torch, name) for name in dir(torch)})

    def index_select(table: Any, axis: int, index: Any, out: Any) -> Any:
        seen.append(frozenset(index.tolist()))
        return torch.index_select(table, axis, index, out=out)

    watching.index_select = index_select
    case = {"dim": 16, "lookups": 128, "config": f"table {bench.IN_HBM}"}
    bench.run_gather(Watching(watching, 0.001), TINY, case)
    assert all(len(rows) == 128 for rows in seen)
    assert not (seen[0] & seen[1]) and len(set(seen)) == 6


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("quick", [True, False])
def test_planned_shapes_are_enough_for_every_fit(device: str, quick: bool) -> None:
    shapes = bench.shapes_for(device, quick)
    assert len({m for m, _, _ in shapes.gemm}) >= 4 and len(shapes.gemm) >= 32
    assert len({s for _, s, _ in shapes.prefill}) >= 4 and len(shapes.prefill) >= 12
    assert len({n for _, n, _ in shapes.incremental}) >= 3 and len(shapes.incremental) >= 16
    assert len({c for _, _, c in shapes.incremental}) >= 3
    assert len(shapes.copies) >= 6 and shapes.copies[-1] >= 1e3 * shapes.copies[0]
    assert set(shapes.together) <= set(shapes.copies), "to compare with copies alone"
    for sheet in room.SHEETS:
        cases = [json.dumps(case) for case in sheet.cases(shapes, device)]
        assert len(cases) == len(set(cases))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Threads that wait for each other on a busy machine take 20 ms for anything."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_what_it_measures_can_be_calibrated(tmp_path: Path, one_thread: None) -> None:
    pytest.importorskip("helm_gym.hardware.calibrate")
    out, preset = tmp_path / "quick", tmp_path / "mine.yaml"
    shapes = replace(bench.shapes_for("cpu", quick=True), budget_s=0.005)
    room.measure(out, "cpu", shapes=shapes, progress=False)
    options: list[Any] = ["--sms", 1, "--memory-gb", 16, "--out", preset]
    for option, name in (
        ("--gemm", "gemm.csv"),
        ("--attention", "attention_prefill.csv"),
        ("--incremental", "attention_incremental.csv"),
        ("--h2d", "h2d.csv"),
    ):
        options += [option, out / name]
    result = CliRunner().invoke(cli.app, ["calibrate", *map(str, options)])
    assert result.exit_code == 0, result.output
    assert read_yaml(preset)["memory_gb"]["value"] == 16
    host = Host.parse(read_yaml(tmp_path / "mine-host.yaml"), "host")
    assert host.miss_gbps.assumed and not host.bulk_gbps.assumed


def test_rows_of_a_busy_machine_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Machine, "clock", lambda self, work, repeats: [1e-3, 1e-3, 2e-3, 3e-3])
    done = room.measure(tmp_path, "cpu", shapes=TINY, progress=False)
    assert done.noisy[0] == "gemm.csv: 2 of 2 rows spread by over 25 %"
    assert len(done.noisy) == len(room.SHEETS)


# -- stopping and going on -----------------------------------------------------------------------
def test_ctrl_c_keeps_finished_files_and_the_same_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[bench.Case] = []

    def stops(machine: Machine, shapes: bench.Shapes, case: bench.Case) -> bench.Row:
        calls.append(case)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return bench.run_incremental(machine, shapes, case)

    sheets = list(room.SHEETS)
    sheets[2] = replace(sheets[2], run=stops)
    monkeypatch.setattr(room, "SHEETS", tuple(sheets))
    with pytest.raises(KeyboardInterrupt, match="finished files stay"):
        room.measure(tmp_path, "cpu", shapes=TINY, progress=False)
    assert {p.name for p in tmp_path.glob("*.csv")} == {"gemm.csv", "attention_prefill.csv"}
    before = (tmp_path / "gemm.csv").stat().st_mtime_ns
    done = room.measure(tmp_path, "cpu", shapes=TINY, progress=False)
    assert done.kept == ("gemm.csv", "attention_prefill.csv")
    assert (tmp_path / "gemm.csv").stat().st_mtime_ns == before
    assert all(path.is_file() for path in done.files)
    assert room.measure(tmp_path, "cpu", shapes=TINY, progress=False).kept == tuple(
        sheet.file for sheet in room.SHEETS
    )


def test_other_shapes_or_machines_do_not_mix_in_one_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="other shapes"):
        room.measure(folder, "cpu", quick=True, progress=False)
    monkeypatch.setattr(Machine, "name", "another CPU")
    with pytest.raises(ConfigError, match="another machine"):
        room.measure(folder, "cpu", shapes=TINY, progress=False)


def test_files_that_somebody_else_wrote_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "gemm.csv").write_text("mine")
    with pytest.raises(ConfigError, match=r"no measure\.json"):
        room.measure(tmp_path, "cpu", shapes=TINY, progress=False)
    assert (tmp_path / "gemm.csv").read_text() == "mine"


def test_a_case_that_cannot_run_is_left_out_and_named(tmp_path: Path) -> None:
    huge = replace(TINY, gemm=((16, 32, 64), (2**24, 2**12, 2**12)))
    done = room.measure(tmp_path, "cpu", shapes=huge, progress=False)
    assert len(rows_of(tmp_path / "gemm.csv")) == 1
    (reason,) = done.left_out
    assert "m 16777216" in reason and "GB of memory" in reason


# -- what is refused -----------------------------------------------------------------------------
def run(*arguments: Any) -> Any:
    return CliRunner().invoke(cli.app, ["measure", *map(str, arguments)])


def test_without_torch_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    result = run("--out", tmp_path)
    assert result.exit_code == 2
    assert "pip install 'helm-gym[train]'" in result.stderr


@pytest.mark.parametrize(
    ("device", "says"), [("cuda", "finds no CUDA GPU"), ("tpu", "write cuda or cpu")]
)
def test_devices_that_are_not_there_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, says: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = run("--out", tmp_path / "x", "--device", device)
    assert result.exit_code == 2 and says in result.stderr
    assert not (tmp_path / "x").exists()


def test_an_out_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    result = run("--out", tmp_path / "x", "--device", "cpu")
    assert result.exit_code == 2 and "cannot be a folder" in result.stderr


# -- CUDA, on a stand-in -------------------------------------------------------------------------
class FakeEvent:
    """Counts work instead of time: each call of anything takes 1 ms."""

    now = 0.0

    def __init__(self, enable_timing: bool) -> None:
        self.at = -1.0

    def record(self) -> None:
        FakeEvent.now += 1.0
        self.at = FakeEvent.now

    def elapsed_time(self, other: FakeEvent) -> float:
        return other.at - self.at


class FakeStream:
    def wait_event(self, event: FakeEvent) -> None:
        assert event.at >= 0

    def __enter__(self) -> FakeStream:
        return self

    def __exit__(self, *error: object) -> None: ...


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> CudaMachine:
    """The CUDA code on CPU tensors, with events and streams that only keep order."""
    cuda = types.SimpleNamespace(
        Event=FakeEvent,
        Stream=FakeStream,
        stream=lambda stream: stream,
        synchronize=lambda: None,
        get_device_name=lambda: "Fake GPU",
        mem_get_info=lambda: (2**33, 2**33),
    )
    names = {name: getattr(torch, name) for name in dir(torch)}
    fake = types.SimpleNamespace(**{**names, "cuda": cuda})
    fake.device = lambda kind: torch.device("cpu")
    fake.zeros = lambda *shape, pin_memory=False, **kw: torch.zeros(*shape, **kw)
    fake.ones = lambda *shape, pin_memory=False, **kw: torch.ones(*shape, **kw)
    machine = CudaMachine(fake, 0.01)
    machine.dtype = torch.float32
    return machine


def test_cuda_work_is_timed_between_events(gpu: CudaMachine) -> None:
    calls = []
    timing = gpu.time(lambda: calls.append(1))
    assert timing.median_us == pytest.approx(1000)
    assert len(calls) == timing.repeats + clock.WARM_UP + 1


def test_the_other_direction_outlasts_the_timed_copies(
    gpu: CudaMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine: list[int] = []
    other: list[int] = []
    with pytest.raises(UnavailableError, match="ended too early"):  # a stand-in runs in order
        gpu.time_beside(lambda: mine.append(1), lambda: other.append(1))
    assert len(other) > clock.LEAD * clock.FEWEST_REPEATS
    monkeypatch.setattr(FakeEvent, "elapsed_time", lambda self, end: abs(end.at - self.at))
    assert gpu.time_beside(lambda: None, lambda: None).repeats >= clock.FEWEST_REPEATS


def test_every_cuda_case_runs_or_says_why_not(
    gpu: CudaMachine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "open_machine", lambda device, budget_s: gpu)
    monkeypatch.setattr(gpu, "mapped", lambda table: table)
    monkeypatch.setattr(FakeEvent, "elapsed_time", lambda self, end: abs(end.at - self.at))
    done = room.measure(tmp_path, "cuda", shapes=TINY, progress=False)
    assert done.left_out == () and done.hardware == "Fake GPU"
    places = {row["config"] for row in rows_of(tmp_path / "embedding_gather.csv")}
    assert places == {f"table {p}" for p in (bench.IN_HBM, bench.MAPPED, bench.BY_CPU)}
    assert not any(row["note"] for row in rows_of(tmp_path / "h2d.csv"))
    assert done.beside_d2h == pytest.approx(1.0)
    assert {path.name for path in done.hosts} == {"host.yaml"}, "no rows of 512 bytes in TINY"


def written_link(folder: Path, mapped: bool) -> tuple[Path, Path]:
    """Files of a link of 10 us and 25 GB/s, half beside D2H; rows come at their size's speed."""
    copies = ["direction,host_memory,bytes,time_us,source"]
    for size in 2 ** np.arange(10, 31, 2):
        copies += [f"H2D,pinned,{size},{10 + size / 25e3},me", f"D2H,pinned,{size},{size},me"]
        copies += [f"H2D,pageable,{size},{50 + size / 5e3},me"]
        copies += [f"H2D with concurrent D2H (same GPU),pinned,{size},{10 + size / 12.5e3},me"]
    gathers = ["config,dim,unique_rows,value"]
    for keys in 2 ** np.arange(10, 21, 2):
        gathers += [f'"table {bench.BY_CPU}",128,{keys},{5 + keys / 40}']
        for dim, gbps in ((16, 4), (128, 12), (512, 14)) if mapped else ():
            gathers += [f'"table {bench.MAPPED}",{dim},{keys},{7 + keys * dim * 4 / (gbps * 1e3)}']
    files = folder / "h2d.csv", folder / "embedding_gather.csv"
    for file, lines in zip(files, (copies, gathers), strict=True):
        file.write_text("\n".join(lines))
    return files


def test_a_host_preset_holds_what_was_measured_of_the_link(tmp_path: Path) -> None:
    (plain, by_cpu), left = write_hosts(*written_link(tmp_path, mapped=True), tmp_path)
    assert left == pytest.approx(0.5, rel=0.01)
    host = Host.parse(read_yaml(plain), "host")
    assert not any(q.assumed for _, q in walk(host))
    assert host.bulk_gbps.value == pytest.approx(25, rel=1e-3)
    miss = host.miss_gbps
    assert (miss.value, miss.low, miss.high) == pytest.approx((12, 4, 14), rel=1e-3)
    assert host.latency_us.value == pytest.approx(7, rel=1e-3), "of the rows"
    other = Host.parse(read_yaml(by_cpu), "host")
    assert other.keys_per_s.value == pytest.approx(40e6, rel=1e-3)


def test_a_scenario_takes_the_host_preset(tmp_path: Path, tiny: Scenario) -> None:
    (plain, _), _ = write_hosts(*written_link(tmp_path, mapped=False), tmp_path)
    changed = tiny.replace({"hardware.host": str(plain)})
    assert changed.hardware.host.bulk_gbps.value == pytest.approx(25, rel=1e-3)
    assert "hardware.host.miss_gbps" in dict(changed.assumptions()), "rows were not measured"


def test_memory_that_was_copied_is_not_taken_for_mapped(gpu: CudaMachine) -> None:
    gpu.torch.as_tensor = lambda window, device: torch.ones(64, 4)
    with pytest.raises(UnavailableError, match="copied the pinned memory"):
        gpu.mapped(torch.ones(64, 4))

    def fails(window: Any, device: Any) -> Any:
        assert window.owner is not None, "or the memory is freed while the GPU reads it"
        assert window.__cuda_array_interface__["shape"] == (64, 4)
        raise RuntimeError("no mapping")

    gpu.torch.as_tensor = fails
    with pytest.raises(UnavailableError, match="no mapping"):
        gpu.mapped(torch.ones(64, 4))


def test_copies_beside_others_stop_their_thread() -> None:
    machine = Machine(torch, 0.001)
    before, other = threading.active_count(), []
    machine.time_beside(lambda: None, lambda: other.append(1))
    assert other and threading.active_count() == before
