"""Candidates of ``helm:best``: a planned share first, then how far the base may leave it.

It is what a site does from offline capacity planning: sweep the share as ``static:best`` does, then
ask whether following the base around the best one pays. ``follow=0`` is a fixed share, so a search
that ends there says that the base was of no use.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from helm_gym.baselines.static import share_grid

FOLLOWS = (0.25, 0.5, 0.75, 0.9)
"""At the best share. Less than 1 ties the base to it; with 0.9 a deviation halves in 33 s."""
ASIDE = 0.05
"""One step of the grid; the base leans one way, so the best place to follow from lies beside."""
SIDEWAYS = ((-ASIDE, 0.5), (ASIDE, 0.5), (-ASIDE, 0.9))
"""Where beside it, and how far the base is followed from there; it leans toward EMB. The base
alone, ``follow=1``, is no candidate: it lost to a fixed share in all cells looked at."""


class Candidate(NamedTuple):
    """One setting of ``helm`` that the search tries."""

    anchor: float
    follow: float

    @property
    def spec(self) -> str:
        """How it is written."""
        return f"helm:anchor={self.anchor:g},follow={self.follow:g},adapter=off"


def anchors(low: float, high: float) -> list[Candidate]:
    """The shares of ``static:best``, none of them followed from."""
    return [Candidate(share, 0.0) for share in share_grid(low, high)]


def around(tails: Mapping[str, float], low: float, high: float) -> list[Candidate]:
    """What is tried once the planned shares are known.

    Args:
        tails: what the search minimises, by spec of :func:`anchors`.
        low: lowest share allowed.
        high: highest share allowed.
    """
    best = min(anchors(low, high), key=lambda candidate: tails[candidate.spec]).anchor
    beside = [Candidate(round(best + aside, 4), follow) for aside, follow in SIDEWAYS]
    return [
        *(Candidate(best, follow) for follow in FOLLOWS),
        *(candidate for candidate in beside if low <= candidate.anchor <= high),
    ]
