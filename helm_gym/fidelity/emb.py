"""EMB cache by shards against exact caches of rows: Perfect-LFU, libCacheSim's LFU and LRU.

The compiled kernels run on one node with shards that are runs of popularity ranks, as in the
simulator. The look-ups of every chunk of the stream reach them as a group of its own, whose weights
are the chunk's look-ups by shard: the heat, swaps and fills are those of the real sequence, seen at
the model's resolution. Caches see the first half of a stream and are measured on the second.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from helm_gym.fidelity import emb_ladder, emb_rows, emb_streams
from helm_gym.fidelity.emb_gaps import LFU_SOURCE, MEASURE, POINTS, TARGET, by_size, plot, worst
from helm_gym.fidelity.emb_rows import HYSTERESIS, SHARDS, SWAPS, TICKS, shard_starts
from helm_gym.fidelity.emb_streams import HINDSIGHT, LEARNT, ORDERS, PART, Stream, law_order
from helm_gym.fidelity.finding import Effort, Finding, Skipped
from helm_gym.sim import emb_cache
from helm_gym.sim.layout import Sizes, State, buffer_bytes, view
from helm_gym.sim.params import Cache, Cost
from helm_gym.sim.refill import refill
from helm_gym.sim.token_times import Column
from helm_gym.workload.popularity import readout_weights

Floats = NDArray[np.float64]

SIZES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)  # of the distinct rows
QUICK_SIZES = (0.01, 0.1, 0.5)
OTHER_SHARDS = (256, 4096)
LONG_S = 1e6  # between ticks of the refill clock: every copy is finished by the next tick


@dataclass(frozen=True, eq=False)
class Measured:
    """Hit rates on one stream over ``sizes``, in points."""

    stream: Stream
    sizes: tuple[float, ...]
    lfu: Floats  # exact, by rows
    forgetful: Floats  # libCacheSim's LFU
    lru: Floats  # libCacheSim's
    heat: dict[str, Floats]  # the model's, by the order of its rows
    heat_by_shards: dict[int, Floats]
    row_lru: Floats  # the model's policy lru
    rounding: dict[int, str]  # what whole pages cost, by shards


def checks(effort: Effort) -> Iterator[Finding | Skipped]:
    """Compare hit rates over cache sizes, on every stream."""
    if not emb_streams.installed():
        reason = "libcachesim is not installed: pip install 'helm-gym[fidelity]'"
        yield Skipped(PART, "heat-managed shards against exact LFU and LRU of rows", reason)
        return
    sizes = QUICK_SIZES if effort.quick else SIZES
    drawn: list[Measured] = []
    real: list[Measured] = []
    for stream in emb_streams.streams(effort):
        if isinstance(stream, Skipped):
            yield stream
            continue
        measured = measure(stream, sizes)
        (drawn if stream.independent else real).append(measured)
        yield from _heat_findings(measured)
        if not stream.independent:
            shipped = measured.heat[LEARNT]
            yield from emb_ladder.findings(stream, sizes, measured.lfu, shipped, effort.quick)
    yield from _summaries("independent look-ups", drawn, CHE)
    if real:
        yield from _summaries("real streams", real, LOCALITY)
    for shards in OTHER_SHARDS:
        yield _by_shards(drawn, shards)


def measure(stream: Stream, sizes: tuple[float, ...]) -> Measured:
    """Replay one stream through exact caches and through the model's kernels."""
    rows = [max(1, int(size * stream.rows)) for size in sizes]
    orders = {"the order of its law": law_order} if stream.independent else ORDERS
    heat = {
        words: POINTS * hit_rates(stream, order(stream), SHARDS, sizes)
        for words, order in orders.items()
    }
    order = next(iter(orders.values()))(stream)
    return Measured(
        stream=stream,
        sizes=sizes,
        lfu=POINTS * np.array([emb_streams.perfect_lfu(stream, n) for n in rows]),
        forgetful=POINTS * np.array(emb_streams.hit_rates(stream, "LFU", rows)),
        lru=POINTS * np.array(emb_streams.hit_rates(stream, "LRU", rows)),
        heat=heat,
        heat_by_shards={
            shards: POINTS * hit_rates(stream, order, shards, sizes)
            for shards in (OTHER_SHARDS if stream.independent else ())
        },
        row_lru=POINTS * hit_rates(stream, order, SHARDS, sizes, row_lru=True),
        rounding={n: _rounding(stream, order, n) for n in (SHARDS, *OTHER_SHARDS)},
    )


def _heat_findings(measured: Measured) -> Iterator[Finding]:
    stream = measured.stream
    exact = {
        "Perfect-LFU of rows": measured.lfu,
        "libCacheSim LFU": measured.forgetful,
        "libCacheSim LRU": measured.lru,
    }
    own = {f"model, {words}": rates for words, rates in measured.heat.items()}
    own["model, policy lru"] = measured.row_lru
    for number, (words, rates) in enumerate(measured.heat.items()):
        gap = rates - measured.lfu
        note = (
            f"By cache size: {by_size(measured.sizes, gap)}. Against libCacheSim's LFU, which "
            f"forgets the count of a row that leaves, up to {worst(rates - measured.forgetful)}. "
            f"{measured.rounding[SHARDS]}{_about(stream, words)}"
        )
        yield Finding(
            part=PART,
            compared=f"heat-managed shards in {words} against exact Perfect-LFU of rows: "
            f"{stream.name}, {stream.row.size:,} look-ups of {stream.rows:,} rows",
            points=gap.size,
            measure=MEASURE,
            value=float(np.abs(gap).max()),
            unit="points",
            source=f"{stream.source}; {LFU_SOURCE}",
            target=TARGET,
            note=note,
            details={} if number else {"plot": plot(measured.sizes, exact | own)},
        )


def _about(stream: Stream, order: str) -> str:
    """What a reader has to know about an order of the rows of a real stream."""
    if order == HINDSIGHT:
        return (
            " A replay lays a log's rows out like this, so its hit rate is too high by as much: "
            "the order knows which rows will be asked for."
        )
    if order == LEARNT:
        new = ~np.isin(stream.row[stream.half :], stream.row[: stream.half])
        return (
            f" {100 * new.mean():.0f} % of the measured look-ups are of rows that the first half "
            "never asked for; they share the last shards, so that no heat can pick one of them."
        )
    return ""


CHE = (
    "Independent look-ups are what Che's approximation assumes; the rest, in the smallest caches, "
    "is that the model takes the rows of a shard as equally popular."
)
LOCALITY = (
    "A real stream soon asks again for what it has just asked for, and for rows it never asked "
    "for before; the model draws independently from a law and sees neither."
)


def _summaries(streams: str, found: Sequence[Measured], why: str) -> Iterator[Finding]:
    """Row LRU against LRU, and what heat gains over recency, over all streams of a kind."""
    yield _over_streams(
        f"policy lru (Che) with {SHARDS:,} shards against libCacheSim LRU of rows, {streams}",
        {m: m.row_lru - m.lru for m in found},
        why,
    )
    yield _over_streams(
        f"plain LRU against Perfect-LFU, both exact and by rows, {streams}",
        {m: m.lru - m.lfu for m in found},
        "No error of the model, but how much the two policies that it offers differ.",
    )


def _by_shards(found: Sequence[Measured], shards: int) -> Finding:
    worst = max(found, key=lambda m: float(np.abs(_shard_gap(m, shards)).max()))
    return _over_streams(
        f"heat-managed, {shards:,} shards, against exact Perfect-LFU of rows, independent look-ups",
        {m: _shard_gap(m, shards) for m in found},
        f"{worst.stream.name}: {worst.rounding[shards]}",
    )


def _shard_gap(measured: Measured, shards: int) -> Floats:
    return measured.heat_by_shards[shards] - measured.lfu


def _over_streams(compared: str, gaps: dict[Measured, Floats], note: str) -> Finding:
    by_stream = "; ".join(f"{m.stream.name} {by_size(m.sizes, g)}" for m, g in gaps.items())
    return Finding(
        part=PART,
        compared=compared,
        points=sum(gap.size for gap in gaps.values()),
        measure=MEASURE,
        value=max(float(np.abs(gap).max()) for gap in gaps.values()),
        unit="points",
        source="libCacheSim 0.3; the streams above",
        note=f"{note} By stream and cache size: {by_stream}.",
    )


# -- the model -----------------------------------------------------------------------------------


def hit_rates(
    stream: Stream,
    order: NDArray[np.int64],
    shards: int,
    sizes: Sequence[float],
    row_lru: bool = False,
) -> Floats:
    """Hit rate of the model on a stream's second half, for each cache size.

    Args:
        stream: what is looked up.
        order: (rows,) rows from the first of the table to the last.
        shards: equal runs of them.
        sizes: of the cache, as fractions of the table.
        row_lru: ``policy: lru`` instead of ``heat``.
    """
    counts = _counts(stream, order, shards)
    cache = _cache(counts, stream.rows, row_lru)
    found = []
    for size in sizes:
        state = _empty(cache)
        found.append(_replay(state, cache, counts, int(size * shards)))
    return np.array(found)


def _counts(stream: Stream, order: NDArray[np.int64], shards: int) -> Floats:
    """(2 * TICKS, shards) look-ups of every chunk by shard."""
    shard = emb_rows.looked_up(stream, order, shards)
    chunks = emb_rows.chunks(shard, stream.half, TICKS)
    return np.stack([np.bincount(c, minlength=shards) for _, c in chunks]).astype(np.float64)


def _cache(counts: Floats, rows: int, row_lru: bool) -> Cache:
    """Sizes and rules; a row is a byte, a chunk a second."""
    weights, by_group = readout_weights(*[counts / counts.sum(axis=1, keepdims=True)] * 2)
    heat_rate = math.log(2.0) / TICKS
    return Cache(
        pool_bytes=float(rows),
        shard_bytes=rows / counts.shape[1],
        block_bytes=1.0,
        block_tokens=1,
        history_row_bytes=1.0,
        candidate_row_bytes=1.0,
        tick_s=1.0,
        heat_keep=math.exp(-heat_rate),
        heat_rate=heat_rate,
        swap_hysteresis=HYSTERESIS,
        swaps_per_tick=SWAPS,
        row_lru=row_lru,
        naive_refill=False,
        paced_refill=False,
        refill_floor=0.0,
        refill_rush=0.0,
        refill_debt=0.0,
        chunk_bytes=1.0,
        ghost_bytes=1.0,
        entries=1,
        max_history=1,
        weights=weights,
        by_group=by_group,
    )


COST = Cost(np.zeros((1, len(Column))), link_latency=0.0, link_byte=0.0, refill_rate=1e9)


def _empty(cache: Cache) -> State:
    groups, shards = cache.by_group.shape[1:]
    sizes = Sizes(1, shards, groups, users=1, kv_entries=1, sessions=1, buckets=1, open_bucket=1)
    state = view(np.zeros(buffer_bytes(sizes), np.uint8), sizes)
    emb_cache.clear(state.emb, cache, 0.0)
    state.emb.heat[:] = 0.0  # nothing is known before the first look-up
    state.stages.pace[:] = 1.0  # nobody slows refill
    return state


def _replay(state: State, cache: Cache, counts: Floats, pages: int) -> float:
    """Play all chunks; return the hit rate of the second half."""
    emb, stages = state.emb, state.stages
    emb_cache.resize(emb, stages, cache, COST, 0, pages, 0.0)
    emb_cache.fill_pages(emb, cache, 0)
    asked = counts.sum(axis=1)
    hits = 0.0
    for chunk in range(2 * TICKS):
        now = LONG_S * (chunk + 1)
        refill(emb, stages, cache, COST, 0, now)
        if chunk >= TICKS:
            hits += asked[chunk] * emb_cache.hit_rate(emb, chunk, 0, 0.0)
        emb.lookups[0, chunk] = asked[chunk]
        emb_cache.tick(emb, stages, cache, COST, 0, now, 0.0)
    return hits / float(asked[TICKS:].sum())


# -- what whole pages cost -----------------------------------------------------------------------


def _rounding(stream: Stream, order: NDArray[np.int64], shards: int) -> str:
    """From which size on rounding a cache down to whole pages costs at most a point."""
    mass = np.bincount(stream.row[stream.half :], minlength=stream.rows)[order]
    cumulative = np.concatenate(([0.0], np.cumsum(mass))) / mass.sum()
    capacity = np.arange(stream.rows)
    ends = np.append(shard_starts(stream.rows, shards), stream.rows)[
        capacity * shards // stream.rows
    ]
    lost = POINTS * (cumulative[capacity] - cumulative[ends])
    above = np.flatnonzero(lost > TARGET)
    if above.size == 0:
        return "Rounding down to whole pages costs less than a point at every size."
    return (
        f"Rounding down to whole pages costs up to {lost.max():.1f} points, and at most one from "
        f"{100 * (above[-1] + 1) / stream.rows:.2g} % of the table on."
    )
