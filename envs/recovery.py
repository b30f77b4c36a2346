"""Burst recovery around any agent: wrappers that override its actions in a burst and after it.

The machine itself, its stages and its detectors are in :mod:`helm_gym.envs.recovery_machine`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from numpy.typing import NDArray

from helm_gym.envs.observation import Observer
from helm_gym.envs.recovery_config import RecoveryConfig
from helm_gym.envs.recovery_machine import (
    N_SIGNALS,
    N_STATE,
    Column,
    advance_rows,
    read_signals,
)
from helm_gym.envs.resets import read_options
from helm_gym.envs.single_env import EmbKvEnv
from helm_gym.envs.vector_env import EmbKvVectorEnv
from helm_gym.errors import CheckpointError, ConfigError

Array = NDArray[Any]
Floats = NDArray[np.float64]
Config = RecoveryConfig | Mapping[str, Any] | None


def as_config(config: Config) -> RecoveryConfig:
    """Settings as a model, the defaults where there are none."""
    if isinstance(config, RecoveryConfig):
        return config
    return RecoveryConfig.parse(config or {}, "recovery")


class Machines:
    """One machine per row, and the arrays that they work in.

    Args:
        rows: R.
        nodes: rows of a cluster, see :func:`helm_gym.envs.recovery_machine.read_signals`.
        params: what :meth:`RecoveryConfig.lower` returned.
    """

    def __init__(self, rows: int, nodes: int, params: Floats) -> None:
        self.params, self.nodes = params, nodes
        self.state: Floats = np.zeros((rows, N_STATE))
        self._signals: Floats = np.empty((rows, N_SIGNALS))
        self._shares, self.paces = np.empty(rows), np.ones(rows)

    @property
    def stages(self) -> NDArray[np.int64]:
        """(R,) a :class:`~helm_gym.envs.recovery_machine.Stage` each."""
        return self.state[:, Column.STAGE].astype(np.int64)

    def decide(self, seen: Array, proposed: Array, in_force: Array) -> Floats:
        """Shares to put into force; :attr:`paces` has the paces.

        Args:
            seen: (R, F) ``extended`` features.
            proposed: (R,) what the policy wants.
            in_force: (R,) EMB shares.
        """
        read_signals(np.ascontiguousarray(seen), self.nodes, self._signals)
        advance_rows(
            self.state,
            self.params,
            self._signals,
            np.ascontiguousarray(proposed, np.float64),
            np.ascontiguousarray(in_force, np.float64),
            self._shares,
            self.paces,
        )
        return self._shares.copy()


class _Recovery:
    """The machines of a vector environment, and what they need to see of it.

    Args:
        base: the environment, unwrapped.
        config: of the machines.
    """

    def __init__(self, base: EmbKvVectorEnv, config: RecoveryConfig) -> None:
        episode, layout = base.scenario.episode, base.layout
        self._base, self._config = base, config
        self._observer = Observer(base.scenario, layout, "extended")
        self._described = layout.nodes if layout.sees_nodes else 1
        rows = layout.clusters * self._described
        params = config.lower(episode.step_s, episode.share_min, episode.share_max)
        self.machines = Machines(rows, self._described, params)
        self.pace: Floats = np.ones((layout.clusters, layout.nodes))  # the agent's own
        self._resting = np.zeros(layout.clusters, np.bool_)

    def before(self, actions: Any) -> Floats:
        """Advance the machines by the last window, set the pace, and return actions in its place.

        Raises:
            InvalidAction: the actions are none; nothing has been changed.
            ResetNeeded: an episode is over, or none began; the same.
        """
        base, layout = self._base, self._base.layout
        targets = layout.targets(actions)
        resting = base._resting()
        assert base._window is not None
        shares = base.shares
        seen = self._observer.observe(base._window, shares)
        kept = layout.nodes // self._described  # nodes that one row decides for
        decided = self.machines.decide(
            seen.reshape(len(self.machines.state), -1),
            targets[:, ::kept].reshape(-1),
            shares[:, ::kept].reshape(-1),
        )
        paces = self.machines.paces.reshape(layout.clusters, self._described)
        base.set_refill_pace(self.pace * paces)
        self._resting = resting.copy()
        return decided.reshape(layout.rows, layout.shares_per_row)

    def after(self, truncated: NDArray[np.bool_]) -> None:
        """See the window that was simulated, and forget clusters that began anew.

        Args:
            truncated: (rows,) what the step returned.
        """
        assert self._base.telemetry is not None
        self._observer.follow(self._base.telemetry, ~self._resting)
        fresh = self._resting
        if self._base.autoreset_mode is AutoresetMode.SAME_STEP:
            fresh = fresh | self._base.layout.per_cluster(truncated)[:, 0]
        if fresh.any():
            self.begin(fresh)

    def begin(self, clusters: NDArray[np.bool_]) -> None:
        """Forget what is known of clusters that have just been reset."""
        assert self._base._window is not None
        self._observer.start(self._base._window, clusters)
        self.machines.state[np.repeat(clusters, self._described)] = 0.0
        self.pace[clusters] = 1.0

    def set_pace(self, pace: Array | float) -> None:
        """Remember the pace that the agent sets, for use between bursts."""
        self._base.set_refill_pace(pace)  # which says what is wrong with it
        self.pace = self._base.refill_pace

    def get_state(self) -> dict[str, Any]:
        """What decides the future, as arrays."""
        return {
            "config": self._config.digest(),
            "machines": self.machines.state.copy(),
            "rates": self._observer.rates.copy(),
            "pace": self.pace.copy(),
        }

    def check(self, state: Mapping[str, Any]) -> None:
        """Refuse what is no state of these machines."""
        own = self.get_state()
        try:
            if state["config"] != own["config"]:
                raise CheckpointError(
                    f"the state is of a recovery with settings {state['config']}, but these are "
                    f"{own['config']}; make both with the same config"
                )
            wrong = [k for k in own if k != "config" and np.shape(state[k]) != own[k].shape]
        except (KeyError, TypeError) as error:
            raise CheckpointError(
                f"the state lacks {error}; pass what get_state() of an equal wrapper returned"
            ) from None
        if wrong:
            raise CheckpointError(
                f"{wrong[0]} of the state has shape {np.shape(state[wrong[0]])}, but this "
                f"environment needs {own[wrong[0]].shape}"
            )

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`get_state`."""
        self.machines.state[:] = state["machines"]
        self._observer.rates = np.array(state["rates"], np.float64)
        self.pace = np.array(state["pace"], np.float64)


def _parts(state: Mapping[str, Any], recovery: _Recovery) -> tuple[Any, Mapping[str, Any]]:
    """A wrapper's state as the environment's and the machines', checked."""
    try:
        env, own = state["env"], state["recovery"]
    except (KeyError, TypeError) as error:
        raise CheckpointError(
            f"the state lacks {error}; pass what get_state() of an equal wrapper returned"
        ) from None
    recovery.check(own)
    return env, own


def _refuse(env: Any, wanted: type[Any], wrapper: str) -> None:
    base = env.unwrapped
    if not isinstance(base, wanted):
        raise ConfigError(
            f"{wrapper} overrides EMB shares, but {env} has none; wrap an {wanted.__name__}"
        )
    if getattr(base, "vector_env", base).action != "share":
        raise ConfigError(
            f"{wrapper} overrides EMB shares, but {env} takes increments; make it with "
            f'action="share", and put DeltaAction or VectorDeltaAction around {wrapper}'
        )
    if env.action_space != base.action_space:
        raise ConfigError(
            f"{wrapper} overrides EMB shares, but {env} takes other actions; put {wrapper} around "
            "the environment first and the wrapper that changes its actions around that"
        )


class _Around:
    """What both wrappers are besides their steps: machines beside an environment."""

    _env: Any
    _recovery: _Recovery

    @property
    def stages(self) -> NDArray[np.int64]:
        """(B,) or, where nodes are decided for, (B * M,) stages; B is 1 for a single env."""
        return self._recovery.machines.stages

    def set_refill_pace(self, pace: Array | float) -> None:
        """The agent's own pace, broadcast to (B, M); the machines' is multiplied with it."""
        self._recovery.set_pace(pace)

    def get_state(self) -> dict[str, Any]:
        """Everything that decides what happens next, the environment's included."""
        return {"env": self._env.get_state(), "recovery": self._recovery.get_state()}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continue, bit for bit, from the :meth:`get_state` of an equally made wrapper.

        Raises:
            CheckpointError: the state is truncated, or belongs to another environment.
        """
        env, own = _parts(state, self._recovery)
        self._env.set_state(env)
        self._recovery.set_state(own)


class BurstRecovery(_Around, gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Overrides the shares of any agent, and the pace of refill, in a burst and after it.

    Args:
        env: an :class:`EmbKvEnv` whose actions are EMB shares, with any control and observation.
        config: settings of the machine.
    """

    def __init__(self, env: gym.Env[Any, Any], config: Config = None) -> None:
        _refuse(env, EmbKvEnv, "BurstRecovery")
        RecordConstructorArgs.__init__(self, config=config)
        super().__init__(env)
        base: Any = env.unwrapped
        self._env = base
        self._recovery = _Recovery(base.vector_env, as_config(config))

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Begin an episode, in which nothing is known yet."""
        result = self.env.reset(**kwargs)
        self._recovery.begin(np.ones(1, np.bool_))
        return result

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """As the environment's, with an action that the machine may have replaced."""
        shares = self._recovery.before(np.asarray(action)[np.newaxis])
        result = self.env.step(shares[0])
        self._recovery.after(np.array([result[3]]))
        return result


class VectorBurstRecovery(_Around, VectorWrapper, RecordConstructorArgs):
    """The same for a vector environment: one machine per row of its observations.

    Args:
        env: an :class:`EmbKvVectorEnv` whose actions are EMB shares, of any autoreset mode.
        config: settings of the machines.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any], config: Config = None) -> None:
        _refuse(env, EmbKvVectorEnv, "VectorBurstRecovery")
        RecordConstructorArgs.__init__(self, config=config)
        super().__init__(env)
        base: Any = env.unwrapped
        self._env = base
        self._recovery = _Recovery(base, as_config(config))

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin episodes, in which nothing is known yet."""
        result = self.env.reset(seed=seed, options=options)
        chosen = read_options(options, self._env.layout, self._env.scenario)
        self._recovery.begin(chosen.clusters)
        return result

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """As the environment's, with actions that the machines may have replaced."""
        result = self.env.step(self._recovery.before(actions))
        self._recovery.after(np.asarray(result[3]))
        return result
