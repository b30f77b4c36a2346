"""The transition: one window of one cluster, request by request."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from helm_gym.seeding import Stream
from helm_gym.sim import arrivals as source_room
from helm_gym.sim import emb_cache, kv_cache, signals
from helm_gym.sim.boundary import advance_refill, set_share, tick
from helm_gym.sim.compiled import inlined, kernel, outlined
from helm_gym.sim.layout import Array, Clock, Count, Node, State
from helm_gym.sim.params import Params
from helm_gym.sim.rng import uniform
from helm_gym.sim.router import Request, choose
from helm_gym.sim.stages import gpu_seconds, link_seconds
from helm_gym.sim.window import admit, close_window, open_window

look_ahead = source_room.look_ahead
peek, take, draw_start = source_room.peek, source_room.take, source_room.draw_start
find, store = kv_cache.find, kv_cache.store
hit_rate, fill_pages = emb_cache.hit_rate, emb_cache.fill_pages
report, book = signals.report, signals.book

RECORD_FIELDS = 6  # arrival, user, node, latency (-1 if shed), KV hit, missing bytes


@inlined
def _note_ghost(
    state: State, params: Params, chosen: int, request: Request, miss_fraction: float
) -> None:
    """Credit a KV miss to the node that evicted the user, if ``ghost_bytes`` more had kept it.

    A router that seeks KV would have sent the request to that node; any other counts only if it
    happened to choose it.
    """
    user = state.users[request.user]
    node = user.evicted_node
    if node < 0 or (node != chosen and not params.routing.seeks_kv):
        return
    user.evicted_node = -1  # one eviction costs one miss
    inserted = np.uint32(np.int64(state.kv.inserted[node]))
    since = np.float64(np.uint32(inserted - user.evicted_clock)) * params.cache.block_bytes
    if since < params.cache.ghost_bytes:
        rows = (request.bytes_miss - request.bytes_hit) * miss_fraction * params.cost.link_byte
        state.out.node[node, Node.GHOST_KV_S] += request.gpu_miss - request.gpu_hit + rows


@inlined
def _serve_on(
    state: State,
    params: Params,
    node: int,
    request: Request,
    history: int,
    candidates: int,
    fresh: int,
    warm: bool,
) -> tuple[float, bool, float]:
    """Link, then GPU, then bookkeeping; returns latency (-1 if shed), KV hit, missing bytes."""
    cache, cost, routing = params.cache, params.cost, params.routing
    stages, kv, sums = state.stages, state.kv, state.out.node[node]
    time = request.time
    if state.emb.waiting[node] > 0:
        advance_refill(state, params, node, time)
    entry = find(kv, state.users, request.user, node, cache.entries)
    held = entry >= 0
    gpu, wanted = request.gpu_miss, request.bytes_miss
    if not held:
        kv_cache.prepare_store(kv, state.users, request.user, cache.entries)
    if held:
        known = kv.entry[entry].tokens
        new = max(history - known, fresh)
        gpu, wanted = request.gpu_hit, request.bytes_hit
        if new != fresh:  # the user was served elsewhere in between
            gpu = gpu_seconds(cost, new, history - new, candidates)
            wanted += (new - fresh) * cache.history_row_bytes
    miss_fraction = 1.0 - hit_rate(state.emb, request.group, node, request.drift)
    missing = miss_fraction * wanted
    link = link_seconds(cost, missing)
    link_start = max(time, stages.link_free[node])
    gpu_start = max(link_start + link, stages.gpu_free[node])
    wait = gpu_start - link - time
    if wait > routing.deadline_s:
        sums[Node.SHED] += 1.0
        return -1.0, held, missing
    if not held:
        _note_ghost(state, params, node, request, miss_fraction)
    done = gpu_start + gpu
    stages.link_free[node] = link_start + link
    stages.gpu_free[node] = done
    sums[Node.LATENCY_S] += done - time
    sums[Node.WAIT_S] += wait
    sums[Node.WITHIN_SLO] += 1.0 if done - time <= routing.slo_s else 0.0
    sums[Node.KV_HITS] += 1.0 if held else 0.0
    sums[Node.LOOKUP_BYTES] += wanted
    sums[Node.MISS_BYTES] += missing
    sums[Node.LINK_S] += link
    sums[Node.GPU_S] += gpu
    state.emb.lookups[node, request.group] += wanted
    sums[Node.EVICTED_BLOCKS] += store(
        kv, state.users, request.user, node, entry, history, cache.block_tokens, cache.entries
    )
    admit(state.out, routing.window_s, done - time, done, warm)
    return done - time, held, missing


@inlined
def serve(
    state: State,
    params: Params,
    time: float,
    user: int,
    group: int,
    surface: int,
    first: bool,
    record: Array,
    row: int,
) -> None:
    """One request: history grows, a node is chosen, the node serves or sheds it."""
    cache, cost, source = params.cache, params.cost, params.source
    owner = state.users[user]
    fresh = new_items(state.arrivals.rng, source.new_items)
    before = owner.history
    if first and source.kept.size > 0:
        before = source.kept[user]
    history = min(before + fresh, cache.max_history)
    fresh = min(fresh, history)
    hot = time - owner.last_seen <= params.routing.hot_user_s
    owner.history = history
    owner.last_seen = time
    candidates = source.candidates[surface]
    scored = candidates * cache.candidate_row_bytes
    request = Request(
        time,
        user,
        group,
        gpu_seconds(cost, fresh, history - fresh, candidates),
        gpu_seconds(cost, history, 0, candidates),
        fresh * cache.history_row_bytes + scored,
        history * cache.history_row_bytes + scored,
        1.0 - math.exp(-source.drift_rate * max(0.0, time)) if source.drift_rate > 0.0 else 0.0,
        history,
        fresh,
    )
    count = state.arrivals.tally
    node = choose(
        state.seen,
        state.prices,
        state.stages.finish,
        cost,
        params.routing,
        request,
        count[Count.ROUND_ROBIN],
    )
    count[Count.ROUND_ROBIN] += 1
    if params.routing.books:
        book(state, params, node, request)
    sums = state.out.node[node]
    sums[Node.ARRIVED] += 1.0
    sums[Node.HISTORY_TOKENS] += history
    sums[Node.CANDIDATES] += candidates
    sums[Node.HOT] += 1.0 if hot else 0.0
    sums[Node.WARM] += 0.0 if first else 1.0
    latency, held, missing = _serve_on(
        state, params, node, request, history, candidates, fresh, not first
    )
    if row < record.shape[0]:
        record[row, 0] = time
        record[row, 1] = user
        record[row, 2] = node
        record[row, 3] = latency
        record[row, 4] = 1.0 if held else 0.0
        record[row, 5] = missing


@inlined
def new_items(rng: Array, mean: float) -> int:
    """Items a user's history gained since the previous request."""
    whole = int(mean)
    part = mean - whole
    if part > 0.0 and uniform(rng, Stream.ITEMS) < part:
        return whole + 1
    return whole


@outlined
def run_requests(state: State, params: Params, until: float, record: Array) -> int:
    """Serve every request that arrives before ``until``; return how many there were."""
    arrivals, source = state.arrivals, params.source
    clock, tick_s = arrivals.clock, params.cache.tick_s
    served: Any = np.int64(0)  # a plain 0 would be a type of its own, and serve() compiled twice
    bucket: Any = np.int64(0)  # of the scout that prefetches sessions, as is
    slot: Any = np.int64(-1)
    while arrivals.tally[Count.STATUS] == 0:
        bucket, slot = look_ahead(arrivals, state.users, bucket, slot)
        time = peek(arrivals, state.users, state.kv.entry, source, until)
        due = min(time, until)
        while min(clock[Clock.NEXT_TICK], clock[Clock.NEXT_REPORT]) <= due:
            if clock[Clock.NEXT_TICK] <= clock[Clock.NEXT_REPORT]:
                tick(state, params, clock[Clock.NEXT_TICK])
                clock[Clock.NEXT_TICK] += tick_s
            else:
                report(state)
                clock[Clock.NEXT_REPORT] += params.routing.staleness_s
        if time >= until:
            break
        user, group, surface, first = take(arrivals, state.users, source, time)
        serve(state, params, time, user, group, surface, first, record, served)
        served += 1
    clock[Clock.NOW] = until
    return served


@kernel
def fast_forward(state: State, params: Params, until: float) -> None:
    """Let sessions come and go without serving anything, to reach their steady state."""
    arrivals = state.arrivals
    while arrivals.tally[Count.STATUS] == 0:
        time = peek(arrivals, state.users, state.kv.entry, params.source, until)
        if time >= until:
            break
        take(arrivals, state.users, params.source, time)
    arrivals.clock[Clock.NOW] = until


@kernel
def settle(state: State, params: Params, since: float, until: float) -> None:
    """Let sessions come and go from ``since`` to ``until``, then empty both caches."""
    source_room.clear(state.arrivals, since, params.source.bucket_s)
    draw_start(state.arrivals, params.source)
    fast_forward(state, params, until)
    kv_cache.clear(state.kv, state.users, params.cache.entries)
    emb_cache.clear(state.emb, params.cache, until)


@kernel
def begin_cold(state: State, params: Params, share: float, now: float) -> None:
    """Set every node's boundary, fill the EMB pages of the commonest shards, free the servers."""
    stages = state.stages
    for node in range(stages.share.size):
        set_share(state, params, node, share, now)
        fill_pages(state.emb, params.cache, node)
    stages.pace[:] = 1.0
    stages.link_free[:] = now  # whatever naive refill has just booked
    stages.gpu_free[:] = now


@kernel
def step(state: State, params: Params, shares: Array, record: Array) -> int:
    """One decision period: move the boundaries, serve the window, report it.

    Args:
        state: the cluster, changed in place.
        params: the scenario.
        shares: (M,) EMB share per node, already clipped to the allowed range.
        record: (R, 6) arrival, user, node, latency, KV hit and missing bytes of the first R
            requests; (0, 6) to record nothing.

    Returns:
        Number of requests offered, -1 if the window broke off with a ``Status``.
    """
    now = state.arrivals.clock[Clock.NOW]
    until = now + params.routing.window_s
    open_window(state.out, until)
    for node in range(shares.size):
        if shares[node] != state.stages.share[node]:
            set_share(state, params, node, shares[node], now)
    served = run_requests(state, params, until, record)
    close_window(state, params, served, until)
    return served if state.arrivals.tally[Count.STATUS] == 0 else -1
