"""The feedback rule: give memory to whichever of the two stages is busier.

KV misses load the GPU and EMB misses load the link, so a link that is busier than the GPU asks
for a larger EMB share, and the other way round. Per decision the share moves by

    clip(gain * (link utilisation - GPU utilisation + bias), -max_move, +max_move)

Utilisations are those of the last window, as the ``extended`` observation shows them (cut at 2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from helm_gym.baselines.rule import Finite, Grid, Positive, Rule
from helm_gym.envs.reading import Floats, Signals


@dataclass(kw_only=True)
class Balance(Rule):
    """Moves the share toward the busier stage.

    Args:
        gain: change of the share per unit of difference between the utilisations.
        bias: difference at which it rests: GPU utilisation less link utilisation. A positive one
            leans toward EMB.
    """

    NAME: ClassVar[str] = "balance"
    SEARCH: ClassVar[Grid] = {
        "control": ("cluster", "node"),
        "gain": (0.3, 0.6, 1.2),
        "bias": (0.0, 0.05, 0.1, 0.2),
    }

    control: Literal["cluster", "node"] = "node"
    gain: Positive = 0.6  # share per utilisation; tuned in the feasibility study
    bias: Finite = 0.05  # utilisation; tuned in the feasibility study

    def move(self, seen: Signals) -> Floats:
        """In proportion to how much busier the link is."""
        return self.gain * (seen.link - seen.gpu + self.bias)
