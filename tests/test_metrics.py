"""Every figure against its formula, computed request by request from the simulator's record."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from helm_gym.config.scenario import Scenario
from helm_gym.errors import ConfigError
from helm_gym.metrics import METRICS, EpisodeMetrics, window_metrics
from helm_gym.seeding import streams_from_seed
from helm_gym.sim.layout import Clock, Cluster
from helm_gym.sim.simulator import Simulator, Telemetry

TIME, USER, NODE, LATENCY, KV_HIT, MISSING = range(6)
WINDOWS = (0.3, 0.35, 0.3, 0.7)  # EMB shares of four decisions
QUANTILES = ("p50_ms", "p99_ms", "warm_p50_ms", "warm_p99_ms")


def overloaded(tiny: Scenario) -> Scenario:
    """Some requests are shed, some miss the SLO, some make it."""
    return tiny.replace({"workload.load": 1.6, "slo.deadline_ms": 60})


def begun(scenario: Scenario, clusters: int = 1) -> Simulator:
    simulator = Simulator(scenario, clusters)
    for cluster in range(clusters):
        simulator.reset(cluster, streams_from_seed(5 + cluster))
    return simulator


def shares(scenario: Scenario, share: float, clusters: int = 1) -> np.ndarray:
    return np.full((clusters, scenario.nodes), share)


def played(scenario: Scenario) -> tuple[list[Telemetry], list[np.ndarray], list[np.ndarray]]:
    """Telemetry, previous shares and request records of the same four windows."""
    told, recorded = begun(scenario), begun(scenario)
    telemetry, previous, records = [], [], []
    before = scenario.episode.initial_share
    for share in WINDOWS:
        telemetry.append(told.step(shares(scenario, share)))
        records.append(recorded.record(shares(scenario, share)[0], 0))
        previous.append(shares(scenario, before))
        before = share
    return telemetry, previous, records


def by_hand(scenario: Scenario, records: list[np.ndarray]) -> dict[str, float]:
    rows = np.concatenate(records)
    seconds = len(records) * scenario.episode.step_s
    served = rows[rows[:, LATENCY] >= 0]
    inside = (served[:, LATENCY] <= scenario.slo.p99_ms.value / 1e3).sum()
    return {
        "mean_ms": 1e3 * served[:, LATENCY].mean(),
        "slo_satisfaction": inside / len(rows),
        "offered_rps": len(rows) / seconds,
        "goodput_rps": inside / seconds,
        "shed_rate": 1 - len(served) / len(rows),
        "kv_hit_rate": served[:, KV_HIT].mean(),
        "miss_gb": served[:, MISSING].sum() / 1e9,
    }


def test_a_window_is_what_its_requests_say(tiny: Scenario) -> None:
    scenario = overloaded(tiny)
    for telemetry, previous, record in zip(*played(scenario), strict=True):
        found = window_metrics(scenario, telemetry, previous)
        expected = by_hand(scenario, [record])
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], [value], rtol=1e-9, err_msg=name)
        assert 0.02 < expected["shed_rate"] < 0.9, "the scenario should shed some, not all"
        latency = record[record[:, LATENCY] >= 0, LATENCY]
        for name, q in (("p50_ms", 0.5), ("p99_ms", 0.99)):
            exact = 1e3 * np.quantile(latency, q)
            assert abs(found[name][0] / exact - 1) < 1 / 64 + 0.01, name


def test_an_episode_is_what_its_requests_say(tiny: Scenario) -> None:
    scenario = overloaded(tiny)
    telemetry, previous, records = played(scenario)
    episode = EpisodeMetrics(scenario)
    for window, before in zip(telemetry, previous, strict=True):
        episode.add(window, before)
    found = episode.result()
    assert list(found) == list(METRICS)
    for name, value in by_hand(scenario, records).items():
        np.testing.assert_allclose(found[name], value, rtol=1e-9, err_msg=name)
    rows = np.concatenate(records)
    latency = rows[rows[:, LATENCY] >= 0, LATENCY]
    assert abs(found["p99_ms"] / (1e3 * np.quantile(latency, 0.99)) - 1) < 1 / 64 + 0.01
    assert episode.windows == 4
    assert episode.latency.sum() == latency.size
    assert found["share_moved"] == pytest.approx(0.2 + 0.05 + 0.05 + 0.4)
    assert found["emb_share"] == pytest.approx(np.mean(WINDOWS))
    moved = [
        window_metrics(scenario, w, p)["refill_gb"][0]
        for w, p in zip(telemetry, previous, strict=True)
    ]
    assert found["refill_gb"] == pytest.approx(sum(moved))
    assert found["refill_gb"] > 0


def test_every_figure_has_a_name_a_unit_and_a_row_per_cluster(tiny: Scenario) -> None:
    simulator = begun(tiny, clusters=3)
    found = window_metrics(tiny, simulator.step(shares(tiny, 0.4, 3)), shares(tiny, 0.5, 3))
    assert list(found) == list(METRICS)
    assert all(text.strip() for text in METRICS.values())
    for name, value in found.items():
        assert value.shape == (3,), name
        assert value.dtype == np.float64, name
    np.testing.assert_allclose(found["share_moved"], 0.1)
    np.testing.assert_allclose(found["emb_share"], 0.4)


def test_the_cluster_followed_is_the_one_asked_for(tiny: Scenario) -> None:
    simulator = begun(tiny, clusters=2)
    window = simulator.step(shares(tiny, 0.4, 2))
    figures = window_metrics(tiny, window, shares(tiny, 0.5, 2))
    results = []
    for row in (0, 1):
        episode = EpisodeMetrics(tiny)
        episode.add(window, shares(tiny, 0.5, 2), row)
        results.append(episode.result())
    assert results[0] != results[1]
    for row, result in enumerate(results):
        for name, value in result.items():
            assert value == pytest.approx(figures[name][row], nan_ok=True), name


def test_offered_requests_complete_are_shed_or_stay_in_flight(tiny: Scenario) -> None:
    scenario = overloaded(tiny)
    simulator = begun(scenario)
    flying = float(simulator.states[0].out.cluster[Cluster.IN_FLIGHT])
    for share in WINDOWS:
        window = simulator.step(shares(scenario, share))
        figures = window_metrics(scenario, window, shares(scenario, share))
        seconds = scenario.episode.step_s
        offered = figures["offered_rps"][0] * seconds
        completed = figures["throughput_rps"][0] * seconds
        shed = figures["shed_rate"][0] * offered
        assert offered - shed - completed == pytest.approx(figures["in_flight"][0] - flying)
        flying = figures["in_flight"][0]


def test_utilisation_is_busy_time(tiny: Scenario) -> None:
    scenario = overloaded(tiny)
    simulator = begun(scenario)
    state = simulator.states[0]
    before = np.maximum(state.stages.gpu_free, state.arrivals.clock[Clock.NOW])
    window = simulator.step(shares(scenario, scenario.episode.initial_share))
    figures = window_metrics(scenario, window, shares(scenario, 0.5))
    after = state.stages.gpu_free
    # A GPU that never idles is busy from when it was last free to when it will be.
    busiest = (after - before).mean() / scenario.episode.step_s
    assert figures["gpu_utilisation"][0] <= busiest + 1e-9
    assert figures["gpu_utilisation"][0] > 0.9 * busiest


@pytest.mark.parametrize("episode", [False, True])
def test_a_window_without_requests(tiny: Scenario, episode: bool) -> None:
    scenario = tiny.replace({"workload.load": 1e-9})
    simulator = begun(scenario)
    window = simulator.step(shares(scenario, 0.5))
    if episode:
        total = EpisodeMetrics(scenario)
        total.add(window, shares(scenario, 0.5))
        figures: dict[str, Any] = total.result()
    else:
        figures = {
            k: v[0] for k, v in window_metrics(scenario, window, shares(scenario, 0.5)).items()
        }
    undefined = {name for name, value in figures.items() if np.isnan(value)}
    assert undefined == {*QUANTILES, "mean_ms"}
    assert figures["slo_satisfaction"] == 1.0
    assert figures["offered_rps"] == figures["kv_hit_rate"] == figures["shed_rate"] == 0.0


def test_an_episode_without_windows_has_no_result(tiny: Scenario) -> None:
    with pytest.raises(ConfigError, match=r"call add\(\.\.\.\)"):
        EpisodeMetrics(tiny).result()
