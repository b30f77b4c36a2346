"""The vector environment against Gymnasium's own: rows of SyncVectorEnv, bit for bit."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from compared import same
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from helm_gym.config.scenario import Scenario
from helm_gym.envs.reward import TERMS
from helm_gym.envs.single_env import EmbKvEnv
from helm_gym.envs.vector_env import EmbKvVectorEnv
from helm_gym.errors import ConfigError
from helm_gym.metrics import METRICS

N = 3
SAME, NEXT, DISABLED = AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED


def pair(tiny: Scenario, mode: AutoresetMode, control: str, **kwargs: Any) -> tuple[Any, Any]:
    """Our environment and Gymnasium's over single ones."""
    kwargs = {"scenario": tiny, "control": control, "observation": "extended", **kwargs}
    native = EmbKvVectorEnv(N, autoreset_mode=mode, **kwargs)
    return native, SyncVectorEnv([partial(EmbKvEnv, **kwargs)] * N, autoreset_mode=mode)


def actions_for(env: Any, step: int) -> np.ndarray:
    return np.random.default_rng(step).uniform(0, 1, env.action_space.shape).astype(np.float32)


@pytest.mark.parametrize("mode", [SAME, NEXT])
@pytest.mark.parametrize("control", ["cluster", "per_node"])
def test_every_return_is_what_gymnasium_makes_of_single_ones(
    tiny: Scenario, mode: AutoresetMode, control: str
) -> None:
    native, rows = pair(tiny, mode, control)
    assert native.observation_space == rows.observation_space
    assert native.action_space == rows.action_space
    assert native.metadata["autoreset_mode"] is rows.metadata["autoreset_mode"] is mode
    same(native.reset(seed=11), rows.reset(seed=11))
    for step in range(15):
        same(native.step(actions_for(native, step)), rows.step(actions_for(rows, step)))
    same(native.reset(), rows.reset())
    same(native.reset(seed=[5, None, 2]), rows.reset(seed=[5, None, 2]))
    same(native.step(actions_for(native, 99)), rows.step(actions_for(rows, 99)))


def test_without_autoreset_a_mask_says_who_begins_anew(tiny: Scenario) -> None:
    native, rows = pair(tiny, DISABLED, "cluster")
    same(native.reset(seed=11), rows.reset(seed=11))
    for step in range(4):
        same(native.step(actions_for(native, step)), rows.step(actions_for(rows, step)))
    for mask in ([True, False, False], [False, True, True], [True, True, True]):
        for seed in (None, 70):
            options = {"reset_mask": np.array(mask)}
            mine, theirs = (env.reset(seed=seed, options=dict(options)) for env in (native, rows))
            same(mine, theirs)
        same(native.step(actions_for(native, 9)), rows.step(actions_for(rows, 9)))


def test_without_autoreset_an_ended_row_must_be_reset(tiny: Scenario) -> None:
    env = EmbKvVectorEnv(2, scenario=tiny, autoreset_mode=DISABLED)
    env.reset(seed=1)
    env.step(np.full((2, 1), 0.5))
    env.reset(options={"reset_mask": np.array([True, False])})
    for _ in range(5):
        _, _, _, truncated, _ = env.step(np.full((2, 1), 0.5))
    np.testing.assert_array_equal(truncated, [False, True])
    before = env.get_state()["clusters"]
    with pytest.raises(ResetNeeded, match="the episode of row 1 is over"):
        env.step(np.full((2, 1), 0.5))
    np.testing.assert_array_equal(env.get_state()["clusters"], before)
    env.reset(options={"reset_mask": truncated})
    _, _, _, truncated, _ = env.step(np.full((2, 1), 0.5))
    np.testing.assert_array_equal(truncated, [True, False])


def test_the_step_after_an_end_only_resets_in_next_step_mode(tiny: Scenario) -> None:
    env = EmbKvVectorEnv(2, scenario=tiny, autoreset_mode=NEXT)
    env.reset(seed=1)
    for _ in range(6):
        _, _, _, truncated, infos = env.step(np.full((2, 1), 0.3))
    assert truncated.all()
    assert infos["emb_share"] == pytest.approx(0.3)
    _, rewards, _, truncated, infos = env.step(np.full((2, 1), 0.9))
    assert not truncated.any()
    np.testing.assert_array_equal(rewards, 0.0)
    assert infos["emb_share"] == pytest.approx(0.5), "the action of a resetting row is ignored"
    np.testing.assert_array_equal(infos["reward_terms/slo_satisfaction"], 0.0)


def test_same_step_keeps_the_window_that_ended_the_episode(tiny: Scenario) -> None:
    env = EmbKvVectorEnv(2, scenario=tiny, control="node", autoreset_mode=SAME)
    env.reset(seed=1)
    for step in range(6):
        observations, rewards, _, truncated, infos = env.step(np.full((8, 1), 0.3))
        assert ("final_obs" in infos) == (step == 5)
    assert truncated.all()
    final = infos["final_info"]
    assert final["emb_share"] == pytest.approx(0.3)
    assert infos["emb_share"] == pytest.approx(0.5)
    terms = [final[f"reward_terms/{name}"] for name in (*TERMS, "node_work")]
    np.testing.assert_allclose(sum(terms), rewards)
    assert [obs.shape for obs in infos["final_obs"]] == [(7,)] * 8
    assert all(obs in env.single_observation_space for obs in infos["final_obs"])
    np.testing.assert_allclose([obs[5] for obs in infos["final_obs"]], 0.3)
    np.testing.assert_allclose(observations[:, 5], 0.5)
    assert env.telemetry is not None
    assert env.telemetry.node[0, 0, -1] == pytest.approx(0.3), "telemetry is the window's"


def test_nodes_are_rows_of_their_cluster(tiny: Scenario) -> None:
    kwargs = {"scenario": tiny, "observation": "extended", "reward": "mean_latency"}
    node = EmbKvVectorEnv(2, control="node", **kwargs)
    whole = EmbKvVectorEnv(2, control="per_node", **kwargs)
    assert (node.num_envs, node.clusters, node.nodes) == (8, 2, 4)
    first = node.reset(seed=1)[0], whole.reset(seed=1)[0]
    np.testing.assert_array_equal(first[0], first[1].reshape(8, -1))
    for step in range(8):
        actions = actions_for(whole, step)
        mine, theirs = node.step(actions.reshape(8, 1)), whole.step(actions)
        np.testing.assert_array_equal(mine[0], theirs[0].reshape(8, -1))
        np.testing.assert_array_equal(mine[1], np.repeat(theirs[1], 4))
        np.testing.assert_array_equal(mine[3], np.repeat(theirs[3], 4))
        for name in METRICS:
            np.testing.assert_array_equal(mine[4][name], np.repeat(theirs[4][name], 4))


def test_one_share_everywhere_is_cluster_control(tiny: Scenario) -> None:
    cluster = EmbKvVectorEnv(2, scenario=tiny)
    node = EmbKvVectorEnv(2, scenario=tiny, control="node")
    cluster.reset(seed=1)
    node.reset(seed=1)
    for share in (0.2, 0.8, 0.4):
        mine, theirs = cluster.step(np.full((2, 1), share)), node.step(np.full((8, 1), share))
        for name in METRICS:
            np.testing.assert_array_equal(np.repeat(mine[4][name], 4), theirs[4][name])


@pytest.mark.parametrize(
    ("seed", "message"),
    [
        ([1, 2], "2 seeds for 3 clusters"),
        (-1, "seed -1 is not an integer of at least 0"),
        (1.5, "seed 1.5 is not an integer"),
        ([1, 2, "x"], "seed 'x' is not an integer"),
    ],
)
def test_a_wrong_seed_is_named(tiny: Scenario, seed: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EmbKvVectorEnv(N, scenario=tiny).reset(seed=seed)


def test_seeds_count_clusters_not_rows(tiny: Scenario) -> None:
    env = EmbKvVectorEnv(2, scenario=tiny, control="node")
    same(env.reset(seed=[4, 5]), env.reset(seed=np.int64(4)))
    assert env.np_random_seed == (4, 5)
    assert len(env.np_random) == 2


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ([True, False], "pass a NumPy array of bool"),
        (np.array([True]), r"is \(1,\), but it says for each of the 8 rows"),
        (np.ones(8), "pass a NumPy array of bool"),
        (np.arange(8) < 2, "resets some nodes of a cluster and not others"),
        (np.zeros(8, bool), "names no row"),
    ],
)
def test_a_wrong_mask_is_named(tiny: Scenario, mask: Any, message: str) -> None:
    env = EmbKvVectorEnv(2, scenario=tiny, control="node", autoreset_mode=DISABLED)
    env.reset(seed=1)
    with pytest.raises(ConfigError, match=message):
        env.reset(options={"reset_mask": mask})


def test_a_mask_cannot_come_before_the_first_reset(tiny: Scenario) -> None:
    env = EmbKvVectorEnv(2, scenario=tiny)
    with pytest.raises(ResetNeeded, match="never began"):
        env.reset(options={"reset_mask": np.array([True, False])})


def test_a_mask_covers_whole_clusters_of_nodes(tiny: Scenario) -> None:
    env = EmbKvVectorEnv(2, scenario=tiny, control="node", autoreset_mode=DISABLED)
    env.reset(seed=1)
    moved, _, _, _, _ = env.step(np.full((8, 1), 0.2))
    after, infos = env.reset(options={"reset_mask": np.arange(8) >= 4})
    np.testing.assert_array_equal(after[:4], moved[:4])
    np.testing.assert_allclose(env.shares[:, 0], [0.2, 0.5])
    np.testing.assert_array_equal(infos["_p99_ms"], np.arange(8) >= 4)


@pytest.mark.parametrize("name", ["SameStep", "SAME_STEP", SAME])
def test_autoreset_modes_have_names(tiny: Scenario, name: Any) -> None:
    env = EmbKvVectorEnv(1, scenario=tiny, autoreset_mode=name)
    assert env.metadata["autoreset_mode"] is SAME
    assert EmbKvVectorEnv.metadata["autoreset_mode"] is NEXT
    assert EmbKvVectorEnv(1, scenario=tiny, autoreset_mode="Disabled").metadata != env.metadata


def test_the_mode_can_be_changed_until_an_episode_begins(tiny: Scenario) -> None:
    env = EmbKvVectorEnv(2, scenario=tiny)
    env.set_autoreset_mode("SameStep")
    assert env.metadata["autoreset_mode"] is env.autoreset_mode is SAME
    assert EmbKvVectorEnv.metadata["autoreset_mode"] is NEXT
    env.reset(seed=1)
    for _ in range(6):
        infos = env.step(np.full((2, 1), 0.3))[4]
    assert "final_info" in infos
    with pytest.raises(ConfigError, match="pass it to the constructor"):
        env.set_autoreset_mode(NEXT)


@pytest.mark.parametrize("control", ["cluster", "per_node", "node"])
def test_an_attribute_is_what_a_single_environment_would_have(tiny: Scenario, control: str) -> None:
    env = EmbKvVectorEnv(2, scenario=tiny, control=control)
    env.reset(seed=5)
    env.step(np.linspace(0.2, 0.8, env.action_space.low.size).reshape(env.action_space.shape))
    per_cluster = env.num_envs // 2
    rows = env.get_attr("shares")
    assert [share.shape for share in rows] == [(4,)] * env.num_envs
    np.testing.assert_array_equal(rows, np.repeat(env.shares, per_cluster, axis=0))
    assert env.get_attr("np_random_seed") == (5,) * per_cluster + (6,) * per_cluster
    assert env.get_attr("action_space") == (env.single_action_space,) * env.num_envs
    assert env.get_attr("scenario") == (env.scenario,) * env.num_envs
    with pytest.raises(AttributeError):
        env.get_attr("nothing")


@pytest.mark.parametrize("number", [{"scenario": "taobao-shift"}, 0, -1, 2.5, "2", True, None])
def test_what_is_no_number_of_clusters_is_refused(tiny: Scenario, number: Any) -> None:
    with pytest.raises(ConfigError, match="write an integer of at least 1"):
        EmbKvVectorEnv(number, scenario=tiny)


def test_an_unknown_autoreset_mode_is_named(tiny: Scenario) -> None:
    with pytest.raises(ConfigError, match="autoreset_mode='samestep'; did you mean 'SameStep'"):
        EmbKvVectorEnv(1, scenario=tiny, autoreset_mode="samestep")


def test_stepping_needs_a_reset(tiny: Scenario) -> None:
    with pytest.raises(ResetNeeded, match="no episode has begun"):
        EmbKvVectorEnv(1, scenario=tiny).step(np.array([[0.5]]))


def test_rendering_has_a_line_per_row(tiny: Scenario) -> None:
    env = EmbKvVectorEnv(2, scenario=tiny, control="node", render_mode="ansi")
    env.reset(seed=1)
    env.step(np.linspace(0.1, 0.8, 8)[:, None])
    lines = env.render()
    assert lines is not None
    assert [float(line.split("EMB share ")[1][:5]) for line in lines] == pytest.approx(
        np.linspace(0.1, 0.8, 8), abs=5e-4
    )


def test_closing_twice_is_allowed(tiny: Scenario) -> None:
    env = EmbKvVectorEnv(2, scenario=tiny, threads=2)
    env.reset(seed=1)
    env.step(np.full((2, 1), 0.5))
    env.close()
    env.close()


def test_gymnasiums_own_vector_wrappers_take_it(tiny: Scenario) -> None:
    env = gym.wrappers.vector.RecordEpisodeStatistics(EmbKvVectorEnv(2, scenario=tiny))
    env.reset(seed=1)
    returns = np.zeros(2)
    for _ in range(6):
        _, rewards, _, _, infos = env.step(np.full((2, 1), 0.5))
        returns += rewards
    np.testing.assert_allclose(infos["episode"]["r"], returns)
    np.testing.assert_array_equal(infos["episode"]["l"], 6)
