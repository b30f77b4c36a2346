"""The matrix-product form: monotone everywhere, equal to a plain-Python twin, and its fit."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from helm_gym.errors import ConfigError
from helm_gym.hardware.form import Range, errors_of, predict
from helm_gym.hardware.gemm import COEFFICIENTS, SPLITS, TILES, UNITS, Gemm, fit_gemm

COEFFICIENTS_OF_A_GPU = {
    "sms": 108,
    "launch_us": 2.0,
    "tflops": 300.0,
    "tile_half": 80.0,
    "tile_us": 1.4,
    "store_gbps": 2400.0,
    "split_us": 2.4,
    "reduce_gbps": 1900.0,
    "read_gbps": 1450.0,
    "write_gbps": 950.0,
    "overlap": 1.8,
    "throttle": 0.11,
}


def gemm(**changes: Any) -> Gemm:
    return Gemm.parse({**COEFFICIENTS_OF_A_GPU, **changes}, "gemm")


def by_hand(m: int, k: int, n: int) -> float:
    """The docstring's form, one shape and one tile at a time, us."""
    c = COEFFICIENTS_OF_A_GPU
    times = []
    for a, b in TILES:
        for s in SPLITS:
            waves = math.ceil(math.ceil(m / a) * math.ceil(n / b) * s / c["sms"])
            slow = (1 + c["tile_half"] * (1 / a + 1 / b)) / (
                1 + c["tile_half"] * (1 / 256 + 1 / 128)
            )
            step = 2 * a * b / (c["tflops"] * 1e6 / c["sms"]) * slow
            tile = c["tile_us"] + math.ceil(k / (32 * s)) * 32 * step
            tile += 2 * a * b / (c["store_gbps"] * 1e3 / c["sms"])
            split = 0 if s == 1 else c["split_us"] + 4 * s * m * n / (c["reduce_gbps"] * 1e3)
            times.append(waves * tile + split)
    compute = min(times)
    compute *= 1 + c["throttle"] * compute / (compute + 200)
    memory = 2 * (m * k + k * n) / (c["read_gbps"] * 1e3) + 2 * m * n / (c["write_gbps"] * 1e3)
    q = 1 + c["overlap"]
    return float(c["launch_us"] + (compute**q + memory**q) ** (1 / q))


def shapes(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "m": np.exp(rng.uniform(np.log(16), np.log(32768), count)).round(),
        "k": 64.0 * rng.integers(1, 128, count),
        "n": 64.0 * rng.integers(1, 128, count),
    }


@pytest.mark.parametrize(
    "shape", [(1, 512, 2048), (777, 512, 512), (1024, 1024, 4096), (20000, 1024, 1024)]
)
def test_seconds_follow_the_documented_form(shape: tuple[int, int, int]) -> None:
    assert gemm().seconds(*shape) == pytest.approx(by_hand(*shape) * 1e-6, rel=1e-12)


def test_arguments_broadcast() -> None:
    m = np.array([1.0, 100.0, 10_000.0])
    grid = gemm().seconds(m[:, None], 512, np.array([512, 2048]))
    assert grid.shape == (3, 2)
    assert grid[1, 1] == gemm().seconds(100, 512, 2048)


def test_time_grows_with_every_dimension_far_outside_the_data() -> None:
    sizes = np.unique(np.round(np.geomspace(1, 1e6, 400)))
    for fixed in (1.0, 50.0, 512.0, 1000.0, 1e5):
        for axis in range(3):
            arguments = [np.full(sizes.size, fixed) for _ in range(3)]
            arguments[axis] = sizes
            assert np.all(np.diff(gemm().seconds(*arguments)) >= 0), (fixed, axis)


def test_neighbouring_sizes_never_get_faster() -> None:
    m = np.arange(1.0, 4200.0)
    assert np.all(np.diff(gemm().seconds(m, 512, 2048)) >= 0)
    assert np.all(np.diff(gemm().seconds(1024, m, 512)) >= 0)


def test_a_wave_more_costs_a_step() -> None:
    """10 x 8 tiles of 256 x 128 fit 108 multiprocessors; 14 x 8 need a second wave."""
    one, two = gemm().seconds(256 * np.array([10, 14]), 8192, 1024)
    assert two > 1.3 * one


def test_large_products_approach_the_stated_rate() -> None:
    size = 16384
    rate = 2 * size**3 / gemm(throttle=1e-9).seconds(size, size, size) / 1e12
    assert 0.97 * 300 < rate < 300
    slowed = 2 * size**3 / gemm().seconds(size, size, size) / 1e12
    assert slowed == pytest.approx(rate / 1.11, rel=0.01)


def test_it_says_when_it_extrapolates() -> None:
    ranges = {"m": Range(low=16, high=1000), "k": Range(low=128, high=512)}
    form = gemm(ranges=ranges)
    outside = form.outside([16, 15, 1000, 1001, 500], [128, 128, 512, 512, 513], 7)
    assert outside.tolist() == [False, True, False, True, True]


def test_ranges_of_other_dimensions_and_the_wrong_way_round_are_refused() -> None:
    with pytest.raises(ConfigError, match="seq_len"):
        gemm(ranges={"seq_len": {"low": 1, "high": 2}})
    with pytest.raises(ConfigError, match="low 3 is above high 2"):
        gemm(ranges={"m": {"low": 3, "high": 2}})
    with pytest.raises(ConfigError, match="greater than 0"):
        gemm(tile_us=0)


def test_the_fit_finds_the_times_of_a_known_gpu_through_noise() -> None:
    noise = np.random.default_rng(1).normal(0, 0.05, 600)
    table = shapes(600)
    table["seconds"] = predict(gemm(), table) * np.exp(noise)
    found = fit_gemm(table, 108)
    fresh = shapes(400, seed=2)
    fresh["seconds"] = predict(gemm(), fresh)
    errors = errors_of(found, fresh)
    assert errors.mape < 0.03  # noise of 5 % on 600 shapes, averaged out
    assert abs(errors.bias) < 0.02
    assert found.ranges["m"].low == table["m"].min()


def test_the_fit_finds_a_slow_machine_too() -> None:
    """Starting values come from the data: a machine a thousand times slower is no harder."""
    slow = gemm(sms=8, tflops=0.3, store_gbps=20, reduce_gbps=15, read_gbps=12, write_gbps=8)
    table = shapes(300, seed=3)
    table["seconds"] = predict(slow, table)
    assert errors_of(fit_gemm(table, 8), table).mape < 0.05


def test_every_coefficient_has_a_unit() -> None:
    assert set(UNITS) == set(COEFFICIENTS)
