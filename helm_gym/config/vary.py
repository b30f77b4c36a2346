"""Which numbers a sensitivity study varies, and the scenario that each of their values makes.

One number moves at a time, over the range that its source admits. Two rules keep a variant
possible: what another part of the memory takes is taken from the pool, and a deadline below the
latency target is raised to it. A variant that still cannot be is listed with the reason.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from helm_gym.config.quantity import Quantity
from helm_gym.config.scenario import Scenario
from helm_gym.errors import ConfigError, nearest

STATED = "as stated"
WIDE = 10.0  # high / low from which the middle of a range is its geometric mean
POOL, TARGET, DEADLINE = "memory.pool_gb", "slo.p99_ms", "slo.deadline_ms"


@dataclass(frozen=True)
class Assumed:
    """One assumed number; several paths where a file states it once for several places."""

    name: str  # its path, with * for the places
    paths: tuple[str, ...]
    quantity: Quantity

    @property
    def range(self) -> tuple[float, float] | None:
        """Lowest and highest value, if its source gives any."""
        low, high = self.quantity.low, self.quantity.high
        return None if low is None or high is None or low == high else (low, high)


@dataclass(frozen=True)
class Variant:
    """A scenario with one number moved, or as stated."""

    number: str  # name of the number, or :data:`STATED`
    value: float  # NaN as stated
    scenario: Scenario
    note: str = ""  # what had to move with it


@dataclass(frozen=True)
class Left:
    """A number, or one value of it, that was not varied."""

    number: str
    reason: str


@dataclass(frozen=True)
class Points:
    """What a study runs, and what it leaves out."""

    variants: tuple[Variant, ...]  # the scenario as stated is first
    left: tuple[Left, ...]
    numbers: tuple[Assumed, ...]  # those that are varied


def assumed_numbers(scenario: Scenario) -> list[Assumed]:
    """Every assumed number; equal ones of several surfaces count as one, as their YAML does."""
    groups: dict[tuple[str, str], list[str]] = {}
    known: dict[tuple[str, str], Quantity] = {}
    for path, quantity in scenario.assumptions():
        key = (re.sub(r"\.\d+\.", ".*.", path), quantity.digest())
        groups.setdefault(key, []).append(path)
        known[key] = quantity
    return [
        Assumed(key[0] if len(paths) > 1 else paths[0], tuple(paths), known[key])
        for key, paths in groups.items()
    ]


def values_of(quantity: Quantity, points: int) -> list[float]:
    """Values of a number besides its own: the ends of its range, and with five points the middles.

    Args:
        quantity: with a range.
        points: 3 (low, stated, high) or 5.
    """
    assert quantity.low is not None and quantity.high is not None
    low, own, high = quantity.low, quantity.value, quantity.high
    wide = low > 0.0 and high / low >= WIDE
    found = [low, high]
    if points == 5:
        for a, b in ((low, own), (own, high)):
            middle = math.sqrt(a * b) if wide else (a + b) / 2.0
            # Counts stay whole; from ten on, rounding moves no number by more than a twentieth.
            whole = own >= 10.0 and all(x.is_integer() for x in (low, own, high))
            found.append(float(round(middle)) if whole else middle)
    return sorted(set(found) - {own})


def make_points(scenario: Scenario, only: Sequence[str] = (), points: int = 3) -> Points:
    """Every variant of a scenario.

    Args:
        scenario: as stated.
        only: paths or their beginnings, such as ``emb`` or ``slo.p99_ms``; all if empty.
        points: 3 or 5 per number, the stated one included.

    Raises:
        ConfigError: a path names no assumed number.
    """
    if points not in (3, 5):
        raise ConfigError(f"points={points}: write 3 (low, stated, high) or 5 (middles too)")
    numbers = _chosen(assumed_numbers(scenario), only)
    variants, left, varied = [Variant(STATED, math.nan, scenario)], [], []
    for number in numbers:
        if number.range is None:
            left.append(Left(number.name, "no range is stated"))
            continue
        varied.append(number)
        for value in values_of(number.quantity, points):
            try:
                variants.append(vary(scenario, number, value))
            except ConfigError as error:
                left.append(Left(f"{number.name} = {value:g}", str(error).splitlines()[0]))
    return Points(tuple(variants), tuple(left), tuple(varied))


def _chosen(numbers: list[Assumed], only: Sequence[str]) -> list[Assumed]:
    def named(number: Assumed, path: str) -> bool:
        return any(x == path or x.startswith(f"{path}.") for x in (number.name, *number.paths))

    for path in only:
        if not any(named(number, path) for number in numbers):
            known = [number.name for number in numbers]
            raise ConfigError(f"{path}: no assumed number has this path{nearest(path, known)}")
    return [n for n in numbers if not only or any(named(n, path) for path in only)]


def vary(scenario: Scenario, number: Assumed, value: float) -> Variant:
    """Move one number, and what has to move with it.

    Raises:
        ConfigError: the scenario cannot be, such as no memory left for the pool.
    """
    changes: dict[str, Any] = dict.fromkeys(number.paths, value)
    notes = []
    for path, other, why in _follow(scenario, number, value):
        changes[path] = other
        notes.append(f"{path} {other:g}: {why}")
    return Variant(number.name, value, scenario.replace(changes), "; ".join(notes))


def _follow(scenario: Scenario, number: Assumed, value: float) -> Iterator[tuple[str, float, str]]:
    """Path, value and reason of what a change drags along."""
    path = number.paths[0]
    if path.startswith("memory.") and path != POOL:
        pool = scenario.memory.pool_gb.value + number.quantity.value - value
        if not pool > 0.0:
            raise ConfigError(f"{path} {value:g} leaves no memory for the pool")
        yield POOL, pool, "the sum stays"
    if path == TARGET and scenario.slo.deadline_ms.value < value:
        yield DEADLINE, value, "not below the target"
    if path == DEADLINE and value < scenario.slo.p99_ms.value:
        raise ConfigError(f"{path} {value:g} lies below the latency target")
