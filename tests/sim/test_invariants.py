"""What holds at every instant whatever the policy does: conservation, budgets, reproducibility."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from small import REGIMES, small_scenario, started, wandering_shares

from helm_gym.config.routers import ROUTERS
from helm_gym.config.scenario import Scenario
from helm_gym.errors import ConfigError
from helm_gym.seeding import streams_from_seed
from helm_gym.sim.layout import N_BINS, Cluster, Count, Node
from helm_gym.sim.simulator import Simulator

WINDOWS = 8
HARD = {"workload.load": 4.0, "slo.deadline_ms": 10}  # sheds, queues and half-done copies
MODES = {
    "naive": {"refill.mode": "naive"},
    "throttled": {"refill.mode": "throttled"},
    "paced": {"refill.mode": "paced", "refill.patience_s": 0.05},
    "lru": {"emb.policy": "lru"},
}
CASES = [
    pytest.param(regime, mode, ROUTERS[i % len(ROUTERS)], id=f"{regime}-{mode}")
    for i, (regime, mode) in enumerate(itertools.product(REGIMES, MODES))
]
every_case = pytest.mark.parametrize(("regime", "mode", "router"), CASES)


def hard_scenario(regime: str, mode: str, router: str) -> Scenario:
    changes = {"workload.regime": REGIMES[regime], "router.name": router}
    return small_scenario(**HARD, **changes, **MODES[mode])


def tally(simulator: Simulator, count: Count) -> int:
    return int(simulator.states[0].arrivals.tally[count])


@every_case
def test_offered_is_completed_shed_or_in_flight(regime: str, mode: str, router: str) -> None:
    simulator = started(hard_scenario(regime, mode, router))
    for shares in wandering_shares(1, WINDOWS, 3):
        before = [tally(simulator, c) for c in (Count.OFFERED, Count.SHED, Count.COMPLETED)]
        rows = simulator.record(shares, 0)
        out = simulator.states[0].out
        flight = out.cluster[Cluster.IN_FLIGHT]
        offered, shed, completed = (
            tally(simulator, c) for c in (Count.OFFERED, Count.SHED, Count.COMPLETED)
        )
        assert offered == completed + shed + flight
        refused = rows[:, 3] < 0
        assert offered - before[0] == len(rows) == out.node[:, Node.ARRIVED].sum()
        assert shed - before[1] == refused.sum() == out.node[:, Node.SHED].sum()
        assert completed - before[2] == out.cluster[Cluster.COMPLETED]
        until = out.cluster[Cluster.TIME_S]
        assert flight >= (rows[~refused, 0] + rows[~refused, 3] > until).sum()
        assert out.latency.sum() == (~refused).sum()
        assert (out.warm <= out.latency).all()
    assert tally(simulator, Count.SHED) > 0, "too easy to prove anything"


@every_case
def test_window_sums_are_the_sums_of_its_requests(regime: str, mode: str, router: str) -> None:
    scenario = hard_scenario(regime, mode, router)
    simulator = started(scenario)
    slo = scenario.slo.p99_ms.value / 1e3
    for shares in wandering_shares(2, WINDOWS, 3):
        rows = simulator.record(shares, 0)
        sums = simulator.states[0].out.node
        for node in range(3):
            mine = rows[rows[:, 2] == node]
            served = mine[mine[:, 3] >= 0]
            assert sums[node, Node.LATENCY_S] == pytest.approx(served[:, 3].sum())
            assert sums[node, Node.WITHIN_SLO] == (served[:, 3] <= slo).sum()
            assert sums[node, Node.KV_HITS] == served[:, 4].sum()
            assert sums[node, Node.MISS_BYTES] == pytest.approx(served[:, 5].sum())
            assert sums[node, Node.WAIT_S] <= sums[node, Node.LATENCY_S]


@pytest.mark.parametrize("mode", MODES)
def test_budgets_hold_after_every_decision(mode: str) -> None:
    """Decisions of 10 ms: what is checked at window ends holds inside them too."""
    simulator = started(small_scenario(**HARD, **MODES[mode], **{"episode.step_s": 0.01}))
    scenario, state = simulator.scenario, simulator.states[0]
    pool = scenario.memory.pool_gb.value * 1e9
    block, shard = simulator.lowered.params.cache.block_bytes, scenario.emb.shard_bytes
    most = 0.0
    for shares in itertools.chain(
        *(itertools.repeat(shares, 10) for shares in wandering_shares(3, 40, 3, 0.0, 1.0))
    ):
        simulator.step(shares[None])
        emb, kv = state.out.node[:, Node.EMB_BYTES], state.out.node[:, Node.KV_BYTES]
        assert (state.out.node[:, Node.SHARE] == shares).all()
        assert (emb <= shares * pool).all()
        assert (kv <= (1 - shares) * pool).all()
        assert (emb + kv <= pool).all()
        np.testing.assert_allclose(emb.sum(), resident_emb(simulator) * shard)
        assert kv.sum() == resident_kv(simulator) * block
        most = max(most, (kv.sum() + emb.sum()) / (3 * pool))
    assert most > 0.8, "the pool was never nearly full"


def resident_emb(simulator: Simulator) -> float:
    emb = simulator.states[0].emb
    return float(emb.fill.sum() if simulator.lowered.params.cache.row_lru else emb.paged.sum())


def resident_kv(simulator: Simulator) -> int:
    entry = simulator.states[0].kv.entry
    return int(entry["blocks"][entry["owner"] >= 0].sum())


@pytest.mark.parametrize("mode", ["naive", "throttled", "paced"])
def test_refill_bytes_are_loads_and_what_is_under_way(mode: str) -> None:
    simulator = started(small_scenario(**HARD, **MODES[mode], **{"episode.step_s": 0.1}))
    shard, emb = simulator.scenario.emb.shard_bytes, simulator.states[0].emb
    copied, loads, half_done = np.zeros(3), np.zeros(3), 0
    for shares in wandering_shares(4, 40, 3):
        simulator.step(shares[None])
        copied += simulator.states[0].out.node[:, Node.REFILL_BYTES]
        loads += simulator.states[0].out.node[:, Node.SHARD_LOADS]
        # A naive copy is booked when it is queued, any other as it moves.
        under_way = emb.waiting * shard if mode == "naive" else emb.copied
        np.testing.assert_allclose(copied, loads * shard + under_way, rtol=1e-9)
        half_done += (under_way > 0).sum()
        backlog = emb.waiting * shard - emb.copied
        assert (simulator.states[0].out.node[:, Node.REFILL_BACKLOG] == backlog).all()
    assert loads.sum() > 20
    assert half_done > 20


@pytest.mark.parametrize("mode", MODES)
def test_link_work_is_misses_and_refill(mode: str) -> None:
    simulator = started(small_scenario(**HARD, **MODES[mode]))
    cost, chunks = simulator.lowered.params.cost, 0
    for shares in wandering_shares(5, WINDOWS, 3):
        rows = simulator.record(shares, 0)
        sums = simulator.states[0].out.node
        for node in range(3):
            served = rows[(rows[:, 2] == node) & (rows[:, 3] >= 0)]
            fetched = served[served[:, 5] > 0, 5]
            misses = fetched.size * cost.link_latency + fetched.sum() * cost.link_byte
            refill = sums[node, Node.REFILL_BYTES] / cost.refill_rate
            rest = (sums[node, Node.LINK_S] - misses - refill) / cost.link_latency
            chunks += round(rest)  # paced: a latency for each chunk that queued with the requests
            assert rest == pytest.approx(round(rest), abs=1e-6)
    assert (chunks > 0) == (mode == "paced")


@pytest.mark.parametrize("mode", MODES)
def test_a_shed_request_leaves_no_trace(mode: str) -> None:
    """With no time to wait a busy node refuses: queues and KV are those of the served alone."""
    scenario = small_scenario(**MODES[mode], **{"nodes": 1, "slo.deadline_ms": 1e-6})
    simulator = started(scenario)
    cost = simulator.lowered.params.cost
    rows = simulator.record(np.array([0.5]), 0)
    served = rows[rows[:, 3] >= 0]
    assert 0.2 < len(served) / len(rows) < 0.9
    link_free = gpu_free = 0.0
    for time, latency, missing in served[:, [0, 3, 5]]:
        fetched = time + cost.link_latency + missing * cost.link_byte
        assert time >= link_free - 1e-8 and fetched >= gpu_free - 1e-8
        link_free, gpu_free = fetched, time + latency
    users = simulator.states[0].kv.entry["owner"]
    assert set(users[users >= 0].tolist()) <= set(served[:, 1].astype(int).tolist())


def trajectory(simulator: Simulator, cluster: int, windows: int = WINDOWS) -> list[bytes]:
    """Everything that windows report about one cluster, as bytes."""
    found = []
    plan = [wandering_shares(9 + c, windows, 3) for c in range(simulator.clusters)]
    for shares in zip(*plan, strict=True):
        report = simulator.step(np.stack(shares))
        found.append(
            b"".join(np.ascontiguousarray(part[cluster]).tobytes() for part in report_parts(report))
        )
    return found


def report_parts(report) -> tuple[np.ndarray, ...]:
    return report.node, report.cluster, report.latency, report.warm


@pytest.mark.parametrize("regime", REGIMES)
def test_clusters_and_threads_change_nothing(regime: str) -> None:
    scenario = hard_scenario(regime, "throttled", "predicted_completion")
    alone = trajectory(started(scenario), 0)
    for clusters, threads in ((3, 1), (3, 2), (2, 8)):
        simulator = started(scenario, clusters=clusters, threads=threads)
        assert trajectory(simulator, 0) == alone
        simulator.close()


def test_a_row_depends_on_its_own_seed_and_shares_only() -> None:
    scenario = hard_scenario("burst", "throttled", "kv_affinity")
    together = started(scenario, seed=4, clusters=3, threads=2)
    alone = Simulator(scenario)
    plans = [list(wandering_shares(20 + c, WINDOWS, 3)) for c in range(3)]
    reports = [together.step(np.stack(shares)) for shares in zip(*plans, strict=True)]
    for cluster in range(3):
        alone.reset(0, streams_from_seed(4 + cluster))
        for shares, report in zip(plans[cluster], reports, strict=True):
            own = alone.step(shares[None])
            for mine, theirs in zip(report_parts(own), report_parts(report), strict=True):
                assert mine[0].tobytes() == theirs[cluster].tobytes()
    together.close()


def test_masked_rows_stand_still() -> None:
    simulator = started(small_scenario(), clusters=3)
    before = simulator.snapshot()
    report = simulator.step(np.full((3, 3), 0.3), np.array([True, False, True]))
    after = simulator.snapshot()
    assert [(after[c] == before[c]).all() for c in range(3)] == [False, True, False]
    assert not report.node[1].any()
    assert report.node[0].any() and report.node[2].any()


def test_reports_are_copies() -> None:
    simulator = started(small_scenario())
    report = simulator.step(np.full((1, 3), 0.5))
    kept = [part.copy() for part in report_parts(report)]
    simulator.step(np.full((1, 3), 0.2))
    for part, was in zip(report_parts(report), kept, strict=True):
        assert np.array_equal(part, was, equal_nan=True)


@every_case
def test_a_snapshot_continues_bit_for_bit(regime: str, mode: str, router: str) -> None:
    scenario = hard_scenario(regime, mode, router)
    simulator = started(scenario)
    first = list(wandering_shares(6, WINDOWS, 3))
    for shares in first[:4]:
        simulator.record(shares, 0)
    kept = simulator.snapshot()
    went_on = [simulator.record(shares, 0) for shares in first[4:]]
    end = simulator.snapshot()
    another = Simulator(scenario)
    for target in (simulator, another):
        target.restore(kept)
        again = [target.record(shares, 0) for shares in first[4:]]
        for one, other in zip(went_on, again, strict=True):
            assert np.array_equal(one, other)
        assert (target.snapshot() == end).all()


def test_a_foreign_snapshot_is_refused() -> None:
    kept = started(small_scenario()).snapshot()
    with pytest.raises(ConfigError, match="another scenario"):
        Simulator(small_scenario(**{"nodes": 4})).restore(kept)


@pytest.mark.parametrize("regime", REGIMES)
def test_every_policy_meets_the_same_requests(regime: str) -> None:
    """Common random numbers: shares, routers, caches and deadlines do not touch the stream."""

    def stream(seed: int, **changes) -> np.ndarray:
        simulator = started(small_scenario(**{"workload.regime": REGIMES[regime]}, **changes))
        rows = [simulator.record(shares, 0) for shares in wandering_shares(seed, WINDOWS, 3)]
        return np.concatenate(rows)[:, :2]

    first = stream(1)
    assert len(first) > 500
    assert np.array_equal(first, stream(2))
    for router in ROUTERS:
        assert np.array_equal(first, stream(3, **{"router.name": router}))
    for mode in MODES.values():
        assert np.array_equal(first, stream(4, **mode, **{"slo.deadline_ms": 1}))


def test_warm_starts_at_different_shares_meet_the_same_requests() -> None:
    scenario = small_scenario(**{"episode.warmup_s": 2, "episode.warm_starts": 3})
    simulator = Simulator(scenario, 2)
    for start in range(3):
        for cluster, share in enumerate((0.2, 0.8)):
            simulator.reset(cluster, streams_from_seed(5), start, share)
        assert simulator.time(0) == simulator.time(1)
        pair = [simulator.record(np.full(3, 0.5), cluster)[:, :2] for cluster in range(2)]
        assert np.array_equal(*pair)


def test_other_seeds_bring_other_requests() -> None:
    scenario = small_scenario()
    streams = [started(scenario, seed).record(np.full(3, 0.5), 0) for seed in (1, 2)]
    assert not np.array_equal(streams[0][:50, :2], streams[1][:50, :2])


def test_warm_starts_spread_over_the_period() -> None:
    changes = {"workload.regime": REGIMES["trend"], "episode.warm_starts": 4}
    simulator = Simulator(small_scenario(**changes, **{"episode.warmup_s": 2}))
    times = []
    for start in range(5):
        simulator.reset(0, streams_from_seed(1), start)
        times.append(simulator.time(0))
    # A period of 4 s in windows of 0.4 s: a start every 2 windows, the fifth is the first again.
    assert times == pytest.approx([0, 0.8, 1.6, 2.4, 0], abs=1e-9)


def test_a_cold_start_costs_nothing() -> None:
    """The first requests find full pages and a free link, however pages are filled later on."""
    latency = {}
    for mode in ("naive", "throttled", "paced"):
        simulator = started(small_scenario(**MODES[mode]))
        state = simulator.states[0]
        assert (state.stages.link_free <= simulator.time(0)).all()
        assert (state.emb.fill[state.emb.paged == 1] == 1).all()
        assert not state.emb.waiting.any()
        latency[mode] = simulator.record(np.full(3, 0.5), 0)
    assert np.array_equal(latency["naive"], latency["throttled"])
    assert np.array_equal(latency["paced"], latency["throttled"])


def test_no_window_reports_infinity_or_nan_when_requests_were_served() -> None:
    simulator = started(small_scenario(**{"workload.load": 20, "slo.deadline_ms": 20}))
    for shares in wandering_shares(8, WINDOWS, 3):
        report = simulator.step(shares[None])
        assert np.isfinite(report.node).all()
        assert np.isfinite(report.cluster).all()
        assert report.node[0, :, Node.SHED].sum() > 0
    assert report.latency.shape == (1, N_BINS)


def test_stepping_before_a_reset_is_refused():
    simulator = Simulator(small_scenario())
    with pytest.raises(ConfigError, match="reset"):
        simulator.step(np.full((1, simulator.scenario.nodes), 0.5))
