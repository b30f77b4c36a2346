"""Exploration that a cluster's nodes share in part, so that its effect shows in their reward.

All nodes of a cluster get the cluster's reward. Where each explores by itself, the effect of one
node's deviation is an M-th of what the reward is about, and the noise of all others hides it. Here
a part of every node's deviation, the coherence, is the same for all nodes of its cluster: what
moves all of them moves the reward.

Each row's action is still distributed as its own network says (a Gaussian copula correlates rows,
not their distributions), so the probabilities that PPO compares are right row by row. What changes
is the gradient: its part along which all nodes move alike is weighted up to M times the rest. For
nodes that see the same that is a larger step; what tells nodes apart is learned from the remainder.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from stable_baselines3.common.distributions import CategoricalDistribution
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor


class CoherentPolicy(ActorCriticPolicy):
    """SB3's actor and critic, whose rows explore together.

    Args:
        nodes: successive rows that explore together, M.
        coherence: part of the variance that they share, from 0 to 1.
        arguments: as SB3's class has them.
    """

    def __init__(self, *arguments: Any, nodes: int, coherence: float, **named: Any) -> None:
        self.nodes, self.coherence = nodes, coherence
        super().__init__(*arguments, **named)

    def forward(self, obs: Tensor, deterministic: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Actions, values and log probabilities of a window."""
        if deterministic:
            return super().forward(obs, deterministic)
        features: Any = self.extract_features(obs)
        latent, seen = self.mlp_extractor(features)
        chosen = self._get_action_dist_from_latent(latent)
        actions = self._drawn(chosen)
        log_prob = chosen.log_prob(actions)
        return actions.reshape((-1, *self.action_space.shape)), self.value_net(seen), log_prob  # type: ignore[misc]

    def _drawn(self, chosen: Any) -> Tensor:
        """An action per row, from correlated standard normal numbers."""
        if isinstance(chosen, CategoricalDistribution):
            # Choices are in order, so nodes that draw alike step in the same direction.
            probabilities = chosen.distribution.probs
            place = torch.special.ndtr(self._normal(len(probabilities), 1))
            below = probabilities.cumsum(dim=1)[:, :-1] < place
            choice: Tensor = below.sum(dim=1)
            return choice
        normal = chosen.distribution
        drawn: Tensor = normal.mean + normal.stddev * self._normal(*normal.mean.shape)
        return drawn

    def _normal(self, rows: int, outputs: int) -> Tensor:
        """(rows, outputs) standard normal numbers, correlated within clusters."""
        common = torch.randn(rows // self.nodes, outputs).repeat_interleave(self.nodes, dim=0)
        own = torch.randn(rows, outputs)
        return math.sqrt(self.coherence) * common + math.sqrt(1.0 - self.coherence) * own

    def _get_constructor_parameters(self) -> dict[str, Any]:
        named = {"nodes": self.nodes, "coherence": self.coherence}
        return {**super()._get_constructor_parameters(), **named}
