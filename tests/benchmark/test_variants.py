"""Variants of the suite's drift: nearer ends, the hour table, a table that fits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from helm_gym.benchmark import variants as room
from helm_gym.benchmark.variants import ENDS, Variant, all_jobs, by_share, make_all, peak
from helm_gym.benchmark.variants import scenario_of as of
from helm_gym.suites import moving
from helm_gym.suites.courses import FEED_PARTS


def capacities() -> dict[float, float]:
    return {feed: max(by_share(feed, None).values()) for feed in FEED_PARTS}


def test_a_peak_lies_between_the_shares_that_were_measured() -> None:
    def curve(top: float) -> dict[float, float]:
        return {x / 10: 100.0 - 50.0 * (x / 10 - top) ** 2 for x in range(1, 10)}

    assert peak(curve(0.43)) == pytest.approx(0.43)
    assert peak(curve(0.02)) == 0.1, "beyond the range it is its end"
    assert peak({0.1: 1.0, 0.2: 1.0, 0.3: 1.0}) == 0.1


def test_the_distance_that_helm_reports_is_among_the_points() -> None:
    tops = {feed: peak(by_share(feed, None)) for feed in FEED_PARTS}
    distances = [abs(tops[a] - tops[b]) for a, b in ENDS]
    assert min(abs(d - 0.35) for d in distances) < 0.01 and min(distances) < 0.11


def test_variants_are_courses_at_their_own_capacities() -> None:
    near: Any = of("ends", (0.7, 0.5), capacities()).workload.regime
    assert [stretch.mix["feed"] for stretch in near.stretches] == [0.7, 0.5]
    hours: Any = of("hours", ENDS[0], capacities()).workload.regime
    loads = [stretch.load for stretch in hours.stretches]
    assert max(loads) == 1.0 and min(loads) < 0.9
    fits = of("fits", ENDS[0], capacities())
    assert fits.emb.table_gb.value < fits.memory.pool_gb.value
    whole: Any = of("ends", ENDS[0], capacities()).workload.regime
    suite: Any = moving.cell(room.DATASET, "trend", load=1.05).workload.regime
    for ours, theirs in zip(whole.stretches, suite.stretches, strict=True):
        assert (ours.mix, ours.ramp_s, ours.load) == (theirs.mix, theirs.ramp_s, theirs.load)
        assert ours.capacity_rps_per_node.value == theirs.capacity_rps_per_node.value


def test_a_variant_is_made_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = []

    def make(job: room.Job) -> Variant:
        made.append(job)
        return Variant(kind=job[0], label=job[1], distance=0.3, static_share=0.5, static_ms=40.0,
                       schedule_ms=30.0, low=0.3, high=0.6)  # fmt: skip

    monkeypatch.setattr(room, "make", make)
    found = make_all(tmp_path)
    assert make_all(tmp_path) == found and len(made) == len(all_jobs()) == 8
    assert found[0].headroom == pytest.approx(4.0 / 3.0)
