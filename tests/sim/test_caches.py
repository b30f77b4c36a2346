"""Both caches by themselves: an exact LRU, bookkeeping that agrees with itself, and fill laws."""

from __future__ import annotations

import itertools
import math
from collections import OrderedDict

import numpy as np
import pytest
from small import REGIMES, small_scenario, started, wandering_shares, with_params

from helm_gym.sim import emb_cache, kv_cache
from helm_gym.sim import refill as refill_room
from helm_gym.sim.layout import Kv, Node, Sizes, State, buffer_bytes, view
from helm_gym.sim.params import Params
from helm_gym.sim.simulator import Simulator

BLOCK = 64  # tokens
NEVER = -1.0

# -- KV ------------------------------------------------------------------------------------------

NODES, USERS, ENTRIES = 3, 90, 40


class ExactLru:
    """What a node's KV cache has to hold: users from the oldest to the newest."""

    def __init__(self, blocks: int) -> None:
        self.capacity = blocks
        self.tokens: OrderedDict[int, int] = OrderedDict()

    @property
    def used(self) -> int:
        return sum(-(-tokens // BLOCK) for tokens in self.tokens.values())

    def trim(self) -> int:
        before = self.used
        while self.used > self.capacity or len(self.tokens) > ENTRIES:
            self.tokens.popitem(last=False)
        return before - self.used

    def store(self, user: int, tokens: int) -> int:
        if tokens > self.capacity * BLOCK:
            return 0
        self.tokens[user] = tokens
        self.tokens.move_to_end(user)
        return self.trim()


def empty_kv() -> State:
    sizes = Sizes(NODES, 2, 2, USERS, ENTRIES, 1, 1, 1)
    state = view(np.zeros(buffer_bytes(sizes), np.uint8), sizes)
    kv_cache.clear(state.kv, state.users, ENTRIES)
    return state


def chain(kv: Kv, first: int, link: str) -> list[int]:
    """Entries along a linked list."""
    found = []
    while first >= 0:
        found.append(int(first))
        first = kv.entry[link][first]
    return found


def assert_is(state: State, expected: list[ExactLru]) -> None:
    """Mask, entries, lists both ways, free list, users' rows and hash all tell the same story."""
    kv, named = state.kv, set(state.users["entry"].tolist())
    filed = []
    for node, lru in enumerate(expected):
        upward = chain(kv, kv.oldest[node], "newer")
        assert upward == chain(kv, kv.newest[node], "older")[::-1]
        assert kv.entry["owner"][upward].tolist() == list(lru.tokens)
        assert kv.entry["tokens"][upward].tolist() == list(lru.tokens.values())
        assert kv.entry["blocks"][upward].sum() == kv.used[node] == lru.used <= kv.capacity[node]
        own = range(node * ENTRIES, (node + 1) * ENTRIES)
        free = chain(kv, kv.free[node], "newer")
        assert sorted(upward + free) == list(own)
        holders = np.flatnonzero(kv.mask[:, 0] >> np.uint64(node) & np.uint64(1))
        assert set(holders.tolist()) == set(lru.tokens)
        for user, entry in zip(lru.tokens, upward, strict=True):
            assert kv_cache.find(kv, state.users, user, node, ENTRIES) == entry
            if entry in named:
                assert state.users["entry"][user] == entry
                continue
            filed.append(entry)
            place, home = np.flatnonzero(kv.table == entry)[0], kv_cache.home(kv, user, node)
            way = (home + np.arange((place - home) % kv.table.size)) % kv.table.size
            assert (kv.table[way] >= 0).all(), "a probe would pass an empty slot"
    assert (state.users["entry"] >= 0).sum() + len(filed) == sum(len(e.tokens) for e in expected)
    assert sorted(kv.table[kv.table >= 0].tolist()) == sorted(filed)


@pytest.mark.parametrize("seed", range(3))
def test_kv_is_an_exact_lru(seed: int) -> None:
    rng, state = np.random.default_rng(seed), empty_kv()
    kv, expected = state.kv, [ExactLru(0) for _ in range(NODES)]
    grown = np.zeros((USERS, NODES), int)  # a copy never shrinks, for histories never do
    inserted = [0] * NODES
    for step in range(3000):
        node, user = int(rng.integers(NODES)), int(USERS * rng.random() ** 2)
        lru = expected[node]
        if step % 40 == 0:
            lru.capacity = int(rng.choice([0, 5, 60, 200, 1000], p=[0.1, 0.1, 0.3, 0.3, 0.2]))
            evicted = kv_cache.resize(kv, state.users, node, lru.capacity, ENTRIES)
            assert evicted == lru.trim()
        grown[user, node] += int(rng.integers(1, 300))
        held, tokens = user in lru.tokens, int(grown[user, node])
        if tokens > 1500:
            grown[user, node] = 1500 if held else 1
            tokens = int(grown[user, node])
        if held:
            tokens = max(tokens, lru.tokens[user])
        assert kv_cache.resident(kv.mask, user, node) == held
        blocks = -(-tokens // BLOCK) - -(-lru.tokens.get(user, 0) // BLOCK)
        evicted = kv_cache.store(
            kv,
            state.users,
            user,
            node,
            kv_cache.find(kv, state.users, user, node, ENTRIES),
            tokens,
            BLOCK,
            ENTRIES,
        )
        assert evicted == lru.store(user, tokens)
        if lru.tokens.get(user) == tokens:
            inserted[node] += blocks
        if step % 25 == 0:
            assert_is(state, expected)
    assert_is(state, expected)
    assert kv.inserted.tolist() == inserted
    kv_cache.resize(kv, state.users, 0, 0, ENTRIES)
    expected[0] = ExactLru(0)
    assert_is(state, expected)


def test_an_eviction_notes_where_and_when() -> None:
    state = empty_kv()
    kv_cache.resize(state.kv, state.users, 1, 10, ENTRIES)
    state.users["evicted_node"] = -1
    for user in (1, 2, 3):
        kv_cache.store(
            state.kv,
            state.users,
            user,
            1,
            kv_cache.find(state.kv, state.users, user, 1, ENTRIES),
            4 * BLOCK,
            BLOCK,
            ENTRIES,
        )
    assert state.users["evicted_node"][[1, 2, 3]].tolist() == [1, -1, -1]
    assert state.users["evicted_clock"][1] == 8, "two users of four blocks had come in by then"


def test_a_history_larger_than_the_cache_is_not_kept() -> None:
    state = empty_kv()
    kv_cache.resize(state.kv, state.users, 0, 4, ENTRIES)
    kv_cache.store(
        state.kv,
        state.users,
        7,
        0,
        kv_cache.find(state.kv, state.users, 7, 0, ENTRIES),
        2 * BLOCK,
        BLOCK,
        ENTRIES,
    )
    assert (
        kv_cache.store(
            state.kv,
            state.users,
            8,
            0,
            kv_cache.find(state.kv, state.users, 8, 0, ENTRIES),
            4 * BLOCK + 1,
            BLOCK,
            ENTRIES,
        )
        == 0
    )
    assert kv_cache.resident(state.kv.mask, 7, 0)
    assert not kv_cache.resident(state.kv.mask, 8, 0)


# -- EMB -----------------------------------------------------------------------------------------


class Table:
    """The EMB cache of one simulator, on node 0 unless told otherwise."""

    def __init__(self, **changes) -> None:
        self.simulator: Simulator = started(small_scenario(**{"workload.users": 20, **changes}))
        self.state: State = self.simulator.states[0]
        self.params: Params = self.simulator.lowered.params
        self.emb, self.cache = self.state.emb, self.params.cache
        self.copy_s = self.cache.shard_bytes / self.params.cost.refill_rate

    def resize(self, pages: int, now: float = 0.0) -> float:
        args = self.emb, self.state.stages, self.cache, self.params.cost, 0, pages, now
        return emb_cache.resize(*args)

    def refill(self, now: float) -> tuple[float, int]:
        args = self.emb, self.state.stages, self.cache, self.params.cost, 0, now
        if not self.cache.paced_refill:
            return refill_room.refill(*args)
        copied, loads, seconds = refill_room.paced(*args)
        assert seconds >= copied / self.params.cost.refill_rate
        return copied, loads

    def tick(self, looked_up: np.ndarray, drift: float = 0.0, now: float = 0.0):
        """One tick after (G,) look-up bytes."""
        self.emb.lookups[0] = looked_up
        args = self.emb, self.state.stages, self.cache, self.params.cost, 0, now, drift
        return emb_cache.tick(*args)

    def set_heat(self, heat: np.ndarray) -> None:
        """Fix how hot shards are, so that no tick changes their order."""
        self.emb.heat[0] = heat

    def queue(self) -> list[int]:
        places = (self.emb.head[0] + np.arange(self.emb.waiting[0])) % self.emb.queue.shape[1]
        return self.emb.queue[0, places].tolist()

    @property
    def none(self) -> np.ndarray:
        return np.zeros(self.emb.lookups.shape[1])

    @property
    def paged(self) -> set[int]:
        return set(np.flatnonzero(self.emb.paged[0]).tolist())

    def assert_consistent(self) -> None:
        emb = self.emb
        fill, paged = emb.fill[0], emb.paged[0] == 1
        weights = self.cache.weights  # (3, S, G)
        expected = np.einsum("ksg,s->kg", weights, fill)
        np.testing.assert_allclose(emb.readout[:, :, 0], expected, rtol=0, atol=1e-9)
        assert ((fill >= 0) & (fill <= 1)).all()
        assert not fill[~paged].any()
        assert emb.full[0] == (fill >= 1).sum()
        if self.cache.row_lru:
            assert fill.sum() <= emb.capacity[0] + 1e-9
        else:
            assert emb.pages[0] == paged.sum() == emb.capacity[0]
        queue = self.queue()
        assert len(set(queue)) == len(queue)
        assert set(queue) == set(np.flatnonzero(emb.queued[0]).tolist())


@pytest.mark.parametrize(
    "changes",
    [
        {"refill.mode": "throttled"},
        {"refill.mode": "naive"},
        {"refill.mode": "paced", "refill.patience_s": 0},
        {"emb.policy": "lru"},
    ],
    ids=["throttled", "naive", "paced", "lru"],
)
def test_emb_bookkeeping_survives_anything(changes: dict[str, str]) -> None:
    table, rng, now = Table(**changes), np.random.default_rng(1), 0.0
    scale = table.cache.shard_bytes
    for _ in range(400):
        now += rng.exponential(2 * table.copy_s)
        match rng.integers(4):
            case 0:
                table.resize(int(rng.integers(0, 49)), now)
            case 1:
                table.refill(now)
            case 2:
                table.tick(rng.exponential(5 * scale, table.none.size), rng.random(), now)
            case 3:
                table.state.stages.link_free[0] = now + rng.exponential(table.copy_s)
        table.assert_consistent()


def test_pages_fill_by_the_law_of_misses() -> None:
    table = Table(**{"refill.mode": "throttled", "emb.swaps_per_tick": 0})
    table.resize(0)
    table.resize(10)
    looked_up = np.array([0.5, 0.0, 2.0, 1.0, 0.3]) * table.cache.shard_bytes
    per_shard = looked_up @ table.cache.by_group[0].astype(float)
    for ticks in (1, 2, 3):
        table.tick(looked_up)
        expected = -np.expm1(-ticks * per_shard / table.cache.shard_bytes)
        for shard in range(48):
            want = expected[shard] if shard in table.paged else 0.0
            assert table.emb.fill[0, shard] == pytest.approx(want, rel=1e-6)


def test_heat_halves_and_takes_up_look_ups_with_drift() -> None:
    table = Table(**{"emb.heat_half_life_s": 0.5, "emb.tick_s": 0.25})
    heat, looked_up = table.emb.heat[0].copy(), np.arange(1.0, 6.0)
    now, later = table.cache.by_group.astype(float)
    table.tick(looked_up, drift=0.25)
    expected = heat / math.sqrt(2) + looked_up @ (0.75 * now + 0.25 * later)
    np.testing.assert_allclose(table.emb.heat[0], expected, rtol=1e-6)
    assert not table.emb.lookups[0].any(), "look-ups must not be counted twice"


def test_pages_leave_coldest_first_and_come_hottest_first() -> None:
    table = Table()
    heat = np.random.default_rng(3).permutation(48) + 1.0
    table.set_heat(heat)
    table.resize(0)
    table.resize(20)
    assert table.queue() == np.argsort(-heat)[:20].tolist()
    table.resize(7)
    assert table.paged == set(np.argsort(-heat)[:7].tolist())


def test_a_swap_needs_more_than_the_hysteresis() -> None:
    table = Table(**{"emb.swap_hysteresis": 1.25, "emb.swaps_per_tick": 2})
    table.resize(0)
    table.resize(45)
    outside = sorted(set(range(48)) - table.paged)
    heat = np.full(48, 8.0)
    for hot, swaps in ((8.0 * 1.2499, 0), (8.0 * 1.2501, 2)):
        heat[outside] = hot
        table.set_heat(heat)
        _, done = table.tick(table.none)
        assert done == swaps
    assert len(set(outside) & table.paged) == 2, "no more swaps than swaps_per_tick"
    table.assert_consistent()


def test_throttled_copies_take_idle_link_time_only() -> None:
    table = Table(**{"refill.mode": "throttled"})
    table.resize(0)
    table.refill(0.0)
    table.state.stages.link_free[0] = 1.0
    assert table.resize(5, now=0.5) == 0.0
    order = table.queue()
    assert table.refill(1.0) == (0.0, 0), "the link is busy until 1 s"
    copied, loads = table.refill(1.0 + 2.5 * table.copy_s)
    assert loads == 2
    assert copied == pytest.approx(2.5 * table.cache.shard_bytes)
    assert table.emb.fill[0, order].tolist() == [1, 1, 0, 0, 0]
    assert table.state.stages.link_free[0] == 1.0, "no request may wait for a throttled copy"
    busy_until = 1.0 + 10 * table.copy_s
    table.state.stages.link_free[0] = busy_until  # misses take the link again
    assert table.refill(busy_until) == (0.0, 0)
    assert table.refill(busy_until + 0.6 * table.copy_s)[1] == 1
    assert table.emb.fill[0, order].tolist() == [1, 1, 1, 0, 0]


def test_link_time_is_not_saved_for_later_copies() -> None:
    table = Table(**{"refill.mode": "throttled"})
    table.resize(0)
    table.refill(100.0)
    table.resize(3, now=100.0)
    assert table.refill(100.0 + 0.5 * table.copy_s)[1] == 0


def test_a_started_copy_is_finished_and_a_full_or_lost_page_skipped() -> None:
    table = Table(**{"refill.mode": "throttled"})
    table.resize(0)
    table.refill(0.0)
    table.resize(6)
    first, second, third, fourth, *rest = table.queue()
    table.refill(0.5 * table.copy_s)
    weights = table.cache.weights
    emb_cache.take_page(table.emb, table.cache, 0, first)  # while its copy runs
    emb_cache.take_page(table.emb, table.cache, 0, second)  # before its copy starts
    emb_cache.set_fill(table.emb, weights, 0, third, 0.995)  # misses were faster
    emb_cache.set_fill(table.emb, weights, 0, fourth, 0.98)
    copied, loads = table.refill(2.0 * table.copy_s)
    assert (copied, loads) == (pytest.approx(1.5 * table.cache.shard_bytes), 2)
    fills = table.emb.fill[0, [first, second, third, fourth]].tolist()
    assert fills == [0, 0, 0.995, 1.0]
    assert table.queue() == rest


def test_naive_copies_go_in_front_of_later_requests() -> None:
    table = Table(**{"refill.mode": "naive"})
    table.resize(0)
    table.refill(1e6)
    table.state.stages.link_free[0] = 10.0
    booked = table.resize(4, now=3.0)
    assert booked == pytest.approx(4 * table.copy_s)
    assert table.state.stages.link_free[0] == pytest.approx(10.0 + 4 * table.copy_s)
    order = table.queue()
    emb_cache.take_page(table.emb, table.cache, 0, order[1])
    for k in range(1, 5):
        assert table.refill(10.0 + (k - 0.01) * table.copy_s) == (0.0, 0)
        assert table.refill(10.0 + (k + 0.01) * table.copy_s) == (0.0, 1)
    assert table.emb.fill[0, order].tolist() == [1, 0, 1, 1]


def test_a_page_given_back_while_its_copy_waits_is_not_copied_twice() -> None:
    table = Table(**{"refill.mode": "naive"})
    table.resize(0)
    table.refill(1e6)
    table.state.stages.link_free[0] = 0.0
    assert table.resize(1) == pytest.approx(table.copy_s)
    assert table.resize(0) == 0.0
    assert table.resize(1) == 0.0
    table.refill(1.01 * table.copy_s)
    assert table.emb.fill[0].sum() == 1.0


def test_rows_older_than_one_common_age_leave_under_lru() -> None:
    table = Table(**{"emb.policy": "lru"})
    rng = np.random.default_rng(5)
    table.resize(48)
    for shard in range(48):
        emb_cache.set_fill(table.emb, table.cache.weights, 0, shard, rng.uniform(0.2, 1))
    table.set_heat(rng.lognormal(0, 1, 48) * table.cache.shard_bytes)
    before = table.emb.fill[0].copy()
    table.resize(15)
    after = table.emb.fill[0]
    assert after.sum() == pytest.approx(15, rel=1e-9)
    gone = after < before
    rate = table.emb.heat[0] * table.cache.heat_rate / table.cache.shard_bytes
    ages = -np.log1p(-after) / rate
    assert gone.any() and not gone.all()
    np.testing.assert_allclose(ages[gone], ages[gone][0], rtol=1e-9)
    assert (ages[~gone] <= ages[gone][0]).all(), "what stays was looked up within that age"


def test_marginal_value_of_one_more_page() -> None:
    table = Table(**{"kv.ghost_gb": 1.0, "emb.swaps_per_tick": 0})
    table.resize(10)
    table.tick(np.ones(5) * 1e9)
    hottest = max(table.emb.heat[0, s] for s in set(range(48)) - table.paged)
    rate = hottest * math.log(2) / table.simulator.scenario.emb.heat_half_life_s.value
    assert table.emb.coldest[0] == pytest.approx(rate)


# -- both, through the kernel --------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["heat", "lru"])
def test_a_table_that_fits_needs_no_link(policy: str) -> None:
    """Rounding in the hit rate must not be charged as a transfer of a millionth of a byte."""
    changes = {"emb.table_gb": 4.0, "emb.shards": 1024, "episode.initial_share": 0.6}
    scenario = small_scenario(**changes, **{"emb.policy": policy, "workload.load": 0.3})
    simulator = started(scenario.replace({"workload.regime": REGIMES["trend"]}))
    if policy == "heat":
        for share in (0.2, 0.6):  # drop most shards, then copy them back
            simulator.record(np.full(3, share), 0)
    for _ in range(6):
        rows = simulator.record(np.full(3, 0.6), 0)
    assert simulator.states[0].emb.fill.min() == 1.0
    assert not rows[:, 5].any()
    assert not simulator.states[0].out.node[:, Node.LINK_S].any()


def hits_by_pool(pools: list[tuple[float, float]], **changes) -> list[tuple[np.ndarray, float]]:
    """(KV hit of every request, EMB byte hit rate) for (EMB GB, KV GB) on the same stream."""
    found = []
    for emb_gb, kv_gb in pools:
        pool = {"memory.pool_gb": emb_gb + kv_gb, "slo.deadline_ms": 1e9}
        share = emb_gb / (emb_gb + kv_gb)
        pool |= {"episode.share_min": 0, "episode.share_max": 1, "episode.initial_share": share}
        scenario = small_scenario(**pool, **{"router.name": "consistent_hash"}, **changes)
        simulator, held, sums = started(scenario), [], np.zeros(2)
        for _ in range(8):
            held.append(simulator.record(np.full(3, share), 0)[:, 4])
            node = simulator.states[0].out.node
            sums += node[:, [Node.LOOKUP_BYTES, Node.MISS_BYTES]].sum(axis=0)
        found.append((np.concatenate(held), 1 - sums[1] / sums[0]))
    return found


def test_more_kv_keeps_every_hit() -> None:
    runs = [hits for hits, _ in hits_by_pool([(2, kv) for kv in (0.5, 1, 2, 4)])]
    for smaller, larger in itertools.pairwise(runs):
        assert (larger >= smaller).all()
    assert runs[-1].sum() > 1.5 * runs[0].sum(), "the sizes make no difference here"


@pytest.mark.parametrize("policy", ["heat", "lru"])
@pytest.mark.parametrize("regime", REGIMES)
def test_more_emb_never_lowers_the_hit_rate(policy: str, regime: str) -> None:
    changes = {"emb.policy": policy, "workload.regime": REGIMES[regime]}
    rates = [rate for _, rate in hits_by_pool([(e, 1) for e in (1, 2, 4, 8)], **changes)]
    assert rates == sorted(rates)
    assert rates[-1] > 1.2 * rates[0], "the sizes make no difference here"


PACED = {"refill.mode": "paced", "refill.floor": 0.25, "refill.rush": 0.5, "refill.chunk_mb": 5.0}


def paced_table(patience_copies: float) -> Table:
    """A table whose patience is that many copies long, and whose queue is empty."""
    copy_s = Table().copy_s
    table = Table(**PACED, **{"refill.patience_s": patience_copies * copy_s})
    table.resize(0)
    table.refill(0.0)
    return table


def test_paced_copies_get_their_floor_of_a_busy_link_once_patience_is_over() -> None:
    table = paced_table(patience_copies=8)
    table.resize(5)
    busy_until = 1000 * table.copy_s
    table.state.stages.link_free[0] = busy_until
    assert table.refill(7.9 * table.copy_s) == (0.0, 0)
    assert table.state.stages.link_free[0] == busy_until, "no request may wait for a copy yet"
    copied, loads = table.refill(16 * table.copy_s)
    queued_s = table.state.stages.link_free[0] - busy_until
    chunk_s = table.params.cost.link_latency + table.cache.chunk_bytes / (
        table.params.cost.refill_rate
    )
    owed = 0.25 * 8 * table.copy_s  # a quarter of what came after the patience
    assert owed - chunk_s < queued_s <= owed
    chunks = copied / table.cache.chunk_bytes
    assert queued_s == pytest.approx(
        chunks * table.params.cost.link_latency + copied / table.params.cost.refill_rate, rel=1e-6
    )
    assert loads == 1
    table.refill(18 * table.copy_s)  # it has starved: half of the time is its own now
    rushed_s = table.state.stages.link_free[0] - busy_until - queued_s
    assert rushed_s == pytest.approx(table.copy_s, abs=chunk_s)


def test_paced_copies_take_nothing_from_requests_where_idle_time_gives_the_floor() -> None:
    table, now = paced_table(patience_copies=1), 0.0
    table.resize(40)
    for _ in range(51):  # 15.3 copies in the idle parts
        table.state.stages.link_free[0] = now + 0.7 * table.copy_s
        now += table.copy_s
        table.refill(now)
        assert table.state.stages.link_free[0] < now
    assert table.emb.waiting[0] == 25


def test_a_paused_node_is_owed_nothing() -> None:
    table = paced_table(patience_copies=0)
    table.resize(5)
    table.state.stages.link_free[0] = 10.0
    table.state.stages.pace[0] = 0.0
    assert table.refill(1.0) == (0.0, 0)
    table.state.stages.pace[0] = 1.0
    assert table.refill(1.0 + 1e-9) == (0.0, 0), "a pause must not be paid for afterwards"
    assert table.refill(1.0 + 4 * table.copy_s)[0] > 0.0


def test_paced_copies_come_in_the_order_of_the_look_ups_they_save() -> None:
    table = paced_table(patience_copies=1)
    table.resize(4)
    first, second, third, fourth = table.queue()
    heat = np.ones(48)
    heat[[first, second, third, fourth]] = 4.0, 3.0, 2.0, 5.0
    table.set_heat(heat)
    for shard, fill in ((first, 0.6), (fourth, 0.995)):  # 1.6, 3, 2, and as good as full
        emb_cache.set_fill(table.emb, table.cache.weights, 0, shard, fill)
    order = []
    for copies in range(1, 5):
        table.refill((copies + 1e-6) * table.copy_s)
        full = np.flatnonzero(table.emb.fill[0] == 1).tolist()
        order += [shard for shard in full if shard not in order]
    assert order == [second, third, first]
    assert table.emb.waiting[0] == 0
    table.assert_consistent()


def test_naive_and_throttled_book_the_same_copies() -> None:
    """Without requests, both modes move as many bytes; only when they count differs."""
    moved = {}
    for mode in ("naive", "throttled"):
        changes = {"refill.mode": mode, "emb.swaps_per_tick": 0, "workload.load": 1e-9}
        scenario = small_scenario(**changes, **{"episode.step_s": 2})  # no page goes half copied
        simulator = started(scenario)
        sums = np.zeros(3)
        for shares in wandering_shares(2, 12, 3):
            simulator.step(shares[None])
            columns = [Node.SHARD_LOADS, Node.REFILL_BYTES, Node.LINK_S]
            sums += simulator.states[0].out.node[:, columns].sum(axis=0)
        moved[mode] = sums
        shard = scenario.emb.shard_bytes
        assert sums[1] == pytest.approx(sums[2] * simulator.lowered.params.cost.refill_rate)
        assert sums[0] > 20
        assert sums[1] == pytest.approx(sums[0] * shard, rel=1e-9)
    np.testing.assert_allclose(moved["naive"], moved["throttled"], rtol=1e-9)


def test_ghost_credits_a_miss_that_a_little_more_kv_would_have_hit() -> None:
    """One node, KV of two users' size, users in turn: the third in the row was just evicted."""
    scenario = small_scenario(
        **{
            "nodes": 1,
            "workload.users": 3,
            "workload.profile.history": {"log_mean": 8.0, "log_sigma": 1e-6, "shortest": 1024},
            "workload.profile.new_items_per_request": 0,
            "workload.load": 0.5,
            "slo.deadline_ms": 1e9,
        }
    )
    per_user = math.ceil(2980 / scenario.kv.block_tokens.value)
    for ghost_users, credited in ((0.9, False), (3.0, True)):
        simulator = started(scenario)
        block = simulator.lowered.params.cache.block_bytes
        with_params(
            simulator,
            cache={
                "pool_bytes": 2 * (2 * per_user * block + 1),
                "ghost_bytes": ghost_users * per_user * block,
            },
        )
        seconds, missed = 0.0, 0
        simulator.states[0].stages.share[:] = NEVER  # the pool is new: set the boundary again
        for _ in range(6):
            rows = simulator.record(np.array([0.5]), 0)
            seconds += simulator.states[0].out.node[0, Node.GHOST_KV_S]
            missed += int((rows[:, 4] == 0).sum())
        assert missed > 20
        assert (seconds > 0) == credited
