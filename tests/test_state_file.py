"""State files come back to the last bit, are whole or refused, and cannot ask for much memory."""

from __future__ import annotations

import json
import random
import struct
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from helm_gym.errors import CheckpointError
from helm_gym.files import replacing, write_text
from helm_gym.state_file import DENSEST, DTYPES, FORMAT, LARGE, _seal, read_state, write_state

TREE: dict[str, Any] = {
    "numbers": [1, -2.5, float("inf"), -float("inf"), 2**100, -(2**64), True, None],
    "names": {"~": "a key like our own mark", 3: ("a", ("b", [1.5])), None: {}, (1, 2): []},
    "array": np.arange(6, dtype=np.uint64).reshape(2, 3) + 2**63,
    "turned": np.arange(12.0).reshape(3, 4).T[::2],
    "big-endian": np.arange(3, dtype=">i4"),
    "scalars": [np.float32(0.1), np.float64(0.1), np.bool_(True), np.uint8(255)],
    "no dimension": np.array(2.5),
    "empty": np.zeros((0, 4)),
    "special": np.array([np.nan, np.inf, -np.inf, -0.0]),
    "types": {name: np.ones(3, name) for name in sorted(DTYPES)},
    "large": np.repeat(np.arange(LARGE // 8, dtype=np.uint32), 4).reshape(2, -1),
    "noise": np.random.default_rng(0).integers(0, 256, LARGE, np.uint8),
    "zeros": np.zeros(LARGE // 8 + 1),
    "random": random.Random(1).getstate(),
    "generator": np.random.default_rng(5).bit_generator.state,
}


def same(one: Any, other: Any) -> bool:
    """Whether two trees are equal in types, shapes and bits; dictionaries in their order too."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[k], other[k]) for k in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, np.ndarray):
        native = one.astype(one.dtype.newbyteorder("="))
        alike = (native.dtype, one.shape) == (other.dtype, other.shape)
        return alike and native.tobytes() == other.tobytes()
    return bool(one == other)


def test_everything_comes_back_with_its_type_and_to_the_last_bit(tmp_path: Path) -> None:
    write_state(tmp_path / "x", TREE)
    back = read_state(tmp_path / "x")
    assert [key for key in TREE if not same(TREE[key], back[key])] == []
    assert list(back) == list(TREE)
    assert back["array"].flags.writeable and back["large"].flags.writeable


def test_tensors_come_back_as_tensors(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    tree = {"a": torch.linspace(0, 1, 7, dtype=torch.float64), "step": torch.tensor(3.0)}
    write_state(tmp_path / "x", tree)
    back = read_state(tmp_path / "x")
    for name, tensor in tree.items():
        assert back[name].dtype == tensor.dtype and torch.equal(back[name], tensor)


def test_nan_comes_back(tmp_path: Path) -> None:
    write_state(tmp_path / "x", {"v": float("nan")})
    assert np.isnan(read_state(tmp_path / "x")["v"])


def test_tables_that_are_mostly_empty_take_little_space(tmp_path: Path) -> None:
    table = np.zeros((8, LARGE), np.uint8)
    table[:, :: DENSEST // 4] = 7
    write_state(tmp_path / "x", {"table": table})
    assert (tmp_path / "x").stat().st_size < table.nbytes / 5


REFUSED = [object(), {1, 2}, np.array([None]), np.array(["text"]), np.zeros(2, "M8[s]"), len]


@pytest.mark.parametrize("value", REFUSED)
def test_what_would_need_pickle_is_refused_and_leaves_no_file(value: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be part of a checkpoint"):
        write_state(tmp_path / "x", {"v": value})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("part", [0.0, 0.001, 0.01, 0.3, 0.5, 0.9, 0.9999])
def test_a_truncated_file_is_refused(part: float, tmp_path: Path) -> None:
    path = tmp_path / "x"
    write_state(path, {"array": np.random.default_rng(0).random(1000)})
    whole = path.read_bytes()
    path.write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(CheckpointError, match=rf"{path}: (truncated|damaged|not a helm_gym)"):
        read_state(path)


def test_flipped_bits_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write_state(path, {"array": np.random.default_rng(0).random(50), "n": [1, None, (2.5,)]})
    whole = path.read_bytes()
    before = read_state(path)
    refused = 0
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 0x10
        path.write_bytes(damaged)
        try:  # a bit that nobody reads may change
            assert same(read_state(path), before)
        except CheckpointError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > 0.95 * len(whole)


def forge(path: Path, content: Any, arrays: dict[str, Any], sha256: str | None = None) -> None:
    """Write a file of our format with any content, properly sealed."""
    text = content if isinstance(content, str) else json.dumps(content)
    seal = _seal(text, list(arrays.values())) if sha256 is None else sha256
    path.write_bytes(save(arrays, {"format": FORMAT, "content": text, "sha256": seal}))


ONE = {"~": "dict", "v": [["v", {"~": "array", "v": 0}]]}


def test_content_that_does_not_match_its_digest_is_refused(tmp_path: Path) -> None:
    forge(tmp_path / "x", {"tree": ONE, "deflated": {}}, {"0": np.zeros(3)}, "0" * 64)
    with pytest.raises(CheckpointError, match="does not match its digest"):
        read_state(tmp_path / "x")


@pytest.mark.parametrize(
    "tree",
    [
        {"~": "array", "v": 1},
        {"~": "pickle", "v": "x"},
        {"~": "dict", "v": [[[], 1]]},
        {"a": 1},
        {"~": "tuple", "v": 3},
        {"~": "float", "v": "text"},
        [1, 2],
        "text",
    ],
)
def test_a_tree_that_cannot_be_is_refused(tree: Any, tmp_path: Path) -> None:
    forge(tmp_path / "x", {"tree": tree, "deflated": {}}, {"0": np.zeros(3)})
    with pytest.raises(CheckpointError, match=str(tmp_path / "x")):
        read_state(tmp_path / "x")


@pytest.mark.parametrize("text", ["{", "[]", "3", '{"tree": 1}', "[" * 200_000, "1" * 5000])
def test_text_that_is_no_content_is_refused(text: str, tmp_path: Path) -> None:
    forge(tmp_path / "x", text, {"0": np.zeros(3)})
    with pytest.raises(CheckpointError, match=str(tmp_path / "x")):
        read_state(tmp_path / "x")


BOMB = np.frombuffer(zlib.compress(b"0" * 50_000_000, 9), np.uint8)  # 50 kB


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [
        ("uint8", [50_000_000]),
        ("float64", [2**40]),
        ("uint8", [100_000]),
        ("uint8", [0]),
        ("uint8", [-1]),
        ("uint8", [-10, -10]),
        ("uint8", [1.5]),
        ("uint8", 7),
        ("object", [100]),
        ("no type", [100]),
        (3, [100]),
    ],
)
def test_sizes_that_a_file_only_claims_take_no_memory(
    dtype: Any, shape: Any, tmp_path: Path
) -> None:
    path = tmp_path / "x"
    forge(path, {"tree": ONE, "deflated": {"0": [dtype, shape]}}, {"0": BOMB})
    tracemalloc.start()
    with pytest.raises(CheckpointError, match=r"x: damaged"):
        read_state(path)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 10_000_000


def test_a_header_of_any_size_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(struct.pack("<Q", 2**62) + b"{}")
    with pytest.raises(CheckpointError, match="truncated"):
        read_state(path)


@pytest.mark.parametrize("content", [b"", b"PK", b"some text", b"\x80\x04N.", save({})])
def test_foreign_files_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="not a helm_gym checkpoint"):
        read_state(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "x", tmp_path):
        with pytest.raises(CheckpointError, match=rf"{path}: cannot be read"):
            read_state(path)


def test_a_write_that_fails_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write_text(path, "old")
    with pytest.raises(OSError, match="disk full"), replacing(path) as file:
        file.write(b"new, but only hal")
        raise OSError("disk full")
    with pytest.raises(CheckpointError):
        write_state(path, {"v": object()})
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
