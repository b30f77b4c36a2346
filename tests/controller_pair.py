"""A policy of all layers and the compiled controller in one simulated episode, to compare them."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode
from small import REGIMES, small_scenario

from helm_gym.agents.adapter.config import ResidualConfig
from helm_gym.agents.controller.controller import HelmController
from helm_gym.agents.controller.telemetry import ClusterColumn, NodeColumn, Site, empty
from helm_gym.agents.layers.helm import HelmPolicy
from helm_gym.config.scenario import Scenario
from helm_gym.envs.vector_env import EmbKvVectorEnv
from helm_gym.sim.layout import Cluster, Node
from helm_gym.sim.simulator import Telemetry

CLOSE = 1e-6  # share
NERVOUS: dict[str, Any] = {  # alarms within a few short windows
    "warm_up": 1, "rate_sigmas": 0.5, "rate_slack": 0.0, "rate_least_sd": 0.05,
    "burst_grow": 0.01, "burst_shrink": 0.02, "burst_pace": 0.3, "longest_s": 1.0,
}  # fmt: skip
RESTLESS = ResidualConfig(step=0.1, guard=False)


def scenario_of(nodes: int, steps: int) -> Scenario:
    regime = {**REGIMES["burst"], "amplitude": 6}
    return small_scenario(**{"nodes": nodes, "workload.regime": regime, "episode.steps": steps})


def reported(window: Telemetry, shares: Any) -> Any:
    """The first cluster's window as a serving system would report it, ``shares`` in force."""
    telemetry = empty(window.node.shape[1])
    for column in NodeColumn:
        if column is not NodeColumn.TIME_S:
            telemetry[:-1, column] = window.node[0, :, Node[column.name]]
    now = window.cluster[0, Cluster.TIME_S]
    telemetry[:-1, NodeColumn.SHARE], telemetry[:-1, NodeColumn.TIME_S] = shares, now
    telemetry[-1, ClusterColumn.P99_S] = window.cluster[0, Cluster.P99_S]
    telemetry[-1, ClusterColumn.NOW_S] = now
    return telemetry


class Pair:
    """The policy and the controller in one simulated episode, the policy's shares in force."""

    def __init__(self, nodes: int, steps: int, **layers: Any) -> None:
        self.scenario = scenario_of(nodes, steps)
        step_s = self.scenario.episode.step_s
        self.policy = HelmPolicy(**layers, step_s=step_s, learn=False)
        self.policy.reset(0)
        self.env = EmbKvVectorEnv(
            1, scenario=self.scenario, control="per_node", observation="extended",
            autoreset_mode=AutoresetMode.DISABLED,
        )  # fmt: skip
        self.obs, _ = self.env.reset(seed=[3])
        self.controller = HelmController(Site.of(self.scenario), nodes, **layers)

    def decide(self) -> tuple[Any, Any]:
        """(M,) shares of policy and controller."""
        assert self.env._window is not None
        telemetry = reported(self.env._window, self.env.shares[0])
        given = self.controller.decide(telemetry).copy()
        wanted = self.policy.act(self.obs)
        np.testing.assert_array_equal(self.controller.observation, self.obs[0])
        pace = self.policy.refill_pace
        if pace is not None:
            np.testing.assert_array_equal(self.controller.refill_pace, pace[0])
            self.env.set_refill_pace(pace)
        self.obs, *_ = self.env.step(wanted)
        return wanted[0], given
