"""A trained policy as the Policy protocol wants it: no torch, no SB3, no pickle.

``model.zip`` is what SB3 saves (``load`` of its class reads it) with two entries of ours: a card
that says how the network is connected to an environment, and the actor's weights as plain arrays.
Only those two are read here, so a file from a stranger can be wrong but cannot run code. Models
that come with the package are read by :mod:`helm_gym.agents.models.released`.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from helm_gym.agents.models import released
from helm_gym.agents.models.card import FORMAT, Card
from helm_gym.agents.models.view import STEPS, View
from helm_gym.envs.observation import FEATURES
from helm_gym.errors import CheckpointError, ConfigError, PolicyError
from helm_gym.policy import names_share

CARD, ACTOR = "helm_gym/card.json", "helm_gym/actor.npz"
Array = NDArray[Any]


class TrainedPolicy:
    """The deterministic policy of a trained model.

    Args:
        path: a ``model.zip``, the run folder that holds one, or a released ``.safetensors``.

    Raises:
        CheckpointError: the file is missing, truncated, or not a model of helm_gym, or it was
            trained on observations that this version does not have.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        file = Path(path)
        self.path = file / "model.zip" if file.is_dir() else file
        self.card, self._actor = _read(self.path)
        view = self.card.view
        # A network that decides for one node at a time is run on every node of a cluster.
        self.control: str = "per_node" if view.control == "node" else view.control
        self.observation: str = view.observation
        self._base = view.load_base()
        corrected = self._base is not None and names_share(self._base)
        self.names_share = view.action == "target" or (view.action == "residual" and corrected)

    def reset(self, seed: int) -> None:
        """Begin an episode; a recurrent network forgets the last one."""
        self._actor.reset()
        if self._base is not None:
            self._base.reset(seed)

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

    def _shares(self, view: View, observations: Array) -> Array:
        output = self._actor(view.see(observations))
        return view.shares(output, observations, self._base)

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


def load_trained(algorithm: str, name: str) -> TrainedPolicy:
    """Load the policy of the spec ``ALGORITHM:NAME``.

    Args:
        algorithm: that trained it, a key of :data:`helm_gym.agents.models.card.TITLES`.
        name: ``released``, ``released-VARIANT``, a model file, or a run folder.

    Raises:
        CheckpointError: the file cannot be used.
        ConfigError: the file is a model of another algorithm.
    """
    is_ours = released.is_released(name)
    policy = TrainedPolicy(released.released(algorithm, name) if is_ours else name)
    made_by = policy.card.algorithm
    if made_by != algorithm:
        raise ConfigError(
            f"policy '{algorithm}:{name}': {policy.path} is of {made_by}; write {made_by}:{name}"
        )
    return policy


class Actor:
    """What decides, in NumPy: perhaps an LSTM, then an MLP, then what its algorithm makes of that.

    Args:
        algorithm: as the card has it.
        arrays: ``weight0`` (out, in), ``bias0`` (out,), ``weight1``, ... of the MLP; of an LSTM
            with H cells ``lstm_in`` (4H, in), ``lstm_state`` (4H, H) and ``lstm_bias`` (4H,), its
            gates in PyTorch's order: input, forget, cell, output.
        chooses: PPO's MLP ends in a number for each of several choices (``action: choice``).

    Raises:
        KeyError: an array is missing.
    """

    def __init__(self, algorithm: str, arrays: Mapping[str, Array], chooses: bool = False) -> None:
        self._algorithm, self._chooses = algorithm, chooses
        depth = sum(name.startswith("weight") for name in arrays)
        self._layers = [(arrays[f"weight{n}"], arrays[f"bias{n}"]) for n in range(depth)]
        self._lstm: tuple[Array, Array, Array] | None = None
        if algorithm == "recurrent-ppo":
            self._lstm = (arrays["lstm_in"], arrays["lstm_state"], arrays["lstm_bias"])
        self._state: tuple[Array, Array] | None = None  # (rows, H) each: output and cells

    def reset(self) -> None:
        """Forget all rows."""
        self._state = None

    def __call__(self, seen: Array) -> Array:
        """Decide for (rows, in); a row of an LSTM is expected at the same place every time.

        Returns:
            (rows, out) for ``View.shares``: shares in their scale, or with ``dqn`` an index.
        """
        if self._algorithm in ("ppo", "recurrent-ppo"):
            output = forward(self._layers, self._remembered(seen))
            return np.argmax(output, axis=1)[:, None] if self._chooses else output
        output = forward(self._layers, seen, hidden=_relu)
        if self._algorithm == "sac":
            return np.asarray(np.tanh(output))
        return np.asarray(np.argmax(output, axis=1)[:, None])

    def _remembered(self, seen: Array) -> Array:
        """What the LSTM makes of its input and of what it saw before, (rows, H)."""
        if self._lstm is None:
            return seen
        w_in, w_state, bias = self._lstm
        rows, cells = len(seen), w_state.shape[1]
        if self._state is None:
            self._state = (np.zeros((rows, cells), np.float32),) * 2
        if len(self._state[0]) != rows:
            raise PolicyError(
                f"a recurrent policy remembers {len(self._state[0])} rows of this episode, but got "
                f"{rows}; call reset(seed) before it decides for others"
            )
        last, cell = self._state
        gates = seen @ w_in.T + last @ w_state.T + bias
        enter, keep, new, show = np.split(gates, 4, axis=1)
        cell = _sigmoid(keep) * cell + _sigmoid(enter) * np.tanh(new)
        self._state = (_sigmoid(show) * np.tanh(cell), cell)
        return self._state[0]


def _relu(value: Array) -> Array:
    return np.asarray(np.maximum(value, 0.0))


def _sigmoid(value: Array) -> Array:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * value)))  # never overflows


def forward(
    layers: Sequence[tuple[Array, Array]], seen: Array, hidden: Callable[[Array], Array] = np.tanh
) -> Array:
    """Run an MLP: ``hidden`` between its layers, nothing after the last.

    Args:
        layers: weights (out, in) and biases (out,).
        seen: (rows, in).
        hidden: of every element.

    Returns:
        (rows, out).
    """
    value = seen
    for weight, bias in layers[:-1]:
        value = hidden(value @ weight.T + bias)
    weight, bias = layers[-1]
    return np.asarray(value @ weight.T + bias)


def model_entries(card: Card, arrays: Mapping[str, Array]) -> dict[str, bytes]:
    """The entries that make an SB3 model file one of ours."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return {CARD: card.model_dump_json(indent=1).encode(), ACTOR: buffer.getvalue()}


def _read(path: Path) -> tuple[Card, Actor]:
    data, arrays = entries(path)
    try:
        card = Card.parse(data, str(path))
        _check_fits(path, card)
        _check_weights(path, card, arrays)
        return card, Actor(card.algorithm, arrays, chooses=card.view.action == "choice")
    except ConfigError as error:
        raise CheckpointError(f"made by another version of helm_gym? {error}") from None
    except KeyError as error:
        raise CheckpointError(
            f"{path}: says it is of {card.algorithm}, but has no weights {error}: damaged"
        ) from None


def _check_fits(path: Path, card: Card) -> None:
    """Refuse what this version would feed with something else than it learned on."""
    if card.format != FORMAT:
        raise CheckpointError(
            f"{path}: is of format {card.format}, this version of helm_gym reads {FORMAT}"
        )
    known = tuple(feature.name for feature in FEATURES.get(card.view.observation, ()))
    if card.view.features != known:
        changed = sorted(set(card.view.features) ^ set(known)) or ["their order"]
        raise CheckpointError(
            f"{path}: was trained on another {card.view.observation!r} observation than this "
            f"version of helm_gym has ({', '.join(changed)} differ); train it again"
        )


def _check_weights(path: Path, card: Card, arrays: Mapping[str, Array]) -> None:
    """Refuse weights that take or give other numbers than the card's view has."""
    view = card.view
    if (view.action == "choice") < (card.algorithm == "dqn"):
        raise CheckpointError(f"{path}: dqn chooses steps, but its card says {view.action!r}")
    depth = sum(name.startswith("weight") for name in arrays)
    first = arrays["lstm_in" if card.algorithm == "recurrent-ppo" else "weight0"]
    wanted = (view.inputs, len(STEPS) if view.action == "choice" else view.outputs)
    got = (first.shape[-1], len(arrays[f"weight{depth - 1}"]))
    if got != wanted:
        raise CheckpointError(
            f"{path}: its network takes {got[0]} numbers and gives {got[1]}, but action "
            f"{view.action!r} on the {len(view.features)} features of {view.observation!r} needs "
            f"{wanted[0]} and {wanted[1]}; card and weights are of different models"
        )


def entries(path: Path) -> tuple[Any, dict[str, Array]]:
    """The card, not yet validated, and the actor's arrays, of a model file or a released model.

    Raises:
        CheckpointError: it is missing, damaged, or neither.
    """
    if path.suffix == released.SUFFIX:
        return released.read(path)
    try:
        with zipfile.ZipFile(path) as archive:
            card, actor = archive.read(CARD), archive.read(ACTOR)
        data = json.loads(card)
        with np.load(io.BytesIO(actor), allow_pickle=False) as arrays:
            return data, dict(arrays)
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
