"""Measure this machine: CSV files in the format that ``helm-gym calibrate`` reads.

One file is written at once when its last case is measured. The folder also holds ``measure.json``,
which says what was planned and on which machine, so that the same command goes on after a stop.
"""

from __future__ import annotations

import csv
import datetime
import hashlib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helm_gym._version import __version__
from helm_gym.console import Bar, progress_bar
from helm_gym.errors import ConfigError
from helm_gym.files import remove_leftovers, write_text
from helm_gym.hardware import benchmarks as bench
from helm_gym.hardware.benchmarks import Case, Row, Shapes
from helm_gym.hardware.clock import Device, Machine, UnavailableError, open_machine
from helm_gym.hardware.host_file import write_hosts

PLAN = "measure.json"
WIDE = 0.25  # spread over value beyond which a row says more about other work than about itself
QUALITY = ("spread", "repeats", "source")


class MeasureInterruptedError(KeyboardInterrupt):
    """Measuring was stopped by the user; the message says what was kept and how to go on."""


@dataclass(frozen=True)
class Sheet:
    """One file: its shape columns, its cases, and what runs them.

    Args:
        file: its name.
        title: what the progress bar calls it.
        columns: of the file, between ``hardware`` and :data:`QUALITY`.
        cases: shapes, in order.
        run: measures one case.
    """

    file: str
    title: str
    columns: tuple[str, ...]
    cases: Callable[[Shapes, str], Iterator[Case]]
    run: Callable[[Machine, Shapes, Case], Row]


_HEADS = ("n_heads", "n_kv_heads", "head_dim")
SHEETS = (
    Sheet(
        "gemm.csv", "matrix products",
        ("dtype", "m", "k", "n", "value", "unit"),
        bench.gemm_cases, bench.run_gemm,
    ),
    Sheet(
        "attention_prefill.csv", "causal prefill",
        ("dtype", "batch", "seq_len", *_HEADS, "value", "unit"),
        bench.prefill_cases, bench.run_prefill,
    ),
    Sheet(
        "attention_incremental.csv", "prefill on cached tokens",
        ("dtype", *_HEADS, "n_new", "n_cached", "value", "unit"),
        bench.incremental_cases, bench.run_incremental,
    ),
    Sheet(
        "embedding_gather.csv", "embedding rows",
        (
            "dtype", "engine", "config", "phase", "dim", "lookups", "unique_rows", "value", "unit",
            "M_lookups_per_s", "unique_GBps",
        ),
        bench.gather_cases, bench.run_gather,
    ),
    Sheet(
        "h2d.csv", "host link",
        ("direction", "host_memory", "bytes", "value", "unit", "time_us", "note"),
        bench.copy_cases, bench.run_copy,
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """What a run left behind.

    Args:
        hardware: name of the machine, as in the files.
        files: all of them, in the order of :data:`SHEETS`.
        kept: names of those that were there already.
        left_out: cases that could not run, and why.
        noisy: files with rows whose spread says that the machine was busy, and how many.
        hosts: host presets; none from a CPU, which has no link to measure.
        beside_d2h: what D2H copies leave of the H2D bandwidth, as a factor.
    """

    hardware: str
    files: tuple[Path, ...]
    kept: tuple[str, ...]
    left_out: tuple[str, ...]
    noisy: tuple[str, ...] = ()
    hosts: tuple[Path, ...] = ()
    beside_d2h: float | None = None


def measure(
    out: Path,
    device: Device = "cpu",
    *,
    quick: bool = False,
    shapes: Shapes | None = None,
    progress: bool = True,
) -> Measured:
    """Measure everything that is not yet in ``out``.

    Args:
        out: folder; it is made.
        device: ``cpu`` or ``cuda``.
        quick: few and small shapes, for a first look: too coarse to calibrate a GPU.
        shapes: what to measure instead of what ``device`` and ``quick`` say.
        progress: show a bar.
    """
    shapes = shapes or bench.shapes_for(device, quick)
    machine = open_machine(device, shapes.budget_s)
    planned = {sheet.file: list(sheet.cases(shapes, device)) for sheet in SHEETS}
    _prepare(out, machine, planned)
    kept, left_out = [], []
    with progress_bar("measuring", sum(map(len, planned.values())), wanted=progress) as bar:
        for sheet in SHEETS:
            cases = planned[sheet.file]
            if (out / sheet.file).is_file():
                kept.append(sheet.file)
                bar.advance(len(cases), sheet.title)
                continue
            with _told_how_to_go_on(out):
                rows, missing = _run(sheet, machine, shapes, cases, bar)
                left_out += missing
                write_text(out / sheet.file, _csv(sheet, rows))
    files = tuple(out / sheet.file for sheet in SHEETS)
    hosts, beside_d2h = ([], None) if device == "cpu" else write_hosts(files[-1], files[-2], out)
    return Measured(
        hardware=machine.name,
        files=files,
        kept=tuple(kept),
        left_out=tuple(left_out),
        noisy=tuple(_noisy(files)),
        hosts=tuple(hosts),
        beside_d2h=beside_d2h,
    )


def _noisy(files: Sequence[Path]) -> Iterator[str]:
    for path in files:
        with path.open(encoding="utf-8", newline="") as file:
            spreads = [float(r["spread"]) / float(r["value"]) for r in csv.DictReader(file)]
        wide = sum(spread > WIDE for spread in spreads)
        if wide:
            yield f"{path.name}: {wide} of {len(spreads)} rows spread by over {100 * WIDE:.0f} %"


def _run(
    sheet: Sheet,
    machine: Machine,
    shapes: Shapes,
    cases: Sequence[Case],
    bar: Bar,
) -> tuple[list[Row], list[str]]:
    rows: list[Row] = []
    left_out = []
    common: Row = {"hardware": machine.name, "source": _source(sheet, machine)}
    for case in cases:
        bar.advance(0, sheet.title)
        try:
            found = sheet.run(machine, shapes, case)
        except (UnavailableError, RuntimeError) as error:
            if not isinstance(error, UnavailableError) and "out of memory" not in str(error):
                raise
            left_out.append(f"{sheet.file} {_words(case)}: {str(error).splitlines()[0]}")
        else:
            rows.append({**common, "dtype": _dtype(sheet, machine), **case, **found})
        bar.advance(1, sheet.title)
    if not rows:
        raise ConfigError(f"{sheet.file}: not one case could be measured; the first: {left_out[0]}")
    return rows, left_out


def _dtype(sheet: Sheet, machine: Machine) -> str:
    return "fp32" if sheet.file == "embedding_gather.csv" else machine.dtype_name


def _source(sheet: Sheet, machine: Machine) -> str:
    today = datetime.date.today().isoformat()
    stand_in = "; CPU stand-in" if machine.kind == "cpu" else ""
    return (
        f"helm-gym {__version__} measure, torch {machine.torch.__version__}, "
        f"{_dtype(sheet, machine)}, {machine.name}, {today}{stand_in}"
    )


def _words(case: Case) -> str:
    return ", ".join(f"{name} {value}" for name, value in case.items())


def _csv(sheet: Sheet, rows: Sequence[Row]) -> str:
    text = io.StringIO()
    names = ("hardware", *sheet.columns, *QUALITY)
    writer = csv.DictWriter(text, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


# -- what is there already -----------------------------------------------------------------------
def _prepare(out: Path, machine: Machine, planned: dict[str, list[Case]]) -> None:
    """Write the plan, or check that an earlier run had the same one."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{out}: cannot be a folder ({error.strerror})") from None
    remove_leftovers(out)
    plan = {
        "hardware": machine.name,
        "torch": str(machine.torch.__version__),
        "cases": {file: _digest(cases) for file, cases in planned.items()},
    }
    path = out / PLAN
    if path.is_file():
        _compare(path, plan)
        return
    strangers = [sheet.file for sheet in SHEETS if (out / sheet.file).exists()]
    if strangers:
        raise ConfigError(
            f"{out} holds {', '.join(strangers)}, but no {PLAN} that says where from: choose "
            "another --out"
        )
    write_text(path, json.dumps(plan, indent=2) + "\n")


def _compare(path: Path, plan: dict[str, Any]) -> None:
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        before = None
    if not isinstance(before, dict):
        raise ConfigError(f"{path}: cannot be read; remove the folder, or choose another --out")
    for key, what in (("hardware", "machine"), ("torch", "torch version")):
        if before.get(key) != plan[key]:
            raise ConfigError(
                f"{path.parent} was measured with another {what} ({before.get(key)}, now "
                f"{plan[key]}): choose another --out"
            )
    if before.get("cases") != plan["cases"]:
        raise ConfigError(
            f"{path.parent} was measured with other shapes (--quick, or another version): choose "
            "another --out"
        )


def _digest(cases: Sequence[Case]) -> str:
    return hashlib.sha256(json.dumps(cases).encode()).hexdigest()[:16]


@contextmanager
def _told_how_to_go_on(out: Path) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        raise MeasureInterruptedError(
            f"stopped; the finished files stay in {out}, and the same command goes on with the rest"
        ) from None
