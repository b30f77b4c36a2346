"""What each learning algorithm needs: how it is made, collects and learns, resumes, is exported.

Training, checkpoints and model files ask an :class:`Algorithm` and know no more of SB3's classes
than they have in common. Between two rounds an algorithm's whole state is in its model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.vec_env import VecEnv

from helm_gym.agents.training.hyperparameters import (
    DqnHyperparameters,
    Hyperparameters,
    OffPolicy,
    RecurrentHyperparameters,
    SacHyperparameters,
    Settings,
)
from helm_gym.agents.training.monitor import Watch
from helm_gym.agents.training.plan import Plan
from helm_gym.agents.training.sb3.exploration import CoherentPolicy
from helm_gym.agents.training.sb3.learning import OPTIMIZER, ChoicePpo
from helm_gym.errors import ConfigError

S = TypeVar("S", bound=Settings)
Arrays = dict[str, NDArray[Any]]
REPLAY = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


class Algorithm(ABC):
    """One algorithm; ``model`` is always what its :meth:`make` returned."""

    learned: tuple[str, ...] = ()
    """Names of SB3's log that the curve shows."""

    def check(self) -> None:  # noqa: B027  (most need nothing special)
        """Raise a :class:`ConfigError` if what it needs is not installed."""

    @abstractmethod
    def make(self, plan: Plan, env: VecEnv) -> Any:
        """SB3's model with a plan's settings; seeds all random generators."""

    @abstractmethod
    def play_round(self, model: Any, env: VecEnv, watch: Watch, settings: Settings) -> None:
        """Play ``settings.n_steps`` windows on every row, and learn."""

    def get_state(self, model: Any) -> dict[str, Any]:
        """What a checkpoint needs besides the policy's weights and what all algorithms have."""
        return {"optimizer": model.policy.optimizer.state_dict()}

    def set_state(self, model: Any, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`get_state`."""
        model.policy.optimizer.load_state_dict(state["optimizer"])

    @abstractmethod
    def actor(self, model: Any) -> Arrays:
        """Weights of what decides, as ``agents/models/trained.py`` runs it."""


class Ppo(Algorithm):
    """Proximal policy optimisation (Schulman et al. 2017, arXiv:1707.06347)."""

    learned = (
        "train/approx_kl", "train/explained_variance", "train/std", "train/value_loss",
        "train/entropy_loss", "train/learning_rate",
    )  # fmt: skip

    def make(self, plan: Plan, env: VecEnv) -> Any:
        """SB3's PPO, learning as :class:`ChoicePpo` does where that can be."""
        settings = _of(Hyperparameters, plan)
        arguments = _ppo_arguments(plan, settings, env)
        kind = ChoicePpo if settings.action == "choice" else PPO
        arguments["policy_kwargs"]["optimizer_kwargs"] = OPTIMIZER
        if not settings.coherence:
            return kind("MlpPolicy", env, **arguments)
        arguments["policy_kwargs"] |= {
            "nodes": plan.scenario.nodes,
            "coherence": settings.coherence,
        }
        return kind(CoherentPolicy, env, **arguments)

    def play_round(self, model: Any, env: VecEnv, watch: Watch, settings: Settings) -> None:
        """One rollout and one update."""
        model.collect_rollouts(env, watch, model.rollout_buffer, model.n_steps)
        model._update_current_progress_remaining(model.num_timesteps, model._total_timesteps)
        model.train()

    def actor(self, model: Any) -> Arrays:
        """Layers that lead to the mean action."""
        return _layers([*model.policy.mlp_extractor.policy_net, model.policy.action_net])


class RecurrentPpo(Ppo):
    """PPO with an LSTM before the actor, and one before the critic, of sb3-contrib."""

    def check(self) -> None:
        """Raise a :class:`ConfigError` if sb3-contrib is not installed."""
        _recurrent_class()

    def make(self, plan: Plan, env: VecEnv) -> Any:
        """sb3-contrib's RecurrentPPO."""
        settings = _of(RecurrentHyperparameters, plan)
        arguments = _ppo_arguments(plan, settings, env)
        arguments["policy_kwargs"]["lstm_hidden_size"] = settings.lstm_size
        return _recurrent_class()("MlpLstmPolicy", env, **arguments)

    def get_state(self, model: Any) -> dict[str, Any]:
        """As for PPO, and what the LSTMs remember of the running episodes."""
        states = model._last_lstm_states
        lstm = [[part.clone() for part in pair] for pair in (states.pi, states.vf)]
        return {**super().get_state(model), "lstm": lstm}

    def set_state(self, model: Any, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`get_state`."""
        super().set_state(model, state)
        kind = type(model._last_lstm_states)
        model._last_lstm_states = kind(*(tuple(pair) for pair in state["lstm"]))

    def actor(self, model: Any) -> Arrays:
        """The actor's LSTM, whose two biases always come as their sum, and PPO's layers."""
        lstm = model.policy.lstm_actor
        bias = lstm.bias_ih_l0 + lstm.bias_hh_l0
        found = {"lstm_in": lstm.weight_ih_l0, "lstm_state": lstm.weight_hh_l0, "lstm_bias": bias}
        return {**{name: _array(value) for name, value in found.items()}, **super().actor(model)}


class OffPolicyAlgorithm(Algorithm):
    """What SAC and DQN share: a round is many short stretches, each followed by learning."""

    def play_round(self, model: Any, env: VecEnv, watch: Watch, settings: Settings) -> None:
        """Play ``train_every`` windows and take ``gradient_steps``, until the round is over."""
        assert isinstance(settings, OffPolicy)
        for _ in range(settings.n_steps // settings.train_every):
            model.collect_rollouts(
                env,
                callback=watch,
                train_freq=model.train_freq,
                replay_buffer=model.replay_buffer,
                learning_starts=model.learning_starts,
                log_interval=None,
            )
            if model.num_timesteps > model.learning_starts:
                model.train(settings.gradient_steps, settings.batch_size)

    def get_state(self, model: Any) -> dict[str, Any]:
        """Optimizers, the filled part of the buffer, and the generator of random decisions."""
        buffer = model.replay_buffer
        filled = buffer.buffer_size if buffer.full else buffer.pos
        return {
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers(model)],
            "replay": {name: getattr(buffer, name)[:filled] for name in REPLAY},
            "replay_position": [buffer.pos, buffer.full],
            "random_actions": model.action_space.np_random.bit_generator.state,
        }

    def set_state(self, model: Any, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`get_state`."""
        for optimizer, kept in zip(self._optimizers(model), state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        buffer = model.replay_buffer
        for name in REPLAY:
            getattr(buffer, name)[: len(state["replay"][name])] = state["replay"][name]
        buffer.pos, buffer.full = state["replay_position"]
        model.action_space.np_random.bit_generator.state = state["random_actions"]

    @abstractmethod
    def _optimizers(self, model: Any) -> Sequence[torch.optim.Optimizer]:
        """All of them, always in the same order."""


class Sac(OffPolicyAlgorithm):
    """Soft actor-critic (Haarnoja et al. 2018, arXiv:1812.05905)."""

    learned = ("train/actor_loss", "train/critic_loss", "train/ent_coef", "train/learning_rate")

    def make(self, plan: Plan, env: VecEnv) -> Any:
        """SB3's SAC."""
        s = _of(SacHyperparameters, plan)
        return SAC(
            "MlpPolicy",
            env,
            tau=s.tau,
            ent_coef=s.ent_coef,
            target_entropy=s.target_entropy,
            **_off_policy_arguments(plan, s, env),
        )

    def get_state(self, model: Any) -> dict[str, Any]:
        """As for all of its kind, and the entropy's weight where that is learned."""
        weight = model.log_ent_coef
        kept = None if weight is None else weight.detach().clone()
        return {**super().get_state(model), "log_ent_coef": kept}

    def set_state(self, model: Any, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`get_state`."""
        super().set_state(model, state)
        if model.log_ent_coef is not None:
            with torch.no_grad():
                model.log_ent_coef.copy_(state["log_ent_coef"])

    def actor(self, model: Any) -> Arrays:
        """Layers that lead to the mean, before it is squashed."""
        return _layers([*model.actor.latent_pi, model.actor.mu])

    def _optimizers(self, model: Any) -> Sequence[torch.optim.Optimizer]:
        found = [model.actor.optimizer, model.critic.optimizer]
        return found if model.ent_coef_optimizer is None else [*found, model.ent_coef_optimizer]


class Dqn(OffPolicyAlgorithm):
    """Deep Q-network (Mnih et al. 2015, Nature 518) over HELM's seven steps."""

    learned = ("train/loss", "train/learning_rate", "rollout/exploration_rate")

    def make(self, plan: Plan, env: VecEnv) -> Any:
        """SB3's DQN, exploring row by row."""
        s = _of(DqnHyperparameters, plan)
        return RowwiseDqn(
            "MlpPolicy",
            env,
            target_update_interval=s.target_update_interval,
            exploration_fraction=s.exploration_fraction,
            exploration_final_eps=s.exploration_final_eps,
            max_grad_norm=s.max_grad_norm,
            **_off_policy_arguments(plan, s, env),
        )

    def get_state(self, model: Any) -> dict[str, Any]:
        """As for all of its kind, and what counts towards targets and exploration."""
        exploration = {"calls": model._n_calls, "exploration_rate": model.exploration_rate}
        return {**super().get_state(model), **exploration}

    def set_state(self, model: Any, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`get_state`."""
        super().set_state(model, state)
        model._n_calls, model.exploration_rate = state["calls"], state["exploration_rate"]

    def actor(self, model: Any) -> Arrays:
        """Layers that lead to the values of the seven steps."""
        return _layers(model.q_net.q_net)

    def _optimizers(self, model: Any) -> Sequence[torch.optim.Optimizer]:
        return [model.policy.optimizer]


class RowwiseDqn(DQN):
    """DQN whose rows explore on their own.

    SB3 throws one coin per window for all rows: nodes of a cluster would all wander at once, so
    that nothing is learned of a single one's step.
    """

    def predict(
        self,
        observation: Any,
        state: tuple[NDArray[Any], ...] | None = None,
        episode_start: NDArray[Any] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[Any], tuple[NDArray[Any], ...] | None]:
        """The best step of every row, or a random one for those that explore."""
        best, state = self.policy.predict(observation, state, episode_start, deterministic)
        if deterministic:
            return best, state
        space = self.action_space
        random = space.np_random.integers(space.n, size=len(best))  # type: ignore[attr-defined]
        explores = space.np_random.random(len(best)) < self.exploration_rate
        return np.where(explores, random, best), state


_ALGORITHMS: Mapping[str, Algorithm] = {
    "ppo": Ppo(),
    "recurrent-ppo": RecurrentPpo(),
    "sac": Sac(),
    "dqn": Dqn(),
}


def algorithm_of(name: str) -> Algorithm:
    """The algorithm with a key of ``hyperparameters.CLASSES``."""
    return _ALGORITHMS[name]


def _recurrent_class() -> Any:
    try:
        from sb3_contrib import RecurrentPPO
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"recurrent-ppo needs {error.name}: pip install sb3-contrib, in the version of "
            "stable-baselines3, or pip install 'helm-gym[train]'"
        ) from None
    return RecurrentPPO


def _of(kind: type[S], plan: Plan) -> S:
    assert isinstance(plan.settings, kind), f"{plan.algorithm} with {type(plan.settings).__name__}"
    return plan.settings


class LinearDecay:
    """A learning rate that falls in a line over training.

    Args:
        start: at the beginning.
        end: when all decisions are made.
    """

    def __init__(self, start: float, end: float) -> None:
        self.start, self.end = start, end

    def __call__(self, progress_remaining: float) -> float:
        """Rate at ``progress_remaining``, which SB3 counts from 1 down to 0."""
        return self.end + (self.start - self.end) * min(max(progress_remaining, 0.0), 1.0)


def _rate(settings: Settings) -> LinearDecay:
    start = settings.learning_rate
    return LinearDecay(start, start * settings.final_learning_rate)


def _ppo_arguments(plan: Plan, s: Hyperparameters, env: VecEnv) -> dict[str, Any]:
    return {
        "learning_rate": _rate(s),
        "n_steps": s.n_steps,
        "batch_size": s.batch(env.num_envs),
        "n_epochs": s.n_epochs,
        "gamma": s.gamma,
        "gae_lambda": s.gae_lambda,
        "clip_range": s.clip_range,
        "normalize_advantage": s.normalize_advantage,
        "ent_coef": s.ent_coef,
        "vf_coef": s.vf_coef,
        "max_grad_norm": s.max_grad_norm,
        "target_kl": s.target_kl,
        "use_sde": s.use_sde,
        "policy_kwargs": {"net_arch": list(s.net_arch), "log_std_init": s.log_std_init},
        "seed": plan.seed,
        "device": "cpu",
    }


def _off_policy_arguments(plan: Plan, s: OffPolicy, env: VecEnv) -> dict[str, Any]:
    return {
        "learning_rate": _rate(s),
        "buffer_size": s.buffer_size,
        "learning_starts": s.learning_starts,
        "batch_size": s.batch(env.num_envs),
        "gamma": s.gamma,
        "train_freq": s.train_every,
        "gradient_steps": s.gradient_steps,
        "policy_kwargs": {"net_arch": list(s.net_arch)},
        "seed": plan.seed,
        "device": "cpu",
    }


def _layers(modules: Any) -> Arrays:
    """``weight0``, ``bias0``, ``weight1``, ... of the linear layers."""
    linear = [module for module in modules if isinstance(module, torch.nn.Linear)]
    found: Arrays = {}
    for number, module in enumerate(linear):
        found[f"weight{number}"] = _array(module.weight)
        found[f"bias{number}"] = _array(module.bias)
    return found


def _array(tensor: torch.Tensor) -> NDArray[Any]:
    return np.array(tensor.detach().cpu().numpy())
