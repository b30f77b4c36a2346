"""What is refused, how far a decision moves the boundary, and which row means which node."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helm_gym.config.scenario import Episode
from helm_gym.envs.action import INCREMENTS, Layout, move
from helm_gym.envs.single_env import EmbKvEnv
from helm_gym.envs.vector_env import EmbKvVectorEnv
from helm_gym.errors import ConfigError, InvalidAction

CONTROLS = ("cluster", "per_node", "node")
SHAPES = {"cluster": (2, 1), "per_node": (2, 3), "node": (6, 1)}


def equal_state(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return repr(a.keys()) == repr(b.keys()) and all(
        np.array_equal(a[key], b[key]) for key in ("clusters", "shares", "elapsed", "ended")
    )


@pytest.mark.parametrize("control", CONTROLS)
def test_rows_reach_the_nodes_they_mean(control: str) -> None:
    layout = Layout(control, clusters=2, nodes=3)
    actions = np.arange(np.prod(SHAPES[control])).reshape(SHAPES[control]) / 10
    targets = layout.targets(actions)
    expected = {
        "cluster": [[0, 0, 0], [0.1, 0.1, 0.1]],
        "per_node": [[0, 0.1, 0.2], [0.3, 0.4, 0.5]],
        "node": [[0, 0.1, 0.2], [0.3, 0.4, 0.5]],
    }[control]
    np.testing.assert_array_equal(targets, expected)
    np.testing.assert_array_equal(layout.row_shares(targets), actions)
    assert layout.rows == SHAPES[control][0]


@pytest.mark.parametrize("control", CONTROLS)
@pytest.mark.parametrize(
    "bad", [(2,), (1, 1), (2, 2), (6, 2), (3, 2), ()], ids=lambda shape: f"shape{shape}"
)
def test_a_wrong_shape_is_refused_with_the_right_one(control: str, bad: tuple[int, ...]) -> None:
    with pytest.raises(InvalidAction) as error:
        Layout(control, clusters=2, nodes=3).targets(np.full(bad, 0.5))
    assert f"np.full({SHAPES[control]}, 0.5)" in str(error.value)
    assert str(bad) in str(error.value)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_none_is_refused_with_its_place(bad: float) -> None:
    actions = np.full((2, 3), 0.5)
    actions[1, 2] = bad
    with pytest.raises(InvalidAction, match="row 1, column 2 is not a finite number"):
        Layout("per_node", clusters=2, nodes=3).targets(actions)


@pytest.mark.parametrize("bad", ["half", [["a"], ["b"]], [[0.5], [None]], {"share": 0.5}])
def test_what_is_no_array_of_numbers_is_refused(bad: Any) -> None:
    with pytest.raises(InvalidAction):
        Layout("cluster", clusters=2, nodes=3).targets(bad)


def test_an_unknown_control_is_named_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'per_node'"):
        Layout("pernode", clusters=1, nodes=2)


@pytest.mark.parametrize("bad", [np.full((2, 1), np.nan), np.full((2, 2), 0.5), "x"])
def test_a_refused_action_changes_nothing(tiny_scenario: dict[str, Any], bad: Any) -> None:
    env = EmbKvVectorEnv(2, scenario=tiny_scenario)
    env.reset(seed=1)
    env.step(np.full((2, 1), 0.3))
    before = env.get_state()
    with pytest.raises(InvalidAction):
        env.step(bad)
    assert equal_state(before, env.get_state())


def test_a_refused_action_changes_nothing_in_the_single_environment(
    tiny_scenario: dict[str, Any],
) -> None:
    env = EmbKvEnv(tiny_scenario)
    env.reset(seed=1)
    before = env.get_state()
    for bad in (0.5, np.full(4, 0.5), np.full((1, 1), 0.5), np.array([np.nan]), None):
        with pytest.raises(InvalidAction):
            env.step(bad)
    assert equal_state(before, env.get_state())


@given(share=st.floats(0.1, 0.9), target=st.floats(-5, 5), step=st.none() | st.floats(0.01, 1.0))
def test_a_move_stays_in_the_range_and_within_max_step(
    share: float, target: float, step: float | None
) -> None:
    episode = Episode(max_step=step)
    (reached,) = move(episode, np.array([share]), np.array([target]))
    assert episode.share_min <= reached <= episode.share_max
    wanted = min(max(target, episode.share_min), episode.share_max)
    if step is None or abs(wanted - share) <= step:
        assert reached == pytest.approx(wanted, abs=2e-6)
    else:
        assert reached == pytest.approx(share + np.copysign(step, wanted - share))


def test_rounding_to_float32_moves_nothing() -> None:
    shares = np.array([[0.45, 0.1, 0.9, 1 / 3]])
    moved = move(Episode(), shares, shares.astype(np.float32).astype(np.float64))
    np.testing.assert_array_equal(moved, shares)


def test_the_share_in_force_is_what_the_simulator_runs(tiny_scenario: dict[str, Any]) -> None:
    tiny_scenario["episode"]["max_step"] = 0.06
    env = EmbKvVectorEnv(1, scenario=tiny_scenario, control="per_node")
    env.reset(seed=1, options={"share": 0.4})
    _, _, _, _, infos = env.step(np.array([[0.0, 0.38, 0.4, 1.0]]))
    expected = [[0.34, 0.38, 0.4, 0.46]]
    np.testing.assert_allclose(env.shares, expected)
    np.testing.assert_allclose(env.simulator.states[0].stages.share, expected[0])
    assert infos["share_moved"][0] == pytest.approx(np.mean([0.06, 0.02, 0, 0.06]))
    assert infos["emb_share"][0] == pytest.approx(np.mean(expected))


def test_increments_are_helms_seven() -> None:
    assert INCREMENTS == (-0.06, -0.04, -0.02, 0.0, 0.02, 0.04, 0.06)
