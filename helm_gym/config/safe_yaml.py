"""YAML files from strangers: read in bounded time and memory, or refused with the file's name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from helm_gym.errors import ConfigError

MOST_BYTES = 1_000_000  # a scenario with every number's source has 20,000
MOST_NODES = 100_000  # values of a file, those that an alias repeats included
MOST_LEVELS = 40
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_yaml(path: Path) -> Any:
    """Read a YAML file, or raise a :class:`ConfigError` that names the file and says what is wrong.

    A file of more than :data:`MOST_BYTES`, :data:`MOST_NODES` or :data:`MOST_LEVELS` is refused
    before its values are built.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    if len(data) > MOST_BYTES:
        raise ConfigError(f"{path}: has more than {MOST_BYTES:,} bytes; settings need far fewer")
    return parse_yaml(data, str(path))


def parse_yaml(data: bytes | str, where: str) -> Any:
    """Parse YAML, or raise a :class:`ConfigError` that names ``where``."""
    try:
        text = data.decode() if isinstance(data, bytes) else data
        _refuse_large(text)
        return yaml.load(text, Loader=LOADER)
    except Exception as error:  # beside YAML's own: numbers, dates and texts that Python refuses
        raise ConfigError(f"{where}: is not valid YAML ({error})") from None


def parse_setting(text: str, where: str) -> Any:
    """Parse one value of a command line; ``1e25`` is a number, although YAML 1.1 reads a text."""
    found = parse_yaml(text, where)
    return float(found) if isinstance(found, str) and is_number(found) else found


def is_number(text: str) -> bool:
    """Whether a text is a decimal number, such as 12, -.5 or 1e25."""
    return len(text) <= 40 and NUMBER.fullmatch(text.strip()) is not None


def _refuse_large(text: str) -> None:
    """Count values and levels from the parser's events, before anything is built."""
    nodes, sizes = 0, dict[str, int]()
    begun: list[tuple[str | None, int]] = []  # open lists and mappings: anchor, nodes before it
    for event in yaml.parse(text, Loader=LOADER):
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise ValueError(f"*{event.anchor} stands inside what it repeats, or for nothing")
            nodes += sizes[event.anchor]
        elif isinstance(event, yaml.CollectionStartEvent):
            sizes.pop(str(event.anchor), None)
            begun.append((event.anchor, nodes))
            nodes += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = begun.pop()
            if anchor is not None:
                sizes[anchor] = nodes - before
        elif isinstance(event, yaml.ScalarEvent):
            nodes += 1
            if event.anchor is not None:
                sizes[event.anchor] = 1
        if nodes > MOST_NODES:
            raise ValueError(f"it has more than {MOST_NODES:,} values, aliases counted")
        if len(begun) > MOST_LEVELS:
            raise ValueError(f"it is nested more than {MOST_LEVELS} levels deep")
