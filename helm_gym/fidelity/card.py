"""The fidelity card: every comparison that the present data allows, run, kept and collected.

A room's findings are kept as JSON under a digest of the code and the data. A run that was stopped
goes on with the rooms that are missing; what neither code nor data changed is not run again.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from helm_gym.errors import ConfigError, nearest
from helm_gym.fidelity.finding import Effort, Finding, Skipped
from helm_gym.provenance import code_digest, presets_digest, versions
from helm_gym.store import Codec, open_store

ROOMS = ("kernels", "links", "emb", "kv", "queues", "workload", "replays")
"""Modules of this package that have ``checks``, in the order of the card."""
SLOWEST_FIRST = ("kernels", "workload", "emb", "queues", "replays", "links", "kv")
DEPENDENCIES = ("numpy", "scipy", "numba", "libcachesim")
DATA = ("calibration", "traces")

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
    jobs = {
        f"{room}-{_digest(room, effort)}": room for room in sorted(rooms, key=SLOWEST_FIRST.index)
    }
    with open_store(out / "rooms", CODEC) as store:
        made = store.complete(
            jobs,
            partial(_run_room, effort=effort),
            processes=processes,
            title="rooms",
            progress=progress,
            transient=False,
        )
    found = {jobs[key]: rows for key, rows in made.items()}
    return Results({room: found[room] for room in rooms}, effort)


def _chosen(only: Sequence[str]) -> tuple[str, ...]:
    for room in only:
        if room not in ROOMS:
            known = ", ".join(ROOMS)
            raise ConfigError(f"there is no room {room!r}{nearest(room, ROOMS)}; rooms: {known}")
    return tuple(room for room in ROOMS if room in only or not only)


def _run_room(room: str, effort: Effort) -> list[Row]:
    """Findings of a room, as they are read back from a file."""
    rows = list(importlib.import_module(f"helm_gym.fidelity.{room}").checks(effort))
    return _parse(_text(rows))


def _text(rows: Sequence[Row]) -> bytes:
    plain = [{"kind": type(row).__name__, **asdict(row)} for row in rows]
    return json.dumps(plain, default=_value).encode()


def _parse(text: bytes) -> list[Row]:
    return [_row(item) for item in json.loads(text)]


CODEC: Codec[list[Row]] = Codec(
    "json", lambda file, rows: file.write(_text(rows)), lambda file: _parse(file.read())
)
"""Findings in files."""


def _value(item: Any) -> Any:
    """Make NumPy's numbers and arrays JSON."""
    if isinstance(item, (np.ndarray, np.generic)):
        return item.tolist()
    raise TypeError(f"{type(item).__name__} is no JSON")


def _row(item: dict[str, Any]) -> Row:
    return (Finding if item.pop("kind") == "Finding" else Skipped)(**item)


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
