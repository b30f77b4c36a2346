"""Stable-Baselines3's ``VecEnv`` over any Gymnasium ``VectorEnv`` that resets in the same step.

SB3 does not take Gymnasium's vector environments. It wants one info dictionary per row, the last
observation of an episode under ``terminal_observation``, and ``TimeLimit.truncated`` to decide
where it bootstraps; it learns nothing of episodes unless somebody sums their rewards. This adapter
supplies that without a Python loop over the physics, which stays one call per step.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from helm_gym.errors import ConfigError


class Sb3VecEnv(VecEnv):
    """A native vector environment as SB3 expects it, with episode statistics.

    Args:
        vector_env: any Gymnasium vector environment with ``autoreset_mode`` SAME_STEP, or one of
            ours in Gymnasium's default mode, which has not been reset yet and is switched over.
        info_keys: which of its infos every row's dictionary carries; ``None`` is all of them, as
            ``DummyVecEnv`` has it. With thousands of rows pass ``()`` and read
            :attr:`vector_infos`, the arrays of the last step. A row whose episode ended always
            carries its final info.

    Raises:
        ConfigError: the environment does not reset in the same step, cannot be switched over, or
            is not a vector env.
    """

    def __init__(
        self, vector_env: VectorEnv[Any, Any, Any], info_keys: Iterable[str] | None = None
    ) -> None:
        _need_same_step(vector_env)
        self.vector_env = vector_env
        self.vector_infos: Mapping[str, Any] = {}
        self._info_keys = None if info_keys is None else tuple(info_keys)
        self._actions: NDArray[Any] | None = None
        self._seed_list: list[int] | None = None
        rows = vector_env.num_envs
        self._returns = np.zeros(rows)  # of the running episodes
        self._lengths = np.zeros(rows, np.int64)
        self._began = time.monotonic()
        super().__init__(rows, vector_env.single_observation_space, vector_env.single_action_space)

    def reset(self) -> VecEnvObs:
        """Begin an episode in every row; seeds and options given before are used up.

        Returns:
            (rows, ...) observations, a copy.
        """
        options = self._shared_options()
        # seed() numbers the rows from one seed on, which is what a vector env does with an int.
        seed = self._seed_list or self._seeds[0]
        observations, infos = self.vector_env.reset(seed=seed, options=options)  # type: ignore[arg-type]
        self._seed_list = None
        self._reset_seeds()
        self._returns[:] = 0.0
        self._lengths[:] = 0
        self.vector_infos = infos
        self.reset_infos = rows_info(infos, range(self.num_envs))
        own: VecEnvObs = copy.deepcopy(observations)
        return own

    def seed_list(self, seeds: list[int]) -> None:
        """Give the next reset this list of seeds, in the form that the vector env takes."""
        self._seed_list = seeds

    def step_async(self, actions: NDArray[Any]) -> None:
        """Keep the (rows, ...) actions for :meth:`step_wait`."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Step all rows.

        Returns:
            Observations (rows, ...) of the next step, which after an episode's end are the first
            of the next episode; float32 rewards and bool dones (rows,); one info per row.
        """
        if self._actions is None:
            raise ConfigError("step_wait() before step_async(actions): there is nothing to do")
        actions, self._actions = self._actions, None
        observations, rewards, terminated, truncated, infos = self.vector_env.step(actions)
        dones = terminated | truncated
        self.vector_infos = infos
        self._returns += rewards
        self._lengths += 1
        # SB3 adds the bootstrap value into the rewards it gets, so they must be a copy.
        return (
            copy.deepcopy(observations),
            np.array(rewards, np.float32),
            np.array(dones, np.bool_),
            self._row_infos(infos, dones, truncated & ~terminated),
        )

    def _row_infos(
        self, infos: Mapping[str, Any], dones: NDArray[np.bool_], cut: NDArray[np.bool_]
    ) -> list[dict[str, Any]]:
        rows, ended = self._plain_infos(infos), np.flatnonzero(dones).tolist()
        last, fresh = rows_info(infos.get("final_info", {}), ended), rows_info(infos, ended)
        for row, info, begun in zip(ended, last, fresh, strict=True):
            info["TimeLimit.truncated"] = bool(cut[row])
            info["terminal_observation"] = copy.deepcopy(infos["final_obs"][row])
            info["episode"] = {
                "r": float(self._returns[row]),
                "l": int(self._lengths[row]),
                "t": round(time.monotonic() - self._began, 6),  # for plots; decides nothing
            }
            rows[row] = info
            self.reset_infos[row] = begun
        self._returns[dones] = 0.0
        self._lengths[dones] = 0
        return rows

    def _plain_infos(self, infos: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Infos of rows whose episode goes on."""
        if self._info_keys == () or not infos:
            return [{"TimeLimit.truncated": False} for _ in range(self.num_envs)]
        kept = {key: infos[key] for key in self._info_keys or infos if key in infos}
        kept.update({f"_{key}": infos[f"_{key}"] for key in kept if f"_{key}" in infos})
        return [
            {**row_info(kept, row), "TimeLimit.truncated": False} for row in range(self.num_envs)
        ]

    def close(self) -> None:
        """Close the vector environment."""
        self.vector_env.close()

    def get_images(self) -> Sequence[NDArray[Any] | None]:
        """Frames of all rows, for :meth:`render`."""
        frames = self.vector_env.render()
        return [None] * self.num_envs if frames is None else list(frames)  # type: ignore[arg-type]

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Value of an attribute, once per asked row.

        A vector environment with a ``get_attr`` (Gymnasium's Sync- and AsyncVectorEnv, and ours)
        has a value per row; any other has one for all of them.
        """
        rows = list(self._get_indices(indices))
        inner = getattr(self.vector_env, "get_attr", None)
        if inner is not None:
            values = inner(attr_name)
            return [values[row] for row in rows]
        return [getattr(self.vector_env, attr_name)] * len(rows)

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute for all rows.

        Raises:
            ConfigError: only some rows are named; they share one environment.
        """
        self._need_all(f"set_attr({attr_name!r}, ...)", indices)
        inner = getattr(self.vector_env, "set_attr", None)
        if inner is not None:
            inner(attr_name, [value] * self.num_envs)
        else:
            setattr(self.vector_env, attr_name, value)

    def env_method(
        self,
        method_name: str,
        *method_args: Any,
        indices: VecEnvIndices = None,
        **method_kwargs: Any,
    ) -> list[Any]:
        """Call a method once on the vector environment; its result is repeated for every row.

        Raises:
            ConfigError: only some rows are named; they share one environment.
        """
        self._need_all(f"env_method({method_name!r}, ...)", indices)
        inner = getattr(self.vector_env, "call", None)
        if inner is not None:
            return list(inner(method_name, *method_args, **method_kwargs))
        result = getattr(self.vector_env, method_name)(*method_args, **method_kwargs)
        return [result] * self.num_envs

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        """Whether the vector environment is wrapped with ``wrapper_class``.

        ``Monitor`` counts as present, because this adapter reports what a monitor would.
        """
        wrapped = issubclass(wrapper_class, Monitor)
        env: Any = self.vector_env
        while not wrapped and env is not None:
            wrapped = isinstance(env, wrapper_class)
            env = env.__dict__.get("env")
        return [wrapped for _ in self._get_indices(indices)]

    def get_state(self) -> dict[str, Any]:
        """What a checkpoint needs of this adapter and of the environment below it."""
        return {
            "returns": self._returns.copy(),
            "lengths": self._lengths.copy(),
            "vector_env": self.vector_env.get_state(),  # type: ignore[attr-defined]
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`get_state`."""
        self._returns[:] = state["returns"]
        self._lengths[:] = state["lengths"]
        self.vector_env.set_state(state["vector_env"])  # type: ignore[attr-defined]

    def _shared_options(self) -> dict[str, Any] | None:
        """Options of the next reset; they are used up, whether they can be used or not."""
        first, *others = self._options
        self._reset_options()
        if any(other != first for other in others):
            raise ConfigError(
                "set_options() was given different options for different rows, but the rows are "
                "one vector environment that takes one set; pass a single dict"
            )
        return first or None

    def _need_all(self, what: str, indices: VecEnvIndices) -> None:
        if sorted(self._get_indices(indices)) != list(range(self.num_envs)):
            raise ConfigError(
                f"{what} for rows {indices} only: all {self.num_envs} rows are one vector "
                "environment, so it acts on all of them; leave indices out"
            )


def row_info(infos: Mapping[str, Any], row: int) -> dict[str, Any]:
    """One row of Gymnasium's vector infos: the keys whose mask ``_key`` holds there."""
    info: dict[str, Any] = {}
    for key, value in infos.items():
        is_mask = key.startswith("_") and key[1:] in infos
        if is_mask or key in {"final_obs", "final_info"} or not infos.get(f"_{key}", _ALL)[row]:
            continue
        info[key] = row_info(value, row) if isinstance(value, Mapping) else value[row]
    return info


def rows_info(infos: Mapping[str, Any], rows: Sequence[int]) -> list[dict[str, Any]]:
    """:func:`row_info` of many rows, key by key where all of them have all keys."""
    names = [key for key in infos if not (key.startswith("_") and key[1:] in infos)]
    names = [key for key in names if key not in {"final_obs", "final_info"}]
    plain = all(isinstance(infos[key], np.ndarray) for key in names)
    masks = [infos[f"_{key}"] for key in names if f"_{key}" in infos] if plain else []
    if not names or not plain or not all(np.asarray(mask)[rows].all() for mask in masks):
        return [row_info(infos, row) for row in rows]
    columns = [list(infos[key][rows]) for key in names]
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


class _All:
    """The mask of an info that every row has."""

    def __getitem__(self, row: int) -> bool:
        return True


_ALL = _All()


def _need_same_step(vector_env: VectorEnv[Any, Any, Any]) -> None:
    """Refuse an environment that does not reset in the same step and cannot be told to."""
    if not isinstance(vector_env, VectorEnv):
        raise ConfigError(
            f"Sb3VecEnv adapts a gymnasium.vector.VectorEnv, got {type(vector_env).__name__}. SB3 "
            "takes a single environment as it is; for many, use gym.make_vec(...)"
        )
    given = vector_env.metadata.get("autoreset_mode")
    known: dict[Any, AutoresetMode] = {name: m for m in AutoresetMode for name in (m, m.value)}
    mode = known.get(given)
    if mode is AutoresetMode.SAME_STEP:
        return
    # Not through wrappers, which may have read the mode already.
    switch = getattr(type(vector_env), "set_autoreset_mode", None)
    if switch is not None and mode is AutoresetMode.NEXT_STEP:
        switch(vector_env, AutoresetMode.SAME_STEP)
        return
    raise ConfigError(
        f"{type(vector_env).__name__} declares autoreset mode {given}, but SB3 expects the first "
        "observation of the next episode in the step that ends one; make the environment with "
        "autoreset_mode=gymnasium.vector.AutoresetMode.SAME_STEP, such as gym.make_vec("
        '"helm_gym/EmbKvAllocation-v0", 16, autoreset_mode="SameStep")'
    )
