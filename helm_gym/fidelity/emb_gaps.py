"""Differences in hit rate over cache sizes, as text and as a plot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

TARGET = 1.0  # points
POINTS = 100.0  # per hit rate of 1
MEASURE = "largest difference in hit rate"
LFU_SOURCE = "Perfect-LFU as of Breslau and others (INFOCOM 1999); libCacheSim 0.3"


def by_size(sizes: Sequence[float], gap: Floats) -> str:
    """Every difference, in points, by the size of the cache."""
    return ", ".join(f"{100 * s:g} %: {p:+.1f}" for s, p in zip(sizes, gap, strict=True))


def worst(gap: Floats) -> str:
    """The largest difference, with its sign."""
    return f"{gap[np.argmax(np.abs(gap))]:+.1f}"


def plot(sizes: Sequence[float], curves: dict[str, Floats]) -> dict[str, Any]:
    """Hit rates in points over cache sizes, as the page draws them."""
    return {
        "x_label": "cache size, % of the distinct rows",
        "y_label": "hit rate, %",
        "log_x": True,
        "series": [
            {"label": label, "x": [100.0 * s for s in sizes], "y": values.tolist()}
            for label, values in curves.items()
        ],
    }
