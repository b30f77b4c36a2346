"""EMB hot cache of every node: pages given to shards, filled by misses and by refill.

A shard with a page is resident in the part ``fill`` of its rows. Misses bring rows one by one, so a
page that sees x times its own size in look-ups goes from fill f to ``1 - (1 - f) exp(-x)``; refill
copies whole shards (:mod:`helm_gym.sim.refill`). ``readout`` keeps, for every group, the expected
hit rate up to date.
"""

from __future__ import annotations

import math

from helm_gym.sim.compiled import inlined, kernel, outlined
from helm_gym.sim.layout import Array, Emb, Stages
from helm_gym.sim.params import Cache, Cost

ROUNDING = 1e-6  # a missing part below this is float32 rounding of the weights, not a row
SOLVER_STEPS = 48  # halvings of the characteristic time's logarithm


@kernel
def set_fill(emb: Emb, weights: Array, node: int, shard: int, fill: float) -> None:
    """Change a shard's fill, and the hit rates that follow from it."""
    change = fill - emb.fill[node, shard]
    if change == 0.0:
        return
    emb.full[node] += int(fill >= 1.0) - int(emb.fill[node, shard] >= 1.0)
    emb.fill[node, shard] = fill
    for k in range(weights.shape[0]):
        for g in range(weights.shape[2]):
            emb.readout[k, g, node] += change * weights[k, shard, g]


@inlined
def hit_rate(emb: Emb, group: int, node: int, drift: float) -> float:
    """Expected part of a request's look-ups that hit; ``drift`` in [0, 1] blends interests."""
    now, later = emb.readout[0, group, node], emb.readout[1, group, node]
    rate = now + drift * (later - now)
    return 1.0 if 1.0 - rate < ROUNDING else max(0.0, rate)


@kernel
def hottest_outside(emb: Emb, node: int) -> int:
    """Shard without a page that is looked up most, -1 if every shard has one."""
    best, shard = -1.0, -1
    for s in range(emb.heat.shape[1]):
        if emb.paged[node, s] == 0 and emb.heat[node, s] > best:
            best, shard = emb.heat[node, s], s
    return shard


@kernel
def coldest_inside(emb: Emb, node: int) -> int:
    """Shard with a page that is looked up least, -1 if none has one."""
    best, shard = math.inf, -1
    for s in range(emb.heat.shape[1]):
        if emb.paged[node, s] == 1 and emb.heat[node, s] < best:
            best, shard = emb.heat[node, s], s
    return shard


@kernel
def _enqueue(
    emb: Emb, stages: Stages, cache: Cache, cost: Cost, node: int, shard: int, now: float
) -> float:
    """Queue a shard for refill; return the link seconds booked at once (naive mode only)."""
    if emb.queued[node, shard] == 1:
        return 0.0
    n_shards = emb.queue.shape[1]
    position = (emb.head[node] + emb.waiting[node]) % n_shards
    emb.queue[node, position] = shard
    emb.queued[node, shard] = 1
    emb.waiting[node] += 1
    if not cache.naive_refill:
        return 0.0
    seconds = cache.shard_bytes / cost.refill_rate
    stages.link_free[node] = max(stages.link_free[node], now) + seconds
    emb.ready[node, position] = stages.link_free[node]
    return seconds


@kernel
def drop_first(emb: Emb, node: int) -> None:
    """Take the first shard out of the refill queue."""
    emb.queued[node, emb.queue[node, emb.head[node]]] = 0
    emb.head[node] = (emb.head[node] + 1) % emb.queue.shape[1]
    emb.waiting[node] -= 1
    emb.copied[node] = 0.0


@kernel
def give_page(
    emb: Emb, stages: Stages, cache: Cache, cost: Cost, node: int, shard: int, now: float
) -> float:
    """Give a shard an empty page; return the link seconds booked at once."""
    emb.paged[node, shard] = 1
    emb.pages[node] += 1
    if cache.row_lru:
        return 0.0
    return _enqueue(emb, stages, cache, cost, node, shard, now)


@kernel
def take_page(emb: Emb, cache: Cache, node: int, shard: int) -> None:
    """Take a shard's page and drop its rows."""
    emb.paged[node, shard] = 0
    emb.pages[node] -= 1
    set_fill(emb, cache.weights, node, shard, 0.0)


@outlined
def resize(
    emb: Emb, stages: Stages, cache: Cache, cost: Cost, node: int, pages: int, now: float
) -> float:
    """Set a node's capacity in pages; return the link seconds booked at once.

    Shrinking drops the coldest shards; growing gives empty pages to the hottest ones. With row LRU
    every shard shares the pages, and shrinking ages the oldest rows out.
    """
    emb.capacity[node] = pages
    if cache.row_lru:
        _age_rows(emb, cache, node)
        return 0.0
    booked = 0.0
    while emb.pages[node] > pages:
        cold = coldest_inside(emb, node)
        if cold < 0:
            break
        take_page(emb, cache, node, cold)
    while emb.pages[node] < pages:
        hot = hottest_outside(emb, node)
        if hot < 0:
            break
        booked += give_page(emb, stages, cache, cost, node, hot, now)
    return booked


@kernel
def _fold_lookups(emb: Emb, cache: Cache, node: int, drift: float) -> None:
    """Spread the look-ups of each group since the last tick over shards, into ``emb.seen``."""
    seen, lookups = emb.seen, emb.lookups[node]
    seen[:] = 0.0
    for g in range(0, lookups.size, 4):  # four at a time: `seen` is read and written less often
        _spread(seen, lookups[g : g + 4], cache.by_group[0, g : g + 4], 1.0 - drift)
        if drift > 0.0:
            _spread(seen, lookups[g : g + 4], cache.by_group[1, g : g + 4], drift)
    lookups[:] = 0.0


@outlined
def _spread(seen: Array, lookups: Array, weights: Array, part: float) -> None:
    """Add ``part * lookups @ weights`` to ``seen``, for at most four groups."""
    if lookups.size < 4:
        for g in range(lookups.size):
            looked_up = part * lookups[g]
            if looked_up > 0.0:  # the last group asks in bursts only
                for s in range(seen.size):
                    seen[s] += looked_up * weights[g, s]
        return
    a, b, c, d = part * lookups[0], part * lookups[1], part * lookups[2], part * lookups[3]
    w0, w1, w2, w3 = weights[0], weights[1], weights[2], weights[3]
    for s in range(seen.size):
        seen[s] += (a * w0[s] + b * w1[s]) + (c * w2[s] + d * w3[s])


@outlined
def _fill_by_misses(emb: Emb, cache: Cache, node: int) -> None:
    """Let pages take up the rows that misses brought since the last tick."""
    for s in range(emb.fill.shape[1]):
        if emb.paged[node, s] == 1 and emb.fill[node, s] < 1.0:
            empty = (1.0 - emb.fill[node, s]) * math.exp(-emb.seen[s] / cache.shard_bytes)
            set_fill(emb, cache.weights, node, s, 1.0 - empty)


@outlined
def tick(
    emb: Emb, stages: Stages, cache: Cache, cost: Cost, node: int, now: float, drift: float
) -> tuple[float, int]:
    """Fold a tick's look-ups into heat and fill, then swap cold shards for hotter ones.

    Returns:
        Link seconds booked at once (naive mode), and the number of swaps.
    """
    _fold_lookups(emb, cache, node, drift)
    heat, seen = emb.heat[node], emb.seen
    for s in range(heat.size):
        heat[s] = heat[s] * cache.heat_keep + seen[s]
    if cache.row_lru or emb.full[node] < emb.pages[node]:
        _fill_by_misses(emb, cache, node)
    if cache.row_lru:
        _age_rows(emb, cache, node)
        emb.coldest[node] = _row_marginal(emb, cache, node)
        return 0.0, 0
    return _swap(emb, stages, cache, cost, node, now)


@outlined
def _swap(
    emb: Emb, stages: Stages, cache: Cache, cost: Cost, node: int, now: float
) -> tuple[float, int]:
    booked, swaps = 0.0, 0
    while True:
        hot = hottest_outside(emb, node)
        emb.coldest[node] = emb.heat[node, hot] * cache.heat_rate if hot >= 0 else 0.0
        if swaps == cache.swaps_per_tick or hot < 0:
            return booked, swaps
        cold = coldest_inside(emb, node)
        if cold < 0 or emb.heat[node, hot] <= cache.swap_hysteresis * emb.heat[node, cold]:
            return booked, swaps
        take_page(emb, cache, node, cold)
        booked += give_page(emb, stages, cache, cost, node, hot, now)
        swaps += 1


@kernel
def _resident_shards(emb: Emb, cache: Cache, node: int, age_s: float) -> float:
    """Sum of fills if every row looked up within ``age_s`` seconds stays and no other."""
    total = 0.0
    per_byte = cache.heat_rate * age_s / cache.shard_bytes
    for s in range(emb.heat.shape[1]):
        total += min(emb.fill[node, s], 1.0 - math.exp(-emb.heat[node, s] * per_byte))
    return total


@outlined
def _age_rows(emb: Emb, cache: Cache, node: int) -> None:
    """Row LRU: drop rows older than the characteristic time at which the rest just fits (Che)."""
    capacity = float(emb.capacity[node])
    if capacity == 0.0:
        for s in range(emb.fill.shape[1]):
            set_fill(emb, cache.weights, node, s, 0.0)
    total = 0.0
    for s in range(emb.fill.shape[1]):
        total += emb.fill[node, s]
    if total <= capacity:
        return
    low, high = math.log(1e-3), math.log(1e9)
    for _ in range(SOLVER_STEPS):
        middle = 0.5 * (low + high)
        if _resident_shards(emb, cache, node, math.exp(middle)) > capacity:
            high = middle
        else:
            low = middle
    per_byte = cache.heat_rate * math.exp(low) / cache.shard_bytes
    for s in range(emb.fill.shape[1]):
        keep = 1.0 - math.exp(-emb.heat[node, s] * per_byte)
        if keep < emb.fill[node, s]:
            set_fill(emb, cache.weights, node, s, keep)


@kernel
def _row_marginal(emb: Emb, cache: Cache, node: int) -> float:
    """Row LRU: look-up bytes/s of the shard whose missing rows are wanted most."""
    best = 0.0
    for s in range(emb.fill.shape[1]):
        best = max(best, (1.0 - emb.fill[node, s]) * emb.heat[node, s])
    return best * cache.heat_rate


@kernel
def clear(emb: Emb, cache: Cache, now: float) -> None:
    """Empty all pages; heat starts as if every group had asked equally often, one table in all."""
    n_groups = cache.by_group.shape[1] - 1
    each = cache.shard_bytes * emb.heat.shape[1] / n_groups
    for array in (emb.fill, emb.heat, emb.lookups, emb.ready):
        array[:] = 0.0
    for flags in (emb.paged, emb.queued):
        flags[:] = 0
    for level in (emb.pages, emb.full, emb.capacity, emb.head, emb.waiting):
        level[:] = 0
    emb.queue[:] = 0
    emb.readout[:] = 0.0
    emb.coldest[:] = 0.0
    emb.copied[:] = 0.0
    emb.refilled_to[:] = now
    emb.credit[:] = 0.0
    for node in range(emb.heat.shape[0]):
        for g in range(n_groups):
            for s in range(emb.heat.shape[1]):
                emb.heat[node, s] += cache.by_group[0, g, s] * each
        if cache.row_lru:
            emb.paged[node, :] = 1


@kernel
def fill_pages(emb: Emb, cache: Cache, node: int) -> None:
    """Fill every page at no cost and empty the refill queue (warm starts only)."""
    while emb.waiting[node] > 0:
        drop_first(emb, node)
    for s in range(emb.fill.shape[1]):
        if emb.paged[node, s] == 1:
            set_fill(emb, cache.weights, node, s, 1.0)
    if cache.row_lru:
        _age_rows(emb, cache, node)
