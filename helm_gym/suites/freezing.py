"""How a suite is frozen: its scenario files, their digests, and processes to measure in.

Files leave out what is a preset or a default, so that they show what a suite decides.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from helm_gym.config.scenario import Episode, Router, Scenario
from helm_gym.config.workload import PROFILES
from helm_gym.errors import ConfigError
from helm_gym.files import write_text
from helm_gym.processes import worker_pool


def today() -> str:
    """The date in UTC, as files name it."""
    return datetime.datetime.now(datetime.timezone.utc).date().isoformat()


def write_frozen(cells: Sequence[Mapping[str, Any]], folder: Path, digests: str) -> list[Path]:
    """Write the scenario files of a suite and the table of their digests.

    Args:
        cells: scenarios as plain data.
        folder: where to.
        digests: name of the table's file.

    Returns:
        The scenario files.

    Raises:
        ConfigError: the folder cannot be written.
    """
    written = [folder / f"{data['name']}.yaml" for data in cells]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, data in zip(written, cells, strict=True):
            write_text(path, as_file(data))
        lines = [f"{Scenario.load(str(path)).digest()}  {path.stem}\n" for path in written]
        write_text(folder / digests, "".join(lines))
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written ({error.strerror or error})") from None
    return written


def as_file(data: Mapping[str, Any]) -> str:
    """A scenario as YAML that leaves out what is a preset or a default."""
    kept = {k: v for k, v in data.items() if k not in ("kv", "refill", "router", "structure_seed")}
    router = data["router"]["name"]
    if router != Router().name:
        kept["router"] = {"name": router}
    kept["hardware"] = {k: v["name"] for k, v in data["hardware"].items()}
    profile = kept["workload"]["profile"]
    if not (PROFILES / f"{profile}.yaml").is_file():
        raise ConfigError(f"suite: profile {profile!r} is not shipped")
    episode = data["episode"]
    always = ("step_s", "steps", "warmup_s")
    kept["episode"] = {
        name: episode[name]
        for name, usual in Episode.model_fields.items()
        if name in always or episode.get(name, usual.default) != usual.default
    }
    return "# Written by helm-gym suite freeze.\n" + yaml.safe_dump(
        _without_nothing(kept), sort_keys=False, allow_unicode=True, width=110
    )


def _without_nothing(value: Any) -> Any:
    """Leave out what is None or a false flag: absence means the same."""
    if isinstance(value, Mapping):
        return {
            k: _without_nothing(v) for k, v in value.items() if v is not None and v is not False
        }
    return [_without_nothing(v) for v in value] if isinstance(value, (list, tuple)) else value


def pinned(path: Path) -> dict[str, str]:
    """Digest of every frozen cell, by name.

    Args:
        path: a table that :func:`write_frozen` wrote.

    Raises:
        ConfigError: it is missing.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: the suite is not frozen; run helm-gym suite freeze")
    rows = (line.split() for line in path.read_text(encoding="utf-8").splitlines())
    return {name: digest for digest, name in rows}


Mapper = Callable[[Callable[[Any], Any], Sequence[Any]], Iterator[Any]]


@contextmanager
def mapper(jobs: int) -> Iterator[Mapper]:
    """``map`` over so many processes; none but this one if it is one."""
    if jobs == 1:
        yield lambda f, items: map(f, items)
        return
    with worker_pool(jobs) as pool:
        yield lambda f, items: pool.map(f, items)
