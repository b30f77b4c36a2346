"""Two rules that were published while this package was written, as we read them.

Neither paper is about a pool that embeddings and KV share, so both rules are readings: what moves
the boundary is theirs, the signals and the step are ours.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from helm_gym.baselines.rule import CONTROLS, Count, Fraction, Grid, Positive, Rule
from helm_gym.envs.reading import FULLEST, SMALL, Floats, Signals

Factor = Annotated[float, Field(ge=1, allow_inf_nan=False)]
Power = Annotated[float, Field(ge=0, le=2)]


@dataclass(kw_only=True)
class Wisp(Rule):
    """Equal marginal latency per byte, with a dead zone and a floor for KV.

    Our reading of WiSP (arXiv 2606.21868). Both ghosts look equally many bytes far, so their
    seconds saved compare as seconds per byte. A second saved shortens more latency where a queue
    is: it counts over the time that its stage has left, to the power ``queue``. The boundary moves
    one step toward the side whose next byte saves more, unless the two lie within ``factor``.
    No observation says how much KV the hot users need, so the floor is a fixed part of the pool.

    Args:
        factor: ratio of the two values up to which nothing moves.
        step: share per decision.
        floor: part of the pool that KV always keeps.
        queue: 0 compares seconds of work, 2 the derivative of an M/G/1 queue's wait.
    """

    NAME: ClassVar[str] = "wisp"
    SEARCH: ClassVar[Grid] = {
        "factor": (1.2, 1.5, 2.0),
        "step": (0.02, 0.06),
        "floor": (0.1, 0.3),
        "control": CONTROLS,
    }

    factor: Factor = 1.5
    step: Fraction = 0.06
    floor: Fraction = 0.1
    queue: Power = 1.0

    def target(self, seen: Signals) -> Floats:
        """One step toward the more valuable side, but not into the floor."""
        emb = np.log(self._value(seen.marginal_emb, seen.link))
        kv = np.log(self._value(seen.marginal_kv, seen.gpu))
        moving = np.abs(emb - kv) > np.log(self.factor)
        share = seen.share + self.step * np.sign(emb - kv) * moving
        return np.asarray(np.minimum(share, 1.0 - self.floor))

    def _value(self, marginal: Floats, utilisation: Floats) -> Floats:
        left = 1.0 - np.minimum(utilisation, FULLEST)
        return np.asarray(np.maximum(marginal, SMALL) / left**self.queue)


@dataclass(kw_only=True)
class Vamp(Rule):
    """It acts on an event only: KV that was evicted is asked for again.

    Our reading of VAMP (arXiv 2609.13537). Such requests are what KV's ghost counts, in seconds of
    work that they cost anew. A window in which they cost more than ``event`` is an event, and KV
    gets a step. After ``quiet`` windows in a row without one EMB gets a step back, and the count
    begins anew. Nothing else is looked at, neither EMB misses nor latency.

    Args:
        event: s of work per s for KV evicted too early, above which a window is an event. Some KV
            comes back at every share, so this is where the rule rests, and it depends on the site.
        step: share that an event gives to KV.
        back: share that a quiet stretch gives to EMB.
        quiet: windows of such a stretch.
    """

    NAME: ClassVar[str] = "vamp"
    SEARCH: ClassVar[Grid] = {
        "event": (0.01, 0.015, 0.02, 0.025, 0.03, 0.04),
        "quiet": (1, 2),
        "control": CONTROLS,
    }

    event: Positive = 0.03
    step: Fraction = 0.06
    back: Fraction = 0.02
    quiet: Count = 1
    _calm: Floats = field(init=False, repr=False)  # (R,) windows without an event so far

    def begin(self, seen: Signals) -> None:
        """No quiet stretch has begun."""
        self._calm = np.zeros(self._rows)

    def move(self, seen: Signals) -> Floats:
        """A step to KV on an event, a step to EMB after a quiet stretch, else none."""
        event = seen.marginal_kv > self.event
        self._calm = np.where(event, 0.0, self._calm + 1.0)
        ready = self._calm >= self.quiet
        self._calm = np.where(ready, 0.0, self._calm)
        return np.asarray(np.where(event, -self.step, self.back * ready))
