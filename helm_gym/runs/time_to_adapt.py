"""How long a policy takes to adapt after the mix of its stream has changed.

It has adapted with the first of three windows in a row whose P99 over all arrivals is good. Good is
what lies inside the SLO, or within 10 % of the schedule's P99 in the same window where that is
more. The SLO alone would say "never" of everybody where the schedule misses it too; the schedule
alone would punish differences that no SLO asks about, and it is not searched for everywhere.

Three windows in a row, because one good window among bad ones is luck. Time runs to the beginning
of the first of them, so a policy that never leaves the SLO takes 0 s.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from helm_gym.errors import ConfigError

Floats = NDArray[np.float64]

IN_A_ROW = 3  # windows
NEAR = 0.10  # above the schedule's P99, relative


@dataclass(frozen=True)
class Adapted:
    """What followed one change."""

    at_s: float  # of the change, since the start of the policy's control
    seconds: float  # until it had adapted; if it had not, until the next change or the end
    settled: bool  # whether it had


def bounds(slo_ms: float, schedule_ms: Floats | None = None, windows: int = 1) -> Floats:
    """P99 that is good, in ms, by window.

    Args:
        slo_ms: P99 that the scenario promises.
        schedule_ms: (T,) P99s of the schedule's windows over all arrivals; None if none is known.
        windows: T, where there is no schedule.

    Returns:
        (T,); the SLO where nothing arrived.
    """
    if schedule_ms is None:
        return np.full(windows, slo_ms)
    near: Floats = np.fmax((1.0 + NEAR) * np.asarray(schedule_ms, np.float64), slo_ms)
    return near


def adapted(
    tails: Floats,
    good: Floats,
    changes: Sequence[float],
    step_s: float,
    uncounted: int = 0,
) -> list[Adapted]:
    """Time to adapt after every change.

    A window counts from the change on if it ends after it. One in which nothing arrived is good. A
    change in the uncounted beginning is left out: how a policy gets away from a share that it did
    not choose is not asked.

    Args:
        tails: (T,) P99 over all arrivals of every window in ms, NaN where nothing arrived.
        good: (T,) of :func:`bounds`.
        changes: rising times of changes in s, since the start of the policy's control.
        step_s: length of a window.
        uncounted: windows at the beginning that do not count.

    Raises:
        ConfigError: times do not rise or lie outside the episode, or lengths differ.
    """
    end = len(tails) * step_s
    _check(tails, good, changes, end)
    fine = np.isnan(tails) | (tails <= good)
    found = []
    for change, until in pairwise([*changes, end]):
        if change < uncounted * step_s:
            continue
        first = math.floor(change / step_s + 1e-9)
        run = _first_run(fine[first : math.ceil(until / step_s - 1e-9)])
        seconds = until - change if run is None else max(0.0, (first + run) * step_s - change)
        found.append(Adapted(change, seconds, run is not None))
    return found


def _first_run(fine: NDArray[np.bool_]) -> int | None:
    """Where the first so many good windows in a row begin."""
    starts = range(len(fine) - IN_A_ROW + 1)
    return next((at for at in starts if fine[at : at + IN_A_ROW].all()), None)


def _check(tails: Floats, good: Floats, changes: Sequence[float], end: float) -> None:
    if len(good) != len(tails):
        raise ConfigError(
            f"{len(tails)} windows were played and bounds are given for {len(good)}; take the "
            "schedule of the same scenario and seed"
        )
    inside = all(0.0 <= change < end for change in changes)
    if not inside or any(a >= b for a, b in pairwise(changes)):
        raise ConfigError(
            f"times of changes {list(changes)} must rise and lie within the {end:g} s of the "
            "episode; give them in s since the start of the policy's control"
        )


def mean_seconds(found: Sequence[Adapted]) -> tuple[float, int]:
    """Mean time over changes in s, and after how many of them the policy did not adapt.

    Where it did not, the time until the next change counts, so the mean is then a lower bound; NaN
    without a change.
    """
    missed = sum(not one.settled for one in found)
    if not found:
        return math.nan, 0
    return float(np.mean([one.seconds for one in found])), missed
