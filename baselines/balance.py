"""The feedback rule: give memory to whichever of the two stages is busier.

KV misses load the GPU and EMB misses load the link, so a link that is busier than the GPU asks
for a larger EMB share, and the other way round. Per decision the share moves by

    clip(gain * (link utilisation - GPU utilisation + bias), -max_move, +max_move)

The bias is in units of utilisation, inside the gain: the rule rests where the GPU is busier than
the link by ``bias``, that is, leaning toward EMB. Utilisations are those of the last window, as the
``extended`` observation shows them (cut at 2).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from helm_gym.envs.observation import FEATURES
from helm_gym.errors import ConfigError, nearest

Array = NDArray[Any]
Control = Literal["cluster", "node"]

GAIN = 0.6  # share per utilisation; tuned in the feasibility study
BIAS = 0.05  # utilisation, toward EMB; tuned in the feasibility study
MAX_MOVE = 0.06  # share per decision; HELM's largest increment
GAINS = (0.3, 0.6, 1.2)
BIASES = (0.0, 0.05, 0.1, 0.2)
"""The grid that :func:`candidates` spans: 12 settings for each control."""


class BalancePolicy:
    """Moves the share toward the busier stage.

    Args:
        gain: change of the share per unit of difference between the utilisations.
        bias: difference at which it rests: GPU utilisation less link utilisation.
        max_move: longest move per decision.
        control: ``node``, each node by its own utilisations; ``cluster``, one share by the means.

    Raises:
        ConfigError: a setting is out of range.
    """

    observation = "extended"

    def __init__(
        self,
        gain: float = GAIN,
        bias: float = BIAS,
        max_move: float = MAX_MOVE,
        control: str = "node",
    ) -> None:
        if control not in get_args(Control):
            raise ConfigError(f"balance: control={control!r}{nearest(control, get_args(Control))}")
        if not (gain > 0.0 and np.isfinite(gain) and np.isfinite(bias) and 0.0 < max_move <= 1.0):
            raise ConfigError(
                f"balance: need gain > 0, a finite bias and 0 < max_move <= 1, got gain={gain!r}, "
                f"bias={bias!r}, max_move={max_move!r}"
            )
        self.gain, self.bias, self.max_move = float(gain), float(bias), float(max_move)
        self.control = control
        names = [feature.name for feature in FEATURES[self.observation]]
        self._share, self._link, self._gpu = (
            names.index(name) for name in ("emb_share", "link_utilisation", "gpu_utilisation")
        )

    def reset(self, seed: int) -> None:
        """Begin an episode; the rule has no memory."""

    def act(self, obs: Array) -> Array:
        """Move every row's share: (..., F) to shares (rows, 1), or (rows, M) for (rows, M, F)."""
        seen = np.asarray(obs, np.float64)
        error = seen[..., self._link] - seen[..., self._gpu] + self.bias
        move = np.clip(self.gain * error, -self.max_move, self.max_move)
        shares = np.clip(seen[..., self._share] + move, 0.0, 1.0)
        return np.asarray(shares.reshape(len(seen), -1))


def candidates(controls: Sequence[str] = get_args(Control)) -> Iterator[str]:
    """Spec of every setting that a grid search tries."""
    for control, gain, bias in product(controls, GAINS, BIASES):
        by = "" if control == "node" else f",control={control}"
        yield f"balance:gain={gain:g},bias={bias:g}{by}"
