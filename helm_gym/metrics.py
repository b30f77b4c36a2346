"""Figures of a window and of an episode, each by formula.

Instants of a request: a (it arrives), d (its GPU work ends). Its latency is d - a, and queueing is
what of it was spent waiting for the link and the GPU. A request is *shed* if its predicted wait at
a exceeds the deadline; it has no d and misses the SLO. A *window* is one decision period of
``episode.step_s`` seconds; a request counts in the window it arrives in, except in
``throughput_rps``, which counts the window that holds d. ``p50`` and ``p99`` are quantiles of the
latencies of all admitted requests, interpolated in a histogram whose bins are 1/64 of their value
wide, and NaN where none was admitted; ``warm`` ones leave out the first request of each session,
which no EMB share makes a hit. Where nothing arrived, hit rates and shares of requests are 0 and
the SLO counts as met.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from helm_gym.config import Scenario
from helm_gym.errors import ConfigError
from helm_gym.sim.layout import N_BINS, N_NODE, Cluster, Node
from helm_gym.sim.simulator import Telemetry
from helm_gym.sim.stages import quantile
from helm_gym.units import GB, MS

Floats = NDArray[np.float64]

METRICS: Mapping[str, str] = {
    "p50_ms": "ms; median latency of admitted requests",
    "p99_ms": "ms; 99th percentile of it",
    "warm_p50_ms": "ms; median latency of requests that are not the first of their session",
    "warm_p99_ms": "ms; 99th percentile of it",
    "mean_ms": "ms; mean latency of admitted requests",
    "slo_satisfaction": "requests inside the SLO / arrived",
    "offered_rps": "1/s; arrived / time",
    "throughput_rps": "1/s; finished / time",
    "goodput_rps": "1/s; requests inside the SLO / time",
    "shed_rate": "shed / arrived",
    "kv_hit_rate": "admitted requests whose user's KV was resident / admitted",
    "emb_hit_rate": "1 - bytes fetched over the link / bytes looked up",
    "miss_gb": "GB fetched over the link for requests",
    "refill_gb": "GB copied by refill",
    "link_utilisation": "link work of misses and refill / (nodes x time); above 1 a queue grows",
    "gpu_utilisation": "GPU work admitted / (nodes x time); above 1 a queue grows",
    "emb_share": "EMB share in force, mean over nodes",
    "share_moved": "|change of the EMB share|, mean over nodes",
    "hot_user_share": "requests of users seen within episode.hot_user_s before / arrived",
    "in_flight": "requests admitted and unfinished at the end",
}
"""Name of every figure, with its unit and formula."""


def window_metrics(
    scenario: Scenario, telemetry: Telemetry, previous_share: Floats
) -> dict[str, Floats]:
    """Figures of one window of every cluster.

    Args:
        scenario: what was simulated.
        telemetry: what the window reported.
        previous_share: (B, M) EMB shares in force before the window's decision.

    Returns:
        A (B,) array for every name in :data:`METRICS`.
    """
    window = scenario.episode.step_s
    figures = telemetry.cluster.T
    share = telemetry.node[:, :, Node.SHARE]
    own = _from_sums(scenario, telemetry.node.sum(axis=1), window)
    own["p50_ms"] = figures[Cluster.P50_S] / MS
    own["p99_ms"] = figures[Cluster.P99_S] / MS
    own["warm_p50_ms"] = figures[Cluster.WARM_P50_S] / MS
    own["warm_p99_ms"] = figures[Cluster.WARM_P99_S] / MS
    own["throughput_rps"] = figures[Cluster.COMPLETED] / window
    own["in_flight"] = figures[Cluster.IN_FLIGHT].copy()
    own["emb_share"] = share.sum(axis=1) / scenario.nodes
    own["share_moved"] = np.abs(share - previous_share).sum(axis=1) / scenario.nodes
    return {name: own[name] for name in METRICS}


class EpisodeMetrics:
    """Figures of a whole episode of one cluster, from its windows.

    Rates come from sums over the episode and quantiles from the merged histogram, so they are not
    means of the windows' figures. The amounts ``miss_gb``, ``refill_gb`` and ``share_moved`` add
    up, ``emb_share`` is the mean over windows, and ``in_flight`` is the last window's.

    Args:
        scenario: what is simulated.
    """

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.windows = 0
        self.latency: NDArray[np.int64] = np.zeros(N_BINS, np.int64)  # admitted requests
        self.warm: NDArray[np.int64] = np.zeros(N_BINS, np.int64)  # of them, warm ones
        self._sums = np.zeros(N_NODE)
        self._completed = 0.0
        self._in_flight = 0.0
        self._share = 0.0
        self._moved = 0.0

    def add(self, telemetry: Telemetry, previous_share: Floats, row: int = 0) -> None:
        """Add the window of cluster ``row``.

        Args:
            telemetry: what the window reported, for all clusters.
            previous_share: (B, M) EMB shares in force before the window's decision.
            row: which cluster this object follows.
        """
        node, figures = telemetry.node[row], telemetry.cluster[row]
        share = node[:, Node.SHARE]
        self.windows += 1
        self.latency += telemetry.latency[row]
        self.warm += telemetry.warm[row]
        self._sums += node.sum(axis=0)
        self._completed += float(figures[Cluster.COMPLETED])
        self._in_flight = float(figures[Cluster.IN_FLIGHT])
        self._share += float(share.mean())
        self._moved += float(np.abs(share - previous_share[row]).mean())

    def result(self) -> dict[str, float]:
        """Every name of :data:`METRICS` over all windows so far.

        Raises:
            ConfigError: no window was added.
        """
        if self.windows == 0:
            raise ConfigError("the episode has no window yet; call add(...) after every step")
        seconds = self.windows * self.scenario.episode.step_s
        own = {
            name: float(value)
            for name, value in _from_sums(self.scenario, self._sums, seconds).items()
        }
        for name, histogram in (("", self.latency), ("warm_", self.warm)):
            # The type that the kernel is compiled for already.
            counts = histogram.astype(np.uint32)
            own[f"{name}p50_ms"] = float(quantile(counts, 0.5)) / MS
            own[f"{name}p99_ms"] = float(quantile(counts, 0.99)) / MS
        own["throughput_rps"] = self._completed / seconds
        own["in_flight"] = self._in_flight
        own["emb_share"] = self._share / self.windows
        own["share_moved"] = self._moved
        return {name: own[name] for name in METRICS}


def per(top: Floats, count: Floats) -> Floats:
    """``top / count`` for counts of requests or bytes, which make ``top`` 0 where they are 0."""
    return top / np.maximum(count, 1.0)


def _from_sums(scenario: Scenario, sums: Floats, seconds: float) -> dict[str, Floats]:
    """Figures that follow from (..., N_NODE) sums over nodes and ``seconds`` of time."""
    column = sums.T
    arrived, shed, inside = column[Node.ARRIVED], column[Node.SHED], column[Node.WITHIN_SLO]
    looked_up, missed = column[Node.LOOKUP_BYTES], column[Node.MISS_BYTES]
    admitted = arrived - shed
    busy = scenario.nodes * seconds
    return {
        "mean_ms": column[Node.LATENCY_S] / np.where(admitted > 0.0, admitted, np.nan) / MS,
        "slo_satisfaction": per(inside + (arrived == 0.0), arrived),
        "offered_rps": arrived / seconds,
        "goodput_rps": inside / seconds,
        "shed_rate": per(shed, arrived),
        "kv_hit_rate": per(column[Node.KV_HITS], admitted),
        "emb_hit_rate": per(looked_up - missed, looked_up),
        "miss_gb": missed / GB,
        "refill_gb": column[Node.REFILL_BYTES] / GB,
        "link_utilisation": column[Node.LINK_S] / busy,
        "gpu_utilisation": column[Node.GPU_S] / busy,
        "hot_user_share": per(column[Node.HOT], arrived),
    }
