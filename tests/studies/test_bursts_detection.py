"""False-alarm and delay curves of burst detectors, on streams made by hand and a short study."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helm_gym.envs.recovery_config import RecoveryConfig
from helm_gym.envs.recovery_machine import N_SIGNALS, Signal
from helm_gym.studies.bursts import detection as room
from helm_gym.studies.bursts import effect
from helm_gym.studies.bursts import page as report
from helm_gym.studies.bursts import streams as recorded
from helm_gym.suites.seeds import TUNING_SEEDS


def stream(kind: str, bursts: tuple[tuple[float, float], ...], high: list[int]) -> recorded.Stream:
    signals = np.tile([0.5, 1.0, 0.0, 0.0, 0.5], (100, 1, 1)).reshape(100, 1, N_SIGNALS)
    rng = np.random.default_rng(0)
    signals[:, :, Signal.RATE] = np.exp(rng.normal(0.0, 0.01, (100, 1)))
    signals[high, :, Signal.GPU_DELAY] = 1.0
    return recorded.Stream("made", kind, 0.7, 5.0, signals, 5.0 * np.arange(1, 101), bursts)


def queue_only(threshold: float = 0.1) -> RecoveryConfig:
    return RecoveryConfig.parse(
        {"p99_sigmas": None, "rate_sigmas": None, "queue_sum": threshold}, "test"
    )


def test_delays_count_from_the_burst_to_the_end_of_the_window() -> None:
    found = room.score(
        stream("burst", ((203.0, 230.0), (400.0, 415.0)), [41, 42]), "x", 1.0, queue_only()
    )
    assert (found.bursts, found.detected, found.false_alarms) == (2, 1, 0)
    assert found.found_delay_s == pytest.approx(210.0 - 203.0)
    assert found.delay_s == pytest.approx((7.0 + 15.0) / 2.0)  # a missed one: its length


def test_alarms_outside_bursts_are_false() -> None:
    found = room.score(stream("steady", (), [41, 42, 80]), "x", 1.0, queue_only())
    assert found.false_alarms == 2
    assert found.false_per_hour == pytest.approx(2 / (500 / 3600))
    assert room.score(stream("steady", (), [41]), "x", 1.0, queue_only(50.0)).false_alarms == 0


def test_the_lowest_quiet_threshold_is_chosen() -> None:
    def made(threshold: float, false: int) -> room.Score:
        return room.Score("s", "steady", 0.7, "d", threshold, 1, 1.0, false, 0, 0, 0.0, 0.0)

    scores = [made(1.0, 0), made(2.0, 5), made(3.0, 0), made(4.0, 0)]
    assert room.choose(scores, most=0.5) == {"d": 3.0}  # 1 is quiet by chance: 2 is not
    assert room.choose(scores[1:2], most=0.5) == {"d": np.inf}


def test_bursts_of_a_shape_are_where_its_schedule_has_them() -> None:
    name = "on/off x3.7, 10-30 s"
    found = recorded.record(recorded.shaped(name), "burst", TUNING_SEEDS[:1], 40)
    assert len(found.bursts) >= 3
    high = np.zeros(40, np.bool_)
    for start, stop in found.bursts[:-1]:  # the recording may cut the last
        assert 10.0 <= stop - start <= 30.0
        high |= (found.ends_s - 5.0 >= start) & (found.ends_s <= stop)
    away = np.ones(40, np.bool_)
    for start, stop in found.bursts:
        away &= (found.ends_s <= start) | (found.ends_s - 20.0 > stop)
    change = np.diff(found.signals[:, 0, Signal.RATE])  # of a 10-s average
    assert change[high[1:]].mean() > 0.05 > -0.05 > change[away[1:]].mean()


def test_surges_of_a_log_are_found_where_they_were_put() -> None:
    counts = np.random.default_rng(0).poisson(60.0, 300).astype(np.float64)
    assert not recorded.surges(counts).any()
    counts[100:106] *= 2.0
    assert np.flatnonzero(recorded.surges(counts)).tolist() == list(range(100, 106))


def test_a_replayed_log_is_recorded(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    gaps = rng.exponential(1.0, 6000)
    gaps[3000:3600] /= 4.0
    pq.write_table(pa.table({"t": np.cumsum(gaps)}), tmp_path / "log.parquet")
    scenario = recorded.replayed(f"mine={tmp_path / 'log.parquet'},time_column=t")
    found = recorded.record(scenario, "replay", TUNING_SEEDS[:1], 90)
    assert (found.name, found.kind) == ("mine", "replay")
    assert len(found.bursts) >= 1
    assert np.isfinite(found.signals).all()


FOUND = {"static:best": "static:0.5"}


def test_effects_compare_the_same_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = effect.cell_of("burst", "taobao", 0.95).replace({"episode.steps": 60})
    monkeypatch.setattr(effect, "cell_of", lambda *parts: cell)
    monkeypatch.setattr(effect, "BASES", ("static:best", "balance", "ppo:released"))
    monkeypatch.setattr(effect, "resolve", lambda scenario, asked, budget: FOUND.get(asked, asked))
    static, *others = effect.measure("burst", "taobao", 0.95, seeds=1)
    assert (static.asked, static.spec) == ("static:best", "static:0.5")
    # Bounding moves cannot change a policy that makes none.
    assert static.recovered["recovery"] == static.base
    assert static.change("recovery").mean == 0.0
    assert any(e.recovered["recovery(strict)"] != e.base for e in others)
    assert len(effect.findings([static, *others])) == len(effect.FORMS)


def test_the_page_and_its_rows_are_written(tmp_path: Path) -> None:
    config = {name: settings[:2] for name, settings in room.detectors().items()}
    streams = [stream("steady", (), []), stream("burst", ((203.0, 230.0),), [41, 42])]
    scores = tuple(
        room.score(s, name, threshold, made)
        for s in streams
        for name, settings in config.items()
        for threshold, made in settings
    )
    chosen = {name: settings[0][0] for name, settings in config.items()}
    study = room.Study(scores[: len(scores) // 2], scores, chosen, quick=True)
    page = report.save(study, [], tmp_path / "out")
    text = page.read_text()
    assert report.QUICK_WARNING in text
    assert "recovery.svg" in text and page.with_name("recovery.svg").is_file()
    rows = pq.read_table(tmp_path / "out" / "detection.parquet").to_pylist()
    assert {row["split"] for row in rows} == {"tuning", "evaluation"}
    assert len(rows) == len(scores) + len(scores) // 2
