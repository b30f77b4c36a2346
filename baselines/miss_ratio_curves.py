"""Miss-ratio curves: know the whole curve of each cache, and go where their sum is lowest.

The real thing samples the raw stream of references. SHARDS (Waldspurger et al., "Efficient MRC
Construction with SHARDS", FAST 2015) keeps the keys whose hash lies below a threshold and their
reuse distances: one pass, every cache size at once, about 1 MB at 8,192 samples, and errors of the
miss ratio around 0.01. A policy here sees no keys, only the size it is at. What is lost: sizes
never visited are extrapolated; a cliff beyond the ghost's reach is invisible; and a change of the
mix spoils the points seen before, until they are forgotten.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from helm_gym.baselines.rule import CONTROLS, Fraction, Grid, Positive, Rule, share_points
from helm_gym.envs.reading import GHOST, SMALL, Floats, Signals, delay

POINTS = share_points(0.05)  # (K,) shares at which curves are kept
FAINT = 1e-3  # weight of a window far from its share: extrapolation counts until something is seen
TIE = 1e-6  # per share: of equally good shares the nearest


def lower_hull(curves: Floats) -> Floats:
    """Greatest convex curves below (..., K) ones on a uniform grid: the lowest chord everywhere."""
    k = np.arange(curves.shape[-1])
    i, j, g = k[:, None, None], k[None, :, None], k
    inside = (i <= g) & (g <= j)
    weight = np.where(inside, (g - i) / np.maximum(j - i, 1), 0.0)
    left, right = curves[..., :, None, None], curves[..., None, :, None]
    chords = np.where(inside, (1.0 - weight) * left + weight * right, np.inf)
    return np.asarray(chords.min(axis=(-3, -2)))


@dataclass(kw_only=True)
class MissRatioCurves(Rule):
    """The share with the least expected miss cost on two convexified curves.

    Curves as in SHARDS, made convex as in Talus (Beckmann & Sanchez, "Talus: A Simple Way to Remove
    Cliffs in Cache Performance", HPCA 2015). Adapted: a curve is a stage's seconds of work per
    request over the EMB share. Each window says its value where the share is, and its slope by the
    ghost; beyond, it is continued as an exponential, which is convex and stays positive. Talus
    *reaches* the hull by splitting a cache in two; ours cannot be split, so the hull only keeps the
    argmin out of dents that noise or a cliff makes. A miss costs more where a queue is: work counts
    over the time that its stage has left, as in an M/G/1 queue. The bare sum of seconds, minimised,
    saturates one stage to relieve the other.

    Args:
        ghost: how much share a marginal value stands for.
        keep: weight that a window keeps per decision.
        reach: distance in share at which a window's word is worth 0.6.
    """

    NAME: ClassVar[str] = "mrc"
    SEARCH: ClassVar[Grid] = {
        "keep": (0.0, 0.3, 0.6),
        "reach": (0.1, 0.2, 0.3),
        "control": CONTROLS,
    }

    ghost: Positive = GHOST
    keep: Fraction = 0.3
    reach: Positive = 0.2
    _curves: Floats = field(init=False, repr=False)  # (R, 2, K) s per nominal request: link, GPU
    _weight: Floats = field(init=False, repr=False)  # (R, 1, K)

    def begin(self, seen: Signals) -> None:
        """No curve is known."""
        self._curves = np.zeros((self._rows, 2, len(POINTS)))
        self._weight = np.zeros((self._rows, 1, len(POINTS)))

    def target(self, seen: Signals) -> Floats:
        """Take in the window, then go to the lowest sum."""
        away = POINTS - seen.share[:, None]  # (R, K)
        fresh = np.maximum(np.exp(-0.5 * (away / self.reach) ** 2), FAINT)[:, None]
        old = self.keep * self._weight
        told = self._continued(seen, away)
        self._weight = old + fresh
        self._curves = (old * self._curves + fresh * told) / self._weight
        cost = delay(lower_hull(self._curves) * seen.rate[:, None, None]).sum(axis=1)
        cost = cost + TIE * np.abs(away)
        return np.asarray(POINTS[cost.argmin(axis=1)])

    def _continued(self, seen: Signals, away: Floats) -> Floats:
        """(R, 2, K) seconds per request at every point, by value and slope at the share."""
        work = np.maximum(seen.work(), SMALL)
        bend = (seen.slopes(self.ghost) / work)[:, :, None] * away[:, None]
        return np.asarray(work[:, :, None] * np.exp(np.clip(bend, -5.0, 5.0)))
