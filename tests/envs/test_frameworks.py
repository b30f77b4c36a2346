"""What other frameworks do when they first meet an environment, and what they count afterwards."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.wrappers.vector import NormalizeObservation

from helm_gym import ENV_IDS
from helm_gym.config.scenario import Scenario
from helm_gym.envs.history import random_choices, single_history
from helm_gym.envs.mixture import MixtureVectorEnv
from helm_gym.envs.single_env import EmbKvEnv
from helm_gym.envs.vector_env import EmbKvVectorEnv
from helm_gym.envs.wrappers import VectorDeltaAction
from helm_gym.errors import ConfigError, InvalidAction

ID = "helm_gym/EmbKvAllocation-v0"
EPISODE = 6  # decisions in an episode of the tiny scenario
every_id = pytest.mark.parametrize("env_id", sorted(ENV_IDS))
# Gymnasium warns of the render mode that SB3 asks every environment for, and that we do not have.
asks_for_frames = pytest.mark.filterwarnings("ignore:.*render_mode='rgb_array'.*:UserWarning")


@pytest.mark.parametrize("kind", [EmbKvEnv, EmbKvVectorEnv])
@pytest.mark.parametrize(("name", "value"), [("frameskip", 4), ("render_mode", "rgb_array")])
def test_an_unknown_argument_is_a_type_error_in_pythons_words(
    kind: Any, name: str, value: Any
) -> None:
    words = rf"^{kind.__name__}.__init__\(\) got an unexpected keyword argument '{name}'"
    for error in (TypeError, ConfigError):
        with pytest.raises(error, match=words):
            kind(**{name: value})


@asks_for_frames
@every_id
def test_gymnasium_keeps_the_kind_and_the_words(env_id: str) -> None:
    for make in (gym.make, gym.make_vec):
        for unknown in ({"frameskip": 4}, {"render_mode": "rgb_array"}):
            words = f"got an unexpected keyword argument '{next(iter(unknown))}'"
            with pytest.raises(TypeError, match=words):
                make(env_id, **unknown)


@asks_for_frames
@every_id
def test_sb3_makes_an_id(env_id: str, tiny_scenario: dict[str, Any]) -> None:
    util = pytest.importorskip("stable_baselines3.common.env_util")
    env = util.make_vec_env(env_id, n_envs=2, env_kwargs={"scenario": tiny_scenario})
    env.seed(0)
    seen = env.reset()
    expected = gym.make(env_id, scenario=tiny_scenario).reset(seed=0)[0]
    np.testing.assert_array_equal(seen[0], expected)


@asks_for_frames
def test_sb3_learns_on_an_id() -> None:
    sb3 = pytest.importorskip("stable_baselines3")
    model = sb3.PPO("MlpPolicy", ID, n_steps=4, batch_size=4, n_epochs=1, device="cpu")
    model.learn(4)
    assert model.num_timesteps == 4


@every_id
def test_torchrl_makes_an_id(env_id: str, tiny_scenario: dict[str, Any]) -> None:
    envs = pytest.importorskip("torchrl.envs")
    rollout = envs.GymEnv(env_id, scenario=tiny_scenario).rollout(3)
    assert rollout["next", "reward"].shape == (3, 1)


def test_torchrl_reads_infos(tiny: Scenario) -> None:
    envs = pytest.importorskip("torchrl.envs")
    reader = pytest.importorskip("torchrl.envs.libs.gym").default_info_dict_reader
    env = envs.GymWrapper(EmbKvEnv(tiny))
    keys = ["p99_ms", "reward_terms/latency"]
    env.set_info_dict_reader(reader(keys))
    seen = env.rollout(3)
    for key in keys:
        assert seen["next", key].shape == (3,)


@pytest.mark.parametrize("mode", ["SameStep", "Disabled"])  # TorchRL takes no other
def test_torchrl_wraps_a_vector_environment(tiny: Scenario, mode: str) -> None:
    envs = pytest.importorskip("torchrl.envs")
    env = EmbKvVectorEnv(3, scenario=tiny, autoreset_mode=mode)
    rollout = envs.GymWrapper(env).rollout(9, break_when_any_done=False)
    done = rollout["next", "done"].squeeze(-1).int().tolist()
    assert done == [[0, 0, 0, 0, 0, 1, 0, 0, 0]] * 3


def test_rllib_makes_the_class_with_its_env_config(tiny: Scenario) -> None:
    class EnvContext(dict[str, Any]):
        """What RLlib passes as the first argument: a dict that knows its worker."""

        worker_index = 1

    config = EnvContext(scenario=tiny, overrides={"workload.load": 0.5}, control="per_node")
    env = EmbKvEnv(config)
    assert env.scenario == tiny.replace({"workload.load": 0.5})
    assert env.action_space.shape == (4,)
    assert EmbKvEnv(EnvContext()).scenario == EmbKvEnv().scenario
    assert gym.make(ID, **config).unwrapped.scenario == env.scenario


def test_an_env_config_is_no_scenario(tiny_scenario: dict[str, Any]) -> None:
    assert EmbKvEnv(tiny_scenario).scenario == Scenario.load(tiny_scenario)
    with pytest.raises(TypeError, match="'overides'; did you mean 'overrides'"):
        EmbKvEnv({"scenario": tiny_scenario, "overides": {}})
    with pytest.raises(TypeError, match="multiple values for keyword argument 'control'"):
        EmbKvEnv({"scenario": tiny_scenario, "control": "cluster"}, control="per_node")
    with pytest.raises(ConfigError, match="nam: unknown key; did you mean 'name'"):
        EmbKvEnv({"nam": "tiny"})


def test_no_setting_of_a_scenario_is_named_like_an_argument() -> None:
    arguments = {"scenario", "overrides", "control", "action", "observation", "reward", "flat"}
    assert not (arguments | {"render_mode"}) & Scenario.model_fields.keys()


REFUSED: dict[str, Callable[[], Any]] = {
    "scenario": lambda: EmbKvEnv("typo"),
    "vector scenario": lambda: EmbKvVectorEnv(2, scenario="typo"),
    "argument": lambda: EmbKvEnv(frobnicate=1),
    "vector argument": lambda: EmbKvVectorEnv(2, frobnicate=1),
    "control": lambda: EmbKvVectorEnv(2, control="none"),
    "reward": lambda: EmbKvVectorEnv(2, reward={"node_work": 1.0}),
    "made": lambda: gym.make(ID, scenario="typo"),
    "made vector": lambda: gym.make_vec(ID, 2, scenario="typo"),
    "mixture": lambda: MixtureVectorEnv([]),
}


@pytest.fixture
def old_gymnasium(monkeypatch: pytest.MonkeyPatch) -> None:
    """Close vector environments when they go, as Gymnasium did up to 1.3."""

    def delete(env: VectorEnv[Any, Any, Any]) -> None:
        if not getattr(env, "closed", True):
            env.close()

    monkeypatch.setattr(VectorEnv, "__del__", delete, raising=False)


@pytest.mark.usefixtures("old_gymnasium")
@pytest.mark.parametrize("make", REFUSED.values(), ids=REFUSED)
def test_what_a_refused_constructor_leaves_goes_in_silence(
    make: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    complaints: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda about: complaints.append(str(about)))
    with pytest.raises(ConfigError):
        make()
    gc.collect()
    assert complaints == []


@pytest.mark.usefixtures("old_gymnasium")
def test_what_was_made_is_closed_when_it_goes(tiny: Scenario) -> None:
    env = EmbKvVectorEnv(2, scenario=tiny, threads=2)
    closed: list[bool] = []
    env.simulator.close = lambda: closed.append(True)
    del env
    gc.collect()
    assert closed == [True]


@pytest.mark.usefixtures("old_gymnasium")
def test_a_refused_wrapper_leaves_the_environment_open(tiny: Scenario) -> None:
    env = EmbKvVectorEnv(1, scenario=tiny, action="choice")
    with pytest.raises(ConfigError):
        VectorDeltaAction(env)
    gc.collect()
    assert not env.closed


def counted(env: EmbKvVectorEnv, steps: int) -> list[int]:
    """Lengths of the episodes of all rows as RLlib's env runner counts them.

    It takes the observation after an episode's end for the next episode's first, and so never
    counts that step.
    """
    env.reset(seed=1)
    began = np.ones(env.num_envs, np.bool_)
    lengths, found = np.zeros(env.num_envs, int), []
    for _ in range(steps):
        actions = np.full(env.action_space.shape, 0.4)
        _, _, terminated, truncated, _ = env.step(actions)
        done = terminated | truncated
        lengths += began
        found += lengths[began & done].tolist()
        lengths[done | ~began] = 0
        began = ~(began & done)
    return found


def test_rllib_counts_every_step_of_an_episode(tiny: Scenario) -> None:
    eight = tiny.replace({"episode.steps": 8})
    assert counted(EmbKvVectorEnv(2, scenario=eight), 45) == [8] * 10
    # Why the default is not SAME_STEP: all episodes but the first lose a step.
    same = counted(EmbKvVectorEnv(2, scenario=eight, autoreset_mode="SameStep"), 45)
    assert same == [8] * 2 + [7] * 8


def test_vector_normalisation_counts_every_observation_once(tiny: Scenario) -> None:
    env = NormalizeObservation(gym.make_vec(ID, 2, scenario=tiny))
    episodes = 3
    choose = random_choices(env.single_action_space, 2, episodes * EPISODE, seed=0)
    env.reset(seed=4)
    for step in range(episodes * (EPISODE + 1) - 1):
        decision = min(step - step // (EPISODE + 1), episodes * EPISODE - 1)
        env.step(np.stack([choose(row, decision) for row in range(2)]))
    seen = [
        event.observation
        for row in range(2)
        for event in single_history(
            EmbKvEnv(tiny), partial(own, choose, row), episodes * EPISODE, seed=4 + row
        )
    ]
    assert env.obs_rms.count == pytest.approx(len(seen), abs=1e-3)
    np.testing.assert_allclose(env.obs_rms.mean, np.mean(seen, axis=0), rtol=1e-4)
    np.testing.assert_allclose(env.obs_rms.var, np.var(seen, axis=0), rtol=1e-2, atol=1e-4)


def own(choose: Any, row: int, _: int, decision: int) -> Any:
    return choose(row, decision)


@every_id
def test_the_sb3_adapter_takes_what_make_vec_makes(
    env_id: str, tiny_scenario: dict[str, Any]
) -> None:
    adapter = pytest.importorskip("helm_gym.agents.sb3_vec_env").Sb3VecEnv
    kwargs = {"vectorization_mode": "vector_entry_point", "scenario": tiny_scenario}
    default = adapter(gym.make_vec(env_id, 2, **kwargs))
    asked = adapter(gym.make_vec(env_id, 2, **kwargs, autoreset_mode="SameStep"))
    np.testing.assert_array_equal(*(each.seed(3) and each.reset() for each in (default, asked)))
    default.action_space.seed(0)
    ends = 0
    for _ in range(8):
        actions = np.stack([default.action_space.sample() for _ in range(2)])
        mine, theirs = default.step(actions), asked.step(actions)
        for one, other in zip(mine[:3], theirs[:3], strict=True):
            np.testing.assert_array_equal(one, other)
        ends += sum("terminal_observation" in info for info in mine[3])
    assert ends == 2
    assert [shares.shape for shares in default.get_attr("shares")] == [(4,)] * 2


def test_the_sb3_adapter_says_what_to_write_where_it_cannot_change_the_mode(
    tiny: Scenario,
) -> None:
    adapter = pytest.importorskip("helm_gym.agents.sb3_vec_env").Sb3VecEnv
    started = EmbKvVectorEnv(2, scenario=tiny)
    started.reset(seed=0)
    with pytest.raises(ConfigError, match="pass it to the constructor"):
        adapter(started)
    for env in (
        gym.wrappers.vector.RecordEpisodeStatistics(EmbKvVectorEnv(2, scenario=tiny)),
        EmbKvVectorEnv(2, scenario=tiny, autoreset_mode=AutoresetMode.DISABLED),
    ):
        with pytest.raises(ConfigError, match='autoreset_mode="SameStep"'):
            adapter(env)


def test_choices_of_a_single_environment_need_an_index(tiny: Scenario) -> None:
    env = EmbKvEnv(tiny, control="per_node", action="choice")
    env.reset(seed=0)
    with pytest.raises(InvalidAction, match="integer index per share"):
        env.step(np.full(4, 0.5))
    with pytest.raises(InvalidAction, match="integer index per share"):
        env.step(3)
