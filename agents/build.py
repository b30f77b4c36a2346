"""From a plan to what trains on it: environment, model, validator."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from stable_baselines3 import PPO

from helm_gym.agents.agent_env import AgentVecEnv
from helm_gym.agents.model_file import LinearDecay
from helm_gym.agents.run_folder import Plan
from helm_gym.agents.sb3_vec_env import Sb3VecEnv
from helm_gym.agents.validation import Validator
from helm_gym.envs.vector_env import EmbKvVectorEnv


def make_env(plan: Plan, threads: int | None = None, validate: bool = False) -> AgentVecEnv:
    """The environment of a plan, as the network sees it; to train, or to validate on."""
    settings = plan.settings
    vector_env = EmbKvVectorEnv(
        settings.validation_clusters if validate else settings.clusters,
        scenario=plan.scenario,
        control=plan.control,
        observation=plan.observation,
        reward=plan.reward,
        threads=threads or min(2, _cores()),
    )
    group = 1 if validate else settings.group
    return AgentVecEnv(Sb3VecEnv(vector_env, info_keys=()), plan.view(), group)


def make_model(plan: Plan, env: AgentVecEnv) -> PPO:
    """SB3's PPO with a plan's settings; seeds all random generators."""
    s = plan.settings
    return PPO(
        "MlpPolicy",
        env,
        learning_rate=LinearDecay(s.learning_rate, s.learning_rate * s.final_learning_rate),
        n_steps=s.n_steps,
        batch_size=s.batch(env.num_envs),
        n_epochs=s.n_epochs,
        gamma=s.gamma,
        gae_lambda=s.gae_lambda,
        clip_range=s.clip_range,
        normalize_advantage=s.normalize_advantage,
        ent_coef=s.ent_coef,
        vf_coef=s.vf_coef,
        max_grad_norm=s.max_grad_norm,
        target_kl=s.target_kl,
        use_sde=s.use_sde,
        policy_kwargs={"net_arch": list(s.net_arch), "log_std_init": s.log_std_init},
        seed=plan.seed,
        device="cpu",
    )


def make_validator(plan: Plan, threads: int | None = None) -> Validator:
    """Validation as the plan has it."""
    every = plan.settings.validate_every
    env = make_env(plan, threads, validate=True) if every else None
    return Validator(env, plan.scenario.episode.steps, every)


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
