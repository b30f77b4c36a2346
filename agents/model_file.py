"""Write ``model.zip``: what SB3 saves, and what a policy needs without SB3."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from stable_baselines3 import PPO

from helm_gym.agents.policy import Card, model_entries
from helm_gym.agents.run_folder import Plan
from helm_gym.agents.view import View
from helm_gym.files import replacing


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


def save_model(
    path: Path, model: PPO, plan: Plan, stopped: str, chosen_at: int, versions: Mapping[str, str]
) -> Card:
    """Write the model file, whole or not at all.

    Args:
        path: where to.
        model: with the weights to keep.
        plan: what was trained.
        stopped: why training ended.
        chosen_at: decisions after which the model had these weights.
        versions: of the packages that trained it.

    Returns:
        The card that it carries.
    """
    view = plan.view()
    card = Card(
        view=view,
        label=label(view, plan),
        run=plan.digest(),
        scenario=plan.scenario.name,
        scenario_digest=plan.scenario.digest(),
        decisions=model.num_timesteps,
        chosen_at=chosen_at,
        seed=plan.seed,
        stopped=stopped,
        versions=dict(versions),
    )
    saved = io.BytesIO()
    model.save(saved)
    with zipfile.ZipFile(saved, "a") as archive:
        for name, content in model_entries(card, actor_layers(model)).items():
            archive.writestr(name, content)
    with replacing(path) as file:
        file.write(saved.getvalue())
    return card


def label(view: View, plan: Plan) -> str:
    """What a policy is, in a table's words; a residual never passes for a policy of its own."""
    name = {"cluster": "PPO", "node": "PPO per node", "per_node": "PPO, all nodes"}[view.control]
    return f"{name}, correcting {view.base}" if view.action == "residual" else name


def actor_layers(model: PPO) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """Weights and biases of the layers that lead to the mean action."""
    modules = [*model.policy.mlp_extractor.policy_net, model.policy.action_net]
    linear = [module for module in modules if isinstance(module, torch.nn.Linear)]
    return [
        (m.weight.detach().cpu().numpy().copy(), m.bias.detach().cpu().numpy().copy())
        for m in linear
    ]
