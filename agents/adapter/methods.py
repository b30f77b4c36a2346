"""How a residual is improved: by the caches' own marginal values.

A method sees windows and returns new weights; it never touches the weights in force. The learner
scales its steps, because it knows how far P99 is from its average.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from helm_gym.agents.adapter.config import ResidualConfig
from helm_gym.agents.adapter.net import ResidualWeights, gradient, outputs
from helm_gym.agents.adapter.signals import Outcome, slope

Floats = NDArray[np.float64]
TINY = 1e-8  # keeps divisions finite
WOUND_UP = 0.95  # part of the bound beyond which an output is not pushed further out
LONGEST = 10.0  # longest step in weights; only a network without gradient would ask for more


class Marginal:
    """Gradient by a model: ghosts say what a larger share would save, queues what that is worth.

    Every window gives every node a slope of the cluster's delay by its share, so nothing has to be
    explored. The network's output moves along it by a normalised gradient step: ``step`` is the
    share by which one window of full agreement of all nodes moves the mean output.
    """

    def __init__(self, config: ResidualConfig, nodes: int) -> None:
        self._config, self._nodes = config, nodes
        self._smooth: Floats = np.zeros((4, nodes))
        self._seen = 0

    def learn(
        self, weights: ResidualWeights, features: Floats, seen: Outcome, rate: float
    ) -> ResidualWeights:
        """Take one step along the slopes of the window that a decision led to.

        Args:
            weights: in force.
            features: (M, I) that the decision saw.
            seen: what the window cost.
            rate: factor of the step.

        Returns:
            Better weights.
        """
        config = self._config
        keep = config.smoothing if self._seen else 0.0
        self._seen += 1
        self._smooth = keep * self._smooth + (1.0 - keep) * seen.marginal
        towards = slope(self._smooth, config.kv_discount)
        output = outputs(weights, features)
        towards = np.where(output * np.sign(towards) > WOUND_UP, 0.0, towards)
        # Divided by tanh's slope, a step moves the output equally far near the bound and at zero.
        even = 1.0 / (self._nodes * np.maximum(1.0 - output**2, TINY))
        direction = gradient(weights, features, towards * even)
        length = _squared(gradient(weights, features, even))
        bound, step = config.reach
        moved = step / bound * rate
        return _add(weights, direction, min(moved / max(length, TINY), LONGEST))

    def state(self) -> dict[str, Any]:
        """The smoothed signals, and how many windows were seen."""
        return {"smooth": self._smooth, "seen": self._seen}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state` gave."""
        self._smooth, self._seen = state["smooth"].copy(), state["seen"]


def make_method(config: ResidualConfig, nodes: int) -> Marginal | None:
    """The method that a config names; None where nothing is to be learned."""
    return Marginal(config, nodes) if config.method == "marginal" else None


def _add(weights: ResidualWeights, direction: ResidualWeights, size: float) -> ResidualWeights:
    return ResidualWeights(*(w + size * d for w, d in zip(weights, direction, strict=True)))


def _squared(vector: ResidualWeights) -> float:
    return float(sum(np.vdot(part, part) for part in vector))
