"""What a request costs those that come after it, learned from the windows that have closed.

Only ``foresight`` reads these prices; docs/model.md, section 7, derives them.
"""

from __future__ import annotations

from helm_gym.sim.compiled import inlined, outlined
from helm_gym.sim.layout import Node, State
from helm_gym.sim.params import Params


@outlined
def update_prices(state: State, params: Params, now: float) -> None:
    """Fold the window that has just closed into the prices of every node."""
    prices, routing, cost = state.prices, params.routing, params.cost
    step, window = routing.price_step, routing.window_s
    for n in range(prices.kv.size):
        sums = state.out.node[n]
        rate = (sums[Node.ARRIVED] - sums[Node.SHED]) / window
        link = sums[Node.LINK_S]
        if not params.cache.naive_refill:  # copies wait for idle time, so they delay nobody
            link -= sums[Node.REFILL_BYTES] / cost.refill_rate
        prices.link[n] += step * (_delayed(rate, link / window, routing.busiest) - prices.link[n])
        gpu = sums[Node.GPU_S] / window
        prices.gpu[n] += step * (_delayed(rate, gpu, routing.busiest) - prices.gpu[n])
        prices.kv[n] += step * (_displaced(state, params, n, now) - prices.kv[n])


@inlined
def _delayed(rate: float, utilisation: float, busiest: float) -> float:
    """Requests that arrive, per second of backlog, until a server is idle again (1/s)."""
    return rate / (1.0 - min(utilisation, busiest))


@inlined
def _displaced(state: State, params: Params, node: int, now: float) -> float:
    """Service seconds lost per KV block that a node takes in.

    The ghost says how many seconds per second one more block would save; each block taken in
    shortens every stay by its own size, once, for as long as a user stays: the age of the oldest.
    """
    oldest = state.kv.oldest[node]
    if oldest < 0:
        return 0.0
    stay = now - state.users[state.kv.entry[oldest].owner].last_seen
    saved = state.out.node[node, Node.GHOST_KV_S] / params.routing.window_s
    return saved * stay * params.cache.block_bytes / params.cache.ghost_bytes
