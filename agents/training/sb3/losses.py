"""PPO's losses over choices, and tanh, as kernels: a call where torch needs some hundred."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from helm_gym.sim.compiled import kernel

Floats = NDArray[np.float32]

LOGGED = (
    "policy_gradient_loss", "value_loss", "entropy_loss", "loss", "clip_fraction", "approx_kl",
)  # fmt: skip
"""What :func:`choice_losses` says of a mini-batch, as SB3 names it."""

# tanh(x) = x P(x^2) / Q(x^2) to a few units in the last place of float32; the coefficients are
# those of the Eigen library, and beyond the limit tanh is 1 in float32.
_LIMIT = np.float32(7.90531110763549805)
_TOP = np.array(
    [
        -2.76076847742355e-16, 2.00018790482477e-13, -8.60467152213735e-11, 5.12229709037114e-08,
        1.48572235717979e-05, 6.37261928875436e-04, 4.89352455891786e-03,
    ],
    np.float32,
)  # fmt: skip
_BOTTOM = np.array(
    [1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03],
    np.float32,
)


@kernel
def squash(rows: Floats) -> None:
    """Replace (N, K) numbers by their tanh, several at a time where the processor can."""
    for n in range(rows.shape[0]):
        for k in range(rows.shape[1]):
            x = min(max(rows[n, k], -_LIMIT), _LIMIT)
            square = x * x
            top, bottom = _TOP[0], _BOTTOM[0]
            for i in range(1, 7):
                top = top * square + _TOP[i]
            for i in range(1, 4):
                bottom = bottom * square + _BOTTOM[i]
            rows[n, k] = x * top / bottom


@kernel
def unsquash(gradient: Floats, squashed: Floats) -> None:
    """Turn gradients by tanh's values into those by its arguments, in place; all (N, K)."""
    for n in range(gradient.shape[0]):
        for k in range(gradient.shape[1]):
            gradient[n, k] *= np.float32(1.0) - squashed[n, k] * squashed[n, k]


@kernel
def choice_losses(
    logits: Floats, values: Floats, batch: Any, rule: Any, by_logits: Floats, by_values: Floats,
    told: NDArray[np.float64],
) -> None:  # fmt: skip
    """Losses of a mini-batch of N choices, and their gradients by what the networks said.

    Args:
        logits: (N, C) of the actor.
        values: (N, 1) of the critic.
        batch: (N, 1) choices and (N,) old log probabilities, advantages and returns.
        rule: how far a probability may move, the weights of entropy and value, and whether
            advantages are normalised.
        by_logits: (N, C) gradient of the loss, written.
        by_values: (N, 1) likewise.
        told: (6,) numbers for :data:`LOGGED`, written.
    """
    choices, old, advantages, returns = batch
    clip, ent_coef, vf_coef, normalise = rule
    rows, count = logits.shape
    mean, spread = 0.0, 1.0
    if normalise and rows > 1:
        for n in range(rows):
            mean += advantages[n] / rows
        squares = 0.0
        for n in range(rows):
            squares += (advantages[n] - mean) ** 2
        spread = math.sqrt(squares / (rows - 1)) + 1e-8
    told[:] = 0.0
    for n in range(rows):
        own, chosen = logits[n], int(choices[n, 0])
        highest, total = own[0], 0.0
        for c in range(1, count):
            highest = max(highest, own[c])
        for c in range(count):
            by_logits[n, c] = math.exp(own[c] - highest)  # until the gradient takes its place
            total += by_logits[n, c]
        base, entropy = highest + math.log(total), 0.0
        for c in range(count):
            entropy -= by_logits[n, c] / total * (own[c] - base)
        advantage = (advantages[n] - mean) / spread
        moved = own[chosen] - base - old[n]
        ratio = math.exp(moved)
        limited = min(max(ratio, 1.0 - clip), 1.0 + clip)
        free = advantage * ratio <= advantage * limited  # else the limit decides, which is flat
        by_log = -advantage * ratio if free else 0.0
        for c in range(count):
            p = by_logits[n, c] / total
            towards = by_log * ((1.0 if c == chosen else 0.0) - p)
            by_logits[n, c] = (towards + ent_coef * p * (own[c] - base + entropy)) / rows
        error = values[n, 0] - returns[n]
        by_values[n, 0] = 2.0 * vf_coef * error / rows
        told[0] -= min(advantage * ratio, advantage * limited) / rows
        told[1] += error * error / rows
        told[2] -= entropy / rows
        told[4] += (1.0 if abs(ratio - 1.0) > clip else 0.0) / rows
        told[5] += (ratio - 1.0 - moved) / rows
    told[3] = told[0] + ent_coef * told[2] + vf_coef * told[1]
