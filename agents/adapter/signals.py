"""What the adapter learns from, all of it computed from one cluster's observation.

A policy sees no reward, so the learner makes its own. It is the cluster's: HELM's form, with
a slope below the SLO. A node is not told apart from its neighbours. Paid for its own latency it
learns to shirk (it serves badly, is routed less, and looks fine), and even the work of its requests
says more about which requests a router gives to a node of that share than about the share.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from helm_gym.envs.reading import SMALL, read

Array = NDArray[Any]
Floats = NDArray[np.float64]

TAIL = 0.1  # reward per SLO of P99 beyond the SLO; as the "paper" preset of envs/reward.py
MEAN = 0.5  # reward per SLO of mean latency; untuned: a slope where every P99 meets the SLO
FULLEST = 0.97  # utilisation beyond which a price stops growing


class Outcome(NamedTuple):
    """What the last window cost, of one cluster of M nodes."""

    p99: float  # P99 / SLO
    reward: float  # of the cluster
    marginal: Floats  # (4, M) marginal EMB, marginal KV (s/s), link and GPU utilisation


def outcome(observation: Array, violations: Array) -> Outcome:
    """Read one cluster's window.

    Args:
        observation: (M, F) of the ``extended`` preset.
        violations: (M,) its column ``slo_violation_rate``.
    """
    seen = read(observation)
    requests = np.maximum(seen.rate, SMALL)
    violated = float(np.average(violations, weights=requests))
    latency = float(np.average(seen.latency, weights=requests))
    p99 = float(seen.p99[0])
    return Outcome(
        p99=p99,
        reward=1.0 - violated - TAIL * max(0.0, p99 - 1.0) - MEAN * latency,
        marginal=np.stack([seen.marginal_emb, seen.marginal_kv, seen.link, seen.gpu]),
    )


def price(utilisation: Floats) -> Floats:
    """What a further second of work at a stage costs all who wait there, in units of its wait.

    The slope of u / (1 - u), which the wait of an M/G/1 queue is proportional to.
    """
    return np.asarray((1.0 - np.minimum(utilisation, FULLEST)) ** -2)


def slope(marginal: Floats, kv_discount: float) -> Floats:
    """Which way the share should go, (M,) from -1 (KV) to 1 (EMB), and 0 at the optimum.

    With A = marginal EMB at the link's price and B = marginal KV at the GPU's, discounted, it is
    (A - B) / (A + B): where more EMB would save as much waiting as more KV, nothing is to be won.

    Args:
        marginal: (4, M) as in :class:`Outcome`.
        kv_discount: worth of a second that the KV ghost promises, in those of the EMB ghost.
    """
    emb, kv, link, gpu = marginal
    gain_emb, gain_kv = emb * price(link), kv_discount * kv * price(gpu)
    return np.asarray((gain_emb - gain_kv) / np.maximum(gain_emb + gain_kv, SMALL))
