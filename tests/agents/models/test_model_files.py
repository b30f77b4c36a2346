"""Every array of a model file is looked at when it is read; errors name the file and the array."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helm_gym.agents.models import files
from helm_gym.agents.models.released import released
from helm_gym.agents.models.trained import TrainedPolicy
from helm_gym.errors import CheckpointError

Arrays = dict[str, Any]
PPO, LSTM = "ppo", "recurrent-ppo"


def rewritten(algorithm: str, path: Path, change: Callable[[Arrays], Any]) -> Path:
    """A released model with other weights, in a file that is whole."""
    card, arrays = files.read(released(algorithm))
    change(arrays)
    files.write_released(path / "mine.safetensors", card, arrays, {})
    return path / "mine.safetensors"


def cut(name: str, *size: int) -> Callable[[Arrays], Any]:
    return lambda arrays: arrays.update({name: arrays[name][tuple(map(slice, size))]})


def filled(name: str, value: float) -> Callable[[Arrays], Any]:
    def change(arrays: Arrays) -> None:
        arrays[name] = arrays[name].copy()
        arrays[name].flat[-1] = value

    return change


def typed(name: str, dtype: str) -> Callable[[Arrays], Any]:
    return lambda arrays: arrays.update({name: arrays[name].astype(dtype)})


@pytest.mark.parametrize(
    ("algorithm", "change", "says"),
    [
        (PPO, cut("weight1", 64, 63), r"'weight1' has shape \(64, 63\).*need \(64, 64\)"),
        (PPO, cut("bias0", 60), r"'weight0' has shape \(64, 42\).*need \(60, 42\)"),
        (PPO, cut("weight0", 63), r"'weight0' has shape \(63, 42\)"),
        (PPO, cut("weight0", 64, 40), "takes 40 numbers and gives 7.*needs 42 and 7"),
        (PPO, lambda arrays: arrays.pop("bias1"), "has no weights 'bias1'"),
        (PPO, lambda arrays: arrays.pop("weight0"), "has no weights 'weight0'"),
        (PPO, lambda arrays: arrays.clear(), "has no weights 'weight0'"),
        (PPO, lambda arrays: arrays.update(lstm_in=np.ones((4, 4))), "'lstm_in' belongs to no ppo"),
        (PPO, lambda arrays: arrays.update(bias0=np.ones((64, 1))), "'bias0' has the odd shape"),
        (PPO, cut("weight1", 0), "'weight1' has the odd shape"),
        (PPO, filled("weight1", np.nan), "'weight1' has numbers that are not finite"),
        (PPO, filled("bias2", -np.inf), "'bias2' has numbers that are not finite"),
        (PPO, typed("weight0", "float16"), "'weight0' is of float16"),
        (PPO, typed("weight0", "int32"), "'weight0' is of int32"),
        (LSTM, cut("lstm_state", 128, 31), "'lstm_in' has shape"),
        (LSTM, cut("lstm_state", 127), r"'lstm_state' has shape \(127, 32\)"),
        (LSTM, cut("lstm_bias", 32), r"'lstm_bias' has shape \(32,\)"),
        (LSTM, filled("lstm_bias", np.inf), "'lstm_bias' has numbers that are not finite"),
        (LSTM, cut("weight0", 64, 31), "'weight0' has shape"),
    ],
)
def test_a_network_that_cannot_be_is_refused_when_it_is_read(
    algorithm: str, change: Callable[[Arrays], Any], says: str, tmp_path: Path
) -> None:
    path = rewritten(algorithm, tmp_path, change)
    with pytest.raises(CheckpointError, match=rf"mine\.safetensors: .*{says}"):
        TrainedPolicy(path)


@pytest.mark.parametrize("algorithm", [PPO, LSTM])
def test_float64_weights_decide_as_their_float32(algorithm: str, tmp_path: Path) -> None:
    def widen(arrays: Arrays) -> None:
        arrays.update({name: array.astype(np.float64) for name, array in arrays.items()})

    policy = TrainedPolicy(rewritten(algorithm, tmp_path, widen))
    plain = TrainedPolicy(released(algorithm))
    obs = np.random.default_rng(0).random((2, 3, len(plain.card.view.features)), np.float32)
    np.testing.assert_array_equal(policy.act(obs), plain.act(obs))

    def overflow(arrays: Arrays) -> None:
        widen(arrays)
        arrays["weight0"][0, 0] = 1e300

    path = rewritten(algorithm, tmp_path, overflow)
    with pytest.raises(CheckpointError, match="'weight0' has numbers that are not finite"):
        TrainedPolicy(path)


class Saved:
    """Stands for SB3's model."""

    def save(self, file: io.BytesIO) -> None:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("data", "SB3's own")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    policy, (_, arrays) = TrainedPolicy(released(PPO)), files.read(released(PPO))
    files.write_model(tmp_path / "model.zip", Saved(), arrays, policy.card)
    return tmp_path / "model.zip"


def test_both_kinds_of_file_hold_the_same_model(model: Path) -> None:
    mine, theirs = files.read(model)[1], files.read(released(PPO))[1]
    assert TrainedPolicy(model).card == TrainedPolicy(released(PPO)).card
    assert mine.keys() == theirs.keys()
    assert all(np.array_equal(mine[name], array) for name, array in theirs.items())
    assert zipfile.ZipFile(model).namelist() == ["data", files.CARD, files.ACTOR]


@pytest.mark.parametrize("name", [files.CARD, files.ACTOR])
def test_an_entry_that_swells_is_refused_before_it_is_read(
    name: str, model: Path, tmp_path: Path
) -> None:
    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        for kept in {files.CARD, files.ACTOR} - {name}:
            archive.writestr(kept, zipfile.ZipFile(model).read(kept))
        with archive.open(name, "w") as entry:
            for _ in range(files.LARGEST // (1 << 20) + 1):
                entry.write(bytes(1 << 20))
    assert bomb.stat().st_size < 1 << 20
    with pytest.raises(CheckpointError, match=rf"bomb\.zip: .*{name} is larger than any model"):
        TrainedPolicy(bomb)


@pytest.mark.parametrize("content", ["[" * 100_000, "{", "null", "3", '{"card": 1}'])
def test_a_card_that_is_none_is_refused(content: str, model: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.zip"
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr(files.ACTOR, zipfile.ZipFile(model).read(files.ACTOR))
        archive.writestr(files.CARD, content)
    with pytest.raises(CheckpointError, match=r"other\.zip"):
        TrainedPolicy(other)
    weights = rewritten(PPO, tmp_path, lambda arrays: None)
    weights.with_suffix(".json").write_text(content)
    with pytest.raises(CheckpointError, match=r"mine\.(safetensors|json)"):
        TrainedPolicy(weights)


def test_damaged_weights_are_refused_in_one_sentence(model: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.zip"
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr(files.CARD, zipfile.ZipFile(model).read(files.CARD))
        archive.writestr(files.ACTOR, b"PK no weights")
    with pytest.raises(CheckpointError, match=r"^[^:]*other\.zip: truncated or not a model file"):
        TrainedPolicy(other)
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr(files.CARD, json.dumps({}))
    with pytest.raises(CheckpointError, match=r"^[^:]*other\.zip: has no helm_gym/actor"):
        TrainedPolicy(other)
