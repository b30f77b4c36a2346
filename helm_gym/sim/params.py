"""What a kernel needs to know of a scenario, as numbers and read-only arrays.

The letters in shape comments are those of :mod:`helm_gym.sim.layout`. Built by
:mod:`helm_gym.sim.lowering`; shared by all clusters of a simulator.
"""

from __future__ import annotations

from typing import NamedTuple

from helm_gym.sim.layout import Array


class Cost(NamedTuple):
    """What the service times of one request follow from (docs/model.md, section 5)."""

    tokens: Array  # (rows, 4) f8 s by token count, see sim.token_times
    link_latency: float  # s per transfer
    link_byte: float  # s per missing byte
    refill_rate: float  # bytes/s of a whole-shard copy, latency included


class Cache(NamedTuple):
    """Sizes and rules of both caches."""

    pool_bytes: float
    shard_bytes: float
    block_bytes: float
    block_tokens: int
    history_row_bytes: float
    candidate_row_bytes: float
    tick_s: float
    heat_keep: float  # part of the heat that survives one tick
    heat_rate: float  # 1/s; heat times this is a look-up rate
    swap_hysteresis: float
    swaps_per_tick: int
    row_lru: bool  # EMB rows leave by recency instead of heat
    naive_refill: bool
    paced_refill: bool
    refill_floor: float  # part of the link time below which paced refill starves
    refill_rush: float  # part of it that refill takes once it has starved
    refill_debt: float  # s of the floor that idle time may have paid in advance
    chunk_bytes: float  # copied at a time where a request may have to wait for it
    ghost_bytes: float
    entries: int  # E
    max_history: int
    weights: Array  # (3, S, G) f8 look-up probability now, after drift, hottest-20 indicator / 20
    by_group: Array  # (2, G, S) f4 the first two of `weights`, shards contiguous


class Routing(NamedTuple):
    """Router and admission."""

    router: int  # a config.RouterId
    seeks_kv: bool  # whether it prefers nodes that hold the user's KV
    kv_weight: float
    emb_weight: float
    load_weight: float
    affinity_bonus: float
    overload: float
    spare_only: bool  # an overloaded node gives way only to one that is not
    slo_s: float
    deadline_s: float
    window_s: float
    hot_user_s: float
    staleness_s: float  # between two reports of the nodes; 0 lets the router see live signals
    books: bool  # whether it enters what it sends into the last report
    balance_s: float  # s of queueing delay, sglang_like
    balance_ratio: float
    match_threshold: float
    overlap_weight: float  # dynamo_like
    queued_tokens: float  # weighted tokens/s of queueing delay, dynamo_like
    prices: bool  # whether it needs layout.Prices
    price_step: float  # part of a window's figures that enters the prices
    busiest: float  # utilisation beyond which prices rise no further
    block_tokens: int  # as in Cache


class Source(NamedTuple):
    """Where requests come from."""

    cell_s: float
    starts: Array  # (T,) f8 session starts per second
    mix: Array  # (T, F) f8 cumulative surface shares
    excess: Array  # (T, F) part of a surface's starts that belongs to a burst
    newcomers: Array  # (T,) part of those that are not by regular users
    hot_items: Array  # (T,) part of those that are for the hot items
    start_cv: float
    regular_users: int  # users beyond these come only in bursts
    activity_sigma: float
    burst_group: int  # interest group of sessions that come for a burst's hot items
    new_items: float
    kept: Array  # (U,) i4 history of every user when a session begins; (0,) if histories grow
    drift_rate: float  # 1/s; 0 without drift
    bucket_s: float
    candidates: Array  # (F,) i8
    gap: Array  # (F, 3) f8 log mean, log sigma, scale
    gap_cut: Array  # (F,) f8 probability below the cut
    length: Array  # (F, 2) f8 log mean, log sigma
    log_kind: int  # 0 generator, 1 interactions, 2 arrival instants
    log_time: Array  # (R,) f8
    log_user: Array  # (R,) i4
    log_first: Array  # (R,) u1
    log_period: float  # s after which the log starts again


class Params(NamedTuple):
    """Everything that does not change during an episode."""

    cost: Cost
    cache: Cache
    routing: Routing
    source: Source
