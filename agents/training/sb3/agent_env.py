"""An environment as an agent's network sees it, for training with SB3."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from helm_gym.agents.models.view import STEPS, View
from helm_gym.agents.sb3_vec_env import Sb3VecEnv
from helm_gym.errors import ConfigError

Array = NDArray[Any]


class AgentVecEnv(VecEnvWrapper):
    """An :class:`Sb3VecEnv` as a network sees it.

    Args:
        venv: over an ``EmbKvVectorEnv``.
        view: the connection.
        group: so many successive clusters (a divisor of their number) get the same seed, so
            meet the same requests, and each is rewarded relative to the mean of the others. That
            takes the luck of the requests out of the reward and leaves its expected gradient:
            what the others earn does not depend on this cluster's actions. Episode statistics
            stay absolute.
        allow: classes, as ``module:Class``, that may be imported as the rule to correct.
    """

    venv: Sb3VecEnv

    def __init__(
        self, venv: Sb3VecEnv, view: View, group: int = 1, allow: Collection[str] = ()
    ) -> None:
        self.rows_per_cluster = view.nodes if view.control == "node" else 1
        self.view, self.group = view, group
        self._base = view.load_base(allow, "the plan")
        self._seen: Array = np.zeros(0, np.float32)  # the environment's own observation
        super().__init__(
            venv,
            spaces.Box(*_bounds(venv), (view.inputs,), np.float32),
            _actions(view),
        )

    def seed(self, seed: int | None = None) -> Any:
        """Seed the clusters from ``seed`` on, one number per group."""
        if self.group > 1 and seed is not None:
            clusters = self.num_envs // self.rows_per_cluster
            self.venv.seed_list([seed + cluster // self.group for cluster in range(clusters)])
            return self.venv._seeds
        return self.venv.seed(seed)

    def reset(self) -> NDArray[np.float32]:
        """Begin an episode everywhere; see :meth:`Sb3VecEnv.reset`."""
        self._seen = np.asarray(self.venv.reset())
        if self._base is not None:
            self._base.reset(0)
        return self.view.see(self._seen)

    def step_async(self, actions: Array) -> None:
        """Take the network's output."""
        self.venv.step_async(self.view.shares(actions, self._seen, self._base))

    def step_wait(self) -> VecEnvStepReturn:
        """Step all rows; see :meth:`Sb3VecEnv.step_wait`."""
        observations, rewards, dones, infos = self.venv.step_wait()
        self._seen = np.asarray(observations)
        ended = np.flatnonzero(dones).tolist()
        if ended:
            last = self._seen.copy()  # the other rows of a cluster give the context
            last[ended] = [infos[row]["terminal_observation"] for row in ended]
            for row, seen in zip(ended, self.view.see(last)[ended], strict=True):
                infos[row]["terminal_observation"] = seen
        return self.view.see(self._seen), self._relative(rewards), dones, infos

    def get_state(self) -> dict[str, Any]:
        """What a checkpoint needs."""
        return {"seen": self._seen.copy(), "venv": self.venv.get_state()}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`get_state`."""
        self._seen = np.array(state["seen"])
        self.venv.set_state(state["venv"])

    def _relative(self, rewards: Array) -> Array:
        if self.group == 1:
            return rewards
        grouped = rewards.reshape(-1, self.group, self.rows_per_cluster).astype(np.float64)
        # r_i less the mean of the others.
        relative = (grouped - grouped.mean(axis=1, keepdims=True)) * self.group / (self.group - 1)
        return np.asarray(relative.reshape(-1), np.float32)


def _actions(view: View) -> spaces.Space[Any]:
    """What a network may answer: numbers in [-1, 1], or the index of a step."""
    if view.action == "choice":
        return spaces.Discrete(len(STEPS))
    return spaces.Box(-1.0, 1.0, (view.outputs,), np.float32)


def _bounds(venv: Sb3VecEnv) -> tuple[float, float]:
    """Widest bounds of the environment's features: SB3 reads them, learning does not."""
    space = venv.observation_space
    if not isinstance(space, spaces.Box):
        raise ConfigError(f"need a Box observation, got {space}")
    return float(np.min(space.low)), float(np.max(space.high))
