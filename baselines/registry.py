"""The policies without learning, by name: ``static:0.45``, ``balance``, ``aimd:up=0.02``.

:func:`make_rule` reads their specs. It names nothing else, so a file may hold such a spec: whoever
reads it runs this package's code only.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from helm_gym.baselines.balance import BalancePolicy
from helm_gym.baselines.bandits import SlidingUcb, Thompson
from helm_gym.baselines.feedback import Aimd, Hill, Hysteresis, Pid
from helm_gym.baselines.kv_opt import KvEmbOpt, KvOpt
from helm_gym.baselines.marginal import (
    Cliffhanger,
    HitsPerSlab,
    MarginalHits,
    RobinHood,
    TailAge,
)
from helm_gym.baselines.miss_ratio_curves import MissRatioCurves
from helm_gym.baselines.mpc import Mpc
from helm_gym.baselines.rule import Rule
from helm_gym.baselines.schedule import SchedulePolicy
from helm_gym.baselines.static import StaticPolicy
from helm_gym.errors import ConfigError, nearest
from helm_gym.policy import Policy

RULES: Mapping[str, type[Rule]] = {
    rule.NAME: rule
    for rule in (
        KvOpt, KvEmbOpt, Aimd, Pid, Hysteresis, Hill, Cliffhanger, MarginalHits, HitsPerSlab,
        TailAge, RobinHood, MissRatioCurves, Mpc, SlidingUcb, Thompson,
    )
}  # fmt: skip
"""Classical policies by the name that a spec begins with; docs/baselines.md describes each."""

SETTINGS: Mapping[str, type[Any]] = {"balance": BalancePolicy, **RULES}
"""Names whose spec goes on with settings, written ``name=value`` and parted by commas."""

STATIC, SCHEDULE = "static", "schedule"
NAMES = (STATIC, SCHEDULE, *SETTINGS)
"""What the spec of a policy without learning begins with."""

FORMS: Mapping[str, str] = {
    STATIC: "static:0.45 (that share for ever) or static:best (grid search)",
    SCHEDULE: "schedule:PATH (a file of helm-gym hindsight)",
    "balance": "balance, balance:gain=0.6,bias=0.05,max_move=0.06,control=node or balance:best",
    **{name: f"{name}, {name}:SETTING=VALUE,... or {name}:best" for name in RULES},
}
"""How each of them is written."""


def make_rule(spec: str) -> Policy:
    """Make the policy without learning that a spec names.

    Args:
        spec: in one of :data:`FORMS`.

    Raises:
        ConfigError: the spec names none, or a setting of it is wrong.
    """
    kind, _, rest = spec.strip().partition(":")
    if kind == STATIC:
        return _static(spec, rest)
    if kind == SCHEDULE:
        return _schedule(spec, rest)
    if kind in SETTINGS:
        return _with_settings(spec, kind, rest)
    raise ConfigError(
        f"{spec!r} is no policy without learning{nearest(kind, NAMES)}; write one of "
        f"{', '.join(NAMES)}"
    )


def _static(spec: str, rest: str) -> Policy:
    try:
        share = float(rest)
    except ValueError:
        hint = nearest(f"static:{rest}", ("static:best",)) if rest.isalpha() else ""
        raise ConfigError(f"policy {spec!r} needs a share{hint}; write {FORMS['static']}") from None
    return StaticPolicy(share)


def _with_settings(spec: str, name: str, rest: str) -> Policy:
    """Make a policy of :data:`SETTINGS`; what values its settings may have it says itself."""
    known = settings_of(SETTINGS[name])
    settings: dict[str, Any] = {}
    for pair in rest.split(",") if rest else ():
        setting, equals, value = (part.strip() for part in pair.partition("="))
        if setting not in known or not equals:
            raise ConfigError(
                f"policy {spec!r}: {pair.strip()!r} is no setting{nearest(setting, known)}; write "
                f"{FORMS[name]}"
            )
        settings[setting] = _number(spec, setting, value) if known[setting] else value
    policy: Policy = SETTINGS[name](**settings)
    return policy


def settings_of(policy: type[Any]) -> dict[str, bool]:
    """Settings that a class takes, and whether each is a number, by its annotations."""
    hints = get_type_hints(policy if is_dataclass(policy) else policy.__init__, include_extras=True)
    return {name: _numeric(hints[name]) for name in inspect.signature(policy).parameters}


def _numeric(hint: Any) -> bool:
    if get_origin(hint) is Annotated:
        return _numeric(get_args(hint)[0])
    return hint in (int, float) or any(_numeric(part) for part in get_args(hint))


def _number(spec: str, name: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise ConfigError(f"policy {spec!r}: {name} needs a number, got {value!r}") from None


def _schedule(spec: str, rest: str) -> Policy:
    if not rest:
        raise ConfigError(f"policy {spec!r} needs a file; write {FORMS['schedule']}")
    return SchedulePolicy(rest)
