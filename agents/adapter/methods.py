"""How a residual is improved: by the caches' own marginal values, or by PPO.

Both see windows and return new weights; neither touches the weights in force. Steps are scaled by
the learner, which knows how far P99 is from its average.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from helm_gym.agents.adapter.config import ResidualConfig
from helm_gym.agents.adapter.net import ResidualWeights, gradient, outputs
from helm_gym.agents.adapter.signals import Outcome, slope

Floats = NDArray[np.float64]
RIDGE = 1.0  # of the critic, in windows' worth of evidence; untuned
FORGET = 0.8  # what a batch before still counts to the critic; untuned
BETA1, BETA2, TINY = 0.9, 0.999, 1e-8  # Adam's own
WOUND_UP = 0.95  # part of the bound beyond which an output is not pushed further out
LONGEST = 10.0  # longest step in weights; only a network without gradient would ask for more


class Method(Protocol):
    """What turns windows into weights."""

    def explore(self, rng: np.random.Generator) -> Floats:
        """(M,) offsets of the next decision, in parts of the bound."""
        ...

    def learn(
        self, weights: ResidualWeights, features: Floats, seen: Outcome, rate: float
    ) -> ResidualWeights | None:
        """Take in the window that a decision led to.

        Args:
            weights: in force.
            features: (M, I) that the decision saw.
            seen: what the window cost.
            rate: factor of the step.

        Returns:
            Better weights, or None where there is nothing to learn yet.
        """
        ...

    def state(self) -> dict[str, Any]:
        """Everything that changes."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state` gave."""
        ...


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

    def explore(self, rng: np.random.Generator) -> Floats:
        """Nothing."""
        return np.zeros(self._nodes)

    def learn(
        self, weights: ResidualWeights, features: Floats, seen: Outcome, rate: float
    ) -> ResidualWeights | None:
        """One step along the slopes of this window."""
        config = self._config
        keep = config.smoothing if self._seen else 0.0
        self._seen += 1
        self._smooth = keep * self._smooth + (1.0 - keep) * seen.marginal
        towards = slope(self._smooth, config.kv_discount)
        output = outputs(weights, features)
        towards = np.where(output * np.sign(towards) > WOUND_UP, 0.0, towards)
        # By what the last tanh is given, so that a step is as long near the bound as at zero.
        even = 1.0 / (self._nodes * np.maximum(1.0 - output**2, TINY))
        direction = gradient(weights, features, towards * even)
        length = _squared(gradient(weights, features, even))
        bound, step = config.reach
        moved = step / bound * rate
        return _add(weights, direction, min(moved / max(length, TINY), LONGEST))

    def state(self) -> dict[str, Any]:
        """Smoothed signals."""
        return {"smooth": self._smooth, "seen": self._seen}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state` gave."""
        self._smooth, self._seen = state["smooth"].copy(), state["seen"]


class Ppo:
    """PPO on the residual (Schulman et al. 2017), the reference method.

    The policy is normal around the network's output, and the reward is the cluster's. A linear
    critic and GAE make advantages of it.
    """

    def __init__(self, config: ResidualConfig, nodes: int, inputs: int) -> None:
        self._config, self._nodes = config, nodes
        self._noise: Floats = np.zeros(nodes)  # of the decision under way, in parts of the bound
        self._held = 0
        self._features: Floats = np.zeros((0, nodes, inputs))
        self._actions: Floats = np.zeros((0, nodes))
        self._means: Floats = np.zeros((0, nodes))
        self._rewards: Floats = np.zeros((0, nodes))
        self._gram: Floats = RIDGE * np.eye(inputs + 1)  # of the critic
        self._moment: Floats = np.zeros(inputs + 1)
        sizes = inputs, config.hidden
        self._first = _zeros(*sizes)
        self._second = _zeros(*sizes)
        self._steps = 0

    def explore(self, rng: np.random.Generator) -> Floats:
        """Normal noise, the same for all nodes: they share one reward, so they move together."""
        if self._held % self._config.hold == 0:
            self._noise = np.full(self._nodes, self._config.exploration * rng.standard_normal())
        self._held += 1
        return self._noise

    def learn(
        self, weights: ResidualWeights, features: Floats, seen: Outcome, rate: float
    ) -> ResidualWeights | None:
        """Keep the window; improve the policy once there are ``rollout`` of them."""
        mean = outputs(weights, features)
        self._features = np.append(self._features, features[None], axis=0)
        self._means = np.append(self._means, mean[None], axis=0)
        self._actions = np.append(self._actions, (mean + self._noise)[None], axis=0)
        reward = np.full((1, self._nodes), seen.reward)
        self._rewards = np.append(self._rewards, reward, axis=0)
        if len(self._rewards) < self._config.rollout:
            return None
        improved = self._improve(weights, rate)
        for name in ("_features", "_actions", "_means", "_rewards"):
            setattr(self, name, getattr(self, name)[:0])
        return improved

    def _improve(self, weights: ResidualWeights, rate: float) -> ResidualWeights:
        config = self._config
        advantage = self._advantages()
        flat = self._features.reshape(-1, self._features.shape[2])
        actions, means = self._actions.reshape(-1), self._means.reshape(-1)
        gain = advantage.reshape(-1)
        gain = (gain - gain.mean()) / (gain.std() + TINY)
        variance = config.exploration**2
        for _ in range(config.epochs):
            now = outputs(weights, flat)
            log = ((actions - means) ** 2 - (actions - now) ** 2) / (2.0 * variance)
            ratio = np.exp(np.clip(log, -20.0, 20.0))
            inside = np.where(gain > 0.0, ratio < 1.0 + config.clip, ratio > 1.0 - config.clip)
            by_output = gain * ratio * inside * (actions - now) / variance
            weights = self._adam(weights, gradient(weights, flat, by_output / len(flat)), rate)
        return weights

    def _advantages(self) -> Floats:
        """(K, M) by GAE; the last window has no successor yet and bootstraps from itself."""
        config = self._config
        seen = np.concatenate([self._features, np.ones((*self._features.shape[:2], 1))], axis=2)
        value: Floats = np.asarray(seen @ np.linalg.solve(self._gram, self._moment))
        following = np.append(value[1:], value[-1:], axis=0)
        error = self._rewards + config.discount * following - value
        advantage = np.zeros_like(error)
        running = np.zeros(self._nodes)
        for k in reversed(range(len(error))):
            running = error[k] + config.discount * config.trace * running
            advantage[k] = running
        rows, target = seen.reshape(-1, seen.shape[2]), (advantage + value).reshape(-1)
        rest = RIDGE * np.eye(len(self._gram))
        self._gram = FORGET * (self._gram - rest) + rows.T @ rows + rest
        self._moment = FORGET * self._moment + rows.T @ target
        return np.asarray(advantage)

    def _adam(
        self, weights: ResidualWeights, slopes: ResidualWeights, rate: float
    ) -> ResidualWeights:
        self._steps += 1
        t, size = self._steps, self._config.learning_rate * rate
        pairs = zip(self._first, self._second, slopes, strict=True)
        moved = [
            (BETA1 * a + (1 - BETA1) * g, BETA2 * b + (1 - BETA2) * g * g) for a, b, g in pairs
        ]
        self._first = ResidualWeights(*(a for a, _ in moved))
        self._second = ResidualWeights(*(b for _, b in moved))
        return ResidualWeights(
            *(
                w + size * (a / (1 - BETA1**t)) / (np.sqrt(b / (1 - BETA2**t)) + TINY)
                for w, a, b in zip(weights, self._first, self._second, strict=True)
            )
        )

    def state(self) -> dict[str, Any]:
        """The rollout under way, the critic and Adam's moments."""
        return {
            "noise": self._noise, "features": self._features, "actions": self._actions,
            "means": self._means, "rewards": self._rewards,
            "gram": self._gram, "moment": self._moment, "steps": self._steps, "held": self._held,
            "first": tuple(self._first), "second": tuple(self._second),
        }  # fmt: skip

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state` gave."""
        for name in ("noise", "features", "actions", "means", "rewards", "gram", "moment"):
            setattr(self, f"_{name}", state[name].copy())
        self._steps, self._held = state["steps"], state["held"]
        self._first = ResidualWeights(*(array.copy() for array in state["first"]))
        self._second = ResidualWeights(*(array.copy() for array in state["second"]))


def make_method(config: ResidualConfig, nodes: int, inputs: int) -> Method | None:
    """The method that a config names."""
    if config.method == "marginal":
        return Marginal(config, nodes)
    return Ppo(config, nodes, inputs) if config.method == "ppo" else None


def _add(weights: ResidualWeights, direction: ResidualWeights, size: float) -> ResidualWeights:
    return ResidualWeights(*(w + size * d for w, d in zip(weights, direction, strict=True)))


def _squared(vector: ResidualWeights) -> float:
    return float(sum(np.vdot(part, part) for part in vector))


def _zeros(inputs: int, hidden: int) -> ResidualWeights:
    return ResidualWeights(
        np.zeros((hidden, inputs)), np.zeros(hidden), np.zeros((hidden, hidden)),
        np.zeros(hidden), np.zeros(hidden), np.zeros(1),
    )  # fmt: skip
