"""A residual around a rule of one's own: typed, it trains; in a file, it has to be allowed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml

pytest.importorskip("stable_baselines3")

from agents_small import small_config
from small import SMALL
from training_runs import interrupt_at_step
from typer.testing import CliRunner

from helm_gym.agents.models.trained import TrainedPolicy
from helm_gym.agents.training.release import release
from helm_gym.agents.training.seeds import score
from helm_gym.agents.training.train import TrainingInterrupted, resume, train
from helm_gym.cli import app
from helm_gym.config.scenario import Scenario
from helm_gym.errors import ConfigError
from helm_gym.evaluation.specs import make_policy
from helm_gym.provenance import policy_digest

MODULE = "own_rule_of_the_tests"
OWN = f"{MODULE}:Half"
CODE = """
import numpy as np

class Half:
    control, observation = "cluster", "extended"
    def reset(self, seed): pass
    def act(self, obs): return np.full((len(obs), 1), 0.5)
"""
RESIDUAL = {"action": "residual", "base": OWN}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / f"{MODULE}.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    return tmp_path


def forget() -> None:
    del sys.modules[MODULE]


def test_a_typed_rule_trains_and_its_model_needs_leave(folder: Path) -> None:
    train(small_config(folder / "run", settings=RESIDUAL, decisions=32), progress=False)
    forget()
    scenario = Scenario.load(SMALL).replace({"episode.steps": 2})
    for read in (
        lambda: TrainedPolicy(folder / "run"),
        lambda: make_policy(f"ppo:{folder / 'run'}"),
        lambda: release(folder / "run", folder / "a.safetensors"),
        lambda: score(folder / "run" / "model.zip", [scenario]),
    ):
        with pytest.raises(ConfigError, match=f"--allow {OWN}"):
            read()
    said = CliRunner().invoke(app, ["release", "run", "--out", "a.safetensors"])
    assert said.exit_code == 2 and "--allow" in said.output
    assert MODULE not in sys.modules and not (folder / "a.safetensors").exists()
    said = CliRunner().invoke(app, ["release", "run", "--out", "a.safetensors", "--allow", OWN])
    assert said.exit_code == 0, said.output
    policy = make_policy("ppo:a.safetensors", [OWN])
    assert policy.card.view.base == OWN  # type: ignore[attr-defined]
    digest = policy_digest("ppo:a.safetensors", policy)
    (folder / f"{MODULE}.py").write_text(CODE.replace("0.5", "0.6"))
    assert policy_digest("ppo:a.safetensors", policy) != digest  # the rule is part of the policy
    assert score(folder / "run" / "model.zip", [scenario], allow=[OWN])


def test_a_run_that_names_a_rule_is_resumed_only_with_leave(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        interrupt_at_step(patch, 12)
        with pytest.raises(TrainingInterrupted):
            train(small_config(folder / "run", settings=RESIDUAL, decisions=96), progress=False)
    forget()
    with pytest.raises(ConfigError, match=f"--allow {OWN}"):
        resume(folder / "run", progress=False)
    said = CliRunner().invoke(app, ["train", "--resume", "run", "-q"])
    assert said.exit_code == 2 and "--allow" in said.output
    assert MODULE not in sys.modules
    assert resume(folder / "run", progress=False, allow=[OWN]).decisions == 96


def test_a_config_file_that_names_a_rule_needs_leave(folder: Path) -> None:
    config = small_config(folder / "run", settings=RESIDUAL, decisions=32)
    asked = json.loads(config.model_dump_json(exclude_none=True))
    (folder / "train.yaml").write_text(yaml.safe_dump(asked))
    command = ["train", "--config", "train.yaml", "-q"]
    said = CliRunner().invoke(app, command)
    assert said.exit_code == 2 and "--allow" in said.output and MODULE not in sys.modules
    said = CliRunner().invoke(app, [*command, "--allow", OWN])
    assert said.exit_code == 0, said.output
    asked["settings"].pop("base")
    (folder / "train.yaml").write_text(yaml.safe_dump(asked))
    said = CliRunner().invoke(app, [*command, "--overwrite", "--set", f"base={OWN}"])
    assert said.exit_code == 0, said.output  # typed
