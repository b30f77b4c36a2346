"""The comparison on drifts: what is run, that it goes on after an interruption, what it writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from helm_gym.cli import app
from helm_gym.errors import ConfigError
from helm_gym.studies.adaptation import study as room

SHORT = ["--steps", "15", "--seeds", "2", "--quiet", "--drift", "amazon-books-trend"]
PAIR = ["-p", "static:0.5", "-p", "adapted:static:0.5"]


def test_drifts_are_long_and_of_every_data_set() -> None:
    found = room.drifts()
    assert sum(name.endswith("-trend") for name in found) == 3
    assert sum(room.MODEL in name for name in found) == 3
    for scenario in found.values():
        assert scenario.episode.steps * scenario.episode.step_s >= 1_200.0
        assert scenario.workload.load == room.LOAD
    models = {s.hardware.model.name for name, s in found.items() if room.MODEL in name}
    assert models == {room.MODEL}


def test_policies_are_named_once_and_exist(tmp_path: Path) -> None:
    for policies in ((), ("balance", "balance"), ("balance", "adapted:balanse")):
        with pytest.raises(ConfigError):
            room.study(room.drifts(), policies, seeds=1, out=tmp_path)


def test_the_command_writes_a_table_and_a_figure_and_goes_on(tmp_path: Path) -> None:
    command = ["adapt", *SHORT, *PAIR, "--out", str(tmp_path)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    table = (tmp_path / "adapt.md").read_text("utf-8")
    assert table.count("amazon-books-trend") == 2
    assert "`adapted:static:0.5`" in table
    assert (tmp_path / "adapt.svg").read_text("utf-8").startswith("<svg")

    def kept() -> dict[Path, int]:
        return {f: f.stat().st_mtime_ns for f in (tmp_path / "streams").glob("*.json")}

    first = kept()
    assert len(first) == 2
    assert CliRunner().invoke(app, command).exit_code == 0
    assert kept() == first
    assert (tmp_path / "adapt.md").read_text("utf-8") == table
    other = [part if part != "15" else "14" for part in command]
    assert CliRunner().invoke(app, other).exit_code == 0
    assert len(kept()) == 4  # another number of steps is another stream


def test_differences_are_paired_with_the_first_policy() -> None:
    def entry(asked: str, tails: list[float]) -> dict[str, object]:
        figures = {name: tails for name in room.FIGURES}
        return {"asked": asked, "spec": asked, "figures": figures, "reward": [[1.0, 2.0, 4.0]] * 2,
                "trips": [1, 2]}  # fmt: skip

    result = {"drift": "d", "entries": [entry("a", [10.0, 30.0]), entry("b", [9.0, 29.0])]}
    found = room.difference(result, result["entries"][1], "tail_ms")
    assert (found.mean, found.low, found.high) == (-1.0, -1.0, -1.0)
    np.testing.assert_allclose(room.reward_by_third(result["entries"][1]), [1.0, 2.0, 4.0])
    assert "| -1.00 [-1.00, -1.00] |" in room.markdown([result])


def test_an_unknown_drift_is_refused(tmp_path: Path) -> None:
    asked = ["adapt", *PAIR, "--drift", "nothing-like-it", "--out", str(tmp_path)]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 2
