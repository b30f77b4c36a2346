"""What a reward's weights cost per unit: 1 ms of P99, 1 GB of refill, a move of 0.04, ...

Nothing is derived a second time. Every price is the difference between two windows' rewards, which
:class:`~helm_gym.envs.reward.Reward` computes, and which differ in the stated amount only.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from helm_gym.config.scenario import Scenario
from helm_gym.envs.action import Layout
from helm_gym.envs.reward import DEFAULT, PRESETS, Reward, RewardConfig, total
from helm_gym.sim.layout import N_BINS, N_CLUSTER, N_NODE, Node
from helm_gym.sim.simulator import Telemetry

Floats = NDArray[np.float64]

FULL_MOVE = 0.04  # of the EMB share, on all nodes
MS_OF_P99 = "1 ms of P99, inside the SLO"
MS_BEYOND = "1 ms of P99, beyond the SLO"
MS_OF_MEAN = "1 ms of mean latency"
VIOLATIONS = "1 % of the requests outside the SLO"
SHED = "the same shed, besides"
GIGABYTE = "1 GB refilled, on one node"
MOVE = f"a move of {FULL_MOVE:g}, all nodes, up or down"
REFILL = "its refill, if up and copied whole"
WORK = "1 % of the work that a request may take at capacity"
UNITS = (MS_OF_P99, MS_BEYOND, MS_OF_MEAN, VIOLATIONS, SHED, GIGABYTE, MOVE, REFILL, WORK)
"""What is priced, in one window of one cluster."""

INSIDE, BEYOND = 0.5, 1.5  # SLOs: where the slopes of P99 are taken
REQUESTS = 100.0  # on every node of the windows compared; any number does


def unit_costs(config: RewardConfig, scenario: Scenario) -> dict[str, float]:
    """Reward that a window loses per unit.

    Args:
        config: the weights.
        scenario: its SLO, pools and capacity are what the terms are relative to.

    Returns:
        The cost of every one of :data:`UNITS`, at least 0, without a unit.
    """
    slo = scenario.slo.p99_ms.value
    pools_gb = scenario.nodes * scenario.memory.pool_gb.value
    usual = {
        "p99_ms": INSIDE * slo,
        "mean_ms": INSIDE * slo,
        "slo_satisfaction": 1.0,
        "shed_rate": 0.0,
        "refill_gb": 0.0,
        "share_moved": 0.0,
        "offered_rps": REQUESTS,
    }
    changes: dict[str, tuple[str, float]] = {
        MS_OF_P99: ("p99_ms", 1.0),
        MS_OF_MEAN: ("mean_ms", 1.0),
        VIOLATIONS: ("slo_satisfaction", -0.01),
        SHED: ("shed_rate", 0.01),
        GIGABYTE: ("refill_gb", 1.0),
        MOVE: ("share_moved", FULL_MOVE),
        REFILL: ("refill_gb", FULL_MOVE * pools_gb),
    }
    layout = Layout("node" if config.node_work else "cluster", 1, scenario.nodes)
    reward = Reward(config, scenario, layout)
    before = _of_window(reward, scenario, usual)
    costs = {
        unit: before - _of_window(reward, scenario, {**usual, name: usual[name] + by})
        for unit, (name, by) in changes.items()
    }
    late = {**usual, "p99_ms": BEYOND * slo}
    later = {**usual, "p99_ms": BEYOND * slo + 1.0}
    costs[MS_BEYOND] = _of_window(reward, scenario, late) - _of_window(reward, scenario, later)
    costs[WORK] = before - _of_window(reward, scenario, usual, work=0.01)
    return {unit: costs[unit] for unit in UNITS}


def _of_window(
    reward: Reward, scenario: Scenario, metrics: Mapping[str, float], work: float = 0.0
) -> float:
    """Reward of one window of one cluster.

    Args:
        reward: with the weights.
        scenario: what its telemetry is of.
        metrics: the window's figures.
        work: bottleneck work per request, in what one may take at capacity.
    """
    node = np.zeros((1, scenario.nodes, N_NODE))
    node[:, :, Node.ARRIVED] = REQUESTS
    request_s = 1.0 / scenario.workload.capacity_rps_per_node.value
    node[:, :, Node.LINK_S] = work * REQUESTS * request_s
    counts = np.zeros((1, N_BINS), np.uint32)
    told = Telemetry(node, np.zeros((1, N_CLUSTER)), counts, counts)
    figures = {name: np.array([value]) for name, value in metrics.items()}
    return float(total(reward.terms(told, figures))[0])


def price_table(scenario: Scenario, presets: Mapping[str, RewardConfig] = PRESETS) -> str:
    """Markdown: the cost of every unit under every preset, and the default's in ms of P99.

    Args:
        scenario: see :func:`unit_costs`.
        presets: weights by name; :data:`~helm_gym.envs.reward.DEFAULT` among them.
    """
    costs = {name: unit_costs(config, scenario) for name, config in presets.items()}
    ms = costs[DEFAULT][MS_OF_P99]
    heads = [f"`{name}`" for name in presets]
    heads.insert(1 + list(presets).index(DEFAULT), "as ms of P99")
    lines = ["| in one window | " + " | ".join(heads) + " |", "|---" + "|--:" * len(heads) + "|"]
    for unit in UNITS:
        cells = []
        for name in presets:
            cells.append(_number(costs[name][unit]))
            if name == DEFAULT:
                cells.append(_number(costs[name][unit] / ms))
        lines.append(f"| {unit} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    """Three digits; rounded first, since differences of rewards end in noise."""
    return f"{round(value, 9):.3g}"


__all__ = ["FULL_MOVE", "UNITS", "price_table", "unit_costs"]
