"""KV-Opt and KV-EMB-Opt: the two static systems that HELM is compared with.

HELM (arXiv 2605.04450) names them without defining them, so both definitions are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from helm_gym.baselines.rule import Fraction, Grid, Rule
from helm_gym.envs.reading import Floats, Signals
from helm_gym.errors import ConfigError

Figures = Mapping[str, Mapping[str, float]]


@dataclass(kw_only=True)
class KvOpt(Rule):
    """Everything for KV: a small fixed EMB share, and requests go where their user's KV is.

    ``router`` replaces the scenario's: a comparison with it is one of systems, not of shares alone.

    Args:
        share: the EMB share.
    """

    NAME: ClassVar[str] = "kv-opt"
    SEARCH: ClassVar[Grid] = {"share": (0.1, 0.15, 0.2)}
    router: ClassVar[str] = "kv_affinity"

    share: Fraction = 0.1

    @property
    def initial_share(self) -> float:
        """Its clusters are warmed up with the share they keep."""
        return self.share

    def target(self, seen: Signals) -> Floats:
        """Stay."""
        return np.full(len(seen.share), self.share)


@dataclass(kw_only=True)
class KvEmbOpt(Rule):
    """Each side optimised alone: EMB gets what its hit-rate curve is worth, KV the rest.

    The EMB side alone would stop at the knee of its curve of hit rate against share; nobody asks
    whether KV would gain more from the same memory. ``kv-emb-opt:best`` measures the curve on
    tuning seeds, with whatever KV the rest leaves, and takes its knee (:func:`knee`).

    Args:
        share: the EMB share; there is no default, since the knee is the scenario's.
    """

    NAME: ClassVar[str] = "kv-emb-opt"

    share: Fraction | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.share is None:
            raise ConfigError(
                "kv-emb-opt needs a share, because the knee of the EMB curve is the scenario's: "
                "write kv-emb-opt:best (measures it) or kv-emb-opt:share=0.3"
            )

    @property
    def initial_share(self) -> float | None:
        """Its clusters are warmed up with the share they keep."""
        return self.share

    def target(self, seen: Signals) -> Floats:
        """Stay."""
        return np.full(len(seen.share), self.share)

    @staticmethod
    def choose(figures: Figures) -> str:
        """Of specs in rising order of share, the one at the knee of the EMB hit rate."""
        specs = list(figures)
        shares = [float(spec.rpartition("=")[2]) for spec in specs]
        hits = [figures[spec]["emb_hit_rate"] for spec in specs]
        return specs[knee(np.array(shares), np.array(hits))]


def knee(x: NDArray[np.float64], y: NDArray[np.float64]) -> int:
    """Index at which a rising curve lies farthest above its chord.

    Kneedle (Satopaa et al., "Finding a 'Kneedle' in a Haystack", ICDCS Workshops 2011) without its
    smoothing and its online threshold: the curve has some 17 points, each the mean of episodes. A
    curve with no rise has its knee at the first point.
    """
    width, height = x[-1] - x[0], y[-1] - y[0]
    if width <= 0.0 or height <= 0.0:
        return 0
    return int(np.argmax((y - y[0]) / height - (x - x[0]) / width))
