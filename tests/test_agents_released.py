"""Released models: the same decisions as the run's, and damage of any kind is told."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("stable_baselines3")
pytest.importorskip("safetensors")

from agents_small import small_config
from typer.testing import CliRunner

from helm_gym.agents import released
from helm_gym.agents.policy import TrainedPolicy
from helm_gym.agents.train import train
from helm_gym.baselines.bench_splits import TRAINING, check_policy
from helm_gym.baselines.specs import TRAINED, make_policy
from helm_gym.cli import app
from helm_gym.envs.observation import FEATURES
from helm_gym.errors import CheckpointError


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished small training."""
    folder = tmp_path_factory.mktemp("released") / "run"
    train(small_config(folder), progress=False)
    return folder


@pytest.fixture
def model(run: Path, tmp_path: Path) -> Path:
    """The same as a released model, written by the command."""
    path = tmp_path / "mine.safetensors"
    said = CliRunner().invoke(app, ["release", str(run), "--out", str(path)])
    assert said.exit_code == 0, said.output
    return path


def test_a_released_model_decides_as_the_run_does(run: Path, model: Path) -> None:
    mine, theirs = TrainedPolicy(model), TrainedPolicy(run)
    obs = np.random.default_rng(0).random((5, len(mine.card.view.features)), np.float32)
    np.testing.assert_array_equal(mine.act(obs), theirs.act(obs))
    assert mine.card == theirs.card


def test_weights_and_card_have_to_belong_together(model: Path) -> None:
    card = model.with_suffix(".json")
    about = json.loads(card.read_text())
    card.write_text(json.dumps({**about, "sha256": "0" * 64}))
    with pytest.raises(CheckpointError, match="take both from one release"):
        TrainedPolicy(model)


@pytest.mark.parametrize("kept", [0, 9, 200])
def test_truncated_weights_are_refused(model: Path, kept: int) -> None:
    model.write_bytes(model.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=r"truncated|one release"):
        TrainedPolicy(model)


def test_a_missing_card_is_named(model: Path) -> None:
    model.with_suffix(".json").unlink()
    with pytest.raises(CheckpointError, match=r"mine\.json: cannot be read"):
        TrainedPolicy(model)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda card: card["view"]["features"].pop(), "train it again"),
        (lambda card: card["view"].update(observation="paper8"), "train it again"),
        (lambda card: card.update(format=99), "is of format 99"),
        (lambda card: card["view"].update(action="teleport"), "another version"),
    ],
)
def test_a_model_that_does_not_fit_this_version_is_refused(
    model: Path, change: object, says: str
) -> None:
    card = model.with_suffix(".json")
    about = json.loads(card.read_text())
    change(about["card"])  # type: ignore[operator]
    card.write_text(json.dumps(about))
    with pytest.raises(CheckpointError, match=says):
        TrainedPolicy(model)


@pytest.mark.parametrize("algorithm", TRAINED)
def test_every_algorithm_has_a_released_model_of_the_training_split(algorithm: str) -> None:
    policy = make_policy(f"{algorithm}:released")
    assert isinstance(policy, TrainedPolicy)
    card = policy.card
    assert card.algorithm == algorithm and card.seed in TRAINING.seeds
    check_policy(f"{algorithm}:released", policy, {})
    policy.reset(0)
    features = len(FEATURES[policy.observation])
    shares = policy.act(np.full((1, 4, features), 0.3, np.float32))  # node by node, any cluster
    assert shares.shape == (1, 4) and np.isfinite(shares).all()


def test_what_is_not_released_is_named() -> None:
    with pytest.raises(CheckpointError, match="ppo:released"):
        released.released("a2c")
