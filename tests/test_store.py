"""The resumable store: what a kill, a damaged file, other code or a second process may do to it."""

from __future__ import annotations

import io
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from store_jobs import dies, square

from helm_gym import store as room
from helm_gym.errors import ConfigError, SimulationError
from helm_gym.store import ROWS, Codec, digest_of, json_codec, locked, open_store, save_rows

JOBS = {f"piece-{n}": n for n in range(4)}


def complete(folder: Path | None, make: Any = square, **options: Any) -> dict[str, int]:
    with open_store(folder, json_codec(int)) as store:
        return store.complete(JOBS, make, **options)


def counted(calls: list[int], stop_at: int | None = None) -> Any:
    def make(n: int) -> int:
        if len(calls) == stop_at:
            raise KeyboardInterrupt
        calls.append(n)
        return square(n)

    return make


SQUARES = {key: n * n for key, n in JOBS.items()}


# Going on


@pytest.mark.parametrize("processes", [1, 2])
def test_pieces_come_in_the_order_of_the_jobs_and_are_made_once(
    tmp_path: Path, processes: int
) -> None:
    found = complete(tmp_path, processes=processes)
    assert list(found.items()) == list(SQUARES.items())
    assert complete(tmp_path, lambda n: pytest.fail("made again")) == SQUARES
    assert sorted(path.name for path in tmp_path.glob("[!.]*")) == [f"{key}.json" for key in JOBS]


def test_ctrl_c_keeps_what_is_done_and_says_so(tmp_path: Path) -> None:
    calls: list[int] = []
    with pytest.raises(KeyboardInterrupt, match=f"2 finished pieces are kept in {tmp_path}"):
        complete(tmp_path, counted(calls, stop_at=2))
    assert complete(tmp_path, counted(calls)) == SQUARES
    assert calls == [0, 1, 2, 3]


def test_ctrl_c_ends_the_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = room.as_completed

    def interrupted(futures: Any) -> Any:
        yield next(iter(done(futures)))
        raise KeyboardInterrupt

    monkeypatch.setattr(room, "as_completed", interrupted)
    before = set(multiprocessing.active_children())  # other tests' pools end when they are idle
    with pytest.raises(KeyboardInterrupt, match="1 finished pieces are kept"):
        complete(tmp_path, processes=2)
    assert not set(multiprocessing.active_children()) - before
    assert len(list(tmp_path.glob("*.json"))) == 1


SLOW = """
import sys, time
from pathlib import Path
from helm_gym.store import json_codec, open_store

def make(n):
    if n == 2:
        print("begun", flush=True)
        time.sleep(60)
    return n * n

with open_store(Path(sys.argv[1]), json_codec(int)) as store:
    store.complete({f"piece-{n}": n for n in range(4)}, make)
"""


def test_kill_9_loses_nothing_that_is_finished(tmp_path: Path) -> None:
    run = subprocess.Popen(
        [sys.executable, "-c", SLOW, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert run.stdout is not None and run.stdout.readline() == "begun\n"
    with pytest.raises(ConfigError, match="another process writes here"):
        complete(tmp_path)
    run.send_signal(signal.SIGKILL)
    run.wait()
    run.stdout.close()
    (tmp_path / ".piece-2.json.1.tmp").write_text("half")  # as a kill while writing leaves it
    calls: list[int] = []
    assert complete(tmp_path, counted(calls)) == SQUARES
    assert calls == [2, 3]
    assert not list(tmp_path.glob("*.tmp"))


WORKERS = """
import os, sys, time
from helm_gym.processes import worker_pool

def begin():
    with worker_pool(2) as pool:
        pids = {pool.submit(os.getpid).result()}
        print(*pids, flush=True)
        time.sleep(60)

if __name__ == "__main__":
    begin()
"""


@pytest.mark.skipif(os.name != "posix", reason="looks for a process by its id")
def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    file = tmp_path / "parent.py"
    file.write_text(WORKERS)
    run = subprocess.Popen([sys.executable, str(file)], stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    worker = int(run.stdout.readline())
    run.send_signal(signal.SIGKILL)
    run.wait()
    run.stdout.close()
    until = time.monotonic() + 20.0
    while time.monotonic() < until and _alive(worker):
        time.sleep(0.1)
    assert not _alive(worker)


def _alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_a_worker_that_dies_is_no_traceback(tmp_path: Path) -> None:
    with pytest.raises(SimulationError, match="a worker process died"):
        complete(tmp_path, dies, processes=2)


# What is not used


@pytest.mark.parametrize("text", ["", "{", '"nine"', "\x00\xff"])
def test_a_damaged_piece_is_named_and_made_again(tmp_path: Path, text: str) -> None:
    complete(tmp_path)
    (tmp_path / "piece-3.json").write_text(text)
    calls: list[int] = []
    with pytest.warns(UserWarning, match=r"piece-3\.json is damaged and made again"):
        assert complete(tmp_path, counted(calls)) == SQUARES
    assert calls == [3]
    assert complete(tmp_path, lambda n: pytest.fail("made again")) == SQUARES


def test_another_key_is_another_piece(tmp_path: Path) -> None:
    """So other code is, whose digest is part of a key."""
    calls: list[int] = []
    with open_store(tmp_path, json_codec(int)) as store:
        for code in ("old", "new", "old"):
            store.piece(digest_of("scenario", 1, code), partial(counted(calls), 3))
        assert (store.reused, store.made) == (1, 2)
    assert len(calls) == 2


def test_digests_tell_apart_what_differs() -> None:
    told = [("a", "b"), ("ab",), ("a", ["b"]), ("a", None), (1,), (1.5,), ("1",), ()]
    assert len({digest_of(*parts) for parts in told}) == len(told)
    assert digest_of((1, 2)) == digest_of([1, 2])  # JSON knows no tuples
    assert len(digest_of()) == 16


# Folders


def test_without_a_folder_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert complete(None) == SQUARES
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match=r"file/.*cannot be written"):
        complete(tmp_path / "file" / "pieces")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigError, match="cannot be written"):
        complete(tmp_path)
    tmp_path.chmod(0o700)


def test_a_full_disk_is_named_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    def full(file: Any, piece: int) -> None:
        file.write(b"1")
        if piece == 4:
            raise OSError(28, "No space left on device")

    codec = Codec("txt", full, lambda file: int(file.read()))
    with pytest.raises(ConfigError, match=r"piece-2\.txt: cannot be written \(No space"):
        with open_store(tmp_path, codec) as store:
            store.complete(JOBS, square)
    assert sorted(path.name for path in tmp_path.glob("*piece*")) == ["piece-0.txt", "piece-1.txt"]


def test_one_process_waits_for_another_if_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = iter([False, False, True])
    monkeypatch.setattr(room, "try_lock", lambda descriptor: next(answers))
    monkeypatch.setattr(room, "LOOK_S", 0.0)
    with locked(tmp_path, wait=True):
        pass
    assert f"{tmp_path}: waiting for another process" in capsys.readouterr().err


# Codecs


def test_floats_come_back_to_the_bit(tmp_path: Path) -> None:
    values = [0.1 + 0.2, 1e-300, math.inf, -0.0]
    with open_store(tmp_path, json_codec(tuple[float, ...])) as store:
        store.put("x", tuple(values))
        found = store.get("x")
    assert found == tuple(values) and math.copysign(1.0, found[-1]) == -1.0


def test_rows_come_back_with_what_they_lack(tmp_path: Path) -> None:
    rows = [{"a": 1, "b": [0.5]}, {"a": 2, "c": "x"}]
    save_rows(rows, tmp_path / "new" / "rows.parquet")
    found = ROWS.read(io.BytesIO((tmp_path / "new" / "rows.parquet").read_bytes()))
    assert found == [{"a": 1, "b": [0.5], "c": None}, {"a": 2, "b": None, "c": "x"}]


def test_every_whole_piece_is_listed(tmp_path: Path) -> None:
    complete(tmp_path)
    (tmp_path / "piece-0.json").write_text("{")
    with open_store(tmp_path, json_codec(int)) as store:
        with pytest.warns(UserWarning, match="damaged"):
            assert store.pieces() == [1, 4, 9]
