"""The card that every model file carries: what trained it, on what, and what it is connected to."""

from __future__ import annotations

from typing import Any, Literal

from helm_gym.agents.models.view import View
from helm_gym.config.quantity import Frozen
from helm_gym.policy import card_of

FORMAT = 1
Algorithm = Literal["ppo", "recurrent-ppo", "sac", "dqn"]
TITLES: dict[str, str] = {
    "ppo": "PPO",
    "recurrent-ppo": "RecurrentPPO",
    "sac": "SAC",
    "dqn": "DQN",
}
"""What a table calls every algorithm; the key also begins the spec of its policies."""


class Card(Frozen):
    """What a model file says of itself."""

    format: int = FORMAT
    algorithm: Algorithm
    view: View
    label: str  # what it is, in words for a table
    run: str  # digest of the training run
    scenario: str  # name of the scenario it was trained on
    scenario_digest: str
    decisions: int  # made in training
    chosen_at: int  # decisions after which the weights were as they are here
    seed: int
    stopped: str  # why training ended
    versions: dict[str, str]


def share_range(policy: Any, low: float, high: float) -> tuple[float, float]:
    """Lowest and highest share that a policy was trained with, or those given."""
    card = card_of(policy)
    return (low, high) if card is None else (card.view.share_min, card.view.share_max)
