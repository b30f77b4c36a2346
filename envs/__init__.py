"""Gymnasium environments over the serving simulator; names load their module when first used.

The core is ``vector_env``; ``single_env`` is its view with one cluster, ``wrappers``, ``recovery``
and ``mixture`` stand around it. ``observation``, ``action`` and ``reward`` say what goes in and
out, ``reading`` turns observations back into figures, and ``checkers`` proves what users rely on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from helm_gym.lazy import exports

if TYPE_CHECKING:
    from helm_gym.envs.checkers import check_vector_env, rollout_digest
    from helm_gym.envs.observation import FEATURES
    from helm_gym.envs.reward import RewardConfig
    from helm_gym.envs.single_env import EmbKvEnv
    from helm_gym.envs.vector_env import EmbKvVectorEnv
    from helm_gym.envs.wrappers import DeltaAction, VectorDeltaAction

__all__ = [
    "EmbKvEnv",
    "EmbKvVectorEnv",
    "DeltaAction",
    "VectorDeltaAction",
    "RewardConfig",
    "FEATURES",
    "check_vector_env",
    "rollout_digest",
]

__getattr__, __dir__ = exports(
    __name__,
    {
        "EmbKvEnv": "single_env",
        "EmbKvVectorEnv": "vector_env",
        "DeltaAction": "wrappers",
        "VectorDeltaAction": "wrappers",
        "RewardConfig": "reward",
        "FEATURES": "observation",
        "check_vector_env": "checkers",
        "rollout_digest": "checkers",
    },
)
