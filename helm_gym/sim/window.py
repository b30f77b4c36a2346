"""A window's report: zeroed as it opens, what a request adds to it, and its figures at the end."""

from __future__ import annotations

import numpy as np

from helm_gym.sim.boundary import advance_refill
from helm_gym.sim.compiled import inlined, kernel, outlined
from helm_gym.sim.layout import PENDING_WINDOWS, Cluster, Count, Emb, Node, Output, State
from helm_gym.sim.params import Cache, Params
from helm_gym.sim.prices import update_prices
from helm_gym.sim.stages import latency_bin, quantile


@inlined
def admit(out: Output, window_s: float, latency: float, done: float, warm: bool) -> None:
    """Book a served request in histograms and completions."""
    index = latency_bin(latency)
    out.latency[index] += np.uint32(1)
    if warm:
        out.warm[index] += np.uint32(1)
    late, ahead = done - out.cluster[Cluster.TIME_S], 0
    if late >= 0.0:
        ahead = int(min(late / window_s, PENDING_WINDOWS - 2.0)) + 1  # before int: it may be huge
    out.pending[ahead] += 1


@outlined
def open_window(out: Output, until: float) -> None:
    """Zero the sums and say when the window ends."""
    out.node[:] = 0.0
    out.latency[:] = np.uint32(0)
    out.warm[:] = np.uint32(0)
    out.cluster[Cluster.TIME_S] = until
    for k in range(PENDING_WINDOWS - 1):  # what was one window ahead is due in this one
        out.pending[k] = out.pending[k + 1]
    out.pending[PENDING_WINDOWS - 1] = 0


@outlined
def close_window(state: State, params: Params, served: int, until: float) -> None:
    """Levels at the window's end, latency quantiles, and the request count."""
    out, stages, emb, kv, cache = state.out, state.stages, state.emb, state.kv, params.cache
    shed = 0.0
    for n in range(stages.share.size):
        advance_refill(state, params, n, until)
        sums = out.node[n]
        shed += sums[Node.SHED]
        sums[Node.LINK_DELAY_S] = max(0.0, stages.link_free[n] - until)
        sums[Node.GPU_DELAY_S] = max(0.0, stages.gpu_free[n] - until)
        sums[Node.REFILL_BACKLOG] = emb.waiting[n] * cache.shard_bytes - emb.copied[n]
        pages = cache.ghost_bytes / cache.shard_bytes
        sums[Node.MARGINAL_EMB_S] = emb.coldest[n] * pages * params.cost.link_byte
        sums[Node.EMB_BYTES] = _emb_bytes(emb, cache, n)
        sums[Node.KV_BYTES] = kv.used[n] * cache.block_bytes
        sums[Node.SHARE] = stages.share[n]
    count = state.arrivals.tally
    count[Count.OFFERED] += served
    count[Count.SHED] += int(shed)
    count[Count.COMPLETED] += out.pending[0]
    summarise(out)
    if params.routing.prices:
        update_prices(state, params, until)


@kernel
def _emb_bytes(emb: Emb, cache: Cache, node: int) -> float:
    if not cache.row_lru:
        return emb.pages[node] * cache.shard_bytes
    total = 0.0
    for s in range(emb.fill.shape[1]):
        total += emb.fill[node, s]
    return total * cache.shard_bytes


@outlined
def summarise(out: Output) -> None:
    """Figures of the window over all nodes."""
    figures = out.cluster
    figures[Cluster.P50_S] = quantile(out.latency, 0.5)
    figures[Cluster.P99_S] = quantile(out.latency, 0.99)
    figures[Cluster.WARM_P50_S] = quantile(out.warm, 0.5)
    figures[Cluster.WARM_P99_S] = quantile(out.warm, 0.99)
    figures[Cluster.COMPLETED] = out.pending[0]
    ahead = 0
    for k in range(1, PENDING_WINDOWS):
        ahead += out.pending[k]
    figures[Cluster.IN_FLIGHT] = ahead
