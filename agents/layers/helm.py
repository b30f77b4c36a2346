"""The spec ``helm``: a trained base, a residual that is learned online, and burst recovery.

It is what :class:`~helm_gym.agents.controller.controller.HelmController` deploys, put together of
the same policies that stand alone as ``ppo:released``, ``anchored(...):BASE``, ``adapted:BASE`` and
``recovery:BASE``, in this order; a site that knows its share sets the anchor.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from helm_gym.agents.adapter.config import ResidualConfig
from helm_gym.agents.layers.adapted import AdaptedPolicy
from helm_gym.agents.layers.anchored import Anchor, AnchoredPolicy
from helm_gym.agents.layers.recovered import RecoveredPolicy
from helm_gym.agents.models.card import TITLES
from helm_gym.agents.models.released import NAME, is_released, released
from helm_gym.agents.models.trained import TrainedPolicy, load_trained
from helm_gym.envs.recovery_config import STEP_S, RecoveryConfig
from helm_gym.policy import Policy, Wrapper

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


class HelmPolicy(Wrapper):
    """All three layers, or some: ``recovery:adapted:ppo:released`` as one policy.

    Args:
        base: a policy, or its name as :func:`load_base` reads it.
        adapter: settings of the residual; None leaves it out.
        recovery: settings of the burst machine; None leaves it out.
        anchor: planned share, and how far the base is followed; None leaves it out.
        learn: whether the residual learns in :meth:`act`.
        step_s: s between decisions.
        allow: see :class:`~helm_gym.agents.models.trained.TrainedPolicy`.
    """

    def __init__(
        self,
        base: str | Policy = NAME,
        adapter: ResidualConfig | None = ResidualConfig(),  # noqa: B008 (frozen)
        recovery: RecoveryConfig | None = RecoveryConfig(),  # noqa: B008
        *,
        anchor: Anchor | None = None,
        learn: bool = True,
        step_s: float = STEP_S,
        allow: Collection[str] = (),
    ) -> None:
        self.trained: Policy = load_base(base, allow) if isinstance(base, str) else base
        self.anchor = anchor
        layer: Policy = AnchoredPolicy(self.trained, anchor) if anchor else self.trained
        self.adapted = AdaptedPolicy(layer, adapter, learn=learn) if adapter else None
        layer = self.adapted or layer
        self.recovered = RecoveredPolicy(layer, recovery, step_s) if recovery else None
        super().__init__(self.recovered or layer)
