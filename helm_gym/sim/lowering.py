"""From a scenario to the numbers and sizes that kernels work with."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from helm_gym.config.routers import KV_ROUTERS, RouterId
from helm_gym.config.scenario import Scenario
from helm_gym.config.workload import Crowd, Gap, LogNormal, Surface, Trend
from helm_gym.errors import ConfigError
from helm_gym.seeding import N_STREAMS
from helm_gym.sim.layout import USER, Array, Sizes, buffer_bytes
from helm_gym.sim.params import Cache, Cost, Params, Routing, Source
from helm_gym.sim.stages import gpu_seconds
from helm_gym.sim.token_times import token_times
from helm_gym.units import GB, GBPS, MB, MS, US
from helm_gym.workload.popularity import group_weights, readout_weights
from helm_gym.workload.regimes import Schedule, build_schedule
from helm_gym.workload.replay import ReplayLog, load_replay
from helm_gym.workload.session_laws import mean_gap, mean_length

NOBODY = Crowd()  # whose hot items nobody asks for
ENTRY_MARGIN = 3.0  # KV entries over what the pool holds at the mean history length
CHANGES = 1 << 14  # of residency that are noted one by one; 32 nodes make half as many in 0.5 s
MOST_BYTES = 64e9  # of one cluster's state
MOST_WEIGHTS = 1 << 26  # interest groups times shards: 0.5 GB for each of some five copies
ENTRIES_PER_BUCKET = 8  # requests in a calendar bucket at the peak rate


class Lowered(NamedTuple):
    """A scenario ready to run."""

    params: Params
    sizes: Sizes
    users: Array  # (U,) USER, every user before the first request
    schedule: Schedule
    session_s: float  # mean duration of a session; how long the source takes to settle


def lower(scenario: Scenario) -> Lowered:
    """Compute parameters, array sizes and the initial users of a scenario."""
    _refuse_many_weights(scenario)
    rng = np.random.default_rng([scenario.structure_seed, N_STREAMS])
    schedule = build_schedule(scenario.workload, rng)
    log = load_replay(scenario, rng) if scenario.workload.replay else None
    cost = lower_cost(scenario)
    cache = _cache(scenario, log, rng)
    source, session_s, concurrency = _source(scenario, schedule, log)
    params = Params(cost, cache, _routing(scenario, cost), source)
    sizes = _sizes(scenario, params, _user_count(scenario, log), session_s, concurrency)
    _refuse_large_state(sizes)
    users = _users(scenario, source.regular_users, log, rng)
    if scenario.workload.keeps_histories() and (log is None or log.user is None):
        kept = np.ascontiguousarray(users["history"])
        params = params._replace(source=source._replace(kept=kept))
    return Lowered(params, sizes, users, schedule, session_s)


def _refuse_many_weights(scenario: Scenario) -> None:
    groups, shards = scenario.workload.profile.popularity.interest_groups, scenario.emb.shards
    if groups.value * shards > MOST_WEIGHTS:
        raise ConfigError(
            f"popularity.interest_groups {groups.value:g} times emb.shards {shards} are more than "
            f"{MOST_WEIGHTS} look-up probabilities; lower one of them"
        )


def _refuse_large_state(sizes: Sizes) -> None:
    need = buffer_bytes(sizes)
    if need > MOST_BYTES:
        raise ConfigError(
            f"one cluster of this scenario needs {need / GB:,.0f} GB of memory, and "
            f"{MOST_BYTES / GB:g} GB is the limit: {sizes.users:,} users and "
            f"{sizes.kv_entries:,} KV entries on each of {sizes.nodes} nodes, {sizes.sessions:,} "
            "sessions at a time; lower workload.users, nodes, emb.shards, memory.pool_gb or "
            "workload.load"
        )


def lower_cost(scenario: Scenario) -> Cost:
    """GPU seconds by token count, and what the host link takes."""
    host, model = scenario.hardware.host, scenario.hardware.model
    candidates = max(s.candidates.value for s in scenario.workload.surfaces)
    most = int(model.max_history.value + candidates)
    miss_bw = min(
        host.miss_gbps.value * GBPS, host.keys_per_s.value * scenario.emb.bytes_per_key.value
    )
    latency = host.latency_us.value * US
    shard = scenario.emb.shard_bytes
    return Cost(
        tokens=token_times(scenario.hardware.gpu, model, most),
        link_latency=latency,
        link_byte=1.0 / miss_bw,
        refill_rate=shard / (latency + shard / (host.bulk_gbps.value * GBPS)),
    )


def _cache(scenario: Scenario, log: ReplayLog | None, rng: np.random.Generator) -> Cache:
    emb, kv, model = scenario.emb, scenario.kv, scenario.hardware.model
    law = scenario.workload.profile.popularity
    if log is not None and log.weights is not None:
        now = later = log.weights
    else:
        crowd = scenario.workload.crowd() or NOBODY
        now = group_weights(law, emb.shards, rng, crowd)
        later = group_weights(law, emb.shards, rng, crowd)
    weights, by_group = readout_weights(now, later)
    block_tokens = int(kv.block_tokens.value)
    block_bytes = block_tokens * model.kv_bytes_per_token
    largest = (1.0 - scenario.episode.share_min) * scenario.memory.pool_gb.value * GB
    heat_rate = math.log(2.0) / emb.heat_half_life_s.value
    refill = scenario.refill
    floor, patience_s, rush, chunk_mb = (
        0.0 if setting is None else setting.value
        for setting in (refill.floor, refill.patience_s, refill.rush, refill.chunk_mb)
    )
    return Cache(
        pool_bytes=scenario.memory.pool_gb.value * GB,
        shard_bytes=emb.shard_bytes,
        block_bytes=block_bytes,
        block_tokens=block_tokens,
        history_row_bytes=emb.history_row_bytes.value,
        candidate_row_bytes=emb.candidate_row_bytes.value,
        tick_s=emb.tick_s.value,
        heat_keep=math.exp(-heat_rate * emb.tick_s.value),
        heat_rate=heat_rate,
        swap_hysteresis=emb.swap_hysteresis.value,
        swaps_per_tick=int(emb.swaps_per_tick.value),
        row_lru=emb.policy == "lru",
        naive_refill=scenario.refill.mode == "naive",
        paced_refill=scenario.refill.mode == "paced",
        refill_floor=floor,
        refill_rush=rush,
        refill_debt=floor * patience_s,
        chunk_bytes=chunk_mb * MB,
        ghost_bytes=kv.ghost_gb * GB,
        entries=_entries(scenario, log, largest / block_bytes),
        max_history=int(model.max_history.value),
        weights=weights,
        by_group=by_group,
    )


def _entries(scenario: Scenario, log: ReplayLog | None, blocks: float) -> int:
    """KV entries per node: what ``blocks`` hold at the mean history, with a margin.

    Users in the cache are a fair sample of histories, so the margin is never reached; if it were,
    the oldest user would leave as from a full cache. Histories from a log may be of any length.
    """
    law, block = scenario.workload.profile.history, scenario.kv.block_tokens.value
    mean = math.exp(law.log_mean.value + law.log_sigma.value**2 / 2)
    mean = min(mean, scenario.hardware.model.max_history.value)
    from_log = log is not None and log.history is not None
    tokens = 1.0 if from_log else max(mean / ENTRY_MARGIN, law.shortest.value)
    return min(int(blocks / math.ceil(tokens / block)) + 1, _user_count(scenario, log))


def _user_count(scenario: Scenario, log: ReplayLog | None) -> int:
    if log is not None and log.user is not None:
        return log.n_users
    regular, crowd = int(scenario.workload.users.value), scenario.workload.crowd()
    return regular + (math.ceil(crowd.newcomers.value * regular) if crowd else 0)


def _routing(scenario: Scenario, cost: Cost) -> Routing:
    router = scenario.router
    given = (router.kv_weight, router.emb_weight, router.load_weight)
    weights = [
        profiled if own is None else own
        for own, profiled in zip(given, profiled_weights(scenario, cost), strict=True)
    ]
    return Routing(
        router=int(RouterId[router.name.upper()]),
        seeks_kv=router.name in KV_ROUTERS,
        kv_weight=weights[0],
        emb_weight=weights[1],
        load_weight=weights[2],
        affinity_bonus=router.affinity_bonus.value,
        overload=router.overload.value,
        spare_only=router.spare_only,
        slo_s=scenario.slo.p99_ms.value * MS,
        deadline_s=scenario.slo.deadline_ms.value * MS,
        window_s=scenario.episode.step_s,
        hot_user_s=scenario.episode.hot_user_s.value,
        staleness_s=router.staleness_ms * MS,
        books=router.books,
        **_rules(scenario, cost),
    )


def _rules(scenario: Scenario, cost: Cost) -> dict[str, Any]:
    """Numbers of single routers.

    A queueing delay stands for as many requests as a node serves in that time at capacity, and for
    as many tokens as it computes in that time at the median history.
    """
    router, step_s = scenario.router, scenario.episode.step_s
    rate = scenario.workload.capacity_rps_per_node.value
    history = int(median_history(scenario))
    overlap = router.overlap_weight.value
    prefill = history / gpu_seconds(cost, history, 0, 0)
    return {
        "balance_s": router.balance_requests.value / rate,
        "balance_ratio": router.balance_ratio.value,
        "match_threshold": router.match_threshold.value,
        "overlap_weight": overlap,
        "queued_tokens": overlap * prefill + rate * history,
        "prices": router.name == "foresight",
        "price_step": 1.0 - 2.0 ** (-step_s / router.price_half_life_s.value),
        "busiest": router.price_utilisation.value,
        "block_tokens": int(scenario.kv.block_tokens.value),
    }


def profiled_weights(scenario: Scenario, cost: Cost) -> tuple[float, float, float]:
    """Normalised costs of a KV miss, of missing every row, and of a full queue (the SLO).

    The form is HELM's (weights are normalised profiled costs); what counts as a full queue is ours.
    """
    history = median_history(scenario)
    mix = scenario.workload.base_mix()
    candidates = sum(mix[s.name] * s.candidates.value for s in scenario.workload.surfaces)
    rows = history * scenario.emb.history_row_bytes.value * cost.link_byte
    kv = gpu_seconds(cost, int(history), 0, 0) + rows
    emb = candidates * scenario.emb.candidate_row_bytes.value * cost.link_byte
    queue = scenario.slo.p99_ms.value * MS
    total = kv + emb + queue
    return kv / total, emb / total, queue / total


def median_history(scenario: Scenario) -> float:
    """Median history in tokens, within what the profile draws and the model takes."""
    law, longest = scenario.workload.profile.history, scenario.hardware.model.max_history.value
    return min(max(math.exp(law.log_mean.value), law.shortest.value), longest)


def _laws(scenario: Scenario, surface: Surface) -> tuple[Gap, LogNormal]:
    profile = scenario.workload.profile
    return surface.gap or profile.gap, surface.session_length or profile.session_length


def _source(
    scenario: Scenario, schedule: Schedule, log: ReplayLog | None
) -> tuple[Source, float, float]:
    """The request source, the mean session duration (s), and the peak of active sessions."""
    workload, profile = scenario.workload, scenario.workload.profile
    laws = [_laws(scenario, surface) for surface in workload.surfaces]
    scales = np.array([surface.gap_scale.value for surface in workload.surfaces])
    lengths = np.array([mean_length(length) for _, length in laws])
    gaps = np.array([mean_gap(g, s) for (g, _), s in zip(laws, scales, strict=True)])
    base = workload.load * workload.capacity_rps_per_node.value * scenario.nodes
    by_surface = base * schedule.rate / lengths  # (T, F) session starts/s
    starts = by_surface.sum(axis=1)
    mix = by_surface / np.maximum(starts, 1e-300)[:, None]
    durations = (lengths - 1.0) * gaps
    source = Source(
        cell_s=schedule.cell_s,
        starts=starts,
        mix=np.cumsum(mix, axis=1),
        excess=schedule.excess,
        newcomers=schedule.newcomers,
        hot_items=schedule.hot_items,
        start_cv=workload.session_start_cv.value,
        regular_users=int(workload.users.value),
        activity_sigma=profile.activity_sigma.value,
        burst_group=int(profile.popularity.interest_groups.value),
        new_items=profile.new_items_per_request.value,
        kept=np.zeros(0, np.int32),
        drift_rate=_drift_rate(scenario),
        bucket_s=ENTRIES_PER_BUCKET / max(1.0, float(starts.max() * lengths.max())),
        candidates=np.array([int(s.candidates.value) for s in workload.surfaces]),
        **_law_fields(laws, scales),
        **_log_fields(log),
    )
    session_s = float(durations.max())
    return source, session_s, _peak_sessions(starts, session_s, log)


def _peak_sessions(starts: Array, session_s: float, log: ReplayLog | None) -> float:
    """Most sessions that are expected to be active at a time."""
    if log is None or log.user is not None:
        return float(starts.max()) * session_s
    behind = np.searchsorted(log.time, log.time + session_s) - np.arange(log.time.size)
    return float(behind.max())


def _law_fields(laws: list[tuple[Gap, LogNormal]], scales: Array) -> dict[str, Any]:
    cuts = [(math.log(g.cut_s.value) - g.log_mean.value) / g.log_sigma.value for g, _ in laws]
    gaps = [(g.log_mean.value, g.log_sigma.value) for g, _ in laws]
    return {
        "gap": np.column_stack([np.array(gaps), scales]),
        "gap_cut": np.asarray(ndtr(np.array(cuts))),
        "length": np.array([(n.log_mean.value, n.log_sigma.value) for _, n in laws]),
    }


def _log_fields(log: ReplayLog | None) -> dict[str, Any]:
    if log is None:
        return {
            "log_kind": 0,
            "log_time": np.zeros(1),
            "log_user": np.zeros(1, np.int32),
            "log_first": np.zeros(1, np.uint8),
            "log_period": 0.0,
        }
    empty = log.user is None
    return {
        "log_kind": 2 if empty else 1,
        "log_time": log.time,
        "log_user": np.zeros(1, np.int32) if log.user is None else log.user,
        "log_first": np.zeros(1, np.uint8) if log.first is None else log.first,
        "log_period": log.period_s,
    }


def _drift_rate(scenario: Scenario) -> float:
    regime = scenario.workload.regime
    if not isinstance(regime, Trend):
        return 0.0
    own = scenario.workload.profile.interest_half_life_s.value / regime.speedup
    return math.log(2.0) / (regime.drift_half_life_s or own)


def _users(
    scenario: Scenario, regular: int, log: ReplayLog | None, rng: np.random.Generator
) -> NDArray[np.void]:
    history = scenario.workload.profile.history
    users = np.zeros(_user_count(scenario, log), USER)
    draws = np.exp(rng.normal(history.log_mean.value, history.log_sigma.value, users.size))
    longest = scenario.hardware.model.max_history.value
    users["history"] = np.clip(draws, history.shortest.value, longest)
    groups = int(scenario.workload.profile.popularity.interest_groups.value)
    users["group"] = rng.integers(0, groups, users.size)
    if log is not None and log.user is not None:
        users["group"] = log.group
        if log.history is not None:
            users["history"] = log.history
    users["evicted_node"] = -1
    users["last_seen"] = -np.inf
    return users


def _sizes(
    scenario: Scenario, params: Params, users: int, session_s: float, concurrency: float
) -> Sizes:
    horizon = max(60.0, 2.0 * session_s / 5.0)
    buckets = 1 << math.ceil(math.log2(horizon / params.source.bucket_s))
    return Sizes(
        nodes=scenario.nodes,
        shards=scenario.emb.shards,
        groups=params.cache.weights.shape[2],
        users=users,
        kv_entries=params.cache.entries,
        sessions=int(min(1.5 * concurrency + 6.0 * math.sqrt(concurrency), 1e15)) + 4096,
        buckets=min(max(buckets, 1 << 10), 1 << 18),
        changed=CHANGES if params.routing.staleness_s > 0.0 else 0,
    )
