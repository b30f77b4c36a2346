"""The native vector environment: B clusters, one simulator call per step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from helm_gym.config.scenario import Scenario
from helm_gym.envs import checkpoint, resets
from helm_gym.envs.action import Layout, move
from helm_gym.envs.arguments import RENDERING, PlainSpec, load_scenario, refuse
from helm_gym.envs.infos import vector_infos
from helm_gym.envs.observation import Observer
from helm_gym.envs.reward import DEFAULT, Reward, RewardConfig
from helm_gym.envs.telling import Telling
from helm_gym.errors import ConfigError
from helm_gym.seeding import draw_streams
from helm_gym.sim.simulator import Simulator, Telemetry

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Observations = NDArray[np.float32]

PER_CLUSTER = ("shares", "previous_share", "refill_pace", "np_random", "np_random_seed")
"""Attributes with one value per cluster."""


class EmbKvVectorEnv(Telling, VectorEnv[Observations, NDArray[Any], NDArray[Any]]):
    """Many clusters side by side; the environment itself is described by ``EmbKvEnv``.

    Rows are clusters, or with ``control="node"`` nodes (row = cluster * M + node; all rows of a
    cluster share its reward and end together), so that one policy can be trained for all nodes.
    Cluster i of ``reset(seed=s)`` gets the seed s + i, a list gives each cluster its own, and
    either way it is bit for bit the single environment with that seed, whatever the number of
    clusters or threads. ``reset()`` continues each cluster's generator.

    Infos have an array per figure of :data:`helm_gym.metrics.METRICS`, and per term of the reward,
    as ``reward_terms/NAME``. A row that has just been reset shows the last window of its warm-up
    and reward terms of 0; with ``SAME_STEP`` the figures of the window that ended its episode are
    in ``final_info``.

    A row whose episode has ended is reset as ``autoreset_mode`` says: ``NEXT_STEP``, Gymnasium's
    default, spends the row's next step on it and ignores that step's action. ``SAME_STEP`` resets
    within the step that ends the episode, which Stable-Baselines3 needs, but Gymnasium's
    ``NormalizeObservation`` refuses and RLlib miscounts. ``DISABLED`` leaves it to the caller.

    Args:
        num_envs: clusters, B.
        scenario: a shipped scenario's name, a YAML path, a mapping, or a Scenario.
        overrides: dotted paths to replace in it, such as ``{"workload.load": 0.95}``.
        control: ``cluster``, ``per_node`` or ``node``.
        action: ``share``, or ``choice`` for the index of one of HELM's seven increments.
        observation: ``paper7`` or ``extended``.
        reward: a preset's name or weights, see :mod:`helm_gym.envs.reward`.
        autoreset_mode: Gymnasium's ``AutoresetMode``, or its value or name as text.
        threads: worker threads; results do not depend on it.
        render_mode: ``ansi`` makes :meth:`render` return one line of text per row.
        flat: with ``per_node``, lay observations out as (M * features,) instead of (M, features).

    Raises:
        ConfigError: naming what cannot work, and the nearest thing that does.
        ArgumentError: an argument or a render mode does not exist; a ``TypeError`` too.
    """

    # A refused constructor leaves an object whose ``__del__`` must find nothing to close.
    closed = True
    spec = PlainSpec()
    autoreset_mode: AutoresetMode
    # As Gymnasium declares it; every environment has its own copy.
    metadata: dict[str, Any] = {**RENDERING, "autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(
        self,
        num_envs: int = 1,
        *,
        scenario: str | Mapping[str, Any] | Scenario = "taobao-shift",
        overrides: Mapping[str, Any] | None = None,
        control: str = "cluster",
        action: str = "share",
        observation: str = "paper7",
        reward: str | Mapping[str, Any] | RewardConfig = DEFAULT,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        threads: int = 1,
        render_mode: str | None = None,
        flat: bool = False,
        **unknown: Any,
    ) -> None:
        refuse(type(self), unknown, render_mode)
        self.render_mode = render_mode
        self.scenario = load_scenario(scenario, overrides)
        self.clusters, self.nodes, self.control = num_envs, self.scenario.nodes, control
        self.action = action
        self.layout = Layout(control, num_envs, self.nodes, action)
        self.num_envs = self.layout.rows
        self._window: Telemetry | None = None  # last window of every cluster, warm-ups included
        self.set_autoreset_mode(autoreset_mode)
        self.observation = observation
        self.reward_config = RewardConfig.load(reward)
        self._reward = Reward(self.reward_config, self.scenario, self.layout)
        self._observer = Observer(self.scenario, self.layout, observation)
        self._seconds = np.full(num_envs, self.scenario.episode.step_s)
        self.single_observation_space = self._observer.space(self.layout, flat)
        self.single_action_space = self.layout.action_space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._threads = threads
        self.simulator = Simulator(self.scenario, num_envs, threads)
        self._generators: list[np.random.Generator | None] = [None] * num_envs
        self._seeds: list[int | None] = [None] * num_envs
        self._shares = np.full((num_envs, self.nodes), self.scenario.episode.initial_share)
        self._elapsed = np.zeros(num_envs, np.int64)  # decisions taken in the episode
        self._ended = np.zeros(num_envs, np.bool_)  # clusters that wait for a reset
        self._figures: dict[str, Floats] = {}  # metrics of the last window
        self.telemetry: Telemetry | None = None
        self.previous_share = self._shares.copy()
        self.closed = False

    @property
    def shares(self) -> Floats:
        """(B, M) EMB shares in force, a copy."""
        return self._shares.copy()

    @property  # type: ignore[misc]
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """The generator of every cluster."""
        return tuple(self._generator(cluster) for cluster in range(self.clusters))

    @property
    def np_random_seed(self) -> tuple[int | None, ...]:  # type: ignore[override]
        """The seed of every cluster's generator, -1 where it came from elsewhere."""
        return tuple(self._seeds)

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> tuple[Observations, dict[str, Any]]:
        """Begin an episode in every cluster.

        Args:
            seed: an int, or one int or None per cluster; None continues the generators.
            options: ``share`` (EMB share of the warm start), ``start`` (which warm start),
                ``reset_mask`` ((num_envs,) bool: reset only these rows).

        Raises:
            ConfigError: a seed or an option cannot be used.
        """
        chosen = resets.read_options(options, self.layout, self.scenario)
        if self._window is None and not chosen.clusters.all():
            raise ResetNeeded("reset_mask leaves out rows that never began; call reset() first")
        for cluster, own in enumerate(resets.read_seeds(seed, self.clusters)):
            if own is not None and chosen.clusters[cluster]:
                self._generators[cluster], self._seeds[cluster] = seeding.np_random(own)
        self._begin(chosen)
        values, _ = self._values(chosen.clusters, self._shares)
        return self._observe(), vector_infos(values, self.layout.per_row(chosen.clusters))

    def step(
        self, actions: NDArray[Any]
    ) -> tuple[Observations, Floats, Mask, Mask, dict[str, Any]]:
        """Put new shares into force and simulate one window in every cluster.

        Args:
            actions: (num_envs, 1) EMB shares, or (num_envs, M) with ``control="per_node"``; with
                ``action="choice"`` (num_envs,) or (num_envs, M) indices of increments.

        Raises:
            InvalidAction: wrong shape or no action; nothing has been simulated.
            ResetNeeded: an episode is over, or none began.
        """
        targets = self.layout.asked(actions, self._shares)
        resting = self._resting()
        return self._tell(resting, self._advance(targets, resting))

    def set_autoreset_mode(self, mode: AutoresetMode | str) -> None:
        """Choose another autoreset mode, as long as no episode has begun.

        Raises:
            ConfigError: there is no such mode, or an episode has begun.
        """
        if self._window is not None:
            raise ConfigError(
                f"autoreset_mode={mode!r} comes too late: an episode has begun with "
                f"{self.autoreset_mode}; pass it to the constructor"
            )
        self.autoreset_mode = resets.as_mode(mode)
        self.metadata = {**self.metadata, "autoreset_mode": self.autoreset_mode}

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """What a single environment in each row's place would have as attribute ``name``."""
        if name in ("observation_space", "action_space"):
            name = f"single_{name}"
        value = getattr(self, name)
        if name not in PER_CLUSTER:
            return (value,) * self.num_envs
        return tuple(value[row // self.layout.rows_per_cluster] for row in range(self.num_envs))

    def close_extras(self, **kwargs: Any) -> None:
        """Stop worker threads."""
        self.simulator.close()

    def use_generators(
        self, generators: Sequence[np.random.Generator], seeds: Sequence[int | None]
    ) -> None:
        """Let clusters draw from generators that somebody else holds too, one per cluster."""
        self._generators, self._seeds = list(generators), list(seeds)

    @property
    def refill_pace(self) -> Floats:
        """(B, M) part of the link time open to refill that it may use, a copy."""
        return np.stack([state.stages.pace for state in self.simulator.states])

    def set_refill_pace(self, pace: NDArray[Any] | float) -> None:
        """Pause or slow refill until another pace is set or the cluster is reset.

        Args:
            pace: from 0 (paused) to 1; of any shape that broadcasts to (B, M).

        Raises:
            ConfigError: it does not, or is not within [0, 1].
        """
        wanted = np.asarray(pace, np.float64)
        try:
            wanted = np.broadcast_to(wanted, self._shares.shape)
        except ValueError:
            pass  # which the simulator explains
        self.simulator.set_refill_pace(wanted)

    def get_state(self) -> dict[str, Any]:
        """Everything that decides what happens next, as NumPy arrays and plain values."""
        return checkpoint.get_state(self)

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continue, bit for bit, from the :meth:`get_state` of an equally made environment.

        Raises:
            CheckpointError: the state is truncated, or belongs to another environment.
        """
        checkpoint.set_state(self, state)

    def __getstate__(self) -> dict[str, Any]:
        # Views of one buffer would be copied apart, and threads cannot be copied at all.
        return {**self.__dict__, "simulator": self.simulator.snapshot()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.simulator = Simulator(self.scenario, self.clusters, self._threads)
        self.simulator.restore(state["simulator"])

    def _resting(self) -> Mask:
        """Clusters that this step resets instead of running."""
        if self._window is None:
            raise ResetNeeded("no episode has begun; call reset() before step()")
        if self.autoreset_mode is AutoresetMode.DISABLED and self._ended.any():
            rows = np.flatnonzero(self.layout.per_row(self._ended)).tolist()
            raise ResetNeeded(
                f"the episode of row {rows[0]} is over ({len(rows)} such rows) and autoreset is "
                'disabled; call reset(), or reset(options={"reset_mask": truncated})'
            )
        return self._ended

    def _advance(self, targets: Floats, resting: Mask) -> Floats:
        """Simulate a window; clusters that rest are reset instead.

        Args:
            targets: (B, M) EMB shares that are asked for.
            resting: (B,) what :meth:`_resting` said.

        Returns:
            (B, M) the shares that were in force before.
        """
        running, before, some_rest = ~resting, self._shares, bool(resting.any())
        moved = move(self.scenario.episode, before, targets)
        self._shares = np.where(running[:, None], moved, before) if some_rest else moved
        self.telemetry = self.simulator.step(self._shares, running if some_rest else None)
        self.previous_share = before
        self._window = self.telemetry
        self._elapsed += running
        self._observer.follow(self._window, running)
        if some_rest:
            self._begin(resets.Chosen(resting))
        self._ended = self._elapsed >= self.scenario.episode.steps
        return before

    def _generator(self, cluster: int) -> np.random.Generator:
        known = self._generators[cluster]
        if known is None:
            known, self._seeds[cluster] = seeding.np_random()
            self._generators[cluster] = known
        return known

    def _begin(self, chosen: resets.Chosen) -> None:
        """Put the chosen clusters on a warm start, each drawn from its own generator."""
        episode = self.scenario.episode
        share = episode.initial_share if chosen.share is None else chosen.share
        for cluster in np.flatnonzero(chosen.clusters).tolist():
            rng = self._generator(cluster)
            streams, drawn = draw_streams(rng), int(rng.integers(episode.warm_starts))
            start = drawn if chosen.start is None else chosen.start
            self.simulator.reset(cluster, streams, start, share)
        fresh = chosen.clusters
        self._shares = np.where(fresh[:, None], share, self._shares)
        self._elapsed = np.where(fresh, 0, self._elapsed)
        self._ended = self._ended & ~fresh
        self._window = resets.with_warm_up(self.simulator, self._window, fresh)
        self._observer.start(self._window, fresh)
