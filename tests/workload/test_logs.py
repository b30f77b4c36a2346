"""Logs are read as they stand or refused with file, column and row."""

from __future__ import annotations

import datetime as dt
import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helm_gym.errors import LogError
from helm_gym.workload.logs import read_arrivals, read_interactions

DAY = 1_511_540_000  # 2017-11-24, Unix time in s


def csv(folder: Path, *rows: str, header: str = "user_id,item_id,timestamp") -> Path:
    path = folder / "log.csv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def parquet(folder: Path, **columns: Any) -> Path:
    path = folder / "log.parquet"
    pq.write_table(pa.table(columns), path)
    return path


def good(**changes: Any) -> dict[str, Any]:
    return {
        "user_id": [1, 2, 1],
        "item_id": [7, 8, 9],
        "timestamp": [DAY, DAY + 5, DAY + 9],
    } | changes


def refusal(path: Path, *args: Any) -> str:
    with pytest.raises(LogError) as caught:
        read_interactions(path, *args)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value).removeprefix(f"{path}: ")


def test_a_log_in_order_of_time_is_read_as_it_stands(tmp_path: Path) -> None:
    log = read_interactions(parquet(tmp_path, **good(user_id=[30, 20, 30], item_id=[5, 5, 4])))
    assert log.user.tolist() == [1, 0, 1]
    assert log.user_ids.tolist() == [20, 30]
    assert log.item.tolist() == [1, 1, 0]
    assert log.item_ids.tolist() == [4, 5]
    assert log.time_s.tolist() == [DAY, DAY + 5, DAY + 9]
    assert log.row.tolist() == [1, 2, 3]
    assert log.notes == ()


def test_csv_and_parquet_of_the_same_rows_are_the_same_log(tmp_path: Path) -> None:
    rows = [("b", 10, 0.5), ("a", 9, 1.25), ("b", 100, 1.25)]
    text = [f" {time} ,{user},x,{item}" for user, item, time in rows]
    one = read_interactions(csv(tmp_path, *text, header="timestamp,user_id,other,item_id"))
    users, items, times = zip(*rows, strict=True)
    two = read_interactions(parquet(tmp_path, user_id=users, item_id=items, timestamp=times))
    assert one.user_ids.tolist() == two.user_ids.tolist() == ["a", "b"]
    assert one.item_ids.tolist() == two.item_ids.tolist() == [9, 10, 100]  # numbers, not text
    for name in ("user", "item", "time_s", "row"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


def test_text_ids_with_leading_zeros_stay_different(tmp_path: Path) -> None:
    log = read_interactions(csv(tmp_path, "7,1,0", "007,1,1", "7,1,2"))
    assert log.user_ids.tolist() == ["007", "7"]
    assert log.user.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["x", "y", "x"]).dictionary_encode(),
        pa.array(["x", "y", "x"], pa.large_string()),
        pa.array([4.0, 5.0, 4.0]),
        pa.array([2**63 + 1, 2**63 + 2, 2**63 + 1], pa.uint64()),
    ],
    ids=lambda column: str(column.type),
)
def test_ids_may_be_of_many_types(tmp_path: Path, column: pa.Array) -> None:
    assert read_interactions(parquet(tmp_path, **good(user_id=column))).user.tolist() == [0, 1, 0]


@pytest.mark.parametrize(("unit", "ticks"), [("s", 1), ("ms", 1000), ("us", 1_000_000)])
def test_units_are_converted(tmp_path: Path, unit: str, ticks: int) -> None:
    times = [DAY * ticks, DAY * ticks + 3, DAY * ticks + 3 * ticks]
    log = read_interactions(parquet(tmp_path, **good(timestamp=times)), unit)
    np.testing.assert_allclose(log.time_s - DAY, [0, 3 / ticks, 3], atol=3e-7)


def test_an_arrow_timestamp_carries_its_own_unit(tmp_path: Path) -> None:
    instants = [dt.datetime(2017, 11, 25, 0, 0, s, tzinfo=dt.timezone.utc) for s in (0, 1, 3)]
    for unit in ("s", "ms", "us", "ns"):
        times = pa.array(instants, pa.timestamp(unit, tz="Asia/Shanghai"))
        log = read_interactions(parquet(tmp_path, **good(timestamp=times)), "ms")
        np.testing.assert_array_equal(log.time_s, [t.timestamp() for t in instants])


def test_a_log_sorted_by_user_is_put_in_order_of_time(tmp_path: Path) -> None:
    path = csv(tmp_path, "9,1,10", "9,2,30", "3,3,5", "3,4,30", "3,5,40")
    log = read_interactions(path)
    assert log.time_s.tolist() == [5, 10, 30, 30, 40]
    assert log.row.tolist() == [3, 1, 2, 4, 5]  # ties keep the order of the file
    assert "sorted by user" in log.notes[0]


def test_a_log_may_be_read_without_its_clock(tmp_path: Path) -> None:
    log = read_interactions(csv(tmp_path, "1,5", "2,6", header="user_id,item_id"), "s", None)
    assert log.time_s.tolist() == [0, 0]
    assert log.item_ids.tolist() == [5, 6]


def test_compressed_and_tab_separated_files_are_read(tmp_path: Path) -> None:
    rows = "user_id\titem_id\ttimestamp\n1\t2\t3\n"
    (tmp_path / "log.tsv").write_text(rows)
    with gzip.open(tmp_path / "log.csv.gz", "wt") as stream:
        stream.write(rows.replace("\t", ","))
    for name in ("log.tsv", "log.csv.gz"):
        assert read_interactions(tmp_path / name).time_s.tolist() == [3]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"timestamp": [DAY, None, DAY + 9]}, "column 'timestamp', row 2: the value is missing"),
        ({"timestamp": [DAY, DAY, float("nan")]}, "column 'timestamp', row 3: the value is miss"),
        ({"timestamp": [DAY, float("inf"), DAY]}, "column 'timestamp', row 2: time inf is not f"),
        ({"timestamp": [-4, 0, 1]}, "column 'timestamp', row 1: time -4 is negative"),
        ({"timestamp": ["1", "2", "3rd"]}, "column 'timestamp', row 3: time '3rd' is not a numb"),
        ({"timestamp": [True, True, False]}, "column 'timestamp': times must be numbers, not bo"),
        ({"timestamp": [DAY, DAY + 9, DAY + 5]}, "column 'timestamp', row 3: rows are not in ord"),
        ({"user_id": [1, None, 2]}, "column 'user_id', row 2: the value is missing"),
        ({"item_id": [None, "a", "b"]}, "column 'item_id', row 1: the value is missing"),
        ({"item_id": [1.0, 2.0, 2.5]}, "column 'item_id', row 3: id 2.5 is neither"),
        ({"item_id": [1.0, 1e300, 2.0]}, "column 'item_id', row 2: id 1e+300 is neither"),
        ({"user_id": [[1], [2], [3]]}, "column 'user_id': ids must be whole numbers or text"),
    ],
)
def test_a_bad_value_is_refused_with_its_place(
    tmp_path: Path, changes: dict[str, Any], problem: str
) -> None:
    assert refusal(parquet(tmp_path, **good(**changes))).startswith(problem)


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("1,2,", "column 'timestamp', row 2: the value is missing"),
        ("1,2,NaN", "column 'timestamp', row 2: the value is missing"),
        (",2,6", "column 'user_id', row 2: the value is missing"),
        ("1,2,2017-11-25 00:00:01", "column 'timestamp', row 2: time '2017-11-25 00:00:01' is n"),
        ("1,2,-1", "column 'timestamp', row 2: time -1 is negative"),
        ("2,2,4", "column 'timestamp', row 2: rows are not in order (4 s comes after 5 s)"),
    ],
)
def test_a_bad_csv_row_is_refused_with_its_place(tmp_path: Path, row: str, problem: str) -> None:
    assert refusal(csv(tmp_path, "1,2,5", row, "1,3,9")).startswith(problem)


def test_a_ragged_csv_row_is_refused_with_its_place(tmp_path: Path) -> None:
    problem = refusal(csv(tmp_path, "1,2,5", "1,2", "1,3,9"))
    assert problem.startswith("row 2: Expected 3 columns, got 2")


def test_a_bad_value_far_into_a_large_csv_is_found(tmp_path: Path) -> None:
    rows = [f"{i % 97},{i % 31},{i}" for i in range(200_000)]  # several blocks of Arrow's reader
    rows[170_000] = "3,4,soon"
    assert refusal(csv(tmp_path, *rows)).startswith("column 'timestamp', row 170001: time 'soon'")


@pytest.mark.parametrize(
    ("times", "unit", "problem"),
    [
        ([DAY * 1000] * 3, "s", "as ms it is Unix time; state time_unit 'ms'"),
        ([DAY * 10**6] * 3, "s", "as us it is Unix time; state time_unit 'us'"),
        ([DAY * 10**9] * 3, "us", "divide the column by 1000"),
        ([DAY] * 3, "ms", "as s it is Unix time; state time_unit 's'"),
        ([DAY * 1000] * 3, "us", "as ms it is Unix time; state time_unit 'ms'"),
        ([0, 5, 4 * 10**9], "s", "span more than a century"),
        ([DAY, DAY, DAY * 1000], "s", "row 3: time 1511540000000 cannot be in s"),
    ],
)
def test_a_wrong_unit_is_noticed(tmp_path: Path, times: list[int], unit: str, problem: str) -> None:
    assert problem in refusal(parquet(tmp_path, **good(timestamp=times)), unit)


@pytest.mark.parametrize("unit", ["s", "ms", "us"])
def test_a_clock_that_starts_at_zero_fits_any_unit(tmp_path: Path, unit: str) -> None:
    log = read_interactions(parquet(tmp_path, **good(timestamp=[0, 10, 3_536_999])), unit)
    assert log.time_s[0] == 0


def test_a_missing_column_names_the_nearest(tmp_path: Path) -> None:
    path = csv(tmp_path, "1,2,3", header="user_id,item_id,timestamp_ms")
    assert refusal(path) == "there is no column 'timestamp'; did you mean 'timestamp_ms'?"
    assert read_interactions(path, "ms", "timestamp_ms").time_s.tolist() == [0.003]
    path = parquet(tmp_path, userid=[1], item_id=[2], timestamp=[3])
    assert refusal(path) == "there is no column 'user_id'; did you mean 'userid'?"


def test_a_csv_without_header_is_told_to_have_one(tmp_path: Path) -> None:
    assert "the first line must name the columns" in refusal(csv(tmp_path, header="1,2,3"))


def test_a_column_that_comes_twice_is_refused(tmp_path: Path) -> None:
    path = csv(tmp_path, "1,2,3,4", header="user_id,item_id,timestamp,user_id")
    assert refusal(path) == "column 'user_id': the file has two columns of this name"


def test_a_table_without_rows_is_refused(tmp_path: Path) -> None:
    assert refusal(csv(tmp_path)) == "has columns but no rows"
    empty = {name: pa.array([], pa.int64()) for name in good()}
    assert refusal(parquet(tmp_path, **empty)) == "has columns but no rows"


@pytest.mark.parametrize("name", ["log.csv", "log.parquet"])
def test_an_empty_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    assert refusal(tmp_path / name) == "is empty"


def test_files_that_are_no_logs_are_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "no.csv") == "there is no such file"
    (tmp_path / "dir.csv").mkdir()
    assert refusal(tmp_path / "dir.csv").startswith("is a folder")
    (tmp_path / "log.parquet").write_text("user_id,item_id,timestamp\n1,2,3\n")
    assert "is named like a Parquet file but is none" in refusal(tmp_path / "log.parquet")
    (tmp_path / "log.xlsx").write_bytes(b"PK\x03\x04")
    assert "ending '.xlsx' is not known" in refusal(tmp_path / "log.xlsx")
    (tmp_path / "log.csv.gz").write_bytes(b"\x1f\x8bnot gzip at all")
    assert "cannot be read" in refusal(tmp_path / "log.csv.gz")


@pytest.mark.parametrize("part", [0.1, 0.5, 0.99])
def test_a_truncated_parquet_is_refused(tmp_path: Path, part: float) -> None:
    path = parquet(tmp_path, **good())
    whole = path.read_bytes()
    path.write_bytes(whole[: int(part * len(whole))])
    assert "truncated or damaged Parquet" in refusal(path)


def test_a_parquet_with_damaged_pages_is_refused(tmp_path: Path) -> None:
    n = 5000
    columns = good(user_id=range(n), item_id=range(n), timestamp=range(n))
    path = parquet(tmp_path, **{name: list(values) for name, values in columns.items()})
    damaged = bytearray(path.read_bytes())
    damaged[4:4004] = bytes(4000)  # the footer stays whole
    path.write_bytes(damaged)
    assert "truncated or damaged Parquet" in refusal(path)


@pytest.mark.parametrize(
    ("rows", "row"),
    [
        (["1,1,5", "2,1,4", "1,1,6", "2,1,7"], 2),  # by time, but for row 2
        (["1,1,5", "1,1,8", "2,1,1", "2,1,0", "3,1,0"], 4),  # by user, but for row 4
        (["1,1,5", "1,1,8", "2,1,1", "3,1,0", "1,1,9"], 5),  # by user, but user 1 comes back
    ],
)
def test_disorder_is_placed_where_the_intended_order_breaks(
    tmp_path: Path, rows: list[str], row: int
) -> None:
    assert refusal(csv(tmp_path, *rows)).startswith(f"column 'timestamp', row {row}: rows are not")


def test_arrivals_are_read_and_must_be_in_order(tmp_path: Path) -> None:
    path = parquet(tmp_path, timestamp_us=[10, 10, 2_000_010], tokens=[1, 2, 3])
    assert read_arrivals(path, "us", "timestamp_us").tolist() == [1e-5, 1e-5, 2.00001]
    path = parquet(tmp_path, timestamp=[3, 2])
    with pytest.raises(LogError, match=r"row 2: rows are not in order .* sort the rows by time"):
        read_arrivals(path)
