"""SB3's PPO with the same arithmetic in fewer and cheaper calls: its networks are small.

A gradient step on 768 choices is about a millisecond of arithmetic, of which SB3 makes five: it
gathers every mini-batch array by array, builds a graph over all layers and losses, allocates
what each yields again and again, and clips parameter by parameter. Here an epoch is gathered once,
layers write into arrays that stay, and their gradients are written out by hand. Weights differ
from SB3's by rounding alone, which ``tests/agents/training/test_learning.py`` shows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.utils import explained_variance
from torch import Tensor, nn

from helm_gym.agents.training.sb3.losses import LOGGED, choice_losses, squash, unsquash

OPTIMIZER: dict[str, Any] = {"eps": 1e-5, "fused": True}
"""SB3's settings of Adam, which then steps all parameters in one call."""


class ChoicePpo(PPO):
    """PPO over choices, whose actor and critic are layers of their own with tanh between them.

    That is SB3's ``MlpPolicy`` with flat observations and one index as action; there is no
    ``clip_range_vf``. Arguments are those of SB3's class.
    """

    @torch.no_grad()
    def train(self) -> None:
        """Learn from the rollout buffer, as SB3's method of this name does."""
        policy, limit = self.policy, self.target_kl
        policy.set_training_mode(True)
        self._update_learning_rate(policy.optimizer)
        clip = float(self.clip_range(self._current_progress_remaining))  # type: ignore[operator]
        rule = clip, float(self.ent_coef), float(self.vf_coef), bool(self.normalize_advantage)
        gradients = _flat_gradients(policy.parameters())
        extractor: Any = policy.mlp_extractor
        actor = Layers([*extractor.policy_net, policy.action_net])
        critic = Layers([*extractor.value_net, policy.value_net])
        logs: list[list[dict[str, float]]] = []  # of every epoch's mini-batches
        while len(logs) < self.n_epochs:
            logs.append([])
            for batch in self._mini_batches():
                logs[-1].append(_differentiate(actor, critic, batch, rule))
                if limit is not None and logs[-1][-1]["approx_kl"] > 1.5 * limit:
                    break
                _clip_norm(gradients, self.max_grad_norm)
                policy.optimizer.step()
            self._n_updates += 1
            if limit is not None and logs[-1][-1]["approx_kl"] > 1.5 * limit:
                break
        self._record(logs, clip)

    def _mini_batches(self) -> Iterator[tuple[Tensor, ...]]:
        """One epoch in mini-batches, shuffled as SB3's buffer does it."""
        (epoch,) = self.rollout_buffer.get(None)
        yield from zip(*(torch.split(part, self.batch_size) for part in epoch), strict=True)

    def _record(self, logs: list[list[dict[str, float]]], clip: float) -> None:
        """Log what SB3 logs: means, the last epoch's divergence, and the loss of the last step."""
        steps = [step for epoch in logs for step in epoch]
        means = {name: float(np.mean([step[name] for step in steps])) for name in LOGGED}
        means["approx_kl"] = float(np.mean([step["approx_kl"] for step in logs[-1]]))
        means["loss"] = steps[-1]["loss"]
        buffer = self.rollout_buffer
        known = explained_variance(buffer.values.flatten(), buffer.returns.flatten())
        means["explained_variance"] = float(known)
        for name, value in means.items():
            self.logger.record(f"train/{name}", value)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/clip_range", clip)


class Layers:
    """Linear layers with tanh between them, whose outputs keep their place in memory.

    Args:
        modules: the layers; what is not linear between them is tanh.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._linear = [module for module in modules if isinstance(module, nn.Linear)]
        self._kept: list[Tensor] = []  # outputs of all layers
        self._seen: list[Tensor] = []  # what every layer saw

    def forward(self, rows: Tensor) -> Tensor:
        """(N, outputs) of (N, inputs), overwritten by the next call."""
        if not self._kept or len(self._kept[0]) != len(rows):
            self._kept = [rows.new_empty(len(rows), o.out_features) for o in self._linear]
        self._seen = [rows, *self._kept]
        for layer, before, after in zip(self._linear, self._seen, self._kept, strict=False):
            torch.addmm(layer.bias, before, layer.weight.t(), out=after)
            if layer is not self._linear[-1]:
                squash(after.numpy())
        return self._kept[-1]

    def backward(self, gradient: Tensor) -> None:
        """Write the parameters' gradients of a loss, from its (N, outputs) gradient."""
        for number in reversed(range(len(self._linear))):
            layer, seen = self._linear[number], self._seen[number]
            torch.mm(gradient.t(), seen, out=layer.weight.grad)
            torch.sum(gradient, 0, out=layer.bias.grad)
            if number:
                gradient = torch.mm(gradient, layer.weight)
                unsquash(gradient.numpy(), seen.numpy())


def _differentiate(
    actor: Layers, critic: Layers, batch: tuple[Tensor, ...], rule: tuple[float, float, float, bool]
) -> dict[str, float]:
    """Write the gradients of a mini-batch, SB3's ``RolloutBufferSamples``; return its losses."""
    observations, choices, _, *others = batch
    logits, values = actor.forward(observations), critic.forward(observations)
    by_logits, by_values = torch.empty_like(logits), torch.empty_like(values)
    known = (choices.numpy(), *(other.numpy() for other in others))
    told = np.empty(len(LOGGED))
    choice_losses(
        logits.numpy(), values.numpy(), known, rule, by_logits.numpy(), by_values.numpy(), told
    )
    actor.backward(by_logits)
    critic.backward(by_values)
    return dict(zip(LOGGED, told.tolist(), strict=True))


def _flat_gradients(parameters: Iterable[nn.Parameter]) -> Tensor:
    """Gradients of all parameters, as views of the one array that is returned."""
    known = list(parameters)
    sizes = [parameter.numel() for parameter in known]
    flat = torch.zeros(sum(sizes))
    for parameter, piece in zip(known, torch.split(flat, sizes), strict=True):
        parameter.grad = piece.view_as(parameter)
    return flat


def _clip_norm(gradients: Tensor, largest: float) -> None:
    """Scale gradients down to a norm, as ``torch.nn.utils.clip_grad_norm_`` does."""
    gradients.mul_((largest / (gradients.norm() + 1e-6)).clamp(max=1.0))
