"""What a classical rule reads: the ``extended`` observation by name, in units it can reason in.

Observations are squeezed into fixed ranges for networks. Here the squeezing is undone where it can
be: a latency is a multiple of the SLO again, a rate a multiple of the nominal one, and a marginal
value seconds of work per second.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from helm_gym.envs.observation import FEATURES, MARGINAL_SCALE

Array = NDArray[Any]
Floats = NDArray[np.float64]

PRESET = "extended"
INDEX: Mapping[str, int] = {feature.name: int(feature) for feature in FEATURES[PRESET]}
"""Place of every feature on the observation's last axis."""

GHOST = 0.06
"""Share whose gain equals a marginal value. The ghosts look ``kv.ghost_gb`` far, 0.033 of a 60-GB
pool, and promise too much: on ``taobao-shift`` work falls 1.5 to 2 times less over that distance,
on both sides (differences of static shares 0.2, 0.3 and 0.5, seed 10000)."""

FULLEST = 0.98  # utilisation at which delay stops growing faster than work
FULL = 0.999  # a squeezed value is cut here, so that undoing it stays finite
SMALL = 1e-6


class Signals(NamedTuple):
    """One window as R rows saw it; every field is (R,)."""

    share: Floats  # EMB share in force
    link: Floats  # link work / time, refill included
    gpu: Floats  # GPU work / time
    link_delay: Floats  # s until the link is free / deadline
    gpu_delay: Floats  # s until the GPU is free / deadline
    emb_hit: Floats  # bytes that hit / bytes looked up
    kv_hit: Floats  # hits / admitted
    marginal_emb: Floats  # link s saved per s by a ghost more EMB
    marginal_kv: Floats  # GPU and link s saved per s by a ghost more KV
    p99: Floats  # P99 / SLO, of the cluster in every row
    latency: Floats  # mean latency / SLO
    rate: Floats  # 10-s average of arrivals / nominal rate
    tokens: Floats  # mean history / longest history of the model
    candidates: Floats  # mean candidates / most of any surface
    shed: Floats  # shed / arrived

    @property
    def blame(self) -> Floats:
        """Which stage holds requests up: 1 only the link (more EMB helps), -1 only the GPU.

        The ghosts say what more memory would save, this says where the work is now.
        """
        work = self.link + self.gpu
        return np.asarray((self.link - self.gpu) / np.maximum(work, SMALL))

    @property
    def requests(self) -> Floats:
        """(R, 1) arrivals of the last 10 s / nominal, of those that were served."""
        return np.maximum(self.rate * (1.0 - self.shed), 0.05)[:, None]

    def work(self) -> Floats:
        """(R, 2) seconds of link and of GPU work per (nominal) request."""
        return np.stack([self.link, self.gpu], axis=1) / self.requests

    def slopes(self, ghost: float) -> Floats:
        """(R, 2) derivatives of :meth:`work` by the share, as the ghosts tell them.

        Args:
            ghost: share that a marginal value stands for.
        """
        told = np.stack([-self.marginal_emb, self.marginal_kv], axis=1)
        return np.asarray(told / ghost / self.requests)


def read(obs: Array) -> Signals:
    """Name the columns of (..., F) observations and flatten them to rows.

    Args:
        obs: (rows, F), or (rows, M, F) where every node is a row here.
    """
    flat = np.asarray(obs, np.float64).reshape(-1, len(INDEX))
    seen = {name: flat[:, place] for name, place in INDEX.items()}
    return Signals(
        share=seen["emb_share"],
        link=seen["link_utilisation"],
        gpu=seen["gpu_utilisation"],
        link_delay=seen["link_queue_delay"],
        gpu_delay=seen["gpu_queue_delay"],
        emb_hit=seen["emb_hit_rate"],
        kv_hit=seen["kv_hit_rate"],
        marginal_emb=MARGINAL_SCALE * unsqueezed(seen["marginal_emb"]),
        marginal_kv=MARGINAL_SCALE * unsqueezed(seen["marginal_kv"]),
        p99=unsqueezed(seen["p99"]),
        latency=unsqueezed(seen["mean_latency"]),
        rate=unsqueezed(seen["arrival_rate_fast"]),
        tokens=seen["mean_sequence_length"],
        candidates=seen["mean_candidates"],
        shed=seen["shed_rate"],
    )


def delay(utilisation: Floats) -> Floats:
    """Utilisation over the time left, which an M/G/1 queue's wait is proportional to."""
    return np.asarray(utilisation / (1.0 - np.minimum(utilisation, FULLEST)))


def unsqueezed(value: Floats) -> Floats:
    """Turn ``v = x / (x + 1)`` back into x, at most 999."""
    value = np.minimum(value, FULL)
    return np.asarray(value / (1.0 - value))
