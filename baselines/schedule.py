"""A fixed schedule of EMB shares, one per window: what hindsight finds, as a file and a policy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from helm_gym._version import __version__
from helm_gym.config.quantity import Frozen
from helm_gym.errors import ConfigError
from helm_gym.files import write_text

Array = NDArray[Any]
Share = Annotated[float, Field(ge=0, le=1)]


class Schedule(Frozen):
    """Shares by window, and for which requests they were found."""

    scenario: str
    scenario_digest: str
    seed: int
    objective: str
    initial_share: Share  # that clusters are warmed up with
    shares: tuple[Share, ...] = Field(min_length=1)
    helm_gym: str = __version__

    @classmethod
    def load(cls, path: str | Path) -> Schedule:
        """Read a file that :meth:`save` wrote, or the result of ``helm-gym hindsight``.

        Raises:
            ConfigError: it cannot be read, or is no schedule.
        """
        try:
            data = json.loads(Path(path).read_text("utf-8"))
        except OSError as error:
            raise ConfigError(f"schedule {path}: {error.strerror or error}") from None
        except ValueError as error:
            raise ConfigError(f"schedule {path}: not JSON ({error})") from None
        if not isinstance(data, dict):
            raise ConfigError(f"schedule {path}: needs an object with initial_share and shares")
        return cls.parse(data.get("schedule", data), "schedule")

    def save(self, path: Path) -> None:
        """Write it as JSON; numbers keep every bit."""
        write_text(path, json.dumps(self.model_dump(mode="json"), indent=1) + "\n")


class SchedulePolicy:
    """Plays a schedule, whatever it sees; all rows and nodes get the same share.

    Args:
        schedule: what to play, or the file that holds it.

    Raises:
        ConfigError: the file cannot be read, or is no schedule.
    """

    control = "cluster"
    observation = "paper7"

    def __init__(self, schedule: Schedule | str | Path) -> None:
        found = schedule if isinstance(schedule, Schedule) else Schedule.load(schedule)
        self.schedule = found
        self.initial_share = found.initial_share
        self._window = 0

    def reset(self, seed: int) -> None:
        """Go back to the first window."""
        self._window = 0

    def state(self) -> dict[str, Any]:
        """Which window comes next."""
        return {"window": self._window}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state` gave."""
        self._window = state["window"]

    def act(self, obs: Array) -> Array:
        """The next window's share for every row: (rows, F) to (rows, 1)."""
        shares = self.schedule.shares
        if self._window >= len(shares):
            raise ConfigError(
                f"the schedule ends after {len(shares)} windows, but the episode goes on; it was "
                f"found for {self.schedule.scenario!r}"
            )
        share = shares[self._window]
        self._window += 1
        return np.full((len(obs), 1), share)
