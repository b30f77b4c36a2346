"""A checker for native vector environments, which Gymnasium's and SB3's checkers do not look into.

``check_vector_env`` plays random actions and compares what every row saw: with itself, on other
threads, in every autoreset mode, and with a vector environment of one cluster.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from helm_gym.envs.history import (
    Array,
    Chooser,
    Event,
    digest,
    random_choices,
    single_history,
    vector_history,
)
from helm_gym.errors import HelmGymError

AnyVectorEnv = VectorEnv[Any, Any, Any]


class VectorEnvError(HelmGymError, AssertionError):
    """A vector environment breaks a rule; the message says which, where, and how to mend it."""


class Factory(Protocol):
    """Makes the environment to check; ``functools.partial(EmbKvVectorEnv, ...)`` is one."""

    def __call__(
        self, num_envs: int, *, autoreset_mode: AutoresetMode, threads: int
    ) -> AnyVectorEnv:
        """Return a new environment; ``num_envs`` counts clusters."""
        ...


class SingleFactory(Protocol):
    """Makes the single environment that one row has to equal."""

    def __call__(self) -> gym.Env[Any, Any]:
        """Return a new environment."""
        ...


def check_vector_env(
    factory: Factory,
    single: SingleFactory | None = None,
    *,
    num_envs: int = 3,
    steps: int = 20,
    seed: int = 7,
) -> None:
    """Check a vector environment; returns nothing if it is sound.

    Args:
        factory: makes it.
        single: makes the single environment that cluster i must equal with seed ``seed + i``.
        num_envs: clusters.
        steps: decisions per row, long enough for an episode to end.
        seed: of environments and actions.

    Raises:
        VectorEnvError: the first rule that is broken.
    """
    same_step = partial(factory, num_envs, autoreset_mode=AutoresetMode.SAME_STEP)
    env = same_step(threads=1)
    per_cluster = _rows_per_cluster(env, num_envs)
    choose = random_choices(env.single_action_space, env.num_envs, steps, seed)
    expected = vector_history(env, choose, steps, seed=seed)
    _check_ends(expected, steps)
    _check_seeding(env, choose, steps, seed, num_envs, expected)
    for mode in AutoresetMode:
        make = partial(factory, num_envs, autoreset_mode=mode, threads=1)
        _check_shapes(make(), mode, seed)
        _equal(expected, vector_history(make(), choose, steps, seed=seed), f"in mode {mode.name}")
    _check_copies(same_step(threads=1), choose, steps, seed, expected)
    disabled = factory(num_envs, autoreset_mode=AutoresetMode.DISABLED, threads=1)
    _check_disabled(disabled, choose, steps, seed)
    threaded = vector_history(same_step(threads=2), choose, steps, seed=seed)
    _equal(expected, threaded, "on two threads")
    for cluster in range(num_envs):
        first, own = cluster * per_cluster, seed + cluster
        block = expected[first : first + per_cluster]
        own_choices = partial(_choose_from, choose, first)
        alone = factory(1, autoreset_mode=AutoresetMode.SAME_STEP, threads=1)
        played = vector_history(alone, own_choices, steps, seed=own)
        _equal(block, played, f"alone with seed {own}", first)
        if single is not None:
            played = [single_history(single(), own_choices, steps, seed=own)]
            _equal(block, played, f"in the single environment with seed {own}", first)


def _choose_from(choose: Chooser, first: int, row: int, decision: int) -> Array:
    return choose(first + row, decision)


def rollout_digest(
    env_id: str, kwargs: Mapping[str, Any], *, num_envs: int = 2, steps: int = 8, seed: int = 0
) -> str:
    """Digest of a random rollout, to compare processes, threads and machines.

    Args:
        env_id: a registered id.
        kwargs: for ``gymnasium.make_vec``.
        num_envs: clusters.
        steps: decisions per row.
        seed: of environments and actions.
    """
    env = gym.make_vec(f"helm_gym:{env_id}", num_envs=num_envs, **kwargs)
    choose = random_choices(env.single_action_space, env.num_envs, steps, seed)
    history = vector_history(env, choose, steps, seed=seed)
    env.close()
    return digest(history)


def _rows_per_cluster(env: AnyVectorEnv, num_envs: int) -> int:
    if env.num_envs % num_envs:
        raise VectorEnvError(
            f"made for {num_envs} clusters, the environment has {env.num_envs} rows, which is no "
            "multiple; give every cluster the same number of rows"
        )
    return env.num_envs // num_envs


def _check_ends(history: Sequence[Sequence[Event]], steps: int) -> None:
    for row, events in enumerate(history):
        if not any(event.ended for event in events):
            raise VectorEnvError(
                f"row {row}: no episode ended within {steps} decisions, so resets cannot be "
                "checked; pass more steps, or make the environment with shorter episodes"
            )


def _check_shapes(env: AnyVectorEnv, mode: AutoresetMode, seed: int) -> None:
    """Spaces, declared mode, and types of what is returned."""
    declared = env.metadata.get("autoreset_mode")
    if declared is not mode:
        raise VectorEnvError(
            f"made with autoreset_mode={mode}, metadata['autoreset_mode'] is {declared!r}; "
            "learners read it there"
        )
    n = env.num_envs
    for kind in ("observation", "action"):
        own, single = getattr(env, f"{kind}_space"), getattr(env, f"single_{kind}_space")
        if own != batch_space(single, n):
            raise VectorEnvError(
                f"{kind}_space is {own}, not {n} times single_{kind}_space {single}; use "
                "gymnasium.vector.utils.batch_space"
            )
    observations, _ = env.reset(seed=seed)
    env.action_space.seed(seed)
    after, rewards, terminated, truncated, _ = env.step(env.action_space.sample())
    for name, array in (("reset", observations), ("step", after)):
        if array not in env.observation_space:
            raise VectorEnvError(
                f"the observations of {name}() lie outside observation_space (dtype {array.dtype}, "
                f"shape {array.shape}); clip and cast them"
            )
    wanted: tuple[tuple[str, Array, type], ...] = (
        ("rewards", rewards, np.float64),
        ("terminated", terminated, np.bool_),
        ("truncated", truncated, np.bool_),
    )
    for name, array, dtype in wanted:
        if array.shape != (n,) or array.dtype != dtype:
            raise VectorEnvError(
                f"{name} are {array.dtype} of shape {array.shape}; return {dtype.__name__} of "
                f"shape ({n},)"
            )


def _check_seeding(
    env: AnyVectorEnv,
    choose: Chooser,
    steps: int,
    seed: int,
    num_envs: int,
    expected: Sequence[Sequence[Event]],
) -> None:
    """Seeds decide everything, and reset() without one goes on."""
    second = vector_history(env, choose, steps)
    if all(not a.difference(b) for row, other in zip(expected, second, strict=True)
           for a, b in zip(row, other, strict=True)):  # fmt: skip
        raise VectorEnvError(
            "reset() without a seed repeats the episode of the last seed; keep each cluster's "
            "np_random and draw from it, never seed on None"
        )
    _equal(expected, vector_history(env, choose, steps, seed=seed), "after reset(seed) again")
    _equal(second, vector_history(env, choose, steps), "after reset(seed); reset() again")
    listed: Any = [seed + cluster for cluster in range(num_envs)]
    _equal(expected, vector_history(env, choose, steps, seed=listed), "with a list of seeds")


def _check_copies(
    env: AnyVectorEnv,
    choose: Chooser,
    steps: int,
    seed: int,
    expected: Sequence[Sequence[Event]],
) -> None:
    """Returned arrays belong to the caller."""
    kept: list[tuple[Array, Array]] = []

    def spoil(*arrays: Array) -> None:
        for array in arrays:
            kept.append((array, array.copy()))

    vector_history(env, choose, steps, hook=spoil, seed=seed)
    if any(array.tobytes() != copy.tobytes() for array, copy in kept):
        raise VectorEnvError(
            "an array that step() or reset() returned changed later; return copies, not the "
            "environment's own buffers"
        )

    def overwrite(*arrays: Array) -> None:
        for array in arrays:
            array[...] = 1

    _equal(
        expected,
        vector_history(env, choose, steps, hook=overwrite, seed=seed),
        "after a caller wrote into returned arrays",
    )


def _check_disabled(env: AnyVectorEnv, choose: Chooser, steps: int, seed: int) -> None:
    """Without autoreset, stepping past an end is an error rather than a silent reset."""
    env.reset(seed=seed)
    actions = np.stack([choose(row, 0) for row in range(env.num_envs)])
    for _ in range(steps):
        _, _, terminated, truncated, _ = env.step(actions)
        if (terminated | truncated).any():
            break
    try:
        env.step(actions)
    except (gym.error.ResetNeeded, AssertionError):
        return
    raise VectorEnvError(
        "with AutoresetMode.DISABLED a step past an episode's end went through; raise "
        "gymnasium.error.ResetNeeded"
    )


def _equal(
    expected: Sequence[Sequence[Event]],
    found: Sequence[Sequence[Event]],
    where: str,
    first_row: int = 0,
) -> None:
    for row, (own, other) in enumerate(zip(expected, found, strict=True)):
        for number, (a, b) in enumerate(zip(own, other, strict=False)):
            difference = a.difference(b)
            if difference:
                raise VectorEnvError(
                    f"row {first_row + row}, event {number} differs {where}: {difference}. A row "
                    "may depend on its seed and actions only"
                )
        if len(own) != len(other):
            raise VectorEnvError(
                f"row {first_row + row} has {len(other)} starts and decisions {where}, not "
                f"{len(own)}; a reset is missing or doubled"
            )
