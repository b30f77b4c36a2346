"""Routers by their definitions: who is chosen, what stale signals do, and what prices mean."""

from __future__ import annotations

import numpy as np
import pytest
from small import small_scenario, started

from helm_gym.config.routers import BOOKING_ROUTERS, KV_ROUTERS, ROUTERS
from helm_gym.config.scenario import PRICES, Scenario
from helm_gym.errors import ConfigError
from helm_gym.sim import router as room
from helm_gym.sim.layout import Clock, Node, Signals, State
from helm_gym.sim.params import Params
from helm_gym.sim.router import Request
from helm_gym.sim.signals import report
from helm_gym.sim.simulator import Simulator

NODES, USER, GROUP = 3, 7, 1


def request(params: Params, time: float = 10.0, history: int = 4096, fresh: int = 1) -> Request:
    rows = params.cache.history_row_bytes
    return Request(time, USER, GROUP, 2e-3, 8e-3, fresh * rows, history * rows, 0.0, history, fresh)


class Stand:
    """A scenario whose router is asked about nodes that a test has described."""

    def __init__(self, **changes: object) -> None:
        self.simulator = started(small_scenario(**{f"router.{k}": v for k, v in changes.items()}))
        self.state: State = self.simulator.states[0]
        self.params = self.simulator.lowered.params
        seen: Signals = self.state.seen
        seen.link_free[:] = seen.gpu_free[:] = 10.0
        seen.mask[USER] = 0
        seen.readout[:] = 0.5

    def hold(self, *nodes: int) -> None:
        self.state.seen.mask[USER, 0] = sum(1 << n for n in nodes)

    def busy(self, *delays_ms: float) -> None:
        self.state.seen.gpu_free[:] = 10.0 + np.array(delays_ms) * 1e-3

    def choose(self, turn: int = 0, **changes: float) -> int:
        stages, params = self.state.stages, self.params
        return room.choose(
            self.state.seen,
            self.state.prices,
            stages.finish,
            params.cost,
            params.routing,
            request(params, **changes),
            turn,
        )


def test_every_router_has_its_kernel_and_ties_go_to_the_lowest_node() -> None:
    for name in set(ROUTERS) - {"round_robin", "power_of_two", "consistent_hash", "helm_score"}:
        assert Stand(name=name).choose() == 0, name


def test_routers_that_seek_kv_are_those_that_read_it() -> None:
    """A router prefers the one holder among nodes that are otherwise equal, or it does not."""
    for name in ROUTERS:
        stand = Stand(name=name, affinity_bonus=0.0)
        without = [stand.choose(turn) for turn in range(20)]
        stand.hold(2)
        moved = [stand.choose(turn) for turn in range(20)] != without
        assert moved == (name in KV_ROUTERS), name


def test_power_of_two_takes_the_freer_of_two_and_draws_all_pairs() -> None:
    stand = Stand(name="power_of_two")
    stand.busy(0, 1, 2)
    chosen = np.bincount([stand.choose(turn) for turn in range(3000)], minlength=NODES)
    # Of the three pairs two hold node 0, one is (1, 2); node 2 is never the freer one.
    assert chosen[2] == 0
    assert chosen[0] / 3000 == pytest.approx(2 / 3, abs=0.03)


def test_emb_affinity_counts_whole_shards_and_gives_way_when_overloaded() -> None:
    stand = Stand(name="emb_affinity")
    stand.state.seen.readout[2, GROUP] = [0.50, 0.90, 0.94]  # 10, 18 and 18 shards
    stand.busy(0, 3, 2)
    assert stand.choose() == 2
    stand.busy(0, 26, 28)  # the SLO is 30 ms: 0.87 and 0.93
    assert stand.choose() == 0


@pytest.mark.parametrize("name", ["helm_score", "emb_affinity"])
def test_spare_only_does_not_flee_from_one_overloaded_node_to_another(name: str) -> None:
    chosen = {}
    for spare_only in (False, True):
        stand = Stand(name=name, spare_only=spare_only, affinity_bonus=0.0)
        stand.hold(2)
        stand.state.seen.readout[2, GROUP] = [0.1, 0.1, 0.9]
        stand.busy(27, 27, 29)
        overloaded = stand.choose()
        stand.busy(10, 27, 29)
        assert stand.choose() == 0  # somebody has room
        chosen[spare_only] = overloaded
    assert chosen == {False: 0, True: 2}


def test_sglang_balances_by_a_number_and_a_ratio_and_wants_a_long_match() -> None:
    # 150 requests/s at capacity: 3 requests are 20 ms.
    stand = Stand(name="sglang_like", balance_requests=3, balance_ratio=1.5, match_threshold=0.3)
    stand.hold(2)
    stand.busy(0, 0, 19)
    assert stand.choose() == 2
    stand.busy(0, 0, 21)
    assert stand.choose() == 0
    stand.busy(90, 90, 111)  # far apart, but not by half
    assert stand.choose() == 2
    stand.busy(1, 0, 5)
    assert stand.choose(history=100, fresh=69) == 2
    assert stand.choose(history=100, fresh=70) == 1


def test_dynamo_weighs_what_is_cached_against_what_is_queued() -> None:
    stand = Stand(name="dynamo_like", overlap_weight=1.0)
    stand.hold(2)
    routing = stand.params.routing
    saved = 4095 / routing.queued_tokens * 1e3  # ms of queue that weigh as much as the history
    stand.busy(0, 0, 0.99 * saved)
    assert stand.choose() == 2
    stand.busy(0, 0, 1.01 * saved)
    assert stand.choose() == 0
    heavier = Stand(name="dynamo_like", overlap_weight=4.0).params.routing
    assert heavier.overlap_weight / heavier.queued_tokens > 1 / routing.queued_tokens


def test_foresight_without_prices_predicts_completion() -> None:
    rng = np.random.default_rng(0)
    plain, priced = Stand(name="predicted_completion"), Stand(name="foresight")
    for _ in range(200):
        delays, holders = rng.uniform(0, 20, NODES), np.flatnonzero(rng.random(NODES) < 0.5)
        chosen = []
        for stand in (plain, priced):
            stand.state.prices.kv[:] = stand.state.prices.link[:] = stand.state.prices.gpu[:] = 0
            stand.busy(*delays)
            stand.hold(*holders)
            chosen.append(stand.choose())
        assert chosen[0] == chosen[1]


def test_foresight_pays_for_blocks_and_for_work() -> None:
    stand = Stand(name="foresight")
    prices = stand.state.prices
    for array in prices:
        array[:] = 0.0
    stand.state.seen.readout[:] = 1.0  # nothing is missing: a miss costs 6 ms of GPU more
    stand.hold(2)
    stand.busy(0, 0, 7)
    assert stand.choose() == 0
    prices.kv[:] = 1.1e-3 / 64  # 64 blocks of 64 tokens
    assert stand.choose() == 2
    prices.kv[:] = 0.9e-3 / 64
    assert stand.choose() == 0
    prices.kv[:] = 0.0
    # Work at price p: an idle node with 8 ms costs p*32e-6 s, 7 ms of backlog and 2 ms p*16e-6.
    prices.gpu[:] = 1.1e-3 / 16e-6
    assert stand.choose() == 2
    prices.gpu[:] = 0.9e-3 / 16e-6
    assert stand.choose() == 0


def test_prices_settle_at_what_windows_report() -> None:
    """A price is the windows' own figure once these repeat themselves."""
    simulator = started(small_scenario(**{"router.name": "foresight", "workload.load": 0.5}))
    state, scenario = simulator.states[0], simulator.scenario
    window = scenario.episode.step_s
    keep = 2 ** (-window / scenario.router.price_half_life_s.value)
    for _ in range(5):
        before = state.prices.gpu.copy()
        report = simulator.step(np.full((1, NODES), 0.5)).node[0]
        rate = (report[:, Node.ARRIVED] - report[:, Node.SHED]) / window
        used = np.minimum(report[:, Node.GPU_S] / window, 0.95)
        expected = keep * before + (1 - keep) * rate / (1 - used)
        np.testing.assert_allclose(state.prices.gpu, expected, 1e-12)
        assert (state.prices.gpu > before).any()


# -- stale signals -------------------------------------------------------------------------------


def herd(name: str, staleness_ms: float, books: bool | None) -> np.ndarray:
    """Part of the requests between two reports that went to the commonest node."""
    scenario = small_scenario(
        **{
            "router.name": name,
            "router.staleness_ms": staleness_ms,
            "router.books_own": books,
            "workload.load": 0.5,
        }
    )
    simulator = started(scenario)
    rows = np.concatenate([simulator.record(np.full(NODES, 0.5), 0) for _ in range(20)])
    period = (rows[:, 0] // 0.2).astype(int)
    parts = []
    for p in np.unique(period):
        nodes = rows[period == p, 2].astype(int)
        if nodes.size >= 10:
            parts.append(np.bincount(nodes).max() / nodes.size)
    return np.array(parts)


def test_a_herd_follows_the_last_report_and_books_disperse_it() -> None:
    live, stale, booked = (herd("least_loaded", *how) for how in ((0, None), (200, 0), (200, 1)))
    assert len(stale) > 10
    assert (stale == 1.0).all()  # nothing that happens in between reaches the router
    assert live.mean() < 0.6
    assert booked.mean() < 0.6


def test_a_router_sees_the_last_report_and_nothing_later() -> None:
    simulator = started(
        small_scenario(**{"router.name": "kv_affinity", "router.staleness_ms": 160})
    )
    state = simulator.states[0]
    shares = np.full(NODES, 0.5)
    simulator.record(shares, 0)  # 0 to 0.4 s: reports at 0, 0.16 and 0.32 s
    assert state.arrivals.clock[Clock.NEXT_REPORT] == pytest.approx(0.48)
    assert (state.seen.mask != state.kv.mask).any()
    assert (state.seen.link_free <= 0.32 + 0.15 + 1e-9).all()
    changed = set(state.kv.changed[: state.kv.changes[0]].tolist())
    differs = set(np.flatnonzero((state.seen.mask != state.kv.mask).any(axis=1)).tolist())
    assert differs <= changed


def test_a_report_that_lost_count_copies_everything() -> None:
    simulator = started(small_scenario(**{"router.name": "kv_affinity", "router.staleness_ms": 10}))
    state = simulator.states[0]
    simulator.record(np.full(NODES, 0.5), 0)
    state.kv.changes[0] = state.kv.changed.size + 1
    state.seen.mask[:] = 0
    report(state)
    assert np.array_equal(state.seen.mask, state.kv.mask)
    assert state.kv.changes[0] == 0


def test_live_signals_are_the_state_itself() -> None:
    state = started(small_scenario()).states[0]
    for seen, own in zip(
        state.seen,
        (state.kv.mask, state.emb.readout, state.stages.link_free, state.stages.gpu_free),
        strict=True,
    ):
        assert np.shares_memory(seen, own)
    assert state.kv.changed.size == 0


def test_a_snapshot_with_stale_signals_continues_bit_for_bit() -> None:
    scenario = small_scenario(**{"router.name": "foresight", "router.staleness_ms": 70})
    simulator, other = started(scenario), Simulator(scenario)
    simulator.record(np.full(NODES, 0.5), 0)
    other.restore(simulator.snapshot())
    for _ in range(3):
        rows = [s.record(np.full(NODES, 0.4), 0) for s in (simulator, other)]
        assert np.array_equal(*rows)


# -- settings ------------------------------------------------------------------------------------


def test_digests_of_files_from_before_stay() -> None:
    before = small_scenario().digest()
    assert small_scenario(**{"router.staleness_ms": 0, "router.books_own": None}).digest() == before
    assert small_scenario(**{"router.staleness_ms": 50}).digest() != before
    assert small_scenario(**{"router.spare_only": True}).digest() != before


def test_who_keeps_books() -> None:
    def books(**changes: object) -> bool:
        return small_scenario(**{f"router.{k}": v for k, v in changes.items()}).router.books

    for name in ROUTERS:
        assert not books(name=name), "live signals need no books"
        assert books(name=name, staleness_ms=50) == (name in BOOKING_ROUTERS)
        assert books(name=name, staleness_ms=50, books_own=True)
        assert not books(name=name, staleness_ms=50, books_own=False)


@pytest.mark.parametrize(
    ("path", "value", "text"),
    [
        ("staleness_ms", 501, "less than or equal to 500"),
        ("staleness_ms", -1, "greater than or equal to 0"),
        ("name", "sglang", "sglang_like"),
        ("balance_ratio", 0.5, "must lie in [1, 1e+06]"),
        ("match_threshold", 1.5, "lie in [0, 1]"),
        ("price_utilisation", 1.0, "lie in [0, 0.999]"),
        ("price_half_life_s", 0, "greater than 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(path: str, value: object, text: str) -> None:
    with pytest.raises(ConfigError) as error:
        small_scenario(**{f"router.{path}": value})
    assert text in str(error.value)
    assert f"router.{path}" in str(error.value) or path == "name"


def test_assumed_numbers_of_foresight_have_ranges_and_concern_nobody_else() -> None:
    plain = Scenario.load("taobao-shift")
    priced = dict(plain.replace({"router.name": "foresight"}).assumptions())
    assert set(priced) - set(dict(plain.assumptions())) == set(PRICES)
    for name in PRICES:
        low, high = priced[name].low, priced[name].high
        assert low is not None and high is not None
        assert low < priced[name].value < high
