"""The boundary between a node's caches: moving it, and filling what it gave to EMB."""

from __future__ import annotations

import math

from helm_gym.sim import emb_cache, kv_cache
from helm_gym.sim.compiled import kernel, outlined
from helm_gym.sim.layout import Array, Node, State
from helm_gym.sim.params import Cost, Params
from helm_gym.sim.refill import paced, refill

tick_emb, resize_emb, resize_kv = emb_cache.tick, emb_cache.resize, kv_cache.resize


@outlined
def set_share(state: State, params: Params, node: int, share: float, now: float) -> None:
    """Move a node's boundary: the smaller side gives way at once, the larger one fills by use."""
    cache = params.cache
    sums = state.out.node[node]
    state.stages.share[node] = share
    blocks = max(int((1.0 - share) * cache.pool_bytes / cache.block_bytes), 0)
    pages = max(int(share * cache.pool_bytes / cache.shard_bytes), 0)
    pages = min(pages, state.emb.heat.shape[1])
    sums[Node.EVICTED_BLOCKS] += resize_kv(state.kv, state.users, node, blocks, cache.entries)
    advance_refill(state, params, node, now)
    booked = resize_emb(state.emb, state.stages, cache, params.cost, node, pages, now)
    book_refill(sums, booked, params.cost)


@kernel
def book_refill(sums: Array, link_s: float, cost: Cost) -> None:
    """Account for copies that entered the link queue at once (naive mode)."""
    sums[Node.LINK_S] += link_s
    sums[Node.REFILL_BYTES] += link_s * cost.refill_rate


@kernel
def advance_refill(state: State, params: Params, node: int, now: float) -> None:
    """Let refill come as far as its mode allows before ``now``."""
    emb, stages, cache, cost = state.emb, state.stages, params.cache, params.cost
    if cache.paced_refill:
        copied, loads, seconds = paced(emb, stages, cache, cost, node, now)
    else:
        copied, loads = refill(emb, stages, cache, cost, node, now)
        seconds = copied / cost.refill_rate
    sums = state.out.node[node]
    sums[Node.REFILL_BYTES] += copied
    sums[Node.LINK_S] += seconds
    sums[Node.SHARD_LOADS] += loads


@outlined
def tick(state: State, params: Params, now: float) -> None:
    """Once per ``tick_s`` on every node: refill, heat, fill and swaps of the EMB cache."""
    drift = 1.0 - math.exp(-params.source.drift_rate * max(0.0, now))
    for node in range(state.stages.share.size):
        advance_refill(state, params, node, now)
        booked, swaps = tick_emb(
            state.emb, state.stages, params.cache, params.cost, node, now, drift
        )
        book_refill(state.out.node[node], booked, params.cost)
        state.out.node[node, Node.SWAPS] += swaps
