"""The adapter against SB3's own DummyVecEnv over single environments, and SB3's contract."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

pytest.importorskip("stable_baselines3")

from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize

from helm_gym.agents.sb3_vec_env import Sb3VecEnv, row_info, rows_info
from helm_gym.errors import ConfigError

ROWS = 5
CUT = 20  # steps; random CartPole episodes fall before and after it, so both ends occur


def single(cut: int = CUT, name: str = "CartPole-v1") -> gym.Env:
    return gym.make(name, max_episode_steps=cut)


def sync(mode: AutoresetMode = AutoresetMode.SAME_STEP, cut: int = CUT) -> SyncVectorEnv:
    return SyncVectorEnv([lambda: single(cut)] * ROWS, autoreset_mode=mode)


def ours(**options) -> Sb3VecEnv:
    return Sb3VecEnv(sync(), **options)


def dummy(cut: int = CUT) -> DummyVecEnv:
    return DummyVecEnv([lambda: Monitor(single(cut))] * ROWS)


def rollout(env, steps: int = 150, seed: int = 3) -> list:
    env.seed(seed)
    seen = [env.reset()]
    actions = np.random.default_rng(0).integers(0, 2, (steps, ROWS))
    for action in actions:
        seen.append(env.step(action))
    return seen


def test_steps_are_those_of_dummy_vec_env() -> None:
    mine, theirs = rollout(ours()), rollout(dummy())
    np.testing.assert_array_equal(mine[0], theirs[0])
    ends = {"cut": 0, "fell": 0}
    for (obs, rewards, dones, infos), (obs2, rewards2, dones2, infos2) in zip(
        mine[1:], theirs[1:], strict=True
    ):
        np.testing.assert_array_equal(obs, obs2)
        np.testing.assert_array_equal(rewards, rewards2)
        np.testing.assert_array_equal(dones, dones2)
        assert rewards.dtype == np.float32
        assert dones.dtype == np.bool_
        for info, info2 in zip(infos, infos2, strict=True):
            assert info.keys() == info2.keys()
            assert info["TimeLimit.truncated"] == info2["TimeLimit.truncated"]
            if "episode" in info:
                ends["cut" if info["TimeLimit.truncated"] else "fell"] += 1
                np.testing.assert_array_equal(
                    info["terminal_observation"], info2["terminal_observation"]
                )
                assert info["episode"]["r"] == info2["episode"]["r"]
                assert info["episode"]["l"] == info2["episode"]["l"]
    assert min(ends.values()) >= 5, f"too few ends to prove anything: {ends}"


def collected(env) -> PPO:
    model = PPO("MlpPolicy", env, n_steps=64, batch_size=64, seed=0, device="cpu")
    _, callback = model._setup_learn(64 * ROWS)
    model.collect_rollouts(env, callback, model.rollout_buffer, 64)
    return model


def test_bootstrapped_returns_are_those_of_dummy_vec_env() -> None:
    mine, theirs = collected(ours()), collected(dummy())
    np.testing.assert_array_equal(mine.rollout_buffer.returns, theirs.rollout_buffer.returns)
    np.testing.assert_array_equal(mine.rollout_buffer.rewards, theirs.rollout_buffer.rewards)
    # CartPole pays exactly 1 a step: anything else is a value bootstrapped where time ran out.
    assert (mine.rollout_buffer.rewards != 1.0).any()
    assert [e["r"] for e in mine.ep_info_buffer] == [e["r"] for e in theirs.ep_info_buffer]


def test_learning_is_that_of_dummy_vec_env_and_logs_episodes() -> None:
    models = []
    for env in (ours(info_keys=()), dummy()):
        model = PPO("MlpPolicy", env, n_steps=32, batch_size=32, n_epochs=2, seed=1, device="cpu")
        models.append(model.learn(320))
    for mine, theirs in zip(*(m.policy.parameters() for m in models), strict=True):
        assert bool((mine == theirs).all())
    assert len(models[0].ep_info_buffer) > 0


def test_what_is_returned_does_not_change_later() -> None:
    env = ours()
    env.seed(0)
    first = env.reset()
    kept, steps = first.copy(), []
    for _ in range(30):
        obs, rewards, _, infos = env.step(np.ones(ROWS, np.int64))
        rewards += 100.0  # SB3 does this where it bootstraps
        lasts = [i["terminal_observation"] for i in infos if "terminal_observation" in i]
        steps.append((obs, obs.copy(), lasts, [last.copy() for last in lasts]))
    np.testing.assert_array_equal(first, kept)
    for obs, copy, lasts, copies in steps:
        np.testing.assert_array_equal(obs, copy)
        for last, last_copy in zip(lasts, copies, strict=True):
            np.testing.assert_array_equal(last, last_copy)


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED])
def test_other_autoreset_modes_are_refused(mode: AutoresetMode) -> None:
    with pytest.raises(ConfigError, match="SAME_STEP"):
        Sb3VecEnv(sync(mode))


def test_a_native_env_of_another_mode_is_refused() -> None:
    env = gym.make_vec("CartPole-v1", num_envs=2, vectorization_mode="vector_entry_point")
    with pytest.raises(ConfigError, match="NEXT_STEP"):
        Sb3VecEnv(env)


def test_a_single_env_is_refused() -> None:
    with pytest.raises(ConfigError, match="make_vec"):
        Sb3VecEnv(single())


class Native(gym.vector.VectorEnv):
    """Counts up; row r is cut after r + 2 steps. Infos as a native vector env gives them."""

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012

    def __init__(self, rows: int = 3) -> None:
        self.num_envs = rows
        self.single_observation_space = gym.spaces.Box(0, 9, (1,), np.float32)
        self.single_action_space = gym.spaces.Box(0, 1, (1,), np.float32)
        self.knob = 1
        self.asked: list[dict] = []
        self.count = np.zeros(rows, np.float32)

    def reset(self, *, seed=None, options=None):
        self.asked.append({"seed": seed, "options": options})
        self.count[:] = 0
        return self.count[:, None], {}

    def step(self, actions):
        self.count += 1
        cut = self.count >= np.arange(self.num_envs) + 2
        last, going = np.full(self.num_envs, None, object), ~cut
        for row in np.flatnonzero(cut):
            last[row] = self.count[row, None].copy()
        infos = {
            "p99": np.where(going, 7.0, 0.0),
            "_p99": going,
            "terms": {"a": np.where(going, 1.0, 0.0), "_a": going},
            "_terms": going,
            "final_obs": last,
            "_final_obs": cut,
            "final_info": {"p99": np.where(cut, 8.0, 0.0), "_p99": cut},
            "_final_info": cut,
        }
        self.count[cut] = 0
        # The same array every time, as a careless environment does.
        return self.count[:, None], self.count.astype(float), np.zeros_like(cut), cut, infos

    def double(self, number: int) -> int:
        return 2 * number


def test_rows_get_their_infos_from_gymnasiums_vector_format() -> None:
    env = Sb3VecEnv(Native())
    env.reset()
    env.step(np.zeros((3, 1)))
    obs, _, dones, infos = env.step(np.zeros((3, 1)))
    assert dones.tolist() == [True, False, False]
    assert infos[0]["p99"] == 8.0
    assert infos[0]["terminal_observation"].tolist() == [2.0]
    assert infos[0]["episode"]["l"] == 2
    assert infos[1] == {"p99": 7.0, "terms": {"a": 1.0}, "TimeLimit.truncated": False}
    kept = obs.copy()
    env.step(np.zeros((3, 1)))
    np.testing.assert_array_equal(obs, kept)


def test_infos_can_be_limited_to_named_keys_or_none() -> None:
    env = Sb3VecEnv(Native(), info_keys=["terms"])
    env.reset()
    infos = env.step(np.zeros((3, 1)))[3]
    assert infos[2] == {"terms": {"a": 1.0}, "TimeLimit.truncated": False}
    bare = Sb3VecEnv(Native(), info_keys=())
    bare.reset()
    infos = bare.step(np.zeros((3, 1)))[3]
    assert infos[2] == {"TimeLimit.truncated": False}
    assert infos[0] is not infos[1]  # wrappers may write into one row's dictionary
    assert bare.vector_infos["p99"].tolist() == [7.0, 7.0, 7.0]


def test_seeds_and_options_are_used_once() -> None:
    native = Native()
    env = Sb3VecEnv(native)
    assert env.seed(5) == [5, 6, 7]
    env.set_options({"share": 0.3})
    env.reset()
    env.reset()
    assert native.asked == [
        {"seed": 5, "options": {"share": 0.3}},
        {"seed": None, "options": None},
    ]
    env.set_options([{"share": 0.3}, {}, {}])
    with pytest.raises(ConfigError, match="different options"):
        env.reset()
    env.reset()
    assert native.asked[-1] == {"seed": None, "options": None}, "refused options are used up"


def test_attributes_and_methods_of_a_native_env() -> None:
    native = Native()
    env = Sb3VecEnv(native)
    assert env.get_attr("knob") == [1, 1, 1]
    assert env.get_attr("knob", indices=[2]) == [1]
    env.set_attr("knob", 4)
    assert native.knob == 4
    assert env.env_method("double", 21) == [42, 42, 42]
    assert not env.has_attr("nothing")
    with pytest.raises(ConfigError, match="leave indices out"):
        env.set_attr("knob", 5, indices=[0])
    with pytest.raises(ConfigError, match="leave indices out"):
        env.env_method("double", 1, indices=0)


def test_attributes_and_methods_of_envs_inside() -> None:
    env = ours()
    assert [s.id for s in env.get_attr("spec")] == ["CartPole-v1"] * ROWS
    env.set_attr("gravity", 1.0)
    assert env.get_attr("gravity", indices=[0, 4]) == [1.0, 1.0]
    assert env.env_method("has_wrapper_attr", "gravity") == [True] * ROWS


def test_it_counts_as_monitored_and_evaluate_policy_agrees() -> None:
    assert ours().env_is_wrapped(Monitor) == [True] * ROWS
    assert ours().env_is_wrapped(gym.wrappers.TimeLimit) == [False] * ROWS
    model = PPO("MlpPolicy", dummy(), n_steps=8, batch_size=8, seed=0, device="cpu")
    mean, _ = evaluate_policy(model, ours(), n_eval_episodes=10)  # a warning would fail the test
    assert 1 <= mean <= CUT


def test_sb3_wrappers_work_on_top() -> None:
    env = VecNormalize(VecFrameStack(ours(), 2))
    env.reset()
    ends = 0
    for _ in range(60):
        obs, _, dones, infos = env.step(np.ones(ROWS, np.int64))
        ends += int(dones.sum())
        assert all(infos[i]["episode"]["l"] > 0 for i in np.flatnonzero(dones))
    assert ends and np.isfinite(obs).all()


def test_frames_of_all_rows_are_tiled() -> None:
    native = Native(rows=4)
    native.render_mode = "rgb_array"
    native.render = lambda: tuple(np.full((8, 6, 3), r, np.uint8) for r in range(4))
    env = Sb3VecEnv(native)
    assert env.render_mode == "rgb_array"
    assert env.render().shape == (16, 12, 3)


def test_step_wait_without_actions_is_refused() -> None:
    env = ours()
    env.reset()
    with pytest.raises(ConfigError, match="step_async"):
        env.step_wait()


@pytest.mark.parametrize("lacks", [None, 2, 3])
def test_infos_of_many_rows_are_those_of_each(lacks: int | None) -> None:
    """Whether all rows have all keys, or one that is asked for, or another one, lacks a key."""
    numbers = np.arange(10.0)
    mask = np.arange(5) != lacks
    everyone = np.ones(5, np.bool_)
    infos = {"a": numbers[:5], "_a": mask, "b": numbers[5:], "_b": everyone, "_own": numbers[:5]}
    infos |= {"final_obs": np.full(5, None, object), "_final_obs": everyone}
    assert rows_info(infos, [0, 2, 4]) == [row_info(infos, row) for row in (0, 2, 4)]
    assert rows_info(infos, []) == []
    assert rows_info({}, [1]) == [{}]
