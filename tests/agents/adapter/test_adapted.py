"""The adapter learns online, leaves its base alone, never breaks, and can be saved mid-stream."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small import SMALL

from helm_gym.agents.adapter.config import MOVED, NAMED, Reach, ResidualConfig
from helm_gym.agents.adapter.signals import slope
from helm_gym.agents.layers.adapted import AdaptedPolicy
from helm_gym.config.scenario import Scenario
from helm_gym.envs.observation import FEATURES
from helm_gym.envs.vector_env import EmbKvVectorEnv
from helm_gym.errors import CheckpointError, ConfigError, PolicyError
from helm_gym.evaluation.specs import make_policy
from helm_gym.policy import Policy
from helm_gym.runs.rollout import run_policy

NAMES = [feature.name for feature in FEATURES["extended"]]
NODES = 4
BASE = "ppo:released"


def stream(length: int, rows: int = 1, seed: int = 0) -> list[Any]:
    """Observations of nobody's cluster in which more EMB would help."""
    rng = np.random.default_rng(seed)
    shape = (length, rows, NODES, len(NAMES))
    obs = rng.uniform(0.2, 0.6, shape).astype(np.float32)
    obs[..., NAMES.index("marginal_emb")] = 0.9
    obs[..., NAMES.index("marginal_kv")] = 0.1
    obs[..., NAMES.index("slo_violation_rate")] = 0.0
    return list(obs)


class Half:
    """The same share on every node."""

    control, observation, names_share = "per_node", "paper7", True

    def __init__(self, share: float = 0.5) -> None:
        self.share = share

    def reset(self, seed: int) -> None:
        pass

    def act(self, obs: Any) -> Any:
        assert obs.shape[-1] == len(FEATURES[self.observation])
        return np.full(obs.shape[:2], self.share)


def policy(spec: str | Policy = BASE, learn: bool = True, **settings: Any) -> AdaptedPolicy:
    base = make_policy(spec) if isinstance(spec, str) else spec
    return AdaptedPolicy(base, ResidualConfig(**settings), learn=learn)


def play(adapted: AdaptedPolicy, observations: list[Any]) -> Any:
    return np.stack([adapted.act(obs) for obs in observations])


def test_the_first_decision_is_the_bases() -> None:
    base, first = make_policy(BASE), stream(1)[0]
    base.reset(0)
    adapted = policy()
    adapted.reset(0)
    assert np.array_equal(adapted.act(first), base.act(first).astype(np.float64))


def test_without_a_method_it_is_the_base() -> None:
    base, adapted = make_policy(BASE), policy(method="none")
    for obs in stream(30):
        assert np.array_equal(adapted.act(obs), base.act(obs).astype(np.float64))


def test_it_follows_the_marginal_values() -> None:
    adapted = policy(Half(), bound=0.1, guard=False)
    shares = play(adapted, stream(60))
    assert (np.diff(shares.mean(axis=(1, 2))) > -1e-3).all()
    assert shares[-1].min() > 0.55
    even = np.array([[0.02] * 2, [0.02] * 2, [0.7] * 2, [0.7] * 2])
    assert np.array_equal(slope(even, 1.0), np.zeros(2))
    assert (slope(even * [[2.0], [1.0], [1.0], [1.0]], 1.0) > 0.0).all()
    assert (slope(even * [[1.0], [1.0], [1.0], [1.3]], 1.0) < 0.0).all()
    assert (slope(even, 0.5) > 0.0).all()


def test_frozen_means_frozen() -> None:
    adapted = policy()
    weights = [part for layer in adapted.base.actor.layers for part in layer]  # type: ignore[attr-defined]
    before = [part.tobytes() for part in weights]
    play(adapted, stream(60))
    assert adapted.learners[0].updates > 3
    assert [part.tobytes() for part in weights] == before


@pytest.mark.parametrize("spec", [BASE, Half(0.89), Half(0.11), "balance"])
def test_shares_never_leave_the_range(spec: str | Policy) -> None:
    adapted = policy(spec, bound=1.0, step=1.0)
    observations = stream(40) + [1.0 - obs for obs in stream(40)]
    shares = play(adapted, observations)
    assert shares.min() >= 0.1
    assert shares.max() <= 0.9
    assert shares.min() == 0.1 or shares.max() == 0.9


def test_its_state_goes_on_bit_for_bit(tmp_path: Path) -> None:
    observations = stream(90, rows=2)
    whole = policy()
    whole.reset(3)
    play(whole, observations[:45])
    whole.save(tmp_path / "state")
    expected = play(whole, observations[45:])

    restored = policy()
    restored.load(tmp_path / "state")
    assert np.array_equal(play(restored, observations[45:]), expected)
    for mine, other in zip(restored.learners, whole.learners, strict=True):
        for a, b in zip(mine.weights, other.weights, strict=True):
            assert a.tobytes() == b.tobytes()
    untouched = policy()
    assert not np.array_equal(play(untouched, observations[45:]), expected)


def test_a_state_of_other_settings_is_refused(tmp_path: Path) -> None:
    adapted = policy()
    play(adapted, stream(3))
    adapted.save(tmp_path / "state")
    with pytest.raises(CheckpointError, match="other settings"):
        policy(bound=0.1).load(tmp_path / "state")


def test_reset_forgets() -> None:
    observations = stream(40)
    adapted = policy()
    adapted.reset(0)
    first = play(adapted, observations)
    adapted.reset(0)
    assert np.array_equal(play(adapted, observations), first)


def test_a_row_does_not_depend_on_what_runs_beside_it() -> None:
    observations = stream(40, rows=3)
    together = play(policy(), observations)
    alone = play(policy(), [obs[:1] for obs in observations])
    np.testing.assert_allclose(together[:, :1], alone, rtol=0, atol=1e-6)


def test_what_is_not_finite_is_dropped_and_counted() -> None:
    adapted = policy(Half(), guard=False)
    for number, obs in enumerate(stream(40)):
        if number in (10, 25):
            obs[0, 1, NAMES.index("marginal_emb")] = np.nan
        assert np.isfinite(adapted.act(obs)).all()
    learner = adapted.learners[0]
    assert learner.dropped == 2
    assert all(np.isfinite(part).all() for part in learner.weights)


def test_an_update_that_is_not_finite_leaves_the_weights_as_they_were(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from helm_gym.agents.adapter import methods as residual_methods

    adapted = policy(guard=False)
    play(adapted, stream(10))
    learner = adapted.learners[0]
    before, updates = learner.weights, learner.updates
    monkeypatch.setattr(residual_methods, "slope", lambda *_: np.full(NODES, np.inf))
    play(adapted, stream(5, seed=1))
    assert learner.dropped == 5
    assert learner.updates == updates
    assert learner.weights is before


def test_a_larger_deviation_of_p99_makes_a_larger_step() -> None:
    def moved(p99: float) -> float:
        adapted = policy(Half(), guard=False, smoothing=0.0)
        observations = stream(12)
        for obs in observations:
            obs[..., NAMES.index("p99")] = 0.5
        observations[-1][..., NAMES.index("p99")] = p99
        play(adapted, observations[:-1])
        before = adapted.learners[0].weights.b3.copy()
        play(adapted, observations[-1:])
        return float(np.abs(adapted.learners[0].weights.b3 - before)[0])

    assert moved(0.9) > 2.0 * moved(0.5)
    assert moved(0.2) > 1.2 * moved(0.5)


def test_learning_may_be_left_to_somebody_else() -> None:
    adapted = policy(learn=False, guard=False)
    base, observations = make_policy(BASE), stream(30)
    for obs in observations:
        assert np.array_equal(adapted.act(obs), base.act(obs).astype(np.float64))
    adapted.learn()
    inline = policy(guard=False)
    play(inline, observations)
    assert adapted.learners[0].updates == inline.learners[0].updates == len(observations) - 1


@pytest.mark.parametrize("spec", [BASE, "balance", "aimd", "static:0.4"])
def test_every_kind_of_base_runs_in_an_environment(spec: str) -> None:
    scenario = Scenario.parse(SMALL, "small")
    (episode,) = run_policy(scenario, make_policy(f"adapted:{spec}"), spec, [0])
    assert np.isfinite(episode.shares).all()


def test_specs_say_what_is_wrong() -> None:
    made = make_policy("adapted(method=none,bound=0.1):balance:gain=0.3")
    assert isinstance(made, AdaptedPolicy)
    assert (made.config.method, made.config.bound) == ("none", 0.1)
    assert made.base.gain == 0.3  # type: ignore[attr-defined]
    for wrong, said in (
        ("adapted", "adapted:BASE"),
        ("adapted:", "adapted:BASE"),
        ("adapted(bound=0.1:balance", "adapted:BASE"),
        ("adapted(bound):balance", "no setting"),
        ("adapted(bond=0.1):balance", "bond"),
        ("adapted(bound=2):balance", "bound"),
        ("adapted:static", "share"),
    ):
        with pytest.raises(ConfigError, match=said):
            make_policy(wrong)


def test_another_number_of_rows_is_refused() -> None:
    adapted = policy()
    play(adapted, stream(2))
    with pytest.raises(PolicyError, match="reset"):
        adapted.act(stream(1, rows=2)[0])


def test_no_torch_is_needed_to_decide_or_to_learn() -> None:
    code = (
        "import sys, numpy as np\n"
        "from helm_gym.evaluation.specs import make_policy\n"
        "p = make_policy('adapted:ppo:released')\n"
        f"for _ in range(12): p.act(np.full((1, 4, {len(NAMES)}), 0.4, np.float32))\n"
        "assert p.learners[0].updates > 0\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_the_stream_is_one_environment_without_resets() -> None:
    adapted = policy()
    env = EmbKvVectorEnv(2, scenario=SMALL, control=adapted.control, observation="extended")
    obs, _ = env.reset(seed=0)
    for _ in range(8):
        obs, *_ = env.step(adapted.act(obs))
    assert [learner.updates for learner in adapted.learners] == [7, 7]


class Mover:
    """Goes toward 0.4 from the share in force, as a trained increment does."""

    control, observation = "per_node", "extended"
    target, follows, longest = 0.4, 0.3, 0.06

    def reset(self, seed: int) -> None:
        pass

    def act(self, obs: Any) -> Any:
        share = obs[..., NAMES.index("emb_share")].astype(np.float64)
        return share + np.clip(self.follows * (self.target - share), -self.longest, self.longest)


def last_share(learner: AdaptedPolicy) -> float:
    """Where a stream ends in which the marginals ask for EMB for ever, share fed back."""
    seen, share = stream(1)[0].copy(), 0.4
    for _ in range(200):
        seen[..., NAMES.index("emb_share")] = share
        share = float(learner.act(seen).mean())
    return share


def test_a_residual_on_moves_shifts_where_they_rest_and_does_not_add_up() -> None:
    """Each decision begins at a share that has all earlier residuals in it."""
    adapted = policy(Mover(), guard=False)
    assert adapted.config.reach == MOVED
    rest = Mover.target + MOVED.bound / Mover.follows
    assert Mover.target + 0.01 < last_share(adapted) <= rest + 1e-9
    # The reach that suits a policy that names shares runs to the end of the range here.
    assert last_share(policy(Mover(), guard=False, **NAMED._asdict())) == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("spec", "reach"),
    [
        ("static:0.5", NAMED),
        ("balance", MOVED),
        ("hysteresis", MOVED),
        ("ppo:released", MOVED),
        ("ppo:released-continuous", MOVED),
        ("anchored(at=0.4):ppo:released", MOVED),
        ("recovery:static:0.5", NAMED),
        ("dqn:released", MOVED),
        ("sac:released", NAMED),
        ("recurrent-ppo:released", NAMED),
    ],
)
def test_reach_is_by_whether_the_base_moves_the_share(spec: str, reach: Reach) -> None:
    base = make_policy(spec)
    assert policy(base).config.reach == reach
    given = policy(base, bound=0.1, step=0.002).config.reach
    assert given == Reach(bound=0.1, step=0.002)


def test_a_reach_without_a_base_says_what_to_do() -> None:
    with pytest.raises(ConfigError, match=r"reaching\(base\)"):
        _ = ResidualConfig().reach
