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


class Found(NamedTuple):
    """What a spec of this search says."""

    anchor: float | None  # None: it ties the base to nothing
    follow: float


def spec_of(anchor: float, follow: float) -> str:
    """Spec of a candidate."""
    return f"helm:anchor={anchor:g},follow={follow:g},adapter=off"


def found_of(spec: str) -> Found:
    """Anchor and follow that a spec of ``helm`` has."""
    pairs = (pair.partition("=") for pair in spec.partition(":")[2].split(","))
    written = {name.strip(): value for name, _, value in pairs}
    if "anchor" not in written:
        return Found(None, 1.0)
    return Found(float(written["anchor"]), float(written.get("follow", "nan")))


def anchors(low: float, high: float) -> list[str]:
    """The shares of ``static:best``, none of them followed from."""
    return [spec_of(share, 0.0) for share in share_grid(low, high)]


def around(tails: Mapping[str, float], low: float, high: float) -> list[str]:
    """What is tried once the planned shares are known.

    Args:
        tails: what the search minimises, by spec of :func:`anchors`.
        low: lowest share allowed.
        high: highest share allowed.
    """
    best = found_of(min(tails, key=lambda spec: tails[spec])).anchor
    assert best is not None
    beside = [(round(best + aside, 4), follow) for aside, follow in SIDEWAYS]
    return [
        *(spec_of(best, follow) for follow in FOLLOWS),
        *(spec_of(share, follow) for share, follow in beside if low <= share <= high),
    ]
