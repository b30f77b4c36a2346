"""Kernels against the plain-Python twin: the same requests, one by one, and the same sums."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from reference_simulator import Twin
from reference_workload import Asked
from small import REGIMES, small_scenario, started, wandering_shares

from helm_gym.config.routers import ROUTERS
from helm_gym.config.scenario import Scenario
from helm_gym.seeding import streams_from_seed
from helm_gym.sim import simulator as library
from helm_gym.sim.layout import Node
from helm_gym.sim.simulator import Simulator

WINDOWS = 5
RELATIVE = 1e-9
ROUNDING_S = 1e-12  # an arrival just after 0 is a sum of gaps that began minutes before
CACHES = {
    "heat-naive": {"emb.policy": "heat", "refill.mode": "naive"},
    "heat-throttled": {"emb.policy": "heat", "refill.mode": "throttled"},
    "heat-paced": {"emb.policy": "heat", "refill.mode": "paced"},
    "lru": {"emb.policy": "lru"},
}
CASES = list(itertools.product(REGIMES, CACHES, ROUTERS))


def random_scenario(regime: str, caches: str, router: str, seed: int) -> Scenario:
    """Everything else about the scenario is drawn, so that no two cases are alike."""
    rng = np.random.default_rng(seed)
    pick = rng.choice
    changes = {
        "structure_seed": seed,
        "nodes": int(pick([1, 2, 3, 4])),
        "memory.pool_gb": float(rng.uniform(4, 12)),
        "emb.shards": int(pick([24, 36])),
        "emb.tick_s": float(pick([0.1, 0.25, 0.3])),
        "emb.swap_hysteresis": float(pick([1.0, 1.25])),
        "emb.swaps_per_tick": int(rng.integers(1, 8)),
        "emb.heat_half_life_s": float(rng.uniform(0.1, 1)),
        "kv.block_tokens": int(pick([16, 64, 100])),
        "kv.ghost_gb": float(rng.uniform(0.2, 2)),
        "hardware.model.max_history": float(pick([6000, 16384])),
        "slo.deadline_ms": float(pick([15, 40, 150])),
        "router.kv_weight": None if rng.random() < 0.5 else float(rng.uniform(0, 1)),
        "router.affinity_bonus": float(rng.uniform(0, 0.2)),
        "router.overload": float(rng.uniform(0.3, 0.9)),
        "router.staleness_ms": float(pick([0, 10, 70, 500])),
        "router.books_own": pick([None, False, True]),
        "router.spare_only": bool(rng.random() < 0.5),
        "router.balance_requests": float(rng.uniform(0.5, 4)),
        "router.match_threshold": float(pick([0.3, 0.9995])),
        "router.overlap_weight": float(rng.uniform(0, 3)),
        "router.price_half_life_s": float(rng.uniform(0.1, 2)),
        "router.price_utilisation": float(pick([0.5, 0.95])),
        "workload.load": float(rng.uniform(0.8, 2.0)),
        "workload.users": int(rng.integers(50, 400)),
        "workload.session_start_cv": float(pick([0.6, 1.0, 1.7])),
        "workload.profile.new_items_per_request": float(pick([0, 0.4, 1, 2.3])),
        "workload.profile.popularity.own_interest_share": float(rng.uniform(0.4, 1)),
        "workload.profile.popularity.interest_spread": float(rng.uniform(0.5, 2.5)),
        "workload.surfaces.0.gap_scale": float(rng.uniform(0.5, 1.5)),
        "episode.initial_share": float(rng.uniform(0.2, 0.8)),
        "episode.hot_user_s": 0.4,
        "workload.regime": REGIMES[regime],
        "router.name": router,
    }
    if CACHES[caches].get("refill.mode") == "paced":
        changes |= {
            "refill.floor": float(pick([0.1, 0.5, 1.0])),
            "refill.patience_s": float(pick([0.0, 0.02, 0.2])),
            "refill.rush": float(pick([0.2, 1.0])),
            "refill.chunk_mb": float(pick([1, 10, 1000])),
        }
    return small_scenario(**changes, **CACHES[caches])


def cold_twin(simulator: Simulator, seed: int) -> Twin:
    """A twin of ``started(scenario, seed)``, derived from the scenario alone."""
    scenario, low = simulator.scenario, simulator.lowered
    settle = min(library.SETTLE_SESSIONS * low.session_s, library.SETTLE_AT_MOST_S)
    twin = Twin(scenario, low)
    streams = streams_from_seed(scenario.structure_seed).tolist()
    twin.cold_start(scenario.episode.initial_share, 0.0, settle, streams)
    twin.reseed(streams_from_seed(seed).tolist())
    return twin


def compare(simulator: Simulator, twin: Twin, seed: int, windows: int = WINDOWS) -> int:
    """Run both; return how many requests were compared."""
    served = 0
    nodes = simulator.scenario.nodes
    for window, shares in enumerate(wandering_shares(seed, windows, nodes)):
        paces = np.random.default_rng([seed, window]).choice([0.0, 0.3, 1.0], nodes)
        simulator.set_refill_pace(paces[None])
        for node, pace in zip(twin.nodes, paces.tolist(), strict=True):
            node.pace = pace
        rows = simulator.record(shares, 0)
        slow = np.array(twin.window(shares.tolist()), dtype=float).reshape(-1, 6)
        np.testing.assert_allclose(rows, slow, RELATIVE, ROUNDING_S, err_msg=f"window {window}")
        for column in Node:
            sums = [node.sums[column] for node in twin.nodes]
            # Differences of large sums (a backlog that is empty but for rounding) may be tiny.
            slack = RELATIVE * max(1e-3, *map(abs, sums))
            got = simulator.states[0].out.node[:, column]
            name = f"{column.name} in window {window}"
            np.testing.assert_allclose(got, sums, RELATIVE, slack, err_msg=name)
        served += len(rows)
    return served


@pytest.mark.parametrize(("regime", "caches", "router"), CASES)
def test_every_request_is_the_twins(regime: str, caches: str, router: str) -> None:
    seed = CASES.index((regime, caches, router))
    simulator = started(random_scenario(regime, caches, router, seed), seed)
    assert compare(simulator, cold_twin(simulator, seed), seed) > 100


@pytest.mark.parametrize(
    "router", ["kv_affinity", "predicted_completion", "helm_score", "dynamo_like", "foresight"]
)
@pytest.mark.parametrize("staleness_ms", [0, 20])
def test_more_nodes_than_bits_in_a_word(router: str, staleness_ms: float) -> None:
    scenario = small_scenario(
        **{
            "nodes": 67,
            "workload.load": 0.4,
            "hardware.host.miss_gbps": 0.5,  # so slow that all nodes are needed
            "emb.shards": 24,
            "router.name": router,
            "router.staleness_ms": staleness_ms,
            "router.books_own": True,  # else they would all go where the last report says
        }
    )
    simulator = started(scenario)
    twin = cold_twin(simulator, 1)
    compare(simulator, twin, 1, windows=1)
    beyond = sum(node.sums[Node.KV_HITS] for node in twin.nodes[64:])
    assert beyond > 0, "no node beyond the first 64 served from its KV cache"


class CountingTwin(Twin):
    """Counts the rules of the model that a run has exercised."""

    def __init__(self, *args) -> None:
        super().__init__(*args)
        self.seen: Counter[str] = Counter()

    def _serve(self, asked: Asked) -> tuple[float, ...]:
        hits = [asked.user in node.kv for node in self.nodes]
        known = [set(node.kv) for node in self.known]
        row = super()._serve(asked)
        longest = int(self.scenario.hardware.model.max_history.value)
        self.seen["shed"] += row[3] < 0
        self.seen["kv hit"] += row[4] and row[3] > 0
        self.seen["kv miss"] += not row[4]
        self.seen["kv on two nodes"] += sum(hits) > 1
        self.seen["history at its longest"] += self.history[asked.user] == longest
        self.seen["kv believed in vain"] += asked.user in known[row[2]] and not row[4]
        self.seen["kv not known of"] += asked.user not in known[row[2]] and bool(row[4])
        self.seen["too large for the cache"] += asked.user not in self.nodes[row[2]].kv
        self.seen["copy under way"] += any(node.copied > 0 for node in self.nodes)
        self.seen["burst group"] += asked.group == self.groups - 1
        self.seen["newcomer"] += asked.user >= self.scenario.workload.users.value
        return row

    def _install_paced(self, node, now: float) -> None:
        free = node.link_free
        super()._install_paced(node, now)
        self.seen["chunk ahead of requests"] += node.link_free > free

    def window(self, shares) -> list[tuple[float, ...]]:
        rows = super().window(shares)
        for node in self.nodes:
            self.seen["swap"] += int(node.sums[Node.SWAPS])
            self.seen["copy"] += int(node.sums[Node.SHARD_LOADS])
            self.seen["ghost"] += node.sums[Node.GHOST_KV_S] > 0
        return rows


def test_the_comparison_meets_every_rule() -> None:
    """The cases above would prove little if nothing was shed, swapped or evicted in them."""
    seen: Counter[str] = Counter()
    for seed, (regime, caches, router) in enumerate(CASES):
        if seed % 7 == 0:
            scenario = random_scenario(regime, caches, router, seed)
            simulator = Simulator(scenario)
            twin = cold_twin(simulator, seed)
            twin.__class__ = CountingTwin
            twin.seen = seen
            for shares in wandering_shares(seed, WINDOWS, scenario.nodes):
                twin.window(shares.tolist())
    rare = {rule: times for rule, times in seen.items() if times < 5}
    assert not rare, f"hardly met: {rare}"
