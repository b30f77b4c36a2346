"""A policy that is tied to a planned share: the spec ``anchored(at=0.35,follow=0.5):BASE``.

Offline capacity planning says which share suits a site; a policy that was trained elsewhere says
which way to move now. What is put into force lies between the two:

    share = at + follow * (share of the base - at)

Of a base that names shares, ``follow`` is the part of its deviation from the plan that is
believed. A base that moves the share in force, as ``ppo:released`` does, is blended in the same
way, and then the share comes home: without a further move, ``follow`` of the deviation is left at
the next decision. A base that asks for the same move for ever ends follow / (1 - follow) such moves
from the plan (one at 0.5, three at 0.75) in place of at the end of the range, so a constant error
of the base costs little and a passing signal is followed. The base sees the share in force.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from helm_gym.agents.models.card import share_range
from helm_gym.config.quantity import Frozen
from helm_gym.policy import Policy, Wrapper

Array = NDArray[Any]


class Anchor(Frozen):
    """What a site sets; docs/controller.md says how to find it."""

    at: float = Field(ge=0, le=1)
    # 0 is a fixed share, 1 the base. Of 0.25, 0.5, 0.75 and 0.9 none is best in all cells of an
    # earlier suite (tuning seeds); 0.5 is near the best where the plan is right.
    follow: float = Field(default=0.5, ge=0, le=1)

    @property
    def ties(self) -> bool:
        """Whether it changes anything."""
        return self.follow < 1.0

    def blend(self, shares: Array) -> Array:
        """Shares between the plan and those of the base; of the same shape."""
        return np.asarray(self.at + self.follow * (np.asarray(shares, np.float64) - self.at))


class AnchoredPolicy(Wrapper):
    """Lets a policy decide, and stays near a planned share.

    Its clusters are warmed up with the planned share; with ``follow=1`` it is the base. The anchor
    itself has no memory.

    Args:
        base: the policy, of any control and observation.
        anchor: planned share, and how far the base is followed.
    """

    def __init__(self, base: Policy, anchor: Anchor) -> None:
        super().__init__(base)
        self.anchor = anchor
        self.low, self.high = share_range(base, 0.0, 1.0)

    @property
    def initial_share(self) -> float | None:
        """The planned share, where it ties the base."""
        return self.anchor.at if self.anchor.ties else super().initial_share

    def act(self, obs: Array) -> Array:
        """Shares of the base's shape, within its range."""
        shares = self.base.act(obs)
        if not self.anchor.ties:
            return shares
        return np.clip(self.anchor.blend(shares), self.low, self.high)
