"""One cluster as a plain Gymnasium environment: the one-row view of the vector environment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from helm_gym.config.scenario import Scenario
from helm_gym.envs.arguments import RENDERING, PlainSpec, refuse, takes_env_config
from helm_gym.envs.infos import single_info
from helm_gym.envs.reward import DEFAULT, RewardConfig
from helm_gym.envs.vector_env import EmbKvVectorEnv
from helm_gym.errors import ConfigError, InvalidAction


class EmbKvEnv(gym.Env[NDArray[np.float32], NDArray[Any]]):
    """Split the HBM pool of recommender-serving GPUs between embedding and KV caches.

    ## Description
    A cluster of M nodes serves ranking requests. Each node has one pool of HBM. Its EMB share holds
    hot embedding rows, whose misses are fetched over the host link; the rest holds KV blocks of
    users' histories, whose misses are recomputed on the GPU. Too little EMB and the link
    saturates, too little KV and the GPU does. Which split is best depends on what is asked for, and
    moving the boundary costs: evicted KV at once, and refill copies over the same link. A step is
    one decision period (``episode.step_s``, 5 s) in which every request is simulated.

    Four ids are registered: ``helm_gym/EmbKvAllocation-v0`` has one share for all nodes,
    ``helm_gym/EmbKvAllocationPerNode-v0`` one per node, and the two with ``Discrete`` in their name
    take one of HELM's seven increments in place of a share. All are also in ``gymnasium.make_vec``,
    where ``control="node"`` makes a row of every node.

    ## Action Space
    | Id | Space | Meaning |
    |---|---|---|
    | `EmbKvAllocation-v0` | `Box(0, 1, (1,), float32)` | EMB share wanted on every node |
    | `EmbKvAllocationPerNode-v0` | `Box(0, 1, (M,), float32)` | EMB share wanted on each node |
    | `EmbKvAllocationDiscrete-v0` | `Discrete(7)` | increment of the share of every node |
    | `EmbKvAllocationPerNodeDiscrete-v0` | `MultiDiscrete([7] * M)` | increment on each node |

    The share in force becomes the wanted one, clipped to ``episode.share_min`` and ``share_max``
    (0.1 and 0.9) and at most ``episode.max_step`` away from the last one if that is set. Choices 0
    to 6 want the share in force plus -0.06, -0.04, -0.02, 0, 0.02, 0.04 and 0.06. A learner that
    prefers a symmetric range wraps an environment of shares in
    ``gymnasium.wrappers.RescaleAction(env, -1, 1)``.

    ## Observation Space
    `Box(float32)`. ``observation="paper7"`` gives numbers 0-6, ``"extended"`` all. With
    ``per_node`` every node has its own, as (M, features), or one after the other in a vector with
    ``flat=True`` (as the registered id has it); number 6 is the cluster's in every node.

    | Num | Observation | Min | Max | Unit |
    |---|---|---|---|---|
    | 0 | hot_user_share | 0 | 1 | requests of hot users / arrived |
    | 1 | kv_hit_rate | 0 | 1 | hits / admitted |
    | 2 | emb_hit_rate | 0 | 1 | bytes that hit / bytes looked up |
    | 3 | mean_sequence_length | 0 | 1 | tokens / longest history of the model |
    | 4 | slo_violation_rate | 0 | 1 | requests outside the SLO / arrived |
    | 5 | emb_share | 0 | 1 | EMB share in force |
    | 6 | p99 | 0 | 1 | P99 / (P99 + SLO) |
    | 7 | arrival_rate_fast | 0 | 1 | r / (r + 1), r = 10-s average / nominal rate |
    | 8 | arrival_rate_slow | 0 | 1 | r / (r + 1), r = 120-s average / nominal rate |
    | 9 | link_queue_delay | 0 | 1 | s until the link is free / deadline |
    | 10 | gpu_queue_delay | 0 | 1 | s until the GPU is free / deadline |
    | 11 | link_utilisation | 0 | 2 | link work / time |
    | 12 | gpu_utilisation | 0 | 2 | GPU work / time |
    | 13 | refill_backlog | 0 | 1 | bytes waiting to be copied / pool |
    | 14 | shed_rate | 0 | 1 | shed / arrived |
    | 15 | mean_candidates | 0 | 1 | candidates / most of any surface |
    | 16 | marginal_emb | 0 | 1 | v / (v + 0.01), v = s saved per s by kv.ghost_gb more EMB |
    | 17 | marginal_kv | 0 | 1 | v / (v + 0.01), v = s saved per s by kv.ghost_gb more KV |
    | 18 | mean_latency | 0 | 1 | mean latency / (mean latency + SLO) |
    | 19 | mean_wait | 0 | 1 | mean queueing delay / deadline |
    | 20 | cluster_share | 0 | 1 | EMB share in force, mean over the cluster |

    Hot users are those seen within ``episode.hot_user_s`` (30 s). Values beyond a range are
    clipped to it. When nothing arrived, rates are 0; when all was shed, latencies count as the
    deadline.

    ## Rewards
    A weighted sum of named terms, see :mod:`helm_gym.envs.reward`. The default
    ``"tail_and_refill"`` is -(P99 / SLO + 3 * SLO violations + refilled / pools + share moved), so
    that a move of 0.04 costs 1.2 ms of P99 at an SLO of 30 ms, and its refill as much again.
    ``"paper"`` is HELM's form, SLO satisfaction - 0.1 * max(0, P99 - SLO) / SLO.
    ``info["reward_terms/NAME"]`` is the weighted term NAME; the sum of all in their order is the
    reward.

    ## Starting State
    Caches are warm: a cluster is put on one of ``episode.warm_starts`` snapshots of a warm-up with
    ``episode.initial_share``, drawn with fresh random streams from ``np_random``. The first
    observation describes the warm-up's last window. ``reset(options=...)`` takes ``share`` (EMB
    share of the warm start) and ``start`` (which snapshot). Requests do not depend on actions:
    two policies on one seed meet the same ones.

    ## Episode End
    Truncation after ``episode.steps`` decisions; nothing terminates.

    ## Information
    Every figure of :data:`helm_gym.metrics.METRICS`, for the cluster and the last window, and
    ``reward_terms/NAME`` for every term of the reward, as NumPy scalars. Latency quantiles are NaN
    when no request was served.

    ## Arguments
    ``scenario`` (name, YAML path, mapping or Scenario), ``overrides`` (dotted paths, such as
    ``{"workload.load": 0.95}``), ``control`` (``cluster`` or ``per_node``), ``action`` (``share``
    or ``choice``), ``observation``, ``reward``, ``render_mode`` (``ansi``), ``flat``. Unknown ones
    raise an ArgumentError. A mapping of them may be the first argument, as RLlib passes its
    ``env_config``.

    ## Version History
    * v0: first version.
    """

    metadata: dict[str, Any] = {**RENDERING}  # noqa: RUF012
    spec = PlainSpec()

    @takes_env_config
    def __init__(
        self,
        scenario: str | Mapping[str, Any] | Scenario = "taobao-shift",
        *,
        overrides: Mapping[str, Any] | None = None,
        control: str = "cluster",
        action: str = "share",
        observation: str = "paper7",
        reward: str | Mapping[str, Any] | RewardConfig = DEFAULT,
        render_mode: str | None = None,
        flat: bool = False,
        **unknown: Any,
    ) -> None:
        refuse(type(self), unknown, render_mode)
        if control == "node":
            raise ConfigError(
                'control="node" makes a row of every node, and a single environment has one row; '
                'use EmbKvVectorEnv(control="node"), or control="per_node" here'
            )
        self.vector_env = EmbKvVectorEnv(
            1,
            scenario=scenario,
            overrides=overrides,
            control=control,
            action=action,
            observation=observation,
            reward=reward,
            autoreset_mode=AutoresetMode.DISABLED,
            render_mode=render_mode,
            flat=flat,
        )
        self.render_mode = render_mode
        self.observation_space = self.vector_env.single_observation_space
        self.action_space = self.vector_env.single_action_space

    @property
    def scenario(self) -> Scenario:
        """What is simulated."""
        return self.vector_env.scenario

    @property
    def shares(self) -> NDArray[np.float64]:
        """(M,) EMB shares in force, a copy."""
        return np.asarray(self.vector_env.shares[0])

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begin an episode; see Starting State."""
        super().reset(seed=seed)
        self.vector_env.use_generators([self.np_random], [self.np_random_seed])
        observations, infos = self.vector_env.reset(options=options)
        return observations[0], single_info(infos)

    def step(
        self, action: NDArray[Any]
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Put new shares into force and simulate one window.

        Raises:
            InvalidAction: wrong shape or no action; nothing has been simulated.
            gymnasium.error.ResetNeeded: the episode is over, or none began.
        """
        wanted = self.action_space.shape
        if self.vector_env.action == "share" and np.shape(action) != wanted:
            raise InvalidAction(
                f"the action has shape {np.shape(action)}, but control="
                f"{self.vector_env.control!r} takes shape {wanted}; write np.full({wanted}, 0.5)"
            )
        observations, rewards, _, truncated, infos = self.vector_env.step(
            np.asarray(action)[np.newaxis]
        )
        info = single_info(infos)
        return observations[0], float(rewards[0]), False, bool(truncated[0]), info

    def set_refill_pace(self, pace: NDArray[Any] | float) -> None:
        """Pause or slow refill until another pace is set or the episode ends.

        Args:
            pace: from 0 (paused) to 1, for all nodes or (M,).
        """
        self.vector_env.set_refill_pace(pace)

    def render(self) -> str | None:
        """One line of text about the last window, if ``render_mode`` is ``ansi``."""
        lines = self.vector_env.render()
        return None if lines is None else lines[0]

    def close(self) -> None:
        """Release what the simulator holds."""
        self.vector_env.close()

    def get_state(self) -> dict[str, Any]:
        """Everything that decides what happens next, as NumPy arrays and plain values."""
        return self.vector_env.get_state()

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continue, bit for bit, from the :meth:`get_state` of an equally made environment."""
        self.vector_env.set_state(state)
        self._np_random, self._np_random_seed = (
            self.vector_env.np_random[0],
            self.vector_env.np_random_seed[0],
        )
