"""Reading users' logs: Parquet or CSV, checked in full before anything is simulated.

Every refusal is a :class:`LogError` that names file, column and row. Rows are counted from 1 and
leave a CSV header out. ``docs/logs.md`` describes the format for users.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
from numpy.typing import NDArray

from helm_gym.errors import LogError, nearest

TimeUnit = Literal["s", "ms", "us"]
Floats = NDArray[np.float64]
Rows = NDArray[np.int64]

TICKS_PER_S: dict[str, float] = {"s": 1.0, "ms": 1e3, "us": 1e6}
OTHER_TICKS = {**TICKS_PER_S, "ns": 1e9}  # units that a clock may turn out to have
YEAR_1990, YEAR_2100 = 631_152_000.0, 4_102_444_800.0  # Unix time, s
CENTURY_S = 100 * 365.25 * 86_400.0
CSV_ENDINGS = {".csv": ",", ".tsv": "\t"}
PARQUET_MAGIC = b"PAR1"
WHOLE = r"^(0|-?[1-9]\d{0,17})$"  # 007 stays text: it may not be 7
NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"


@dataclass(frozen=True)
class InteractionLog:
    """Who looked at what and when, in order of time; ids are coded from 0 in sorted order."""

    user: NDArray[np.int32]  # (R,) index into user_ids
    item: NDArray[np.int32]  # (R,) index into item_ids
    time_s: Floats  # (R,) not decreasing; all 0 if the log was read without its clock
    row: Rows  # (R,) row of the file
    user_ids: NDArray[Any]  # (U,) as the file names them
    item_ids: NDArray[Any]  # (I,)
    notes: tuple[str, ...] = ()  # what was done to the rows


def read_interactions(
    path: str | Path, time_unit: TimeUnit = "s", time_column: str | None = "timestamp"
) -> InteractionLog:
    """Read a log with columns ``user_id``, ``item_id`` and a time.

    Args:
        path: a Parquet or CSV file, sorted by time, or by user and then time.
        time_unit: unit of the time column; a column of Arrow type timestamp carries its own.
        time_column: name of the time column, or None to read users and items only.

    Raises:
        LogError: naming file, column and row of the first thing that cannot be used.
    """
    where = _File(path)
    columns = ["user_id", "item_id"] + ([] if time_column is None else [time_column])
    table = where.table(columns)
    user, user_ids = where.codes(table.column("user_id"), "user_id")
    item, item_ids = where.codes(table.column("item_id"), "item_id")
    row = np.arange(1, user.size + 1, dtype=np.int64)
    if time_column is None:
        return InteractionLog(user, item, np.zeros(user.size), row, user_ids, item_ids)
    time = where.seconds(table.column(time_column), time_column, time_unit)
    notes: tuple[str, ...] = ()
    if not where.is_by_time(time, user, time_column):
        order = np.argsort(time, kind="stable")
        user, item, time, row = user[order], item[order], time[order], row[order]
        notes = ("The file is sorted by user, then time; its rows were put in order of time.",)
    return InteractionLog(user, item, time, row, user_ids, item_ids, notes)


def read_arrivals(
    path: str | Path, time_unit: TimeUnit = "s", time_column: str = "timestamp"
) -> Floats:
    """Read a trace of arrival instants, sorted by time.

    Returns:
        (R,) instants in s, not decreasing.

    Raises:
        LogError: naming file, column and row of the first thing that cannot be used.
    """
    where = _File(path)
    time = where.seconds(where.table([time_column]).column(time_column), time_column, time_unit)
    falls = np.flatnonzero(np.diff(time) < 0)
    if falls.size:
        where.refuse_order(time, int(falls[0]) + 1, time_column, "sort the rows by time")
    return time


class _File:
    """One log file: how to open it, and how to complain about it."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()

    def fail(self, problem: str, column: str | None = None, row: int | None = None) -> NoReturn:
        """Raise a LogError; ``row`` counts from 0 here and from 1 in the message."""
        place = [] if column is None else [f"column {column!r}"]
        place += [] if row is None else [f"row {row + 1}"]
        raise LogError(
            f"{self.path}: {', '.join(place) + ': ' if place else ''}{problem}"
        ) from None

    def table(self, columns: list[str]) -> Any:
        """Read ``columns`` into an Arrow table that has at least one row."""
        import pyarrow as pa

        try:
            start = self._first_bytes()
            is_parquet = start == PARQUET_MAGIC or self.path.suffix in {".parquet", ".pq"}
            table = self._parquet(start, columns) if is_parquet else self._csv(columns)
        except FileNotFoundError:
            self.fail("there is no such file")
        except (OSError, pa.ArrowException) as error:
            problem = _first_line(error)
            found = re.search(r"Row #(\d+): (.*)", problem)  # Arrow counts the header too
            if found:
                self.fail(found[2], row=int(found[1]) - 2)
            self.fail(f"cannot be read: {problem}")
        if table.num_rows == 0:
            self.fail("has columns but no rows")
        return table

    def _first_bytes(self) -> bytes:
        if self.path.is_dir():
            self.fail("is a folder; give one Parquet or CSV file")
        with self.path.open("rb") as stream:
            start = stream.read(len(PARQUET_MAGIC))
        if not start:
            self.fail("is empty")
        return start

    def _parquet(self, start: bytes, columns: list[str]) -> Any:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if start != PARQUET_MAGIC:
            self.fail("is named like a Parquet file but is none; name CSV files .csv")
        try:
            with pq.ParquetFile(self.path) as file:
                self._require(columns, file.schema_arrow.names)
                return file.read(columns=columns)
        except (OSError, pa.ArrowException) as error:
            self.fail(f"is a truncated or damaged Parquet file ({_first_line(error)})")

    def _csv(self, columns: list[str]) -> Any:
        import pyarrow as pa
        import pyarrow.csv as pacsv

        suffix = Path(self.path.stem).suffix if self.path.suffix == ".gz" else self.path.suffix
        if suffix not in CSV_ENDINGS:
            self.fail(f"ending {self.path.suffix!r} is not known; use .parquet, .csv or .tsv")
        # One thread: only then do Arrow's messages name the row of a malformed line.
        reading = pacsv.ReadOptions(use_threads=False)
        parsing = pacsv.ParseOptions(delimiter=CSV_ENDINGS[suffix])
        with pacsv.open_csv(self.path, read_options=reading, parse_options=parsing) as head:
            self._require(columns, head.schema.names)
        # Text first: Arrow guesses types from the first block and gives up where a later differs.
        converting = pacsv.ConvertOptions(
            include_columns=columns,
            column_types={name: pa.string() for name in columns},
            strings_can_be_null=True,
        )
        return pacsv.read_csv(self.path, reading, parsing, converting)

    def _require(self, columns: list[str], present: list[str]) -> None:
        for name in columns:
            if name not in present:
                no_header = all(_is_number(label) for label in present)
                hint = "; the first line must name the columns" if no_header else ""
                self.fail(f"there is no column {name!r}{hint or nearest(name, present)}")
            if present.count(name) > 1:
                self.fail("the file has two columns of this name", name)

    def codes(self, column: Any, name: str) -> tuple[NDArray[np.int32], NDArray[Any]]:
        """Number the distinct values of an id column from 0, in sorted order."""
        import pyarrow as pa
        import pyarrow.compute as pc

        column = column.combine_chunks()
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        self._refuse_missing(column, name)
        if pa.types.is_floating(column.type):  # a tool that met gaps wrote 7 as 7.0
            values = column.to_numpy()
            broken = np.flatnonzero((values % 1 != 0) | (np.abs(values) >= 2**53))
            if broken.size:
                value = column[int(broken[0])].as_py()
                self.fail(f"id {value!r} is neither a whole number nor text", name, int(broken[0]))
            column = column.cast(pa.int64())
        if not (pa.types.is_integer(column.type) or _is_text(column.type)):
            self.fail(f"ids must be whole numbers or text, not {column.type}", name)
        if _is_text(column.type) and pc.all(pc.match_substring_regex(column, WHOLE)).as_py():
            column = column.cast(pa.int64())
        coded = column.dictionary_encode()
        labels = coded.dictionary.to_numpy(zero_copy_only=False)
        order = np.argsort(labels, kind="stable")
        rank = np.empty(order.size, np.int32)
        rank[order] = np.arange(order.size, dtype=np.int32)
        return rank[coded.indices.to_numpy()], labels[order]

    def seconds(self, column: Any, name: str, unit: TimeUnit) -> Floats:
        """Turn a time column into finite seconds of at least 0 in a plausible range."""
        import pyarrow as pa

        column = column.combine_chunks()
        self._refuse_missing(column, name)
        if pa.types.is_timestamp(column.type):
            column = column.cast(pa.timestamp("us", tz=column.type.tz), safe=False)
            column, unit = column.cast(pa.int64()), "us"
        values = self._numbers(column, name)
        bad = np.flatnonzero(~np.isfinite(values))
        if bad.size:
            self.fail(f"time {values[bad[0]]} is not finite", name, int(bad[0]))
        bad = np.flatnonzero(values < 0)
        if bad.size:
            self.fail(
                f"time {values[bad[0]]:.15g} is negative; give Unix time, or time since the log's "
                "beginning",
                name,
                int(bad[0]),
            )
        self._check_unit(values, name, unit)
        return values / TICKS_PER_S[unit]

    def _numbers(self, column: Any, name: str) -> Floats:
        import pyarrow as pa
        import pyarrow.compute as pc

        if _is_text(column.type):
            column = pc.utf8_trim_whitespace(column)
            numeric = pc.match_substring_regex(column, NUMBER).to_numpy(zero_copy_only=False)
            if not numeric.all():
                row = int(np.argmin(numeric))
                self.fail(
                    f"time {column[row].as_py()!r} is not a number; write Unix time in s, ms or us",
                    name,
                    row,
                )
        elif not (
            pa.types.is_integer(column.type)
            or pa.types.is_floating(column.type)
            or pa.types.is_decimal(column.type)
        ):
            self.fail(f"times must be numbers, not {column.type}", name)
        return np.asarray(column.cast(pa.float64(), safe=False).to_numpy(), np.float64)

    def _check_unit(self, values: Floats, name: str, unit: TimeUnit) -> None:
        """Refuse clocks that make sense in another unit only."""
        low, high = float(values.min()), float(values.max())
        seconds = high / TICKS_PER_S[unit]
        likely = [
            other
            for other, ticks in OTHER_TICKS.items()
            if YEAR_1990 <= low / ticks and high / ticks <= YEAR_2100
        ]
        if likely and likely != [unit]:
            row, problem = int(np.argmin(values)), f"as {likely[0]} it is Unix time"
        elif seconds > YEAR_2100:
            row, problem = int(np.argmax(values)), "that is after the year 2100"
        elif seconds - low / TICKS_PER_S[unit] > CENTURY_S:
            row, problem = int(np.argmax(values)), "the log would span more than a century"
        else:
            return
        advice = f"state time_unit {likely[0]!r}" if likely else "check the unit, or this row"
        if likely == ["ns"]:
            advice = "divide the column by 1000 and state time_unit 'us'"
        self.fail(f"time {values[row]:.15g} cannot be in {unit}: {problem}; {advice}", name, row)

    def _refuse_missing(self, column: Any, name: str) -> None:
        import pyarrow.compute as pc

        missing = pc.is_null(column, nan_is_null=True).to_numpy(zero_copy_only=False)
        if missing.any():
            self.fail("the value is missing (null or NaN)", name, int(np.argmax(missing)))

    def is_by_time(self, time: Floats, user: NDArray[np.int32], name: str) -> bool:
        """Say whether rows lie in order of time (else by user, then time), or refuse them."""
        falls = np.flatnonzero(np.diff(time) < 0) + 1
        if falls.size == 0:
            return True
        begins = np.concatenate(([True], np.diff(user) != 0))
        blocks = np.flatnonzero(begins)
        again = np.ones(blocks.size, bool)  # users that had a block before
        again[np.unique(user[blocks], return_index=True)[1]] = False
        broken = np.concatenate((blocks[again], falls[~begins[falls]]))
        if broken.size == 0:
            return False
        # The layout that is broken less often is the one that was meant.
        row = int(falls[0] if falls.size <= broken.size else broken.min())
        self.refuse_order(time, row, name, "sort the rows by time, or by user_id and then by time")

    def refuse_order(self, time: Floats, row: int, name: str, advice: str) -> NoReturn:
        """Complain about the first row that is out of order."""
        if time[row] < time[row - 1]:
            what = f"{time[row]:.15g} s comes after {time[row - 1]:.15g} s"
        else:
            what = "a user comes back after another one"
        self.fail(f"rows are not in order ({what}); {advice}", name, row)


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__
