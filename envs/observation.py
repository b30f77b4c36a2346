"""Observations: what a policy sees of a window, scaled to stated ranges and never NaN.

A row describes its cluster (``control="cluster"``) or a node (``per_node``, ``node``). Sums are
taken over that cluster or node; the P99 is the cluster's in every row, because a quantile of one
node's few requests is mostly noise. In a row that is a node ``cluster_share`` shows the mean share
of its cluster, so that a shared policy sees what its neighbours do.

The formulas stand here once, compiled: :class:`Observer` runs them for an environment, and
:mod:`helm_gym.agents.controller.path` runs them for a serving system.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from enum import IntEnum
from typing import Any

import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray

from helm_gym.config.scenario import Scenario
from helm_gym.envs.action import Layout
from helm_gym.errors import ConfigError, nearest
from helm_gym.sim.compiled import inlined, kernel
from helm_gym.sim.layout import Cluster, Node
from helm_gym.sim.simulator import Telemetry
from helm_gym.units import GB, MS

Array = NDArray[Any]
Floats = NDArray[np.float64]

FAST_S = 10.0  # time constant of the fast average of the arrival rate
SLOW_S = 120.0  # and of the slow one
MARGINAL_SCALE = 0.01  # s saved per s at which a marginal value reads 0.5


class Feature(IntEnum):
    """One number of an ``extended`` observation: its place, highest value and unit.

    Members are in lower case because models, rules and the documentation name them so.
    """

    high: float
    unit: str

    def __new__(cls, place: int, high: float, unit: str) -> Feature:
        """Give the place its highest value and unit."""
        member = int.__new__(cls, place)
        member._value_, member.high, member.unit = place, high, unit
        return member

    @property
    def low(self) -> float:
        """Lowest value."""
        return 0.0

    hot_user_share = 0, 1.0, "requests of hot users / arrived"
    kv_hit_rate = 1, 1.0, "hits / admitted"
    emb_hit_rate = 2, 1.0, "bytes that hit / bytes looked up"
    mean_sequence_length = 3, 1.0, "tokens / longest history of the model"
    slo_violation_rate = 4, 1.0, "requests outside the SLO / arrived"
    emb_share = 5, 1.0, "EMB share in force"
    p99 = 6, 1.0, "P99 / (P99 + SLO)"
    # Here "paper7" ends.
    arrival_rate_fast = 7, 1.0, "r / (r + 1), r = 10-s average / nominal rate"
    arrival_rate_slow = 8, 1.0, "r / (r + 1), r = 120-s average / nominal rate"
    link_queue_delay = 9, 1.0, "s until the link is free / deadline"
    gpu_queue_delay = 10, 1.0, "s until the GPU is free / deadline"
    link_utilisation = 11, 2.0, "link work / time"
    gpu_utilisation = 12, 2.0, "GPU work / time"
    refill_backlog = 13, 1.0, "bytes waiting to be copied / pool"
    shed_rate = 14, 1.0, "shed / arrived"
    mean_candidates = 15, 1.0, "candidates / most of any surface"
    marginal_emb = 16, 1.0, "v / (v + 0.01), v = s saved per s by kv.ghost_gb more EMB"
    marginal_kv = 17, 1.0, "v / (v + 0.01), v = s saved per s by kv.ghost_gb more KV"
    mean_latency = 18, 1.0, "mean latency / (mean latency + SLO)"
    mean_wait = 19, 1.0, "mean queueing delay / deadline"
    cluster_share = 20, 1.0, "EMB share in force, mean over the cluster"


_PAPER7 = tuple(Feature)[: Feature.p99 + 1]
FEATURES: dict[str, tuple[Feature, ...]] = {"paper7": _PAPER7, "extended": tuple(Feature)}
"""Features of every preset, in the order of the observation's last axis."""

SCALES = np.dtype(
    [
        ("nodes", "f8"),  # that a row describes
        ("step_s", "f8"),  # s between decisions
        ("nominal", "f8"),  # requests of a row in an ordinary window
        ("keep", "f8", (2,)),  # part of the fast and the slow average that a window leaves
        ("slo_s", "f8"),  # P99 promised
        ("deadline_s", "f8"),  # longest wait before a request is shed
        ("pool_bytes", "f8"),  # memory that EMB and KV share, per node
        ("longest_history", "f8"),  # tokens
        ("most_candidates", "f8"),  # of any surface
    ],
    align=True,
)
"""What the formulas divide by, as a record."""


def scales_of(nodes: int, nominal: float, **numbers: float) -> Array:
    """(1,) :data:`SCALES` of rows that describe ``nodes`` nodes.

    Args:
        nodes: that a row describes.
        nominal: requests of a row in an ordinary window.
        **numbers: what :func:`numbers_of` gives.
    """
    scales = np.zeros(1, SCALES)
    scales["nodes"], scales["nominal"] = nodes, nominal
    scales["keep"] = np.exp(-numbers["step_s"] / np.array([FAST_S, SLOW_S]))
    for name, value in numbers.items():
        scales[name] = value
    return scales


def numbers_of(scenario: Scenario) -> dict[str, float]:
    """The fields of :data:`SCALES` that are the same for every row of a simulated cluster."""
    return {
        "step_s": scenario.episode.step_s,
        "slo_s": scenario.slo.p99_ms.value * MS,
        "deadline_s": scenario.slo.deadline_ms.value * MS,
        "pool_bytes": scenario.memory.pool_gb.value * GB,
        "longest_history": scenario.hardware.model.max_history.value,
        "most_candidates": max(s.candidates.value for s in scenario.workload.surfaces),
    }


@inlined
def follow_rates(rates: Array, arrived: float, scales: Any, begin: bool) -> None:
    """Take a window into a row's averages of the arrival rate.

    Args:
        rates: (2,) fast and slow average over the nominal rate; written.
        arrived: requests of the window.
        scales: a record of :data:`SCALES`.
        begin: whether this is the first window, with which the averages begin.
    """
    rate = arrived / scales.nominal
    for k in range(2):
        if begin:
            # Without a warm-up there was no window, and the nominal rate is the best guess.
            rates[k] = rate if rate > 0.0 else 1.0
        else:
            rates[k] = rate + scales.keep[k] * (rates[k] - rate)


@inlined
def known_p99(p99_s: float, arrived: float, deadline_s: float) -> float:
    """P99 in s of a cluster's window; if none was served, the deadline if requests arrived."""
    if not math.isnan(p99_s):
        return p99_s
    return deadline_s if arrived > 0.0 else 0.0


@inlined
def _per(top: float, count: float) -> float:
    """``top / count`` for counts of requests or bytes, which make ``top`` 0 where they are 0."""
    return top / max(count, 1.0)


@inlined
def observe_paper7(seen: Array, sums: Array, p99_s: float, share: float, scales: Any) -> None:
    """Write the features of ``paper7`` into a row, not yet cut to their ranges.

    Args:
        seen: (F,) float32, written.
        sums: (N_NODE,) of what the row describes, columns of :class:`helm_gym.sim.layout.Node`.
        p99_s: what :func:`known_p99` says of the cluster.
        share: EMB share in force.
        scales: a record of :data:`SCALES`.
    """
    arrived, looked_up = sums[Node.ARRIVED], sums[Node.LOOKUP_BYTES]
    admitted = arrived - sums[Node.SHED]
    tokens = _per(sums[Node.HISTORY_TOKENS], arrived)
    seen[Feature.hot_user_share] = _per(sums[Node.HOT], arrived)
    seen[Feature.kv_hit_rate] = _per(sums[Node.KV_HITS], admitted)
    seen[Feature.emb_hit_rate] = _per(looked_up - sums[Node.MISS_BYTES], looked_up)
    seen[Feature.mean_sequence_length] = tokens / scales.longest_history
    seen[Feature.slo_violation_rate] = _per(arrived - sums[Node.WITHIN_SLO], arrived)
    seen[Feature.emb_share] = share
    seen[Feature.p99] = p99_s / (p99_s + scales.slo_s)


@inlined
def observe_more(seen: Array, sums: Array, rates: Array, mean_share: float, scales: Any) -> None:
    """Write what ``extended`` adds into a row, not yet cut to its ranges.

    Args:
        seen: (F,) float32, written.
        sums: as for :func:`observe_paper7`.
        rates: (2,) of :func:`follow_rates`.
        mean_share: EMB share in force, mean over the cluster.
        scales: a record of :data:`SCALES`.
    """
    arrived, shed = sums[Node.ARRIVED], sums[Node.SHED]
    admitted, nodes = arrived - shed, scales.nodes
    node_s, queue_s = nodes * scales.step_s, nodes * scales.deadline_s
    emb, kv = sums[Node.MARGINAL_EMB_S] / nodes, sums[Node.GHOST_KV_S] / node_s
    # Requests came and all were shed: they waited as long as anything may.
    unserved = scales.deadline_s if admitted == 0.0 and arrived > 0.0 else 0.0
    latency = _per(sums[Node.LATENCY_S], admitted) + unserved
    wait = _per(sums[Node.WAIT_S], admitted) + unserved
    candidates = _per(sums[Node.CANDIDATES], arrived)
    seen[Feature.arrival_rate_fast] = rates[0] / (rates[0] + 1.0)
    seen[Feature.arrival_rate_slow] = rates[1] / (rates[1] + 1.0)
    seen[Feature.link_queue_delay] = sums[Node.LINK_DELAY_S] / queue_s
    seen[Feature.gpu_queue_delay] = sums[Node.GPU_DELAY_S] / queue_s
    seen[Feature.link_utilisation] = sums[Node.LINK_S] / node_s
    seen[Feature.gpu_utilisation] = sums[Node.GPU_S] / node_s
    seen[Feature.refill_backlog] = sums[Node.REFILL_BACKLOG] / (nodes * scales.pool_bytes)
    seen[Feature.shed_rate] = _per(shed, arrived)
    seen[Feature.mean_candidates] = candidates / scales.most_candidates
    seen[Feature.marginal_emb] = emb / (emb + MARGINAL_SCALE)
    seen[Feature.marginal_kv] = kv / (kv + MARGINAL_SCALE)
    seen[Feature.mean_latency] = latency / (latency + scales.slo_s)
    seen[Feature.mean_wait] = wait / scales.deadline_s
    seen[Feature.cluster_share] = mean_share


_HIGH = np.array([feature.high for feature in Feature], np.float32)


@inlined
def cut_to_ranges(seen: Array) -> None:
    """Cut the features of a row to their ranges, which float32 holds exactly."""
    for place in range(len(seen)):
        seen[place] = min(max(seen[place], np.float32(0.0)), _HIGH[place])


@kernel
def _follow_rows(
    rates: Floats, sums: Floats, clusters: NDArray[np.bool_], scales: Array, begin: bool
) -> None:
    """:func:`follow_rates` for every row of the chosen clusters."""
    for b in range(rates.shape[0]):
        for d in range(rates.shape[1] if clusters[b] else 0):
            follow_rates(rates[b, d], sums[b, d, Node.ARRIVED], scales[b], begin)


@kernel
def _observe_rows(
    seen: Array, sums: Floats, cluster: Floats, rates: Floats, shares: Floats, means: Floats,
    scales: Array,
) -> None:  # fmt: skip
    """Observe every row: (B, D, F) ``seen`` from (B, D, N_NODE) ``sums``."""
    for b in range(seen.shape[0]):
        arrived = 0.0
        for d in range(seen.shape[1]):
            arrived += sums[b, d, Node.ARRIVED]
        p99_s = known_p99(cluster[b, Cluster.P99_S], arrived, scales[b].deadline_s)
        for d in range(seen.shape[1]):
            row, share = seen[b, d], shares[b, d]
            observe_paper7(row, sums[b, d], p99_s, share, scales[b])
            if len(row) > len(_PAPER7):
                observe_more(row, sums[b, d], rates[b, d], means[b], scales[b])
            cut_to_ranges(row)


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
        self._extended = preset == "extended"
        self._nodes = layout.sees_nodes
        described = layout.nodes if layout.sees_nodes else 1
        nodes, workload, step_s = (
            layout.nodes // described,
            scenario.workload,
            scenario.episode.step_s,
        )
        nominal = nodes * workload.load * workload.capacity_rps_per_node.value * step_s
        scales = scales_of(nodes, nominal, **numbers_of(scenario))
        self._scales = np.repeat(scales, layout.clusters)  # of every cluster
        self.rates: Floats = np.ones((layout.clusters, described, 2))  # fast and slow, of nominal

    @classmethod
    def joined(cls, observers: Sequence[Observer]) -> Observer:
        """An observer of all clusters of several, which differ in the scenario only."""
        one = copy.copy(observers[0])
        one._scales = np.concatenate([other._scales for other in observers])
        one.rates = np.concatenate([other.rates for other in observers])
        return one

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
        _follow_rows(self.rates, self._described(telemetry), clusters, self._scales, True)

    def follow(self, telemetry: Telemetry, clusters: NDArray[np.bool_]) -> None:
        """Continue the averages of some clusters with a window."""
        if self._extended:  # else nothing shows them
            _follow_rows(self.rates, self._described(telemetry), clusters, self._scales, False)

    def observe(self, telemetry: Telemetry, shares: Floats) -> NDArray[np.float32]:
        """Observation of every cluster.

        Args:
            telemetry: the last window of every cluster.
            shares: (B, M) EMB shares in force.

        Returns:
            (B, D, features), where D is M if rows describe nodes, else 1.
        """
        sums, means = self._described(telemetry), shares.sum(axis=1) / shares.shape[1]
        seen = np.empty((*sums.shape[:2], len(self.features)), np.float32)
        _observe_rows(
            seen, sums, telemetry.cluster, self.rates,
            shares if self._nodes else means[:, None], means, self._scales,
        )  # fmt: skip
        return seen

    def _described(self, telemetry: Telemetry) -> Floats:
        """(B, D, N_NODE) sums over what a row describes."""
        return telemetry.node if self._nodes else telemetry.total[:, None]
