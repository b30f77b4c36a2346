"""Gymnasium environments over the serving simulator; names load their module when first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

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

_ROOMS = {
    "EmbKvEnv": "single_env",
    "EmbKvVectorEnv": "vector_env",
    "DeltaAction": "wrappers",
    "VectorDeltaAction": "wrappers",
    "RewardConfig": "reward",
    "FEATURES": "observation",
    "check_vector_env": "checkers",
    "rollout_digest": "checkers",
}


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_ROOMS[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
