"""Vector environments of different scenarios side by side, as one."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
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
from helm_gym.envs.infos import vector_infos
from helm_gym.envs.observation import Observer
from helm_gym.envs.reward import Reward
from helm_gym.envs.telling import Telling, Told
from helm_gym.envs.vector_env import EmbKvVectorEnv
from helm_gym.errors import CheckpointError, ConfigError
from helm_gym.sim.simulator import Telemetry

Array = NDArray[Any]
T = TypeVar("T")
SAME = ("nodes", "control", "action", "observation", "reward_config")
"""What all parts have to have in common, besides their spaces."""


class MixtureVectorEnv(Telling, VectorEnv[Array, Array, Array]):
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
        self._took = np.zeros(len(parts))  # s of every part the last time
        self._observer = Observer.joined([part._observer for part in parts])
        self._reward = Reward.joined([part._reward for part in parts], self.layout)
        self._seconds = np.concatenate([part._seconds for part in parts])
        self._none = np.zeros(self.clusters, np.bool_)
        self._no_counts = np.zeros((self.clusters, 0), np.uint32)
        self._window, self._figures = None, {}
        self._join()
        self.closed = False

    @property
    def scenarios(self) -> tuple[Scenario, ...]:
        """The scenario of every cluster."""
        return tuple(part.scenario for part in self.parts for _ in range(part.clusters))

    @property
    def shares(self) -> NDArray[np.float64]:
        """(B, M) EMB shares in force, a copy."""
        return self._shares.copy()

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
        if self._window is None and not chosen[0].clusters.all():
            raise ResetNeeded("reset_mask leaves out rows that never began; call reset() first")

        def begin(number: int) -> None:
            if not wanted[number]:
                return
            part, own = self.parts[number], dict(options or {})
            if own.get("reset_mask") is not None:
                own["reset_mask"] = own["reset_mask"][self._rows[number]]
            part.reset(seed=seeds[self._of_clusters[number]], options=own)

        self._each(begin)
        self._join()
        mask = chosen[0].clusters
        values, _ = self._values(mask, self._shares)
        return self._observe(), vector_infos(values, self.layout.per_row(mask))

    def step(self, actions: Array) -> Told:
        """Simulate one window in every cluster; see :meth:`EmbKvVectorEnv.step`.

        Raises:
            InvalidAction: wrong shape or no action; nothing has been simulated.
            ResetNeeded: no episode began.
        """
        before = self._shares
        targets = self.layout.asked(actions, before)
        if self._window is None:
            raise ResetNeeded("no episode has begun; call reset() before step()")

        def advance(number: int) -> None:
            part = self.parts[number]
            part._advance(targets[self._of_clusters[number]], part._resting())

        self._each(advance)
        self._join()
        return self._tell(self._none, before)

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """What a single environment in each row's place would have as attribute ``name``."""
        return tuple(value for part in self.parts for value in part.get_attr(name))

    def get_state(self) -> dict[str, Any]:
        """Everything that decides what happens next, as NumPy arrays and plain values."""
        return {"parts": [part.get_state() for part in self.parts]}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continue, bit for bit, from the :meth:`get_state` of an equally made environment.

        Raises:
            CheckpointError: the state is truncated, or belongs to another environment; nothing
                has changed.
        """
        try:
            states = list(state["parts"])
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
        self._window = None
        self._join()

    def close_extras(self, **kwargs: Any) -> None:
        """Close the parts and stop worker threads."""
        for part in self.parts:
            part.close()
        if self._workers is not None:
            self._workers[1].shutdown(wait=False)
            self._workers = None

    def _begin(self, chosen: resets.Chosen) -> None:
        def begin(number: int) -> None:
            own = chosen.clusters[self._of_clusters[number]]
            if own.any():
                self.parts[number]._begin(resets.Chosen(own))

        self._each(begin)
        self._join()

    def _join(self) -> None:
        """Take over from the parts what their rows are told of."""
        parts = self.parts
        self._shares = np.concatenate([part._shares for part in parts])
        self._elapsed = np.concatenate([part._elapsed for part in parts])
        self._ended = np.concatenate([part._ended for part in parts])
        self._observer.rates = np.concatenate([part._observer.rates for part in parts])
        windows = [part._window for part in parts if part._window is not None]
        if len(windows) == len(parts):
            node = np.concatenate([window.node for window in windows])
            cluster = np.concatenate([window.cluster for window in windows])
            # No row is told of the histograms.
            self._window = Telemetry(node, cluster, self._no_counts, self._no_counts)

    def _each(self, do: Callable[[int], T]) -> list[T]:
        """Do something for the number of every part, on threads: simulating releases the GIL.

        What took longest the last time begins first, so that no thread has to wait for it.
        """
        if self._threads == 1:
            return [do(number) for number in range(len(self.parts))]
        results: dict[int, T] = {}
        waiting = iter(np.argsort(-self._took, kind="stable").tolist())

        def work() -> None:
            for number in waiting:  # shared by the threads
                began = time.perf_counter()
                results[number] = do(number)
                self._took[number] = time.perf_counter() - began  # decides no result

        helpers = [self._pool().submit(work) for _ in range(self._threads - 1)]
        try:
            work()
        finally:
            wait(helpers)
        for helper in helpers:
            helper.result()
        return [results[number] for number in range(len(self.parts))]

    def _pool(self) -> ThreadPoolExecutor:
        """Threads beside the caller's own; a forked child has none of its parent's."""
        if self._workers is None or self._workers[0] != os.getpid():
            self._workers = os.getpid(), ThreadPoolExecutor(self._threads - 1)
        return self._workers[1]


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
