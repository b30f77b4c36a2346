"""A stopped study of bursts goes on where it was, and ends with the same page."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helm_gym.config.scenario import Scenario
from helm_gym.store import open_store
from helm_gym.studies.bursts import detection as room
from helm_gym.studies.bursts import effect
from helm_gym.studies.bursts import page as report
from helm_gym.studies.bursts import streams as recorded
from helm_gym.suites.seeds import EVALUATION_SEEDS, TUNING_SEEDS

WINDOWS = 40


def small_plan(quick: bool, logs: Any) -> list[Any]:
    name = "on/off x3.7, 10-30 s"
    return [
        (recorded.steady(0.7), "steady", TUNING_SEEDS[:1], WINDOWS),
        (recorded.steady(0.7), "steady", EVALUATION_SEEDS[:1], WINDOWS),
        (recorded.shaped(name), "burst", EVALUATION_SEEDS[:1], WINDOWS),
    ]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "plan", small_plan)


def page_of(kept: Path | None, out: Path) -> bytes:
    page = report.save(room.run_study(kept, quick=True), [], out)
    return page.read_bytes() + (out / report.FIGURE).read_bytes()


def test_a_stopped_study_ends_as_one_that_was_not(
    small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = page_of(None, tmp_path / "whole")
    calls: list[int] = []
    record = recorded.record

    def stopped(*args: Any) -> recorded.Stream:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return record(*args)

    monkeypatch.setattr(room, "record", stopped)
    with pytest.raises(KeyboardInterrupt, match="2 finished pieces are kept"):
        page_of(tmp_path, tmp_path)
    assert page_of(tmp_path, tmp_path) == whole
    assert len(calls) == 4


def test_a_stream_comes_back_to_the_bit(tmp_path: Path) -> None:
    made = recorded.record(*small_plan(True, ())[2])
    with open_store(tmp_path, recorded.STREAMS) as store:
        store.put("x", made)
        again = store.get("x")
    for field in dataclasses.fields(recorded.Stream):
        one, other = getattr(made, field.name), getattr(again, field.name)
        assert np.array_equal(one, other) and type(one) is type(other)
    assert made.bursts


def test_half_a_stream_is_recorded_again(tmp_path: Path) -> None:
    made = recorded.record(*small_plan(True, ())[0])
    with open_store(tmp_path, recorded.STREAMS) as store:
        store.put("x", made)
        (file,) = tmp_path.glob("*.npz")
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
        with pytest.warns(UserWarning, match=f"{file.name} is damaged"):
            assert store.get("x") is None


def test_other_seeds_windows_code_and_logs_are_other_streams(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log.parquet"
    scenario, kind, seeds, windows = small_plan(True, ())[0]

    def times(step: float) -> Scenario:
        pq.write_table(pa.table({"t": np.arange(0.0, 5000.0, step)}), log)
        return recorded.replayed(f"log={log},time_column=t")

    keys = [
        room._key(scenario, kind, seeds, windows),
        room._key(scenario, kind, TUNING_SEEDS[1:2], windows),
        room._key(scenario, kind, seeds, windows + 1),
        room._key(times(1.0), "replay", seeds, windows),
        room._key(times(2.0), "replay", seeds, windows),  # the same path
    ]
    assert keys[0] == room._key(scenario, kind, seeds, windows)
    monkeypatch.setattr(room, "code_digest", lambda *modules: "other")
    keys.append(room._key(scenario, kind, seeds, windows))
    assert len(set(keys)) == 6


def test_effects_are_kept_by_cell_and_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = {name: (1.0, float("inf")) for name in effect.FIGURES}
    by_form = dict.fromkeys(effect.FORMS, figures)
    measured: list[Any] = []

    def measure(regime: str, dataset: str, load: float, seeds: int) -> list[effect.Effect]:
        measured.append((regime, seeds))
        return [effect.Effect(regime, dataset, load, "static:best", "s", figures, by_form)]

    monkeypatch.setattr(effect, "plan", lambda quick: [("burst", "taobao", 0.9)])
    monkeypatch.setattr(effect, "measure", measure)
    found = effect.run_effects(tmp_path)
    assert effect.run_effects(tmp_path) == found
    assert found[0].base == figures
    effect.run_effects(tmp_path, quick=True)  # fewer seeds
    assert measured == [("burst", effect.N_SEEDS), ("burst", 3)]
    scenario = effect.cell_of("burst", "taobao", 0.9)
    assert scenario.workload.load == 0.9
    other = ("static:0.7", *effect.BASES[1:])
    assert effect._key(scenario, other, 3) != effect._key(scenario, effect.BASES, 3)
