"""The spec ``helm``: a trained base, a residual that is learned online, and burst recovery.

It is what :class:`~helm_gym.agents.controller.controller.HelmController` deploys, put together of
the same policies that stand alone as ``ppo:released``, ``anchored(...):BASE``, ``adapted:BASE`` and
``recovery:BASE``, in this order; a site that knows its share sets the anchor.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from helm_gym.agents.adapter.config import ResidualConfig
from helm_gym.agents.layers.adapted import AdaptedPolicy
from helm_gym.agents.layers.anchored import Anchor, AnchoredPolicy
from helm_gym.agents.layers.recovered import RecoveredPolicy
from helm_gym.agents.models.card import TITLES
from helm_gym.agents.models.released import NAME, is_released, released
from helm_gym.agents.models.trained import TrainedPolicy, load_trained
from helm_gym.envs.recovery_config import STEP_S, RecoveryConfig
from helm_gym.policy import Policy, refill_pace_of, view_of

Array = NDArray[Any]
ALGORITHM = "ppo"


def load_base(name: str, allow: Collection[str] = ()) -> TrainedPolicy:
    """The base policy of HELM.

    Args:
        name: ``released``, a model file, a run folder, or a trained policy's spec.
        allow: see :class:`~helm_gym.agents.models.trained.TrainedPolicy`.

    Raises:
        CheckpointError: it cannot be used.
        ConfigError: it names code that is not allowed.
    """
    algorithm, colon, rest = name.partition(":")
    if colon and algorithm in TITLES:
        return load_trained(algorithm, rest, allow)
    return TrainedPolicy(released(ALGORITHM, name) if is_released(name) else Path(name), allow)


class HelmPolicy:
    """All three layers, or some: ``recovery:adapted:ppo:released`` as one policy.

    Args:
        base: see :func:`load_base`.
        adapter: settings of the residual; None leaves it out.
        recovery: settings of the burst machine; None leaves it out.
        anchor: planned share, and how far the base is followed; None leaves it out.
        learn: whether the residual learns in :meth:`act`.
        step_s: s between decisions.
        allow: see :class:`~helm_gym.agents.models.trained.TrainedPolicy`.
    """

    def __init__(
        self,
        base: str = NAME,
        adapter: ResidualConfig | None = ResidualConfig(),  # noqa: B008 (frozen)
        recovery: RecoveryConfig | None = RecoveryConfig(),  # noqa: B008
        *,
        anchor: Anchor | None = None,
        learn: bool = True,
        step_s: float = STEP_S,
        allow: Collection[str] = (),
    ) -> None:
        self.base, self.anchor = load_base(base, allow), anchor
        self.card = self.base.card
        tied: Policy = AnchoredPolicy(self.base, anchor) if anchor else self.base
        self.adapted = AdaptedPolicy(tied, adapter, learn=learn) if adapter else None
        inner: Policy = self.adapted or tied
        self.recovered = RecoveredPolicy(inner, recovery, step_s) if recovery else None
        self.outermost: Policy = self.recovered or inner
        self.control, self.observation = view_of(self.outermost)
        self.initial_share = getattr(self.outermost, "initial_share", None)
        self.router = getattr(self.outermost, "router", None)

    @property
    def refill_pace(self) -> Array | None:
        """What the last decision set; None without recovery."""
        return refill_pace_of(self.outermost)

    def reset(self, seed: int) -> None:
        """Begin an episode; all that was learned is forgotten."""
        self.outermost.reset(seed)

    def act(self, obs: Array) -> Array:
        """Shares, (rows, M) or (rows, 1) as the base's control says."""
        return self.outermost.act(obs)
