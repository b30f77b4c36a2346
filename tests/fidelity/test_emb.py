"""The EMB comparison: its exact caches are exact, and it sees a model that is wrong."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from real_data import trace

from helm_gym.fidelity import emb, emb_streams
from helm_gym.fidelity.emb_streams import Stream
from helm_gym.fidelity.finding import Effort, Finding, Skipped
from helm_gym.sim.layout import State
from helm_gym.sim.params import Cache

NO_DATA = Effort(None, quick=True)


def stream(seed: int = 0, rows: int = 60, length: int = 4000) -> Stream:
    """Skewed and drifting, so that no policy is like another."""
    rng = np.random.default_rng(seed)
    row = (rows * rng.random(length) ** 2 + np.arange(length) / 300).astype(np.int64) % rows
    return Stream("test", row, rows, False, "a generator")


def exact(stream: Stream, capacity: int, policy: str) -> float:
    """LRU, or Perfect-LFU, by looking at every row for every request."""
    held: OrderedDict[int, None] = OrderedDict()
    count = dict.fromkeys(range(stream.rows), 0)
    last = dict(count)
    hits = 0
    for time, row in enumerate(stream.row.tolist()):
        count[row] += 1
        last[row] = time
        if row in held:
            hits += time >= stream.half
            held.move_to_end(row)
            continue
        if len(held) == capacity:
            coldest = min(held, key=lambda r: (count[r], last[r]))
            if policy == "LRU":
                held.popitem(last=False)
            elif count[row] >= count[coldest]:
                del held[coldest]
            else:
                continue
        held[row] = None
    return hits / (stream.row.size - stream.half)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("capacity", [1, 7, 30])
def test_perfect_lfu_holds_the_rows_with_the_highest_counts(seed: int, capacity: int) -> None:
    found = emb_streams.perfect_lfu(stream(seed), capacity)
    assert found == exact(stream(seed), capacity, "Perfect-LFU")
    assert found != exact(stream(seed), capacity, "LRU"), "the stream tells no policy apart"


def test_libcachesims_lru_is_warm_when_it_is_measured() -> None:
    pytest.importorskip("libcachesim", exc_type=ImportError)
    capacities = [1, 7, 30, 60]
    found = emb_streams.hit_rates(stream(), "LRU", capacities)
    assert found == pytest.approx([exact(stream(), n, "LRU") for n in capacities], abs=1e-9)
    assert found[-1] == 1.0, "every row was seen in the first half and fits"


def test_orders_of_the_table() -> None:
    row = np.array([3, 3, 1, 1, 1, 0, 2, 2, 2, 2, 2, 2])
    given = Stream("test", row, 5, False, "")
    assert emb_streams.hindsight_order(given).tolist() == [2, 1, 3, 0, 4]
    learnt = emb_streams.learnt_order(given).tolist()
    assert learnt[:3] == [1, 3, 0], "by the first half"
    assert sorted(learnt[3:]) == [2, 4], "what was not asked for comes last"


def test_with_a_row_per_shard_the_model_is_an_lfu_of_rows() -> None:
    """No granularity, no drift and counts that are right: what is left is chance."""
    drawn = emb_streams.generated("taobao", NO_DATA)
    few = Stream("test", drawn.row[drawn.row < 500], 500, True, "")
    sizes = (0.05, 0.2, 0.6)
    ours = emb.hit_rates(few, emb_streams.law_order(few), 500, sizes)
    theirs = [emb_streams.perfect_lfu(few, int(500 * size)) for size in sizes]
    np.testing.assert_allclose(ours, theirs, atol=0.01)
    wrong = emb.hit_rates(few, emb_streams.law_order(few)[::-1], 10, (0.08,))[0]
    assert wrong == 0.0, "a cache smaller than a shard holds nothing"


def test_swaps_correct_a_table_in_the_wrong_order() -> None:
    drawn = emb_streams.generated("taobao", NO_DATA)
    few = Stream("test", drawn.row[drawn.row < 200], 200, True, "")
    right, wrong = (
        emb.hit_rates(few, order, 200, (0.2,))[0]
        for order in (emb_streams.law_order(few), emb_streams.law_order(few)[::-1])
    )
    assert wrong == pytest.approx(right, abs=0.02)


def test_laws_scaled_down_keep_their_masses() -> None:
    drawn = emb_streams.generated("taobao", NO_DATA)
    law = emb_streams.load_preset(emb_streams.Profile, "taobao", emb_streams.PROFILES, "profile")
    whole = int(law.popularity.catalogue_items.value)
    shift, exponent = law.popularity.shift_items.value, law.popularity.exponent.value
    mass = (np.arange(1.0, whole + 1.0) + shift) ** -exponent
    cumulative = np.cumsum(mass / mass.sum())
    for part in (0.01, 0.1, 0.5):
        found = (drawn.row < part * drawn.rows).mean()
        assert found == pytest.approx(cumulative[int(part * whole) - 1], abs=0.003)


def test_rounding_to_pages_is_priced() -> None:
    even = Stream("test", np.tile(np.arange(100), 2), 100, True, "")  # each row once per half
    assert "up to 9.0 points" in emb._rounding(even, emb_streams.law_order(even), 10)
    assert "less than a point" in emb._rounding(even, emb_streams.law_order(even), 100)


def test_without_data_the_laws_of_profiles_are_compared() -> None:
    pytest.importorskip("libcachesim", exc_type=ImportError)
    rows = list(emb.checks(NO_DATA))
    skipped = [row for row in rows if isinstance(row, Skipped)]
    found = [row for row in rows if isinstance(row, Finding)]
    assert len(skipped) == len(emb_streams.REAL)
    heat = [row for row in found if row.target is not None]
    assert len(heat) == len(emb_streams.PROFILE_NAMES)
    assert [row.status for row in heat] == ["met"] * len(heat), heat
    assert all(row.value > 0 for row in heat), "an exact zero would be no comparison"


def test_independent_look_ups_with_a_real_popularity_are_met_and_real_order_is_stated() -> None:
    pytest.importorskip("libcachesim", exc_type=ImportError)
    data = trace("amazon_video_games_5core_ts.parquet").parents[1]
    effort = Effort(data, quick=True)
    path = data / emb_streams.REAL[1][1]
    real = emb_streams._real("Video Games", path, "", quick=True)
    drawn = emb.measure(emb_streams.reshuffled(real, effort), emb.QUICK_SIZES)
    assert all(finding.status == "met" for finding in emb._heat_findings(drawn))
    findings = list(emb._heat_findings(emb.measure(real, emb.QUICK_SIZES)))
    assert len(findings) == 2, "the order of the first half, and of all"
    learnt, hindsight = findings
    assert "-" in learnt.note and "+" in hindsight.note
    assert {"label", "x", "y"} <= learnt.details["plot"]["series"][0].keys()


def test_without_libcachesim_the_comparison_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emb_streams, "installed", lambda: False)
    (row,) = emb.checks(Effort(Path("."), quick=True))
    assert isinstance(row, Skipped) and "pip install" in row.reason


def test_pages_that_are_swapped_in_are_refilled(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    row = np.concatenate([rng.integers(0, 30, 2000), rng.integers(30, 60, 2000)])
    turned = Stream("test", row, 60, False, "a generator")
    (rate,) = emb.hit_rates(turned, np.arange(60), 60, [0.5])

    def paused(cache: Cache) -> State:
        state = empty(cache)
        state.stages.pace[:] = 0.0
        return state

    empty = emb._empty
    monkeypatch.setattr(emb, "_empty", paused)
    assert rate > emb.hit_rates(turned, np.arange(60), 60, [0.5])[0] + 0.03
