"""Figures of an episode beside the formulas of :mod:`helm_gym.metrics`.

Three conventions hold for all of them. P99 means that of all *arrivals*: a shed request counts as
the deadline, so shedding what would be slow gains nothing. A window in which nothing arrived has no
P99 and is left out of means and of the worst window, because nobody waited in it. And the windows
that begin before ``episode.uncounted_s`` are played but count in no figure, so that no policy is
judged on the way from a share that it did not choose.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from helm_gym.config.scenario import Scenario
from helm_gym.errors import ConfigError
from helm_gym.sim.layout import N_BINS
from helm_gym.sim.stages import bin_edge, quantile
from helm_gym.units import MS

Floats = NDArray[np.float64]
Counts = NDArray[Any]

EXTRA = {
    "tail_ms": "ms; 99th percentile over all arrivals, a shed one counting as the deadline",
    "reward": "sum of the reward over the episode",
    "window_tail_ms": "ms; mean over windows of their tail_ms; without those where nothing arrived",
    "worst_tail_ms": "ms; tail_ms of the worst window",
    "worst_at_s": "s from the start of the policy's control to the beginning of that window",
    "moves": "windows in which the share of any node moved",
    "moved_gb": "GB of GPU memory that moves gave from one cache to the other, over all nodes",
}
"""Figures of an episode beside :data:`helm_gym.metrics.METRICS`, over the counted windows."""


def uncounted_windows(scenario: Scenario) -> int:
    """Windows at the beginning of an episode that no figure counts.

    Raises:
        ConfigError: they are all of it.
    """
    episode = scenario.episode
    if episode.uncounted >= episode.steps:
        raise ConfigError(
            f"episode.uncounted_s of {episode.uncounted_s:g} s leaves none of {episode.steps} "
            f"windows of {episode.step_s:g} s to count; write more than {episode.uncounted} in "
            "episode.steps, or a smaller episode.uncounted_s"
        )
    return episode.uncounted


# P99 over all arrivals


def tail_ms(latency: Counts, shed_rate: float, deadline_ms: float, q: float = 0.99) -> float:
    """Quantile over all arrivals when a shed request counts as the deadline.

    Without it a policy that sheds what would be slow looks fast. A request that was admitted and
    still took longer than the deadline keeps its latency.

    Args:
        latency: (L,) histogram of admitted requests.
        shed_rate: shed / arrived.
        deadline_ms: the wait at which a request is shed.
        q: which quantile.
    """
    admitted = int(latency.sum())
    if admitted == 0 or shed_rate >= 1.0:
        return deadline_ms if shed_rate > 0.0 else math.nan
    shed = round(shed_rate / (1.0 - shed_rate) * admitted)
    return _tail(latency, shed, deadline_ms, q)


def _tail(latency: Counts, shed: int, deadline_ms: float, q: float) -> float:
    counts = latency.astype(np.uint32)
    place = int(np.searchsorted(_edges(), deadline_ms * MS, side="right")) - 1
    counts[place] += np.uint32(shed)
    return float(quantile(counts, q)) / MS


@cache
def _edges() -> Floats:
    """(L,) lower end of every latency bin in s."""
    return np.array([bin_edge(i) for i in range(N_BINS)])


def window_tails(p99_ms: Floats, latency: Counts, shed: Floats, deadline_ms: float) -> Floats:
    """P99 over all arrivals of one window, of several clusters side by side.

    Args:
        p99_ms: (B,) of admitted requests, which it is where nothing was shed.
        latency: (B, L) histograms of admitted requests.
        shed: (B,) requests.
        deadline_ms: the wait at which a request is shed.

    Returns:
        (B,) in ms; the deadline where all were shed, and NaN where nothing arrived.
    """
    found = p99_ms.copy()
    for row in np.flatnonzero(shed):
        some = latency[row].any()
        found[row] = _tail(latency[row], int(shed[row]), deadline_ms, 0.99) if some else deadline_ms
    return found


def mean_tail(tails: Floats) -> float:
    """Mean of the windows' P99s; NaN if nothing arrived in any.

    Args:
        tails: (T,) in ms, NaN where nothing arrived.
    """
    known = tails[~np.isnan(tails)]
    return float(known.mean()) if known.size else math.nan


# Moves, and the worst moment


class Worst(NamedTuple):
    """The window with the highest P99, the first of several."""

    window: int  # counted from 0 since the start of the policy's control; -1 if there is none
    at_s: float  # when it begins, since then
    tail_ms: float
    shares: Floats  # (M,) EMB shares in force in it


def worst_window(tails: Floats, shares: Floats, step_s: float, uncounted: int = 0) -> Worst:
    """Find the worst counted window.

    Args:
        tails: (T,) P99 over all arrivals of every window in ms, NaN where nothing arrived.
        shares: (T, M) in force, or (T,) means over nodes as rows keep them.
        step_s: length of a window.
        uncounted: windows at the beginning that do not count.
    """
    counted = np.array(tails, np.float64)
    counted[:uncounted] = math.nan
    by_node = shares.reshape(len(shares), -1)
    if np.isnan(counted).all():
        return Worst(-1, math.nan, math.nan, np.full(by_node.shape[1], math.nan))
    at = int(np.nanargmax(counted))
    return Worst(at, at * step_s, float(counted[at]), by_node[at])


def moves(share_moved: Floats) -> int:
    """Windows in which the share of any node moved.

    Args:
        share_moved: (T,) mean over nodes of \\|change of the EMB share\\|.
    """
    return int(np.count_nonzero(share_moved > 0.0))


def extra_figures(
    scenario: Scenario, series: Mapping[str, Floats], shares: Floats, uncounted: int
) -> dict[str, float]:
    """Every name of :data:`EXTRA` but ``tail_ms``, which needs the histogram of all windows.

    Args:
        scenario: what was played.
        series: ``tail_ms``, ``share_moved`` and ``reward`` of every window, (T,) each.
        shares: (T, M) EMB shares in force.
        uncounted: windows at the beginning that do not count.
    """
    tails, moved = series["tail_ms"], series["share_moved"][uncounted:]
    worst = worst_window(tails, shares, scenario.episode.step_s, uncounted)
    return {
        "reward": float(series["reward"][uncounted:].sum()),
        "window_tail_ms": mean_tail(tails[uncounted:]),
        "worst_tail_ms": worst.tail_ms,
        "worst_at_s": worst.at_s,
        "moves": float(moves(moved)),
        "moved_gb": float(moved.sum()) * scenario.nodes * scenario.memory.pool_gb.value,
    }
