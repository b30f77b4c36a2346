"""The online learner of one stream: it decides nothing, it keeps what the decision path reads.

``weights`` and ``gate`` are read by decisions and replaced, never written into, so a decision made
while another thread learns sees one or the other. ``record`` is called with every
decision and only keeps what it is given; ``update`` does the work, after the answer was sent or in
a thread of its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from helm_gym.agents.adapter.config import ResidualConfig
from helm_gym.agents.adapter.guard import Guard
from helm_gym.agents.adapter.methods import make_method
from helm_gym.agents.adapter.net import ResidualWeights, initial_weights
from helm_gym.agents.adapter.signals import Outcome, outcome
from helm_gym.envs.observation import FEATURES
from helm_gym.envs.reading import SMALL

Array = NDArray[Any]
Floats = NDArray[np.float64]
VIOLATIONS = [feature.name for feature in FEATURES["extended"]].index("slo_violation_rate")


class ResidualLearner:
    """Learns a residual from the stream that it corrects; no episodes, no resets.

    Args:
        config: settings.
        nodes: M, rows of a cluster; 1 where a cluster is decided for as a whole.
        inputs: I, of the network.
        seed: seed of the random first layers.
    """

    def __init__(self, config: ResidualConfig, nodes: int, inputs: int, seed: int) -> None:
        self.config = config
        self.nodes, self._inputs, self._seed = nodes, inputs, seed
        self.weights = self._fresh()
        self._method = make_method(config, nodes)
        self._guard = Guard(config)
        self.gate: Floats = np.ones(nodes)
        self.dropped = 0  # updates that were not finite, and windows that could not be read
        self.updates = 0
        self._average = np.nan  # EMA of P99 / SLO
        self._pending: list[tuple[Floats, Floats, Array]] = []
        self._last: tuple[Floats, Floats] | None = None  # features and gate of the last decision

    @property
    def trips(self) -> int:
        """Times that the guard switched the residual off."""
        return self._guard.trips

    @property
    def trials(self) -> int:
        """Times that the guard compared it with the base."""
        return self._guard.trials

    @property
    def resting(self) -> bool:
        """Whether the base decides alone, because the residual was worse."""
        return self._guard.resting

    @property
    def worse_by(self) -> float:
        """Reward that the residual cost in the guard's last trial."""
        return self._guard.worse_by

    def record(self, observation: Array, features: Floats) -> None:
        """Keep a decision.

        Args:
            observation: (M, F) that it was made on: the outcome of the decision before.
            features: (M, I) that the network saw.
        """
        self._pending.append((np.array(features), self.gate, np.array(observation)))

    def update(self) -> None:
        """Learn from all decisions recorded since the last call."""
        pending, self._pending = self._pending, []
        for features, gate, observation in pending:
            self._follow(observation)
            # What was decided blindly teaches nothing.
            self._last = (features, gate) if np.isfinite(features).all() else None

    def _follow(self, observation: Array) -> None:
        """Learn from one window; what the method or the input breaks is dropped."""
        if not np.isfinite(observation).all():
            self.dropped += 1
            return
        seen = outcome(observation, observation[:, VIOLATIONS])
        rate = self._rate(seen.p99)
        if self._method is None or self._last is None:
            return
        if self._guard.follow(seen.reward):
            self._forget()
        elif (self._last[1] == 1.0).all():  # what it decided is what was done
            self._learn(seen, rate)
        self.gate = np.full(self.nodes, self._guard.gate)

    def _rate(self, p99: float) -> float:
        """HELM's rule: larger steps the further P99 is from its average."""
        config = self.config
        if not np.isfinite(self._average):
            self._average = p99
        away = abs(p99 - self._average) / max(self._average, SMALL)
        self._average = config.p99_keep * self._average + (1.0 - config.p99_keep) * p99
        return 1.0 + config.p99_gain * min(away, config.p99_cap)

    def _learn(self, seen: Outcome, rate: float) -> None:
        assert self._method is not None and self._last is not None
        features = self._last[0]
        before = self._method.state()
        with np.errstate(all="ignore"):
            better = self._method.learn(self.weights, features, seen, rate)
        if all(np.isfinite(part).all() for part in better):
            self.weights = better
            self.updates += 1
        else:
            self.dropped += 1
            self._method.restore(before)

    def _forget(self) -> None:
        """Begin again at the base: the residual was worse, and its optimiser led there."""
        self.weights = self._fresh()
        self._method = make_method(self.config, self.nodes)

    def _fresh(self) -> ResidualWeights:
        return initial_weights(self._inputs, self._seed, self.config.hidden)

    def state(self) -> dict[str, Any]:
        """Everything that changes, for :mod:`helm_gym.state_file`."""
        return {
            "weights": tuple(self.weights), "gate": self.gate, "dropped": self.dropped,
            "updates": self.updates, "average": self._average, "pending": list(self._pending),
            "last": self._last, "guard": self._guard.state(),
            "method": None if self._method is None else self._method.state(),
        }  # fmt: skip

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state` gave, bit for bit."""
        self.weights = ResidualWeights(*(part.copy() for part in state["weights"]))
        self.gate = state["gate"].copy()
        self.dropped, self.updates = state["dropped"], state["updates"]
        self._average, self._last = state["average"], state["last"]
        self._pending = list(state["pending"])
        self._guard.restore(state["guard"])
        if self._method is not None:
            self._method.restore(state["method"])
