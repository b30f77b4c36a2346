"""Learning in fewer calls: the same weights and the same log as Stable-Baselines3's own PPO."""

from __future__ import annotations

import copy
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from small import SMALL
from stable_baselines3 import PPO
from stable_baselines3.common.logger import Logger
from training_runs import assert_same_run

from helm_gym.agents.training.sb3.exploration import CoherentPolicy
from helm_gym.agents.training.sb3.learning import OPTIMIZER, ChoicePpo
from helm_gym.agents.training.sb3.losses import squash, unsquash
from helm_gym.agents.training.train import TrainConfig, train

ROWS, STEPS, INPUTS, CHOICES = 16, 24, 10, 7


class Spaces(gym.Env):
    """An environment that is only looked at."""

    observation_space = spaces.Box(-1.0, 1.0, (INPUTS,), np.float32)
    action_space = spaces.Discrete(CHOICES)


def filled(kind: type[PPO], **changes: object) -> PPO:
    """A model whose buffer holds a rollout of chance, the same for every kind."""
    named = {"nodes": 4, "coherence": 0.5, "optimizer_kwargs": OPTIMIZER}
    settings = {"n_steps": STEPS * ROWS, "batch_size": 64, "n_epochs": 4, "gamma": 0.9, **changes}
    model = kind(CoherentPolicy, Spaces(), policy_kwargs=named, seed=3, device="cpu", **settings)  # type: ignore[arg-type]
    model.set_logger(Logger(None, []))
    rng = np.random.default_rng(5)
    for _ in range(STEPS * ROWS):
        seen = rng.uniform(-1.0, 1.0, (1, INPUTS)).astype(np.float32)
        with torch.no_grad():
            values = model.policy.predict_values(torch.as_tensor(seen))
        choice = rng.integers(CHOICES, size=(1, 1))
        log = torch.as_tensor(rng.normal(-1.9, 0.2, 1), dtype=torch.float32)
        reward, first = rng.normal(size=1), rng.random(1) < 0.1
        model.rollout_buffer.add(seen, choice, reward, first, values, log)
    model.rollout_buffer.compute_returns_and_advantage(values, np.ones(1))
    return model


def learn(model: PPO) -> PPO:
    np.random.seed(7)  # noqa: NPY002  (SB3 shuffles with the global generator)
    model.train()
    return model


def weights(model: PPO) -> torch.Tensor:
    return torch.cat([part.detach().flatten() for part in model.policy.parameters()])


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"ent_coef": 0.05, "vf_coef": 1.3, "max_grad_norm": 0.01},
        {"normalize_advantage": False, "clip_range": 0.05},
        {"target_kl": 0.03, "n_epochs": 10},
    ],
    ids=["plain", "weights", "tight", "stopped by divergence"],
)
def test_weights_and_log_are_those_of_sb3(changes: dict[str, object]) -> None:
    own, theirs = filled(ChoicePpo, **changes), filled(PPO, **changes)
    before = weights(theirs)
    assert torch.equal(weights(own), before)
    learn(own)
    learn(theirs)
    moved = (weights(theirs) - before).abs().max()
    assert moved > 1e-3
    assert torch.allclose(weights(own), weights(theirs), rtol=0.0, atol=2e-5 * float(moved))
    logs = own.logger.name_to_value, theirs.logger.name_to_value
    assert logs[0].keys() == logs[1].keys()
    assert own._n_updates == theirs._n_updates
    for name, value in logs[1].items():
        assert logs[0][name] == pytest.approx(value, rel=1e-4, abs=1e-6), name


def test_same_seed_same_bits() -> None:
    one, other = learn(filled(ChoicePpo)), learn(filled(ChoicePpo))
    assert torch.equal(weights(one), weights(other))


def test_it_leaves_sb3_what_it_learns_with() -> None:
    """A second round, after the optimizer has a state and the gradients have places."""
    own, theirs = learn(filled(ChoicePpo)), learn(filled(PPO))
    for model in (own, theirs):
        model.rollout_buffer = copy.deepcopy(filled(PPO).rollout_buffer)
        learn(model)
    assert torch.allclose(weights(own), weights(theirs), rtol=0.0, atol=1e-5)


def test_a_run_over_scenarios_ends_with_the_same_bits_on_one_thread_and_on_two(
    tmp_path: Path,
) -> None:
    """Choices that nodes explore together, as the recipe of the released policy has it."""
    named = [{**copy.deepcopy(SMALL), "name": name} for name in ("one", "two")]
    suite = {"name": "tiny", "training": named, "loads": [0.7, 0.9]}
    settings = {"n_steps": 4, "batch_size": 48, "n_epochs": 2, "action": "choice", "bound": 0.06}
    for threads in (1, 2):
        values = {"suite": suite, "decisions": 96, "threads": threads, "checkpoint_s": 0.0}
        asked = {**values, "settings": {**settings, "clusters": 4, "coherence": 0.5}}
        config = TrainConfig.parse({**asked, "run_dir": str(tmp_path / str(threads))}, "test")
        train(config, progress=False)
    assert_same_run(tmp_path / "1", tmp_path / "2")


def test_squash_is_tanh() -> None:
    numbers = np.concatenate([np.linspace(-12.0, 12.0, 4001), np.geomspace(1e-30, 1.0, 95)])
    rows = numbers.astype(np.float32).reshape(-1, 64)
    found = rows.copy()
    squash(found)
    exact = np.tanh(rows.astype(np.float64))
    assert np.abs(found - exact).max() < 4e-7
    np.testing.assert_allclose(found, exact, rtol=1e-6)
    gradient = np.ones_like(rows)
    unsquash(gradient, found)
    np.testing.assert_allclose(gradient, 1.0 - exact**2, rtol=0.0, atol=1e-6)
