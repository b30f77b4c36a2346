"""Terms against their formulas, presets, and that a node cannot earn by shirking."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from helm_gym.config.scenario import Scenario
from helm_gym.envs.action import Layout
from helm_gym.envs.reward import DEFAULT, PRESETS, TERMS, Reward, RewardConfig, total
from helm_gym.envs.single_env import EmbKvEnv
from helm_gym.envs.vector_env import EmbKvVectorEnv
from helm_gym.errors import ConfigError
from helm_gym.metrics import window_metrics
from helm_gym.sim.layout import N_BINS, N_CLUSTER, N_NODE, Cluster, Node
from helm_gym.sim.simulator import Telemetry

ALL = {name: 0.5 + 0.25 * i for i, name in enumerate(TERMS)}
SHARES = (0.2, 0.85, 0.3, 0.3, 0.9, 0.1)


def telemetry(scenario: Scenario, node: dict[Node, Any], p99_s: float = np.nan) -> Telemetry:
    """A window of one cluster with the given columns, the same or one value per node."""
    sums = np.zeros((1, scenario.nodes, N_NODE))
    for column, value in node.items():
        sums[0, :, column] = value
    figures = np.full((1, N_CLUSTER), p99_s)
    figures[0, Cluster.COMPLETED] = 0
    counts = np.zeros((1, N_BINS), np.uint32)
    return Telemetry(sums, figures, counts, counts)


def terms_of(scenario: Scenario, config: Any, window: Telemetry, control: str = "cluster") -> Any:
    layout = Layout(control, 1, scenario.nodes)
    figures = window_metrics(scenario, window, window.node[:, :, Node.SHARE] - 0.06)
    return Reward(RewardConfig.load(config), scenario, layout).terms(window, figures)


def test_every_term_is_its_formula(tiny: Scenario) -> None:
    window = telemetry(
        tiny,
        {
            Node.ARRIVED: 100,
            Node.SHED: 20,
            Node.WITHIN_SLO: 70,
            Node.LATENCY_S: 80 * 0.012,
            Node.REFILL_BYTES: 1e9,
            Node.LINK_S: [1.0, 4.0, 1.0, 1.0],
            Node.GPU_S: 2.0,
            Node.SHARE: 0.5,
        },
        p99_s=0.045,
    )
    found = terms_of(tiny, ALL, window)
    raw = {
        "slo_satisfaction": 0.7,
        "latency": -(45 - 30) / 30,
        "slo_violation": -0.3,
        "refill": -1.0 / 4.0,  # 1 GB on every node's pool of 4 GB
        "shed": -0.2,
        "movement": -0.06,
        "work": -((2 + 4 + 2 + 2) / 320) * 100,  # capacity is 100 requests/s per node
    }
    assert list(found) == list(TERMS)
    for name, value in raw.items():
        np.testing.assert_allclose(found[name], [ALL[name] * value], err_msg=name)


@pytest.mark.parametrize(
    ("measure", "value"),
    [("p99_excess", 0.5), ("p99", 1.5), ("log_p99", np.log(2.5)), ("mean", 12 / 30)],
)
def test_latency_measures(tiny: Scenario, measure: str, value: float) -> None:
    window = telemetry(tiny, {Node.ARRIVED: 10, Node.LATENCY_S: 0.12}, p99_s=0.045)
    config = {"latency_measure": measure, "latency": 2.0}
    np.testing.assert_allclose(terms_of(tiny, config, window)["latency"], [-2 * value])


@pytest.mark.parametrize("measure", ["p99_excess", "p99", "log_p99", "mean"])
def test_latency_is_the_deadline_when_all_was_shed_and_nothing_when_none_came(
    tiny: Scenario, measure: str
) -> None:
    config = {"latency_measure": measure, "latency": 1.0}
    shed = telemetry(tiny, {Node.ARRIVED: 10, Node.SHED: 10})
    ratio = {"p99_excess": 4.0, "log_p99": np.log(6.0)}.get(measure, 5.0)
    np.testing.assert_allclose(terms_of(tiny, config, shed)["latency"], [-ratio])
    np.testing.assert_array_equal(terms_of(tiny, config, telemetry(tiny, {}))["latency"], [0.0])


@pytest.mark.parametrize("load", [0.5, 1.0, 1.4, 4.0])
def test_paper_is_its_formula_to_the_last_bit(tiny: Scenario, load: float) -> None:
    env = EmbKvEnv(tiny.replace({"workload.load": load}), reward="paper")
    env.reset(seed=3)
    slo, weight = tiny.slo.p99_ms.value, 0.1
    for share in SHARES:
        _, reward, _, _, info = env.step(np.array([share]))
        assert reward == info["slo_satisfaction"] - weight * (max(0.0, info["p99_ms"] - slo) / slo)


@pytest.mark.parametrize("load", [0.5, 1.0, 1.4, 4.0])
def test_the_default_is_its_formula(tiny: Scenario, load: float) -> None:
    env = EmbKvEnv(tiny.replace({"workload.load": load}))
    assert env.vector_env.reward_config == PRESETS[DEFAULT]
    env.reset(seed=3)
    slo, pools_gb = tiny.slo.p99_ms.value, tiny.nodes * tiny.memory.pool_gb.value
    moved = []
    for share in SHARES:
        _, reward, _, _, info = env.step(np.array([share]))
        late = info["p99_ms"] / slo + 3.0 * (1.0 - info["slo_satisfaction"])
        moved.append(info["refill_gb"] / pools_gb + info["share_moved"])
        assert reward == pytest.approx(-(late + moved[-1]))
    assert max(moved) > 0.5, "nothing moved, so the prices of moves were not seen"


def test_paper_with_nothing_served(tiny: Scenario) -> None:
    window = telemetry(tiny, {Node.ARRIVED: 10, Node.SHED: 10})
    assert total(terms_of(tiny, "paper", window))[0] == 0.0 - 0.1 * ((150 - 30) / 30)
    assert total(terms_of(tiny, "paper", telemetry(tiny, {})))[0] == 1.0


@pytest.mark.parametrize("control", ["cluster", "per_node", "node"])
@pytest.mark.parametrize(
    "reward", [*PRESETS, ALL], ids=lambda r: r if isinstance(r, str) else "all"
)
def test_terms_in_info_sum_to_the_reward_exactly(tiny: Scenario, control: str, reward: Any) -> None:
    if control == "node" and not isinstance(reward, str):
        reward = {**reward, "node_work": 0.3}
    env = EmbKvVectorEnv(2, scenario=tiny, control=control, reward=reward)
    env.reset(seed=3)
    seen = []
    for share in SHARES[:5]:
        actions = np.full(env.action_space.shape, share)
        _, rewards, _, _, infos = env.step(actions)
        assert rewards.dtype == np.float64
        keys = [key for key in infos if key.startswith("reward_terms/")]
        names = (*TERMS, "node_work") if control == "node" else TERMS
        assert keys == [f"reward_terms/{name}" for name in names]
        for row in range(env.num_envs):
            assert rewards[row] == sum(float(infos[key][row]) for key in keys)
        seen.append(rewards)
    assert len(np.unique(seen)) > 3, "rewards should differ, or the sum proves nothing"


def test_presets_load_and_can_be_changed() -> None:
    assert RewardConfig.load("paper") == PRESETS["paper"]
    changed = RewardConfig.load({"preset": "paper", "refill": 0.5})
    assert changed == PRESETS["paper"].model_copy(update={"refill": 0.5})
    assert RewardConfig.load(changed) is changed
    assert changed.digest() != PRESETS["paper"].digest()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("papre", "reward preset 'papre' does not exist; did you mean 'paper'"),
        ({"preset": "tail_refill"}, "did you mean 'tail_and_refill'"),
        ({"sched": 1.0}, "reward: sched: unknown key; did you mean 'shed'"),
        ({"shed": -1.0}, "reward: shed: .*greater than or equal to 0"),
        ({"latency_measure": "p98"}, "reward: latency_measure"),
        ({"latency": float("nan")}, "reward: latency"),
        (3.0, "reward: expected a mapping"),
    ],
)
def test_a_wrong_reward_is_named(tiny: Scenario, given: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EmbKvEnv(tiny, reward=given)


def test_node_work_needs_rows_that_are_nodes(tiny: Scenario) -> None:
    with pytest.raises(ConfigError, match='write control="node"'):
        EmbKvVectorEnv(1, scenario=tiny, reward={"node_work": 1.0})


def test_rows_of_a_cluster_share_its_reward(tiny: Scenario) -> None:
    cluster = EmbKvVectorEnv(2, scenario=tiny, reward="tail_and_refill")
    node = EmbKvVectorEnv(2, scenario=tiny, reward="tail_and_refill", control="node")
    cluster.reset(seed=1)
    node.reset(seed=1)
    for share in SHARES[:4]:
        _, per_cluster, _, _, _ = cluster.step(np.full((2, 1), share))
        _, per_node, _, _, _ = node.step(np.full((8, 1), share))
        np.testing.assert_array_equal(per_node, np.repeat(per_cluster, 4))


def test_serving_fewer_requests_does_not_improve_node_work(tiny: Scenario) -> None:
    """A node that does the same work per request on fewer requests, or serves nobody."""
    config = {"node_work": 1.0}
    busy = {Node.ARRIVED: [100, 100, 100, 100], Node.GPU_S: [1.0, 2.0, 2.0, 2.0]}
    shirking = {Node.ARRIVED: [10, 100, 100, 100], Node.GPU_S: [0.1, 2.0, 2.0, 2.0]}
    gone = {Node.ARRIVED: [0, 100, 100, 100], Node.GPU_S: [0.0, 2.0, 2.0, 2.0]}
    first, second, third = (
        terms_of(tiny, config, telemetry(tiny, node), "node")["node_work"]
        for node in (busy, shirking, gone)
    )
    assert first[0] == pytest.approx(-1.0)  # 10 ms per request at a capacity of 100 per second
    assert second[0] == pytest.approx(first[0])
    assert third[0] == pytest.approx(-2.0)  # the cluster's figure, worse than its own was
    np.testing.assert_allclose(first[1:], -2.0)
