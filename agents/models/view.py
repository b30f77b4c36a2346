"""What an agent's network sees of an environment, and what its output means as shares.

One description serves training (``AgentVecEnv``) and deployment (``TrainedPolicy``), so that the
two cannot part; it needs neither torch nor SB3. The network's output lies in [-1, 1] per share, or
is an index; ``action`` says what it means:

* ``target``: the share itself, from the lowest to the highest allowed.
* ``increment``: a change of the share in force, at most ``bound``.
* ``choice``: the index of one of HELM's seven steps (``STEPS``), the largest being ``bound``.
* ``residual``: a correction of a classical rule's share, at most ``bound``. The policy then begins
  as that rule, and a result must say so.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from helm_gym.baselines.registry import make_rule
from helm_gym.config.quantity import Frozen
from helm_gym.envs.action import INCREMENTS
from helm_gym.errors import ConfigError
from helm_gym.policy import Policy, view_of

Array = NDArray[Any]
SHARE = "emb_share"
STEPS = np.array(INCREMENTS) / max(INCREMENTS)
"""HELM's seven changes of the share, in parts of the largest."""


class View(Frozen):
    """How a network is connected to an environment; saved with every model.

    ``rows`` in the shapes below are clusters, or clusters times nodes if ``control`` is "node".
    """

    control: Literal["cluster", "node", "per_node"]
    observation: str  # the environment's preset
    features: tuple[str, ...]  # its names, F of them
    nodes: int  # M
    action: Literal["target", "increment", "residual", "choice"]
    base: str = ""  # spec of the rule that a residual corrects
    bound: float = 1.0
    context: bool = False
    share_min: float
    share_max: float

    @model_validator(mode="after")
    def _context_needs_nodes(self) -> View:
        if self.context and self.control != "node":
            raise ValueError(
                "context adds a cluster's mean to the rows of its nodes, so it needs "
                f"control 'node', not {self.control!r}"
            )
        return self

    @model_validator(mode="after")
    def _choice_is_one(self) -> View:
        if self.action == "choice" and self.control == "per_node":
            raise ValueError(
                "action 'choice' is one index, but control 'per_node' asks for a share of every "
                "node; use control 'node', where every node is a row"
            )
        return self

    @property
    def inputs(self) -> int:
        """Numbers that the network sees per row."""
        per_row = self.nodes if self.control == "per_node" else 1
        return len(self.features) * per_row * (2 if self.context else 1)

    @property
    def outputs(self) -> int:
        """Numbers that the network decides per row: shares or, with ``choice``, an index."""
        return self.nodes if self.control == "per_node" else 1

    def see(self, observations: Array) -> NDArray[np.float32]:
        """Turn (rows, F) or (rows, M, F) observations into the network's input, (rows, inputs)."""
        rows = len(observations)
        flat = observations.reshape(rows, -1)
        if self.context:
            nodes = observations.reshape(-1, self.nodes, len(self.features))
            mean = nodes.mean(axis=1, dtype=np.float64)
            flat = np.concatenate([flat, np.repeat(mean, self.nodes, axis=0)], axis=1)
        return np.asarray(flat, np.float32)

    def shares(self, output: Array, observations: Array, base: Policy | None) -> Array:
        """Turn the network's output, (rows, outputs), into float32 shares of the same shape.

        A choice may also come as (rows,), as SB3 has it.
        """
        if self.action == "choice":
            output = STEPS[np.asarray(output, np.intp).reshape(-1, 1)]
        output = np.clip(np.asarray(output, np.float64), -1.0, 1.0)
        if self.action == "target":
            shares = self.share_min + (output + 1.0) / 2.0 * (self.share_max - self.share_min)
        elif self.action in ("increment", "choice"):
            share = observations[..., self.features.index(SHARE)].reshape(output.shape)
            shares = share + self.bound * output
        else:
            if base is None:
                raise ConfigError("a residual corrects a rule, but there is no rule")
            shares = base.act(observations) + self.bound * output
        return np.clip(shares, self.share_min, self.share_max).astype(np.float32)

    def load_base(self, allow: Collection[str] = (), where: str = "the view") -> Policy | None:
        """The rule that a residual corrects, or None.

        Args:
            allow: classes, as ``module:Class``, that may be imported for it.
            where: the file that holds this view, for errors.

        Raises:
            ConfigError: there is no such rule, it reads another observation, or it names code
                that is not allowed.
        """
        if self.action != "residual":
            return None
        base = make_rule(self.base, allow, where)
        _, observation = view_of(base)
        if observation != self.observation:
            raise ConfigError(
                f"the rule {self.base!r} reads the {observation!r} observation, but the agent is "
                f"trained on {self.observation!r}; train it with observation={observation!r}, or "
                "with action='target'"
            )
        return base
