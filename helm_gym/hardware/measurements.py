"""Reads calibration CSVs, and refuses what no form should be fitted to.

Every file has a column per dimension of its kind, ``value``, ``unit`` and ``hardware``, and may
have ``source`` (who measured it, with which engine and version). docs/calibration.md lists them.
"""

from __future__ import annotations

import csv
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np

from helm_gym.errors import ConfigError, nearest
from helm_gym.hardware.devices import family
from helm_gym.hardware.form import MEASURED, Array
from helm_gym.units import GBPS, MS, US

TIME_UNITS = {"us": US, "µs": US, "ms": MS, "s": 1.0}
RATE_UNIT = "GB/s"  # of copies only: the time is bytes over the rate
DISAGREE = 3.0  # two times of one shape that differ this much are not both right


class Row(NamedTuple):
    """One line of a file; ``line`` counts from 1, the header being 1."""

    line: int
    cells: Mapping[str, str]
    shape: tuple[float, ...]
    seconds: float
    source: str


@dataclass(frozen=True)
class Kind:
    """What a file of measurements holds.

    Args:
        name: of the form, as in options and reports.
        dimensions: columns that make a shape.
        varied: dimension -> how many different values a fit needs at least.
        fewest: shapes that a fit and its held-out half need at least.
        may_be_zero: dimensions that count something that may be absent.
        select: leaves out rows of a file that are no measurements of this kind, and says why.
    """

    name: str
    dimensions: tuple[str, ...]
    varied: Mapping[str, int]
    fewest: int
    may_be_zero: frozenset[str] = frozenset()
    select: Callable[[list[tuple[int, dict[str, str]]], str], tuple[list[int], str]] | None = None


@dataclass(frozen=True)
class Measurements:
    """One engine's measurements, a row per shape.

    Args:
        path: of the file.
        kind: of measurements.
        source: text of the ``source`` column.
        hardware: text of the ``hardware`` column, the commonest one.
        table: dimension -> (R,) values, and ``seconds``.
        others: source -> table of the file's other engines, which are never fitted.
        note: what was left out.
    """

    path: Path
    kind: Kind
    source: str
    hardware: str
    table: dict[str, Array]
    others: dict[str, dict[str, Array]] = field(default_factory=dict)
    note: str = ""

    @property
    def shapes(self) -> int:
        """How many different shapes there are."""
        return int(self.table[MEASURED].size)


def _select_copies(rows: list[tuple[int, dict[str, str]]], gpu: str) -> tuple[list[int], str]:
    """Pinned host-to-device copies of stated size, alone, on the host with most of them."""

    def wanted(cells: Mapping[str, str]) -> bool:
        return (
            cells.get("direction") == "H2D"
            and cells.get("host_memory") == "pinned"
            and bool(cells.get("bytes"))
            and family(cells.get("hardware", "")) == gpu
        )

    copies = [index for index, (_, cells) in enumerate(rows) if wanted(cells)]
    hosts = Counter(rows[index][1]["hardware"] for index in copies)
    if not hosts:
        return [], f"no row is a pinned H2D copy of stated size on {gpu}"
    host = hosts.most_common(1)[0][0]
    kept = [index for index in copies if rows[index][1]["hardware"] == host]
    left = len(rows) - len(kept)
    note = f"{left} rows left out: not pinned H2D copies, or not of {host!r}" if left else ""
    return kept, note


GEMM = Kind("gemm", ("m", "k", "n"), {"m": 4, "k": 2, "n": 2}, fewest=32)
ATTENTION = Kind(
    "attention",
    ("batch", "seq_len", "n_heads", "n_kv_heads", "head_dim"),
    {"seq_len": 4},
    fewest=12,
)
INCREMENTAL = Kind(
    "incremental",
    ("n_heads", "n_kv_heads", "head_dim", "n_new", "n_cached"),
    {"n_new": 3, "n_cached": 3},
    fewest=16,
    may_be_zero=frozenset({"n_cached"}),
)
HSTU_BLOCK = Kind(
    "hstu-block",
    ("batch", "history_len", "cached_len", "new_len", "candidates"),
    {"history_len": 3, "cached_len": 3},
    fewest=12,
    may_be_zero=frozenset({"cached_len", "candidates"}),
)
H2D = Kind("h2d", ("bytes",), {"bytes": 6}, fewest=6, select=_select_copies)
KINDS = {kind.name: kind for kind in (GEMM, ATTENTION, INCREMENTAL, HSTU_BLOCK, H2D)}


def read_measurements(
    path: Path, kind: Kind, gpu: str | None = None, engine: str | None = None
) -> Measurements:
    """Read and check one file.

    Args:
        path: of the CSV.
        kind: of measurements that it holds.
        gpu: whose they have to be; by default the file's commonest.
        engine: part of the ``source`` text that is wanted; by default the one with most shapes.
    """
    cells = _read_cells(path, kind)
    gpu = (
        family(gpu)
        if gpu
        else Counter(family(c["hardware"]) for _, c in cells).most_common(1)[0][0]
    )
    note = ""
    if kind.select:
        kept, note = kind.select(cells, gpu)
        if not kept:
            raise ConfigError(f"{path}: {note}")
        cells = [cells[index] for index in kept]
    _refuse_other_gpu(path, cells, gpu)
    unit = _one_unit(path, cells, kind)
    rows = [_row(path, line, row, kind, unit) for line, row in cells]
    tables = _tables(path, kind, rows)
    source = _engine(path, tables, engine)
    others = {name: table for name, table in tables.items() if name != source}
    _refuse_degenerate(path, kind, tables[source])
    hardware = Counter(row.cells["hardware"] for row in rows if row.source == source)
    commonest = hardware.most_common(1)[0][0]
    return Measurements(path, kind, source, commonest, tables[source], others, note)


def _read_cells(path: Path, kind: Kind) -> list[tuple[int, dict[str, str]]]:
    """Line number and text of every cell; all columns that are needed are there."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True, restval="")
            header = [name.strip() for name in reader.fieldnames or ()]
            needed = (*kind.dimensions, "value", "unit", "hardware")
            missing = [name for name in needed if name not in header]
            if missing:
                raise ConfigError(
                    f"{path}: no column {missing[0]!r}{nearest(missing[0], header)}; a file of "
                    f"{kind.name} measurements has the columns {', '.join(needed)}"
                )
            reader.fieldnames = header
            rows = [
                (reader.line_num, {name: (row[name] or "").strip() for name in header})
                for row in reader
            ]
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not a CSV file in UTF-8 ({error})") from None
    if not rows:
        raise ConfigError(f"{path}: has a header and no rows; measure some shapes first")
    return rows


def _refuse_other_gpu(path: Path, rows: Iterable[tuple[int, dict[str, str]]], gpu: str) -> None:
    for line, cells in rows:
        if family(cells["hardware"]) != gpu:
            raise ConfigError(
                f"{path}, row {line}, column hardware: {cells['hardware']!r} is not {gpu}; one fit "
                "is of one GPU: keep its rows only, or name the other GPU with --gpu"
            )


def _one_unit(path: Path, rows: Sequence[tuple[int, dict[str, str]]], kind: Kind) -> str:
    allowed = (*TIME_UNITS, RATE_UNIT) if "bytes" in kind.dimensions else tuple(TIME_UNITS)
    first_line, unit = rows[0][0], rows[0][1]["unit"]
    for line, cells in rows:
        if cells["unit"] not in allowed:
            raise ConfigError(
                f"{path}, row {line}, column unit: {cells['unit']!r} is not one of "
                f"{', '.join(allowed)}; convert the value"
            )
        if cells["unit"] != unit:
            raise ConfigError(
                f"{path}, column unit: mixed units: row {first_line} is in {unit}, row {line} in "
                f"{cells['unit']}; convert the values of one of them, so that the file has one unit"
            )
    return unit


def _row(path: Path, line: int, cells: Mapping[str, str], kind: Kind, unit: str) -> Row:
    shape = tuple(_number(path, line, cells, name) for name in kind.dimensions)
    for name, size in zip(kind.dimensions, shape, strict=True):
        least = 0 if name in kind.may_be_zero else 1
        if size < least or size != round(size):
            raise ConfigError(
                f"{path}, row {line}, column {name}: {cells[name]} is not a whole number of at "
                f"least {least}; correct or remove the row"
            )
    value = _number(path, line, cells, "value")
    if value <= 0:
        raise ConfigError(
            f"{path}, row {line}, column value: {cells['value']} {unit} is not above 0; "
            "measure again or remove the row"
        )
    if unit == RATE_UNIT:
        seconds = shape[kind.dimensions.index("bytes")] / (value * GBPS)
    else:
        seconds = value * TIME_UNITS[unit]
    return Row(line, cells, shape, seconds, cells.get("source", "") or path.name)


def _number(path: Path, line: int, cells: Mapping[str, str], name: str) -> float:
    try:
        number = float(cells[name])
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ConfigError(
            f"{path}, row {line}, column {name}: {cells[name]!r} is not a number; fill it in or "
            "remove the row"
        )
    return number


def _tables(path: Path, kind: Kind, rows: Iterable[Row]) -> dict[str, dict[str, Array]]:
    """Source -> its table, a row per shape: the median of repeated measurements."""
    groups: dict[str, dict[tuple[float, ...], list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        groups[row.source][row.shape].append(row)
    tables = {}
    for source, shapes in groups.items():
        for shape, repeats in shapes.items():
            _refuse_disagreement(path, kind, shape, repeats)
        columns = np.array(sorted(shapes), float).T
        table = dict(zip(kind.dimensions, columns, strict=True))
        times = [median(row.seconds for row in shapes[shape]) for shape in sorted(shapes)]
        tables[source] = {**table, MEASURED: np.array(times)}
    return tables


def _refuse_disagreement(
    path: Path, kind: Kind, shape: tuple[float, ...], repeats: Sequence[Row]
) -> None:
    low = min(repeats, key=lambda row: row.seconds)
    high = max(repeats, key=lambda row: row.seconds)
    if high.seconds >= DISAGREE * low.seconds:
        text = ", ".join(f"{n} {x:g}" for n, x in zip(kind.dimensions, shape, strict=True))
        raise ConfigError(
            f"{path}, rows {low.line} and {high.line}, column value: the same shape ({text}) took "
            f"{low.cells['value']} and {high.cells['value']} {low.cells['unit']}, which differ "
            f"{high.seconds / low.seconds:.1f} times; keep the right one, or measure it again"
        )


def _engine(path: Path, tables: Mapping[str, dict[str, Array]], wanted: str | None) -> str:
    """The source to fit: the one asked for, else the one with most shapes."""
    if wanted is None or len(tables) == 1:
        return max(tables, key=lambda source: tables[source][MEASURED].size)
    found = [source for source in tables if wanted in source]
    if len(found) != 1:
        raise ConfigError(
            f"{path}, column source: {len(found)} of {', '.join(sorted(tables))} contain "
            f"{wanted!r}; name one of them with --engine"
        )
    return found[0]


def _refuse_degenerate(path: Path, kind: Kind, table: Mapping[str, Array]) -> None:
    shapes = table[MEASURED].size
    if shapes < kind.fewest:
        raise ConfigError(
            f"{path}: {shapes} different shapes are too few for the {kind.name} form; half of "
            f"them is never fitted, so measure at least {kind.fewest}"
        )
    for name, least in kind.varied.items():
        values = np.unique(table[name])
        if values.size < least:
            shown = ", ".join(f"{value:g}" for value in values)
            raise ConfigError(
                f"{path}, column {name}: only {shown} in {shapes} shapes, so the {kind.name} form "
                f"cannot tell what depends on {name}; measure at least {least} values of it"
            )
