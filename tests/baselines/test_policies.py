"""Policies that come with the library, specs that name them, and checks on strangers' policies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from helm_gym.baselines.balance import Balance
from helm_gym.baselines.static import StaticPolicy, share_grid
from helm_gym.config.scenario import Scenario
from helm_gym.envs.observation import FEATURES
from helm_gym.envs.vector_env import EmbKvVectorEnv
from helm_gym.errors import CheckpointError, ConfigError, PolicyError
from helm_gym.evaluation.search import candidates
from helm_gym.evaluation.specs import make_policy
from helm_gym.policy import Policy, checked_act, checked_reset, initial_share_of, view_of

NAMES = [feature.name for feature in FEATURES["extended"]]


def seen(share: float, link: float, gpu: float, shape: tuple[int, ...] = (1,)) -> np.ndarray:
    """Observations that differ from zero in what the rule reads."""
    obs = np.zeros((*shape, len(NAMES)), np.float32)
    for name, value in (("emb_share", share), ("link_utilisation", link), ("gpu_utilisation", gpu)):
        obs[..., NAMES.index(name)] = value
    return obs


class Answers:
    """A policy that returns, or raises, what it was given."""

    def __init__(self, answer: object) -> None:
        self.answer = answer

    def reset(self, seed: int) -> None:
        if isinstance(self.answer, Exception):
            raise self.answer

    def act(self, obs: np.ndarray) -> object:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def test_a_static_policy_never_moves_and_starts_where_it_stays(tiny: Scenario) -> None:
    policy = StaticPolicy(0.35)
    env = EmbKvVectorEnv(2, scenario=tiny, observation=policy.observation)
    obs, _ = env.reset(seed=3, options={"share": policy.initial_share})
    for _ in range(3):
        obs, *_ = env.step(policy.act(obs))
        np.testing.assert_array_equal(env.shares, 0.35)
        np.testing.assert_array_equal(env.previous_share, 0.35)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_static_share_outside_the_unit_interval_is_refused(share: float) -> None:
    with pytest.raises(ConfigError, match=r"\[0, 1\]"):
        StaticPolicy(share)


def test_the_grid_has_both_ends_and_no_rounding_dust() -> None:
    assert share_grid(0.1, 0.9, 0.2) == [0.1, 0.3, 0.5, 0.7, 0.9]
    assert share_grid(0.1, 0.45, 0.2) == [0.1, 0.3, 0.45]
    with pytest.raises(ConfigError, match="step"):
        share_grid(0.1, 0.9, 0.0)


@pytest.mark.parametrize(
    ("share", "link", "gpu", "expected"),
    [
        (0.5, 0.80, 0.80, 0.53),  # balanced: the bias alone moves it, 0.6 * 0.05
        (0.5, 0.75, 0.80, 0.50),  # the GPU busier by the bias: it rests
        (0.5, 0.80, 0.65, 0.56),  # 0.6 * 0.2 = 0.12, more than a decision may move
        (0.5, 0.20, 0.90, 0.44),
        (0.02, 0.10, 0.90, 0.00),  # shares stay in [0, 1]
        (0.98, 0.90, 0.10, 1.00),
    ],
)
def test_balance_moves_toward_the_busier_stage(
    share: float, link: float, gpu: float, expected: float
) -> None:
    chosen = Balance(gain=0.6, bias=0.05, max_move=0.06).act(seen(share, link, gpu))
    assert chosen.shape == (1, 1)
    assert chosen[0, 0] == pytest.approx(expected, abs=1e-6)


def test_balance_decides_every_row_and_node_by_its_own_utilisations() -> None:
    obs = seen(0.5, 0.5, 0.5, (2, 3))
    obs[1, 2, NAMES.index("gpu_utilisation")] = 0.9
    chosen = Balance(bias=0.0).act(obs)
    assert chosen.shape == (2, 3)
    assert chosen[1, 2] == pytest.approx(0.44)
    assert np.delete(chosen.reshape(-1), 5) == pytest.approx(0.5)


@pytest.mark.parametrize(
    "settings", [{"gain": 0.0}, {"max_move": 1.5}, {"bias": float("inf")}, {"control": "nodes"}]
)
def test_balance_refuses_settings_that_cannot_work(settings: dict[str, float | str]) -> None:
    with pytest.raises(ConfigError, match="balance"):
        Balance(**settings)


def test_every_candidate_of_the_balance_grid_is_a_different_policy() -> None:
    made = [make_policy(spec) for spec in candidates(Balance)]
    settings = {(p.gain, p.bias, p.control) for p in made}
    assert len(settings) == len(made) == 24
    assert (0.6, 0.05, "node") in settings  # the default is among them


def test_specs_name_the_policies_they_look_like() -> None:
    assert make_policy("static:0.45").share == 0.45
    assert make_policy("balance").control == "node"
    rule = make_policy("balance:gain=0.3, bias=-0.1,control=cluster")
    assert (rule.gain, rule.bias, rule.max_move, rule.control) == (0.3, -0.1, 0.06, "cluster")
    assert isinstance(rule, Policy)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("statik", "did you mean 'static'"),
        ("balanced:gain=1", "did you mean 'balance'"),
        ("static:bset", "did you mean 'static:best'"),
        ("static:", "static:0.45"),
        ("static:1.5", r"in \[0, 1\]"),
        ("static:best", "grid search"),
        ("balance:gian=0.6", "did you mean 'gain'"),
        ("balance:gain", "is no setting"),
        ("balance:gain=much", "gain='much': .*valid number"),
        ("ppo:", "ppo:PATH"),
        ("no_such_module:Thing", "no module 'no_such_module'"),
        ("json:JSONDecodr", "did you mean 'JSONDecoder'"),
        ("json:JSONDecoder", "no reset"),
        ("fractions:gcd", "has no 'gcd'"),
        ("json:loads", "made without arguments"),
    ],
)
def test_a_wrong_spec_says_what_to_write(spec: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_policy(spec)


def test_a_missing_model_is_named() -> None:
    with pytest.raises(CheckpointError, match=r"nowhere\.zip"):
        make_policy("ppo:nowhere.zip")


def test_a_policy_file_in_the_working_folder_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stranger_policy.py").write_text(
        "import numpy as np\n"
        "class Half:\n"
        "    def reset(self, seed): pass\n"
        "    def act(self, obs): return np.full((len(obs), 1), 0.5)\n"
    )
    (tmp_path / "broken_policy.py").write_text("import a_module_that_does_not_exist\n")
    monkeypatch.chdir(tmp_path)
    policy = make_policy("stranger_policy:Half")
    assert view_of(policy) == ("cluster", "extended")
    assert initial_share_of(policy) is None
    with pytest.raises(ConfigError, match=r"importing it failed.*a_module_that_does_not_exist"):
        make_policy("broken_policy:Half")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (np.full((2, 1), np.nan), r"'mine'.*nan in row 0, column 0"),
        (np.array([[0.5], [1.5]]), r"'mine'.*1\.5 in row 1"),
        (np.full((1, 2), 0.5), r"'mine'.*shape \(1, 2\).*shape \(2, 1\)"),
        (np.full(2, 0.5), r"'mine'.*shape \(2,\)"),
        (None, r"'mine'.*"),
        ("half", r"'mine'.*str, which is no array"),
        (ZeroDivisionError("oh"), r"'mine'.*act\(obs\) raised ZeroDivisionError: oh"),
    ],
)
def test_a_wrong_answer_names_policy_and_fault(answer: object, message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        checked_act(Answers(answer), "mine", np.zeros((2, 7), np.float32), (2, 1))


def test_a_reset_that_raises_names_the_policy() -> None:
    with pytest.raises(PolicyError, match=r"'mine'.*reset\(seed=4\) raised KeyError"):
        checked_reset(Answers(KeyError("x")), "mine", 4)


def test_a_good_answer_passes_as_float64() -> None:
    answer = np.array([[0.0], [1.0]], np.float32)
    shares = checked_act(Answers(answer), "mine", np.zeros((2, 7), np.float32), (2, 1))
    assert shares.dtype == np.float64
    np.testing.assert_array_equal(shares, answer)


def test_a_policy_cannot_change_what_others_see() -> None:
    class Scribbler(Answers):
        def act(self, obs: np.ndarray) -> object:
            obs[:] = 9.0
            return np.full((len(obs), 1), 0.5)

    obs = np.zeros((2, 7), np.float32)
    checked_act(Scribbler(None), "mine", obs, (2, 1))
    np.testing.assert_array_equal(obs, 0.0)
