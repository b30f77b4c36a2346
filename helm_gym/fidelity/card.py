"""The fidelity card: every comparison that the present data allows, run, kept and collected.

A room's findings are kept as JSON under a digest of the code and the data. A run that was stopped
goes on with the rooms that are missing; what neither code nor data changed is not run again.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from helm_gym.errors import ConfigError, nearest
from helm_gym.fidelity.finding import Effort, Finding, Skipped
from helm_gym.files import write_text
from helm_gym.processes import worker_pool
from helm_gym.provenance import code_digest, presets_digest, versions

ROOMS = ("kernels", "links", "emb", "kv", "queues", "workload", "replays")
"""Modules of this package that have ``checks``, in the order of the card."""
SLOWEST_FIRST = ("kernels", "workload", "emb", "queues", "replays", "links", "kv")
DEPENDENCIES = ("numpy", "scipy", "numba", "libcachesim")
DATA = ("calibration", "traces")
KEPT = "stopped; finished rooms are kept in {}, and the same command goes on from there"

Row = Finding | Skipped


@dataclass(frozen=True)
class Results:
    """What every room found."""

    rooms: dict[str, list[Row]]
    effort: Effort

    @property
    def findings(self) -> list[Finding]:
        """Of all rooms."""
        return [row for rows in self.rooms.values() for row in rows if isinstance(row, Finding)]

    @property
    def skipped(self) -> list[Skipped]:
        """Comparisons that were not made."""
        return [row for rows in self.rooms.values() for row in rows if isinstance(row, Skipped)]


def run(
    effort: Effort,
    out: Path,
    *,
    only: Sequence[str] = (),
    processes: int = 2,
    progress: bool = True,
) -> Results:
    """Run the rooms that are not kept in ``out`` yet, and return what all of them found.

    Args:
        effort: data, extent and seed.
        out: folder; ``out/rooms`` keeps the findings.
        only: rooms to run, all by default.
        processes: rooms at a time.
        progress: whether to show a progress bar.

    A room that is done is kept even if this process is killed before the others are.

    Raises:
        ConfigError: there is no such room, or the data folder is none.
    """
    rooms = _chosen(only)
    if effort.data is not None and not effort.data.is_dir():
        raise ConfigError(
            f"data folder {effort.data} does not exist; give the folder that holds calibration/ "
            "and traces/, or no --data to run what needs none"
        )
    kept = out / "rooms"
    kept.mkdir(parents=True, exist_ok=True)
    digests = {room: _digest(room, effort) for room in rooms}
    missing = [
        room
        for room in sorted(rooms, key=SLOWEST_FIRST.index)
        if _load(kept / f"{room}.json", digests[room]) is None
    ]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    try:
        with Progress(
            *columns, TimeElapsedColumn(), console=Console(stderr=True), disable=not progress
        ) as bar:
            task = bar.add_task("rooms", total=len(rooms), completed=len(rooms) - len(missing))
            for room in _each(missing, effort, kept, digests, processes):
                bar.update(task, advance=1, description=f"{room} is done")
    except KeyboardInterrupt:
        raise KeyboardInterrupt(KEPT.format(out)) from None
    found = {room: _load(kept / f"{room}.json", digests[room]) or [] for room in rooms}
    return Results(found, effort)


def _chosen(only: Sequence[str]) -> tuple[str, ...]:
    for room in only:
        if room not in ROOMS:
            known = ", ".join(ROOMS)
            raise ConfigError(f"there is no room {room!r}{nearest(room, ROOMS)}; rooms: {known}")
    return tuple(room for room in ROOMS if room in only or not only)


def _each(
    rooms: Sequence[str], effort: Effort, kept: Path, digests: Mapping[str, str], processes: int
) -> Iterator[str]:
    """Run rooms, several at a time, and yield each when it is done."""
    if min(processes, len(rooms)) < 2:
        yield from (_run_room(room, effort, kept, digests[room]) for room in rooms)
        return
    with worker_pool(min(processes, len(rooms))) as pool:
        jobs = [pool.submit(_run_room, room, effort, kept, digests[room]) for room in rooms]
        for job in as_completed(jobs):
            yield job.result()


def _run_room(room: str, effort: Effort, kept: Path, digest: str) -> str:
    rows = list(importlib.import_module(f"helm_gym.fidelity.{room}").checks(effort))
    plain = [{"kind": type(row).__name__, **asdict(row)} for row in rows]
    text = json.dumps({"digest": digest, "rows": plain}, default=_value)
    write_text(kept / f"{room}.json", text)
    return room


def _value(item: Any) -> Any:
    """Make NumPy's numbers and arrays JSON."""
    if isinstance(item, (np.ndarray, np.generic)):
        return item.tolist()
    raise TypeError(f"{type(item).__name__} is no JSON")


def _load(path: Path, digest: str) -> list[Row] | None:
    """Findings of a room that was run with this code and data, else None."""
    if not path.is_file():
        return None
    try:
        kept = json.loads(path.read_text("utf-8"))
        if kept["digest"] != digest:
            return None
        return [_row(item) for item in kept["rows"]]
    except (ValueError, KeyError, TypeError):  # written by another version, or by hand
        return None


def _row(item: dict[str, Any]) -> Row:
    cls = Finding if item.pop("kind") == "Finding" else Skipped
    names = {field.name for field in fields(cls)}
    return cls(**{name: value for name, value in item.items() if name in names})


# -- what findings depend on -------------------------------------------------------------------


def _digest(room: str, effort: Effort) -> str:
    """Changes whenever the code of a room, presets, the data or the effort does."""
    digest = hashlib.sha256(f"{effort.quick} {effort.seed} {sys.version_info[:2]}".encode())
    about = [code_digest(f"{__package__}.{room}"), presets_digest(), versions(*DEPENDENCIES)]
    digest.update(json.dumps(about).encode())
    given = [] if effort.data is None else [effort.data / folder for folder in DATA]
    for path in sorted(path for folder in given for path in folder.glob("*") if path.is_file()):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]
