"""Released models: the same decisions as the run's, and damage of any kind is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("stable_baselines3")
pytest.importorskip("safetensors")

from agents_small import small_config
from typer.testing import CliRunner

from helm_gym.agents.models import released
from helm_gym.agents.models.trained import TrainedPolicy
from helm_gym.agents.training.train import train
from helm_gym.cli import app
from helm_gym.envs.action import INCREMENTS
from helm_gym.envs.observation import FEATURES
from helm_gym.errors import CheckpointError
from helm_gym.evaluation.specs import TRAINED, make_policy
from helm_gym.suites.splits import TRAINING, VALIDATION, check_policy


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
        (lambda card: card["view"].update(action="choice"), "needs 21 and 7; card and weights"),
        (lambda card: card["view"].update(observation="paper7"), "train it again"),
        (lambda card: card["view"].update(control="node", context=True), "needs 42 and 1"),
        (lambda card: card.update(algorithm="dqn"), "dqn chooses steps"),
        (lambda card: card.update(algorithm="recurrent-ppo"), "has no weights 'lstm_in'"),
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


STATED_LOADS = (0.7, 0.9, 0.95)
"""Loads at which these models met the cells as stated; loads of drawn ones lie between."""
VARIANTS = {  # spec: action, part of the clusters whose scenarios are drawn, seeds
    "ppo:released": ("choice", 0.5, 3),
    "ppo:released-continuous": ("increment", 0.5, 3),
}
RELEASED = sorted({*(f"{algorithm}:released" for algorithm in TRAINED), *VARIANTS})


@pytest.mark.parametrize("spec", RELEASED)
def test_every_algorithm_has_a_released_model_of_the_training_split(spec: str) -> None:
    policy = make_policy(spec)
    assert isinstance(policy, TrainedPolicy)
    card = policy.card
    assert spec.startswith(f"{card.algorithm}:") and card.seed in TRAINING.seeds
    check_policy(spec, policy, {})
    policy.reset(0)
    features = len(FEATURES[policy.observation])
    shares = policy.act(np.full((1, 4, features), 0.3, np.float32))  # node by node, any cluster
    assert shares.shape == (1, 4) and np.isfinite(shares).all()


def check_chosen(card: dict[str, Any], seeds: dict[str, Any], n_seeds: int) -> None:
    """Of all seeds the one with the best score on validation seeds, and the spread of all."""
    runs = {run["seed"]: run for run in seeds["runs"]}
    assert len(runs) == n_seeds and card["seed"] == seeds["chosen"]
    assert card["run"] == runs[card["seed"]]["run"]
    assert min(runs.values(), key=lambda run: run["score"])["seed"] == card["seed"]
    assert set(seeds["score_seeds"]) <= set(VALIDATION.seeds)
    assert seeds["curves"][-1]["low"] <= seeds["curves"][-1]["high"]


@pytest.mark.parametrize("spec", VARIANTS)
def test_base_policies_say_how_they_were_trained_and_chosen(spec: str) -> None:
    path = make_policy(spec).path  # type: ignore[attr-defined]
    about = json.loads(path.with_suffix(".json").read_text())
    card, trained = about["card"], about["trained"]
    action, drawn, n_seeds = VARIANTS[spec]
    assert ("seeds" in about) == (n_seeds > 1)
    if n_seeds > 1:
        check_chosen(card, about["seeds"], n_seeds)
    clusters = {True: 0, False: 0}  # of the training cells as stated, or drawn around them
    for scenario in trained["scenarios"]:
        clusters[scenario["load"] in STATED_LOADS] += scenario["clusters"]
    assert trained["drawn"] == drawn == clusters[False] / sum(clusters.values())
    assert card["view"]["action"] == action and card["view"]["bound"] == max(INCREMENTS)


@pytest.mark.parametrize(("algorithm", "name"), [("a2c", "released"), ("ppo", "released-x")])
def test_what_is_not_released_is_named(algorithm: str, name: str) -> None:
    with pytest.raises(CheckpointError, match="ppo:released, ppo:released-continuous, rec"):
        released.released(algorithm, name)
