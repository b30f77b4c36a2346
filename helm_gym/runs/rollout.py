"""Run a policy on seeds and keep everything that tables and plots need.

Every policy meets the same requests: a seed fixes the request stream and the warm start, and
nothing that a policy does reaches the random streams. Only the view of the environment differs
(``control`` and ``observation``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from helm_gym.config.scenario import Scenario
from helm_gym.envs.reward import DEFAULT, RewardConfig
from helm_gym.envs.vector_env import EmbKvVectorEnv
from helm_gym.errors import ConfigError
from helm_gym.metrics import EpisodeMetrics, window_metrics
from helm_gym.policy import (
    Policy,
    checked_act,
    checked_reset,
    initial_share_of,
    refill_pace_of,
    router_of,
    view_of,
)
from helm_gym.runs.figures import extra_figures, tail_ms, uncounted_windows, window_tails
from helm_gym.sim.layout import Node

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
Tick = Callable[[], None]


@dataclass(frozen=True)
class Episode:
    """One policy on one seed; T windows, M nodes."""

    spec: str
    seed: int
    figures: dict[str, float]  # METRICS and EXTRA over the counted windows
    series: dict[str, Floats]  # name -> (T,) METRICS, tail_ms and the reward of every window
    shares: Floats  # (T, M) EMB share in force
    latency: Counts  # (L,) histogram of admitted requests in counted windows
    warm: Counts  # (L,) of them, warm ones
    uncounted: int = 0  # windows at the beginning that no figure counts


def run_policy(
    scenario: Scenario,
    policy: Policy,
    name: str,
    seeds: Sequence[int],
    *,
    reward: str | Mapping[str, Any] | RewardConfig = DEFAULT,
    threads: int = 1,
    tick: Tick | None = None,
) -> list[Episode]:
    """Run one episode per seed.

    Args:
        scenario: what is simulated.
        policy: who decides.
        name: its name in errors and results, the spec as a rule.
        seeds: one cluster each, side by side.
        reward: what the reward column sums.
        threads: simulator threads; results do not depend on it.
        tick: called after every window, to move a progress bar.

    Raises:
        ConfigError: the policy asks for what the scenario cannot be, or no window would count.
        PolicyError: the policy raised, or returned something that is no action.
    """
    uncounted_windows(scenario)  # before anything takes time
    control, observation = view_of(policy)
    try:
        env = EmbKvVectorEnv(
            len(seeds),
            scenario=with_router(scenario, policy),
            control=control,
            observation=observation,
            reward=reward,
            autoreset_mode=AutoresetMode.DISABLED,
            threads=threads,
        )
    except ConfigError as error:
        raise ConfigError(
            f"policy {name!r} asks for an environment that cannot be: {error}"
        ) from None
    try:
        return _run(env, policy, name, seeds, tick or (lambda: None))
    finally:
        env.close()


def starting_share(scenario: Scenario, policy: Policy) -> float | None:
    """EMB share that a cluster is warmed up with under a policy; None is the scenario's own.

    Where the beginning of an episode is not counted, everybody begins at the scenario's own share
    and has that time to leave it. Elsewhere a policy may say where it begins, as far as the
    scenario allows that share.
    """
    share = initial_share_of(policy)
    if share is None or scenario.episode.uncounted:
        return None
    return float(np.clip(share, scenario.episode.share_min, scenario.episode.share_max))


def with_router(scenario: Scenario, policy: Policy) -> Scenario:
    """The scenario with the router that a policy states in ``router``, if it states one.

    Some systems are a split and a router together, KV-Opt for one. A policy without the attribute
    is run with the scenario's router.
    """
    router = router_of(policy)
    if router is None or router == scenario.router.name:
        return scenario
    return scenario.replace({"router.name": router})


def _run(
    env: EmbKvVectorEnv, policy: Policy, name: str, seeds: Sequence[int], tick: Tick
) -> list[Episode]:
    share, uncounted = starting_share(env.scenario, policy), uncounted_windows(env.scenario)
    checked_reset(policy, name, seeds[0])
    options: dict[str, Any] = {} if share is None else {"share": share}
    obs, _ = env.reset(seed=list(seeds), options=options)
    shape = (env.num_envs, env.layout.shares_per_row)
    totals = [EpisodeMetrics(env.scenario) for _ in seeds]
    windows: list[dict[str, Floats]] = []
    shares: list[Floats] = []
    over = False
    while not over:
        shares_asked = checked_act(policy, name, obs, shape)
        pace = refill_pace_of(policy)
        if pace is not None:
            env.set_refill_pace(pace)
        obs, rewards, _, truncated, _ = env.step(shares_asked)
        assert env.telemetry is not None
        if len(windows) >= uncounted:
            for row, total in enumerate(totals):
                total.add(env.telemetry, env.previous_share, row)
        figures = window_metrics(env.scenario, env.telemetry, env.previous_share)
        shed, deadline_ms = env.telemetry.total[:, Node.SHED], env.scenario.slo.deadline_ms.value
        latency = env.telemetry.latency
        figures["tail_ms"] = window_tails(figures["p99_ms"], latency, shed, deadline_ms)
        figures["reward"] = env.layout.per_cluster(np.asarray(rewards, np.float64)).mean(axis=1)
        windows.append(figures)
        shares.append(env.shares)
        over = bool(truncated.all())
        tick()
    return [
        _episode(env.scenario, name, seed, totals[row], windows, shares, row)
        for row, seed in enumerate(seeds)
    ]


def _episode(
    scenario: Scenario,
    name: str,
    seed: int,
    total: EpisodeMetrics,
    windows: Sequence[Mapping[str, Floats]],
    shares: Sequence[Floats],
    row: int,
) -> Episode:
    series = {key: np.array([w[key][row] for w in windows]) for key in windows[0]}
    figures = total.result()
    figures["tail_ms"] = tail_ms(
        total.latency, figures["shed_rate"], scenario.slo.deadline_ms.value
    )
    in_force, uncounted = np.stack([s[row] for s in shares]), uncounted_windows(scenario)
    figures |= extra_figures(scenario, series, in_force, uncounted)
    return Episode(
        spec=name,
        seed=seed,
        figures=figures,
        series=series,
        shares=in_force,
        latency=total.latency.copy(),
        warm=total.warm.copy(),
        uncounted=uncounted,
    )
