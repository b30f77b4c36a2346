"""Write ``model.zip``: what SB3 saves, and what a policy needs without SB3."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from helm_gym.agents.hyperparameters import TITLES
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
    path: Path,
    model: Any,
    actor: Mapping[str, NDArray[Any]],
    plan: Plan,
    stopped: str,
    chosen_at: int,
    versions: Mapping[str, str],
) -> Card:
    """Write the model file, whole or not at all.

    Args:
        path: where to.
        model: SB3's, with the weights to keep.
        actor: the weights of what decides, as arrays.
        plan: what was trained.
        stopped: why training ended.
        chosen_at: decisions after which the model had these weights.
        versions: of the packages that trained it.

    Returns:
        The card that it carries.
    """
    view = plan.view()
    card = Card(
        algorithm=plan.algorithm,
        view=view,
        label=label(view, plan),
        run=plan.digest(),
        scenario=plan.trained_on[0],
        scenario_digest=plan.trained_on[1],
        decisions=model.num_timesteps,
        chosen_at=chosen_at,
        seed=plan.seed,
        stopped=stopped,
        versions=dict(versions),
    )
    saved = io.BytesIO()
    model.save(saved)
    with zipfile.ZipFile(saved, "a") as archive:
        for name, content in model_entries(card, actor).items():
            archive.writestr(name, content)
    with replacing(path) as file:
        file.write(saved.getvalue())
    return card


def label(view: View, plan: Plan) -> str:
    """What a policy is, in a table's words; a residual never passes for a policy of its own."""
    rows = {"cluster": "", "node": " per node", "per_node": ", all nodes"}
    name = TITLES[plan.algorithm] + rows[view.control]
    return f"{name}, correcting {view.base}" if view.action == "residual" else name
