"""Wrappers: HELM's seven increments in place of a continuous share.

An environment made with ``action="choice"`` takes them without a wrapper. These are for one that
something else already wraps, such as burst recovery, which overrides shares.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import VectorActionWrapper, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from helm_gym.envs.action import choice_space, chosen_increments
from helm_gym.envs.single_env import EmbKvEnv
from helm_gym.envs.vector_env import EmbKvVectorEnv
from helm_gym.errors import ConfigError

Floats = NDArray[np.float64]


class DeltaAction(gym.ActionWrapper[Any, Any, Any], RecordConstructorArgs):
    """Choose one of HELM's seven increments of the share in force: ``Discrete(7)``.

    With ``control="per_node"`` every node has its own choice: ``MultiDiscrete([7] * M)``.

    Args:
        env: an :class:`EmbKvEnv`, wrapped or not.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        if not isinstance(env.unwrapped, EmbKvEnv):
            raise ConfigError(
                f"DeltaAction changes an EMB share, but {env} has none; wrap an EmbKvEnv, and a "
                "vector environment in VectorDeltaAction"
            )
        _need_shares(env.unwrapped.vector_env, "DeltaAction")
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        self._base = env.unwrapped.vector_env
        self.action_space = choice_space(self._base.layout.shares_per_row)

    def action(self, action: Any) -> Floats:
        """The EMB share that an index, or one per node, asks for."""
        shares = self._base.layout.row_shares(self._base.shares)[0]
        return np.asarray(shares + chosen_increments(action, shares.shape))


class VectorDeltaAction(VectorActionWrapper):
    """The same for a vector environment: one index per row, or (num_envs, M) with ``per_node``.

    Args:
        env: an :class:`EmbKvVectorEnv`, wrapped or not.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        base = env.unwrapped
        if not isinstance(base, EmbKvVectorEnv):
            raise ConfigError(
                f"VectorDeltaAction changes EMB shares, but {env} has none; wrap an EmbKvVectorEnv"
            )
        _need_shares(base, "VectorDeltaAction")
        super().__init__(env)  # after the checks: a refused wrapper closes what it wraps
        self._base = base
        self.single_action_space = choice_space(base.layout.shares_per_row)
        self.action_space = batch_space(self.single_action_space, base.num_envs)

    def actions(self, actions: Any) -> Floats:
        """(rows, shares per row) EMB shares that the indices ask for."""
        shares = self._base.layout.row_shares(self._base.shares)
        return shares + chosen_increments(actions, shares.shape)


def _need_shares(base: EmbKvVectorEnv, wrapper: str) -> None:
    if base.action != "share":
        raise ConfigError(
            f"{wrapper} makes indices of increments into EMB shares, but with "
            f"action={base.action!r} the environment takes indices itself; leave out {wrapper}"
        )
