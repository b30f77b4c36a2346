"""The rule of the EMB cache without its kernels: fast enough for a shard per row.

The kernels look for one hot and one cold shard per swap; here a tick's swaps come out of a sort.
Refill is finished by the next tick, as in :mod:`helm_gym.fidelity.emb`, so that a page is full.
Tests hold both against each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from helm_gym.fidelity.emb_streams import Stream

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Flags = NDArray[np.bool_]

SHARDS = 1024  # of all shipped scenarios
# Half of a stream stands for one half-life of the heat: the defaults' 60 s with ticks of 2.5 s.
TICKS = 24
HYSTERESIS, SWAPS = 1.25, 20  # defaults of emb.swap_hysteresis and emb.swaps_per_tick


@dataclass(frozen=True)
class Rule:
    """What a tick does to the content.

    Args:
        ticks: per half of a stream.
        heat_keep: part of the heat that is left after a tick.
        hysteresis: how many times as hot a shard has to be as the one that it replaces.
        swaps: per tick, at most.
    """

    ticks: int
    heat_keep: float
    hysteresis: float
    swaps: int


def shard_starts(rows: int, shards: int) -> Indices:
    """First rank of each shard, as :func:`helm_gym.workload.popularity.shard_mass` cuts them."""
    return np.linspace(0, rows, shards, endpoint=False).astype(np.int64)


def looked_up(stream: Stream, order: Indices, shards: int) -> Indices:
    """(N,) shard of each look-up, if the table is cut into equal runs of rows in ``order``."""
    rank = np.empty(stream.rows, np.int64)
    rank[order] = np.arange(stream.rows)
    starts = shard_starts(stream.rows, shards)
    return (np.searchsorted(starts, rank, side="right") - 1)[stream.row]


def chunks(shard: Indices, half: int, ticks: int) -> Iterator[tuple[bool, Indices]]:
    """Look-ups between ticks, and whether they belong to the measured half."""
    for measured, part in enumerate((shard[:half], shard[half:])):
        yield from ((bool(measured), chunk) for chunk in np.array_split(part, ticks))


def hit_rates(
    stream: Stream, order: Indices, shards: int, sizes: Sequence[float], rule: Rule
) -> Floats:
    """Hit rate of the rule on a stream's second half, for each cache size.

    Args:
        stream: what is looked up.
        order: (rows,) rows from the first of the table to the last.
        shards: equal runs of them.
        sizes: of the cache, as fractions of the table.
        rule: of a tick.
    """
    heat = np.zeros(shards)
    resident = np.zeros((len(sizes), shards), np.bool_)
    for content, size in zip(resident, sizes, strict=True):
        content[: int(size * shards)] = True  # nothing is known yet: the first of the table
    hits = np.zeros(len(sizes))
    for measured, chunk in chunks(looked_up(stream, order, shards), stream.half, rule.ticks):
        asked, times = np.unique(chunk, return_counts=True)
        if measured:
            hits += resident[:, asked] @ times
        heat *= rule.heat_keep
        heat[asked] += times
        for content in resident:
            swap(content, heat, rule)
    return hits / (stream.row.size - stream.half)


def swap(resident: Flags, heat: Floats, rule: Rule) -> None:
    """Exchange the hottest shards outside for the coldest inside, in place.

    One exchange does not undo another: what comes in is hotter, and what goes colder, than all that
    is compared later. So the pairs are known in advance, in both orders the first of equals first.
    """
    inside, outside = np.flatnonzero(resident), np.flatnonzero(~resident)
    if inside.size == 0 or outside.size == 0:
        return
    hot = outside[heat[outside] > rule.hysteresis * heat[inside].min()]
    if hot.size == 0:
        return
    hot = hot[np.argsort(-heat[hot], kind="stable")][: rule.swaps]
    cold = _coldest(inside, heat, hot.size)
    pairs = min(hot.size, cold.size)
    enough = heat[hot[:pairs]] > rule.hysteresis * heat[cold[:pairs]]
    swaps = int(np.count_nonzero(enough))  # the first ones: heat falls in one, rises in the other
    resident[hot[:swaps]] = True
    resident[cold[:swaps]] = False


def _coldest(inside: Indices, heat: Floats, most: int) -> Indices:
    """The coldest shards inside, coldest first."""
    level = heat[inside]
    if inside.size > most:  # sorting a few is cheaper than sorting all
        inside = inside[level <= np.partition(level, most - 1)[most - 1]]
    return inside[np.argsort(heat[inside], kind="stable")][:most]


def counting_hit_rates(
    stream: Stream, order: Indices, sizes: Sequence[float], ticks: int
) -> Floats:
    """Hit rates of the rule with a row per shard, free swaps, no hysteresis and endless heat.

    That is Perfect-LFU whose content changes at ticks only: of rows looked up equally often the one
    looked up in a later tick is the hotter. With a tick per look-up it is Perfect-LFU.

    Args:
        stream: what is looked up.
        order: (rows,) rows from the first of the table to the last, which caches start with.
        sizes: of the cache, as fractions of the table.
        ticks: per half of a stream.
    """
    row = looked_up(stream, order, stream.rows)
    lengths = [chunk.size for _, chunk in chunks(row, stream.half, ticks)]
    ends = np.cumsum(lengths)
    pages = [int(size * stream.rows) for size in sizes]
    hits = [_counting(row, stream.rows, n, ends, stream.half) for n in pages]
    return np.array(hits) / (row.size - stream.half)


@numba.njit(cache=True)
def _counting(row: Any, rows: int, pages: int, ends: Any, measured_from: int) -> int:
    """Only a row just looked up can become hotter than one inside, and those only get hotter."""
    count, last = np.zeros(rows, np.int64), np.zeros(rows, np.int64)  # last: tick, from 1
    resident = np.arange(rows) < pages
    coldest = [(np.int64(0), np.int64(0), np.int64(r)) for r in range(pages)]  # a heap
    hits, first = 0, 0
    for tick in range(ends.size):
        chunk = row[first : ends[tick]]
        hot = [(np.int64(0), np.int64(0), np.int64(0))][1:]  # a heap, the hottest first
        for r in chunk:
            hits += int(first >= measured_from and resident[r])
            count[r] += 1
            last[r] = tick + 1
        for r in np.unique(chunk):
            if not resident[r]:
                heappush(hot, (-count[r], -last[r], r))
        first = ends[tick]
        while len(hot) > 0 and len(coldest) > 0:
            known, seen, cold = coldest[0]
            if known != count[cold] or seen != last[cold]:  # looked up since it was put there
                heappop(coldest)
                heappush(coldest, (count[cold], last[cold], cold))
                continue
            _, _, r = heappop(hot)
            if (count[r], last[r]) <= (known, seen):
                break
            heappop(coldest)
            heappush(coldest, (count[r], last[r], r))
            resident[cold], resident[r] = False, True
    return hits
