"""Service times: the lowered coefficients against numbers worked out by hand, and their signs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from small import small_scenario

from helm_gym.config import Scenario
from helm_gym.sim.layout import N_BINS
from helm_gym.sim.lowering import lower, lower_cost, profiled_weights
from helm_gym.sim.params import Cost
from helm_gym.sim.stages import bin_edge, gpu_seconds, latency_bin, link_seconds, quantile

# docs/model.md section 5 with numbers that give round results: two layers of width 1,000, and
# rates at which a layer's d² is a millionth of a second.
ROUND: dict[str, Any] = {
    "hardware.gpu": {
        "name": "round",
        "memory_gb": 80,
        "gemm": {"launch_us": 3, "tflops": 10, "gbps": 1000},
        "prefill": {"launch_us": 7, "tflops": 2, "per_key_ns": 20, "gbps": 100},
        "incremental": {"launch_us": 11, "cross_tflops": 4, "self_tflops": 1, "per_query_ns": 30},
        "hstu_factor": 1.5,
    },
    "hardware.host": {
        "name": "round",
        "latency_us": 50,
        "miss_gbps": 2,
        "bulk_gbps": 10,
        "keys_per_s": 1e9,
    },
    "hardware.model": {"name": "round", "layers": 2, "width": 1000, "max_history": 8192},
    "emb.bytes_per_key": 100,
    "emb.table_gb": 4.8,
    "emb.shards": 48,
}


def round_scenario(**changes: Any) -> Scenario:
    return small_scenario(**{**ROUND, **changes})


@pytest.fixture
def cost() -> Cost:
    return lower_cost(round_scenario())


BY_HAND = {
    # 2 layers x (2 launches of 3 us + 10 x 1e6 bytes at 1e12 B/s)
    "gemm_fixed": 2 * (6e-6 + 10e-6),
    # 2 x (1e7 FLOP at 1e13 FLOP/s + 14,000 bytes at 1e12 B/s)
    "gemm_token": 2 * (1e-6 + 14e-9),
    # attention: 2 layers x hstu_factor 1.5 = 3
    "prefill_fixed": 3 * 7e-6,
    "prefill_square": 3 * 2000 / 2e12,
    "prefill_token": 3 * (20e-9 + 8000 / 1e11),
    "query_fixed": 3 * 11e-6,
    "query_token": 3 * 30e-9,
    "cross": 3 * 4000 / 4e12,
    "self_square": 3 * 2000 / 1e12,
    "link_latency": 50e-6,
    "link_byte": 1 / 2e9,
    # a shard is 1e8 bytes: 50 us + 10 ms at 10 GB/s
    "refill_rate": 1e8 / 10.05e-3,
}


@pytest.mark.parametrize("name", Cost._fields)
def test_coefficient_is_the_one_worked_out_by_hand(cost: Cost, name: str) -> None:
    assert getattr(cost, name) == pytest.approx(BY_HAND[name], rel=1e-12)


def test_slow_key_look_ups_bound_the_link() -> None:
    host = {**ROUND["hardware.host"], "keys_per_s": 5e6}
    cost = lower_cost(round_scenario(**{"hardware.host": host}))
    assert cost.link_byte == pytest.approx(1 / (5e6 * 100)), "5 M keys/s of 100 bytes"


def test_gpu_time_of_a_miss(cost: Cost) -> None:
    """1,000 history tokens and 100 candidates, nothing cached."""
    gemm = 32e-6 + 2.028e-6 * 1100
    prefill = 21e-6 + 3e-9 * 1000**2 + 300e-9 * 1000
    candidates = 3e-9 * 100 * 1000 + 90e-9 * 100
    assert gpu_seconds(cost, 1000, 0, 100) == pytest.approx(gemm + prefill + candidates)


def test_gpu_time_of_a_hit(cost: Cost) -> None:
    """10 new tokens and 100 candidates on 990 cached tokens."""
    gemm = 32e-6 + 2.028e-6 * 110
    attend = 33e-6 + 3e-9 * 110 * 990 + 90e-9 * 110
    among_new = 3e-9 * 100 * 10 + 6e-9 * 10**2
    assert gpu_seconds(cost, 10, 990, 100) == pytest.approx(gemm + attend + among_new)


def test_a_hit_is_cheaper_than_a_miss_on_shipped_hardware() -> None:
    for model in ("hstu-5x512", "hstu-8x1024"):
        cost = lower_cost(small_scenario(**{"hardware.model": model}))
        for history in (1000, 4000, 16000):
            for candidates in (64, 512, 4096):
                hit = gpu_seconds(cost, 2, history - 2, candidates)
                assert hit < gpu_seconds(cost, history, 0, candidates)


def test_gpu_time_grows_with_every_argument() -> None:
    cost = lower_cost(small_scenario())
    rng = np.random.default_rng(0)
    for _ in range(200):
        new, cached = rng.uniform(0, 100), rng.uniform(1, 16000)
        history, candidates = rng.uniform(1, 16000), rng.uniform(1, 4096)
        hit = gpu_seconds(cost, new, cached, candidates)
        assert hit < gpu_seconds(cost, new + 1, cached, candidates)
        assert hit < gpu_seconds(cost, new, cached + 1, candidates)
        assert hit < gpu_seconds(cost, new, cached, candidates + 1)
        miss = gpu_seconds(cost, history, 0, candidates)
        assert miss < gpu_seconds(cost, history + 1, 0, candidates)
        assert miss < gpu_seconds(cost, history, 0, candidates + 1)


SLOWER = [
    ("hardware.model.layers", 2.0),
    ("hardware.model.width", 2.0),
    ("hardware.gpu.gemm.launch_us", 2.0),
    ("hardware.gpu.gemm.tflops", 0.5),
    ("hardware.gpu.gemm.gbps", 0.5),
    ("hardware.gpu.incremental.cross_tflops", 0.5),
    ("hardware.gpu.incremental.per_query_ns", 2.0),
    ("hardware.gpu.hstu_factor", 1.2),
]
SLOWER_MISS = [
    ("hardware.gpu.prefill.launch_us", 2.0),
    ("hardware.gpu.prefill.tflops", 0.5),
    ("hardware.gpu.prefill.per_key_ns", 2.0),
    ("hardware.gpu.prefill.gbps", 0.5),
]
SLOWER_HIT = [
    ("hardware.gpu.incremental.launch_us", 2.0),
    ("hardware.gpu.incremental.self_tflops", 0.5),
]


def scaled(path: str, factor: float) -> Cost:
    scenario: Any = small_scenario()
    value = scenario
    for part in path.split("."):
        value = getattr(value, part)
    return lower_cost(scenario.replace({path: value.value * factor}))


@pytest.mark.parametrize(("path", "factor"), SLOWER + SLOWER_MISS + SLOWER_HIT)
def test_slower_hardware_never_helps(path: str, factor: float) -> None:
    base, slow = lower_cost(small_scenario()), scaled(path, factor)
    hit = [gpu_seconds(cost, 2, 5000, 512) for cost in (base, slow)]
    miss = [gpu_seconds(cost, 5000, 0, 512) for cost in (base, slow)]
    assert (hit[1] > hit[0]) == ((path, factor) not in SLOWER_MISS)
    assert (miss[1] > miss[0]) == ((path, factor) not in SLOWER_HIT)


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
    """KV: 2 layers x 1,000 x 2 x 2 bytes a token, 64 tokens a block."""
    scenario = round_scenario(**{"memory.pool_gb": 1.0, "episode.share_min": 0.0})
    cache = lower(scenario).params.cache
    assert cache.block_bytes == 64 * 8000
    assert cache.shard_bytes == 1e8
    assert cache.pool_bytes == 1e9
    assert scenario.hardware.model.kv_bytes_per_token == 8000


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
    h = math.exp(8.0)
    kv = 3e-9 * h**2 + (300e-9 + 2.028e-6 + 2048 / 2e9) * h
    emb, queue = 300 * 8192 / 2e9, 0.030
    expected = np.array([kv, emb, queue]) / (kv + emb + queue)
    found = profiled_weights(scenario, lower_cost(scenario))
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
