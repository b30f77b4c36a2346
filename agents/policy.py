"""A trained PPO policy as the Policy protocol wants it: no torch, no SB3, no pickle.

``model.zip`` is what SB3 saves (``PPO.load`` reads it) with two entries of ours: a card that says
how the network is connected to an environment, and the actor's weights as plain arrays. Only
those two are read here, so a file from a stranger can be wrong but cannot run code.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from helm_gym.agents.view import View
from helm_gym.errors import CheckpointError, ConfigError, PolicyError
from helm_gym.quantity import Frozen

CARD, ACTOR = "helm_gym/card.json", "helm_gym/actor.npz"
Array = NDArray[Any]


class Card(Frozen):
    """What a model file says of itself."""

    format: int = 1
    view: View
    label: str  # what it is, in words for a table
    run: str  # digest of the training run
    scenario: str  # name of the scenario it was trained on
    scenario_digest: str
    decisions: int  # made in training
    chosen_at: int  # decisions after which the weights were as they are here
    seed: int
    stopped: str  # why training ended
    versions: dict[str, str]


class PpoPolicy:
    """The deterministic policy of a trained model.

    Args:
        path: a ``model.zip``, or the run folder that holds one.

    Raises:
        CheckpointError: the file is missing, truncated, or not a model of helm_gym.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        file = Path(path)
        self.path = file / "model.zip" if file.is_dir() else file
        self.card, self._layers = _read(self.path)
        view = self.card.view
        # A network that decides for one node at a time is run on every node of a cluster.
        self.control: str = "per_node" if view.control == "node" else view.control
        self.observation: str = view.observation
        self._base = view.load_base()

    def reset(self, seed: int) -> None:
        """Begin an episode; the network itself has no state."""
        if self._base is not None:
            self._base.reset(seed)

    def act(self, obs: Array) -> Array:
        """Choose shares.

        Args:
            obs: (rows, F), or (rows, M, F) where every node has its own share.

        Returns:
            (rows, 1) or (rows, M) shares in the scenario's range.

        Raises:
            PolicyError: the observation has another shape than the one it was trained on.
        """
        view = self.card.view
        observations = np.asarray(obs)
        self._check_shape(observations)
        if view.control != "node":
            return self._shares(view, observations)
        rows, nodes, features = observations.shape
        here = view.model_copy(update={"nodes": nodes})  # any size of cluster
        return self._shares(here, observations.reshape(-1, features)).reshape(rows, nodes)

    def _shares(self, view: View, observations: Array) -> Array:
        return view.shares(forward(self._layers, view.see(observations)), observations, self._base)

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


def forward(layers: Sequence[tuple[Array, Array]], seen: Array) -> Array:
    """Run the actor: tanh between its layers, none after the last.

    Args:
        layers: weights (out, in) and biases (out,).
        seen: (rows, in).

    Returns:
        (rows, out).
    """
    value = seen
    for weight, bias in layers[:-1]:
        value = np.tanh(value @ weight.T + bias)
    weight, bias = layers[-1]
    return np.asarray(value @ weight.T + bias)


def model_entries(card: Card, layers: Sequence[tuple[Array, Array]]) -> dict[str, bytes]:
    """The entries that make an SB3 model file one of ours."""
    arrays = {}
    for number, (weight, bias) in enumerate(layers):
        arrays[f"weight{number}"], arrays[f"bias{number}"] = weight, bias
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return {CARD: card.model_dump_json(indent=1).encode(), ACTOR: buffer.getvalue()}


def _read(path: Path) -> tuple[Card, list[tuple[Array, Array]]]:
    try:
        with zipfile.ZipFile(path) as archive:
            card, actor = archive.read(CARD), archive.read(ACTOR)
        data = json.loads(card)
        with np.load(io.BytesIO(actor), allow_pickle=False) as arrays:
            n_layers = len(arrays.files) // 2
            layers = [(arrays[f"weight{n}"], arrays[f"bias{n}"]) for n in range(n_layers)]
    except KeyError:
        raise CheckpointError(
            f"{path}: has no {CARD} and {ACTOR}: not a model that helm-gym train wrote. A model of "
            "plain SB3 does not say which observation and control it was trained with"
        ) from None
    except OSError as error:
        hint = "; train one with: helm-gym train" if isinstance(error, FileNotFoundError) else ""
        reason = error.strerror or str(error)
        raise CheckpointError(f"{path}: cannot be read ({reason}){hint}") from None
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, NotImplementedError) as error:
        raise CheckpointError(f"{path}: truncated or not a model file ({error})") from None
    try:
        return Card.parse(data, str(path)), layers
    except ConfigError as error:
        raise CheckpointError(f"made by another version of helm_gym? {error}") from None
