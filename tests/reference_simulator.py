"""The slow twin: docs/model.md a second time, in plain Python, for tests only.

Written from the document with heaps, dicts and lists. From the library it takes data that cannot
be written down twice (users and look-up probabilities, drawn with NumPy, and the schedule table)
and the names of columns, and the kernel-time forms, which have tests of their own; no other formula
and no kernel. Section numbers below are the document's.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache

from reference_workload import MASK, Asked, Draws, Source, scramble

from helm_gym.config.scenario import Scenario
from helm_gym.config.workload import Trend
from helm_gym.seeding import Stream
from helm_gym.sim.layout import Node as Column
from helm_gym.sim.lowering import Lowered

GB, MB, MS, US = 1e9, 1e6, 1e-3, 1e-6
SKIP_FULL = 0.99  # section 6: a page that misses filled this far is not copied


@dataclass
class Node:
    """One node: two servers, KV as an ordered dict, EMB as a dict of pages."""

    shards: int
    groups: int
    now: float
    share: float = -1.0
    kv_blocks: int = 0  # capacity
    emb_pages: int = 0  # capacity
    kv: OrderedDict[int, int] = field(default_factory=OrderedDict)  # user -> tokens, oldest first
    inserted: int = 0  # KV blocks ever
    fill: dict[int, float] = field(default_factory=dict)  # shard with a page -> resident part
    queue: deque[int] = field(default_factory=deque)  # shards to copy
    ready: deque[float] = field(default_factory=deque)  # naive: when each of them arrives
    copied: float = 0.0  # not naive: bytes of the first one that are there
    owed: float = 0.0  # paced: seconds of the link that refill may take from requests
    pace: float = 1.0  # part of its link time that refill may use
    prices: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])  # of link, GPU, a block
    outside_rate: float = 0.0  # look-up bytes/s of the hottest shard outside

    def __post_init__(self) -> None:
        self.link_free = self.gpu_free = self.refilled_to = self.now
        self.heat = [0.0] * self.shards
        self.asked = [0.0] * self.groups  # bytes looked up since the last tick
        self.sums = dict.fromkeys(Column, 0.0)

    @property
    def free(self) -> float:
        """When both servers are free."""
        return max(self.link_free, self.gpu_free)


class Seen:
    """What a node last reported to the router, and what the router has added to that."""

    def __init__(self, node: Node) -> None:
        self.link_free, self.gpu_free = node.link_free, node.gpu_free
        self.kv, self.fill = set(node.kv), dict(node.fill)

    @property
    def free(self) -> float:
        """When both servers are free."""
        return max(self.link_free, self.gpu_free)


def padded(tokens: int) -> int:
    """Section 5: the smallest multiple of 16 that holds them."""
    return 16 * math.ceil(tokens / 16)


class Twin:
    """A cluster that starts cold and is driven window by window, as ``Simulator.record`` is."""

    def __init__(self, scenario: Scenario, low: Lowered) -> None:
        self.scenario, self.low = scenario, low
        cache = low.params.cache  # for the look-up probabilities alone
        self.now_p: list[list[float]] = cache.by_group[0].tolist()
        self.later_p: list[list[float]] = cache.by_group[1].tolist()
        self.shards, self.groups = len(self.now_p[0]), len(self.now_p)
        self.hottest = [
            sorted(range(self.shards), key=lambda s: (-row[s], s))[:20] for row in self.now_p
        ]
        emb, kv, model = scenario.emb, scenario.kv, scenario.hardware.model
        self.pool = scenario.memory.pool_gb.value * GB
        self.shard_bytes = emb.table_gb.value * GB / emb.shards
        self.block_bytes = kv.block_tokens.value * 2 * model.layers.value * model.width.value * 2
        self.lru, mode = emb.policy == "lru", scenario.refill.mode
        self.naive, self.paced = mode == "naive", mode == "paced"
        host = scenario.hardware.host
        keys = host.keys_per_s.value * emb.bytes_per_key.value
        self.miss_rate = min(host.miss_gbps.value * GB, keys)
        copy_s = host.latency_us.value * US + self.shard_bytes / (host.bulk_gbps.value * GB)
        self.refill_rate = self.shard_bytes / copy_s
        regime = scenario.workload.regime
        self.drift_half_life = math.inf
        if isinstance(regime, Trend):
            own = scenario.workload.profile.interest_half_life_s.value / regime.speedup
            self.drift_half_life = regime.drift_half_life_s or own
        self.router = getattr(self, f"_{scenario.router.name}")
        self.staleness_s = scenario.router.staleness_ms * MS
        own, books = scenario.router.books_own, ("sglang_like", "dynamo_like", "foresight")
        self.books = scenario.router.name in books if own is None else own
        self.history = low.users["history"].tolist()
        self.drawn = list(self.history) if scenario.workload.keeps_histories() else None
        self.last_seen = [-math.inf] * len(self.history)
        self.evicted: dict[int, tuple[int, int]] = {}  # user -> (node, its clock)
        self.turn = 0

    # -- costs, section 5 --------------------------------------------------------------------

    def gpu_seconds(self, new: int, cached: int, candidates: int) -> float:
        """The forms themselves, at token counts rounded up to 16; tests of their own check them."""
        gpu, model = self.scenario.hardware.gpu, self.scenario.hardware.model
        m, n = padded(new + candidates), padded(new)
        if cached == 0:
            u, v = self._query_s(padded(candidates))
            attention = self._prefill_s(n) + u + v * new
        else:
            u, v = self._query_s(m)
            attention = u + v * (cached + new)
        return model.layers.value * (self._gemm_s(m) + gpu.hstu_factor.value * attention)

    @cache  # noqa: B019 - lives as long as one test
    def _gemm_s(self, m: int) -> float:
        gemm, d = self.scenario.hardware.gpu.gemm, self.scenario.hardware.model.width.value
        return float(gemm.seconds(m, d, 4 * d) + gemm.seconds(m, d, d)) if m else 0.0

    @cache  # noqa: B019
    def _prefill_s(self, n: int) -> float:
        heads = self.scenario.hardware.model.width.value / 128
        return float(self.scenario.hardware.gpu.prefill.seconds(1, n, heads, heads)) if n else 0.0

    @cache  # noqa: B019
    def _query_s(self, m: int) -> tuple[float, float]:
        heads = self.scenario.hardware.model.width.value / 128
        u, v = self.scenario.hardware.gpu.incremental.lines(m, heads, own_keys=min(m, 64))
        return (float(u), float(v)) if m else (0.0, 0.0)

    def link_seconds(self, missing: float) -> float:
        latency = self.scenario.hardware.host.latency_us.value * US
        return latency + missing / self.miss_rate if missing > 0.0 else 0.0

    def look_ups(self, history_rows: float, candidates: float) -> float:
        emb = self.scenario.emb
        history = history_rows * emb.history_row_bytes.value
        return history + candidates * emb.candidate_row_bytes.value

    # -- EMB cache, sections 4 and 6 ------------------------------------------------------------

    def probability(self, group: int, shard: int, time: float) -> float:
        now, later = self.now_p[group][shard], self.later_p[group][shard]
        return now + (1 - 2 ** (-max(0.0, time) / self.drift_half_life)) * (later - now)

    def hit_rate(self, node: Node | Seen, group: int, time: float) -> float:
        total = sum(self.probability(group, s, time) * f for s, f in node.fill.items())
        return min(1.0, max(0.0, total))

    def install(self, node: Node, now: float) -> None:
        """Let refill come as far as the link allows by ``now``."""
        if self.naive:
            while node.queue and node.ready[0] <= now:
                node.ready.popleft()
                self._finish_copy(node)
            return
        if self.paced:
            self._install_paced(node, now)
            return
        idle = node.pace * (now - max(node.link_free, node.refilled_to))
        node.refilled_to = max(node.refilled_to, now)
        while node.queue and idle > 0.0:
            shard = node.queue[0]
            if node.copied == 0.0 and node.fill.get(shard, 1.0) >= SKIP_FULL:
                node.queue.popleft()  # its page has gone, or misses filled it
                continue
            rest = (self.shard_bytes - node.copied) / self.refill_rate
            spent = min(idle, rest)
            self._book_copying(node, spent)
            idle -= spent
            node.copied += spent * self.refill_rate
            if spent == rest:
                self._finish_copy(node)

    def _install_paced(self, node: Node, now: float) -> None:
        """All idle time, and chunks ahead of later requests once that was too little for long."""
        paid, before = self.scenario.refill, node.refilled_to
        node.refilled_to = max(before, now)
        most_saved = -paid.floor.value * paid.patience_s.value
        if not node.queue:
            node.owed = most_saved
            return
        idle = node.pace * max(0.0, now - max(node.link_free, before))
        used = self._copy_bytes(node, idle * self.refill_rate) / self.refill_rate
        self._book_copying(node, used)
        part = paid.floor.value if node.owed < 0 else paid.rush.value
        node.owed += node.pace * part * max(0.0, now - before) - used
        node.owed = max(node.owed, most_saved)
        latency = self.scenario.hardware.host.latency_us.value * US
        chunk = paid.chunk_mb.value * MB
        while node.owed >= latency + chunk / self.refill_rate:
            copied = self._copy_bytes(node, min(chunk, self.shard_bytes - node.copied))
            if not copied:
                return
            seconds = copied / self.refill_rate
            self._book_copying(node, seconds)
            node.sums[Column.LINK_S] += latency
            node.owed -= latency + seconds
            node.link_free = max(node.link_free, now) + latency + seconds

    def _copy_bytes(self, node: Node, most: float) -> float:
        """Paced: copy up to so many bytes, the most wanted shard first; return how many."""
        left = most
        while node.queue and left > 0.0:
            if node.copied == 0.0:
                waiting = [s for s in node.queue if node.fill.get(s, 1.0) < SKIP_FULL]
                waiting.sort(key=lambda s: (-node.heat[s] * (1 - node.fill[s]), s))
                node.queue = deque(waiting)
                if not waiting:
                    break
            part = min(left, self.shard_bytes - node.copied)
            node.copied += part
            left -= part
            if node.copied >= self.shard_bytes:
                self._finish_copy(node)
        return most - left

    def _book_copying(self, node: Node, seconds: float) -> None:
        node.sums[Column.LINK_S] += seconds
        node.sums[Column.REFILL_BYTES] += seconds * self.refill_rate

    def _finish_copy(self, node: Node) -> None:
        shard = node.queue.popleft()
        node.copied = 0.0
        node.sums[Column.SHARD_LOADS] += 1
        if shard in node.fill:
            node.fill[shard] = 1.0

    def _give_page(self, node: Node, shard: int, now: float) -> None:
        node.fill[shard] = 0.0
        if shard in node.queue:
            return  # an earlier copy of it is still on its way
        node.queue.append(shard)
        if self.naive:
            seconds = self.shard_bytes / self.refill_rate
            node.link_free = max(node.link_free, now) + seconds
            node.ready.append(node.link_free)
            self._book_copying(node, seconds)

    def _outside(self, node: Node) -> list[int]:
        """Shards without a page, hottest first."""
        without = [s for s in range(self.shards) if s not in node.fill]
        return sorted(without, key=lambda s: (-node.heat[s], s))

    def _coldest(self, node: Node) -> int:
        return min(node.fill, key=lambda s: (node.heat[s], s))

    def set_share(self, node: Node, share: float, now: float) -> None:
        """Section 1, and the moves of sections 3, 4 and 6."""
        node.share = share
        node.kv_blocks = math.floor((1 - share) * self.pool / self.block_bytes)
        node.emb_pages = min(math.floor(share * self.pool / self.shard_bytes), self.shards)
        self._evict(node)
        self.install(node, now)
        if self.lru:
            self._age_rows(node)
            return
        while len(node.fill) > node.emb_pages:
            del node.fill[self._coldest(node)]
        for shard in self._outside(node)[: node.emb_pages - len(node.fill)]:
            self._give_page(node, shard, now)

    def tick(self, now: float) -> None:
        emb = self.scenario.emb
        for node in self.nodes:
            self.install(node, now)
            for s in range(self.shards):
                seen = sum(
                    asked * self.probability(g, s, now)
                    for g, asked in enumerate(node.asked)
                    if asked > 0.0
                )
                node.heat[s] = (
                    node.heat[s] * 2 ** (-emb.tick_s.value / emb.heat_half_life_s.value) + seen
                )
                if s in node.fill:
                    node.fill[s] = 1 - (1 - node.fill[s]) * math.exp(-seen / self.shard_bytes)
            node.asked = [0.0] * self.groups
            if self.lru:
                self._age_rows(node)
                missed = max((1 - node.fill[s]) * node.heat[s] for s in range(self.shards))
                node.outside_rate = missed * math.log(2) / emb.heat_half_life_s.value
            else:
                self._swap(node, now)

    def _swap(self, node: Node, now: float) -> None:
        emb = self.scenario.emb
        for _ in range(int(emb.swaps_per_tick.value)):
            hot = next(iter(self._outside(node)), None)
            if hot is None or not node.fill:
                break
            cold = self._coldest(node)
            if node.heat[hot] <= emb.swap_hysteresis.value * node.heat[cold]:
                break
            del node.fill[cold]
            self._give_page(node, hot, now)
            node.sums[Column.SWAPS] += 1
        left = [node.heat[s] for s in self._outside(node)]
        node.outside_rate = max(left, default=0.0) * math.log(2) / emb.heat_half_life_s.value

    def _age_rows(self, node: Node) -> None:
        """Che: rows older than the time T leave, with T such that the rest just fits."""
        if node.emb_pages == 0:
            node.fill = dict.fromkeys(node.fill, 0.0)
        if sum(node.fill.values()) <= node.emb_pages:
            return
        per_second = math.log(2) / self.scenario.emb.heat_half_life_s.value / self.shard_bytes

        def kept(age: float) -> list[float]:
            return [
                min(node.fill[s], 1 - math.exp(-node.heat[s] * per_second * age))
                for s in range(self.shards)
            ]

        low, high = 1e-6, 1e12
        while high / low > 1 + 1e-14:
            middle = math.sqrt(low * high)
            low, high = (low, middle) if sum(kept(middle)) > node.emb_pages else (middle, high)
        node.fill = dict(enumerate(kept(low)))

    # -- KV cache, section 3 ---------------------------------------------------------------------

    def blocks(self, tokens: int) -> int:
        return -(-tokens // int(self.scenario.kv.block_tokens.value))

    def used(self, node: Node) -> int:
        return sum(self.blocks(tokens) for tokens in node.kv.values())

    def _evict(self, node: Node) -> None:
        while self.used(node) > node.kv_blocks:
            user, tokens = node.kv.popitem(last=False)
            self.evicted[user] = self.nodes.index(node), node.inserted
            node.sums[Column.EVICTED_BLOCKS] += self.blocks(tokens)

    def _store(self, node: Node, user: int, tokens: int) -> None:
        if self.blocks(tokens) > node.kv_blocks:
            return
        grown = self.blocks(tokens) - self.blocks(node.kv.get(user, 0))
        node.kv[user] = tokens
        node.kv.move_to_end(user)
        self._evict(node)
        node.inserted += max(grown, 0)

    def _note_ghost(self, index: int, user: int, saved_gpu: float, saved_bytes: float) -> None:
        """A miss on node ``index``; one eviction explains one miss."""
        seeks_kv = self.scenario.router.name in (
            "kv_affinity",
            "predicted_completion",
            "helm_score",
            "sglang_like",
            "dynamo_like",
            "foresight",
        )
        evictor, clock = self.evicted.get(user, (-1, 0))
        if evictor != index and not (seeks_kv and evictor >= 0):
            return
        del self.evicted[user]
        node = self.nodes[evictor]
        if (node.inserted - clock) * self.block_bytes < self.scenario.kv.ghost_gb * GB:
            node.sums[Column.GHOST_KV_S] += saved_gpu + saved_bytes / self.miss_rate

    # -- routers, section 7 ----------------------------------------------------------------------

    def _round_robin(self, asked: Asked, fresh: int, candidates: int) -> int:
        return self.turn % len(self.known)

    def _all(self) -> range:
        return range(len(self.known))

    def _first_free(self, among: Iterable[int]) -> int:
        return min(among, key=lambda n: (self.known[n].free, n))

    def _delay(self, n: int, time: float) -> float:
        return max(0.0, self.known[n].free - time)

    def _least_loaded(self, asked: Asked, fresh: int, candidates: int) -> int:
        return self._first_free(self._all())

    def _power_of_two(self, asked: Asked, fresh: int, candidates: int) -> int:
        nodes = len(self.known)
        if nodes == 1:
            return 0
        drawn = scramble((self.turn + 1) * 0x9E3779B97F4A7C15 & MASK)
        one = drawn % nodes
        other = (one + 1 + (drawn >> 32) % (nodes - 1)) % nodes
        return other if self.known[other].free < self.known[one].free else one

    def _consistent_hash(self, asked: Asked, fresh: int, candidates: int) -> int:
        key, bucket, jump = scramble(asked.user), -1, 0
        while jump < len(self.known):
            bucket = jump
            key = (key * 2862933555777941757 + 1) & MASK
            jump = int((bucket + 1) * (2.0**31 / ((key >> 33) + 1)))
        return bucket

    def _kv_affinity(self, asked: Asked, fresh: int, candidates: int) -> int:
        holders = [n for n, node in enumerate(self.known) if asked.user in node.kv]
        return self._first_free(holders or self._all())

    def _work(self, n: int, asked: Asked, fresh: int, candidates: int) -> tuple[float, float]:
        """Link and GPU seconds of the request on node n, as far as the router can tell."""
        node, history = self.known[n], self.history[asked.user]
        new, cached = (fresh, history - fresh) if asked.user in node.kv else (history, 0)
        missing = 1 - self.hit_rate(node, asked.group, asked.time)
        link = self.link_seconds(missing * self.look_ups(new, candidates))
        return link, self.gpu_seconds(new, cached, candidates)

    def _predicted_completion(self, asked: Asked, fresh: int, candidates: int) -> int:
        ends = []
        for n, node in enumerate(self.known):
            link, gpu = self._work(n, asked, fresh, candidates)
            fetched = max(asked.time, node.link_free) + link
            ends.append((max(fetched, node.gpu_free) + gpu, n))
        return min(ends)[1]

    def _helm_score(self, asked: Asked, fresh: int, candidates: int) -> int:
        router = self.scenario.router
        w_kv, w_emb, w_load = self._weights()
        favourite = self._consistent_hash(asked, fresh, candidates)
        scores = []
        for n, node in enumerate(self.known):
            score = w_emb * self._hot_part(n, asked.group) + w_load * (1 - self._load(n, asked))
            score += w_kv if asked.user in node.kv else 0.0
            scores.append(score + (router.affinity_bonus.value if n == favourite else 0.0))
        best = max(range(len(scores)), key=lambda n: (scores[n], -n))
        return self._unless_overloaded(best, asked)

    def _hot_part(self, n: int, group: int) -> float:
        hot = self.hottest[group]
        return sum(self.known[n].fill.get(s, 0.0) for s in hot) / len(hot)

    def _load(self, n: int, asked: Asked) -> float:
        return min(1.0, self._delay(n, asked.time) / (self.scenario.slo.p99_ms.value * MS))

    def _unless_overloaded(self, best: int, asked: Asked) -> int:
        router, spare = self.scenario.router, self._first_free(self._all())
        if self._load(best, asked) <= router.overload.value:
            return best
        nowhere = self._load(spare, asked) > router.overload.value
        return best if router.spare_only and nowhere else spare

    def _emb_affinity(self, asked: Asked, fresh: int, candidates: int) -> int:
        whole = [math.floor(20 * self._hot_part(n, asked.group) + 1e-6) for n in self._all()]
        return self._unless_overloaded(
            self._first_free(n for n in self._all() if whole[n] == max(whole)), asked
        )

    def _sglang_like(self, asked: Asked, fresh: int, candidates: int) -> int:
        router, history = self.scenario.router, self.history[asked.user]
        rate = self.scenario.workload.capacity_rps_per_node.value
        queued = [self._delay(n, asked.time) * rate for n in self._all()]  # requests
        apart = max(queued) - min(queued) > router.balance_requests.value
        if apart and max(queued) > router.balance_ratio.value * min(queued):
            return self._first_free(self._all())
        if (history - fresh) / history <= router.match_threshold.value:
            return self._first_free(self._all())
        return self._kv_affinity(asked, fresh, candidates)

    def _dynamo_like(self, asked: Asked, fresh: int, candidates: int) -> int:
        work, weight = self.scenario.workload, self.scenario.router.overlap_weight.value
        history = int(self._median_history())
        prefilled = history / self.gpu_seconds(history, 0, 0)  # tokens/s
        held = work.capacity_rps_per_node.value * history  # tokens of requests in flight, by delay
        costs = []
        for n, node in enumerate(self.known):
            new = fresh if asked.user in node.kv else self.history[asked.user]
            delay = self._delay(n, asked.time)
            cost = weight * (new + prefilled * delay) + held * delay
            costs.append((cost, node.free, n))
        return min(costs)[2]

    def _foresight(self, asked: Asked, fresh: int, candidates: int) -> int:
        totals = []
        for n, node in enumerate(self.known):
            link, gpu = self._work(n, asked, fresh, candidates)
            u_link = max(0.0, node.link_free - asked.time)
            u_gpu = max(0.0, node.gpu_free - asked.time)
            p_link, p_gpu, p_block = self.nodes[n].prices
            later = p_link * (u_link * link + link**2 / 2) + p_gpu * (u_gpu * gpu + gpu**2 / 2)
            if asked.user not in node.kv:
                later += p_block * self.blocks(self.history[asked.user])
            totals.append((max(u_link + link, u_gpu) + gpu + later, n))
        return min(totals)[1]

    def _reprice(self, node: Node, until: float) -> None:
        router, window = self.scenario.router, self.scenario.episode.step_s
        rate = (node.sums[Column.ARRIVED] - node.sums[Column.SHED]) / window
        copies = 0.0 if self.naive else node.sums[Column.REFILL_BYTES] / self.refill_rate
        most = router.price_utilisation.value
        link = rate / (1 - min(most, (node.sums[Column.LINK_S] - copies) / window))
        gpu = rate / (1 - min(most, node.sums[Column.GPU_S] / window))
        stay = until - self.last_seen[next(iter(node.kv))] if node.kv else 0.0
        ghost_blocks = self.scenario.kv.ghost_gb * GB / self.block_bytes
        block = node.sums[Column.GHOST_KV_S] / window / ghost_blocks * stay
        keep = 2 ** (-window / router.price_half_life_s.value)
        node.prices = [
            keep * old + (1 - keep) * new
            for old, new in zip(node.prices, (link, gpu, block), strict=True)
        ]

    def _median_history(self) -> float:
        law = self.scenario.workload.profile.history
        longest = self.scenario.hardware.model.max_history.value
        return sorted((law.shortest.value, math.exp(law.log_mean.value), longest))[1]

    def _weights(self) -> tuple[float, float, float]:
        work, emb, router = self.scenario.workload, self.scenario.emb, self.scenario.router
        h = self._median_history()
        kv = self.gpu_seconds(int(h), 0, 0) + h * emb.history_row_bytes.value / self.miss_rate
        mix = work.base_mix()
        mean = sum(mix[s.name] * s.candidates.value for s in work.surfaces)
        rows = mean * emb.candidate_row_bytes.value / self.miss_rate
        slo = self.scenario.slo.p99_ms.value * MS
        profiled = [cost / (kv + rows + slo) for cost in (kv, rows, slo)]
        given = (router.kv_weight, router.emb_weight, router.load_weight)
        w = [p if own is None else own for own, p in zip(given, profiled, strict=True)]
        return w[0], w[1], w[2]

    # -- driving ---------------------------------------------------------------------------------

    def cold_start(self, share: float, begin: float, settle_s: float, streams: Sequence[int]):
        """Sessions settled, KV empty, the commonest shards' pages full, nothing queued."""
        self.draws = Draws(streams)
        self.source = Source(self.scenario, self.low, self.draws, begin - settle_s)
        while self.source.next_before(begin):
            pass
        self.now, self.next_tick = begin, begin + self.scenario.emb.tick_s.value
        self.next_report = begin if self.staleness_s else math.inf
        self.nodes = [Node(self.shards, self.groups, begin) for _ in range(self.scenario.nodes)]
        for node in self.nodes:
            rows = self.now_p[:-1]  # every group asked equally often, one table in all
            each = self.shard_bytes * self.shards / len(rows)
            node.heat = [sum(row[s] for row in rows) * each for s in range(self.shards)]
            if self.lru:
                node.fill = dict.fromkeys(range(self.shards), 1.0)
            self.set_share(node, share, begin)
            node.fill = dict.fromkeys(node.fill, 1.0)
            if self.lru:
                self._age_rows(node)
            node.queue.clear()
            node.ready.clear()
            node.link_free = begin
        self.known = self.nodes  # live, unless reports take its place

    def reseed(self, streams: Sequence[int]) -> None:
        """What a reset does after the warm start is copied."""
        self.draws.states = [int(state) for state in streams]

    def window(self, shares: Sequence[float]) -> list[tuple[float, ...]]:
        """One decision period; a row per request, as ``Simulator.record`` gives it."""
        until = self.now + self.scenario.episode.step_s
        for node, share in zip(self.nodes, shares, strict=True):
            node.sums = dict.fromkeys(Column, 0.0)
            if share != node.share:
                self.set_share(node, float(share), self.now)
        rows = []
        asked = self.source.next_before(until)
        while asked:
            self._ticks(asked.time)
            rows.append(self._serve(asked))
            asked = self.source.next_before(until)
        self._ticks(until)
        for node in self.nodes:
            self.install(node, until)
            self._levels(node, until)
            self._reprice(node, until)
        self.now = until
        return rows

    def _ticks(self, until: float) -> None:
        while min(self.next_tick, self.next_report) <= until:
            if self.next_tick <= self.next_report:
                self.tick(self.next_tick)
                self.next_tick += self.scenario.emb.tick_s.value
            else:
                self.known = [Seen(node) for node in self.nodes]
                self.next_report += self.staleness_s

    def _book(self, n: int, asked: Asked, fresh: int, candidates: int) -> None:
        """The router's own entry into the last report."""
        node = self.known[n]
        link, gpu = self._work(n, asked, fresh, candidates)
        fetched = max(asked.time, node.link_free) + link
        start = max(fetched, node.gpu_free)
        if start - link - asked.time <= self.scenario.slo.deadline_ms.value * MS:
            node.link_free, node.gpu_free = fetched, start + gpu
            node.kv.add(asked.user)

    def _levels(self, node: Node, until: float) -> None:
        pages = self.scenario.kv.ghost_gb * GB / self.shard_bytes
        rows = sum(node.fill.values()) if self.lru else len(node.fill)
        node.sums |= {
            Column.LINK_DELAY_S: max(0.0, node.link_free - until),
            Column.GPU_DELAY_S: max(0.0, node.gpu_free - until),
            Column.REFILL_BACKLOG: len(node.queue) * self.shard_bytes - node.copied,
            Column.MARGINAL_EMB_S: node.outside_rate * pages / self.miss_rate,
            Column.EMB_BYTES: rows * self.shard_bytes,
            Column.KV_BYTES: self.used(node) * self.block_bytes,
            Column.SHARE: node.share,
        }

    def _new_items(self) -> int:
        mean = self.scenario.workload.profile.new_items_per_request.value
        whole, part = int(mean), mean - int(mean)
        return whole + (part > 0 and self.draws.uniform(Stream.ITEMS) < part)

    def _serve(self, asked: Asked) -> tuple[float, ...]:
        time, user, group, surface, first = asked
        longest = int(self.scenario.hardware.model.max_history.value)
        fresh = self._new_items()
        if self.drawn and asked.first:
            self.history[user] = self.drawn[user]
        history = self.history[user] = min(self.history[user] + fresh, longest)
        fresh = min(fresh, history)
        candidates = int(self.scenario.workload.surfaces[surface].candidates.value)
        index = self.router(asked, fresh, candidates)
        if self.staleness_s and self.books:
            self._book(index, asked, fresh, candidates)
        node, slo = self.nodes[index], self.scenario.slo
        self.turn += 1
        sums = node.sums
        sums[Column.ARRIVED] += 1
        sums[Column.HISTORY_TOKENS] += history
        sums[Column.CANDIDATES] += candidates
        sums[Column.HOT] += time - self.last_seen[user] <= self.scenario.episode.hot_user_s.value
        sums[Column.WARM] += not first
        self.last_seen[user] = time

        self.install(node, time)
        held = user in node.kv
        new = max(history - node.kv[user], fresh) if held else history
        gpu = self.gpu_seconds(new, history - new, candidates)
        look_ups = self.look_ups(new, candidates)
        part = 1 - self.hit_rate(node, group, time)
        link = self.link_seconds(part * look_ups)
        fetched = max(time, node.link_free) + link
        start = max(fetched, node.gpu_free)
        wait = start - link - time
        if wait > slo.deadline_ms.value * MS:
            sums[Column.SHED] += 1
            return time, user, index, -1.0, held, part * look_ups
        if not held:
            saved_gpu = gpu - self.gpu_seconds(fresh, history - fresh, candidates)
            saved = look_ups - self.look_ups(fresh, candidates)
            self._note_ghost(index, user, saved_gpu, part * saved)
        node.link_free, node.gpu_free = fetched, start + gpu
        latency = node.gpu_free - time
        sums[Column.LATENCY_S] += latency
        sums[Column.WAIT_S] += wait
        sums[Column.WITHIN_SLO] += latency <= slo.p99_ms.value * MS
        sums[Column.KV_HITS] += held
        sums[Column.LOOKUP_BYTES] += look_ups
        sums[Column.MISS_BYTES] += part * look_ups
        sums[Column.LINK_S] += link
        sums[Column.GPU_S] += gpu
        node.asked[group] += look_ups
        self._store(node, user, history)
        return time, user, index, latency, held, part * look_ups
