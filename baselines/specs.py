"""Policies by name: ``static:0.45``, ``aimd:up=0.02``, ``ppo:runs/x/model.zip``, ``my_module:My``.

Specs that end in ``:best``, such as ``static:best`` or ``aimd:best``, name a search rather than a
policy; they depend on the scenario, so :mod:`helm_gym.baselines.tune` resolves them to one of the
others.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from helm_gym.baselines.balance import BalancePolicy
from helm_gym.baselines.bandits import SlidingUcb, Thompson
from helm_gym.baselines.curves import MissRatioCurves
from helm_gym.baselines.feedback import Aimd, Hill, Hysteresis, Pid
from helm_gym.baselines.forecast import Mpc
from helm_gym.baselines.kv_opt import KvEmbOpt, KvOpt
from helm_gym.baselines.marginal import (
    Cliffhanger,
    HitsPerSlab,
    MarginalHits,
    RobinHood,
    TailAge,
)
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

TRAINED = ("ppo", "recurrent-ppo", "sac", "dqn")
"""Learning algorithms; the spec of a policy that one trained begins with its name."""

HELM_SEARCH = "helm:best"
SEARCHES = ("static:best", *(f"{name}:best" for name in SETTINGS), HELM_SEARCH)
"""Specs that a search on tuning seeds resolves."""

FORMS: Mapping[str, str] = {
    "static": "static:0.45 (that share for ever) or static:best (grid search)",
    "balance": "balance, balance:gain=0.6,bias=0.05,max_move=0.06,control=node or balance:best",
    **{name: f"{name}, {name}:SETTING=VALUE,... or {name}:best" for name in RULES},
    "schedule": "schedule:PATH (a file of helm-gym hindsight)",
    "ppo": "ppo:PATH (a model.zip of helm-gym train, or its run folder), ppo:released[-VARIANT]",
    "recurrent-ppo": "recurrent-ppo:PATH",
    "sac": "sac:PATH",
    "dqn": "dqn:PATH (as ppo:PATH, of these algorithms)",
    "adapted": "adapted:BASE or adapted(method=ppo,bound=0.1):BASE (BASE is any other spec)",
    "recovery": "recovery:BASE, recovery(strict):BASE or recovery(burst_pace=0.5,...):BASE",
    "anchored": "anchored(at=0.35,follow=0.5):BASE (between that share and what BASE says)",
    "helm": "helm, helm:adapter=off,recovery=off, helm:anchor=0.35,follow=0.5, helm:base=PATH (all "
    "three layers, or some) or helm:best",
    "module": "package.module:Class (anything that meets helm_gym.policy.Policy)",
}
"""How each kind of spec is written."""


def make_policy(spec: str) -> Policy:
    """Make the policy that a spec names.

    Args:
        spec: one of :data:`FORMS`.

    Raises:
        ConfigError: the spec names nothing; the message has the nearest name.
        CheckpointError: the file of a trained policy cannot be used.
    """
    spec = spec.strip()
    if spec in SEARCHES:
        raise ConfigError(
            f"policy {spec!r} is found by a grid search on a scenario; use it in helm-gym "
            "evaluate, or resolve it with helm_gym.baselines.tune.resolve(scenario, spec)"
        )
    kind, _, rest = spec.partition(":")
    makers: dict[str, Callable[[str, str], Policy]] = {
        "static": _static,
        "schedule": _schedule,
        **dict.fromkeys(TRAINED, _trained),
    }
    if kind in makers:
        return makers[kind](spec, rest)
    if kind in SETTINGS:
        return _with_settings(spec, kind, rest)
    if kind == "adapted" or kind.startswith("adapted("):
        return _adapted(spec, kind, rest)
    if kind == "recovery" or kind.startswith("recovery("):
        return _recovered(spec, kind, rest)
    if kind == "anchored" or kind.startswith("anchored("):
        return _anchored(spec, kind, rest)
    if kind == "helm":
        return _helm(spec, rest)
    if rest:
        return _from_module(spec, kind, rest)
    known = (*makers, *SETTINGS)
    raise ConfigError(f"policy {spec!r} does not exist{nearest(kind, known)}\n{_forms()}")


def _forms() -> str:
    own = ", ".join(RULES)
    general = [
        FORMS[kind] for kind in ("static", "balance", "schedule", *TRAINED, "recovery", "module")
    ]
    return f"Policies are written as: {'; '.join(general)}; and like balance: {own}"


def _static(spec: str, rest: str) -> Policy:
    try:
        share = float(rest)
    except ValueError:
        hint = nearest(spec, SEARCHES) if rest.isalpha() else ""
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


def _trained(spec: str, rest: str) -> Policy:
    if not rest:
        raise ConfigError(f"policy {spec!r} needs a file; write {FORMS[spec.partition(':')[0]]}")
    from helm_gym.agents.policy import TrainedPolicy
    from helm_gym.agents.released import is_released, released

    kind = spec.partition(":")[0]
    policy = TrainedPolicy(released(kind, rest) if is_released(rest) else rest)
    made_by = policy.card.algorithm
    if not spec.startswith(f"{made_by}:"):
        raise ConfigError(f"policy {spec!r}: {policy.path} is of {made_by}; write {made_by}:{rest}")
    trained: Policy = policy
    return trained


def _adapted(spec: str, kind: str, rest: str) -> Policy:
    head, opened, settings = kind.partition("(")
    if not rest or head != "adapted" or (opened and not settings.endswith(")")):
        raise ConfigError(f"policy {spec!r} cannot be read; write {FORMS['adapted']}")
    from helm_gym.agents.adapted_policy import AdaptedPolicy, settings_of_spec

    adapted: Policy = AdaptedPolicy(make_policy(rest), settings_of_spec(spec, settings[:-1]))
    return adapted


def _anchored(spec: str, kind: str, rest: str) -> Policy:
    head, opened, settings = kind.partition("(")
    if not rest or head != "anchored" or not opened or not settings.endswith(")"):
        raise ConfigError(f"policy {spec!r} cannot be read; write {FORMS['anchored']}")
    from helm_gym.agents.anchored_policy import AnchoredPolicy, anchor_of_spec

    anchored: Policy = AnchoredPolicy(make_policy(rest), anchor_of_spec(spec, settings[:-1]))
    return anchored


def _recovered(spec: str, kind: str, rest: str) -> Policy:
    head, opened, settings = kind.partition("(")
    if not rest or head != "recovery" or (opened and not settings.endswith(")")):
        raise ConfigError(f"policy {spec!r} cannot be read; write {FORMS['recovery']}")
    from helm_gym.baselines.recovered import RecoveredPolicy, read_settings

    return RecoveredPolicy(make_policy(rest), read_settings(settings[:-1]))


def _helm(spec: str, rest: str) -> Policy:
    from helm_gym.agents.helm_policy import HelmPolicy

    helm: Policy = HelmPolicy.from_spec(spec, rest)
    return helm


def _from_module(spec: str, module: str, name: str) -> Policy:
    try:
        found = _import(module)
    except ModuleNotFoundError as error:
        if error.name and (module == error.name or module.startswith(f"{error.name}.")):
            kinds = [kind for kind in FORMS if kind != "module"]
            raise ConfigError(
                f"policy {spec!r}: there is no module {error.name!r}{nearest(module, kinds)}\n"
                f"{_forms()}"
            ) from None
        raise ConfigError(f"policy {spec!r}: importing it failed: {error}") from error
    except Exception as error:
        raise ConfigError(
            f"policy {spec!r}: importing it raised {type(error).__name__}: {error}"
        ) from error
    if not hasattr(found, name):
        public = [known for known in vars(found) if not known.startswith("_")]
        raise ConfigError(f"policy {spec!r}: {module} has no {name!r}{nearest(name, public)}")
    try:
        policy = getattr(found, name)()
    except Exception as error:
        raise ConfigError(
            f"policy {spec!r}: {name}() raised {type(error).__name__}: {error}; it has to be made "
            "without arguments"
        ) from error
    missing = [part for part in ("reset", "act") if not callable(getattr(policy, part, None))]
    if missing:
        raise ConfigError(
            f"policy {spec!r}: it has no {missing[0]}(); see helm_gym.policy.Policy for what a "
            "policy needs"
        )
    found_policy: Policy = policy
    return found_policy


def _import(module: str) -> Any:
    """Import a module; files in the working folder count, but only where nothing else matches."""
    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.append(here)
    try:
        return importlib.import_module(module)
    finally:
        if added:
            sys.path.remove(here)
