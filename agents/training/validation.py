"""Keep the policy that does best on validation seeds, since the last one is seldom the best.

Learning on a noisy tail wanders: a PPO policy that was as good as a tuned rule after one minute may
be worse after ten. Every few rounds the deterministic policy plays the same validation episodes,
and the weights with the highest mean reward become the model. Validation seeds are neither training
nor evaluation seeds, so the choice does not flatter the result.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from helm_gym.agents.training.sb3.agent_env import AgentVecEnv

FIRST_SEED = 1_900_000_000
"""Of a single scenario; a suite has a split of its own for that."""


class Validator:
    """Plays validation episodes and remembers the best weights.

    Args:
        env: of its own, not the one that is trained on; None validates nothing, and the last
            weights stay.
        steps: windows per episode.
        every: updates between two validations.
        first_seed: validation cluster i plays seed ``first_seed + i``.
    """

    def __init__(
        self, env: AgentVecEnv | None, steps: int, every: int, first_seed: int = FIRST_SEED
    ) -> None:
        self._env, self._steps, self._every = env, steps, every
        self._first_seed = first_seed
        self.best: dict[str, torch.Tensor] = {}
        self.best_reward = float("-inf")
        self.best_at = 0  # decisions
        self.considered_at = -1  # decisions

    def due(self, updates: int) -> bool:
        """Whether the policy after so many updates is a candidate."""
        return self._env is not None and updates % self._every == 0

    def consider(self, model: Any) -> float:
        """Play one episode per cluster, and keep the weights if they are the best so far.

        Returns:
            Mean reward per window; NaN where nothing is validated.
        """
        if self._env is None:
            return float("nan")
        self._env.seed(self._first_seed)
        seen: Any = self._env.reset()
        total, state = 0.0, None  # what a recurrent policy remembers
        starts = np.ones(self._env.num_envs, np.bool_)
        for _ in range(self._steps):
            output, state = model.predict(seen, state, starts, deterministic=True)
            seen, rewards, starts, _ = self._env.step(output)
            total += float(np.mean(rewards, dtype=np.float64))
        reward = total / self._steps
        self.considered_at = model.num_timesteps
        if reward > self.best_reward:
            self.best_reward, self.best_at = reward, model.num_timesteps
            self.best = {k: v.clone() for k, v in model.policy.state_dict().items()}
        return reward

    def choose(self, model: Any) -> int:
        """Give the model the best weights, its present ones included.

        Returns:
            Decisions after which it had them.
        """
        if self._env is None:
            return int(model.num_timesteps)
        if self.considered_at != model.num_timesteps:
            self.consider(model)
        model.policy.load_state_dict(self.best)
        return self.best_at

    @property
    def chosen_reward(self) -> float | None:
        """Mean reward per window of the best weights; None if nothing was validated."""
        return self.best_reward if self.considered_at >= 0 else None

    def get_state(self) -> dict[str, Any]:
        """What a checkpoint needs."""
        return {
            "best": self.best,
            "reward": self.best_reward,
            "at": self.best_at,
            "considered_at": self.considered_at,
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`get_state`."""
        self.best = dict(state["best"])
        self.best_reward, self.best_at = state["reward"], state["at"]
        self.considered_at = state["considered_at"]

    def close(self) -> None:
        """Close the validation environment."""
        if self._env is not None:
            self._env.close()
