"""The resumable store: finished pieces of a long computation, so that a stopped one goes on.

A piece is a file in a folder. Its name holds a digest of everything that the piece depends on, so a
piece that would come out differently today is not found, and is made. Files appear whole or not at
all; one that cannot be read is named in a warning and made again.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Generic, TypeVar

from helm_gym.console import progress_bar
from helm_gym.errors import ConfigError, SimulationError
from helm_gym.files import remove_leftovers, replacing, try_lock
from helm_gym.processes import worker_pool

JobT = TypeVar("JobT")
PieceT = TypeVar("PieceT")
LOOK_S = 0.5  # between two looks at a lock that somebody else holds

# Keys


def digest_of(*parts: Any) -> str:
    """16 hexadecimal digits of values that JSON can hold."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


# Codecs


@dataclass(frozen=True)
class Codec(Generic[PieceT]):
    """How pieces of one type are written to a file and read back."""

    extension: str  # of the files, such as ``json``
    write: Callable[[BinaryIO, PieceT], object]
    read: Callable[[BinaryIO], PieceT]  # raises anything for a file that is damaged


def json_codec(kind: Any = Any) -> Codec[Any]:
    """Pieces as JSON; floats keep every bit, infinities and NaN too.

    Args:
        kind: type that is checked and rebuilt on reading, such as ``list[Effect]``; as JSON has it
            by default.
    """
    from pydantic import TypeAdapter

    adapter: TypeAdapter[Any] = TypeAdapter(kind)

    def write(file: BinaryIO, piece: Any) -> None:
        file.write(json.dumps(adapter.dump_python(piece, mode="json")).encode() + b"\n")

    return Codec("json", write, lambda file: adapter.validate_python(json.load(file)))


def _write_rows(file: BinaryIO, rows: Sequence[Mapping[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = list(dict.fromkeys(name for row in rows for name in row))
    table = pa.Table.from_pylist([{name: row.get(name) for name in names} for row in rows])
    pq.write_table(table, file, compression="zstd")


def _read_rows(file: BinaryIO) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = pq.read_table(file).to_pylist()
    return rows


ROWS: Codec[list[dict[str, Any]]] = Codec("parquet", _write_rows, _read_rows)
"""Rows as dictionaries, as Parquet; a column that a row lacks is null."""


# Folders


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Make the folder of a file, and report what the system refuses in the block by its name.

    Raises:
        ConfigError: the disk is full, the folder is read-only, or the like.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror or error})") from None


def save_rows(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write rows as one Parquet file, whole or not at all.

    Raises:
        ConfigError: it cannot be written.
    """
    with writing(path), replacing(path) as file:
        _write_rows(file, rows)


@contextmanager
def locked(folder: Path, wait: bool = False) -> Iterator[None]:
    """Make a folder and keep other processes from writing there; remove what a kill left over.

    The system opens the lock when this process ends, however it ends.

    Args:
        folder: made if it is missing.
        wait: wait for a process that writes there now, instead of refusing.

    Raises:
        ConfigError: another process writes there, or nobody can.
    """
    with writing(folder / ".lock"):
        file = (folder / ".lock").open("w")
    with file:
        if not try_lock(file.fileno()):
            if not wait:
                raise ConfigError(
                    f"{folder}: another process writes here; wait for it, stop it, or name "
                    "another folder"
                )
            print(f"{folder}: waiting for another process that writes here", file=sys.stderr)
            while not try_lock(file.fileno()):
                time.sleep(LOOK_S)
        with writing(folder):
            remove_leftovers(folder)
        yield


# The store


@contextmanager
def open_store(
    folder: Path | None, codec: Codec[PieceT], *, wait: bool = False
) -> Iterator[Store[PieceT]]:
    """Open a folder of finished pieces, which no other process may write meanwhile.

    Args:
        folder: made if it is missing; None keeps nothing.
        codec: how pieces are written and read.
        wait: wait for another process that writes there now, and then read what it made.

    Raises:
        ConfigError: another process writes there, or the folder cannot be written.
        KeyboardInterrupt: after Ctrl-C in the block; the message says what is kept.
    """
    if folder is None:
        yield Store(None, codec)
        return
    with locked(folder, wait):
        store = Store(folder, codec)
        try:
            yield store
        except KeyboardInterrupt as error:
            if str(error):  # says already how to go on
                raise
            kept = f"{store.reused + store.made} finished pieces are kept in {folder}"
            raise KeyboardInterrupt(
                f"stopped; {kept}, and the same command goes on with the rest"
            ) from None


class Store(Generic[PieceT]):
    """Finished pieces in a folder; :func:`open_store` opens one."""

    def __init__(self, folder: Path | None, codec: Codec[PieceT]) -> None:
        self.reused = 0  # pieces that were there
        self.made = 0  # pieces that were not
        self._folder, self._codec = folder, codec

    def path(self, key: str) -> Path | None:
        """File of a piece, whether it is there or not; None if nothing is kept."""
        return None if self._folder is None else self._folder / f"{key}.{self._codec.extension}"

    def get(self, key: str) -> PieceT | None:
        """A piece, or None if it is not there or is damaged."""
        found = self._read(self.path(key))
        self.reused += found is not None
        return found

    def _read(self, path: Path | None) -> PieceT | None:
        if path is None or not path.is_file():
            return None
        try:
            with path.open("rb") as file:
                return self._codec.read(file)
        except Exception as error:  # libraries raise many types for a file that was cut
            warnings.warn(f"{path} is damaged and made again ({error})", stacklevel=3)
            return None

    def put(self, key: str, piece: PieceT) -> None:
        """Keep a piece.

        Raises:
            ConfigError: it cannot be written.
        """
        self.made += 1
        path = self.path(key)
        if path is not None:
            with writing(path), replacing(path) as file:
                self._codec.write(file, piece)

    def piece(self, key: str, make: Callable[[], PieceT]) -> PieceT:
        """The piece that is kept, or a new one."""
        found = self.get(key)
        if found is None:
            found = make()
            self.put(key, found)
        return found

    def pieces(self) -> list[PieceT]:
        """Every piece that is there and whole, also those that nobody asked for, sorted by key."""
        folder, extension = self._folder, self._codec.extension
        paths = [] if folder is None else sorted(folder.glob(f"*.{extension}"))
        return [piece for path in paths if (piece := self._read(path)) is not None]

    def complete(
        self,
        jobs: Mapping[str, JobT],
        make: Callable[[JobT], PieceT],
        *,
        processes: int = 1,
        title: str = "",
        progress: bool = False,
        transient: bool = True,
    ) -> dict[str, PieceT]:
        """Make the pieces that are missing, and keep each as soon as it is done.

        Args:
            jobs: what ``make`` is given, by the key of its piece.
            make: makes one piece; with several processes a function of a module, or a partial.
            processes: how many pieces are made at a time; results do not depend on it.
            title: what the progress bar says is being made.
            progress: show a progress bar on stderr.
            transient: remove the bar at the end.

        Returns:
            The pieces of all jobs, by key, in their order.

        Raises:
            ConfigError: a piece cannot be written.
            SimulationError: a worker process died.
        """
        found = {key: piece for key in jobs if (piece := self.get(key)) is not None}
        missing = {key: job for key, job in jobs.items() if key not in found}
        wanted, done = progress and bool(missing), len(found)
        with progress_bar(title, len(jobs), wanted=wanted, done=done, transient=transient) as bar:

            def keep(key: str, piece: PieceT) -> None:
                self.put(key, piece)
                found[key] = piece
                bar.advance(note=f"{len(found)}/{len(jobs)}")

            _make_all(missing, make, processes, keep)
        return {key: found[key] for key in jobs}


def _make_all(
    jobs: Mapping[str, JobT],
    make: Callable[[JobT], PieceT],
    processes: int,
    keep: Callable[[str, PieceT], None],
) -> None:
    if processes == 1 or len(jobs) < 2:
        for key, job in jobs.items():
            keep(key, make(job))
        return
    try:
        with worker_pool(min(processes, len(jobs))) as pool:
            keys = {pool.submit(make, job): key for key, job in jobs.items()}
            for future in as_completed(keys):
                keep(keys[future], future.result())
    except BrokenProcessPool:
        raise SimulationError(
            "a worker process died, perhaps for lack of memory; what was finished is kept, and the "
            "same command with fewer processes goes on"
        ) from None
