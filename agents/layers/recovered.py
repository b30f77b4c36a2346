"""A policy with burst recovery around it: the spec ``recovery:BASE``."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from helm_gym.envs.observation import FEATURES
from helm_gym.envs.recovery import Machines
from helm_gym.envs.recovery_config import STEP_S, RecoveryConfig
from helm_gym.errors import ConfigError
from helm_gym.policy import Policy, Wrapper, is_batched, refill_pace_of, view_of

Array = NDArray[Any]
PRESET = "extended"
_SHARE = [feature.name for feature in FEATURES[PRESET]].index("emb_share")


class RecoveredPolicy(Wrapper):
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
        super().__init__(base)
        self.config = config or RecoveryConfig()
        control, wanted = view_of(base)
        if wanted not in FEATURES or FEATURES[PRESET][: len(FEATURES[wanted])] != FEATURES[wanted]:
            raise ConfigError(
                f"recovery: its base wants the observation {wanted!r}, but the machine reads "
                f"{PRESET!r}, of which only {', '.join(FEATURES)} can be cut out"
            )
        if not is_batched(base):
            raise ConfigError(
                "recovery: its base takes one row at a time (batched = False), and recovery hands "
                "it all of them; let its act() take (rows, F)"
            )
        self._features = len(FEATURES[wanted])
        self._by_node = control == "node"
        self._params = self.config.lower(step_s)
        self.machines: Machines | None = None  # None before an episode's first decision
        self._pace: Array | None = None

    @property
    def control(self) -> str:
        """The base's; ``per_node`` in place of ``node``, to hand over whole clusters."""
        return "per_node" if self._by_node else super().control

    @property
    def refill_pace(self) -> Array | None:
        """(rows, M) pace of the last decision: the machine's times the base's own."""
        return self._pace

    def reset(self, seed: int) -> None:
        """Forget the last episode, and let the base do so."""
        self.machines, self._pace = None, None
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
        if self.machines is None:
            self.machines = Machines(len(flat), nodes, self._params)
        shares = self.machines.decide(flat, proposed, flat[:, _SHARE])
        own, pace = refill_pace_of(self.base), self.machines.paces.reshape(shape)
        self._pace = pace.copy() if own is None else pace * own
        return np.asarray(shares.reshape(shape))

    def state(self) -> dict[str, Any]:
        """What the machine and the base remember."""
        known = self.machines
        machines = None if known is None else {"nodes": known.nodes, "state": known.state.copy()}
        pace = None if self._pace is None else self._pace.copy()
        return {"machines": machines, "pace": pace, "base": super().state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state` gave."""
        super().restore(state["base"])
        self.machines, self._pace = None, state["pace"]
        known = state["machines"]
        if known is not None:
            self.machines = Machines(len(known["state"]), known["nodes"], self._params)
            self.machines.state[:] = known["state"]
