"""``ppo.yaml`` and the settings it holds."""

from __future__ import annotations

from importlib import resources

import pytest

pytest.importorskip("stable_baselines3")

import helm_gym
from helm_gym.agents.training.hyperparameters import (
    KEYS,
    best_batch,
    load_hyperparameters,
    shipped_entries,
)
from helm_gym.errors import ConfigError


def test_there_is_one_entry_per_id_and_control() -> None:
    assert shipped_entries().keys() == set(KEYS.values())
    shares = {name for name, made in helm_gym.ENV_IDS.items() if "action" not in made}
    assert {key.partition(":")[0] for key in KEYS.values()} == shares


@pytest.mark.parametrize("control", KEYS)
def test_every_entry_is_valid_and_trains_on_whole_large_batches(control: str) -> None:
    settings = load_hyperparameters(control)
    rows = settings.clusters * (32 if control == "node" else 1)
    rollout = rows * settings.n_steps
    assert rollout % settings.batch(rows) == 0
    assert settings.batch(rows) >= min(rollout, 512)


def test_every_value_says_where_it_comes_from() -> None:
    text = resources.files("helm_gym.agents.training").joinpath("ppo.yaml").read_text("utf-8")
    bare = [line for line in text.splitlines() if line.startswith("  ") and "#" not in line]
    assert bare == []


def test_changes_replace_settings() -> None:
    changed = load_hyperparameters("cluster", {"gamma": 0.5})
    assert changed.gamma == 0.5
    assert changed.n_steps == load_hyperparameters("cluster").n_steps


@pytest.mark.parametrize(
    ("control", "changes", "hint"),
    [
        ("nodes", {}, "did you mean 'node'"),
        ("cluster", {"gama": 0.9}, "did you mean 'gamma'"),
        ("cluster", {"gamma": 1.5}, "gamma"),
        ("cluster", {"action": "delta"}, "target"),
        ("cluster", {"learning_rate": "fast"}, "learning_rate"),
    ],
)
def test_unknown_names_and_impossible_values_are_refused(
    control: str, changes: dict, hint: str
) -> None:
    with pytest.raises(ConfigError, match=hint):
        load_hyperparameters(control, changes)


@pytest.mark.parametrize(
    ("rollout", "batch"),
    [(24576, 4096), (768, 768), (4096, 4096), (5000, 2500), (8194, 482), (2, 2)],
)
def test_the_best_batch_is_the_largest_divisor_up_to_4096(rollout: int, batch: int) -> None:
    assert best_batch(rollout) == batch
    assert rollout % batch == 0


def test_a_prime_rollout_is_one_batch() -> None:
    assert best_batch(4099) == 4099


def test_a_batch_that_leaves_a_rest_is_refused_with_one_that_does_not() -> None:
    settings = load_hyperparameters("cluster", {"batch_size": 500, "n_steps": 48})
    with pytest.raises(ConfigError, match=r"500 does not divide .* Use 384"):
        settings.batch(16)
