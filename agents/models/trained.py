"""A trained policy as the Policy protocol wants it: no torch, no SB3, no pickle.

:mod:`helm_gym.agents.models.files` reads model files; :mod:`helm_gym.agents.models.released` knows
where the models lie that come with the package.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from helm_gym.agents.models import released
from helm_gym.agents.models.files import load
from helm_gym.agents.models.view import View
from helm_gym.errors import ConfigError, PolicyError
from helm_gym.policy import names_share, restore_state, state_of

Array = NDArray[Any]


class TrainedPolicy:
    """The deterministic policy of a trained model.

    Args:
        path: a ``model.zip``, the run folder that holds one, or a released ``.safetensors``.
        allow: classes, as ``module:Class``, that may be imported if the file names one: the rule
            of a person's own that the model was trained around.

    Raises:
        CheckpointError: the file is missing, truncated, or not a model of helm_gym, or it was
            trained on observations that this version does not have.
        ConfigError: it names code that is not allowed.
    """

    def __init__(self, path: str | os.PathLike[str], allow: Collection[str] = ()) -> None:
        file = Path(path)
        self.path = file / "model.zip" if os.path.isdir(file) else file
        self.card, self.actor = load(self.path)
        view = self.card.view
        # A network that decides for one node at a time is run on every node of a cluster.
        self.control: str = "per_node" if view.control == "node" else view.control
        self.observation: str = view.observation
        self.base = view.load_base(allow, str(self.path))
        corrected = self.base is not None and names_share(self.base)
        self.names_share = view.action == "target" or (view.action == "residual" and corrected)

    def reset(self, seed: int) -> None:
        """Begin an episode; a recurrent network forgets the last one."""
        self.actor.reset()
        if self.base is not None:
            self.base.reset(seed)

    def act(self, obs: Array) -> Array:
        """Choose shares.

        Args:
            obs: (rows, F), or (rows, M, F) where every node has its own share.

        Returns:
            (rows, 1) or (rows, M) shares in the scenario's range.

        Raises:
            PolicyError: the observation has another shape than the one it was trained on, or the
                number of rows changed within an episode that a recurrent network remembers.
        """
        view = self.card.view
        observations = np.asarray(obs)
        self._check_shape(observations)
        if view.control != "node":
            return self._shares(view, observations)
        rows, nodes, features = observations.shape
        here = view.model_copy(update={"nodes": nodes})  # any size of cluster
        return self._shares(here, observations.reshape(-1, features)).reshape(rows, nodes)

    def state(self) -> dict[str, Any]:
        """What an LSTM and the rule that is corrected remember."""
        base = None if self.base is None else state_of(self.base)
        return {"actor": self.actor.state, "base": base}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state` gave, bit for bit."""
        self.actor.state = state["actor"]
        if self.base is not None:
            restore_state(self.base, state["base"])

    def _shares(self, view: View, observations: Array) -> Array:
        output = self.actor(view.see(observations))
        return view.shares(output, observations, self.base)

    def _check_shape(self, observations: Array) -> None:
        view = self.card.view
        features = len(view.features)
        want = "(rows, M, F)" if self.control == "per_node" else "(rows, F)"
        fits = observations.ndim == want.count(",") + 1 and observations.shape[-1] == features
        if fits and view.control == "per_node":
            fits = observations.shape[1] == view.nodes
        if not fits:
            raise PolicyError(
                f"{self.path}: trained with control={view.control!r} on {view.nodes} nodes and "
                f"the {features} features of {view.observation!r}, so it needs observations "
                f"{want} with F={features}; got {observations.shape}"
            )


def load_trained(algorithm: str, name: str, allow: Collection[str] = ()) -> TrainedPolicy:
    """Load the policy of the spec ``ALGORITHM:NAME``.

    Args:
        algorithm: that trained it, a key of :data:`helm_gym.agents.models.card.TITLES`.
        name: ``released``, ``released-VARIANT``, a model file, or a run folder.
        allow: see :class:`TrainedPolicy`.

    Raises:
        CheckpointError: the file cannot be used.
        ConfigError: the file is a model of another algorithm, or names code that is not allowed.
    """
    is_ours = released.is_released(name)
    policy = TrainedPolicy(released.released(algorithm, name) if is_ours else name, allow)
    made_by = policy.card.algorithm
    if made_by != algorithm:
        raise ConfigError(
            f"policy '{algorithm}:{name}': {policy.path} is of {made_by}; write {made_by}:{name}"
        )
    return policy
