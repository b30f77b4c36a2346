"""Every registered id, through Gymnasium's and SB3's checkers, copies, pickles and workers."""

from __future__ import annotations

import copy
import importlib
import multiprocessing
import pickle
import subprocess
import sys
import warnings
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Discrete, MultiDiscrete
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

import helm_gym
from helm_gym.config.scenario import Scenario
from helm_gym.envs.checkers import check_vector_env, rollout_digest
from helm_gym.envs.reward import RewardConfig
from helm_gym.envs.single_env import EmbKvEnv
from helm_gym.envs.vector_env import EmbKvVectorEnv

IDS = sorted(env_id for env_id in gym.registry if env_id.startswith("helm_gym/"))
METHODS = [m for m in ("fork", "spawn") if m in multiprocessing.get_all_start_methods()]

every_id = pytest.mark.parametrize("env_id", IDS)


def some_actions(space: gym.Space[Any]) -> np.ndarray:
    """An increment of -0.04, or a share of 0.3, wherever one is asked for."""
    discrete = space.dtype is not None and np.issubdtype(space.dtype, np.integer)
    return np.full(space.shape, 1 if discrete else 0.3, space.dtype)


def rollout(env: gym.Env[Any, Any], seed: int, steps: int = 20) -> list[Any]:
    env.action_space.seed(seed)
    seen: list[Any] = [env.reset(seed=seed)]
    for _ in range(steps):
        seen.append(env.step(env.action_space.sample()))
        if seen[-1][3]:
            seen.append(env.reset())
    return [(item[0].tobytes(), *item[1:]) for item in seen]


def test_the_registry_holds_what_the_package_says() -> None:
    assert sorted(helm_gym.ENV_IDS) == IDS
    assert len(IDS) == 4


@every_id
def test_make_gives_our_environment(env_id: str, tiny_scenario: dict[str, Any]) -> None:
    env = gym.make(f"helm_gym:{env_id}", scenario=tiny_scenario)
    assert type(env.unwrapped) is EmbKvEnv
    several = "PerNode" in env_id
    if "Discrete" in env_id:
        assert env.action_space == (MultiDiscrete([7] * 4) if several else Discrete(7))
    else:
        assert env.action_space.shape == ((4,) if several else (1,))
    assert env.observation_space.shape == ((28,) if "PerNode" in env_id else (7,))


@every_id
@pytest.mark.parametrize("mode", ["vector_entry_point", None])
def test_make_vec_gives_our_vector_environment(
    env_id: str, mode: str | None, tiny_scenario: dict[str, Any]
) -> None:
    env = gym.make_vec(
        f"helm_gym:{env_id}", num_envs=3, vectorization_mode=mode, scenario=tiny_scenario
    )
    assert type(env) is EmbKvVectorEnv
    assert (env.num_envs, env.clusters) == (3, 3)
    single = gym.make(env_id, scenario=tiny_scenario)
    assert env.single_observation_space == single.observation_space
    assert env.single_action_space == single.action_space


@every_id
def test_nodes_can_be_rows_of_any_id(env_id: str, tiny_scenario: dict[str, Any]) -> None:
    env = gym.make_vec(env_id, 2, scenario=tiny_scenario, control="node")
    assert env.num_envs == 8
    assert env.reset(seed=1)[0].shape == (8, 7)
    before = env.shares
    env.step(some_actions(env.action_space))
    wanted = before - 0.04 if "Discrete" in env_id else np.full((2, 4), 0.3)
    np.testing.assert_allclose(env.shares, wanted, rtol=1e-6)


@every_id
@pytest.mark.parametrize("observation", ["paper7", "extended"])
def test_gymnasiums_checker_passes_without_a_warning(
    env_id: str, observation: str, tiny_scenario: dict[str, Any]
) -> None:
    env = gym.make(env_id, scenario=tiny_scenario, observation=observation)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)


@every_id
@pytest.mark.parametrize("observation", ["paper7", "extended"])
def test_sb3s_checker_passes(env_id: str, observation: str, tiny_scenario: dict[str, Any]) -> None:
    checker = pytest.importorskip("stable_baselines3.common.env_checker")
    env = gym.make(env_id, scenario=tiny_scenario, observation=observation)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        checker.check_env(env, skip_render_check=False)
    if "Discrete" in env_id:
        assert caught == []
        return
    # A share lies in [0, 1]. SB3 likes [-1, 1] better, and says so of every other range.
    assert ["symmetric and normalized Box action space" in str(w.message) for w in caught] == [True]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        checker.check_env(gym.wrappers.RescaleAction(env, -1, 1), skip_render_check=False)


@every_id
def test_our_checker_passes(env_id: str, tiny_scenario: dict[str, Any]) -> None:
    kwargs = {"scenario": tiny_scenario, "observation": "extended"}

    def vector(num_envs: int, **more: Any) -> Any:
        return gym.make_vec(env_id, num_envs, **kwargs, **more)

    check_vector_env(vector, partial(gym.make, env_id, **kwargs), num_envs=2, steps=14)


@every_id
def test_two_copies_agree_bit_by_bit(env_id: str, tiny_scenario: dict[str, Any]) -> None:
    first, second = (gym.make(env_id, scenario=tiny_scenario) for _ in range(2))
    expected = rollout(first, seed=1)
    assert rollout(second, seed=1) == expected
    assert rollout(first, seed=1) == expected
    assert rollout(second, seed=2) != expected


@every_id
@pytest.mark.parametrize("pack", [copy.deepcopy, lambda thing: pickle.loads(pickle.dumps(thing))])
def test_specs_and_environments_survive_copies_and_pickles(
    env_id: str, pack: Any, tiny_scenario: dict[str, Any]
) -> None:
    env = gym.make(env_id, scenario=tiny_scenario, observation="extended")
    expected = rollout(env, seed=1, steps=8)
    assert rollout(gym.make(pack(env.spec)), seed=1, steps=8) == expected
    twin = pack(env)
    assert rollout(twin, seed=1, steps=8) == expected
    vector = gym.make_vec(env_id, 2, scenario=tiny_scenario)
    vector.reset(seed=1)
    again = pack(vector)
    actions = some_actions(vector.action_space)
    np.testing.assert_array_equal(vector.step(actions)[0], again.step(actions)[0])
    assert gym.make_vec(pack(vector.spec)).num_envs == 2


@every_id
@pytest.mark.parametrize("kind", ["mapping", "Scenario"])
def test_a_spec_survives_json(env_id: str, kind: str, tiny_scenario: dict[str, Any]) -> None:
    """With objects as arguments too: scenarios, rewards, and members of an enum."""
    kwargs: dict[str, Any] = {"scenario": tiny_scenario}
    if kind == "Scenario":
        kwargs = {"scenario": Scenario.load(tiny_scenario), "reward": RewardConfig(work=0.5)}
    env = gym.make(env_id, **kwargs)
    again = gym.make(from_json(env))
    assert again.unwrapped.scenario == env.unwrapped.scenario
    assert rollout(again, seed=1, steps=3) == rollout(env, seed=1, steps=3)
    vector = gym.make_vec(env_id, 2, **kwargs, autoreset_mode=AutoresetMode.SAME_STEP)
    twin = gym.make_vec(from_json(vector))
    assert twin.unwrapped.scenario == env.unwrapped.scenario
    assert twin.autoreset_mode is AutoresetMode.SAME_STEP
    np.testing.assert_array_equal(twin.reset(seed=1)[0], vector.reset(seed=1)[0])


def from_json(env: Any) -> EnvSpec:
    assert env.spec is not None
    return EnvSpec.from_json(env.spec.to_json())


@every_id
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # from Python 3.12 on
@pytest.mark.parametrize("method", METHODS)
def test_workers_see_what_the_parent_sees(
    env_id: str, method: str, tiny_scenario: dict[str, Any]
) -> None:
    kwargs = {"scenario": tiny_scenario, "observation": "extended"}
    here = rollout_digest(env_id, {**kwargs, "threads": 2})
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(1, mp_context=context) as worker:
        for threads in (1, 2):
            future = worker.submit(rollout_digest, env_id, {**kwargs, "threads": threads})
            assert future.result(timeout=240) == here


@every_id
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_gymnasiums_vector_environments_take_it(env_id: str, tiny_scenario: dict[str, Any]) -> None:
    rows = {}
    for mode in ("sync", "async", "vector_entry_point"):
        env = gym.make_vec(env_id, 2, vectorization_mode=mode, scenario=tiny_scenario)
        assert env.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
        assert isinstance(env, (SyncVectorEnv, AsyncVectorEnv, EmbKvVectorEnv))
        seen = [env.reset(seed=3)[0]]
        seen += [env.step(some_actions(env.action_space))[0] for _ in range(8)]
        rows[mode] = np.stack(seen)
        env.close()
    np.testing.assert_array_equal(rows["sync"], rows["vector_entry_point"])
    np.testing.assert_array_equal(rows["async"], rows["vector_entry_point"])


def test_registering_again_does_nothing() -> None:
    before = dict(gym.registry)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        helm_gym.register_envs()
        importlib.reload(helm_gym)
    assert dict(gym.registry) == before


@pytest.mark.parametrize(
    ("wrong", "error", "hint"),
    [
        ("helm_gym/EmbKvAlocation-v0", gym.error.NameNotFound, "EmbKvAllocation"),
        ("helmgym/EmbKvAllocation-v0", gym.error.NamespaceNotFound, "helm_gym"),
        ("helm_gym/EmbKvAllocation-v9", gym.error.VersionNotFound, "v0"),
    ],
)
def test_a_wrong_id_gets_a_hint(wrong: str, error: type[Exception], hint: str) -> None:
    for make in (gym.make, gym.make_vec):
        with pytest.raises(error, match=hint):
            make(wrong)


@every_id
@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"observatoin": "paper7"}, "argument 'observatoin'; did you mean 'observation'"),
        ({"overrides": {"emb.shard": 2}}, "emb.shard: unknown key; did you mean 'shards'"),
        ({"scenario": "feasibilty"}, "did you mean 'feasibility'"),
    ],
)
def test_a_wrong_argument_gets_a_hint(
    env_id: str, kwargs: dict[str, Any], message: str, tiny_scenario: dict[str, Any]
) -> None:
    for make in (gym.make, gym.make_vec):
        with pytest.raises(helm_gym.errors.ConfigError, match=message):
            make(env_id, **{"scenario": tiny_scenario, **kwargs})


def test_importing_the_package_loads_no_simulator(tmp_path: Path) -> None:
    code = "import sys, helm_gym; print(*sys.modules); print(helm_gym.__version__)"
    # Run elsewhere: in the checkout, "helm_gym" could be found without being installed.
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    *modules, version = ran.stdout.split()
    assert version == helm_gym.__version__
    heavy = {"numba", "torch", "scipy", "pydantic", "yaml", "stable_baselines3", "matplotlib"}
    assert "helm_gym" in modules
    assert not heavy & set(modules)
    ours = {name for name in modules if name.startswith("helm_gym")}
    assert ours == {"helm_gym", "helm_gym._version"}


def test_the_envs_package_loads_names_when_they_are_used() -> None:
    envs = importlib.import_module("helm_gym.envs")
    assert set(envs.__all__) <= set(dir(envs))
    for name in envs.__all__:
        assert getattr(envs, name) is not None
    assert envs.EmbKvEnv is EmbKvEnv
    with pytest.raises(AttributeError, match="no attribute 'EmbKvEnvs'"):
        _ = envs.EmbKvEnvs
