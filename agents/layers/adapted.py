"""A frozen base with a residual that is learned online, as a policy of its own.

The spec is ``adapted:BASE``, or ``adapted(bound=0.1,step=0.002):BASE`` with settings of
:class:`~helm_gym.agents.adapter.config.ResidualConfig`. Shares are the base's plus the residual,
clipped to the range. Nothing here needs torch, and the base is only ever asked.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from helm_gym.agents.adapter.config import ResidualConfig
from helm_gym.agents.adapter.learner import ResidualLearner
from helm_gym.agents.adapter.net import forward, inputs_of, scratch_for, see
from helm_gym.agents.models.card import share_range
from helm_gym.baselines.rule import HIGH, LOW
from helm_gym.envs.observation import FEATURES
from helm_gym.errors import CheckpointError, ConfigError, PolicyError
from helm_gym.policy import Policy, Wrapper, is_batched, view_of
from helm_gym.state_file import read_state, write_state

Array = NDArray[Any]
Floats = NDArray[np.float64]
FORMAT = 1
PRESET = "extended"
NAMES = tuple(feature.name for feature in FEATURES[PRESET])


class AdaptedPolicy(Wrapper):
    """Base and residual of any number of clusters, each with a learner of its own.

    Args:
        base: who decides on day one; it is asked and never changed.
        config: settings of residual, learner and guard.
        learn: whether :meth:`act` also learns, after it has decided. If not, call :meth:`learn`
            between decisions or from one other thread.

    Raises:
        ConfigError: the base reads what the ``extended`` observation does not begin with, or takes
            one row at a time.
    """

    observation = PRESET

    def __init__(
        self, base: Policy, config: ResidualConfig | None = None, *, learn: bool = True
    ) -> None:
        control, observation = view_of(base)
        names = tuple(feature.name for feature in FEATURES.get(observation, ()))
        if names != NAMES[: len(names)] or not names:
            raise ConfigError(
                f"adapted: the adapter learns from the {PRESET!r} observation, and its base reads "
                f"{observation!r}, which is no part of it; use a base that reads {PRESET!r}"
            )
        if not is_batched(base):
            raise ConfigError(
                "adapted: its base takes one row at a time (batched = False), and the adapter "
                "hands it all of them; let its act() take (rows, F)"
            )
        super().__init__(base)
        self._sees = len(names)  # features of the base: the first ones
        self.config = (config or ResidualConfig()).reaching(base)
        self._base_control = control
        self._learns = learn
        self.low, self.high = share_range(base, LOW, HIGH)
        self.learners: list[ResidualLearner] = []
        self._seed = 0

    @property
    def control(self) -> str:
        """``per_node`` around a base of single nodes too: a cluster's nodes stay together."""
        return "cluster" if self._base_control == "cluster" else "per_node"

    def reset(self, seed: int) -> None:
        """Begin a stream: all that was learned is forgotten, and the base begins anew."""
        self.base.reset(seed)
        self.learners, self._seed = [], seed

    def act(self, obs: Array) -> Array:
        """Choose shares: (rows, F) to (rows, 1), or (rows, M, F) to (rows, M)."""
        observations = np.asarray(obs)
        rows, clusters = len(observations), observations
        if self.control == "cluster":
            clusters = observations[:, None, :]
        shares = self._ask_base(observations).reshape(clusters.shape[:2])
        if not self.learners:
            self.learners = [self._begin(row, *clusters.shape[1:]) for row in range(rows)]
        if len(self.learners) != rows:
            raise PolicyError(
                f"the adapter follows {len(self.learners)} streams, but got {rows} rows; call "
                "reset(seed) before it follows others"
            )
        features = see(clusters)
        decided = shares + self._residuals(features)
        for learner, observation, seen in zip(self.learners, clusters, features, strict=True):
            learner.record(observation, seen)
        if self._learns:
            self.learn()
        return np.clip(decided, self.low, self.high) if self.adapts else shares

    @property
    def adapts(self) -> bool:
        """Whether there is a method at all."""
        return self.config.method != "none"

    def learn(self) -> None:
        """Learn from the decisions made since the last call; off the decision path."""
        for learner in self.learners:
            learner.update()

    def _ask_base(self, observations: Array) -> Floats:
        """The base's shares, from a copy: what it does to its input stays there."""
        asked = observations[..., : self._sees].copy()
        if self._base_control == "node":
            asked = asked.reshape(-1, self._sees)
        return np.asarray(self.base.act(asked), np.float64)

    def _residuals(self, features: Floats) -> Floats:
        """(rows, M) in share."""
        out = np.empty(features.shape[:2])
        for learner, seen, row in zip(self.learners, features, out, strict=True):
            weights = learner.weights
            scratch = scratch_for(weights)
            forward(weights, self.config.reach.bound, seen, learner.gate, scratch, row)
        return out

    def _begin(self, row: int, nodes: int, features: int) -> ResidualLearner:
        if features != len(NAMES):
            raise PolicyError(
                f"the adapter reads {len(NAMES)} features of {PRESET!r}, got {features}"
            )
        return ResidualLearner(self.config, nodes, inputs_of(features), self._seed + row)

    def save(self, path: str | Path) -> None:
        """Write all that was learned, so that :meth:`load` goes on bit for bit."""
        write_state(Path(path), self.state())

    def load(self, path: str | Path) -> None:
        """Go on from a file of :meth:`save`.

        Raises:
            CheckpointError: it is damaged, or of other settings.
        """
        try:
            self.restore(read_state(Path(path)))
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path}: is no state of an adapter ({error!r})") from None

    def state(self) -> dict[str, Any]:
        """Everything that changes, as a tree of arrays and numbers."""
        return {
            "format": FORMAT,
            "config": self.config.model_dump(),
            "seed": self._seed,
            "base": super().state(),
            "nodes": [learner.nodes for learner in self.learners],
            "learners": [learner.state() for learner in self.learners],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state` gave.

        Raises:
            CheckpointError: it was made with other settings.
        """
        if state["format"] != FORMAT or state["config"] != self.config.model_dump():
            raise CheckpointError(
                "the state was made by an adapter with other settings; make the policy with "
                f"{state['config']}"
            )
        self._seed = state["seed"]
        super().restore(state["base"])
        inputs = len(NAMES)
        self.learners = [self._begin(row, n, inputs) for row, n in enumerate(state["nodes"])]
        for learner, own in zip(self.learners, state["learners"], strict=True):
            learner.restore(own)
