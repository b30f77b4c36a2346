"""Policies by name: ``static:0.45``, ``aimd:up=0.02``, ``ppo:runs/x/model.zip``, ``my_module:My``.

Specs that end in ``:best``, such as ``static:best`` or ``aimd:best``, name a search rather than a
policy; they depend on the scenario, so :mod:`helm_gym.evaluation.tune` resolves them to one of the
others.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from helm_gym.baselines import registry
from helm_gym.baselines.registry import RULES, SETTINGS
from helm_gym.errors import ConfigError, nearest
from helm_gym.policy import Policy

TRAINED = ("ppo", "recurrent-ppo", "sac", "dqn")
"""Learning algorithms; the spec of a policy that one trained begins with its name."""

HELM_SEARCH = "helm:best"
SEARCHES = ("static:best", *(f"{name}:best" for name in SETTINGS), HELM_SEARCH)
"""Specs that a search on tuning seeds resolves."""

FORMS: Mapping[str, str] = {
    **registry.FORMS,
    "ppo": "ppo:PATH (a model.zip of helm-gym train, or its run folder), ppo:released[-VARIANT]",
    "recurrent-ppo": "recurrent-ppo:PATH",
    "sac": "sac:PATH",
    "dqn": "dqn:PATH (as ppo:PATH, of these algorithms)",
    "adapted": "adapted:BASE or adapted(bound=0.1,step=0.002):BASE (BASE is any other spec)",
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
            "evaluate, or resolve it with helm_gym.evaluation.tune.resolve(scenario, spec)"
        )
    kind, _, rest = spec.partition(":")
    if kind in registry.NAMES:
        return registry.make_rule(spec)
    if kind in TRAINED:
        return _trained(spec, rest)
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
    known = (*registry.NAMES, *TRAINED, "adapted", "recovery", "anchored", "helm")
    raise ConfigError(f"policy {spec!r} does not exist{nearest(kind, known)}\n{_forms()}")


def _forms() -> str:
    own = ", ".join(RULES)
    general = [
        FORMS[kind] for kind in ("static", "balance", "schedule", *TRAINED, "recovery", "module")
    ]
    return f"Policies are written as: {'; '.join(general)}; and like balance: {own}"


def _trained(spec: str, rest: str) -> Policy:
    kind = spec.partition(":")[0]
    if not rest:
        raise ConfigError(f"policy {spec!r} needs a file; write {FORMS[kind]}")
    from helm_gym.agents.models.trained import load_trained

    return load_trained(kind, rest)


def _adapted(spec: str, kind: str, rest: str) -> Policy:
    head, opened, settings = kind.partition("(")
    if not rest or head != "adapted" or (opened and not settings.endswith(")")):
        raise ConfigError(f"policy {spec!r} cannot be read; write {FORMS['adapted']}")
    from helm_gym.agents.layers.adapted import AdaptedPolicy, settings_of_spec

    adapted: Policy = AdaptedPolicy(make_policy(rest), settings_of_spec(spec, settings[:-1]))
    return adapted


def _anchored(spec: str, kind: str, rest: str) -> Policy:
    head, opened, settings = kind.partition("(")
    if not rest or head != "anchored" or not opened or not settings.endswith(")"):
        raise ConfigError(f"policy {spec!r} cannot be read; write {FORMS['anchored']}")
    from helm_gym.agents.layers.anchored import AnchoredPolicy, anchor_of_spec

    anchored: Policy = AnchoredPolicy(make_policy(rest), anchor_of_spec(spec, settings[:-1]))
    return anchored


def _recovered(spec: str, kind: str, rest: str) -> Policy:
    head, opened, settings = kind.partition("(")
    if not rest or head != "recovery" or (opened and not settings.endswith(")")):
        raise ConfigError(f"policy {spec!r} cannot be read; write {FORMS['recovery']}")
    from helm_gym.agents.layers.recovered import RecoveredPolicy, read_settings

    return RecoveredPolicy(make_policy(rest), read_settings(settings[:-1]))


def _helm(spec: str, rest: str) -> Policy:
    from helm_gym.agents.layers.helm import HelmPolicy

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
