"""Service times: the lowered coefficients against numbers worked out by hand, and their signs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from small import small_scenario

from helm_gym.config.scenario import Scenario
from helm_gym.sim.layout import N_BINS
from helm_gym.sim.lowering import lower, lower_cost, profiled_weights
from helm_gym.sim.params import Cost
from helm_gym.sim.stages import bin_edge, gpu_seconds, latency_bin, link_seconds, quantile
from helm_gym.sim.token_times import STRIDE, Column

HOST: dict[str, Any] = {
    "name": "round",
    "latency_us": 50,
    "miss_gbps": 2,
    "bulk_gbps": 10,
    "keys_per_s": 1e9,
}
ROUND: dict[str, Any] = {
    "hardware.host": HOST,
    "hardware.model": {"name": "round", "layers": 2, "width": 1024, "max_history": 8192},
    "emb.bytes_per_key": 100,
    "emb.table_gb": 4.8,
    "emb.shards": 48,
}
MODELS = ("hstu-5x512", "hstu-8x1024")


def round_scenario(**changes: Any) -> Scenario:
    return small_scenario(**{**ROUND, **changes})


@pytest.fixture
def cost() -> Cost:
    return lower_cost(round_scenario())


def test_link_coefficients(cost: Cost) -> None:
    assert cost.link_latency == pytest.approx(50e-6)
    assert cost.link_byte == pytest.approx(1 / 2e9)
    # a shard is 1e8 bytes: 50 us + 10 ms at 10 GB/s
    assert cost.refill_rate == pytest.approx(1e8 / 10.05e-3)


def test_slow_key_look_ups_bound_the_link() -> None:
    host = {**HOST, "keys_per_s": 5e6}
    cost = lower_cost(round_scenario(**{"hardware.host": host}))
    assert cost.link_byte == pytest.approx(1 / (5e6 * 100)), "5 M keys/s of 100 bytes"


def test_gpu_time_of_a_miss(cost: Cost) -> None:
    """1,000 history tokens (1,008 in tiles of 16) and 100 candidates, nothing cached."""
    gpu = round_scenario(**{"hardware.gpu.hstu_factor": 1.0}).hardware.gpu
    gemm = gpu.gemm.seconds(1104, 1024, 4096) + gpu.gemm.seconds(1104, 1024, 1024)
    query, key = gpu.incremental.lines(112, 8, own_keys=64)
    attend = gpu.prefill.seconds(1, 1008, 8, 8) + query + 1000 * key
    assert gpu_seconds(cost, 1000, 0, 100) == pytest.approx(2 * (gemm + attend), rel=1e-12)


def test_gpu_time_of_a_hit(cost: Cost) -> None:
    """10 new tokens and 100 candidates (112 in tiles of 16) on 990 cached tokens."""
    gpu = round_scenario().hardware.gpu
    gemm = gpu.gemm.seconds(112, 1024, 4096) + gpu.gemm.seconds(112, 1024, 1024)
    query, key = gpu.incremental.lines(112, 8, own_keys=64)
    expected = 2 * (gemm + query + 1000 * key)
    assert gpu_seconds(cost, 10, 990, 100) == pytest.approx(float(expected), rel=1e-12)


def test_attention_is_multiplied_by_the_hstu_factor() -> None:
    plain, twice = (
        lower_cost(round_scenario(**{"hardware.gpu.hstu_factor": factor})) for factor in (0.8, 1.6)
    )
    np.testing.assert_allclose(twice.tokens[:, 1:], 2 * plain.tokens[:, 1:])
    np.testing.assert_array_equal(twice.tokens[:, Column.GEMM], plain.tokens[:, Column.GEMM])


def test_times_step_with_tiles_of_sixteen(cost: Cost) -> None:
    inside, next_tile = ([gpu_seconds(cost, n, 4000, 0) for n in ns] for ns in ((1, 16), (17, 32)))
    assert inside[0] < inside[1] < inside[0] * 1.01, "only the new tokens' own keys differ"
    assert next_tile[0] > inside[1]


def test_the_table_covers_the_longest_request() -> None:
    scenario = round_scenario(**{"workload.surfaces.0.candidates": 4093})
    cost = lower_cost(scenario)
    longest = (8192 + 4093 + STRIDE - 1) // STRIDE
    assert len(cost.tokens) == longest + 1


@pytest.mark.parametrize("model", MODELS)
def test_a_hit_is_cheaper_than_a_miss_on_shipped_hardware(model: str) -> None:
    cost = lower_cost(
        small_scenario(**{"hardware.model": model, "workload.surfaces.0.candidates": 4096})
    )
    for history in (1000, 4000, 16000):
        for candidates in (64, 512, 4096):
            hit = gpu_seconds(cost, 2, history - 2, candidates)
            assert hit < gpu_seconds(cost, history, 0, candidates)


def test_gpu_time_never_falls_with_any_argument() -> None:
    cost = lower_cost(small_scenario(**{"workload.surfaces.0.candidates": 4100}))
    rng = np.random.default_rng(0)
    for _ in range(300):
        new, cached = int(rng.integers(0, 100)), int(rng.integers(1, 16000))
        history, candidates = int(rng.integers(1, 16000)), int(rng.integers(1, 4080))
        hit = gpu_seconds(cost, new, cached, candidates)
        assert hit < gpu_seconds(cost, new + 16, cached, candidates)
        assert hit < gpu_seconds(cost, new, cached + 1, candidates)
        assert hit < gpu_seconds(cost, new, cached, candidates + 16)
        miss = gpu_seconds(cost, history, 0, candidates)
        assert miss <= gpu_seconds(cost, history + 1, 0, candidates)
        assert miss < gpu_seconds(cost, history, 0, candidates + 16)


SLOWER = [
    ("hardware.model.layers", 2.0),
    ("hardware.model.width", 2.0),
    ("hardware.gpu.gemm.launch_us", 2.0),
    ("hardware.gpu.gemm.tflops", 0.5),
    ("hardware.gpu.gemm.read_gbps", 0.5),
    ("hardware.gpu.hstu_factor", 1.2),
    ("hardware.gpu.incremental.launch_us", 2.0),
    ("hardware.gpu.incremental.tflops", 0.5),
    ("hardware.gpu.incremental.step_us", 2.0),
]
SLOWER_MISS = [
    ("hardware.gpu.prefill.launch_us", 2.0),
    ("hardware.gpu.prefill.tflops", 0.5),
    ("hardware.gpu.prefill.kv_gbps", 0.5),
]


def scaled(path: str, factor: float) -> Cost:
    scenario: Any = small_scenario()
    value = scenario
    for part in path.split("."):
        value = getattr(value, part)
    return lower_cost(scenario.replace({path: value.value * factor}))


@pytest.mark.parametrize(("path", "factor"), SLOWER + SLOWER_MISS)
def test_slower_hardware_never_helps(path: str, factor: float) -> None:
    base, slow = lower_cost(small_scenario()), scaled(path, factor)
    hit = [gpu_seconds(cost, 2, 5000, 512) for cost in (base, slow)]
    miss = [gpu_seconds(cost, 5000, 0, 512) for cost in (base, slow)]
    assert (hit[1] > hit[0]) == ((path, factor) not in SLOWER_MISS)
    assert miss[1] > miss[0]


@pytest.mark.parametrize(
    ("path", "factor", "name", "change"),
    [
        ("hardware.host.latency_us", 3.0, "link_latency", 3.0),
        ("hardware.host.miss_gbps", 0.5, "link_byte", 2.0),
        ("hardware.host.miss_gbps", 0.5, "refill_rate", 1.0),
        ("hardware.host.bulk_gbps", 2.0, "link_byte", 1.0),
    ],
)
def test_what_the_host_decides(path: str, factor: float, name: str, change: float) -> None:
    before, after = (getattr(c, name) for c in (lower_cost(small_scenario()), scaled(path, factor)))
    assert after == pytest.approx(change * before)


def test_link_time(cost: Cost) -> None:
    assert link_seconds(cost, 0.0) == 0.0
    assert link_seconds(cost, 4e6) == pytest.approx(50e-6 + 2e-3)
    assert link_seconds(cost, 4e6) < link_seconds(cost, 4e6 + 1)


def test_capacities_from_memory() -> None:
    """KV: 2 layers x 1,024 x 2 x 2 bytes a token, 64 tokens a block."""
    scenario = round_scenario(**{"memory.pool_gb": 1.0, "episode.share_min": 0.0})
    cache = lower(scenario).params.cache
    assert cache.block_bytes == 64 * 8192
    assert cache.shard_bytes == 1e8
    assert cache.pool_bytes == 1e9
    assert scenario.hardware.model.kv_bytes_per_token == 8192


def test_profiled_router_weights() -> None:
    """A miss of exp(8) tokens, 300 candidates on average (2:1 of 200 and 500), and the SLO."""
    scenario = round_scenario(
        **{
            "workload.profile.history": {"log_mean": 8.0, "log_sigma": 0.5, "shortest": 100},
            "workload.surfaces.0.candidates": 200,
            "workload.surfaces.1.candidates": 500,
            "workload.mix": {"A": 2, "B": 1},
        }
    )
    cost = lower_cost(scenario)
    kv = gpu_seconds(cost, int(math.exp(8.0)), 0, 0) + math.exp(8.0) * 2048 / 2e9
    emb, queue = 300 * 8192 / 2e9, 0.030
    expected = np.array([kv, emb, queue]) / (kv + emb + queue)
    found = profiled_weights(scenario, cost)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_given_router_weights_replace_profiled_ones() -> None:
    scenario = round_scenario(**{"router.kv_weight": 0.0, "router.load_weight": 7.0})
    profiled = profiled_weights(scenario, lower_cost(scenario))
    routing = lower(scenario).params.routing
    assert (routing.kv_weight, routing.emb_weight, routing.load_weight) == (0, profiled[1], 7)


def test_histogram_bins_are_in_order_and_narrow() -> None:
    edges = np.array([bin_edge(i) for i in range(N_BINS + 1)])
    assert (np.diff(edges) > 0).all()
    assert (np.diff(edges) / edges[:-1] <= 1 / 64 + 1e-12).all()
    for latency in np.exp(np.random.default_rng(1).uniform(math.log(1e-5), math.log(100), 500)):
        index = latency_bin(latency)
        assert edges[index] <= latency < edges[index + 1]
    assert latency_bin(1e-9) == 0
    assert latency_bin(1e9) == N_BINS - 1


def test_quantiles_of_a_histogram() -> None:
    draws = np.random.default_rng(2).lognormal(-4, 1, 20_000)
    histogram = np.zeros(N_BINS, np.uint32)
    for draw in draws:
        histogram[latency_bin(draw)] += 1
    for q in (0.01, 0.5, 0.9, 0.99, 0.999):
        assert quantile(histogram, q) == pytest.approx(np.quantile(draws, q), rel=0.01)
    assert math.isnan(quantile(np.zeros(N_BINS, np.uint32), 0.5))
