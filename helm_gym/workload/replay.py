"""A real log as the request source: items become shards, users become interest groups."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from helm_gym.config import Scenario


@dataclass(frozen=True)
class ReplayLog:
    """A log ready for the kernels; ``user`` is None for a trace of arrival instants only."""

    time: NDArray[np.float64]  # (R,) s from 0, not decreasing, compressed
    period_s: float  # the log starts again after this
    user: NDArray[np.int32] | None = None  # (R,)
    first: NDArray[np.uint8] | None = None  # (R,) 1 for the first request of a session
    group: NDArray[np.int16] | None = None  # (users,)
    history: NDArray[np.int32] | None = None  # (users,) tokens before the log, or None
    weights: NDArray[np.float64] | None = None  # (G + 1, S) look-up probabilities

    @property
    def n_users(self) -> int:
        """Distinct users; ids run from 0."""
        return 0 if self.group is None else int(self.group.size)


def load_replay(scenario: Scenario, rng: np.random.Generator) -> ReplayLog:
    """Read, check and compress the log that a scenario replays."""
    raise NotImplementedError
