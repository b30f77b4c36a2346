"""HELM's increments, on single and vector environments."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete, MultiDiscrete, Space
from gymnasium.vector import SyncVectorEnv

from helm_gym.config.scenario import Scenario
from helm_gym.envs.action import INCREMENTS
from helm_gym.envs.single_env import EmbKvEnv
from helm_gym.envs.vector_env import EmbKvVectorEnv
from helm_gym.envs.wrappers import DeltaAction, VectorDeltaAction
from helm_gym.errors import ConfigError, InvalidAction


def test_an_increment_moves_the_share_in_force(tiny: Scenario) -> None:
    env = DeltaAction(EmbKvEnv(tiny))
    assert env.action_space == Discrete(7)
    env.reset(seed=1)
    share = 0.5
    for choice in (0, 6, 3, 1, 5):
        _, _, _, _, info = env.step(choice)
        share += INCREMENTS[choice]
        assert info["emb_share"] == pytest.approx(share)
        assert info["share_moved"] == pytest.approx(abs(INCREMENTS[choice]))


def test_the_range_stops_an_increment(tiny: Scenario) -> None:
    env = DeltaAction(EmbKvEnv(tiny))
    env.reset(seed=1, options={"share": 0.88})
    assert env.step(6)[4]["emb_share"] == pytest.approx(0.9)
    assert env.step(6)[4]["emb_share"] == pytest.approx(0.9)
    assert env.step(2)[4]["emb_share"] == pytest.approx(0.88)


def test_it_does_what_the_same_shares_do(tiny: Scenario) -> None:
    by_choice, by_share = DeltaAction(EmbKvEnv(tiny)), EmbKvEnv(tiny)
    by_choice.reset(seed=1)
    by_share.reset(seed=1)
    for choice in (0, 0, 6, 4):
        _, reward, _, _, info = by_choice.step(choice)
        other = by_share.step(by_share.shares[:1] + INCREMENTS[choice])
        assert (reward, info) == (other[1], other[4])


def test_every_node_has_its_own_increment(tiny: Scenario) -> None:
    env = DeltaAction(EmbKvEnv(tiny, control="per_node"))
    assert env.action_space == MultiDiscrete([7] * 4)
    env.reset(seed=1)
    env.step(np.array([0, 3, 6, 4]))
    np.testing.assert_allclose(env.unwrapped.shares, [0.44, 0.5, 0.56, 0.52])


@pytest.mark.parametrize(
    ("control", "space", "choices", "shares"),
    [
        ("cluster", MultiDiscrete([7, 7]), [0, 5], [[0.44] * 4, [0.54] * 4]),
        ("node", MultiDiscrete([7] * 8), range(8), None),
        (
            "per_node",
            Box(0, 6, (2, 4), np.int64),  # what Gymnasium batches MultiDiscrete to
            [[0, 1, 2, 3], [3, 4, 5, 6]],
            [[0.44, 0.46, 0.48, 0.5], [0.5, 0.52, 0.54, 0.56]],
        ),
    ],
)
def test_vector_increments(
    tiny: Scenario, control: str, space: Space, choices: Any, shares: Any
) -> None:
    env = VectorDeltaAction(EmbKvVectorEnv(2, scenario=tiny, control=control))
    assert env.action_space == space
    env.reset(seed=1)
    chosen = np.asarray(choices) % 7
    assert chosen in env.action_space
    env.step(chosen)
    if shares is None:
        shares = 0.5 + np.reshape([INCREMENTS[choice] for choice in chosen], (2, 4))
    np.testing.assert_allclose(env.unwrapped.shares, shares)


def test_the_vector_wrapper_is_the_single_one_row_by_row(tiny: Scenario) -> None:
    native = VectorDeltaAction(EmbKvVectorEnv(2, scenario=tiny, autoreset_mode="SameStep"))
    rows = SyncVectorEnv([lambda: DeltaAction(EmbKvEnv(tiny))] * 2, autoreset_mode="SameStep")
    assert native.action_space == rows.action_space
    native.reset(seed=1)
    rows.reset(seed=1)
    rows.action_space.seed(3)
    for _ in range(8):
        choices = rows.action_space.sample()
        for mine, theirs in zip(native.step(choices)[:4], rows.step(choices)[:4], strict=True):
            np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("bad", [7, -1, 0.5, [0, 1], None, "up"])
def test_what_is_no_increment_is_refused(tiny: Scenario, bad: object, native: bool) -> None:
    env = EmbKvEnv(tiny, action="choice") if native else DeltaAction(EmbKvEnv(tiny))
    env.reset(seed=1)
    with pytest.raises(InvalidAction, match="0 to 6 stand for"):
        env.step(bad)
    assert env.step(3)[4]["share_moved"] == 0


def test_it_wraps_only_what_has_a_share(tiny: Scenario) -> None:
    with pytest.raises(ConfigError, match="wrap an EmbKvEnv"):
        DeltaAction(gym.make("CartPole-v1"))
    with pytest.raises(ConfigError, match="wrap an EmbKvVectorEnv"):
        VectorDeltaAction(SyncVectorEnv([lambda: EmbKvEnv(tiny)]))
    with pytest.raises(ConfigError, match="leave out DeltaAction"):
        DeltaAction(EmbKvEnv(tiny, action="choice"))
    with pytest.raises(ConfigError, match="leave out VectorDeltaAction"):
        VectorDeltaAction(EmbKvVectorEnv(1, scenario=tiny, action="choice"))


@pytest.mark.parametrize("control", ["cluster", "per_node", "node"])
def test_an_environment_of_choices_does_what_the_wrapper_does(tiny: Scenario, control: str) -> None:
    native = EmbKvVectorEnv(2, scenario=tiny, control=control, action="choice")
    around = VectorDeltaAction(EmbKvVectorEnv(2, scenario=tiny, control=control))
    assert native.action_space == around.action_space
    assert native.single_action_space == around.single_action_space
    native.reset(seed=1)
    around.reset(seed=1)
    native.action_space.seed(3)
    for _ in range(8):
        choices = native.action_space.sample()
        for mine, theirs in zip(native.step(choices)[:4], around.step(choices)[:4], strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_it_is_part_of_the_spec(tiny_scenario: dict[str, object]) -> None:
    env = DeltaAction(gym.make("helm_gym/EmbKvAllocation-v0", scenario=tiny_scenario))
    assert env.spec is not None
    again = gym.make(env.spec)
    assert isinstance(again, DeltaAction)
    assert again.action_space == Discrete(7)
