"""The network of a trained model in NumPy, and a check of its weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from helm_gym.agents.models.card import Card
from helm_gym.agents.models.view import STEPS
from helm_gym.errors import CheckpointError, PolicyError

Array = NDArray[Any]
RECURRENT = "recurrent-ppo"
LSTM = ("lstm_in", "lstm_state", "lstm_bias")


class Actor:
    """What decides, in NumPy: perhaps an LSTM, then an MLP, then what its algorithm makes of that.

    Args:
        algorithm: as the card has it.
        arrays: as :func:`checked` returns them: ``weight0`` (out, in), ``bias0`` (out,),
            ``weight1``, ... of the MLP; of an LSTM with H cells ``lstm_in`` (4H, in),
            ``lstm_state`` (4H, H) and ``lstm_bias`` (4H,), its gates in PyTorch's order: input,
            forget, cell, output.
        chooses: PPO's MLP ends in a number for each of several choices (``action: choice``).

    Raises:
        KeyError: an array is missing.
    """

    def __init__(self, algorithm: str, arrays: Mapping[str, Array], chooses: bool = False) -> None:
        self._algorithm, self._chooses = algorithm, chooses
        depth = sum(name.startswith("weight") for name in arrays)
        self.layers = [(arrays[f"weight{n}"], arrays[f"bias{n}"]) for n in range(depth)]
        """Weights (out, in) and biases (out,) of the MLP."""
        self._lstm: tuple[Array, Array, Array] | None = None
        if algorithm == "recurrent-ppo":
            self._lstm = (arrays["lstm_in"], arrays["lstm_state"], arrays["lstm_bias"])
        self.state: tuple[Array, Array] | None = None
        """What an LSTM remembers, (rows, H) each: output and cells. None before it decided."""

    def reset(self) -> None:
        """Forget all rows."""
        self.state = None

    def __call__(self, seen: Array) -> Array:
        """Decide for (rows, in); a row of an LSTM is expected at the same place every time.

        Returns:
            (rows, out) for ``View.shares``: shares in their scale, or with ``dqn`` an index.
        """
        if self._algorithm in ("ppo", "recurrent-ppo"):
            output = forward(self.layers, self._remembered(seen))
            return np.argmax(output, axis=1)[:, None] if self._chooses else output
        output = forward(self.layers, seen, hidden=_relu)
        if self._algorithm == "sac":
            return np.asarray(np.tanh(output))
        return np.asarray(np.argmax(output, axis=1)[:, None])

    def _remembered(self, seen: Array) -> Array:
        """What the LSTM makes of its input and of what it saw before, (rows, H)."""
        if self._lstm is None:
            return seen
        w_in, w_state, bias = self._lstm
        rows, cells = len(seen), w_state.shape[1]
        if self.state is None:
            self.state = (np.zeros((rows, cells), np.float32),) * 2
        if len(self.state[0]) != rows:
            raise PolicyError(
                f"a recurrent policy remembers {len(self.state[0])} rows of this episode, but got "
                f"{rows}; call reset(seed) before it decides for others"
            )
        last, cell = self.state
        gates = seen @ w_in.T + last @ w_state.T + bias
        enter, keep, new, show = np.split(gates, 4, axis=1)
        cell = _sigmoid(keep) * cell + _sigmoid(enter) * np.tanh(new)
        self.state = (_sigmoid(show) * np.tanh(cell), cell)
        return self.state[0]


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
        hidden: function that each hidden layer applies to every element.

    Returns:
        (rows, out).
    """
    value = seen
    for weight, bias in layers[:-1]:
        value = hidden(value @ weight.T + bias)
    weight, bias = layers[-1]
    return np.asarray(value @ weight.T + bias)


def checked(arrays: Mapping[str, Array], card: Card, where: str) -> dict[str, Array]:
    """Weights as float32, after every name, type, shape and number was looked at.

    Args:
        arrays: by name, as :class:`Actor` describes them; of float32 or float64.
        card: says which network they have to be.
        where: names the file in errors.

    Raises:
        CheckpointError: an array is missing, or is not what the card's network needs.
    """
    view = card.view
    if (view.action == "choice") < (card.algorithm == "dqn"):
        raise CheckpointError(f"{where}: dqn chooses steps, but its card says {view.action!r}")
    names = _names(arrays, card.algorithm)
    for name in names:
        if name not in arrays:
            raise CheckpointError(
                f"{where}: says it is of {card.algorithm}, but has no weights {name!r}: damaged"
            )
    for name, array in arrays.items():
        if name not in names:
            raise CheckpointError(f"{where}: array {name!r} belongs to no {card.algorithm} network")
        if array.ndim != (1 if "bias" in name else 2) or not array.size:
            raise CheckpointError(f"{where}: array {name!r} has the odd shape {array.shape}")
    _check_ends(arrays, card, where)
    for name, wanted in _shapes(arrays, names, view.inputs).items():
        if arrays[name].shape != wanted:
            raise CheckpointError(
                f"{where}: array {name!r} has shape {arrays[name].shape}, but the arrays beside it "
                f"need {wanted}: damaged"
            )
    return {name: _as_float32(name, arrays[name], where) for name in names}


def _names(arrays: Mapping[str, Array], algorithm: str) -> list[str]:
    """Names that a network of so many layers has, from its input to its output."""
    depth = max(1, sum(name.startswith("weight") for name in arrays))
    layers = [f"{part}{n}" for n in range(depth) for part in ("weight", "bias")]
    return [*LSTM, *layers] if algorithm == RECURRENT else layers


def _check_ends(arrays: Mapping[str, Array], card: Card, where: str) -> None:
    """Refuse a network that takes or gives other numbers than the card's view has."""
    view, names = card.view, _names(arrays, card.algorithm)
    got = (arrays[names[0]].shape[1], len(arrays[names[-1]]))
    wanted = (view.inputs, len(STEPS) if view.action == "choice" else view.outputs)
    if got != wanted:
        raise CheckpointError(
            f"{where}: its network takes {got[0]} numbers and gives {got[1]}, but action "
            f"{view.action!r} on the {len(view.features)} features of {view.observation!r} needs "
            f"{wanted[0]} and {wanted[1]}; card and weights are of different models"
        )


def _shapes(
    arrays: Mapping[str, Array], names: Sequence[str], inputs: int
) -> dict[str, tuple[int, ...]]:
    """Shapes that fit together: every layer takes as many numbers as the one before it gives."""
    wanted: dict[str, tuple[int, ...]] = {}
    if names[0] in LSTM:
        cells = arrays["lstm_state"].shape[1]
        wanted = {
            "lstm_in": (4 * cells, inputs),
            "lstm_state": (4 * cells, cells),
            "lstm_bias": (4 * cells,),
        }
        inputs = cells
    for weight, bias in zip(names[len(wanted) :: 2], names[len(wanted) + 1 :: 2], strict=True):
        outputs = len(arrays[bias])
        wanted |= {weight: (outputs, inputs), bias: (outputs,)}
        inputs = outputs
    return wanted


def _as_float32(name: str, array: Array, where: str) -> Array:
    if array.dtype not in (np.float32, np.float64):
        raise CheckpointError(
            f"{where}: array {name!r} is of {array.dtype}; weights are float32 or float64"
        )
    with np.errstate(over="ignore"):
        weights = np.asarray(array, np.float32)
    if not np.isfinite(weights).all():
        raise CheckpointError(f"{where}: array {name!r} has numbers that are not finite: damaged")
    return weights
