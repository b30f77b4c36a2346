"""Wrappers: HELM's seven increments in place of a continuous share."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Discrete, MultiDiscrete, Space
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import VectorActionWrapper, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from helm_gym.envs.action import INCREMENTS
from helm_gym.envs.single_env import EmbKvEnv
from helm_gym.envs.vector_env import EmbKvVectorEnv
from helm_gym.errors import ConfigError, InvalidAction

Floats = NDArray[np.float64]

_STEPS = np.array(INCREMENTS)


def _space(shares: int) -> Space[Any]:
    return Discrete(len(INCREMENTS)) if shares == 1 else MultiDiscrete([len(INCREMENTS)] * shares)


def _increments(choice: Any, shape: tuple[int, ...]) -> Floats:
    """Changes of the share that indices into :data:`INCREMENTS` stand for."""
    array = np.asarray(choice)
    if array.dtype.kind not in "iu" or array.size != np.prod(shape, dtype=int):
        raise InvalidAction(
            f"action {choice!r:.60} is not an integer index per share; the shape is {shape} and "
            f"0 to {len(INCREMENTS) - 1} stand for {INCREMENTS}"
        )
    if array.size and (array.min() < 0 or array.max() >= len(INCREMENTS)):
        raise InvalidAction(
            f"action {choice!r:.60} names no increment; 0 to {len(INCREMENTS) - 1} stand for "
            f"{INCREMENTS}"
        )
    return np.asarray(_STEPS[array.reshape(shape)])


class DeltaAction(gym.ActionWrapper[Any, Any, Any], RecordConstructorArgs):
    """Choose one of :data:`INCREMENTS` on the share in force: ``Discrete(7)``.

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
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        self._base = env.unwrapped.vector_env
        self.action_space = _space(self._base.layout.shares_per_row)

    def action(self, action: Any) -> Floats:
        """The EMB share that an index, or one per node, asks for."""
        shares = self._base.layout.row_shares(self._base.shares)[0]
        return np.asarray(shares + _increments(action, shares.shape))


class VectorDeltaAction(VectorActionWrapper):
    """The same for a vector environment: one index per row, or (num_envs, M) with ``per_node``.

    Args:
        env: an :class:`EmbKvVectorEnv`, wrapped or not.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        super().__init__(env)
        base = env.unwrapped
        if not isinstance(base, EmbKvVectorEnv):
            raise ConfigError(
                f"VectorDeltaAction changes EMB shares, but {env} has none; wrap an EmbKvVectorEnv"
            )
        self._base = base
        self.single_action_space = _space(base.layout.shares_per_row)
        self.action_space = batch_space(self.single_action_space, base.num_envs)

    def actions(self, actions: Any) -> Floats:
        """(rows, shares per row) EMB shares that the indices ask for."""
        shares = self._base.layout.row_shares(self._base.shares)
        return shares + _increments(actions, shares.shape)
