"""Files that are whole or refused, and the choice among several."""

from __future__ import annotations

import json
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from helm_gym.agents.training.checkpoints import load_checkpoint, load_latest, save_checkpoint
from helm_gym.errors import CheckpointError
from helm_gym.files import replacing, write_text
from helm_gym.pack import read_packed, write_packed

TREE = {
    "numbers": [1, -2.5, float("inf"), 2**100, True, None],
    "names": {"~": "a key like our own mark", 3: ("a", ("b", [1.5]))},
    "array": np.arange(6, dtype=np.uint64).reshape(2, 3) + 2**63,
    "scalar": np.float32(0.1),
    "empty": np.zeros((0, 4)),
    "tensor": torch.linspace(0, 1, 7, dtype=torch.float64),
    "step": torch.tensor(3.0),
    "random": random.Random(1).getstate(),
    "generator": np.random.default_rng(5).bit_generator.state,
}


def same(one, other) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    return one == other


def test_everything_comes_back_with_its_type_and_to_the_last_bit(tmp_path: Path) -> None:
    write_packed(tmp_path / "x", TREE)
    back = read_packed(tmp_path / "x")
    assert [key for key in TREE if not same(TREE[key], back[key])] == []
    assert back.keys() == TREE.keys()


def test_nan_comes_back(tmp_path: Path) -> None:
    write_packed(tmp_path / "x", {"v": float("nan")})
    assert np.isnan(read_packed(tmp_path / "x")["v"])


@pytest.mark.parametrize("value", [object(), {1, 2}, np.array([None]), len])
def test_what_would_need_pickle_is_refused_and_leaves_no_file(value, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be part of a checkpoint"):
        write_packed(tmp_path / "x", {"v": value})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("part", [0.0, 0.01, 0.3, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(part: float, tmp_path: Path) -> None:
    path = tmp_path / "x"
    write_packed(path, {"array": np.random.default_rng(0).random(1000)})
    whole = path.read_bytes()
    path.write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(CheckpointError, match=r"truncated|damaged|not a helm_gym"):
        read_packed(path)


def test_flipped_bits_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write_packed(path, {"array": np.random.default_rng(0).random(200)})
    whole = bytearray(path.read_bytes())
    refused = 0
    for position in range(40, len(whole) - 1, 97):
        damaged = whole.copy()
        damaged[position] ^= 0x10
        path.write_bytes(damaged)
        try:  # a bit that nobody reads (a timestamp) may change
            same_content = np.array_equal(
                read_packed(path)["array"], np.random.default_rng(0).random(200)
            )
            assert same_content
        except CheckpointError:
            refused += 1
    assert refused >= 5


def test_content_that_does_not_match_its_digest_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write_packed(path, {"v": 1})
    with zipfile.ZipFile(path) as archive:
        blobs = {name: archive.read(name) for name in archive.namelist()}
    blobs["tree.json"] = json.dumps({"~": "dict", "v": [["v", 2]]}).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, blob in blobs.items():
            archive.writestr(name, blob)
    with pytest.raises(CheckpointError, match="does not match its digest"):
        read_packed(path)


@pytest.mark.parametrize("content", [b"", b"PK", b"some text", b"\x80\x04N."])
def test_foreign_files_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(CheckpointError):
        read_packed(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.txt", content)
    with pytest.raises(CheckpointError, match="not a helm_gym checkpoint"):
        read_packed(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_packed(tmp_path / "x")


def test_a_write_that_fails_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write_text(path, "old")
    with pytest.raises(OSError, match="disk full"), replacing(path) as file:
        file.write(b"new, but only hal")
        raise OSError("disk full")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


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
    write_packed(path, {"format": 99, "run": "run"})
    with pytest.raises(CheckpointError, match="format 99"):
        load_checkpoint(path, "run")


def test_an_empty_folder_holds_no_checkpoint(tmp_path: Path) -> None:
    assert load_latest(tmp_path / "none", "run") is None
