"""Policies that learn: what they are, how they are trained, and how they are deployed.

The rooms, each of which uses those above it only:

* ``models``: what a trained network is, and the files that hold one.
* ``adapter``: the residual that is learned online.
* ``layers``: policies around a policy (anchored, adapted, recovered, and ``helm`` of all three).
* ``controller``: telemetry in, shares out, without an environment.
* ``training``: everything that needs torch; it uses ``models`` and none of the other three.

``sb3_vec_env`` makes Stable-Baselines3 take the vector environment. The names below load their
module when they are first used, so torch is needed for ``train`` and ``Sb3VecEnv`` only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from helm_gym.lazy import exports

if TYPE_CHECKING:
    from helm_gym.agents.adapter.config import ResidualConfig
    from helm_gym.agents.controller.controller import HelmController
    from helm_gym.agents.layers.adapted import AdaptedPolicy
    from helm_gym.agents.layers.anchored import Anchor, AnchoredPolicy
    from helm_gym.agents.layers.helm import HelmPolicy
    from helm_gym.agents.layers.recovered import RecoveredPolicy
    from helm_gym.agents.models.trained import TrainedPolicy
    from helm_gym.agents.sb3_vec_env import Sb3VecEnv
    from helm_gym.agents.training.plan import TrainConfig
    from helm_gym.agents.training.train import train

__all__ = [
    "AdaptedPolicy",
    "Anchor",
    "AnchoredPolicy",
    "HelmController",
    "HelmPolicy",
    "RecoveredPolicy",
    "ResidualConfig",
    "Sb3VecEnv",
    "TrainConfig",
    "TrainedPolicy",
    "train",
]

__getattr__, __dir__ = exports(
    __name__,
    {
        "AdaptedPolicy": "layers.adapted",
        "Anchor": "layers.anchored",
        "AnchoredPolicy": "layers.anchored",
        "HelmController": "controller.controller",
        "HelmPolicy": "layers.helm",
        "RecoveredPolicy": "layers.recovered",
        "ResidualConfig": "adapter.config",
        "Sb3VecEnv": "sb3_vec_env",
        "TrainConfig": "training.plan",
        "TrainedPolicy": "models.trained",
        "train": "training.train",
    },
)
