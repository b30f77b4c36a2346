"""The vector checker passes our environments and finds planted faults."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode

from helm_gym.config.scenario import Scenario
from helm_gym.envs.checkers import VectorEnvError, check_vector_env, rollout_digest
from helm_gym.envs.single_env import EmbKvEnv
from helm_gym.envs.vector_env import EmbKvVectorEnv


@pytest.mark.parametrize("observation", ["paper7", "extended"])
@pytest.mark.parametrize("control", ["cluster", "per_node", "node"])
def test_our_environment_is_sound(tiny: Scenario, control: str, observation: str) -> None:
    kwargs = {"scenario": tiny, "control": control, "observation": observation}
    single = None if control == "node" else partial(EmbKvEnv, **kwargs)
    check_vector_env(partial(EmbKvVectorEnv, **kwargs), single, steps=14)


class SharedBuffer(EmbKvVectorEnv):
    """Returns the same observation array again and again."""

    buffer: Any = None

    def _observe(self) -> Any:
        seen = super()._observe()
        if self.buffer is None:
            self.buffer = np.zeros_like(seen)
        self.buffer[...] = seen
        return self.buffer


class Aliased(EmbKvVectorEnv):
    """Reads on from the array that it returned."""

    memory: Any = None

    def _observe(self) -> Any:
        seen = super()._observe()
        if self.memory is not None:
            seen[:, 0] = self.memory[:, 0]
        self.memory = seen
        return seen


class SeedsOnNone(EmbKvVectorEnv):
    """Begins every unseeded episode from the same seed."""

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        return super().reset(seed=7 if seed is None and not options else seed, options=options)


class OneSeed(EmbKvVectorEnv):
    """Gives all clusters the same seed."""

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        return super().reset(
            seed=[seed] * self.clusters if isinstance(seed, int) else seed, options=options
        )


class Neighbours(EmbKvVectorEnv):
    """A row sees something of the others."""

    def _observe(self) -> Any:
        seen = super()._observe()
        seen[:, 0] = seen[:, 0].mean()
        return seen


class FinalObservation(EmbKvVectorEnv):
    """Reports the next episode's first observation as the last one's end."""

    def step(self, actions: Any) -> Any:
        observations, rewards, terminated, truncated, infos = super().step(actions)
        if "final_obs" in infos:
            infos["final_obs"] = np.array([*observations, None], dtype=object)[:-1]
        return observations, rewards, terminated, truncated, infos


class PaysForResets(EmbKvVectorEnv):
    """Rewards the step that only resets."""

    def step(self, actions: Any) -> Any:
        resting = self._ended.copy()
        observations, rewards, terminated, truncated, infos = super().step(actions)
        return observations, rewards + resting, terminated, truncated, infos


class WrongMode(EmbKvVectorEnv):
    """Always declares the same mode."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.metadata["autoreset_mode"] = AutoresetMode.SAME_STEP


class WrongSpace(EmbKvVectorEnv):
    """Its batched action space is not that of its rows."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.action_space = Box(0.0, 1.0, (self.num_envs,), np.float32)


class WrongDtype(EmbKvVectorEnv):
    """Returns float32 rewards."""

    def step(self, actions: Any) -> Any:
        observations, rewards, terminated, truncated, infos = super().step(actions)
        return observations, rewards.astype(np.float32), terminated, truncated, infos


class OutOfRange(EmbKvVectorEnv):
    """Leaves its observation space."""

    def _observe(self) -> Any:
        return super()._observe() + 1


class ByThread(EmbKvVectorEnv):
    """Depends on the number of threads."""

    def _observe(self) -> Any:
        return super()._observe() / np.float32(self.simulator.threads)


class StepsPastTheEnd(EmbKvVectorEnv):
    """Goes on after an end although nobody reset it."""

    def _resting(self) -> Any:
        if self.autoreset_mode is AutoresetMode.DISABLED:
            return np.zeros(self.clusters, np.bool_)
        return super()._resting()


@pytest.mark.parametrize(
    ("faulty", "message"),
    [
        (SharedBuffer, "changed later; return copies"),
        (Aliased, "after a caller wrote into returned arrays"),
        (SeedsOnNone, "never seed on None"),
        (OneSeed, "with a list of seeds|alone with seed"),
        (Neighbours, "row 0, event 0 differs alone with seed 7: observation"),
        (FinalObservation, "differs in mode NEXT_STEP: observation"),
        (PaysForResets, "differs in mode NEXT_STEP: reward"),
        (WrongMode, r"metadata\['autoreset_mode'\] is <AutoresetMode.SAME_STEP"),
        (WrongSpace, "action_space is .*use gymnasium.vector.utils.batch_space"),
        (WrongDtype, "rewards are float32 .*; return float64"),
        (OutOfRange, "lie outside observation_space"),
        (ByThread, "differs on two threads: observation"),
        (StepsPastTheEnd, "raise gymnasium.error.ResetNeeded"),
    ],
)
def test_a_planted_fault_is_found(tiny: Scenario, faulty: Any, message: str) -> None:
    with pytest.raises(VectorEnvError, match=message):
        check_vector_env(partial(faulty, scenario=tiny), steps=8)


def test_a_single_environment_that_differs_is_found(tiny: Scenario) -> None:
    other = partial(EmbKvEnv, tiny, overrides={"workload.load": 0.8})
    with pytest.raises(VectorEnvError, match="differs in the single environment with seed 7"):
        check_vector_env(partial(EmbKvVectorEnv, scenario=tiny), other, steps=8)


def test_an_episode_must_end(tiny: Scenario) -> None:
    with pytest.raises(VectorEnvError, match="pass more steps"):
        check_vector_env(partial(EmbKvVectorEnv, scenario=tiny), steps=3)


def test_a_digest_changes_with_the_seed_and_not_with_the_number_of_threads(
    tiny_scenario: dict[str, Any],
) -> None:
    digest = partial(rollout_digest, "helm_gym/EmbKvAllocation-v0", steps=3)
    one = digest({"scenario": tiny_scenario}, seed=1)
    assert len(one) == 64
    assert digest({"scenario": tiny_scenario, "threads": 2}, seed=1) == one
    assert digest({"scenario": tiny_scenario}, seed=2) != one
    assert digest({"scenario": tiny_scenario, "reward": "mean_latency"}, seed=1) != one
