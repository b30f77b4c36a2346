"""One share, then another one: what a single move at the right moment would gain.

A yardstick, like the best static share: whoever plays it knows both shares and the moment. The
search for them is :mod:`helm_gym.evaluation.one_move`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from helm_gym.baselines.rule import Fraction, Rule
from helm_gym.envs.reading import Floats, Signals

Decisions = Annotated[int, Field(ge=0)]


@dataclass(kw_only=True)
class OneMove(Rule):
    """Holds ``first``, and goes to ``then`` from some decision on, by ``max_move`` a decision.

    It sees nothing and decides for the whole cluster unless ``control`` says otherwise, which
    changes nothing: all rows get the same share.

    Args:
        first: EMB share before; clusters are warmed up with it.
        then: EMB share after.
        after: decisions that ``first`` is held for.
    """

    NAME: ClassVar[str] = "one-move"

    first: Fraction = 0.5
    then: Fraction = 0.5
    after: Decisions = 0
    _clock: int = field(default=0, init=False, repr=False)  # decisions made

    @property
    def initial_share(self) -> float:
        """Its clusters are warmed up with the share that they begin with."""
        return self.first

    def begin(self, seen: Signals) -> None:
        """The first decision comes next."""
        self._clock = 0

    def target(self, seen: Signals) -> Floats:
        """The share of the moment."""
        share = self.first if self._clock < self.after else self.then
        self._clock += 1
        return np.full(len(seen.share), share)
