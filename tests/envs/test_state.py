"""A saved state continues bit for bit in a new object, and a foreign one is refused."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
from compared import same

from helm_gym.config.scenario import Scenario
from helm_gym.envs.single_env import EmbKvEnv
from helm_gym.envs.vector_env import EmbKvVectorEnv
from helm_gym.errors import CheckpointError, ConfigError
from helm_gym.sim.layout import Node

MODES = ("SameStep", "NextStep")


def steps(env: EmbKvVectorEnv, first: int, count: int) -> list[Any]:
    """Everything that ``count`` steps return; actions depend on the step's number."""
    out: list[Any] = []
    for number in range(first, first + count):
        rng = np.random.default_rng(number)
        out.append(env.step(rng.uniform(0, 1, env.action_space.shape)))
    return out


@pytest.mark.parametrize("control", ["cluster", "per_node", "node"])
@pytest.mark.parametrize("mode", MODES)
def test_a_new_environment_continues_across_autoresets(
    tiny: Scenario, control: str, mode: str
) -> None:
    def make() -> EmbKvVectorEnv:
        return EmbKvVectorEnv(
            2, scenario=tiny, control=control, observation="extended", autoreset_mode=mode
        )

    env = make()
    env.reset(seed=3)
    steps(env, 0, 5)
    state = pickle.loads(pickle.dumps(env.get_state()))
    expected = steps(env, 5, 9)
    assert sum(step[3].any() for step in expected) == 2, "two episodes should end on the way"
    other = make()
    other.set_state(state)
    same(steps(other, 5, 9), expected)
    used = make()
    used.reset(seed=99)
    steps(used, 0, 2)
    used.set_state(state)
    same(steps(used, 5, 9), expected)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("taken", [0, 6, 7])
def test_a_state_at_the_edge_of_an_episode(tiny: Scenario, mode: str, taken: int) -> None:
    env = EmbKvVectorEnv(2, scenario=tiny, autoreset_mode=mode)
    env.reset(seed=3)
    steps(env, 0, taken)
    other = EmbKvVectorEnv(2, scenario=tiny, autoreset_mode=mode)
    other.set_state(env.get_state())
    same(steps(other, taken, 4), steps(env, taken, 4))
    same(other.reset(), env.reset())


def test_a_state_is_a_copy_that_can_be_used_twice(tiny: Scenario) -> None:
    env = EmbKvVectorEnv(2, scenario=tiny)
    env.reset(seed=3)
    steps(env, 0, 3)
    state = env.get_state()
    kept = copy.deepcopy(state)
    expected = steps(env, 3, 6)
    same(state, kept)
    for _ in range(2):
        env.set_state(state)
        same(steps(env, 3, 6), expected)
        same(state, kept)


def test_a_state_before_the_first_reset(tiny: Scenario) -> None:
    env = EmbKvVectorEnv(1, scenario=tiny)
    state = env.get_state()
    env.reset(seed=1)
    env.set_state(state)
    env.reset(seed=2)
    fresh = EmbKvVectorEnv(1, scenario=tiny)
    same(env.reset(seed=3), fresh.reset(seed=3))


def test_the_single_environment_continues_too(tiny: Scenario) -> None:
    env, other = EmbKvEnv(tiny), EmbKvEnv(tiny)
    env.reset(seed=3)
    env.step(np.array([0.3]))
    other.set_state(env.get_state())

    def rest(one: EmbKvEnv) -> list[Any]:
        return [one.step(np.array([0.6])), one.reset(), one.step(np.array([0.2]))]

    same(rest(other), rest(env))
    assert other.np_random_seed == env.np_random_seed == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"overrides": {"workload.load": 0.8}}, "taken with scenario '"),
        ({"reward": "mean_latency"}, "taken with reward '"),
        ({"num_envs": 3}, "taken with clusters 2, but this environment has 3"),
        ({"control": "node"}, "taken with control 'cluster', but this environment has 'node'"),
        ({"observation": "extended"}, "taken with observation 'paper7'"),
        ({"autoreset_mode": "SameStep"}, "taken with autoreset_mode 'NextStep'"),
        ({"action": "choice"}, "taken with action 'share'"),
    ],
)
def test_a_foreign_state_is_refused_and_changes_nothing(
    tiny: Scenario, changes: dict[str, Any], message: str
) -> None:
    env = EmbKvVectorEnv(2, scenario=tiny)
    env.reset(seed=1)
    other = EmbKvVectorEnv(**{"num_envs": 2, "scenario": tiny, **changes})
    other.reset(seed=2)
    before = other.get_state()
    with pytest.raises(CheckpointError, match=message):
        other.set_state(env.get_state())
    same(other.get_state(), before)


@pytest.mark.parametrize("missing", ["made_for", "clusters", "shares", "generators", "window"])
def test_a_truncated_state_is_refused_and_changes_nothing(tiny: Scenario, missing: str) -> None:
    env = EmbKvVectorEnv(2, scenario=tiny)
    env.reset(seed=1)
    state = env.get_state()
    del state[missing]
    other = EmbKvVectorEnv(2, scenario=tiny)
    other.reset(seed=2)
    before = other.get_state()
    with pytest.raises(CheckpointError, match=f"lacks '{missing}'"):
        other.set_state(state)
    same(other.get_state(), before)


def test_a_state_with_an_array_cut_short_is_refused_and_changes_nothing(tiny: Scenario) -> None:
    env = EmbKvVectorEnv(2, scenario=tiny)
    env.reset(seed=1)
    state = env.get_state()
    state["clusters"] = state["clusters"][:, :-64]
    other = EmbKvVectorEnv(2, scenario=tiny)
    other.reset(seed=2)
    before = other.get_state()
    with pytest.raises(CheckpointError, match="snapshot has shape"):
        other.set_state(state)
    same(other.get_state(), before)


def test_a_refill_pace_lasts_until_the_reset_and_is_part_of_the_state(tiny: Scenario) -> None:
    def copied(pace: float) -> float:
        env = EmbKvVectorEnv(1, scenario=tiny)
        env.reset(seed=0, options={"share": 0.2})
        env.set_refill_pace(pace)
        other = EmbKvVectorEnv(1, scenario=tiny)
        other.set_state(env.get_state())
        same(env.step(np.full((1, 1), 0.6)), other.step(np.full((1, 1), 0.6)))
        assert (env.refill_pace == pace).all()
        amount = float(env.telemetry.node[0, :, Node.REFILL_BYTES].sum())
        env.reset(seed=0)
        assert (env.refill_pace == 1.0).all()
        return amount

    assert copied(0.0) == 0.0 < copied(1.0)


@pytest.mark.parametrize("pace", [np.full(7, 0.5), -0.1, 1.5, float("nan")])
def test_an_impossible_refill_pace_is_refused(tiny: Scenario, pace: Any) -> None:
    env = EmbKvVectorEnv(1, scenario=tiny)
    env.reset(seed=0)
    with pytest.raises(ConfigError, match="refill pace"):
        env.set_refill_pace(pace)
