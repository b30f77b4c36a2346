"""A frozen base with a residual that is learned online, as a policy of its own.

The spec is ``adapted:BASE``, or ``adapted(method=ppo,bound=0.1):BASE`` with settings of
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
from helm_gym.baselines.rule import HIGH, LOW, Rule
from helm_gym.envs.observation import FEATURES
from helm_gym.errors import CheckpointError, ConfigError, PolicyError
from helm_gym.policy import Policy, view_of

Array = NDArray[Any]
Floats = NDArray[np.float64]
FORMAT = 1
PRESET = "extended"
NAMES = tuple(feature.name for feature in FEATURES[PRESET])


class AdaptedPolicy:
    """Base and residual of any number of clusters, each with a learner of its own.

    Args:
        base: who decides on day one; it is asked and never changed.
        config: settings of residual, learner and guard.
        learn: whether :meth:`act` also learns, after it has decided. If not, call :meth:`learn`
            between decisions or from one other thread.

    Raises:
        ConfigError: the base reads what the ``extended`` observation does not begin with.
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
        self._sees = len(names)  # features of the base: the first ones
        self.base, self.config = base, (config or ResidualConfig()).reaching(base)
        self._base_control = control
        # A base of single nodes is asked for all of them: a cluster's nodes stay together.
        self.control = "cluster" if control == "cluster" else "per_node"
        self.router = getattr(base, "router", None)
        self.initial_share = getattr(base, "initial_share", None)
        self._learns = learn
        view = getattr(getattr(base, "card", None), "view", None)
        self.low = LOW if view is None else float(view.share_min)
        self.high = HIGH if view is None else float(view.share_max)
        self.learners: list[ResidualLearner] = []
        self._seed = 0

    @property
    def refill_pace(self) -> Array | None:
        """The base's, if it sets one."""
        pace: Array | None = getattr(self.base, "refill_pace", None)
        return pace

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
            forward(
                weights, self.config.reach.bound, seen, learner.gate, learner.offset,
                scratch_for(weights), row,
            )  # fmt: skip
        return out

    def _begin(self, row: int, nodes: int, features: int) -> ResidualLearner:
        if features != len(NAMES):
            raise PolicyError(
                f"the adapter reads {len(NAMES)} features of {PRESET!r}, got {features}"
            )
        return ResidualLearner(self.config, nodes, inputs_of(features), self._seed + row)

    def save(self, path: str | Path) -> None:
        """Write all that was learned, so that :meth:`load` goes on bit for bit.

        Raises:
            CheckpointError: the base remembers something that it cannot give away.
        """
        from helm_gym.pack import write_packed

        write_packed(Path(path), self.state())

    def load(self, path: str | Path) -> None:
        """Go on from a file of :meth:`save`.

        Raises:
            CheckpointError: it is damaged, or of other settings.
        """
        from helm_gym.pack import read_packed

        try:
            self.restore(read_packed(Path(path)))
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path}: is no state of an adapter ({error!r})") from None

    def state(self) -> dict[str, Any]:
        """Everything that changes, as a tree of arrays and numbers."""
        return {
            "format": FORMAT,
            "config": self.config.model_dump(),
            "seed": self._seed,
            "base": _base_state(self.base),
            "nodes": [learner._nodes for learner in self.learners],
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
        _restore_base(self.base, state["base"])
        inputs = len(NAMES)
        self.learners = [self._begin(row, n, inputs) for row, n in enumerate(state["nodes"])]
        for learner, own in zip(self.learners, state["learners"], strict=True):
            learner.restore(own)


def settings_of_spec(spec: str, text: str) -> ResidualConfig:
    """The config that ``adapted(...)`` names: ``name=value`` parted by commas.

    Raises:
        ConfigError: a setting does not exist or has no such value.
    """
    settings: dict[str, Any] = {}
    for pair in text.split(",") if text.strip() else ():
        name, equals, value = (part.strip() for part in pair.partition("="))
        if not equals:
            raise ConfigError(
                f"policy {spec!r}: {pair.strip()!r} is no setting; write "
                "adapted(method=ppo,bound=0.1):BASE"
            )
        settings[name] = value
    return ResidualConfig.parse(settings, f"policy {spec!r}")


def _memory(base: Policy) -> Array | tuple[Array, Array] | None:
    """What a base remembers between decisions, as far as it can be told."""
    return getattr(getattr(base, "_actor", None), "_state", None)


def _base_state(base: Policy) -> Any:
    """State of a base that has any: of an LSTM its cells; most have none.

    Raises:
        CheckpointError: it remembers something else.
    """
    give = getattr(base, "state", None)
    if callable(give):
        return give()
    rows = getattr(base, "_rows", 0)  # rules that remember keep it by row
    if rows and type(base).begin is not Rule.begin:  # type: ignore[attr-defined]
        raise CheckpointError(
            f"the base {type(base).__name__} has a memory that it does not give away; give it "
            "state() and restore(state), or use one without"
        )
    return _memory(base)


def _restore_base(base: Policy, state: Any) -> None:
    take = getattr(base, "restore", None)
    if callable(take):
        take(state)
    elif state is not None:
        base._actor._state = tuple(state)  # type: ignore[attr-defined]
