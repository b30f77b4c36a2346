"""PPO settings as data: ``ppo.yaml`` keyed by environment id and control, validated."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from typing import Any, Literal

import yaml
from pydantic import Field

from helm_gym.errors import ConfigError, nearest
from helm_gym.quantity import Frozen

Control = Literal["cluster", "node", "per_node"]
KEYS: dict[str, str] = {
    "cluster": "helm_gym/EmbKvAllocation-v0",
    "node": "helm_gym/EmbKvAllocation-v0:node",
    "per_node": "helm_gym/EmbKvAllocationPerNode-v0",
}
"""Key in ``ppo.yaml`` of every control."""
LARGEST_BATCH = 4096


class Hyperparameters(Frozen):
    """One entry of ``ppo.yaml``; the file says where each value comes from."""

    # What is simulated at a time, and how much in all.
    updates: int = Field(gt=0)  # rollouts, each followed by an update, until training ends
    clusters: int = Field(gt=0)  # simulated side by side
    n_steps: int = Field(gt=0)  # windows of every row between two updates
    # What the network decides and sees (agents/view.py).
    action: Literal["target", "increment", "residual"] = "target"
    base: str = "balance:gain=0.6,bias=0.05"  # spec of the rule that a residual corrects
    bound: float = Field(default=0.2, gt=0, le=1)  # largest correction or increment, EMB share
    context: bool = False  # rows of nodes also see the mean over their cluster's nodes
    group: int = Field(default=1, gt=0)  # clusters that share a request stream; 1 pairs none
    # Which of the policies that training passes through becomes the model (agents/validation.py).
    validate_every: int = Field(default=0, ge=0)  # updates; 0: the last policy, whatever it is
    validation_clusters: int = Field(default=8, gt=0)
    # PPO proper, named as in Stable-Baselines3.
    batch_size: int | None = Field(default=None, gt=1)  # None: see best_batch
    n_epochs: int = Field(default=10, gt=0)
    learning_rate: float = Field(default=3e-4, gt=0)
    final_learning_rate: float = Field(default=0.1, ge=0, le=1)  # as a part of learning_rate
    gamma: float = Field(default=0.9, ge=0, le=1)
    gae_lambda: float = Field(default=0.95, ge=0, le=1)
    clip_range: float = Field(default=0.2, gt=0)
    normalize_advantage: bool = True
    ent_coef: float = Field(default=0.0, ge=0)
    vf_coef: float = Field(default=0.5, ge=0)
    max_grad_norm: float = Field(default=0.5, gt=0)
    target_kl: float | None = Field(default=None, gt=0)
    use_sde: bool = False
    log_std_init: float = -1.0
    net_arch: tuple[int, ...] = (64, 64)  # of the actor and of the critic, which share nothing

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


def best_batch(rollout: int, largest: int = LARGEST_BATCH) -> int:
    """Largest divisor of ``rollout`` that is at most ``largest`` (and at least 2, if there is one).

    Large batches because an update costs mostly per call: see ``sweep_updates``.
    """
    small = [d for d in range(1, int(rollout**0.5) + 1) if rollout % d == 0]
    divisors = [*small, *(rollout // d for d in small)]
    fitting = [d for d in divisors if 2 <= d <= largest]
    return max(fitting) if fitting else rollout


def load_hyperparameters(control: str, changes: Mapping[str, Any] | None = None) -> Hyperparameters:
    """Read the entry for ``control`` from ``ppo.yaml`` and apply ``changes``.

    Args:
        control: ``"cluster"``, ``"node"`` or ``"per_node"``.
        changes: settings to replace.

    Raises:
        ConfigError: an unknown control or setting, with the nearest known one, or a value that
            cannot be used.
    """
    if control not in KEYS:
        raise ConfigError(f"control {control!r} does not exist{nearest(control, KEYS)}")
    key = KEYS[control]
    return Hyperparameters.parse({**shipped_entries()[key], **(changes or {})}, f"ppo {key}")


def shipped_entries() -> dict[str, dict[str, Any]]:
    """All entries of ``ppo.yaml``."""
    text = resources.files("helm_gym.agents").joinpath("ppo.yaml").read_text("utf-8")
    entries: dict[str, dict[str, Any]] = yaml.safe_load(text)
    return entries
