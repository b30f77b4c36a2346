"""Which trained networks are small MLPs that the controller and ONNX can run, and their layers."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from helm_gym.agents.models.trained import TrainedPolicy
from helm_gym.envs.observation import FEATURES
from helm_gym.errors import ConfigError

Array = NDArray[Any]
Layers = list[tuple[Array, Array]]
"""Weights (out, in) and biases (out,) of each layer."""
MOST_LAYERS = 4  # hidden layers of a base


def layers_of(base: TrainedPolicy) -> Layers:
    """Weights (out, in) and biases (out,) of a base that the decision path can run.

    Raises:
        ConfigError: it cannot.
    """
    card, view = base.card, base.card.view
    layers: Layers = base.actor.layers
    names = tuple(feature.name for feature in FEATURES["extended"])
    wrong = ""
    if card.algorithm != "ppo" or view.action not in ("target", "increment", "choice"):
        wrong = f"a network of {card.algorithm} with action {view.action!r}"
    elif view.control != "node":
        wrong = f"control {view.control!r}"
    elif view.features != names[: len(view.features)]:
        wrong = f"the observation {view.observation!r}"
    elif not 2 <= len(layers) <= MOST_LAYERS + 1:
        wrong = f"{len(layers) - 1} hidden layers"
    if wrong:
        raise ConfigError(
            f"{base.path}: has {wrong}, but the controller runs MLPs of PPO, with 1 to "
            f"{MOST_LAYERS} hidden layers, that decide node by node (control 'node', action "
            "'target', 'increment' or 'choice') on what 'extended' begins with; deploy it as a "
            "TrainedPolicy"
        )
    return layers
