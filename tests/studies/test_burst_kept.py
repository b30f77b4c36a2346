"""A stopped study of bursts goes on where it was, and ends with the same page."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helm_gym.errors import ConfigError
from helm_gym.studies.bursts import detection as room
from helm_gym.studies.bursts import effect
from helm_gym.studies.bursts import page as report
from helm_gym.studies.bursts import streams as recorded
from helm_gym.studies.bursts.kept import Kept
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


def page_of(kept: Kept, out: Path) -> bytes:
    page = report.save(room.run_study(kept, quick=True), [], out)
    return page.read_bytes() + (out / report.FIGURE).read_bytes()


def test_a_stopped_study_ends_as_one_that_was_not(
    small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = page_of(Kept(None), tmp_path / "whole")
    calls: list[int] = []
    record = recorded.record

    def stopped(*args: Any) -> recorded.Stream:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return record(*args)

    monkeypatch.setattr(room, "record", stopped)
    with pytest.raises(KeyboardInterrupt):
        page_of(Kept(tmp_path), tmp_path)
    kept = Kept(tmp_path)
    assert page_of(kept, tmp_path) == whole
    assert (kept.reused, len(calls)) == (2, 4)


def test_a_stream_comes_back_to_the_bit(tmp_path: Path) -> None:
    job = small_plan(True, ())[2]
    made = Kept(tmp_path).stream(*job, lambda: recorded.record(*job))
    again = Kept(tmp_path).stream(*job, lambda: pytest.fail("recorded again"))
    for field in dataclasses.fields(recorded.Stream):
        one, other = getattr(made, field.name), getattr(again, field.name)
        assert np.array_equal(one, other) and type(one) is type(other)
    assert made.bursts and again.bursts == made.bursts


def test_a_damaged_file_is_named_and_made_again(tmp_path: Path) -> None:
    job = small_plan(True, ())[0]
    made = Kept(tmp_path).stream(*job, lambda: recorded.record(*job))
    (file,) = (tmp_path / "kept").glob("*.npz")
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    kept = Kept(tmp_path)
    with pytest.warns(UserWarning, match=f"{file.name} is damaged"):
        kept.stream(*job, lambda: made)
    assert kept.reused == 0
    kept.stream(*job, lambda: pytest.fail("recorded again"))
    assert kept.reused == 1


def test_other_seeds_windows_and_logs_are_other_streams(tmp_path: Path) -> None:
    log = tmp_path / "log.parquet"
    scenario, kind, seeds, windows = small_plan(True, ())[0]
    made = recorded.record(scenario, kind, seeds, windows)

    def times(step: float) -> Any:
        pq.write_table(pa.table({"t": np.arange(0.0, 5000.0, step)}), log)
        return recorded.replayed(f"log={log},time_column=t")

    kept = Kept(tmp_path)
    kept.stream(scenario, kind, seeds, windows, lambda: made)
    kept.stream(scenario, kind, TUNING_SEEDS[1:2], windows, lambda: made)
    kept.stream(scenario, kind, seeds, windows + 1, lambda: made)
    kept.stream(times(1.0), "replay", seeds, windows, lambda: made)
    kept.stream(times(2.0), "replay", seeds, windows, lambda: made)  # the same path
    assert kept.reused == 0


def test_effects_are_kept_by_cell_and_base(tmp_path: Path) -> None:
    figures = {name: (1.0, float("inf")) for name in effect.FIGURES}
    by_form = dict.fromkeys(effect.FORMS, figures)
    found = [effect.Effect("burst", "taobao", 0.9, "static:best", "static:0.6", figures, by_form)]
    scenario, specs = effect.cell_of("burst", "taobao", 0.9)
    kept = Kept(tmp_path)
    assert kept.effects(scenario, ["static:0.6"], 2, lambda: found) == found
    again = kept.effects(scenario, ["static:0.6"], 2, lambda: pytest.fail("measured again"))
    assert again == found
    kept.effects(scenario, ["static:0.7"], 2, lambda: found)
    kept.effects(scenario, ["static:0.6"], 3, lambda: found)
    assert kept.reused == 1
    assert set(specs) == set(effect.BASES) and scenario.workload.load == 0.9


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="file/kept: cannot be written"):
        Kept(tmp_path / "file")
