"""How far a policy's shares are from the schedule's, and from shares that are nearly as good.

``distance`` is |share - schedule's share|, the mean over counted windows and nodes;
``distance_good`` is the same to the nearest of the shares that cost at most 1 % more than the
schedule's in that window (:attr:`helm_gym.hindsight.search.Hindsight.good`), with whatever lies
between two neighbours of the grid that both do. Where the optimum is flat a policy may be far from
the one and near the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from helm_gym.errors import ConfigError

Floats = NDArray[np.float64]
TOUCHING = 1.001  # steps of the grid: neighbours lie at most so far apart


def distance(shares: Floats, optimum: Sequence[float], uncounted: int = 0) -> float:
    """Mean |share - optimum| over counted windows and nodes.

    Args:
        shares: (T, M) in force.
        optimum: (T,) of the schedule.
        uncounted: windows at the beginning that do not count.

    Raises:
        ConfigError: the two have different numbers of windows.
    """
    _check(shares, len(optimum))
    apart = np.abs(shares - np.array(optimum)[:, None])
    return float(apart[uncounted:].mean())


def distance_good(
    shares: Floats, good: Sequence[Sequence[float]], grid: Sequence[float], uncounted: int = 0
) -> float:
    """Mean distance over counted windows and nodes to the nearest good share.

    Args:
        shares: (T, M) in force.
        good: shares that count as optimal, rising, by window.
        grid: all that were tried; what lies between two good neighbours is good as well.
        uncounted: windows at the beginning that do not count.

    Raises:
        ConfigError: the two have different numbers of windows.
    """
    _check(shares, len(good))
    step = float(np.max(np.diff(grid)))
    pairs = zip(shares[uncounted:], good[uncounted:], strict=True)
    return float(np.mean([_to_nearest(row, np.array(those), step) for row, those in pairs]))


def _to_nearest(shares: Floats, good: Floats, step: float) -> Floats:
    above = np.searchsorted(good, shares)
    low, high = good[np.maximum(above - 1, 0)], good[np.minimum(above, len(good) - 1)]
    inside = (low <= shares) & (shares <= high) & (high - low <= step * TOUCHING)
    nearest = np.minimum(np.abs(shares - low), np.abs(shares - high))
    return np.where(inside, 0.0, nearest)


def shares_of(series: Mapping[str, Any]) -> Floats:
    """Shares in force, (T, M), or (T, 1) where all nodes agreed.

    Args:
        series: a row of ``series.parquet``; one that was kept without ``shares_by_node`` is
            refused, because the mean over nodes hides how far they are from a schedule.

    Raises:
        ConfigError: the row keeps no shares of single nodes.
    """
    mean = np.array(series["share_by_window"], np.float64)
    if "shares_by_node" not in series:
        raise ConfigError(
            "these series keep only the mean share over nodes, and a distance needs that of every "
            "node; run the rows again with helm-gym bench"
        )
    by_node = series["shares_by_node"]
    if by_node is None:
        return mean[:, None]
    found: Floats = np.array(by_node, np.float64).reshape(len(mean), -1)
    return found


def _check(shares: Floats, windows: int) -> None:
    if len(shares) != windows:
        raise ConfigError(
            f"shares of {len(shares)} windows cannot be compared with {windows} of a schedule; "
            "take both from the same scenario, with the same episode.steps"
        )
