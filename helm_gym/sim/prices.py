"""What a request costs those that come after it, learned from the windows that have closed."""

from __future__ import annotations

from helm_gym.sim.compiled import kernel
from helm_gym.sim.layout import Node, State
from helm_gym.sim.params import Params


@kernel
def update_prices(state: State, params: Params, now: float) -> None:
    """Fold the window that has just closed into the prices of every node."""
    prices, routing, cache, kv = state.prices, params.routing, params.cache, state.kv
    nodes, window = prices.kv.size, routing.window_s
    step = routing.price_step
    v = routing.variant
    rate = 0.0
    link = 0.0
    gpu = 0.0
    for n in range(nodes):
        sums = state.out.node[n]
        work = sums[Node.LINK_S]
        if not cache.naive_refill:
            work -= sums[Node.REFILL_BYTES] / params.cost.refill_rate
        link += work / (window * nodes)
        gpu += sums[Node.GPU_S] / (window * nodes)
        rate += (sums[Node.ARRIVED] - sums[Node.SHED]) / (window * nodes)
    kvall = 0.0
    for n in range(nodes):
        sums = state.out.node[n]
        oldest = kv.oldest[n]
        price = 0.0
        if oldest >= 0:
            age = now - state.users[kv.entry[oldest].owner].last_seen
            price = sums[Node.GHOST_KV_S] / window * age * cache.block_bytes / cache.ghost_bytes
        kvall += price / nodes
        if v & 1:
            prices.kv[n] += step * (price - prices.kv[n])
        if v & 2:
            prices.link[n] += step * (rate / (1.0 - min(routing.busiest, link)) - prices.link[n])
            prices.gpu[n] += step * (rate / (1.0 - min(routing.busiest, gpu)) - prices.gpu[n])
    if v & 4:
        for n in range(nodes):
            prices.kv[n] = kvall
