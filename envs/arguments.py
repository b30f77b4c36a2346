"""What constructors take: arguments, RLlib's configuration of them, and Gymnasium's spec."""

from __future__ import annotations

import copy
import enum
import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, TypeVar, cast

from gymnasium.envs.registration import EnvSpec
from pydantic import BaseModel

from helm_gym.config.scenario import Scenario
from helm_gym.errors import ArgumentError, nearest

Constructor = TypeVar("Constructor", bound=Callable[..., None])

RENDERING: dict[str, Any] = {"render_modes": ["ansi"], "render_fps": 4}
INSTEAD = {"max_episode_steps": "; write overrides={'episode.steps': ...}"}


def refuse(owner: type[Any], unknown: Mapping[str, Any], render_mode: str | None) -> None:
    """Refuse arguments that a constructor does not have, and render modes that there are not.

    Args:
        owner: class that is being made; its constructor collects them as ``**unknown``.
        unknown: what it has collected.
        render_mode: what was asked for.

    Raises:
        ArgumentError: naming the first of them, and the nearest one that exists.
    """
    for name in unknown:
        hint = INSTEAD.get(name) or nearest(name, _arguments(owner))
        raise ArgumentError.unexpected(owner, name, hint)
    modes = RENDERING["render_modes"]
    if render_mode is not None and render_mode not in modes:
        hint = f"={render_mode!r}{nearest(str(render_mode), modes)}"
        raise ArgumentError.unexpected(owner, "render_mode", hint)


def _arguments(constructor: Callable[..., Any]) -> list[str]:
    """Names of what may be passed, without ``self`` and ``**unknown``."""
    parameters = inspect.signature(constructor).parameters.values()
    return [p.name for p in parameters if p.name != "self" and p.kind is not p.VAR_KEYWORD]


def takes_env_config(constructor: Constructor) -> Constructor:
    """Let a constructor read a mapping of its arguments, as RLlib calls it: ``Env(env_config)``.

    The first argument is such a mapping if it is empty or one of its keys is an argument; no
    scenario has such a key. Arguments given twice are refused by Python.
    """
    known = frozenset(_arguments(constructor))

    @wraps(constructor)
    def construct(self: Any, *args: Any, **kwargs: Any) -> None:
        if args and isinstance(args[0], Mapping) and (not args[0] or known & args[0].keys()):
            constructor(self, *args[1:], **args[0], **kwargs)
        else:
            constructor(self, *args, **kwargs)

    return cast(Constructor, construct)


def load_scenario(
    scenario: str | Mapping[str, Any] | Scenario, overrides: Mapping[str, Any] | None
) -> Scenario:
    """Load a scenario and replace dotted paths in it."""
    loaded = Scenario.load(scenario)
    return loaded.replace(overrides) if overrides else loaded


class PlainSpec:
    """The attribute ``spec`` of an environment, with arguments that ``EnvSpec.to_json`` can write.

    ``gymnasium.make`` sets it after the constructor. Scenarios, rewards and autoreset modes become
    the mappings and names that constructors take in their place.
    """

    def __get__(self, env: Any, owner: type[Any] | None = None) -> EnvSpec | None:
        return None if env is None else env.__dict__.get("_spec")

    def __set__(self, env: Any, spec: EnvSpec | None) -> None:
        if spec is not None:
            spec = copy.copy(spec)
            spec.kwargs = {name: _plain(value) for name, value in spec.kwargs.items()}
        env.__dict__["_spec"] = spec


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value
