"""The residual network: a small MLP whose bounded output is added to the share of a frozen base.

Three layers, tanh between them and after them. The last layer begins at zero, so the output begins
at exactly 0.0 and day one is the base. Decisions use :func:`forward`, compiled and without
allocation; learning uses :func:`gradient`, off the decision path.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from helm_gym.sim.compiled import kernel

Array = NDArray[Any]
Floats = NDArray[np.float64]

HIDDEN = 16  # untuned: HELM's network is "small"; 42 inputs make 977 weights


class ResidualWeights(NamedTuple):
    """Float64 weights of the network; I inputs, H hidden units."""

    w1: Floats  # (H, I)
    b1: Floats  # (H,)
    w2: Floats  # (H, H)
    b2: Floats  # (H,)
    w3: Floats  # (H,)
    b3: Floats  # (1,)


def inputs_of(features: int) -> int:
    """Numbers that the network sees of a node: its observation and the mean over its cluster."""
    return 2 * features


def initial_weights(inputs: int, seed: int, hidden: int = HIDDEN) -> ResidualWeights:
    """Random first layers (normal, standard deviation 1/sqrt(inputs)) and a last layer of zeros."""
    rng = np.random.default_rng(seed)
    return ResidualWeights(
        w1=rng.normal(0.0, inputs**-0.5, (hidden, inputs)),
        b1=np.zeros(hidden),
        w2=rng.normal(0.0, hidden**-0.5, (hidden, hidden)),
        b2=np.zeros(hidden),
        w3=np.zeros(hidden),
        b3=np.zeros(1),
    )


def scratch_for(weights: ResidualWeights) -> Floats:
    """(2, H) that :func:`forward` works in; allocate it once."""
    return np.empty((2, len(weights.b1)))


def see(observations: Array) -> Floats:
    """The network's input: (rows, M, F) observations to (rows, M, 2F).

    Every node sees its own observation and then the mean over its cluster.
    """
    own = np.asarray(observations, np.float64)
    mean = np.broadcast_to(own.mean(axis=1, keepdims=True), own.shape)
    return np.concatenate([own, mean], axis=2)


@kernel
def forward(
    weights: ResidualWeights,
    bound: float,
    features: Any,
    gate: Any,
    scratch: Any,
    out: Any,
) -> None:
    """Residuals of all nodes of a cluster, in share; nothing is allocated.

    ``out[m] = gate[m] * bound * tanh(net(features[m]))``, and 0 where that is not finite. The
    caller adds it to the base's share and clips to the range.

    Args:
        weights: of the network.
        bound: longest residual.
        features: (M, I), any float type.
        gate: (M,) 1 where the residual is on, 0 where the base decides alone.
        scratch: (2, H), see :func:`scratch_for`.
        out: (M,) is written.
    """
    hidden, inputs = weights.w1.shape
    for m in range(features.shape[0]):
        out[m] = 0.0
        if gate[m] == 0.0:
            continue
        for h in range(hidden):
            total = weights.b1[h]
            for i in range(inputs):
                total += weights.w1[h, i] * features[m, i]
            scratch[0, h] = math.tanh(total)
        last = weights.b3[0]
        for h in range(hidden):
            total = weights.b2[h]
            for i in range(hidden):
                total += weights.w2[h, i] * scratch[0, i]
            scratch[1, h] = math.tanh(total)
            last += weights.w3[h] * scratch[1, h]
        value = bound * math.tanh(last)
        if math.isfinite(value):
            out[m] = gate[m] * value


def outputs(weights: ResidualWeights, features: Array) -> Floats:
    """tanh(net(features)) of (N, I) rows, (N,); for learning and tests."""
    return _layers(weights, features)[2]


def gradient(weights: ResidualWeights, features: Array, slope: Array) -> ResidualWeights:
    """Gradient of ``sum(slope * tanh(net(features)))``.

    Args:
        weights: of the network.
        features: (N, I).
        slope: (N,) derivative of the objective by each row's output.

    Returns:
        Derivatives in the shape of the weights.
    """
    first, second, last = _layers(weights, features)
    delta = slope * (1.0 - last**2)
    delta2 = np.outer(delta, weights.w3) * (1.0 - second**2)
    delta1 = (delta2 @ weights.w2) * (1.0 - first**2)
    return ResidualWeights(
        w1=delta1.T @ features,
        b1=delta1.sum(axis=0),
        w2=delta2.T @ first,
        b2=delta2.sum(axis=0),
        w3=delta @ second,
        b3=delta.sum(keepdims=True),
    )


def _layers(weights: ResidualWeights, features: Array) -> tuple[Floats, Floats, Floats]:
    first = np.tanh(features @ weights.w1.T + weights.b1)
    second = np.tanh(first @ weights.w2.T + weights.b2)
    return first, second, np.tanh(second @ weights.w3 + weights.b3[0])
