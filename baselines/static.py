"""One EMB share for ever: the baseline that every other policy has to beat."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from helm_gym.errors import ConfigError

Array = NDArray[Any]


class StaticPolicy:
    """The same share for all nodes at every decision.

    Its clusters are warmed up with that share too, so that it never has to move.

    Args:
        share: the EMB share, in [0, 1].

    Raises:
        ConfigError: the share lies outside [0, 1].
    """

    control = "cluster"
    observation = "paper7"
    names_share = True

    def __init__(self, share: float) -> None:
        if not 0.0 <= share <= 1.0:
            raise ConfigError(f"a static policy needs an EMB share in [0, 1], got {share:g}")
        self.share = float(share)
        self.initial_share = self.share

    def reset(self, seed: int) -> None:
        """Begin an episode; there is nothing to forget."""

    def act(self, obs: Array) -> Array:
        """Choose the share for every row: (rows, F) to (rows, 1)."""
        return np.full((len(obs), 1), self.share)


def share_grid(low: float, high: float, step: float = 0.05) -> list[float]:
    """Shares from ``low`` to ``high``, both included, rounded to whole hundredths."""
    if not (0.0 <= low <= high <= 1.0 and step > 0.0):
        raise ConfigError(
            f"a grid of shares needs 0 <= low <= high <= 1 and a positive step, got low={low:g}, "
            f"high={high:g}, step={step:g}"
        )
    inner = np.arange(low, high + step / 2, step)
    return sorted({round(float(min(x, high)), 4) for x in (*inner, high)})
