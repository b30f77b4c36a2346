"""Figures of a stream of events by which a real log and a generated one are compared."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SESSION_GAP_S = 1800.0
TREND_S = 600.0  # dispersion is measured inside stretches this long, so that trends stay out
SCALES_S = (1.0, 10.0, 60.0)
CACHE_SIZES = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)  # of all users
TOP_SHARES = (0.001, 0.01, 0.1, 0.5)  # of the items seen


class Stream(NamedTuple):
    """Events in order of time."""

    user: Ints
    time: Floats  # s


class Figures(NamedTuple):
    """What a stream looks like; series that distributions are compared by."""

    gaps: Floats  # s between a user's events inside a session
    returns: Floats  # s between a user's sessions
    lengths: Floats  # events per session
    lru: Floats  # hit rate of an LRU cache over users, by CACHE_SIZES
    dispersion: Floats  # variance over mean of counts in SCALES_S, trends taken out


def figures(stream: Stream, scale: float = 1.0, thinned: float = 1.0) -> Figures:
    """Describe a stream.

    Args:
        stream: what to describe.
        scale: simulated seconds per second of users' lives; times are divided by it.
        thinned: part of the events that the stream holds, at random (for the dispersion).
    """
    order = np.argsort(stream.user, kind="stable")
    user, time = stream.user[order], stream.time[order] / scale
    same = np.diff(user) == 0
    silence = np.diff(time)
    gaps = silence[same]
    first = np.append(True, ~same | (silence > SESSION_GAP_S))
    lengths = np.diff(np.append(np.flatnonzero(first), first.size)).astype(np.float64)
    return Figures(
        gaps[gaps <= SESSION_GAP_S],
        gaps[gaps > SESSION_GAP_S],
        lengths,
        lru_curve(stream.user, CACHE_SIZES),
        dispersion(stream.time / scale, thinned),
    )


def lru_curve(keys: Ints, sizes: Sequence[float]) -> Floats:
    """Hit rate of exact LRU caches that hold parts ``sizes`` of all keys."""
    distinct = int(np.unique(keys).size)
    found = []
    for size in sizes:
        room, hits = max(1, round(size * distinct)), 0
        cache: OrderedDict[int, None] = OrderedDict()
        for key in keys.tolist():
            if key in cache:
                hits += 1
                cache.move_to_end(key)
            else:
                if len(cache) >= room:
                    cache.popitem(last=False)
                cache[key] = None
        found.append(hits / keys.size)
    return np.array(found)


def dispersion(time: Floats, thinned: float = 1.0) -> Floats:
    """Index of dispersion of counts in ``SCALES_S``, inside stretches of ``TREND_S``.

    Args:
        time: (R,) s, not decreasing.
        thinned: part of the events kept at random; the index is that of all events.
    """
    blocks = int((time[-1] - time[0]) // TREND_S)
    inside = time[time < time[0] + blocks * TREND_S] - time[0]
    found = []
    for width in SCALES_S:
        counts = np.bincount(
            (inside / width).astype(np.int64), minlength=int(blocks * TREND_S / width)
        )
        rows = counts[: int(blocks * TREND_S / width)].reshape(blocks, -1)
        raw = float(rows.var(axis=1, ddof=1).sum() / rows.mean(axis=1).sum())
        found.append(1.0 + (raw - 1.0) / thinned)
    return np.array(found)


def top_mass(counts: Ints) -> Floats:
    """Part of all views that goes to the top ``TOP_SHARES`` of the items seen."""
    ordered = np.sort(counts)[::-1]
    total = np.cumsum(ordered) / ordered.sum()
    return np.array([total[max(1, round(share * ordered.size)) - 1] for share in TOP_SHARES])


def distance(ours: Floats, real: Floats) -> tuple[float, float]:
    """Kolmogorov-Smirnov distance of two samples, and its 5 % critical value."""
    both = np.unique(np.concatenate([ours, real]))
    one = np.searchsorted(np.sort(ours), both, side="right") / ours.size
    two = np.searchsorted(np.sort(real), both, side="right") / real.size
    critical = 1.358 * np.sqrt(1.0 / ours.size + 1.0 / real.size)
    return float(np.abs(one - two).max()), float(critical)
