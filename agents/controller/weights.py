"""Weights as the decision path reads them: one float32 array, a row per input of a layer."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from helm_gym.agents.adapter.net import ResidualWeights, inputs_of
from helm_gym.agents.controller.path import LANES, N_WORK, F
from helm_gym.agents.models.layers import Layers

Array = NDArray[Any]
Single = NDArray[np.float32]


def build(nodes: int, layers: Layers, hidden: int) -> tuple[Single, int, tuple[int, int]]:
    """The array, without a residual's weights yet.

    Args:
        nodes: M.
        layers: of the base.
        hidden: units of the residual; 0 if there is none.

    Returns:
        The array; first rows of the base and of the two slots of the residual.
    """
    base = nodes + N_WORK
    first = base + sum(weight.shape[1] + 1 for weight, _ in layers[:-1])
    weight, bias = layers[-1]
    first += 2 if len(bias) == 1 else weight.shape[1] + 1
    rows = _residual_rows(hidden) if hidden else 0
    widest = max(*(len(bias) for _, bias in layers), hidden, F)
    nets: Single = np.zeros((first + 2 * rows, _filled(widest)), np.float32)
    _write(nets, base, layers)
    return nets, base, (first, first + rows)


def write_residual(nets: Single, begin: int, weights: ResidualWeights) -> None:
    """Copy a residual's weights into a slot."""
    layers = [(weights.w1, weights.b1), (weights.w2, weights.b2), (weights.w3[None], weights.b3)]
    _write(nets, begin, layers)


def _write(nets: Single, row: int, layers: Layers) -> None:
    """Transposed weights and then the bias, layer by layer; a last one of one number is a row."""
    weight, bias = layers[-1]
    single = len(bias) == 1
    for weight, bias in layers[:-1] if single else layers:
        outputs, inputs = weight.shape
        nets[row : row + inputs, :outputs] = weight.T
        nets[row + inputs, :outputs] = bias
        row += inputs + 1
    if single:
        weight, bias = layers[-1]
        nets[row, : weight.shape[1]], nets[row + 1, 0] = weight[0], bias[0]


def _residual_rows(hidden: int) -> int:
    return inputs_of(F) + 1 + hidden + 1 + 2


def _filled(width: int) -> int:
    return -(-width // LANES) * LANES
