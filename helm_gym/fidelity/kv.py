"""KV cache against exact LRU: equal hits and equal evictions, request by request.

The compiled kernels serve a stream of (user, tokens) on one node. The exact cache is libCacheSim's
LRU where every object is one block, and an ordered dictionary where histories grow and users take
as many blocks as they need; where both apply they have to agree, too.
"""

from __future__ import annotations

import tempfile
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from helm_gym.config.quantity import load_preset
from helm_gym.config.scenario import Scenario
from helm_gym.config.workload import PROFILES, Profile
from helm_gym.fidelity.emb_streams import HASH_BITS, installed, write_trace
from helm_gym.fidelity.finding import Effort, Finding, Skipped
from helm_gym.seeding import streams_from_seed
from helm_gym.sim import kv_cache
from helm_gym.sim.compiled import kernel
from helm_gym.sim.layout import Kv, Node, Sizes, State, buffer_bytes, view
from helm_gym.sim.simulator import Simulator
from helm_gym.units import GB
from helm_gym.workload.logs import read_interactions

Ints = NDArray[np.int64]

PART = "KV cache"
BLOCK_TOKENS = 64  # default of kv.block_tokens
SHARES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)  # capacity, of all blocks that were ever wanted
QUICK_SHARES = (0.01, 0.1)
QUICK_REQUESTS = 20_000
LONGEST = 16_384  # tokens; what the shipped models take
TAOBAO = "traces/taobao_userbehavior_users1095.parquet"
TAOBAO_SOURCE = "Taobao UserBehavior, whole histories of 1,095 users, 2017-11-25 to 12-03"
MOONCAKE = "traces/mooncake_conversation_kvblocks.parquet"
MOONCAKE_SOURCE = "Mooncake conversation trace (FAST '25), 3b5a59413395"

hold, resident_at = kv_cache.store, kv_cache.find


class Counts(NamedTuple):
    """What a cache did with a stream."""

    hits: int
    evicted: int  # blocks


@dataclass(frozen=True)
class Requests:
    """A stream of requests for users' KV.

    Args:
        user: (N,) user of each request, in [0, users).
        tokens: (N,) length of the user's history after it.
        block_tokens: tokens per block.
    """

    user: Ints
    tokens: Ints
    block_tokens: int

    @property
    def users(self) -> int:
        """Distinct users."""
        return int(self.user.max()) + 1

    @property
    def blocks(self) -> int:
        """Blocks that hold everybody's longest history."""
        longest = np.zeros(self.users, np.int64)
        np.maximum.at(longest, self.user, self.tokens)
        return int((-(-longest // self.block_tokens)).sum())


def checks(effort: Effort) -> Iterator[Finding | Skipped]:
    """Equal counts on Taobao's users and on Mooncake's blocks, at several capacities."""
    shares = QUICK_SHARES if effort.quick else SHARES
    taobao, mooncake = effort.find(TAOBAO), effort.find(MOONCAKE)
    if taobao is None:
        yield Skipped(PART, "hits and evictions on Taobao's users", f"no {TAOBAO}")
    else:
        yield from _taobao(taobao, shares, effort)
        yield _whole_simulator(taobao, shares, effort.quick)
    if mooncake is None:
        yield Skipped(PART, "hits and evictions on Mooncake's blocks", f"no {MOONCAKE}")
    else:
        yield _one_block_each(
            "Mooncake's block stream, each block a user of one block",
            mooncake_blocks(mooncake, effort.quick),
            shares,
            MOONCAKE_SOURCE,
        )


def _taobao(path: Path, shares: Sequence[float], effort: Effort) -> Iterator[Finding | Skipped]:
    grown = taobao_users(path, effort, long_histories=False)
    long = taobao_users(path, effort, long_histories=True)
    yield _sized("Taobao's users, histories from the log, one token a block", grown, shares)
    yield _sized(
        f"Taobao's users, histories of profile taobao that grow, {BLOCK_TOKENS} tokens a block",
        long,
        shares,
    )
    single = Requests(grown.user, np.ones_like(grown.user), 1)
    yield _one_block_each("Taobao's users, one block each", single, shares, TAOBAO_SOURCE)


def taobao_users(path: Path, effort: Effort, long_histories: bool) -> Requests:
    """Every event is a request and makes its user's history one item longer.

    Args:
        path: of the log.
        effort: its seed draws the histories before the log.
        long_histories: begin with the lengths that profile ``taobao`` assumes instead of nothing.
    """
    user = read_interactions(path).user.astype(np.int64)
    user = user[: QUICK_REQUESTS if effort.quick else None]
    before = np.zeros(int(user.max()) + 1, np.int64)
    if long_histories:
        law = load_preset(Profile, "taobao", PROFILES, "profile").history
        rng = np.random.default_rng(effort.seed)
        draws = rng.lognormal(law.log_mean.value, law.log_sigma.value, before.size)
        before = np.clip(draws, law.shortest.value, LONGEST).astype(np.int64)
    tokens = np.minimum(before[user] + place_among_own(user) + 1, LONGEST)
    return Requests(user, tokens, BLOCK_TOKENS if long_histories else 1)


def place_among_own(user: Ints) -> Ints:
    """How many requests of the same user came before each one."""
    order = np.argsort(user, kind="stable")
    begins = np.flatnonzero(np.diff(user[order], prepend=-1))
    place = np.empty(user.size, np.int64)
    place[order] = np.arange(user.size) - np.repeat(begins, np.diff(np.append(begins, user.size)))
    return place


def mooncake_blocks(path: Path, quick: bool) -> Requests:
    """Every block id is a user whose history is one block."""
    import pyarrow.parquet as pq

    block = pq.read_table(path, columns=["block"]).column("block").to_numpy()
    _, user = np.unique(block[: QUICK_REQUESTS if quick else None], return_inverse=True)
    return Requests(user.astype(np.int64), np.ones(user.size, np.int64), 1)


# -- the caches --------------------------------------------------------------------------------


@kernel
def _serve(
    kv: Kv, users: Any, user: Any, tokens: Any, block_tokens: int, entries: int, counts: Any
) -> None:
    """Look every user up on node 0, then keep its history there."""
    for n in range(user.size):
        entry = resident_at(kv, users, user[n], 0, entries)
        counts[0] += int(entry >= 0)
        counts[1] += hold(kv, users, user[n], 0, entry, tokens[n], block_tokens, entries)


def model(requests: Requests, blocks: int) -> Counts:
    """What the simulator's kernels do with a stream."""
    entries = min(requests.users, blocks) + 1
    sizes = Sizes(1, 2, 2, requests.users, entries, 1, 1, 1)
    state: State = view(np.zeros(buffer_bytes(sizes), np.uint8), sizes)
    kv_cache.clear(state.kv, state.users, entries)
    kv_cache.resize(state.kv, state.users, 0, blocks, entries)
    counts = np.zeros(2, np.int64)
    stream = requests.user, requests.tokens, requests.block_tokens
    _serve(state.kv, state.users, *stream, entries, counts)
    return Counts(int(counts[0]), int(counts[1]))


def exact(requests: Requests, blocks: int) -> Counts:
    """LRU of users that take as many blocks as their history needs, in an ordered dictionary.

    A history larger than the cache is not kept (an older, shorter copy of it stays).
    """
    held: OrderedDict[int, int] = OrderedDict()
    hits = evicted = used = 0
    sizes = -(-requests.tokens // requests.block_tokens)
    for user, need in zip(requests.user.tolist(), sizes.tolist(), strict=True):
        hits += user in held
        if need > blocks:
            continue
        used += need - held.pop(user, 0)
        held[user] = need
        while used > blocks:
            _, freed = held.popitem(last=False)
            used -= freed
            evicted += freed
    return Counts(hits, evicted)


def libcachesim_lru(requests: Requests, blocks: int) -> Counts:
    """LRU of libCacheSim, of objects of one block each."""
    import libcachesim

    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "requests.oracleGeneral"))
        write_trace(path, requests.user)
        cache = libcachesim.LRU(blocks, hashpower=HASH_BITS)
        kind = libcachesim.TraceType.ORACLE_GENERAL_TRACE
        missed, _ = cache.process_trace(libcachesim.TraceReader(path, kind))
    misses = round(float(missed) * requests.user.size)
    return Counts(requests.user.size - misses, misses - int(cache.get_n_obj()))


# -- findings ------------------------------------------------------------------------------------


def _capacities(requests: Requests, shares: Sequence[float]) -> list[int]:
    return [max(1, int(share * requests.blocks)) for share in shares]


def _sized(what: str, requests: Requests, shares: Sequence[float]) -> Finding:
    rows = [
        (blocks, model(requests, blocks), exact(requests, blocks))
        for blocks in _capacities(requests, shares)
    ]
    return _finding(f"{what}, against an exact LRU", requests, rows, TAOBAO_SOURCE)


def _one_block_each(
    what: str, requests: Requests, shares: Sequence[float], source: str
) -> Finding | Skipped:
    if not installed():
        reason = "libcachesim is not installed: pip install 'helm-gym[fidelity]'"
        return Skipped(PART, f"{what}, against libCacheSim's LRU", reason)
    capacities = _capacities(requests, shares)
    rows = [(n, model(requests, n), libcachesim_lru(requests, n)) for n in capacities]
    agreed = all(exact(requests, n) == found for n, _, found in rows)
    note = "The ordered dictionary of the other rows and libCacheSim "
    note += "agree." if agreed else "DISAGREE, so that one of the yardsticks is wrong."
    return _finding(f"{what}, against libCacheSim's LRU", requests, rows, source, note)


def _finding(
    compared: str,
    requests: Requests,
    rows: Sequence[tuple[int, Counts, Counts]],
    source: str,
    note: str = "",
) -> Finding:
    apart = [abs(ours.hits - theirs.hits) for _, ours, theirs in rows]
    apart += [abs(ours.evicted - theirs.evicted) for _, ours, theirs in rows]
    seen = requests.user.size
    by_capacity = "; ".join(
        f"{blocks:,}: {ours.hits / seen:.1%} hits, {ours.evicted:,} evicted"
        for blocks, ours, _ in rows
    )
    return Finding(
        part=PART,
        compared=f"hits and evicted blocks on {compared}: {seen:,} requests, {len(rows)} sizes",
        points=2 * len(rows),
        measure="largest difference in counts",
        value=float(max(apart)),
        unit="counts",
        source=source,
        target=0.0,
        note=f"By capacity in blocks: {by_capacity}. {note}".strip(),
        details={"capacities": [blocks for blocks, *_ in rows]},
    )


def _whole_simulator(path: Path, shares: Sequence[float], quick: bool) -> Finding:
    """A replay of the log through the whole simulator, on one node, histories from the log."""
    rows = []
    served = Requests(np.zeros(1, np.int64), np.ones(1, np.int64), 1)
    everything = taobao_users(path, Effort(None, quick), long_histories=False).blocks
    for share in shares:
        blocks = max(1, int(share * everything))
        ours, served = replayed(path, blocks, QUICK_REQUESTS if quick else None)
        rows.append((blocks, ours, exact(served, blocks)))
    return _finding(
        "Taobao's users replayed through the whole simulator, one token a block, against an exact "
        "LRU",
        served,
        rows,
        TAOBAO_SOURCE,
    )


def replayed(path: Path, blocks: int, requests: int | None) -> tuple[Counts, Requests]:
    """Replay a log on one node whose KV side holds ``blocks`` blocks of one token.

    Args:
        path: of the log.
        blocks: capacity.
        requests: stop after the window in which this many are reached; None for one lap.

    Returns:
        What the cache did, and what was asked of it.
    """
    scenario = Scenario.load("taobao-steady")
    block_bytes = scenario.hardware.model.kv_bytes_per_token
    share = scenario.episode.initial_share
    scenario = scenario.replace(
        {
            "nodes": 1,
            "memory.pool_gb": (blocks + 0.5) * block_bytes / (1.0 - share) / GB,
            "kv.block_tokens": 1,
            "slo.deadline_ms": 1e9,
            "workload.replay": {"path": str(path), "history": "log"},
            "workload.profile.new_items_per_request": 1.0,
            "episode.step_s": 60.0,
            "episode.warmup_s": 0,
            "episode.warm_starts": 1,
        }
    )
    simulator = Simulator(scenario)
    simulator.reset(0, streams_from_seed(0), 0)
    lap = simulator.lowered.params.source.log_user.size
    users: list[Ints] = []
    hits = evicted = seen = 0
    while seen < (requests or lap):
        record = simulator.record(np.array([share]), 0)
        users.append(record[:, 1].astype(np.int64))
        hits += int(record[:, 4].sum())
        evicted += int(simulator.states[0].out.node[0, Node.EVICTED_BLOCKS])
        seen += len(record)
    user = np.concatenate(users)
    longest = int(scenario.hardware.model.max_history.value)
    # A history from the log begins with one token, and a request adds its own before it is served.
    tokens = np.minimum(place_among_own(user) + 2, longest)
    return Counts(hits, evicted), Requests(user, tokens, 1)
