"""Observations: what a policy sees of a window, scaled to stated ranges and never NaN.

A row describes its cluster (``control="cluster"``) or a node (``per_node``, ``node``). Sums are
taken over that cluster or node; the P99 is the cluster's in every row, because a quantile of one
node's few requests is mostly noise. In a row that is a node ``cluster_share`` shows the mean share
of its cluster, so that a shared policy sees what its neighbours do.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray

from helm_gym.config.scenario import Scenario
from helm_gym.envs.action import Layout
from helm_gym.errors import ConfigError, nearest
from helm_gym.metrics import per
from helm_gym.sim.layout import Cluster, Node
from helm_gym.sim.simulator import Telemetry
from helm_gym.units import GB, MS

Floats = NDArray[np.float64]

FAST_S = 10.0  # time constant of the fast average of the arrival rate
SLOW_S = 120.0  # and of the slow one
MARGINAL_SCALE = 0.01  # s saved per s at which a marginal value reads 0.5


class Feature(NamedTuple):
    """One number of an observation."""

    name: str
    low: float
    high: float
    unit: str


_PAPER7 = (
    Feature("hot_user_share", 0.0, 1.0, "requests of hot users / arrived"),
    Feature("kv_hit_rate", 0.0, 1.0, "hits / admitted"),
    Feature("emb_hit_rate", 0.0, 1.0, "bytes that hit / bytes looked up"),
    Feature("mean_sequence_length", 0.0, 1.0, "tokens / longest history of the model"),
    Feature("slo_violation_rate", 0.0, 1.0, "requests outside the SLO / arrived"),
    Feature("emb_share", 0.0, 1.0, "EMB share in force"),
    Feature("p99", 0.0, 1.0, "P99 / (P99 + SLO)"),
)
_EXTENDED = (
    *_PAPER7,
    Feature("arrival_rate_fast", 0.0, 1.0, "r / (r + 1), r = 10-s average / nominal rate"),
    Feature("arrival_rate_slow", 0.0, 1.0, "r / (r + 1), r = 120-s average / nominal rate"),
    Feature("link_queue_delay", 0.0, 1.0, "s until the link is free / deadline"),
    Feature("gpu_queue_delay", 0.0, 1.0, "s until the GPU is free / deadline"),
    Feature("link_utilisation", 0.0, 2.0, "link work / time"),
    Feature("gpu_utilisation", 0.0, 2.0, "GPU work / time"),
    Feature("refill_backlog", 0.0, 1.0, "bytes waiting to be copied / pool"),
    Feature("shed_rate", 0.0, 1.0, "shed / arrived"),
    Feature("mean_candidates", 0.0, 1.0, "candidates / most of any surface"),
    Feature("marginal_emb", 0.0, 1.0, "v / (v + 0.01), v = s saved per s by kv.ghost_gb more EMB"),
    Feature("marginal_kv", 0.0, 1.0, "v / (v + 0.01), v = s saved per s by kv.ghost_gb more KV"),
    Feature("mean_latency", 0.0, 1.0, "mean latency / (mean latency + SLO)"),
    Feature("mean_wait", 0.0, 1.0, "mean queueing delay / deadline"),
    Feature("cluster_share", 0.0, 1.0, "EMB share in force, mean over the cluster"),
)
FEATURES: dict[str, tuple[Feature, ...]] = {"paper7": _PAPER7, "extended": _EXTENDED}
"""Features of every preset, in the order of the observation's last axis."""


class Observer:
    """Builds observations and keeps the averages they need.

    Args:
        scenario: what is simulated.
        layout: whether rows describe clusters or nodes.
        preset: a key of :data:`FEATURES`.

    Raises:
        ConfigError: the preset does not exist.
    """

    def __init__(self, scenario: Scenario, layout: Layout, preset: str) -> None:
        if preset not in FEATURES:
            raise ConfigError(f"observation={preset!r}{nearest(str(preset), FEATURES)}")
        self.features = FEATURES[preset]
        self.low = np.array([f.low for f in self.features], np.float32)
        self.high = np.array([f.high for f in self.features], np.float32)
        episode, workload = scenario.episode, scenario.workload
        self._extended = preset == "extended"
        self._nodes = layout.sees_nodes
        described = layout.nodes if layout.sees_nodes else 1
        self._merged = layout.nodes // described  # nodes that one description sums over
        self._window = episode.step_s
        self._nominal = (
            self._merged * workload.load * workload.capacity_rps_per_node.value * episode.step_s
        )
        self._keep = np.exp(-episode.step_s / np.array([FAST_S, SLOW_S]))
        self._slo = scenario.slo.p99_ms.value * MS
        self._deadline = scenario.slo.deadline_ms.value * MS
        self._pool = scenario.memory.pool_gb.value * GB
        self._longest = scenario.hardware.model.max_history.value
        self._most = max(surface.candidates.value for surface in workload.surfaces)
        self.rates: Floats = np.ones((layout.clusters, described, 2))  # fast and slow, of nominal

    def space(self, layout: Layout, flat: bool) -> Box:
        """What one row sees: (features,), or with ``per_node`` (M, features).

        Args:
            layout: how rows map to clusters and nodes.
            flat: lay (M, features) out as (M * features,).
        """
        low, high = self.low, self.high
        if layout.control == "per_node":
            low, high = np.tile(low, (layout.nodes, 1)), np.tile(high, (layout.nodes, 1))
        if flat:
            low, high = low.reshape(-1), high.reshape(-1)
        return Box(low, high, dtype=np.float32)

    def start(self, telemetry: Telemetry, clusters: NDArray[np.bool_]) -> None:
        """Begin the averages of some clusters with their last warm-up window."""
        rate = self._rate(telemetry)
        # Without a warm-up there was no window, and the nominal rate is the best guess.
        known = np.where(rate > 0.0, rate, 1.0)
        self.rates[clusters] = known[clusters, :, None]

    def follow(self, telemetry: Telemetry, clusters: NDArray[np.bool_]) -> None:
        """Continue the averages of some clusters with a window."""
        if not self._extended:
            return  # nothing shows them
        rate = self._rate(telemetry)[:, :, None]
        moved = rate + self._keep * (self.rates - rate)
        self.rates = (
            moved if clusters.all() else np.where(clusters[:, None, None], moved, self.rates)
        )

    def observe(self, telemetry: Telemetry, shares: Floats) -> NDArray[np.float32]:
        """Observation of every cluster.

        Args:
            telemetry: the last window of every cluster.
            shares: (B, M) EMB shares in force.

        Returns:
            (B, D, features), where D is M if rows describe nodes, else 1.
        """
        column = self._described(telemetry).transpose(2, 0, 1)
        values = self._paper7(telemetry, column, shares)
        if self._extended:
            values.update(self._extension(column, shares))
        seen = np.empty((len(self.features), *column.shape[1:]))
        for index, feature in enumerate(self.features):
            seen[index] = values[feature.name]
        inside = np.minimum(np.maximum(seen.T, self.low), self.high)  # (D, B, features)
        return inside.transpose(1, 0, 2).astype(np.float32, order="C")

    def _paper7(self, telemetry: Telemetry, column: Floats, shares: Floats) -> dict[str, Floats]:
        arrived, looked_up = column[Node.ARRIVED], column[Node.LOOKUP_BYTES]
        within = column[Node.WITHIN_SLO]
        p99 = self._served(telemetry)
        return {
            "hot_user_share": per(column[Node.HOT], arrived),
            "kv_hit_rate": per(column[Node.KV_HITS], arrived - column[Node.SHED]),
            "emb_hit_rate": per(looked_up - column[Node.MISS_BYTES], looked_up),
            "mean_sequence_length": per(column[Node.HISTORY_TOKENS], arrived) / self._longest,
            "slo_violation_rate": per(arrived - within, arrived),
            "emb_share": shares if self._nodes else _mean(shares),
            "p99": p99 / (p99 + self._slo),
        }

    def _extension(self, column: Floats, shares: Floats) -> dict[str, Floats]:
        """What ``extended`` adds."""
        merged, node_s = self._merged, self._merged * self._window
        queue_s = self._merged * self._deadline
        arrived, shed = column[Node.ARRIVED], column[Node.SHED]
        admitted = arrived - shed
        known = self.rates / (self.rates + 1.0)
        emb, kv = column[Node.MARGINAL_EMB_S] / merged, column[Node.GHOST_KV_S] / node_s
        # Requests came and all were shed: they waited as long as anything may.
        unserved = self._deadline * ((admitted == 0.0) & (arrived > 0.0))
        latency = per(column[Node.LATENCY_S], admitted) + unserved
        wait = per(column[Node.WAIT_S], admitted) + unserved
        return {
            "arrival_rate_fast": known[..., 0],
            "arrival_rate_slow": known[..., 1],
            "link_queue_delay": column[Node.LINK_DELAY_S] / queue_s,
            "gpu_queue_delay": column[Node.GPU_DELAY_S] / queue_s,
            "link_utilisation": column[Node.LINK_S] / node_s,
            "gpu_utilisation": column[Node.GPU_S] / node_s,
            "refill_backlog": column[Node.REFILL_BACKLOG] / (merged * self._pool),
            "shed_rate": per(shed, arrived),
            "mean_candidates": per(column[Node.CANDIDATES], arrived) / self._most,
            "marginal_emb": emb / (emb + MARGINAL_SCALE),
            "marginal_kv": kv / (kv + MARGINAL_SCALE),
            "mean_latency": latency / (latency + self._slo),
            "mean_wait": wait / self._deadline,
            "cluster_share": _mean(shares),
        }

    def _described(self, telemetry: Telemetry) -> Floats:
        """(B, D, N_NODE) sums over what a row describes."""
        return telemetry.node if self._nodes else telemetry.total[:, None]

    def _rate(self, telemetry: Telemetry) -> Floats:
        """(B, D) requests of the window over the nominal number."""
        arrived = telemetry.node[:, :, Node.ARRIVED]
        described = arrived if self._nodes else arrived.sum(axis=1, keepdims=True)
        return described / self._nominal

    def _served(self, telemetry: Telemetry) -> Floats:
        """(B, 1) P99 in s, which is the deadline if requests came and none was served."""
        p99 = telemetry.cluster[:, None, Cluster.P99_S]
        if not np.isnan(p99).any():
            return p99
        came = telemetry.node[:, :, Node.ARRIVED].sum(axis=1, keepdims=True) > 0.0
        return np.where(np.isnan(p99), np.where(came, self._deadline, 0.0), p99)


def _mean(shares: Floats) -> Floats:
    """(B, 1) mean over nodes."""
    return np.asarray(shares.sum(axis=1, keepdims=True) / shares.shape[1])
