"""The choice among several checkpoints, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

from helm_gym.agents.training.checkpoints import load_checkpoint, load_latest, save_checkpoint
from helm_gym.errors import CheckpointError
from helm_gym.state_file import write_state


def save(folder: Path, decisions: int, run: str = "run") -> Path:
    return save_checkpoint(folder, run, {"decisions": decisions})


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    for decisions in (9, 10, 100, 1000):
        save(tmp_path, decisions)
    assert sorted(int(p.stem) for p in tmp_path.iterdir()) == [100, 1000]
    loaded = load_latest(tmp_path, "run")
    assert loaded and loaded.state["decisions"] == 1000
    assert loaded.skipped == ()


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".000000000007.ckpt.123.tmp").write_bytes(b"half")
    save(tmp_path, 8)
    assert [p.name for p in tmp_path.iterdir()] == ["000000000008.ckpt"]


def test_a_damaged_one_gives_way_to_the_one_before_with_the_reason(tmp_path: Path) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2).write_bytes(b"PK")
    loaded = load_latest(tmp_path, "run")
    assert loaded and loaded.state["decisions"] == 1
    assert "000000000002.ckpt" in loaded.skipped[0]


def test_another_runs_checkpoint_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path, 1, run="other")
    with pytest.raises(CheckpointError, match="belongs to run 'other'"):
        load_checkpoint(path, "run")
    with pytest.raises(CheckpointError, match="no checkpoint can be used"):
        load_latest(tmp_path, "run")
    assert path.exists()


def test_another_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    write_state(path, {"format": 99, "run": "run"})
    with pytest.raises(CheckpointError, match="format 99"):
        load_checkpoint(path, "run")


def test_an_empty_folder_holds_no_checkpoint(tmp_path: Path) -> None:
    assert load_latest(tmp_path / "none", "run") is None
