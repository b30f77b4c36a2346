"""What the router knows of the nodes, and when: reports, and the router's own books.

Without staleness the router reads the live arrays and nothing here runs. With it, every node
reports every ``staleness_s`` and the router sees the last report, so the age of what it sees is
uniform between 0 and ``staleness_s``.
"""

from __future__ import annotations

import numpy as np

from helm_gym.sim.compiled import inlined, kernel, outlined
from helm_gym.sim.kv_cache import note_change, resident
from helm_gym.sim.layout import Emb, Kv, Signals, Stages, State
from helm_gym.sim.params import Params
from helm_gym.sim.router import Request, work_on


@kernel
def report(state: State) -> None:
    """Let the router see all nodes as they are."""
    seen, kv = state.seen, state.kv
    _report_nodes(seen, state.stages, state.emb)
    if kv.changes[0] > kv.changed.size:
        for user in range(kv.mask.shape[0]):
            _report_user(seen, kv, user)
    else:
        for i in range(kv.changes[0]):
            _report_user(seen, kv, kv.changed[i])
    kv.changes[0] = 0


@inlined
def _report_user(seen: Signals, kv: Kv, user: int) -> None:
    for w in range(kv.mask.shape[1]):
        seen.mask[user, w] = kv.mask[user, w]


@outlined
def _report_nodes(seen: Signals, stages: Stages, emb: Emb) -> None:
    for n in range(seen.link_free.size):  # whole arrays at once would allocate
        seen.link_free[n] = stages.link_free[n]
        seen.gpu_free[n] = stages.gpu_free[n]
        for k in range(seen.readout.shape[0]):
            for g in range(seen.readout.shape[1]):
                seen.readout[k, g, n] = emb.readout[k, g, n]


@kernel
def book(state: State, params: Params, node: int, request: Request) -> None:
    """Enter into the last report what this request will do to its node, as far as one can tell.

    The router's own model of the node: the KV that it believes to be there, a fresh copy, the last
    reported hit rate. A request that would have to wait beyond the deadline is refused at once, so
    it is not entered.
    """
    seen = state.seen
    held = resident(seen.mask, request.user, node)
    link, gpu = work_on(seen, params.cost, request, node, held)
    fetched = max(request.time, seen.link_free[node]) + link
    start = max(fetched, seen.gpu_free[node])
    if start - link - request.time > params.routing.deadline_s:
        return
    seen.link_free[node] = fetched
    seen.gpu_free[node] = start + gpu
    seen.mask[request.user, node >> 6] |= np.uint64(1) << np.uint64(node & 63)
    note_change(state.kv, request.user)
