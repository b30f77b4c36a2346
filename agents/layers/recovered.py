"""A policy with burst recovery around it: the spec ``recovery:BASE``."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from helm_gym.envs.observation import FEATURES
from helm_gym.envs.recovery import Machines
from helm_gym.envs.recovery_config import STEP_S, RecoveryConfig
from helm_gym.errors import ConfigError
from helm_gym.policy import Policy, refill_pace_of, view_of

Array = NDArray[Any]
PRESET = "extended"
_SHARE = [feature.name for feature in FEATURES[PRESET]].index("emb_share")


def read_settings(written: str) -> RecoveryConfig:
    """Settings as a spec has them: nothing, ``strict``, or ``name=value`` parted by commas.

    Raises:
        ConfigError: a pair cannot be read, or a setting does not exist or has a wrong value.
    """
    if written.strip() == "strict":
        return RecoveryConfig.strict()
    found: dict[str, float | None] = {}
    for pair in written.split(",") if written.strip() else ():
        name, equals, value = (part.strip() for part in pair.partition("="))
        try:
            found[name] = None if value == "off" else float(value)
        except ValueError:
            equals = ""
        if not equals:
            raise ConfigError(
                f"recovery({written}): {pair.strip()!r} is no setting; write name=value with a "
                "number, or off for a threshold, or strict alone"
            )
    return RecoveryConfig.parse(found, f"recovery({written})")


class RecoveredPolicy:
    """Lets a policy decide, and overrides it in a burst and after it.

    The machine needs the ``extended`` observation. A base that wants ``paper7`` is handed the first
    seven features of that, which are the same; one that decides node by node (control ``node``) is
    handed the nodes of all clusters as its rows.

    Args:
        base: the policy, of any control.
        config: of the machine.
        step_s: s between decisions.

    Raises:
        ConfigError: the base wants an observation that cannot be had beside the machine's.
    """

    observation = PRESET

    def __init__(
        self, base: Policy, config: RecoveryConfig | None = None, step_s: float = STEP_S
    ) -> None:
        self.base, self.config = base, config or RecoveryConfig()
        control, wanted = view_of(base)
        if wanted not in FEATURES or FEATURES[PRESET][: len(FEATURES[wanted])] != FEATURES[wanted]:
            raise ConfigError(
                f"recovery: its base wants the observation {wanted!r}, but the machine reads "
                f"{PRESET!r}, of which only {', '.join(FEATURES)} can be cut out"
            )
        if not getattr(base, "batched", True):
            raise ConfigError(
                "recovery: its base takes one row at a time (batched = False), and recovery hands "
                "it all of them; let its act() take (rows, F)"
            )
        self._features = len(FEATURES[wanted])
        self._by_node = control == "node"
        self.control = "per_node" if self._by_node else control
        for name in ("initial_share", "router", "card", "names_share"):
            if hasattr(base, name):
                setattr(self, name, getattr(base, name))
        self._params = self.config.lower(step_s)
        self._machines: Machines | None = None
        self.refill_pace: Array | None = None

    @property
    def machines(self) -> Machines | None:
        """What the machine knows, per row; None before the first decision of an episode."""
        return self._machines

    def reset(self, seed: int) -> None:
        """Forget the last episode, and let the base do so."""
        self._machines, self.refill_pace = None, None
        self.base.reset(seed)

    def act(self, obs: Array) -> Array:
        """Shares and :attr:`refill_pace`, the base's unless there is a burst.

        Args:
            obs: (rows, F), or (rows, M, F) with control ``per_node``.
        """
        obs = np.asarray(obs)
        nodes = obs.shape[1] if obs.ndim == 3 else 1
        flat = obs.reshape(-1, obs.shape[-1])
        shape = (len(obs), nodes)
        shown = (flat if self._by_node else obs)[..., : self._features]
        proposed = np.asarray(self.base.act(shown), np.float64).reshape(-1)
        if self._machines is None:
            self._machines = Machines(len(flat), nodes, self._params)
        shares = self._machines.decide(flat, proposed, flat[:, _SHARE])
        own, pace = refill_pace_of(self.base), self._machines.paces.reshape(shape)
        self.refill_pace = pace.copy() if own is None else pace * own
        return np.asarray(shares.reshape(shape))
