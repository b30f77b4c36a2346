"""What classical policies have in common: settings that are checked, rows, and how far a move goes.

A rule is a dataclass. Its fields are the settings that a spec may name, its ``SEARCH`` the values
that ``NAME:best`` tries, and it decides only where each row should go. Here that becomes a policy:
observations are named, the move is limited, and shapes are those of the protocol.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, ClassVar, Literal, get_type_hints

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter, ValidationError

from helm_gym.envs.reading import PRESET, Floats, Signals, read
from helm_gym.errors import ConfigError

Array = NDArray[Any]
Value = float | str
Grid = Mapping[str, tuple[Value, ...]]

Finite = Annotated[float, Field(allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Move = Annotated[float, Field(gt=0, le=1)]

MAX_MOVE = 0.06  # share per decision; HELM's largest increment
LOW, HIGH = 0.1, 0.9  # shares that grids span; HELM's range
CONTROLS = ("node", "cluster")


@dataclass(kw_only=True)
class Rule:
    """A policy that moves each row's share toward a target.

    Args:
        control: ``node``, each node by its own signals; ``cluster``, one share by the cluster's.
        max_move: longest move per decision.

    Raises:
        ConfigError: a setting is out of its range.
    """

    NAME: ClassVar[str]
    SEARCH: ClassVar[Grid] = {}
    observation: ClassVar[str] = PRESET

    control: Literal["cluster", "node"] = "cluster"
    max_move: Move = MAX_MOVE
    _rows: int = field(default=0, init=False, repr=False)  # rows whose state is kept; 0: none is

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self), include_extras=True)
        for setting in fields(self):
            if not setting.init:
                continue
            given = getattr(self, setting.name)
            try:
                value = TypeAdapter(hints[setting.name]).validate_python(given)
            except ValidationError as error:
                reason = error.errors()[0]["msg"]
                raise ConfigError(f"{self.NAME}: {setting.name}={given!r}: {reason}") from None
            setattr(self, setting.name, value)

    def reset(self, seed: int) -> None:
        """Forget everything; the next decision begins the episode of its rows."""
        self._rows = 0

    def act(self, obs: Array) -> Array:
        """Choose shares: (rows, F) to (rows, 1), or (rows, M, F) to (rows, M)."""
        seen = read(obs)
        if len(seen.share) != self._rows:
            self._rows = len(seen.share)
            self.begin(seen)
        move = np.clip(self.move(seen), -self.max_move, self.max_move)
        return np.clip(seen.share + move, 0.0, 1.0).reshape(len(obs), -1)

    def state(self) -> dict[str, Any]:
        """What the rule remembers of its rows: a copy of all fields that are no settings."""
        if not self._rows:
            return {"_rows": 0}
        return {f.name: deepcopy(getattr(self, f.name)) for f in fields(self) if not f.init}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state` gave, bit for bit."""
        for name, value in state.items():
            setattr(self, name, deepcopy(value))

    def begin(self, seen: Signals) -> None:
        """Set up the state of every row, from the window before its first decision."""

    def move(self, seen: Signals) -> Floats:
        """(R,) changes of the rows' shares, before they are limited; asked once per decision."""
        return self.target(seen) - seen.share

    def target(self, seen: Signals) -> Floats:
        """(R,) shares that the rows should have, for a rule that does not override :meth:`move`."""
        raise NotImplementedError


def share_points(step: float) -> Floats:
    """(K,) shares from LOW to HIGH, ``step`` apart or a little less."""
    return np.linspace(LOW, HIGH, round(np.ceil((HIGH - LOW) / step - 1e-9)) + 1)
