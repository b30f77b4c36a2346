"""Attention and HSTU forms: against the heuristics they copy, their own limits and real kernels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from real_data import BESIDE
from scipy.stats import qmc

from helm_gym.fidelity import kernels
from helm_gym.fidelity.finding import Effort, Finding, Skipped
from helm_gym.hardware.attention import (
    FULL,
    NEVER,
    Incremental,
    Prefill,
    fit_incremental,
    fit_prefill,
    key_splits,
)
from helm_gym.hardware.form import MEASURED, Range, errors_of
from helm_gym.hardware.hstu_block import (
    A100,
    L20,
    HstuBlock,
    fit_hstu_block,
    hstu_factor,
    scaled,
)

# About what the fits to A100 (and L20) kernels give.
PREFILL = Prefill.parse(
    {
        **{"sms": 108, "launch_us": 12, "tflops": 215, "step_us": 2.6, "tail": 0.6},
        **{"query_gbps": 2300, "kv_gbps": 720, "split_below": 0.8, "split_us": 6.6},
        **{"split_gbps": 540},
        "ranges": {
            "batch": {"low": 1, "high": 64},
            "seq_len": {"low": 64, "high": 16384},
            "n_heads": {"low": 1, "high": 32},
        },
    },
    "prefill",
)
INCREMENTAL = Incremental.parse(
    {
        **{"sms": 108, "launch_us": 5.3, "rows_us": 7.4, "own_ns": 10.5, "tflops": 170},
        **{"step_us": 1.27, "crowd_us": 0.46, "split_us": 0.18},
        "ranges": {
            "n_heads": {"low": 4, "high": 16},
            "n_new": {"low": 96, "high": 4032},
            "n_cached": {"low": 0, "high": 3968},
        },
    },
    "incremental",
)
BLOCK = HstuBlock.parse(
    {
        **{"layers": 8, "width": 1024, "heads": 4, "sms": 92, "launch_us": 177},
        **{"gemm_tflops": 80, "attention_tflops": 94, "step_us": 3.95},
    },
    "block",
)


def splits_by_hand(tiles: int, steps: int, sms: int) -> int:
    """FlashAttention-2's num_splits_heuristic, line by line."""
    if tiles >= 0.8 * sms:
        return 1
    efficiency: dict[int, float] = {}
    for parts in range(1, min(128, sms, steps) + 1):
        if parts > 1 and -(-steps // parts) == -(-steps // (parts - 1)):
            continue
        waves = tiles * parts / sms
        efficiency[parts] = waves / np.ceil(waves)
    best = max(efficiency.values())
    return min(parts for parts, value in efficiency.items() if value >= 0.85 * best)


def test_splits_are_those_of_flash_attention() -> None:
    for tiles in (1, 4, 16, 32, 40, 64, 72, 86, 87, 128, 500):
        for steps in (1, 2, 5, 7, 8, 13, 32, 61, 128):
            got = int(key_splits(tiles, steps, 108))
            assert got == splits_by_hand(tiles, steps, 108), (tiles, steps)


def test_a_long_prefill_runs_at_the_rate_and_one_tile_at_its_path() -> None:
    shape = (64, 65536, 32, 32)
    flops = 2 * 64 * 32 * 128 * 65536**2
    assert PREFILL.seconds(*shape) == pytest.approx(flops / 215e12, rel=0.03)
    one = PREFILL.seconds(1, 128, 1, 1)  # two steps of 64 keys
    keys = 2 * 2 * 128 * 128 / 720e9
    assert one == pytest.approx(12e-6 + 2 * 2.6e-6 + keys, rel=1e-9)


def test_cached_tokens_cost_their_flops_on_a_full_gpu() -> None:
    more = INCREMENTAL.lines(4032, 16)[1]
    crowd = 16 * 4032 / 64 / 108  # row tiles per multiprocessor
    walk = (1.27e-6 + 0.46e-6 * crowd) / 128
    assert more == pytest.approx(4 * 128 * 16 * 4032 / 170e12 + walk, rel=1e-9)


def test_the_block_walks_all_keys_when_few_tokens_are_new() -> None:
    one = BLOCK.attention_seconds(8192 - 128, 128, 0)
    assert one == pytest.approx(8192 / 64 * 3.95e-6, rel=1e-9)


def never_falls(times: np.ndarray) -> bool:
    return bool(np.all(np.diff(times, axis=0) >= -1e-12))


OUTSIDE_PREFILL: dict[str, tuple[int, np.ndarray]] = {
    "batch": (0, np.arange(64, 200)),
    "seq_len": (1, np.arange(16384, 40000, 61)),
    "n_heads": (2, np.arange(32, 100)),
}


@pytest.mark.parametrize("name", OUTSIDE_PREFILL)
def test_prefill_never_falls_outside_its_range(name: str) -> None:
    """Every dimension from its upper edge on, the others at points all over their ranges."""
    axis, values = OUTSIDE_PREFILL[name]
    others = qmc.scale(qmc.Halton(3, seed=1).random(64), [1, 64, 1], [64, 16384, 32]).round()
    columns = [np.broadcast_to(others[:, i], (values.size, 64)) for i in range(3)]
    columns[axis] = np.broadcast_to(values[:, None], (values.size, 64))
    times = PREFILL.seconds(columns[0], columns[1], columns[2], columns[2])
    assert never_falls(times)
    assert PREFILL.outside(columns[0], columns[1], columns[2], columns[2], 128)[1:].all()


OUTSIDE_INCREMENTAL: dict[str, tuple[int, np.ndarray]] = {
    "n_heads": (0, np.arange(16, 80)),
    "n_new": (1, np.arange(4032, 12000, 13)),
    "n_new below": (1, np.arange(1, 97)),
    "n_cached": (2, np.arange(3968, 40000, 17)),
}


@pytest.mark.parametrize("name", OUTSIDE_INCREMENTAL)
def test_incremental_never_falls_outside_its_range(name: str) -> None:
    axis, values = OUTSIDE_INCREMENTAL[name]
    others = qmc.scale(qmc.Halton(3, seed=2).random(64), [4, 96, 0], [16, 4032, 3968]).round()
    columns = [np.broadcast_to(others[:, i], (values.size, 64)) for i in range(3)]
    columns[axis] = np.broadcast_to(values[:, None], (values.size, 64))
    heads, new, cached = columns
    times = INCREMENTAL.seconds(heads, heads, 128, new, cached)
    assert never_falls(times)
    assert np.all(times > 0)


def test_lines_never_fall_anywhere() -> None:
    new, heads = np.arange(1, 9000)[:, None], np.array([1, 2, 4, 8, 16, 32])
    fixed, per_key = INCREMENTAL.lines(new, heads)
    for part in (fixed, per_key):
        assert never_falls(part), "in new tokens"
        assert never_falls(part.T), "in heads"


def test_lines_run_through_the_jumps() -> None:
    new, cached = np.arange(96, 1200, 16)[:, None], np.arange(0, 3968, 16)
    fixed, per_key = INCREMENTAL.lines(new, 8)
    exact = INCREMENTAL.seconds(8, 8, 128, new, cached)
    ratio = (fixed + per_key * cached) / exact
    assert abs(ratio.mean() - 1) < 0.02
    assert np.abs(ratio - 1).max() < 0.35


def test_candidates_that_see_only_themselves_are_cheaper_than_new_tokens() -> None:
    all_keys, few = (INCREMENTAL.lines(1024, 8, own_keys=own) for own in (None, 64))
    assert few[1] == all_keys[1]
    assert few[0] < all_keys[0] - 900 * all_keys[1]


def test_the_block_never_falls() -> None:
    cached = np.arange(0, 20000, 37)[:, None]
    new = np.array([1, 100, 128, 300, 1024, 5000])
    for candidates in (0, 256, 1000, 4096):
        assert never_falls(BLOCK.seconds(1, cached + new, cached, new, candidates))
        by_new = BLOCK.seconds(1, 0, new[:, None], cached.T + 1, candidates)
        assert never_falls(by_new.T)
    for batch in (1, 8):
        many = BLOCK.seconds(batch, 4096, 2048, 2048, np.arange(0, 5000, 7))
        assert never_falls(many)


def test_a_form_says_when_it_extrapolates() -> None:
    assert not INCREMENTAL.outside(8, 8, 128, 256, 1024)
    assert INCREMENTAL.outside(8, 8, 128, 256, [3968, 3969]).tolist() == [False, True]
    assert PREFILL.outside(1, [32, 64], 8, 8, 128).tolist() == [True, False]


def prefill_table(form: Prefill) -> dict[str, np.ndarray]:
    grid = np.meshgrid([1, 4, 16], [64, 128, 256, 512, 1024, 2048, 4096, 8192], [2, 4, 8, 16])
    batch, seq, heads = (axis.ravel().astype(float) for axis in grid)
    columns = (batch, seq, heads, heads, np.full(batch.size, 128.0))
    table = dict(zip(Prefill.dimensions, columns, strict=True))
    return {**table, MEASURED: form.seconds(*columns)}


@pytest.mark.parametrize("below", [FULL, NEVER])
def test_prefill_fit_gives_its_coefficients_back(below: float) -> None:
    """And finds out by itself whether the engine splits keys."""
    truth = PREFILL.model_copy(
        update={"split_below": PREFILL.split_below.model_copy(update={"value": below})}
    )
    table = prefill_table(truth)
    noise = np.random.default_rng(0).normal(0, 0.01, table[MEASURED].size)
    fitted = fit_prefill({**table, MEASURED: table[MEASURED] * np.exp(noise)})
    assert fitted.split_below.value == below
    for name in ("launch_us", "tflops", "step_us"):
        assert getattr(fitted, name).value == pytest.approx(getattr(truth, name).value, rel=0.05)
    assert errors_of(fitted, table).mape < 0.01
    assert fitted.ranges["seq_len"] == Range(low=64, high=8192)


def test_incremental_fit_gives_its_coefficients_back() -> None:
    grid = np.meshgrid([4, 8, 16], [64, 112, 256, 512, 1024, 3000], np.arange(0, 4096, 256))
    heads, new, cached = (axis.ravel().astype(float) for axis in grid)
    columns = (heads, heads, np.full(heads.size, 128.0), new, cached)
    everywhere = INCREMENTAL.model_copy(update={"ranges": {}})
    table = dict(zip(Incremental.dimensions, columns, strict=True))
    table[MEASURED] = everywhere.seconds(*columns)
    fitted = fit_incremental(table)
    for name in ("launch_us", "rows_us", "own_ns", "tflops", "step_us", "crowd_us", "split_us"):
        value = getattr(INCREMENTAL, name).value
        assert getattr(fitted, name).value == pytest.approx(value, rel=1e-3)


def test_another_gpu_keeps_the_shares_of_its_peak_rates() -> None:
    there = scaled(BLOCK)
    assert there.gemm_tflops.value / A100.tflops == pytest.approx(80 / L20.tflops)
    each = (312 / 108) / (119.5 / 92)
    assert there.step_us.value == pytest.approx(3.95 / each)
    assert "assumed" in there.step_us.source
    factor = hstu_factor(there, PREFILL, INCREMENTAL)
    assert factor.miss.shape == (5,)
    assert factor.hit.shape == (4, 5)
    assert 0 < factor.low < factor.high
    # A kernel that does not split its keys falls behind one that does as the cache grows.
    assert np.all(np.diff(factor.hit[0]) > 0)


# -- real kernels --------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def real_findings() -> list[Finding | Skipped]:
    import os

    folder = Path(os.environ.get("HELM_GYM_DATA", BESIDE))
    if not (folder / "calibration").is_dir():
        pytest.skip("no calibration/ here; set HELM_GYM_DATA to the folder that holds it")
    return list(kernels.checks(Effort(data=folder, quick=True)))


PARTS = [room.part for room in kernels.ROOMS]


@pytest.mark.parametrize("part", PARTS)
def test_held_out_kernels_meet_the_target(
    real_findings: list[Finding | Skipped], part: str
) -> None:
    aimed = [f for f in real_findings if isinstance(f, Finding) and f.part == part and f.target]
    assert aimed
    assert [f"{f.compared}: {f.value:.1f} %" for f in aimed if f.status == "missed"] == []


def test_bands_left_out_stay_useful(real_findings: list[Finding | Skipped]) -> None:
    bands = [f for f in real_findings if isinstance(f, Finding) and "left out of" in f.compared]
    assert {f.part for f in bands} == set(PARTS)
    assert [f"{f.part}, {f.compared}: {f.value:.1f}" for f in bands if f.value > 20] == []


def test_without_data_everything_is_skipped() -> None:
    found: list[Any] = list(kernels.checks(Effort(data=None)))
    assert all(isinstance(f, Skipped) for f in found)
    assert {f.part for f in found} >= set(PARTS)


def test_block_fit_gives_its_coefficients_back() -> None:
    grid = np.meshgrid([1, 8], [0, 128, 512, 2048, 8192], [128, 512, 2048])
    batch, cached, new = (axis.ravel().astype(float) for axis in grid)
    columns = (batch, cached + new, cached, new, np.full(batch.size, 256.0))
    table = dict(zip(HstuBlock.dimensions, columns, strict=True))
    table[MEASURED] = BLOCK.seconds(*columns)
    fitted = fit_hstu_block(table)
    for name in ("launch_us", "gemm_tflops", "attention_tflops", "step_us"):
        value = getattr(BLOCK, name).value
        assert getattr(fitted, name).value == pytest.approx(value, rel=1e-3)
