"""Settings of the learning algorithms: a YAML file each, by environment id and control, checked."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from typing import Any, Literal

import yaml
from pydantic import Field, model_validator

from helm_gym.config.quantity import Frozen
from helm_gym.errors import ConfigError, nearest

Control = Literal["cluster", "node", "per_node"]
KEYS: dict[str, str] = {
    "cluster": "helm_gym/EmbKvAllocation-v0",
    "node": "helm_gym/EmbKvAllocation-v0:node",
    "per_node": "helm_gym/EmbKvAllocationPerNode-v0",
}
"""Key of every control in the YAML files."""
LARGEST_BATCH = 4096
LARGEST_BUFFER = 100_000  # decisions; a checkpoint holds them, at most some 40 MB


class Settings(Frozen):
    """What the entries of all algorithms have; the files say where each value comes from."""

    # What is simulated at a time, and how much in all.
    updates: int = Field(gt=0)  # rounds until training ends: windows, learning, a row of the curve
    clusters: int = Field(gt=0)  # simulated side by side
    n_steps: int = Field(gt=0)  # windows of every row in a round
    # What the network decides and sees (agents/models/view.py).
    action: Literal["target", "increment", "residual", "choice"] = "target"
    base: str = "balance:gain=0.6,bias=0.05"  # spec of the rule that a residual corrects
    bound: float = Field(default=0.2, gt=0, le=1)  # largest correction or increment, EMB share
    context: bool = False  # rows of nodes also see the mean over their cluster's nodes
    group: int = Field(default=1, gt=0)  # clusters that share a request stream; 1 pairs none
    # Which of the policies that training passes through becomes the model (validation.py).
    validate_every: int = Field(default=0, ge=0)  # rounds; 0: the last policy, whatever it is
    validation_clusters: int = Field(default=8, gt=0)
    # What all of them call the same, named as in Stable-Baselines3.
    learning_rate: float = Field(default=3e-4, gt=0)
    final_learning_rate: float = Field(default=0.1, ge=0, le=1)  # as a part of learning_rate
    gamma: float = Field(default=0.9, ge=0, le=1)
    net_arch: tuple[int, ...] = (64, 64)  # of the actor and of the critic, which share nothing

    def batch(self, rows: int) -> int:
        """Mini-batch size with so many rows."""
        raise NotImplementedError


class Hyperparameters(Settings):
    """One entry of ``ppo.yaml``."""

    coherence: float = Field(default=0.0, ge=0, le=1)  # of nodes' exploration (exploration.py)
    batch_size: int | None = Field(default=None, gt=1)  # None: see best_batch
    n_epochs: int = Field(default=10, gt=0)
    gae_lambda: float = Field(default=0.95, ge=0, le=1)
    clip_range: float = Field(default=0.2, gt=0)
    normalize_advantage: bool = True
    ent_coef: float = Field(default=0.0, ge=0)
    vf_coef: float = Field(default=0.5, ge=0)
    max_grad_norm: float = Field(default=0.5, gt=0)
    target_kl: float | None = Field(default=None, gt=0)
    use_sde: bool = False
    log_std_init: float = -1.0

    @model_validator(mode="after")
    def _choices_have_no_spread(self) -> Hyperparameters:
        if self.use_sde and (self.action == "choice" or self.coherence):
            raise ValueError("use_sde draws numbers of its own: no 'choice' and no coherence")
        return self

    def batch(self, rows: int) -> int:
        """Mini-batch size for a rollout of ``rows * n_steps`` decisions.

        Raises:
            ConfigError: ``batch_size`` does not divide the rollout.
        """
        rollout = rows * self.n_steps
        if self.batch_size is None:
            return best_batch(rollout)
        if rollout % self.batch_size:
            raise ConfigError(
                f"batch_size {self.batch_size} does not divide the rollout of {rows} rows * "
                f"{self.n_steps} steps = {rollout}: the last mini-batch of every epoch would be "
                f"smaller and weigh more. Use {best_batch(rollout, self.batch_size)}"
            )
        return self.batch_size


class RecurrentHyperparameters(Hyperparameters):
    """One entry of ``recurrent_ppo.yaml``; batches are cut from whole sequences."""

    coherence: float = Field(default=0.0, ge=0, le=0)  # its rows explore by themselves
    lstm_size: int = Field(default=32, gt=0)  # of the actor's LSTM and of the critic's own


class OffPolicy(Settings):
    """What SAC and DQN have in common: they learn from a buffer of past decisions."""

    batch_size: int = Field(gt=1)
    buffer_size: int = Field(gt=0, le=LARGEST_BUFFER)  # decisions
    learning_starts: int = Field(ge=0)  # decisions, random ones, before the first gradient step
    train_every: int = Field(default=1, gt=0)  # windows between two times of learning
    gradient_steps: int = Field(gt=0)  # at each of them

    @model_validator(mode="after")
    def _rounds_are_whole(self) -> OffPolicy:
        if self.n_steps % self.train_every:
            raise ValueError(
                f"train_every {self.train_every} does not divide n_steps {self.n_steps}, so a "
                "round would end between two times of learning"
            )
        return self

    def batch(self, rows: int) -> int:
        """Mini-batch size; it depends on no rollout.

        Raises:
            ConfigError: the buffer cannot hold what ``rows`` rows decide in two windows.
        """
        if self.buffer_size < 2 * rows:
            raise ConfigError(
                f"buffer_size {self.buffer_size} holds less than two windows of {rows} rows; use "
                f"at least {2 * rows}, or fewer clusters"
            )
        return self.batch_size


class SacHyperparameters(OffPolicy):
    """One entry of ``sac.yaml``."""

    action: Literal["target", "increment", "residual"] = "target"
    tau: float = Field(default=0.005, gt=0, le=1)  # of the way that targets go at a gradient step
    ent_coef: float | Literal["auto"] = "auto"
    target_entropy: float | Literal["auto"] = "auto"  # auto: minus the number of shares


class DqnHyperparameters(OffPolicy):
    """One entry of ``dqn.yaml``."""

    action: Literal["choice"] = "choice"
    bound: float = Field(default=0.06, gt=0, le=1)  # of the seven steps the largest; HELM's 0.06
    target_update_interval: int = Field(gt=0)  # decisions
    exploration_fraction: float = Field(default=0.3, gt=0, le=1)  # of training, until it is least
    exploration_final_eps: float = Field(default=0.05, ge=0, le=1)
    max_grad_norm: float = Field(default=10.0, gt=0)


CLASSES: Mapping[str, type[Settings]] = {
    "ppo": Hyperparameters,
    "recurrent-ppo": RecurrentHyperparameters,
    "sac": SacHyperparameters,
    "dqn": DqnHyperparameters,
}
"""Settings of every algorithm."""


def best_batch(rollout: int, largest: int = LARGEST_BATCH) -> int:
    """Largest divisor of ``rollout`` that is at most ``largest`` (and at least 2, if there is one).

    Large batches because an update costs mostly per call: see ``sweep_updates``.
    """
    small = [d for d in range(1, int(rollout**0.5) + 1) if rollout % d == 0]
    divisors = [*small, *(rollout // d for d in small)]
    fitting = [d for d in divisors if 2 <= d <= largest]
    return max(fitting) if fitting else rollout


def settings_class(algorithm: str) -> type[Settings]:
    """Class of an algorithm's settings.

    Raises:
        ConfigError: there is no such algorithm; the message has the nearest.
    """
    if algorithm not in CLASSES:
        raise ConfigError(f"algorithm {algorithm!r} does not exist{nearest(algorithm, CLASSES)}")
    return CLASSES[algorithm]


def load_hyperparameters(
    control: str, changes: Mapping[str, Any] | None = None, algorithm: str = "ppo"
) -> Settings:
    """Read an algorithm's entry for ``control`` and apply ``changes``.

    Args:
        control: ``"cluster"``, ``"node"`` or ``"per_node"``.
        changes: settings to replace.
        algorithm: a key of :data:`CLASSES`.

    Raises:
        ConfigError: an unknown algorithm, control or setting, with the nearest known one, an
            algorithm that has nothing for the control, or a value that cannot be used.
    """
    kind = settings_class(algorithm)
    if control not in KEYS:
        raise ConfigError(f"control {control!r} does not exist{nearest(control, KEYS)}")
    key, entries = KEYS[control], shipped_entries(algorithm)
    if key not in entries:
        others = " or ".join(name for name, other in KEYS.items() if other in entries)
        raise ConfigError(
            f"{algorithm} has no settings for control {control!r}; use --control {others}, or "
            "--algorithm ppo"
        )
    return kind.parse({**entries[key], **(changes or {})}, f"{algorithm} {key}")


def shipped_entries(algorithm: str = "ppo") -> dict[str, dict[str, Any]]:
    """All entries of an algorithm's YAML file."""
    name = f"{algorithm.replace('-', '_')}.yaml"
    text = resources.files("helm_gym.agents.training").joinpath(name).read_text("utf-8")
    entries: dict[str, dict[str, Any]] = yaml.safe_load(text)
    return entries
