"""The policies without learning, by name: ``static:0.45``, ``balance``, ``aimd:up=0.02``.

:func:`make_rule` reads their specs. It imports nothing that is not part of this package, unless a
person allows it, so a file may hold such a spec.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any

from helm_gym.baselines.balance import Balance
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
from helm_gym.baselines.one_move import OneMove
from helm_gym.baselines.own import check_allowed, is_own, make_own
from helm_gym.baselines.recent import Vamp, Wisp
from helm_gym.baselines.rule import Rule
from helm_gym.baselines.schedule import SchedulePolicy
from helm_gym.baselines.static import StaticPolicy
from helm_gym.errors import ConfigError, nearest
from helm_gym.policy import Policy
from helm_gym.spec_grammar import Spec, parse_settings, parse_spec

RULES: Mapping[str, type[Rule]] = {
    rule.NAME: rule
    for rule in (
        Balance, KvOpt, KvEmbOpt, Aimd, Pid, Hysteresis, Hill, Cliffhanger, MarginalHits,
        HitsPerSlab, TailAge, RobinHood, MissRatioCurves, Mpc, SlidingUcb, Thompson, Wisp, Vamp,
    )
}  # fmt: skip
"""Classical policies by the name that a spec begins with; docs/baselines.md describes each."""

STATIC, SCHEDULE = "static", "schedule"
_CLASSES: Mapping[str, type[Rule]] = {**RULES, OneMove.NAME: OneMove}
NAMES = (STATIC, SCHEDULE, *_CLASSES)
"""What the spec of a policy without learning begins with."""
BEST = "best"
"""What stands after the colon where a search is to find the settings, in one scenario."""
DATASET, SUITE = "dataset", "suite"
"""The same for a search once over all regimes of a data set, and once over a whole suite."""
WORDS = (BEST, DATASET, SUITE)

FORMS: Mapping[str, str] = {
    STATIC: "static:0.45 (that share for ever) or static:best (grid search)",
    SCHEDULE: "schedule:PATH (a file of helm-gym hindsight)",
    **{name: f"{name}, {name}:SETTING=VALUE,... or {name}:{BEST}" for name in RULES},
    OneMove.NAME: "one-move:first=0.2,then=0.6,after=24 (decisions at the first share)",
    Balance.NAME: "balance, balance:gain=0.6,bias=0.05,max_move=0.06,control=node or balance:best",
}
"""How each of them is written."""


def make_rule(spec: str, allow: Collection[str] = (), where: str = "the spec") -> Policy:
    """Make the policy without learning that a spec names.

    Args:
        spec: in one of :data:`FORMS`, or a class of :mod:`helm_gym.baselines.own`.
        allow: such classes that may be imported.
        where: the spec comes from, for errors.

    Raises:
        ConfigError: the spec names none, or a setting of it is wrong.
    """
    parsed = parse_spec(spec)
    if parsed.kind == STATIC:
        return _static(parsed)
    if parsed.kind == SCHEDULE:
        return _schedule(parsed)
    if parsed.kind in _CLASSES:
        return _rule(parsed)
    if is_own(parsed.text):
        check_allowed(parsed.text, where, allow)
        return make_own(parsed.text, NAMES)
    raise ConfigError(
        f"{spec!r} is no policy without learning{nearest(parsed.kind, NAMES)}; write one of "
        f"{', '.join(NAMES)}"
    )


def _rule(spec: Spec) -> Policy:
    """Make a policy of a class; which values its settings may have it says itself."""
    where, form, rule = f"policy {spec.text!r}", FORMS[spec.kind], _CLASSES[spec.kind]
    if spec.inside is not None and spec.argument:
        raise ConfigError(f"{where}: {spec.argument!r} follows its settings; write {form}")
    known = [setting.name for setting in fields(rule) if setting.init]
    words = WORDS if spec.kind in RULES else ()
    settings = parse_settings(spec.settings, where, form, known, words)
    try:
        policy: Any = rule(**settings)  # type: ignore[arg-type]
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    made: Policy = policy
    return made


def _static(spec: Spec) -> Policy:
    try:
        return StaticPolicy(float(spec.argument if spec.inside is None else ""))
    except ConfigError:
        raise
    except ValueError:
        hint = (
            nearest(spec.text, [f"{STATIC}:{word}" for word in WORDS])
            if spec.argument.isalpha()
            else ""
        )
        raise ConfigError(
            f"policy {spec.text!r} needs a share{hint}; write {FORMS[STATIC]}"
        ) from None


def _schedule(spec: Spec) -> Policy:
    if not spec.argument or spec.inside is not None:
        raise ConfigError(f"policy {spec.text!r} needs a file; write {FORMS[SCHEDULE]}")
    return SchedulePolicy(spec.argument)
