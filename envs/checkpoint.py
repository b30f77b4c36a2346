"""A vector environment's state as a dictionary of arrays, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from helm_gym.config.scenario import Scenario
from helm_gym.envs.observation import Observer
from helm_gym.envs.reward import RewardConfig
from helm_gym.errors import CheckpointError, ConfigError
from helm_gym.sim.simulator import Simulator, Telemetry

FORMAT = 1


class Resumable(Protocol):
    """The fields of a vector environment that decide what happens next, or must be equal."""

    scenario: Scenario
    reward_config: RewardConfig
    clusters: int
    control: str
    action: str
    observation: str
    autoreset_mode: AutoresetMode
    simulator: Simulator
    _observer: Observer
    _window: Telemetry | None
    _shares: NDArray[np.float64]
    _elapsed: NDArray[np.int64]
    _ended: NDArray[np.bool_]
    _generators: list[np.random.Generator | None]
    _seeds: list[int | None]


def _made_for(env: Resumable) -> dict[str, Any]:
    """What has to be equal in the environment that continues."""
    return {
        "format": FORMAT,
        "scenario": env.scenario.digest(),
        "reward": env.reward_config.digest(),
        "clusters": env.clusters,
        "control": env.control,
        "action": env.action,
        "observation": env.observation,
        "autoreset_mode": env.autoreset_mode.value,
    }


def get_state(env: Resumable) -> dict[str, Any]:
    """Copy what decides the future of ``env``."""
    window = env._window
    return {
        "made_for": _made_for(env),
        "clusters": env.simulator.snapshot(),
        "shares": env._shares.copy(),
        "elapsed": env._elapsed.copy(),
        "ended": env._ended.copy(),
        "rates": env._observer.rates.copy(),
        "generators": [g and g.bit_generator.state for g in env._generators],
        "seeds": list(env._seeds),
        "window": None
        if window is None
        else {name: getattr(window, name).copy() for name in Telemetry.__dataclass_fields__},
    }


def set_state(env: Resumable, state: Mapping[str, Any]) -> None:
    """Continue from :func:`get_state`; a refused state changes nothing."""
    try:
        _refuse_foreign(_made_for(env), state["made_for"])
        window = state["window"]
        new = {
            "_shares": _array(state, "shares", env._shares),
            "_elapsed": _array(state, "elapsed", env._elapsed),
            "_ended": _array(state, "ended", env._ended),
            "_generators": [g and _generator(g) for g in state["generators"]],
            "_seeds": list(state["seeds"]),
            "_window": None if window is None else Telemetry(**window),
        }
        rates = _array(state, "rates", env._observer.rates)
        clusters = np.asarray(state["clusters"], np.uint8)
    except (KeyError, TypeError) as error:
        raise CheckpointError(
            f"the state lacks {error}; pass what get_state() of an equal environment returned"
        ) from None
    try:
        env.simulator.restore(clusters)
    except ConfigError as error:
        raise CheckpointError(str(error)) from None
    env.__dict__.update(new)
    env._observer.rates = rates


def _refuse_foreign(own: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    for key, value in own.items():
        if other[key] != value:
            raise CheckpointError(
                f"the state was taken with {key} {other[key]!r}, but this environment has "
                f"{value!r}; make it with the same arguments"
            )


def _array(state: Mapping[str, Any], key: str, like: NDArray[Any]) -> NDArray[Any]:
    array = np.array(state[key], like.dtype)
    if array.shape != like.shape:
        raise CheckpointError(f"{key} in the state have shape {array.shape}, not {like.shape}")
    return array


def _generator(state: Mapping[str, Any]) -> np.random.Generator:
    generator, _ = seeding.np_random(0)
    generator.bit_generator.state = dict(state)
    return generator
