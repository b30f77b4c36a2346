"""The single environment: its card, its errors, what a reset does, and rendering."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
from gymnasium.error import ResetNeeded

from helm_gym.config.scenario import Scenario
from helm_gym.envs.reward import TERMS
from helm_gym.envs.single_env import EmbKvEnv
from helm_gym.envs.vector_env import EmbKvVectorEnv
from helm_gym.errors import ConfigError
from helm_gym.metrics import METRICS

HEADINGS = (
    "Description",
    "Action Space",
    "Observation Space",
    "Rewards",
    "Starting State",
    "Episode End",
    "Arguments",
    "Version History",
)
EITHER = (EmbKvEnv, EmbKvVectorEnv)


def played(env: EmbKvEnv, shares: tuple[float, ...], **reset: Any) -> list[dict[str, Any]]:
    infos = [env.reset(**reset)[1]]
    for share in shares:
        infos.append(env.step(np.full(env.action_space.shape, share))[4])
    return infos


def test_the_card_has_gymnasiums_headings_in_order() -> None:
    card = EmbKvEnv.__doc__ or ""
    found = [line.strip()[3:] for line in card.splitlines() if line.strip().startswith("## ")]
    assert [heading for heading in found if heading in HEADINGS] == list(HEADINGS)


def test_infos_are_flat_numpy_scalars_with_every_figure(tiny: Scenario) -> None:
    for info in played(EmbKvEnv(tiny), (0.3,), seed=1):
        assert set(info) == {*METRICS, *(f"reward_terms/{name}" for name in TERMS)}
        assert {type(value) for value in info.values()} == {np.float64}


def test_an_episode_truncates_after_its_steps_and_then_needs_a_reset(tiny: Scenario) -> None:
    env = EmbKvEnv(tiny)
    with pytest.raises(ResetNeeded, match=r"call reset\(\) before step"):
        env.step(np.array([0.5]))
    for _ in range(2):
        env.reset(seed=1)
        ends = [env.step(np.array([0.5]))[2:4] for _ in range(6)]
        assert ends == [(False, False)] * 5 + [(False, True)]
        with pytest.raises(ResetNeeded, match="the episode of row 0 is over"):
            env.step(np.array([0.5]))


def test_reset_without_a_seed_goes_on_and_with_one_repeats(tiny: Scenario) -> None:
    env = EmbKvEnv(tiny)
    first = [played(env, (0.4, 0.5), seed=5), played(env, (0.4, 0.5)), played(env, (0.4, 0.5))]
    again = [played(env, (0.4, 0.5), seed=5), played(env, (0.4, 0.5)), played(env, (0.4, 0.5))]
    assert first == again
    assert first[0] != first[1] != first[2]


def test_an_unseeded_environment_is_not_always_the_same(tiny: Scenario) -> None:
    assert played(EmbKvEnv(tiny), (0.4,)) != played(EmbKvEnv(tiny), (0.4,))


def test_requests_do_not_depend_on_actions(tiny: Scenario) -> None:
    low = played(EmbKvEnv(tiny), (0.1, 0.1, 0.1), seed=2)
    high = played(EmbKvEnv(tiny), (0.9, 0.9, 0.9), seed=2)
    assert [i["offered_rps"] for i in low] == [i["offered_rps"] for i in high]
    assert [i["hot_user_share"] for i in low] == [i["hot_user_share"] for i in high]
    assert low[-1]["kv_hit_rate"] > high[-1]["kv_hit_rate"]
    assert low[-1]["emb_hit_rate"] < high[-1]["emb_hit_rate"]


def test_options_choose_the_warm_start(tiny: Scenario) -> None:
    env = EmbKvEnv(tiny)
    _, info = env.reset(seed=1, options={"share": 0.3})
    assert info["emb_share"] == pytest.approx(0.3)
    np.testing.assert_allclose(env.shares, 0.3)
    starts = [env.reset(seed=1, options={"start": start})[1] for start in (0, 1, 0)]
    assert starts[0] == starts[2] != starts[1]
    # Naming the start leaves the requests that follow as the seed has them.
    drawn = env.reset(seed=1)[1]
    start = 0 if drawn == starts[0] else 1
    assert played(env, (0.4,), seed=1) == played(env, (0.4,), seed=1, options={"start": start})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shares": 0.3}, "reset option 'shares' does not exist; did you mean 'share'"),
        ({"share": 0.95}, r"options\['share'\] = 0.95 is no EMB share .*\[0.1, 0.9\]"),
        ({"share": [0.3] * 4}, "all nodes start from the same number"),
        ({"share": float("nan")}, "is no EMB share"),
        ({"start": 2}, "episode.warm_starts is 2, so write an int from 0 to 1"),
        ({"start": -1}, "names no warm start"),
        ({"start": 0.5}, "names no warm start"),
    ],
)
def test_a_wrong_option_is_named(tiny: Scenario, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EmbKvEnv(tiny).reset(options=options)


@pytest.mark.parametrize("make", EITHER)
@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"scenaro": "x"}, "unexpected keyword argument 'scenaro'; did you mean 'scenario'"),
        ({"max_episode_steps": 5}, r"write overrides=\{'episode.steps': ...\}"),
        ({"scenario": "feasability"}, "scenario 'feasability' does not exist; did you mean"),
        ({"scenario": {"nam": "x"}}, "scenario: nam: unknown key; did you mean 'name'"),
        ({"overrides": {"workload.laod": 0.9}}, "unknown key; did you mean 'load'"),
        ({"overrides": {"workloda.load": 0.9}}, "unknown key; did you mean 'workload'"),
        ({"overrides": {"nodes": 0}}, "nodes: .*greater than 0"),
        ({"control": "clusters"}, "control='clusters'; did you mean 'cluster'"),
        ({"action": "choise"}, "action='choise'; did you mean 'choice'"),
        ({"render_mode": "human"}, "unexpected keyword argument 'render_mode'='human'; known"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_wrong_argument_is_named(
    tiny: Scenario, make: Any, kwargs: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make(**{"scenario": tiny, **kwargs})


def test_a_node_is_no_single_environment(tiny: Scenario) -> None:
    with pytest.raises(ConfigError, match=r'EmbKvVectorEnv\(control="node"\)'):
        EmbKvEnv(tiny, control="node")


def test_overrides_reach_the_scenario(tiny: Scenario) -> None:
    env = EmbKvEnv(tiny, overrides={"episode.steps": 2, "workload.load": 0.4})
    assert env.scenario == tiny.replace({"episode.steps": 2, "workload.load": 0.4})
    env.reset(seed=1)
    env.step(np.array([0.5]))
    assert env.step(np.array([0.5]))[3] is True


@pytest.mark.parametrize("flat", [False, True])
def test_per_node_observations_lie_flat_if_asked(tiny: Scenario, flat: bool) -> None:
    env = EmbKvEnv(tiny, control="per_node", flat=flat)
    square = EmbKvEnv(tiny, control="per_node")
    assert env.observation_space.shape == ((28,) if flat else (4, 7))
    assert env.action_space.shape == (4,)
    np.testing.assert_array_equal(env.reset(seed=1)[0].reshape(4, 7), square.reset(seed=1)[0])


def test_text_rendering_shows_the_window(tiny: Scenario) -> None:
    env = EmbKvEnv(tiny, render_mode="ansi")
    with pytest.raises(ResetNeeded, match="nothing to show yet"):
        env.render()
    env.reset(seed=1)
    assert "step   0  EMB share 0.500" in (env.render() or "")
    _, _, _, _, info = env.step(np.array([0.3]))
    line = env.render() or ""
    assert "\n" not in line
    assert line.startswith("step   1  EMB share 0.300  P99")
    assert f"P99 {info['p99_ms']:6.1f} ms" in line
    assert f"SLO {info['slo_satisfaction']:.4f}" in line


def test_rendering_without_a_mode_says_what_is_missing(tiny: Scenario) -> None:
    env = EmbKvEnv(tiny)
    env.reset(seed=1)
    with pytest.warns(UserWarning, match='render_mode="ansi"'):
        assert env.render() is None


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_a_copy_in_mid_episode_goes_on_alone(tiny: Scenario, clone: Any) -> None:
    env = EmbKvEnv(tiny, observation="extended")
    env.reset(seed=4)
    env.step(np.array([0.3]))
    twin, third = clone(env), clone(env)

    def rest(one: EmbKvEnv) -> list[Any]:
        steps = [one.step(np.array([share])) for share in (0.4, 0.6, 0.2)]
        return [(step[0].tolist(), *step[1:]) for step in [*steps, (*one.reset(), 0)]]

    expected = rest(env)
    assert rest(twin) == expected
    env.step(np.array([0.9]))
    assert rest(third) == expected
