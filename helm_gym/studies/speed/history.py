"""The history of ``helm-gym speed``: one JSON record per line and run, the newest last."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

from helm_gym.errors import ConfigError
from helm_gym.files import replacing
from helm_gym.provenance import machine, versions
from helm_gym.store import writing
from helm_gym.studies.speed.revisions import state_of

Record = dict[str, Any]


def records(file: Path) -> list[Record]:
    """All records of a history; none if there is no file yet.

    Raises:
        ConfigError: it cannot be read, or a line is no record.
    """
    if not file.exists():
        return []
    try:
        lines = file.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read ({error}); name another file") from None
    found = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            assert isinstance(record, dict) and isinstance(record["measures"], list)
        except (ValueError, KeyError, AssertionError):
            raise ConfigError(
                f"{file}, line {number}, is no record of helm-gym speed; remove it, or name "
                "another file"
            ) from None
        found.append(record)
    return found


def last(found: list[Record], against: str | None, quick: bool) -> Record | None:
    """The newest record of this machine and of the same kind of run.

    Args:
        found: the history.
        against: the revision compared with, as 40 digits; None for a run that compares nothing.
        quick: whether it was a rough one.
    """
    kind = (machine(), against, quick)
    alike = (r for r in reversed(found) if (r["machine"], r["against"], r["quick"]) == kind)
    return next(alike, None)


def record(
    measures: list[Record], *, against: str | None, quick: bool, load: float, **more: Any
) -> Record:
    """A run, with the machine, the versions and the commit.

    Args:
        measures: each with ``name``, ``value`` and ``unit`` at least.
        against: see :func:`last`.
        quick: see :func:`last`.
        load: average when the run began.
        more: whatever else the run says of itself.
    """
    commit, dirty = state_of()
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(),
        "commit": commit,
        "dirty": dirty,
        "against": against,
        "quick": quick,
        "load_average": load,
        "measures": measures,
        **more,
    }


def append(file: Path, new: Record) -> None:
    """Add a record, whole or not at all.

    Raises:
        ConfigError: the file cannot be written.
    """
    with writing(file):
        before = file.read_bytes() if file.exists() else b""
        with replacing(file) as stream:
            stream.write(before + json.dumps(new).encode() + b"\n")
