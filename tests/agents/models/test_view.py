"""What a network sees and what its output does, and rewards relative to the same requests."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("stable_baselines3")

from agents_small import small_config
from small import SMALL

from helm_gym.agents.models.view import View
from helm_gym.agents.training.build import make_env
from helm_gym.agents.training.plan import Plan
from helm_gym.baselines.balance import Balance
from helm_gym.envs.observation import FEATURES
from helm_gym.envs.vector_env import EmbKvVectorEnv
from helm_gym.errors import ConfigError

NODES = SMALL["nodes"]
NAMES = [feature.name for feature in FEATURES["extended"]]


def view(**changes) -> View:
    values = {
        "control": "cluster",
        "observation": "extended",
        "features": NAMES,
        "nodes": NODES,
        "action": "target",
        "share_min": 0.1,
        "share_max": 0.9,
        **changes,
    }
    return View.parse(values, "test")


def agent_env(**changes):
    return make_env(Plan.of(small_config("unused", **changes)))


def seen(rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 1, (rows, len(NAMES))).astype(np.float32)


def test_a_target_spans_the_allowed_shares() -> None:
    output = np.array([[-1.0], [0.0], [1.0], [7.0]])
    shares = view().shares(output, seen(4), None)
    np.testing.assert_allclose(shares, [[0.1], [0.5], [0.9], [0.9]], rtol=1e-6)
    assert shares.dtype == np.float32


def test_an_increment_moves_the_share_in_force() -> None:
    observations = seen(3)
    observations[:, NAMES.index("emb_share")] = [0.2, 0.5, 0.88]
    moved = view(action="increment", bound=0.06).shares(np.ones((3, 1)), observations, None)
    np.testing.assert_allclose(moved, [[0.26], [0.56], [0.9]], rtol=1e-6)


@pytest.mark.parametrize("control", ["cluster", "node", "per_node"])
def test_a_residual_of_zero_is_the_rule_and_of_one_the_bound_away(control: str) -> None:
    own = view(control=control, action="residual", base="balance", bound=0.1)
    rule = own.load_base()
    assert isinstance(rule, Balance)
    rows = 2 * NODES
    observations = seen(rows).reshape(2, NODES, -1) if control == "per_node" else seen(rows)
    asked = rule.act(observations)
    zero = own.shares(np.zeros(asked.shape), observations, rule)
    np.testing.assert_allclose(zero, np.clip(asked, 0.1, 0.9), rtol=1e-6)
    up = own.shares(np.ones(asked.shape), observations, rule)
    np.testing.assert_allclose(up, np.clip(asked + 0.1, 0.1, 0.9), rtol=1e-6)


def test_context_is_the_mean_over_the_cluster_of_each_row() -> None:
    own = view(control="node", context=True)
    observations = seen(2 * NODES)
    inputs = own.see(observations)
    assert inputs.shape == (2 * NODES, own.inputs)
    np.testing.assert_array_equal(inputs[:, : len(NAMES)], observations)
    for row in range(2 * NODES):
        cluster = observations.reshape(2, NODES, -1)[row // NODES]
        np.testing.assert_allclose(inputs[row, len(NAMES) :], cluster.mean(0), rtol=1e-6)


def test_context_needs_nodes_as_rows() -> None:
    with pytest.raises(ConfigError, match="control 'node'"):
        view(context=True)


def test_a_rule_that_reads_another_observation_is_refused() -> None:
    names = [feature.name for feature in FEATURES["paper7"]]
    own = view(action="residual", base="balance", observation="paper7", features=names)
    with pytest.raises(ConfigError, match="'extended'"):
        own.load_base()


@pytest.mark.parametrize("control", ["cluster", "node", "per_node"])
def test_the_agents_env_is_the_environment_seen_through_the_view(control: str) -> None:
    env = agent_env(control=control, settings={"batch_size": None, "context": False}, clusters=2)
    plain = EmbKvVectorEnv(
        2, scenario=SMALL, control=control, observation="extended", autoreset_mode="SameStep"
    )
    env.seed(7)
    seen_by_agent, observations = env.reset(), plain.reset(seed=7)[0]
    ends = 0
    for step in range(2 * SMALL["episode"]["steps"]):
        np.testing.assert_array_equal(seen_by_agent, env.view.see(observations))
        output = np.random.default_rng(step).uniform(-1, 1, (env.num_envs, env.view.outputs))
        shares = env.view.shares(output, observations, None)
        seen_by_agent, rewards, dones, infos = env.step(output)
        observations, plain_rewards, _, truncated, plain_infos = plain.step(shares)
        np.testing.assert_array_equal(rewards, plain_rewards.astype(np.float32))
        np.testing.assert_array_equal(dones, truncated)
        for row in np.flatnonzero(dones):
            last = plain_infos["final_obs"][row][None]
            np.testing.assert_array_equal(infos[row]["terminal_observation"], env.view.see(last)[0])
            ends += 1
    assert ends == 2 * env.num_envs


def test_the_last_observation_of_an_episode_keeps_its_own_context() -> None:
    env = agent_env(control="node", clusters=2, settings={"context": True, "batch_size": None})
    env.seed(0)
    env.reset()
    for _ in range(SMALL["episode"]["steps"]):
        infos = env.step(np.zeros((env.num_envs, 1)))[3]
    last = np.array([info["terminal_observation"] for info in infos])
    own, context = np.split(last, 2, axis=1)
    means = own.reshape(2, NODES, -1).mean(axis=1)
    np.testing.assert_allclose(context, np.repeat(means, NODES, axis=0), rtol=1e-5)


@pytest.mark.parametrize("control", ["cluster", "node"])
def test_a_group_meets_the_same_requests_and_is_rewarded_relative_to_itself(
    control: str,
) -> None:
    settings = {"batch_size": None, "group": 2}
    env = agent_env(control=control, clusters=4, reward="mean_latency", settings=settings)
    env.seed(3)
    env.reset()
    per_cluster = env.num_envs // 4
    rng = np.random.default_rng(0)
    differed = False
    for _ in range(2 * SMALL["episode"]["steps"]):  # the next episode is shared too
        env.step_async(rng.uniform(-1, 1, (env.num_envs, 1)))
        rewards = env.step_wait()[1].reshape(2, 2, per_cluster)
        offered = env.venv.vector_infos["offered_rps"].reshape(2, 2, per_cluster)
        np.testing.assert_array_equal(offered[:, 0], offered[:, 1])
        np.testing.assert_allclose(rewards[:, 0], -rewards[:, 1], atol=1e-6)
        differed |= bool((offered[0] != offered[1]).any() and (rewards != 0).any())
    assert differed


def test_relative_rewards_are_those_less_the_mean_of_the_others() -> None:
    env = agent_env(clusters=6, settings={"batch_size": None, "group": 3})
    rewards = np.array([1.0, 2.0, 6.0, 0.0, 0.0, 3.0], np.float32)
    np.testing.assert_allclose(
        env._relative(rewards), [1 - 4, 2 - 3.5, 6 - 1.5, -1.5, -1.5, 3], rtol=1e-6
    )
