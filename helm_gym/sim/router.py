"""Routers: every one is a kernel with the same interface, chosen by ``Routing.router``.

To add a router, append it to ``config.routers.RouterId``, write a kernel here and a line in
:func:`choose`. What a router may know of a request is in :class:`Request`, what it may know of the
nodes in :class:`~helm_gym.sim.layout.Signals`: the live state, or what the nodes last reported.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from helm_gym.config.routers import RouterId
from helm_gym.sim.compiled import inlined, kernel
from helm_gym.sim.emb_cache import ROUNDING
from helm_gym.sim.intrinsics import lowest_bit
from helm_gym.sim.kv_cache import resident
from helm_gym.sim.layout import Array, Prices, Signals
from helm_gym.sim.params import Cost, Routing
from helm_gym.sim.rng import GOLDEN, mix64
from helm_gym.sim.stages import link_seconds
from helm_gym.workload.popularity import HOTTEST

MAGNITUDE = np.int64(0x7FFF_FFFF_FFFF_FFFF)  # all bits of a double but its sign


class Request(NamedTuple):
    """A request as the router sees it."""

    time: float  # s, arrival
    user: int
    group: int
    gpu_hit: float  # s of GPU if the user's KV is resident and fresh
    gpu_miss: float  # s of GPU if it is not
    bytes_hit: float  # bytes looked up if it is
    bytes_miss: float  # bytes looked up if it is not
    drift: float  # blend of interests
    history: int  # tokens
    fresh: int  # of them new since the previous request


@inlined
def free_at(seen: Signals, node: int) -> float:
    """Instant at which both servers of a node are free."""
    return max(seen.link_free[node], seen.gpu_free[node])


@inlined
def least_loaded(seen: Signals) -> int:
    """Node that is free first."""
    best, node = np.inf, 0
    for n in range(seen.link_free.size):
        free = free_at(seen, n)
        if free < best:
            best, node = free, n
    return node


@kernel
def power_of_two(seen: Signals, turn: int) -> int:
    """Of two nodes drawn at random the one that is free first (Mitzenmacher 2001).

    The draw is a hash of the request's number, so that it takes nothing from a random stream.
    """
    nodes = seen.link_free.size
    if nodes == 1:
        return 0
    drawn = mix64(np.uint64(turn + 1) * GOLDEN)
    one = int(np.int64(drawn % np.uint64(nodes)))
    step = int(np.int64((drawn >> np.uint64(32)) % np.uint64(nodes - 1)))
    other = (one + 1 + step) % nodes
    return other if free_at(seen, other) < free_at(seen, one) else one


@kernel
def consistent_hash(user: int, nodes: int) -> int:
    """Jump consistent hash (Lamping and Veach 2014)."""
    key = mix64(np.uint64(user))
    bucket, jump = -1, 0
    while jump < nodes:
        bucket = jump
        key = key * np.uint64(2862933555777941757) + np.uint64(1)
        scale = np.float64(np.uint64(1) << np.uint64(31))
        jump = int((bucket + 1) * (scale / np.float64((key >> np.uint64(33)) + np.uint64(1))))
    return bucket


@kernel
def kv_affinity(seen: Signals, user: int) -> int:
    """Least loaded of the nodes that hold the user's KV, or of all nodes if none does."""
    best, node = np.inf, -1
    for n in range(seen.link_free.size):
        if resident(seen.mask, user, n):
            free = free_at(seen, n)
            if free < best:
                best, node = free, n
    return node if node >= 0 else least_loaded(seen)


@inlined
def _in_order(bits: np.int64) -> np.int64:
    """Make the bits of doubles compare as the doubles do; its own inverse."""
    return bits ^ ((bits >> 63) & MAGNITUDE)


@inlined
def _first_least(values: Array) -> int:
    """Index of the least value, the first of equals.

    Integers, because the processor compares four at a time where doubles, for the sake of NaN,
    would go one by one; and a bit for each place that holds the least, because a search that stops
    there is a branch that no processor foresees.
    """
    bits = values.view(np.int64)
    least = MAGNITUDE
    for n in range(bits.size):
        least = min(least, _in_order(bits[n]))
    least = _in_order(least)
    first = 0
    while True:
        there = np.uint64(0)
        for i in range(min(64, bits.size - first)):
            there |= np.uint64(bits[first + i] == least) << np.uint64(i)
        if there != np.uint64(0):
            return first + int(lowest_bit(there))
        first += 64


@inlined
def predicted_completion(seen: Signals, finish: Array, cost: Cost, request: Request) -> int:
    """Node on which link and GPU, given what is resident there, finish the request first."""
    now, later = seen.readout[0, request.group], seen.readout[1, request.group]
    drift, time = request.drift, request.time
    n_nodes = finish.size
    for w in range(seen.mask.shape[1]):
        word = seen.mask[request.user, w]
        first = 64 * w
        for i in range(min(64, n_nodes - first)):
            n = first + i
            held = (word >> np.uint64(i)) & np.uint64(1) != np.uint64(0)
            wanted = request.bytes_hit if held else request.bytes_miss
            gpu = request.gpu_hit if held else request.gpu_miss
            fraction = 1.0 - (now[n] + drift * (later[n] - now[n]))
            missing = fraction * wanted if fraction >= ROUNDING else 0.0
            link = cost.link_latency + missing * cost.link_byte if missing > 0.0 else 0.0
            finish[n] = max(max(time, seen.link_free[n]) + link, seen.gpu_free[n]) + gpu
    return _first_least(finish)


@inlined
def work_on(
    seen: Signals, cost: Cost, request: Request, node: int, held: bool
) -> tuple[float, float]:
    """Link and GPU seconds of the request on a node, as far as its last report tells."""
    wanted = request.bytes_hit if held else request.bytes_miss
    now, later = seen.readout[0, request.group, node], seen.readout[1, request.group, node]
    fraction = 1.0 - (now + request.drift * (later - now))
    link = link_seconds(cost, fraction * wanted if fraction >= ROUNDING else 0.0)
    return link, request.gpu_hit if held else request.gpu_miss


@kernel
def foresight(
    seen: Signals,
    prices: Prices,
    total: Array,
    cost: Cost,
    routing: Routing,
    request: Request,
) -> int:
    """Node with the least predicted latency plus what the choice costs later requests.

    A server with backlog u that gets x more seconds of work delays those that arrive until it is
    idle again: ``rate / (1 - utilisation) * (u x + x^2 / 2)`` seconds in all, the difference of the
    value function of an M/G/1 queue (one step of policy iteration: Krishnan 1990; Hyytia, Penttinen
    and Aalto 2012). KV blocks that the node does not hold push others out sooner; their price is
    learned from the ghost. See :mod:`helm_gym.sim.prices`.
    """
    blocks = (request.history + routing.block_tokens - 1) // routing.block_tokens
    now, later = seen.readout[0, request.group], seen.readout[1, request.group]
    drift, time = request.drift, request.time
    n_nodes = total.size
    for w in range(seen.mask.shape[1]):
        word = seen.mask[request.user, w]
        first = 64 * w
        for i in range(min(64, n_nodes - first)):
            n = first + i
            held = (word >> np.uint64(i)) & np.uint64(1) != np.uint64(0)
            wanted = request.bytes_hit if held else request.bytes_miss
            gpu = request.gpu_hit if held else request.gpu_miss
            pushed_out = 0.0 if held else prices.kv[n] * blocks
            fraction = 1.0 - (now[n] + drift * (later[n] - now[n]))
            missing = fraction * wanted if fraction >= ROUNDING else 0.0
            link = cost.link_latency + missing * cost.link_byte if missing > 0.0 else 0.0
            link_wait = max(0.0, seen.link_free[n] - time)
            gpu_wait = max(0.0, seen.gpu_free[n] - time)
            queued = prices.link[n] * link * (link_wait + 0.5 * link)
            queued += prices.gpu[n] * gpu * (gpu_wait + 0.5 * gpu)
            total[n] = max(link_wait + link, gpu_wait) + gpu + (queued + pushed_out)
    return _first_least(total)


@inlined
def _load(seen: Signals, node: int, routing: Routing, time: float) -> float:
    """Queueing delay over the SLO, at most 1 (our reading of HELM's load)."""
    return min(1.0, max(0.0, (free_at(seen, node) - time) / routing.slo_s))


@inlined
def _unless_overloaded(seen: Signals, routing: Routing, time: float, node: int) -> int:
    """The node, or the least loaded one in its place if it is overloaded (HELM's way out)."""
    if _load(seen, node, routing, time) <= routing.overload:
        return node
    spare = least_loaded(seen)
    if routing.spare_only and _load(seen, spare, routing, time) > routing.overload:
        return node
    return spare


@kernel
def helm_score(seen: Signals, routing: Routing, request: Request) -> int:
    """HELM's weighted score; the least loaded node if the best one is overloaded.

    ``w_kv*h_kv + w_emb*h_emb + w_load*(1 - load) + bonus`` with h_emb the resident part of the
    group's 20 hottest shards. Load is queueing delay over the SLO, clipped to 1 (our reading).
    """
    n_nodes = seen.link_free.size
    favourite = consistent_hash(request.user, n_nodes)
    best, node = -np.inf, 0
    for n in range(n_nodes):
        score = routing.emb_weight * seen.readout[2, request.group, n]
        score += routing.load_weight * (1.0 - _load(seen, n, routing, request.time))
        if resident(seen.mask, request.user, n):
            score += routing.kv_weight
        if n == favourite:
            score += routing.affinity_bonus
        if score > best:
            best, node = score, n
    return _unless_overloaded(seen, routing, request.time, node)


@kernel
def emb_affinity(seen: Signals, routing: Routing, request: Request) -> int:
    """Node with most of the group's 20 hottest shards, the least loaded of equals.

    HELM's EMB term alone, with its way out: the least loaded node if this one is overloaded. Only
    whole shards count, because a sum of parts is never quite equal on two nodes.
    """
    most, node, best = -1.0, 0, np.inf
    for n in range(seen.link_free.size):
        shards = np.floor(HOTTEST * seen.readout[2, request.group, n] + ROUNDING)
        free = free_at(seen, n)
        if shards > most or (shards == most and free < best):
            most, node, best = shards, n, free
    return _unless_overloaded(seen, routing, request.time, node)


@kernel
def sglang_like(seen: Signals, routing: Routing, request: Request) -> int:
    """SGLang's cache-aware rule (sgl-router, ``policies/cache_aware.rs``).

    The least loaded node if loads are out of balance, by a number and by a ratio; else the least
    loaded of the nodes with the longest matching prefix, if it is long enough; else the least
    loaded. SGLang counts requests in flight: here the queueing delay, in requests at capacity. Its
    prefix is here the cached part of the history.
    """
    least, most = np.inf, 0.0
    for n in range(seen.link_free.size):
        queued = max(0.0, free_at(seen, n) - request.time)
        least, most = min(least, queued), max(most, queued)
    apart = most - least > routing.balance_s and most > routing.balance_ratio * least
    matched = request.history - request.fresh
    if apart or matched <= routing.match_threshold * request.history:
        return least_loaded(seen)
    return kv_affinity(seen, request.user)


@kernel
def dynamo_like(seen: Signals, routing: Routing, request: Request) -> int:
    """Dynamo's KV router (``DefaultWorkerSelector`` at temperature 0): least weighted cost.

    ``overlap_weight * prefill + active``, both in blocks there and in tokens here: prefill is what
    is queued on the node and what the request adds, less what is cached; active is what requests in
    flight hold, in proportion to the queueing delay. Ties go to the least loaded.
    """
    best, first, node = np.inf, np.inf, 0
    for n in range(seen.link_free.size):
        free = free_at(seen, n)
        held = resident(seen.mask, request.user, n)
        new = request.fresh if held else request.history
        tokens = routing.overlap_weight * new
        tokens += routing.queued_tokens * max(0.0, free - request.time)
        if tokens < best or (tokens == best and free < first):
            best, first, node = tokens, free, n
    return node


@inlined
def choose(
    seen: Signals,
    prices: Prices,
    finish: Array,
    cost: Cost,
    routing: Routing,
    request: Request,
    turn: int,
) -> int:
    """Node that serves the request; ``turn`` counts requests."""
    router = routing.router
    if router == RouterId.PREDICTED_COMPLETION:
        return predicted_completion(seen, finish, cost, request)
    if router == RouterId.ROUND_ROBIN:
        return turn % seen.link_free.size
    if router == RouterId.LEAST_LOADED:
        return least_loaded(seen)
    if router == RouterId.CONSISTENT_HASH:
        return consistent_hash(request.user, seen.link_free.size)
    if router == RouterId.KV_AFFINITY:
        return kv_affinity(seen, request.user)
    if router == RouterId.HELM_SCORE:
        return helm_score(seen, routing, request)
    if router == RouterId.POWER_OF_TWO:
        return power_of_two(seen, turn)
    if router == RouterId.EMB_AFFINITY:
        return emb_affinity(seen, routing, request)
    if router == RouterId.SGLANG_LIKE:
        return sglang_like(seen, routing, request)
    if router == RouterId.DYNAMO_LIKE:
        return dynamo_like(seen, routing, request)
    return foresight(seen, prices, finish, cost, routing, request)
