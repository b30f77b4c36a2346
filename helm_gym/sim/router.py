"""Routers: every one is a kernel with the same interface, chosen by ``Routing.router``.

To add a router, append its name to ``config.ROUTERS``, write a kernel here and a line in
:func:`choose`. What a router may know of a request is in :class:`Request`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from helm_gym.sim.compiled import inlined, kernel
from helm_gym.sim.emb_cache import ROUNDING
from helm_gym.sim.intrinsics import lowest_bit
from helm_gym.sim.kv_cache import resident
from helm_gym.sim.layout import Array, Emb, Kv, Stages
from helm_gym.sim.params import Cost, Routing
from helm_gym.sim.rng import mix64

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


@inlined
def least_loaded(stages: Stages) -> int:
    """Node that is free first."""
    best, node = np.inf, 0
    for n in range(stages.link_free.size):
        free = max(stages.link_free[n], stages.gpu_free[n])
        if free < best:
            best, node = free, n
    return node


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
def kv_affinity(kv: Kv, stages: Stages, user: int) -> int:
    """Least loaded of the nodes that hold the user's KV, or of all nodes if none does."""
    best, node = np.inf, -1
    for n in range(stages.link_free.size):
        if resident(kv, user, n):
            free = max(stages.link_free[n], stages.gpu_free[n])
            if free < best:
                best, node = free, n
    return node if node >= 0 else least_loaded(stages)


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
def predicted_completion(kv: Kv, emb: Emb, stages: Stages, cost: Cost, request: Request) -> int:
    """Node on which link and GPU, given what is resident there, finish the request first."""
    finish = stages.finish
    now, later = emb.readout[0, request.group], emb.readout[1, request.group]
    drift, time = request.drift, request.time
    n_nodes = finish.size
    for w in range(kv.mask.shape[1]):
        word = kv.mask[request.user, w]
        first = 64 * w
        for i in range(min(64, n_nodes - first)):
            n = first + i
            held = (word >> np.uint64(i)) & np.uint64(1) != np.uint64(0)
            wanted = request.bytes_hit if held else request.bytes_miss
            gpu = request.gpu_hit if held else request.gpu_miss
            fraction = 1.0 - (now[n] + drift * (later[n] - now[n]))
            missing = fraction * wanted if fraction >= ROUNDING else 0.0
            link = cost.link_latency + missing * cost.link_byte if missing > 0.0 else 0.0
            finish[n] = max(max(time, stages.link_free[n]) + link, stages.gpu_free[n]) + gpu
    return _first_least(finish)


@kernel
def helm_score(kv: Kv, emb: Emb, stages: Stages, routing: Routing, request: Request) -> int:
    """HELM's weighted score; the least loaded node if the best one is overloaded.

    ``w_kv*h_kv + w_emb*h_emb + w_load*(1 - load) + bonus`` with h_emb the resident part of the
    group's 20 hottest shards. Load is queueing delay over the SLO, clipped to 1 (our reading).
    """
    n_nodes = stages.link_free.size
    favourite = consistent_hash(request.user, n_nodes)
    best, node, load_of_best = -np.inf, 0, 0.0
    for n in range(n_nodes):
        delay = max(stages.link_free[n], stages.gpu_free[n]) - request.time
        load = min(1.0, max(0.0, delay / routing.slo_s))
        score = routing.emb_weight * emb.readout[2, request.group, n]
        score += routing.load_weight * (1.0 - load)
        if resident(kv, request.user, n):
            score += routing.kv_weight
        if n == favourite:
            score += routing.affinity_bonus
        if score > best:
            best, node, load_of_best = score, n, load
    return least_loaded(stages) if load_of_best > routing.overload else node


@inlined
def choose(
    kv: Kv,
    emb: Emb,
    stages: Stages,
    cost: Cost,
    routing: Routing,
    request: Request,
    turn: int,
) -> int:
    """Node that serves the request; ``turn`` counts requests for round robin."""
    router = routing.router
    if router == 4:
        return predicted_completion(kv, emb, stages, cost, request)
    if router == 0:
        return turn % stages.link_free.size
    if router == 1:
        return least_loaded(stages)
    if router == 2:
        return consistent_hash(request.user, stages.link_free.size)
    if router == 3:
        return kv_affinity(kv, stages, request.user)
    return helm_score(kv, emb, stages, routing, request)
