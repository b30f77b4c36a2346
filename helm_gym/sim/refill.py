"""Refill of EMB pages: whole shards copied over the host link that misses use as well."""

from __future__ import annotations

from helm_gym.sim.compiled import kernel, outlined
from helm_gym.sim.emb_cache import drop_first, set_fill
from helm_gym.sim.layout import Emb, Stages
from helm_gym.sim.params import Cache, Cost

FULL = 0.99  # a page this full is not worth a whole-shard copy (assumed)


@kernel
def _finish_copy(emb: Emb, cache: Cache, node: int) -> None:
    shard = emb.queue[node, emb.head[node]]
    if emb.paged[node, shard] == 1:  # else its page went while the copy ran
        set_fill(emb, cache.weights, node, shard, 1.0)
    drop_first(emb, node)


@outlined
def refill(
    emb: Emb, stages: Stages, cache: Cache, cost: Cost, node: int, now: float
) -> tuple[float, int]:
    """Advance a node's refill to ``now``, naive or throttled.

    Returns:
        Bytes copied in link time that no miss wanted (throttled mode), and copies finished.
    """
    loads = 0
    if cache.naive_refill:
        while emb.waiting[node] > 0 and emb.ready[node, emb.head[node]] <= now:
            _finish_copy(emb, cache, node)
            loads += 1
        return 0.0, loads
    idle_from = max(stages.link_free[node], emb.refilled_to[node])
    if now <= idle_from:
        return 0.0, 0
    emb.refilled_to[node] = now
    budget = (now - idle_from) * stages.pace[node] * cost.refill_rate
    copied = 0.0
    while emb.waiting[node] > 0 and budget > 0.0:
        shard = emb.queue[node, emb.head[node]]
        started = emb.copied[node] > 0.0
        if not started and (emb.paged[node, shard] == 0 or emb.fill[node, shard] >= FULL):
            drop_first(emb, node)
            continue
        part = min(budget, cache.shard_bytes - emb.copied[node])
        budget -= part
        copied += part
        emb.copied[node] += part
        if emb.copied[node] >= cache.shard_bytes:
            _finish_copy(emb, cache, node)
            loads += 1
    return copied, loads


@outlined
def _most_wanted_first(emb: Emb, node: int) -> bool:
    """Bring the queued shard whose missing rows are looked up most to the front.

    Shards whose page has gone or that misses have filled leave the queue.

    Returns:
        Whether any shard is left.
    """
    n_shards, head = emb.queue.shape[1], emb.head[node]
    most, first, i = -1.0, -1, 0
    while i < emb.waiting[node]:
        place = (head + i) % n_shards
        shard = emb.queue[node, place]
        if emb.paged[node, shard] == 0 or emb.fill[node, shard] >= FULL:
            emb.waiting[node] -= 1
            emb.queue[node, place] = emb.queue[node, (head + emb.waiting[node]) % n_shards]
            emb.queued[node, shard] = 0
            continue
        wanted = (1.0 - emb.fill[node, shard]) * emb.heat[node, shard]
        if wanted > most or (wanted == most and shard < emb.queue[node, first]):
            most, first = wanted, place
        i += 1
    if first < 0:
        return False
    shard = emb.queue[node, first]
    emb.queue[node, first] = emb.queue[node, head]
    emb.queue[node, head] = shard
    return True


@outlined
def _copy(emb: Emb, cache: Cache, node: int, most: float) -> tuple[float, int]:
    """Copy up to ``most`` bytes; return how many there were to copy, and copies finished."""
    left, loads = most, 0
    while left > 0.0 and emb.waiting[node] > 0:
        if emb.copied[node] == 0.0 and not _most_wanted_first(emb, node):
            break
        part = min(left, cache.shard_bytes - emb.copied[node])
        left -= part
        emb.copied[node] += part
        if emb.copied[node] >= cache.shard_bytes:
            _finish_copy(emb, cache, node)
            loads += 1
    return most - left, loads


@outlined
def paced(
    emb: Emb, stages: Stages, cache: Cache, cost: Cost, node: int, now: float
) -> tuple[float, int, float]:
    """Advance a node's paced refill to ``now``: all idle link time, and more once it has starved.

    While shards wait, credit grows by ``refill_floor`` of the time, by ``refill_rush`` of it from
    zero on, and shrinks by the idle link time that copies took, down to ``-refill_debt`` at most,
    where it begins. Credit for a chunk is spent at once: the chunk queues on the link behind the
    requests that came before it.

    Returns:
        Bytes copied, copies finished, and link seconds that this took.
    """
    since = emb.refilled_to[node]
    emb.refilled_to[node] = max(now, since)
    if emb.waiting[node] == 0:
        emb.credit[node] = -cache.refill_debt
        return 0.0, 0, 0.0
    if now <= since:
        return 0.0, 0, 0.0
    idle = stages.pace[node] * max(0.0, now - max(stages.link_free[node], since))
    copied, loads = _copy(emb, cache, node, idle * cost.refill_rate)
    seconds = copied / cost.refill_rate
    owed = cache.refill_floor if emb.credit[node] < 0.0 else cache.refill_rush
    earned = owed * stages.pace[node] * (now - since)
    emb.credit[node] = max(emb.credit[node] + earned - seconds, -cache.refill_debt)
    chunk_s = cost.link_latency + cache.chunk_bytes / cost.refill_rate
    while emb.credit[node] >= chunk_s:
        rest = cache.shard_bytes - emb.copied[node]
        part, finished = _copy(emb, cache, node, min(cache.chunk_bytes, rest))
        if part == 0.0:  # misses filled all that waited
            break
        spent = cost.link_latency + part / cost.refill_rate
        stages.link_free[node] = max(stages.link_free[node], now) + spent
        emb.credit[node] -= spent
        copied, loads, seconds = copied + part, loads + finished, seconds + spent
    return copied, loads, seconds
