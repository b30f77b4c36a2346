"""Burst recovery around environments and policies."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from small import REGIMES, small_scenario

from helm_gym.agents.layers.recovered import RecoveredPolicy
from helm_gym.config.scenario import Scenario
from helm_gym.envs.recovery import BurstRecovery, VectorBurstRecovery
from helm_gym.envs.recovery_machine import Stage
from helm_gym.envs.single_env import EmbKvEnv
from helm_gym.envs.vector_env import EmbKvVectorEnv
from helm_gym.envs.wrappers import DeltaAction, VectorDeltaAction
from helm_gym.errors import CheckpointError, ConfigError, InvalidAction
from helm_gym.evaluation.specs import make_policy
from helm_gym.runs.rollout import run_policy

NERVOUS: dict[str, Any] = {  # alarms within a few short windows
    "warm_up": 1, "rate_sigmas": 0.5, "rate_slack": 0.0, "rate_least_sd": 0.05,
    "burst_grow": 0.01, "burst_shrink": 0.02, "burst_pace": 0.0, "longest_s": 1.0,
}  # fmt: skip


@pytest.fixture
def bursting() -> Scenario:
    regime = {**REGIMES["burst"], "amplitude": 6}
    return small_scenario(**{"workload.regime": regime, "episode.steps": 25})


def agent(observations: Any, shape: tuple[int, ...], step: int) -> Any:
    """Shares that jump about, the same for the same step."""
    return np.random.default_rng(step).uniform(0.2, 0.8, shape)


@pytest.mark.parametrize("control", ["cluster", "per_node", "node"])
def test_a_burst_bounds_moves_and_refill(bursting: Scenario, control: str) -> None:
    env = VectorBurstRecovery(EmbKvVectorEnv(2, scenario=bursting, control=control), config=NERVOUS)
    obs, _ = env.reset(seed=3)
    base: Any = env.unwrapped
    stages = set()
    for step in range(24):
        before = base.shares
        obs, *_ = env.step(agent(obs, env.action_space.shape or (), step))
        burst = (env.stages == Stage.BURST).reshape(2, -1)
        stages |= set(env.stages.tolist())
        moved = np.broadcast_to(burst, before.shape)
        change = (base.shares - before)[moved]
        assert (change <= 0.01 + 1e-9).all() and (change >= -0.02 - 1e-9).all()
        assert (base.refill_pace[moved] == 0.0).all()
        if not moved.any() and not (env.stages == Stage.RECOVER).any():
            assert (base.refill_pace == 1.0).all()
    assert stages == set(Stage)


@pytest.mark.parametrize("mode", ["NextStep", "SameStep", "Disabled"])
def test_a_reset_forgets_in_every_autoreset_mode(bursting: Scenario, mode: str) -> None:
    env = VectorBurstRecovery(
        EmbKvVectorEnv(2, scenario=bursting.replace({"episode.steps": 5}), autoreset_mode=mode),
        config=NERVOUS,
    )
    obs, _ = env.reset(seed=1)
    seen = []
    for step in range(12):
        obs, _, _, truncated, _ = env.step(agent(obs, (2, 1), step))
        seen.append(int(env._recovery.machines.state[0, 2]))
        if truncated.all() and mode == "Disabled":
            env.reset(seed=2)
            seen[-1] = int(env._recovery.machines.state[0, 2])
    expected = {
        "NextStep": [1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5, 0],
        "SameStep": [1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1, 2],
        "Disabled": [1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1, 2],
    }
    assert seen == expected[mode]


def test_a_masked_reset_forgets_only_its_rows(bursting: Scenario) -> None:
    env = VectorBurstRecovery(EmbKvVectorEnv(2, scenario=bursting, autoreset_mode="Disabled"))
    env.reset(seed=1)
    for _ in range(3):
        env.step(np.full((2, 1), 0.5))
    env.reset(options={"reset_mask": np.array([True, False])})
    assert env._recovery.machines.state[:, 2].tolist() == [0.0, 3.0]


@pytest.mark.parametrize("control", ["cluster", "per_node"])
def test_the_wrapper_the_single_wrapper_and_the_policy_agree(
    bursting: Scenario, control: str
) -> None:
    class Jumpy:
        observation = "paper7"

        def __init__(self) -> None:
            self.control, self.step = control, 0

        def reset(self, seed: int) -> None:
            self.step = 0

        def act(self, obs: Any) -> Any:
            assert obs.shape[-1] == 7
            self.step += 1
            return agent(obs, (1, 3 if control == "per_node" else 1), self.step)

    from helm_gym.envs.recovery_config import RecoveryConfig

    config = RecoveryConfig.parse(NERVOUS, "test")
    step_s = bursting.episode.step_s
    episode = run_policy(bursting, RecoveredPolicy(Jumpy(), config, step_s), "x", [7])[0]
    for single in (False, True):
        env: Any = (
            BurstRecovery(EmbKvEnv(bursting, control=control), config=NERVOUS)
            if single
            else VectorBurstRecovery(
                EmbKvVectorEnv(1, scenario=bursting, control=control), config=NERVOUS
            )
        )
        env.reset(seed=7)
        base = env.unwrapped.vector_env if single else env.unwrapped
        for step in range(24):  # the last step of a SameStep environment begins another episode
            action = agent(None, (1, 3 if control == "per_node" else 1), step + 1)
            env.step(action[0] if single else action)
            # The policy reads the share in force from an observation, which is float32.
            np.testing.assert_allclose(base.shares[0], episode.shares[step], atol=1e-6)


def test_a_checkpoint_continues_bit_for_bit(bursting: Scenario) -> None:
    def made() -> VectorBurstRecovery:
        return VectorBurstRecovery(
            EmbKvVectorEnv(2, scenario=bursting, control="node"), config=NERVOUS
        )

    env, other = made(), made()
    obs, _ = env.reset(seed=5)
    for step in range(9):
        obs, *_ = env.step(agent(obs, (6, 1), step))
    other.set_state(env.get_state())
    for step in range(9, 30):
        one, two = (e.step(agent(None, (6, 1), step)) for e in (env, other))
        np.testing.assert_array_equal(one[0], two[0])
        np.testing.assert_array_equal(one[1], two[1])
        np.testing.assert_array_equal(env.stages, other.stages)
    single, again = (BurstRecovery(EmbKvEnv(bursting)) for _ in range(2))
    single.reset(seed=1)
    single.step(np.array([0.4]))
    again.set_state(single.get_state())
    assert single.step(np.array([0.6]))[1] == again.step(np.array([0.6]))[1]


def test_foreign_states_are_refused_and_change_nothing(bursting: Scenario) -> None:
    env = VectorBurstRecovery(EmbKvVectorEnv(2, scenario=bursting))
    env.reset(seed=1)
    other = VectorBurstRecovery(EmbKvVectorEnv(2, scenario=bursting), config=NERVOUS)
    other.reset(seed=2)
    before = env.get_state()
    with pytest.raises(CheckpointError, match="settings"):
        env.set_state(other.get_state())
    with pytest.raises(CheckpointError, match="lacks"):
        env.set_state({"env": before["env"]})
    np.testing.assert_array_equal(env.get_state()["env"]["clusters"], before["env"]["clusters"])


def test_wrong_actions_change_nothing(bursting: Scenario) -> None:
    env = VectorBurstRecovery(EmbKvVectorEnv(1, scenario=bursting))
    env.reset(seed=1)
    with pytest.raises(InvalidAction):
        env.step(np.full((1, 1), np.nan))
    assert env._recovery.machines.state[0, 2] == 0.0


def test_the_agents_own_pace_is_kept_between_bursts(bursting: Scenario) -> None:
    env = VectorBurstRecovery(EmbKvVectorEnv(1, scenario=bursting))
    env.reset(seed=1)
    env.set_refill_pace(0.25)
    env.step(np.full((1, 1), 0.5))
    base: Any = env.unwrapped
    assert (base.refill_pace == 0.25).all()


def test_increments_go_around_recovery_and_not_inside(bursting: Scenario) -> None:
    env = VectorDeltaAction(VectorBurstRecovery(EmbKvVectorEnv(1, scenario=bursting)))
    env.reset(seed=1)
    env.step(np.array([5]))
    base: Any = env.unwrapped
    np.testing.assert_allclose(base.shares, 0.54)
    with pytest.raises(ConfigError, match="takes other actions"):
        BurstRecovery(DeltaAction(EmbKvEnv(bursting)))
    with pytest.raises(ConfigError, match='action="share", and put DeltaAction'):
        BurstRecovery(EmbKvEnv(bursting, action="choice"))
    with pytest.raises(ConfigError, match='action="share", and put DeltaAction'):
        VectorBurstRecovery(EmbKvVectorEnv(1, scenario=bursting, action="choice"))
    with pytest.raises(ConfigError, match="wrap an EmbKvEnv"):
        BurstRecovery(gym.make("CartPole-v1"))


def test_specs_wrap_any_base(bursting: Scenario) -> None:
    for spec in ("static:0.4", "balance:control=node", "kv-opt"):
        base, policy = make_policy(spec), make_policy(f"recovery:{spec}")
        assert getattr(policy, "router", None) == getattr(base, "router", None)
        episodes = run_policy(bursting, policy, spec, [1, 2])
        assert np.isfinite(episodes[0].shares).all()
    strict: Any = make_policy("recovery(burst_pace=0.5,p99_sigmas=off):recovery(strict):static:0.4")
    assert (strict.config.burst_pace.value, strict.config.p99_sigmas) == (0.5, None)
    assert strict.base.config.burst_pace.value == 0.0
    for wrong in ("recovery:", "recovery(lean=0.1", "recovery(lean):static:0.4"):
        with pytest.raises(ConfigError, match=r"has no base|is not closed|is no setting"):
            make_policy(wrong)
    with pytest.raises(ConfigError, match="did you mean 'lean'"):
        make_policy("recovery(leen=0.1):static:0.4")


def test_without_a_burst_a_policy_is_untouched() -> None:
    steady = small_scenario(**{"episode.steps": 20, "workload.load": 0.4})
    plain = run_policy(steady, make_policy("balance:control=node"), "plain", [3])[0]
    off = "recovery(p99_sigmas=off,rate_sigmas=off,queue_sum=off):balance:control=node"
    recovered = run_policy(steady, make_policy(off), "recovered", [3])[0]
    np.testing.assert_array_equal(plain.shares, recovered.shares)
    assert plain.figures == recovered.figures
