"""Domain randomisation: a scenario with every assumed number drawn from a part of its range.

Every number that the scenario assumes, and for which it states a range, is drawn log-uniformly
between ``low`` and ``high`` moved towards the stated value: with a spread s from v (low / v)^s to
v (high / v)^s, so that 0 draws nothing and 1 the whole range. A range that begins at 0 is drawn
from uniformly, likewise. What other parts of the memory take comes out of the pool, and a deadline
below the latency target is raised to it.

``load`` is a fraction of a capacity that was measured for the stated scenario and is far off for a
drawn one. It is therefore measured again, as the suite does it but briefly: the highest base rate
that the best of three static shares carries in the scenario's own regime, 99 % of arrivals within
the SLO. The load is then drawn uniformly from :data:`LOADS`.

A draw is drawn again if no such scenario can be, if kernel times would leave the measured range,
or if its capacity is not within a factor :data:`FACTOR` of the stated one: at many times the rate a
window takes many times as long to simulate, and a scenario that carries nothing teaches nothing.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from helm_gym.config.quantity import Quantity
from helm_gym.config.scenario import Scenario
from helm_gym.config.vary import DEADLINE, POOL, TARGET, Assumed, assumed_numbers
from helm_gym.errors import ConfigError
from helm_gym.suites.capacity import SEED, Probe, highest_rate

SPREAD = 0.5  # of randomisation where none is stated
LOADS = (0.6, 1.0)  # of the capacity
SHARES = (0.5, 0.3, 0.7)  # whose capacities are compared
MEASURE_S = 120.0  # simulated time after the warm-up, in which bursts and lulls both come
FACTOR = 2.5  # between the capacity of a draw and the stated one, either way
TRIES = 30  # draws until one can be used
STREAM = zlib.crc32(b"helm_gym.agents.randomise")
"""Name of the seed stream, so that no other draw from the same seed is correlated with these."""
LOAD, CAPACITY = "workload.load", "workload.capacity_rps_per_node"


@dataclass(frozen=True)
class Draw:
    """A randomised scenario."""

    scenario: Scenario
    changes: dict[str, Any]  # dotted paths; applied to the stated scenario they give this one


def draw(scenario: Scenario, spread: float, seed: Sequence[int]) -> Draw:
    """Draw a scenario; the same arguments give the same one.

    Args:
        scenario: as stated.
        spread: part of every range, from 0 to 1.
        seed: of the run, and the number of the draw.

    Raises:
        ConfigError: no draw could be used.
    """
    numbers = [number for number in assumed_numbers(scenario) if number.range is not None]
    why = ""
    for attempt in range(TRIES):
        rng = np.random.default_rng([STREAM, *seed, attempt])
        changes = _values(scenario, numbers, spread, rng)
        load = float(rng.uniform(*LOADS))
        try:
            drawn = scenario.replace(changes)
            _check_measured(drawn, scenario)
            changes[CAPACITY] = _rounded(measured_capacity(drawn))
        except ConfigError as error:
            why = str(error).splitlines()[0]
            continue
        changes[LOAD] = _rounded(load)
        return Draw(scenario.replace(changes), changes)
    raise ConfigError(
        f"{scenario.name}: none of {TRIES} draws with spread {spread:g} can be used; the last: "
        f"{why}. Write a smaller spread"
    )


def measured_capacity(scenario: Scenario) -> float:
    """Capacity of the best of :data:`SHARES`, requests/s per node.

    A share after the first is searched only above what the best so far carries.

    Raises:
        ConfigError: it is not within :data:`FACTOR` of what the scenario states.
    """
    stated = scenario.workload.capacity_rps_per_node.value
    low, high = stated / FACTOR, stated * FACTOR
    probe, best = Probe(scenario, (SEED,), MEASURE_S), 0.0
    for share in SHARES:
        begin = best or stated
        found = highest_rate(partial(probe.margin, share), begin, best or low, high)
        best = max(best, found)
    if not low < best < high:
        raise ConfigError(
            f"its capacity is not within a factor {FACTOR:g} of the stated {stated:.0f} requests/s "
            "per node"
        )
    return best


def _values(
    scenario: Scenario, numbers: Sequence[Assumed], spread: float, rng: np.random.Generator
) -> dict[str, Any]:
    """Drawn values by path, and what has to move with them."""
    changes: dict[str, Any] = {}
    pool = scenario.memory.pool_gb.value
    for number in numbers:
        if number.paths[0] == POOL:
            continue  # it is what the others leave
        value = drawn_value(number.quantity, spread, float(rng.uniform()))
        changes.update(dict.fromkeys(number.paths, value))
        if number.paths[0].startswith("memory."):
            pool += number.quantity.value - value
    if pool != scenario.memory.pool_gb.value:
        changes[POOL] = math.floor(1e4 * max(pool, 0.0)) / 1e4  # not above what there is
    target = changes.get(TARGET, scenario.slo.p99_ms.value)
    if changes.get(DEADLINE, scenario.slo.deadline_ms.value) < target:
        changes[DEADLINE] = target
    return changes


def drawn_value(quantity: Quantity, spread: float, place: float) -> float:
    """Value at ``place``, from 0 to 1, of the part of a range that ``spread`` admits."""
    low, own, high = quantity.low, quantity.value, quantity.high
    assert low is not None and high is not None
    if low > 0.0:
        ends = [math.log(own) + spread * math.log(end / own) for end in (low, high)]
        value = math.exp(ends[0] + place * (ends[1] - ends[0]))
    else:
        ends = [own + spread * (end - own) for end in (low, high)]
        value = ends[0] + place * (ends[1] - ends[0])
    # Counts stay whole; from ten on, rounding moves no number by more than a twentieth.
    whole = own >= 10.0 and all(x.is_integer() for x in (low, own, high))
    return float(round(value)) if whole else _rounded(value)


def _check_measured(drawn: Scenario, stated: Scenario) -> None:
    beyond = set(drawn.extrapolations()) - set(stated.extrapolations())
    if beyond:
        raise ConfigError(min(beyond))


def _rounded(value: float) -> float:
    """To six digits, so that a file that keeps the value keeps all of it."""
    return float(f"{value:.6g}")
