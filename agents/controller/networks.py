"""The controller's small networks: how their weights lie in one array, and how they are run.

A layer with I inputs and O outputs is the corner [:I, :O] of a matrix, one row per input, and its
bias is the row below. All layers of all networks are padded to one size, so that the decision path
is compiled once for networks of any size.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from helm_gym.agents.adapter.net import ResidualWeights
from helm_gym.agents.models.layers import MOST_LAYERS, Layers
from helm_gym.agents.models.view import View
from helm_gym.envs.observation import Feature
from helm_gym.sim.compiled import inlined

Array = NDArray[Any]
Single = NDArray[np.float32]

F = len(Feature)
INPUTS = 2 * F  # of every network: a node's features, then their means over the cluster
N_WIDTHS = MOST_LAYERS + 2  # inputs and the outputs of every layer; 0 beyond the last layer

# A rational function for tanh, of degrees 13 and 6, within 3e-7 of it (the one of Eigen's
# MathFunctionsImpl.h, generic_fast_tanh_float); beyond FLAT tanh is 1 in float32. It is vectorised,
# which calls of math.tanh are not.
FLAT = np.float32(7.90531110763549805)
_A1, _A3 = np.float32(4.89352455891786e-03), np.float32(6.37261928875436e-04)
_A5, _A7 = np.float32(1.48572235717979e-05), np.float32(5.12229709037114e-08)
_A9, _A11 = np.float32(-8.60467152213735e-11), np.float32(2.00018790482477e-13)
_A13, _B0 = np.float32(-2.76076847742355e-16), np.float32(4.89352518554385e-03)
_B2, _B4 = np.float32(2.26843463243900e-03), np.float32(1.18534705686654e-04)
_B6 = np.float32(1.19825839466702e-06)


def empty(networks: int, widest: int) -> Single:
    """(networks, L, W + 1, W) zeros for weights; W is the widest layer or the inputs."""
    wide = max(widest, INPUTS)
    return np.zeros((networks, MOST_LAYERS + 1, wide + 1, wide), np.float32)


def write(into: Single, layers: Layers) -> None:
    """Copy a network's weights, (out, in) per layer, and biases into its (L, W + 1, W) place."""
    for place, (weight, bias) in zip(into, layers, strict=False):
        outputs, inputs = weight.shape
        place[:inputs, :outputs], place[inputs, :outputs] = weight.T, bias


def widths_of(layers: Layers) -> NDArray[np.int64]:
    """(N_WIDTHS,) inputs and then the outputs of every layer, as :func:`run` wants them."""
    widths = np.zeros(N_WIDTHS, np.int64)
    widths[0] = layers[0][0].shape[1]
    widths[1 : len(layers) + 1] = [len(bias) for _, bias in layers]
    return widths


def seeing_all(layers: Layers, view: View) -> Layers:
    """The same network with all INPUTS; weights of what its view does not show are 0."""
    (weight, bias), *others = layers
    features = len(view.features)
    first = np.zeros((len(bias), INPUTS), weight.dtype)
    first[:, :features] = weight[:, :features]
    if view.context:
        first[:, F : F + features] = weight[:, features:]
    return [(first, bias), *others]


def residual_layers(weights: ResidualWeights) -> Layers:
    """A residual's weights as layers, the last of one output."""
    w1, b1, w2, b2, w3, b3 = weights
    return [(w1, b1), (w2, b2), (w3[None], b3)]


@inlined
def run(weights: Array, widths: Array, inputs: Array, work: Array) -> int:
    """Run a network on one input.

    Args:
        weights: (L, W + 1, W) float32, see :func:`write`.
        widths: (N_WIDTHS,) of :func:`widths_of`.
        inputs: float32, at least ``widths[0]`` of them.
        work: (2, W) float32 that layers write in turn.

    Returns:
        Which row of ``work`` begins with the last layer's outputs, not squeezed by tanh.
    """
    for i in range(widths[0]):
        work[0, i] = inputs[i]
    layer = 0
    while True:
        source, out = work[layer % 2], work[1 - layer % 2]
        _multiply(weights[layer], source, widths[layer], widths[layer + 1], out)
        layer += 1
        if layer + 1 == len(widths) or widths[layer + 1] == 0:
            return layer % 2
        _squeeze(out, widths[layer])


@inlined
def _multiply(weights: Array, source: Array, inputs: int, outputs: int, out: Array) -> None:
    """Bias and products; adding whole rows keeps the inner loop vectorised."""
    for o in range(outputs):
        out[o] = weights[inputs, o]
    for i in range(inputs):
        value = source[i]
        for o in range(outputs):
            out[o] += value * weights[i, o]


@inlined
def _squeeze(values: Array, count: int) -> None:
    """Replace the first numbers by their tanh; NaN may become any number from -1 to 1."""
    for place in range(count):
        x = min(max(values[place], -FLAT), FLAT)
        z = x * x
        top = x * (_A1 + z * (_A3 + z * (_A5 + z * (_A7 + z * (_A9 + z * (_A11 + z * _A13))))))
        values[place] = top / (_B0 + z * (_B2 + z * (_B4 + z * _B6)))
