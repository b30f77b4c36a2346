"""The refill study: the same requests in every mode, figures that follow, and its page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from helm_gym.config.scenario import Scenario
from helm_gym.studies.refill import page as refill_report
from helm_gym.studies.refill import plan as refill
from helm_gym.studies.refill.plan import MODES, STEPPED, Line, Study

SHORT = {"episode.steps": 3, "episode.warm_starts": 1, "episode.warmup_s": 5, "nodes": 2}


@pytest.fixture(scope="module")
def study() -> Study:
    return refill.run_study(
        seeds=(10_000, 10_001), cells=("taobao-burst",), loads=(0.95,), settings=SHORT
    )


def test_a_study_measures_every_policy_and_step_in_every_mode(study: Study) -> None:
    assert [line.policy for line in study.episodes] == list(refill.POLICIES)
    assert [line.policy for line in study.steps] == ["0.1 to 0.3", "0.2 to 0.4"]
    for line in (*study.episodes, *study.steps):
        assert tuple(line.figures) == MODES
        for figures in line.figures.values():
            assert all(len(values) == 2 for values in figures.values())
            assert np.isfinite(list(figures.values())).all()
    for line in study.steps:
        assert tuple(line.figures["paced"]) == tuple(STEPPED)
        assert 0 < line.mean("naive", "filled_s") <= line.mean("throttled", "filled_s")
        assert line.mean("paced", "filled_s") <= line.mean("throttled", "filled_s")


def test_paced_ends_the_starvation_of_a_saturated_link(study: Study) -> None:
    starved = study.steps[0]
    assert starved.mean("paced", "filled_s") < starved.mean("throttled", "filled_s")


def test_a_stopped_study_goes_on_and_measures_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[tuple[str, str]] = []

    def figures(scenario: Scenario, policy: str, seeds: Sequence[int]) -> dict[str, list[float]]:
        if len(measured) == 4:
            measured.append(("stopped", ""))
            raise KeyboardInterrupt
        measured.append((scenario.refill.mode, policy))
        return {"tail_ms": [float(len(measured))] * len(seeds)}

    def run() -> Study:
        return refill.run_study(cells=("taobao-burst",), loads=(0.95,), out=tmp_path)

    for name in ("_episodes", "_steps"):
        monkeypatch.setattr(refill, name, lambda *args: figures(*args))
    with pytest.raises(KeyboardInterrupt, match="4 finished pieces are kept"):
        run()
    found = run()
    measured.remove(("stopped", ""))
    assert len(measured) == len(set(measured)) == 3 * (len(found.episodes) + len(found.steps))
    assert run() == found and len(measured) == 15


def test_counts_say_better_only_where_the_interval_excludes_zero() -> None:
    def line(paced: tuple[float, ...]) -> Line:
        other = (10.0, 11.0, 12.0)
        figures = {mode: {"tail_ms": paced if mode == "paced" else other} for mode in MODES}
        return Line("cell", 0.9, "policy", figures)

    lines = [line((9.0, 10.0, 11.5)), line((11.0, 12.0, 14.0)), line((9.0, 12.0, 12.0))]
    found = refill_report.counts(lines, "naive", "tail_ms")
    assert found == {"better": 1, "worse": 1, "open": 1}


def test_the_page_holds_every_line(study: Study) -> None:
    text = refill_report.page(study)
    rows = [row for row in text.splitlines() if row.startswith("| taobao-burst")]
    assert len(rows) == len(study.episodes) + len(study.steps)
    for line in study.episodes:
        assert f"{line.mean('paced', 'tail_ms'):.1f}" in text
    assert len(refill_report.tables(study)) == 2
