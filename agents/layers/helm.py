"""The spec ``helm``: a trained base, a residual that is learned online, and burst recovery.

It is what :class:`~helm_gym.agents.controller.controller.HelmController` deploys, put together of
the same policies that stand alone as ``ppo:released``, ``anchored(...):BASE``, ``adapted:BASE`` and
``recovery:BASE``, in this order; a site that knows its share sets the anchor.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from helm_gym.agents.adapter.config import ResidualConfig
from helm_gym.agents.layers.adapted import AdaptedPolicy
from helm_gym.agents.layers.anchored import Anchor, AnchoredPolicy
from helm_gym.agents.layers.recovered import RecoveredPolicy
from helm_gym.agents.models.card import TITLES
from helm_gym.agents.models.released import NAME, is_released, released
from helm_gym.agents.models.trained import TrainedPolicy, load_trained
from helm_gym.envs.recovery_config import STEP_S, RecoveryConfig
from helm_gym.errors import ConfigError, nearest
from helm_gym.policy import Policy, Wrapper

SWITCHES = {"on": True, "off": False}
SETTINGS = ("base", "anchor", "follow", "adapter", "recovery")
ALGORITHM = "ppo"
HINT = "write helm, helm:adapter=off,recovery=off, helm:anchor=0.35,follow=0.5 or helm:base=PATH"


def load_base(name: str) -> TrainedPolicy:
    """The base policy: ``released``, a model file, a run folder, or a trained policy's spec.

    Raises:
        CheckpointError: it cannot be used.
    """
    algorithm, colon, rest = name.partition(":")
    if colon and algorithm in TITLES:
        return load_trained(algorithm, rest)
    return TrainedPolicy(released(ALGORITHM, name) if is_released(name) else Path(name))


class HelmPolicy(Wrapper):
    """All three layers, or some: ``recovery:adapted:ppo:released`` as one policy.

    Args:
        base: a policy, or its name as :func:`load_base` reads it.
        adapter: settings of the residual; None leaves it out.
        recovery: settings of the burst machine; None leaves it out.
        anchor: planned share, and how far the base is followed; None leaves it out.
        learn: whether the residual learns in :meth:`act`.
        step_s: s between decisions.
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
    ) -> None:
        self.trained: Policy = load_base(base) if isinstance(base, str) else base
        self.anchor = anchor
        layer: Policy = AnchoredPolicy(self.trained, anchor) if anchor else self.trained
        self.adapted = AdaptedPolicy(layer, adapter, learn=learn) if adapter else None
        layer = self.adapted or layer
        self.recovered = RecoveredPolicy(layer, recovery, step_s) if recovery else None
        super().__init__(self.recovered or layer)

    @classmethod
    def from_spec(cls, spec: str, written: str) -> HelmPolicy:
        """The policy of ``helm:WRITTEN``, with :data:`SETTINGS`.

        Raises:
            ConfigError: a setting does not exist or has no such value.
        """
        found: dict[str, Any] = {}
        for pair in written.split(",") if written.strip() else ():
            name, equals, value = (part.strip() for part in pair.partition("="))
            if name not in SETTINGS or not equals or not value:
                raise ConfigError(
                    f"policy {spec!r}: {pair.strip()!r} is no setting{nearest(name, SETTINGS)}; "
                    f"{HINT}"
                )
            if name in ("adapter", "recovery") and value not in SWITCHES:
                raise ConfigError(f"policy {spec!r}: {name} is on or off, not {value!r}; {HINT}")
            found[name] = SWITCHES[value] if name in ("adapter", "recovery") else value
        layers = {"adapter": ResidualConfig(), "recovery": RecoveryConfig()}
        chosen = {name: made if found.get(name, True) else None for name, made in layers.items()}
        anchor = _anchor(spec, found.get("anchor"), found.get("follow"))
        return cls(str(found.get("base", NAME)), **chosen, anchor=anchor)  # type: ignore[arg-type]


def _anchor(spec: str, at: Any, follow: Any) -> Anchor | None:
    if at is None and follow is not None:
        raise ConfigError(
            f"policy {spec!r}: follow={follow} says how far to go from a planned share, and there "
            f"is none; {HINT}"
        )
    given = {"at": at} if follow is None else {"at": at, "follow": follow}
    return None if at is None else Anchor.parse(given, f"policy {spec!r}")
