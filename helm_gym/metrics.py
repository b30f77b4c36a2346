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
from typing import Any

import numpy as np
from numpy.typing import NDArray

from helm_gym.config.scenario import Scenario
from helm_gym.errors import ConfigError
from helm_gym.sim.compiled import inlined, kernel
from helm_gym.sim.layout import N_BINS, N_CLUSTER, N_NODE, Cluster, Node
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


# What the formulas below use beyond the columns of Telemetry.node and Telemetry.cluster.
_CLUSTER = N_NODE  # first column of Telemetry.cluster
_ADMITTED, _HIT_BYTES, _MOVED, _NODES, _SECONDS, _NODE_SECONDS, _ONE = range(
    N_NODE + N_CLUSTER, N_NODE + N_CLUSTER + 7
)
_FORMULAS: Mapping[str, tuple[int, int, float]] = {  # (what, divided by, in units of)
    "p50_ms": (_CLUSTER + Cluster.P50_S, _ONE, MS),
    "p99_ms": (_CLUSTER + Cluster.P99_S, _ONE, MS),
    "warm_p50_ms": (_CLUSTER + Cluster.WARM_P50_S, _ONE, MS),
    "warm_p99_ms": (_CLUSTER + Cluster.WARM_P99_S, _ONE, MS),
    "mean_ms": (Node.LATENCY_S, _ADMITTED, MS),
    "slo_satisfaction": (Node.WITHIN_SLO, Node.ARRIVED, 1.0),
    "offered_rps": (Node.ARRIVED, _SECONDS, 1.0),
    "throughput_rps": (_CLUSTER + Cluster.COMPLETED, _SECONDS, 1.0),
    "goodput_rps": (Node.WITHIN_SLO, _SECONDS, 1.0),
    "shed_rate": (Node.SHED, Node.ARRIVED, 1.0),
    "kv_hit_rate": (Node.KV_HITS, _ADMITTED, 1.0),
    "emb_hit_rate": (_HIT_BYTES, Node.LOOKUP_BYTES, 1.0),
    "miss_gb": (Node.MISS_BYTES, _ONE, GB),
    "refill_gb": (Node.REFILL_BYTES, _ONE, GB),
    "link_utilisation": (Node.LINK_S, _NODE_SECONDS, 1.0),
    "gpu_utilisation": (Node.GPU_S, _NODE_SECONDS, 1.0),
    "emb_share": (Node.SHARE, _NODES, 1.0),
    "share_moved": (_MOVED, _NODES, 1.0),
    "hot_user_share": (Node.HOT, Node.ARRIVED, 1.0),
    "in_flight": (_CLUSTER + Cluster.IN_FLIGHT, _ONE, 1.0),
}
assert tuple(_FORMULAS) == tuple(METRICS)
_PLAN = np.array(list(_FORMULAS.values()), np.float64).T.copy()  # (3, figures)
_MEAN, _SATISFACTION = (list(METRICS).index(name) for name in ("mean_ms", "slo_satisfaction"))


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
    seconds = np.full(len(telemetry.node), scenario.episode.step_s)
    return cluster_metrics(telemetry, previous_share, seconds)


def cluster_metrics(
    telemetry: Telemetry, previous_share: Floats, seconds: Floats
) -> dict[str, Floats]:
    """:func:`window_metrics` of clusters whose windows may differ in length.

    Args:
        telemetry: what the windows reported.
        previous_share: (B, M) EMB shares in force before the windows' decisions.
        seconds: (B,) length of each.
    """
    # In one piece, so that the kernel is compiled for one layout in memory.
    shares = np.ascontiguousarray(telemetry.node[:, :, Node.SHARE])
    cluster = np.ascontiguousarray(telemetry.cluster)
    nodes = shares.shape[1]
    return _figures(telemetry.total, cluster, shares, previous_share, nodes, seconds)


def _figures(
    sums: Floats, cluster: Floats, shares: Floats, before: Floats, nodes: int, seconds: Floats
) -> dict[str, Floats]:
    """Every name of :data:`METRICS` from sums over nodes.

    Args:
        sums: (B, N_NODE) over nodes and time.
        cluster: (B, N_CLUSTER) quantiles, completions and requests in flight.
        shares: (B, K) EMB shares of which |shares - before| adds up to the amount moved.
        before: (B, K) what they were.
        nodes: M.
        seconds: (B,) of time.
    """
    table = np.empty((len(_FORMULAS), len(sums)))
    _tabulate_rows(sums, cluster, shares, before, nodes, seconds, _PLAN, table)
    return dict(zip(METRICS, table, strict=True))


@kernel
def _tabulate_rows(
    sums: Floats,
    cluster: Floats,
    shares: Floats,
    before: Floats,
    nodes: float,
    seconds: Floats,
    plan: Floats,
    table: Floats,
) -> None:
    """:func:`_tabulate` for every row, in one call from Python."""
    for row in range(len(sums)):
        moved = _distance(shares[row], before[row])
        _tabulate(sums[row], cluster[row], moved, nodes, seconds[row], plan, table[:, row])


@kernel
def _distance(shares: Floats, before: Floats) -> float:
    total = 0.0
    for k in range(shares.size):
        total += abs(shares[k] - before[k])
    return total


@kernel
def _tabulate(
    sums: Floats,
    cluster: Floats,
    moved: float,
    nodes: float,
    seconds: float,
    plan: Floats,
    table: Floats,
) -> None:
    """The formulas of one row; one call where NumPy would need a dozen."""
    admitted = sums[Node.ARRIVED] - sums[Node.SHED]
    for k in range(plan.shape[1]):
        what = _known(sums, cluster, moved, nodes, seconds, int(plan[0, k]))
        by = _known(sums, cluster, moved, nodes, seconds, int(plan[1, k]))
        # Counts and bytes may be 0, and then so is what they divide.
        table[k] = what / ((1.0 if by == 0.0 else by) * plan[2, k])
    if admitted == 0.0:
        table[_MEAN] = np.nan
    if sums[Node.ARRIVED] == 0.0:
        table[_SATISFACTION] = 1.0


@inlined
def _known(
    sums: Floats, cluster: Floats, moved: float, nodes: float, seconds: float, column: int
) -> Any:
    if column < _CLUSTER:
        return sums[column]
    if column < _ADMITTED:
        return cluster[column - _CLUSTER]
    if column == _ADMITTED:
        return sums[Node.ARRIVED] - sums[Node.SHED]
    if column == _HIT_BYTES:
        return sums[Node.LOOKUP_BYTES] - sums[Node.MISS_BYTES]
    if column == _MOVED:
        return moved
    if column == _NODES:
        return nodes
    if column == _SECONDS:
        return seconds
    return nodes * seconds if column == _NODE_SECONDS else 1.0


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
        self._moved += float(np.abs(share - previous_share[row]).sum())

    def result(self) -> dict[str, float]:
        """Every name of :data:`METRICS` over all windows so far.

        Raises:
            ConfigError: no window was added.
        """
        if self.windows == 0:
            raise ConfigError("the episode has no window yet; call add(...) after every step")
        cluster = np.zeros(N_CLUSTER)
        for column, histogram, q in (
            (Cluster.P50_S, self.latency, 0.5),
            (Cluster.P99_S, self.latency, 0.99),
            (Cluster.WARM_P50_S, self.warm, 0.5),
            (Cluster.WARM_P99_S, self.warm, 0.99),
        ):
            # The type that the kernel is compiled for already.
            cluster[column] = quantile(histogram.astype(np.uint32), q)
        cluster[Cluster.COMPLETED] = self._completed
        cluster[Cluster.IN_FLIGHT] = self._in_flight
        sums = self._sums.copy()
        sums[Node.SHARE] /= self.windows  # a level, of which the mean over windows is wanted
        seconds = self.windows * self.scenario.episode.step_s
        moved, nowhere = np.array([[self._moved]]), np.zeros((1, 1))
        nodes = self.scenario.nodes
        own = _figures(sums[None], cluster[None], moved, nowhere, nodes, np.array([seconds]))
        return {name: float(value[0]) for name, value in own.items()}


def per(top: Floats, count: Floats) -> Floats:
    """``top / count`` for counts of requests or bytes, which make ``top`` 0 where they are 0."""
    return top / np.maximum(count, 1.0)
