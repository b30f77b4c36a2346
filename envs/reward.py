"""Rewards as named terms: weights are settings, and the weighted terms sum to the reward exactly.

Every term is a plain ratio without a unit. ``slo_satisfaction`` is earned, all others are paid:

    slo_satisfaction  requests inside the SLO / arrived
    latency           what ``latency_measure`` says, in units of the SLO
    slo_violation     1 - slo_satisfaction
    refill            bytes copied by refill / bytes of all pools
    shed              shed / arrived
    movement          |change of the EMB share|, mean over nodes
    work              bottleneck work per request: the sum over nodes of max(link s, GPU s), per
                      admitted request, relative to the seconds that one request may take at
                      ``workload.capacity_rps_per_node``
    node_work         the same of the row's own node (only with ``control="node"``)

Refill follows a growing EMB share, spread over the windows in which the copies run. It also
counts the swaps of shards when the hot items change, which no decision caused.

When nothing arrived every term is 0, but the SLO counts as met. When requests came and none was
served, latencies count as the deadline.

With ``control="node"`` all rows of a cluster get the cluster's reward. A node that is paid for its
own latency learns to shirk: it serves badly, is routed less, and its own queue looks fine, while
the others pay. ``node_work`` may be added because it is per request and a node that served nobody
gets the cluster's figure, so that serving fewer requests does not improve it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from helm_gym.config.quantity import Frozen
from helm_gym.config.scenario import Scenario
from helm_gym.envs.action import Layout
from helm_gym.errors import ConfigError, nearest
from helm_gym.metrics import per
from helm_gym.sim.layout import Node
from helm_gym.sim.simulator import Telemetry

Floats = NDArray[np.float64]

TERMS = ("slo_satisfaction", "latency", "slo_violation", "refill", "shed", "movement", "work")
"""Terms that every reward has, in the order in which they are summed."""


class RewardConfig(Frozen):
    """Weights of the terms, each at least 0; a term's sign is part of its meaning.

    ``latency_measure`` is ``p99_excess`` for max(0, P99 - SLO) / SLO, ``p99`` for P99 / SLO,
    ``log_p99`` for log(1 + P99 / SLO), or ``mean`` for mean latency / SLO.
    """

    latency_measure: Literal["p99_excess", "p99", "log_p99", "mean"] = "p99_excess"
    slo_satisfaction: float = Field(default=0.0, ge=0)
    latency: float = Field(default=0.0, ge=0)
    slo_violation: float = Field(default=0.0, ge=0)
    refill: float = Field(default=0.0, ge=0)
    shed: float = Field(default=0.0, ge=0)
    movement: float = Field(default=0.0, ge=0)
    work: float = Field(default=0.0, ge=0)
    node_work: float = Field(default=0.0, ge=0)

    @classmethod
    def load(cls, reference: str | Mapping[str, Any] | RewardConfig) -> RewardConfig:
        """Read a preset's name, or weights; ``{"preset": "paper", "refill": 0.5}`` changes one.

        Raises:
            ConfigError: naming the unknown preset or term, and the nearest one that exists.
        """
        if isinstance(reference, RewardConfig):
            return reference
        if isinstance(reference, str):
            return _preset(reference)
        if isinstance(reference, Mapping) and "preset" in reference:
            changes = {key: value for key, value in reference.items() if key != "preset"}
            reference = {**_preset(reference["preset"]).model_dump(), **changes}
        return cls.parse(reference, "reward")


DEFAULT = "tail_and_refill"
"""Preset of environments and of training, unless told otherwise."""

PRESETS: Mapping[str, RewardConfig] = {
    # Ours. P99 in SLOs has a slope everywhere; violations stand for how many requests the tail
    # holds: policies trained on P99 + 3 x violations held at the edge. log(P99) did not help.
    # Movement is paid both ways, because shrinking EMB drops rows and copies nothing. At an SLO of
    # 30 ms a move of 0.04 costs 0.04, which is 1.2 ms of P99 for one window. Upwards, its refill
    # costs as much again. See docs/rewards.md.
    DEFAULT: RewardConfig(
        latency_measure="p99", latency=1.0, slo_violation=3.0, refill=1.0, movement=1.0
    ),
    # HELM's form, by one secondary reading: SLO satisfaction - lambda max(0, P99 - SLO), here
    # relative to the SLO. Its lambda is not known; 0.1 is ours: a P99 of twice the target then
    # costs as much as a tenth of all requests missing it, so the tail counts once it matters, and
    # an overloaded window (P99 of five SLOs) still loses less by it than by its missed requests.
    # It has no slope inside the SLO, and moves are free.
    "paper": RewardConfig(slo_satisfaction=1.0, latency=0.1),
    # Mean latency alone: the plainest reward, and what a baseline study would begin with.
    "mean_latency": RewardConfig(latency_measure="mean", latency=1.0),
}


def _preset(name: Any) -> RewardConfig:
    if name not in PRESETS:
        raise ConfigError(f"reward preset {name!r} does not exist{nearest(str(name), PRESETS)}")
    return PRESETS[name]


class Reward:
    """Weighted terms of a window, for the rows of a vector environment.

    Args:
        config: the weights.
        scenario: what is simulated.
        layout: how rows map to clusters and nodes.

    Raises:
        ConfigError: ``node_work`` is weighted although no row is a node.
    """

    def __init__(self, config: RewardConfig, scenario: Scenario, layout: Layout) -> None:
        if config.node_work > 0.0 and layout.control != "node":
            raise ConfigError(
                f"reward: node_work={config.node_work:g} needs rows that are nodes, but control is "
                f'{layout.control!r}; write control="node", or weight "work" instead'
            )
        self.config = config
        self.names = TERMS if layout.control != "node" else (*TERMS, "node_work")
        self._layout = layout
        # Of every cluster, (B,) each.
        self._slo_ms = np.full(layout.clusters, scenario.slo.p99_ms.value)
        self._deadline_ms = np.full(layout.clusters, scenario.slo.deadline_ms.value)
        pools_gb = scenario.nodes * scenario.memory.pool_gb.value
        self._pools_gb = np.full(layout.clusters, pools_gb)
        request_s = 1.0 / scenario.workload.capacity_rps_per_node.value
        self._request_s = np.full(layout.clusters, request_s)

    @classmethod
    def joined(cls, rewards: Sequence[Reward], layout: Layout) -> Reward:
        """Rewards of all clusters of several, which differ in the scenario only.

        Args:
            rewards: rewards of clusters that follow one another.
            layout: where the rows of all those clusters lie.
        """
        one = copy.copy(rewards[0])
        one._layout = layout
        for name in ("_slo_ms", "_deadline_ms", "_pools_gb", "_request_s"):
            setattr(one, name, np.concatenate([getattr(other, name) for other in rewards]))
        return one

    def terms(self, telemetry: Telemetry, metrics: Mapping[str, Floats]) -> dict[str, Floats]:
        """Weighted terms of one window.

        Args:
            telemetry: what the window reported.
            metrics: the window's figures, (B,) each.

        Returns:
            (rows,) arrays by name, in the order in which :func:`total` sums them.
        """
        node, weights = telemetry.node, self.config
        satisfied = metrics["slo_satisfaction"]
        terms = {name: np.zeros(len(node)) for name in TERMS}
        # Subtracted from 0, so that a term that is 0 reads 0.0 rather than -0.0.
        if weights.slo_satisfaction:
            terms["slo_satisfaction"] = weights.slo_satisfaction * satisfied
        if weights.latency:
            terms["latency"] = 0.0 - weights.latency * self._latency(metrics)
        if weights.slo_violation:
            terms["slo_violation"] = 0.0 - weights.slo_violation * (1.0 - satisfied)
        if weights.refill:
            terms["refill"] = 0.0 - weights.refill * (metrics["refill_gb"] / self._pools_gb)
        if weights.shed:
            terms["shed"] = 0.0 - weights.shed * metrics["shed_rate"]
        if weights.movement:
            terms["movement"] = 0.0 - weights.movement * metrics["share_moved"]
        own = np.zeros(0)
        if weights.work or weights.node_work:
            per_request, own = self._work(node)
            terms["work"] = 0.0 - weights.work * per_request
        terms = self._layout.rows_of(terms)
        if "node_work" in self.names:
            weighted = weights.node_work > 0.0
            rows = self._layout.rows
            terms["node_work"] = 0.0 - weights.node_work * own if weighted else np.zeros(rows)
        return terms

    def _work(self, node: Floats) -> tuple[Floats, Floats]:
        """Bottleneck work per request of every cluster (B,) and of every node (B * M,)."""
        work = np.maximum(node[:, :, Node.LINK_S], node[:, :, Node.GPU_S])
        admitted = node[:, :, Node.ARRIVED] - node[:, :, Node.SHED]
        cluster = per(work.sum(axis=1), admitted.sum(axis=1)) / self._request_s
        own = np.where(
            admitted > 0.0, per(work, admitted) / self._request_s[:, None], cluster[:, None]
        )
        return cluster, own.reshape(-1)

    def _latency(self, metrics: Mapping[str, Floats]) -> Floats:
        measure = self.config.latency_measure
        latency = metrics["mean_ms" if measure == "mean" else "p99_ms"]
        nothing = np.isnan(latency)
        if nothing.any():
            unserved = np.where(metrics["offered_rps"] > 0.0, self._deadline_ms, 0.0)
            latency = np.where(nothing, unserved, latency)
        if measure == "p99_excess":
            return np.asarray(np.maximum(0.0, latency - self._slo_ms) / self._slo_ms)
        ratio = latency / self._slo_ms
        return np.asarray(np.log1p(ratio) if measure == "log_p99" else ratio)


def total(terms: Mapping[str, Floats]) -> Floats:
    """Sum of the weighted terms, in their order, so that anybody can repeat it bit by bit."""
    return np.asarray(sum(terms.values()), dtype=np.float64)


__all__ = ["DEFAULT", "PRESETS", "TERMS", "Reward", "RewardConfig", "total"]
