"""Policies of a person's own, named ``package.module:Class``: the only place that imports them.

Importing a module runs it. So such a name counts where a person typed it. One that stands in a file
(the card of a model, a row, a training plan) counts only if the person allows that very name.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

from helm_gym.errors import ConfigError, nearest
from helm_gym.policy import Policy

FORM = "package.module:Class (anything that meets helm_gym.policy.Policy)"


def is_own(spec: str) -> bool:
    """Whether a text has the form ``package.module:Class``; there need be no such class."""
    module, _, name = spec.partition(":")
    return name.isidentifier() and all(part.isidentifier() for part in module.split("."))


def check_allowed(name: str, where: str, allow: Collection[str]) -> None:
    """Refuse a class that a file names, unless it is allowed.

    Args:
        name: as in the file, ``module:Class``.
        where: the file, for the error.
        allow: names that a person allows.

    Raises:
        ConfigError: it is not among them.
    """
    if name not in allow:
        raise ConfigError(
            f"{where} names the code {name!r}, and importing it would run it: nothing that a file "
            f"names is run. If you know that code, allow it: --allow {name} on the command line, "
            f"allow=[{name!r}] in Python"
        )


def make_own(spec: str, known: Collection[str] = ()) -> Policy:
    """Import a class and make a policy of it, without arguments.

    Args:
        spec: ``module:Class``; files in the working folder count too.
        known: what else could have been meant, for the error.

    Raises:
        ConfigError: there is no such class, it cannot be made, or it is no policy.
    """
    module, _, name = spec.partition(":")
    found = _imported(spec, module, known)
    if not hasattr(found, name):
        public = [own for own in vars(found) if not own.startswith("_")]
        raise ConfigError(f"policy {spec!r}: {module} has no {name!r}{nearest(name, public)}")
    try:
        policy: Policy = getattr(found, name)()
    except (Exception, SystemExit) as error:
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
    return policy


def _imported(spec: str, module: str, known: Collection[str]) -> Any:
    """The module; files in the working folder count, but only where nothing else matches."""
    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.append(here)
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and f"{module}.".startswith(f"{error.name}."):
            hint = nearest(module, known)
            raise ConfigError(f"policy {spec!r}: there is no module {error.name!r}{hint}") from None
        raise ConfigError(f"policy {spec!r}: importing it failed: {error}") from error
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f"policy {spec!r}: importing it raised {type(error).__name__}: {error}"
        ) from error
    finally:
        if added:
            sys.path.remove(here)
