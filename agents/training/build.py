"""From a plan to what trains on it: environment, model, validator."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from gymnasium.vector import AutoresetMode

from helm_gym.agents.sb3_vec_env import Sb3VecEnv
from helm_gym.agents.training.plan import Plan
from helm_gym.agents.training.sb3.agent_env import AgentVecEnv
from helm_gym.agents.training.sb3.algorithms import algorithm_of
from helm_gym.agents.training.scenarios import Part
from helm_gym.agents.training.validation import FIRST_SEED, Validator
from helm_gym.envs.mixture import MixtureVectorEnv
from helm_gym.envs.vector_env import EmbKvVectorEnv
from helm_gym.suites.splits import VALIDATION


def make_env(
    plan: Plan, threads: int | None = None, validate: bool = False, allow: Collection[str] = ()
) -> AgentVecEnv:
    """The environment of a plan, as the network sees it.

    Args:
        plan: what the run was asked to train.
        threads: simulator threads; up to two by default.
        validate: to choose weights on, not to train on.
        allow: classes, as ``module:Class``, that may be imported as the rule to correct.
    """
    settings = plan.settings
    threads = threads or min(2, _cores())
    group = 1 if validate else settings.group
    if plan.training_set is not None:
        known = plan.training_set
        mixture = _mixture(plan, known.validation if validate else known.training, threads)
        return AgentVecEnv(Sb3VecEnv(mixture, info_keys=()), plan.view(), group, allow)
    vector_env = EmbKvVectorEnv(
        settings.validation_clusters if validate else settings.clusters,
        scenario=plan.scenario,
        control=plan.control,
        observation=plan.observation,
        reward=plan.reward,
        autoreset_mode=AutoresetMode.SAME_STEP,
        threads=threads,
    )
    return AgentVecEnv(Sb3VecEnv(vector_env, info_keys=()), plan.view(), group, allow)


def _mixture(plan: Plan, parts: Sequence[Part], threads: int) -> MixtureVectorEnv:
    envs = [
        EmbKvVectorEnv(
            part.clusters,
            scenario=part.load(),
            control=plan.control,
            observation=plan.observation,
            reward=plan.reward,
            autoreset_mode=AutoresetMode.SAME_STEP,
            threads=threads if len(parts) == 1 else 1,
        )
        for part in parts
    ]
    return MixtureVectorEnv(envs, threads)


def make_model(plan: Plan, env: AgentVecEnv) -> Any:
    """SB3's model of a plan, with its settings; seeds all random generators."""
    return algorithm_of(plan.algorithm).make(plan, env)


def make_validator(
    plan: Plan, threads: int | None = None, allow: Collection[str] = ()
) -> Validator:
    """Validation as the plan has it; see :func:`make_env`."""
    every, first_seed = plan.settings.validate_every, FIRST_SEED
    if plan.training_set is not None:
        every = every if plan.training_set.validation else 0
        first_seed = VALIDATION.seeds.start
    env = make_env(plan, threads, True, allow) if every else None
    return Validator(env, plan.scenario.episode.steps, every, first_seed)


@contextmanager
def torch_threads(wanted: int) -> Iterator[None]:
    """Let torch use so many threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(wanted)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
