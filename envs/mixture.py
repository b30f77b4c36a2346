"""Vector environments of different scenarios side by side, as one."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from helm_gym.config.scenario import Scenario
from helm_gym.envs import resets
from helm_gym.envs.action import Layout
from helm_gym.envs.arguments import RENDERING
from helm_gym.envs.vector_env import EmbKvVectorEnv
from helm_gym.errors import CheckpointError, ConfigError

Array = NDArray[Any]
Infos = Mapping[str, Any]
T = TypeVar("T")
SAME = ("nodes", "control", "action", "observation", "reward_config")
"""What all parts have to have in common, besides their spaces."""


class MixtureVectorEnv(VectorEnv[Array, Array, Array]):
    """Several :class:`EmbKvVectorEnv` of different scenarios as one vector environment.

    The rows of the parts follow one another. Cluster i of ``reset(seed=s)``, counted through all
    parts, gets the seed s + i and is bit for bit the single environment with that seed. An
    episode that ends is followed by the next one in the same step, in its own scenario.

    Args:
        parts: closed with this environment. Those with several threads of their own gain nothing:
            it is the parts that run side by side.
        threads: parts that are stepped at the same time; results do not depend on it.

    Raises:
        ConfigError: there is no part, or they differ in more than the scenario.
    """

    closed = True  # until the constructor is through
    metadata: dict[str, Any] = {**RENDERING, "autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012

    def __init__(self, parts: Sequence[EmbKvVectorEnv], threads: int = 1) -> None:
        _check_alike(parts)
        first = self._first = parts[0]
        self.parts, self.render_mode = tuple(parts), first.render_mode
        self.nodes, self.control, self.observation = first.nodes, first.control, first.observation
        self.reward_config, self.autoreset_mode = first.reward_config, first.autoreset_mode
        self.clusters = sum(part.clusters for part in parts)
        self.action = first.action
        self.layout = Layout(self.control, self.clusters, self.nodes, self.action)
        self.num_envs = self.layout.rows
        self.single_observation_space = first.single_observation_space
        self.single_action_space = first.single_action_space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._threads = min(threads, len(parts))
        self._workers: tuple[int, ThreadPoolExecutor] | None = None
        self._rows = _slices([part.num_envs for part in parts])
        self._of_clusters = _slices([part.clusters for part in parts])
        self._seen: Array | None = None  # last observations of all rows
        self.closed = False

    @property
    def scenarios(self) -> tuple[Scenario, ...]:
        """The scenario of every cluster."""
        return tuple(part.scenario for part in self.parts for _ in range(part.clusters))

    @property
    def shares(self) -> NDArray[np.float64]:
        """(B, M) EMB shares in force, a copy."""
        return np.concatenate([part.shares for part in self.parts])

    @property  # type: ignore[misc]
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """The generator of every cluster."""
        return tuple(generator for part in self.parts for generator in part.np_random)

    @property
    def np_random_seed(self) -> tuple[int | None, ...]:  # type: ignore[override]
        """The seed of every cluster's generator."""
        return tuple(seed for part in self.parts for seed in part.np_random_seed)

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> tuple[Array, dict[str, Any]]:
        """Begin an episode in every cluster; arguments as :meth:`EmbKvVectorEnv.reset` has them.

        Raises:
            ConfigError: a seed or an option cannot be used; nothing has been reset.
        """
        seeds = resets.read_seeds(seed, self.clusters)
        chosen = [
            resets.read_options(options, self.layout, part.scenario) for part in self.parts
        ]  # every scenario has its own range of shares and number of starts
        wanted = [bool(chosen[0].clusters[own].any()) for own in self._of_clusters]
        if self._seen is None and not chosen[0].clusters.all():
            raise ResetNeeded("reset_mask leaves out rows that never began; call reset() first")

        def begin(number: int) -> tuple[Array, dict[str, Any]]:
            if not wanted[number]:
                assert self._seen is not None
                return self._seen[self._rows[number]], {}
            part, own = self.parts[number], dict(options or {})
            if own.get("reset_mask") is not None:
                own["reset_mask"] = own["reset_mask"][self._rows[number]]
            return part.reset(seed=seeds[self._of_clusters[number]], options=own)

        observations, infos = zip(*self._each(begin), strict=True)
        self._seen = np.concatenate(observations)
        return self._seen.copy(), self._merged(infos)

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """Simulate one window in every cluster; see :meth:`EmbKvVectorEnv.step`.

        Raises:
            InvalidAction: wrong shape or no action; nothing has been simulated.
            ResetNeeded: no episode began.
        """
        self.layout.asked(actions, self.shares)  # refuses before any part is stepped
        if self._seen is None:
            raise ResetNeeded("no episode has begun; call reset() before step()")
        whole = np.asarray(actions)
        told = self._each(lambda number: self.parts[number].step(whole[self._rows[number]]))
        observations, rewards, terminated, truncated, infos = zip(*told, strict=True)
        self._seen = np.concatenate(observations)
        return (
            self._seen.copy(),
            np.concatenate(rewards),
            np.concatenate(terminated),
            np.concatenate(truncated),
            self._merged(infos),
        )

    def render(self) -> tuple[str, ...] | None:
        """One line of text per row, if ``render_mode`` is ``ansi``."""
        if self.render_mode is None:
            return self._first.render()
        return tuple(line for part in self.parts for line in part.render() or ())

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """What a single environment in each row's place would have as attribute ``name``."""
        return tuple(value for part in self.parts for value in part.get_attr(name))

    def get_state(self) -> dict[str, Any]:
        """Everything that decides what happens next, as NumPy arrays and plain values."""
        return {
            "parts": [part.get_state() for part in self.parts],
            "seen": None if self._seen is None else self._seen.copy(),
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continue, bit for bit, from the :meth:`get_state` of an equally made environment.

        Raises:
            CheckpointError: the state is truncated, or belongs to another environment; nothing
                has changed.
        """
        try:
            states, seen = list(state["parts"]), state["seen"]
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"the state lacks {error}; it is not of a mixture") from None
        if len(states) != len(self.parts):
            raise CheckpointError(
                f"the state has {len(states)} scenarios, but this environment {len(self.parts)}; "
                "make it with the same arguments"
            )
        before: list[dict[str, Any]] = []
        try:
            for part, own in zip(self.parts, states, strict=True):
                before.append(part.get_state())
                part.set_state(own)
        except CheckpointError:
            for part, own in zip(self.parts, before, strict=False):
                part.set_state(own)
            raise
        self._seen = None if seen is None else np.array(seen)

    def close_extras(self, **kwargs: Any) -> None:
        """Close the parts and stop worker threads."""
        for part in self.parts:
            part.close()
        if self._workers is not None:
            self._workers[1].shutdown(wait=False)
            self._workers = None

    def _each(self, do: Callable[[int], T]) -> list[T]:
        """Do something for the number of every part, on threads: simulating releases the GIL."""
        numbers = range(len(self.parts))
        if self._threads == 1:
            return [do(number) for number in numbers]
        if self._workers is None or self._workers[0] != os.getpid():  # a forked child has none
            self._workers = os.getpid(), ThreadPoolExecutor(self._threads)
        return list(self._workers[1].map(do, numbers))

    def _merged(self, infos: Sequence[Infos]) -> dict[str, Any]:
        return merged_infos(infos, [part.num_envs for part in self.parts])


def merged_infos(infos: Sequence[Infos], rows: Sequence[int]) -> dict[str, Any]:
    """Infos of several vector environments as those of one, by Gymnasium's convention.

    Args:
        infos: of every part, an array per key and a mask ``_key`` of the rows that have it.
        rows: of every part.

    Returns:
        Every key that any part has; rows of the others read 0, or None, and their mask says no.
    """
    merged: dict[str, Any] = {}
    for key in dict.fromkeys(key for part in infos for key in part if not key.startswith("_")):
        values = [part.get(key) for part in infos]
        if any(isinstance(value, Mapping) for value in values):
            merged[key] = merged_infos([value or {} for value in values], rows)
        else:
            kind = next(np.asarray(value).dtype for value in values if value is not None)
            empty = None if kind.hasobject else 0
            merged[key] = np.concatenate(
                [
                    np.full(n, empty, kind) if value is None else value
                    for value, n in zip(values, rows, strict=True)
                ]
            )
        merged[f"_{key}"] = np.concatenate(
            [
                np.asarray(part.get(f"_{key}", np.full(n, key in part)), np.bool_)
                for part, n in zip(infos, rows, strict=True)
            ]
        )
    return merged


def _slices(sizes: Sequence[int]) -> list[slice]:
    ends = np.cumsum(sizes).tolist()
    return [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)]


def _check_alike(parts: Sequence[EmbKvVectorEnv]) -> None:
    if not parts:
        raise ConfigError("a mixture needs at least one environment")
    first = parts[0]
    for part in parts:
        if part.autoreset_mode is not AutoresetMode.SAME_STEP:
            raise ConfigError(
                f"scenario {part.scenario.name!r}: a mixture resets rows in the step that ends "
                "their episode; make every part with autoreset_mode=AutoresetMode.SAME_STEP"
            )
        for name in SAME:
            if getattr(part, name) != getattr(first, name):
                raise ConfigError(
                    f"scenarios {first.scenario.name!r} and {part.scenario.name!r} differ in "
                    f"{name} ({getattr(first, name)!r} and {getattr(part, name)!r}), so they are "
                    "no mixture; make all parts with the same"
                )
        for name in ("single_observation_space", "single_action_space"):
            if getattr(part, name) != getattr(first, name):
                raise ConfigError(
                    f"scenarios {first.scenario.name!r} and {part.scenario.name!r} differ in "
                    f"{name}; make all parts with the same arguments but the scenario"
                )
