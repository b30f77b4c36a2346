"""The EMB rule without kernels is that of the kernels, and its rungs end at Perfect-LFU."""

from __future__ import annotations

import math

import numpy as np
import pytest
from real_data import trace

from helm_gym.config.quantity import Quantity
from helm_gym.config.scenario import Emb
from helm_gym.fidelity import emb, emb_ladder, emb_rows, emb_streams
from helm_gym.fidelity.emb_rows import Rule
from helm_gym.fidelity.emb_streams import Stream

SIZES = (0.02, 0.1, 0.3, 0.8)
ROWS = 100
KEEP = math.exp(-math.log(2.0) / emb_rows.TICKS)
# A power of two per tick, so that the kernels' rounding to float32 is none
EVEN = 2 * emb_rows.TICKS * 128


def drawn(seed: int) -> Stream:
    row = (ROWS * np.random.default_rng(seed).random(EVEN) ** 3).astype(np.int64)
    return Stream("drawn", row, ROWS, True, "a generator")


def fresh(seed: int, rows: int = ROWS, length: int = EVEN) -> Stream:
    """Skewed, and the second half also asks for rows that the first never did."""
    rng = np.random.default_rng(seed)
    skewed = (rows // 2 * rng.random(length) ** 3).astype(np.int64)
    late = rng.random(length) < np.linspace(-0.5, 0.5, length)
    return Stream("fresh", np.where(late, rows - 1 - skewed, skewed), rows, False, "a generator")


@pytest.mark.parametrize("swaps", [2, 10**6])
@pytest.mark.parametrize("hysteresis", [1.0, 1.25])
@pytest.mark.parametrize("shards", [ROWS, 20])
@pytest.mark.parametrize("stream", [drawn(0), fresh(1)], ids=lambda stream: stream.name)
def test_the_rule_is_the_kernels(
    stream: Stream, shards: int, hysteresis: float, swaps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(emb, "SWAPS", swaps)
    monkeypatch.setattr(emb, "HYSTERESIS", hysteresis)
    order = np.random.default_rng(2).permutation(ROWS)
    rule = Rule(emb_rows.TICKS, KEEP, hysteresis, swaps)
    ours = emb_rows.hit_rates(stream, order, shards, SIZES, rule)
    np.testing.assert_array_equal(ours, emb.hit_rates(stream, order, shards, SIZES))
    assert np.all(np.diff(ours) > 0), "the sizes tell nothing apart"
    other = Rule(emb_rows.TICKS, KEEP, 2.0, 1)
    assert not np.array_equal(ours, emb_rows.hit_rates(stream, order, shards, SIZES, other))


@pytest.mark.parametrize("hysteresis", [1.0, 1.25])
@pytest.mark.parametrize("seed", range(20))
def test_sorting_swaps_what_one_exchange_at_a_time_would(seed: int, hysteresis: float) -> None:
    rng = np.random.default_rng(seed)
    heat = rng.integers(0, 9, 40).astype(np.float64)  # with ties
    inside = rng.random(40) < rng.random()
    one_by_one = inside.copy()
    for _ in range(5):
        if one_by_one.all() or not one_by_one.any():
            break
        hot = np.where(one_by_one, -1.0, heat).argmax()
        cold = np.where(one_by_one, heat, math.inf).argmin()
        if heat[hot] <= hysteresis * heat[cold]:
            break
        one_by_one[[hot, cold]] = True, False
    emb_rows.swap(inside, heat, Rule(1, 1.0, hysteresis, 5))
    assert inside.tolist() == one_by_one.tolist()


def by_sorting_all(stream: Stream, capacity: int, ticks: int) -> float:
    """What :func:`emb_rows.counting_hit_rates` says it does, by looking at all rows."""
    count, last = np.zeros(stream.rows), np.zeros(stream.rows)
    held = np.arange(stream.rows) < capacity
    hits = 0
    for tick, (measured, chunk) in enumerate(emb_rows.chunks(stream.row, stream.half, ticks), 1):
        hits += measured * held[chunk].sum()
        np.add.at(count, chunk, 1)
        last[chunk] = tick
        while True:
            level = list(zip(count, last, strict=True))
            outside, inside = np.flatnonzero(~held), np.flatnonzero(held)
            hot = max(outside, key=lambda r: (level[r], -r))
            cold = min(inside, key=lambda r: (level[r], r))
            if level[hot] <= level[cold]:
                break
            held[[hot, cold]] = True, False
    return float(hits) / (stream.row.size - stream.half)


@pytest.mark.parametrize("ticks", [3, 40])
def test_counts_pick_the_rows_that_a_look_at_all_would_pick(ticks: int) -> None:
    stream = fresh(3, length=1000)
    found = emb_rows.counting_hit_rates(stream, np.arange(ROWS), SIZES, ticks)
    theirs = [by_sorting_all(stream, int(size * ROWS), ticks) for size in SIZES]
    assert found.tolist() == theirs


@pytest.mark.parametrize("seed", range(3))
def test_with_a_tick_per_look_up_the_counts_are_perfect_lfu(seed: int) -> None:
    stream, sizes = fresh(seed, length=3001), SIZES[:3]  # full before they are measured
    order = np.random.default_rng(seed).permutation(ROWS)
    found = emb_rows.counting_hit_rates(stream, order, sizes, stream.row.size - stream.half)
    theirs = [emb_streams.perfect_lfu(stream, int(size * ROWS)) for size in sizes]
    assert found.tolist() == theirs
    assert found.tolist() != emb_rows.counting_hit_rates(stream, order, sizes, 5).tolist()


def test_rungs_take_the_causes_away_one_by_one() -> None:
    """Rows that become hot unseen, scattered over coarse shards: grain first, delay next."""
    stream = fresh(4, rows=8192, length=60_000)
    sizes = (0.05, 0.2)
    lfu = 100 * np.array([emb_streams.perfect_lfu(stream, int(s * stream.rows)) for s in sizes])
    order = emb_streams.learnt_order(stream)
    shipped = 100 * emb.hit_rates(stream, order, emb.SHARDS, sizes)
    rungs = list(emb_ladder.findings(stream, sizes, lfu, shipped, quick=True))
    fine, counting, finer = (rung.value for rung in rungs)
    assert np.abs(shipped - lfu).max() > 2 * fine
    assert counting > 2 * finer
    assert [rung.target for rung in rungs] == [emb_ladder.TARGET] * 3
    assert rungs[2].status == "met" and rungs[2].note.count("5 %:") == 2, "both orders"
    labels = [series["label"] for series in rungs[0].details["plot"]["series"]]
    assert labels[:2] == ["Perfect-LFU of rows", "1,024 shards"] and len(labels) == 5


def test_settings_are_those_that_a_scenario_takes() -> None:
    tried = emb_ladder.settings(rows=10**6)
    assert len(tried) == len(set(tried)) == 96
    most = next(meta.le for meta in Emb.model_fields["shards"].metadata if hasattr(meta, "le"))
    assert max(setting.shards for setting in tried) == most
    for key in emb_ladder.Setting._fields[1:]:
        factory = Emb.model_fields[key].default_factory
        assumed: Quantity = factory()  # type: ignore[call-arg,misc]
        values = {getattr(s, key) for s in tried if s.swaps_per_tick < s.shards}
        assert float(assumed.value) in values
        assert values <= {float(n) for n in (assumed.value, assumed.low, assumed.high)}
    assert {setting.shards for setting in emb_ladder.settings(rows=5000)} == {1024, 4096, 5000}


def test_of_settings_the_closest_is_reported() -> None:
    stream, sizes = fresh(5, rows=2000, length=20_000), (0.1,)
    lfu = 100 * np.array([emb_streams.perfect_lfu(stream, 200)])
    found = emb_ladder._closest(stream, sizes, lfu)
    order = emb_streams.learnt_order(stream)
    gaps = [
        abs(100 * emb_rows.hit_rates(stream, order, s.shards, sizes, s.rule) - lfu).item()
        for s in emb_ladder.settings(stream.rows)
    ]
    assert found.value == min(gaps) < max(gaps)
    assert f"Of {len(gaps)} settings, {sum(gap <= 1 for gap in gaps)} within" in found.note


def test_on_a_real_stream_the_last_rung_is_perfect_lfu() -> None:
    path = trace("amazon_video_games_5core_ts.parquet")
    real, sizes = emb_streams._real("Video Games", path, "", quick=True), emb.QUICK_SIZES
    lfu = 100 * np.array([emb_streams.perfect_lfu(real, int(s * real.rows)) for s in sizes])
    shipped = 100 * emb.hit_rates(real, emb_streams.learnt_order(real), emb.SHARDS, sizes)
    fine, counting, finer = emb_ladder.findings(real, sizes, lfu, shipped, quick=True)
    assert np.abs(shipped - lfu).max() > fine.value > emb_ladder.TARGET
    assert counting.value > emb_ladder.TARGET > 10 * finer.value
