"""A small scenario that loads both caches and both servers, and ways to drive it in tests."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from helm_gym.config.scenario import Scenario
from helm_gym.seeding import streams_from_seed
from helm_gym.sim.params import Params
from helm_gym.sim.simulator import Simulator

SMALL: dict[str, Any] = {
    "name": "small",
    "nodes": 3,
    "hardware": {"gpu": "a100-80gb", "host": "shared-link", "model": "hstu-5x512"},
    "extrapolates": ["incremental.n_cached", "incremental.n_new", "gemm.m"],
    "memory": {"weights_gb": 2, "workspace_gb": 12, "reserve_gb": 6, "pool_gb": 8},
    "emb": {
        "table_gb": 12,
        "shards": 48,
        "candidate_row_bytes": 8192,
        "history_row_bytes": 2048,
        "bytes_per_key": 512,
        "heat_half_life_s": 4,
        "tick_s": 0.25,
        "swaps_per_tick": 3,
    },
    "kv": {"ghost_gb": 1.0},
    "slo": {"p99_ms": 30, "deadline_ms": 150},
    "workload": {
        "profile": {
            "name": "tiny",
            "popularity": {
                "catalogue_items": 5000,
                "exponent": 0.9,
                "shift_items": 20,
                "own_interest_share": 0.5,
                "interest_spread": 1.0,
                "interest_groups": 4,
            },
            "history": {"log_mean": 8.6, "log_sigma": 0.5, "shortest": 1024},
            "activity_sigma": 0.8,
            "session_length": {"log_mean": 1.2, "log_sigma": 0.6},
            "gap": {"log_mean": -1.0, "log_sigma": 1.0, "cut_s": 5},
            "between_sessions": {"log_mean": 5.0, "log_sigma": 1.0},
            "new_items_per_request": 1.3,
            "interest_half_life_s": 3600,
            "hourly": [0.4 + 0.1 * (hour % 12) for hour in range(24)],
        },
        "users": 300,
        "surfaces": [
            {"name": "A", "candidates": 256},
            {
                "name": "B",
                "candidates": 1024,
                "gap": {"log_mean": -0.5, "log_sigma": 0.8, "cut_s": 4},
                "session_length": {"log_mean": 0.9, "log_sigma": 0.5},
            },
        ],
        "mix": {"A": 2, "B": 1},
        "load": 1.0,
        "capacity_rps_per_node": 150,
    },
    "episode": {"step_s": 0.4, "steps": 8, "warmup_s": 0, "warm_starts": 1},
}

# One of each regime, fast enough that every part of it falls into a few simulated seconds.
REGIMES: dict[str, dict[str, Any]] = {
    "steady": {"kind": "steady"},
    "phases": {
        "kind": "phases",
        "ramp_s": 0.6,
        "phases": [
            {"duration_s": 1, "mix": {"A": 1}, "capacity_rps_per_node": 190},
            {"duration_s": 1, "mix": {"B": 1}, "capacity_rps_per_node": 110},
        ],
    },
    "trend": {
        "kind": "trend",
        "start_hour": 7,
        "span_hours": 4,
        "speedup": 3600,
        "mix_end": {"A": 1, "B": 3},
        "drift_half_life_s": 0.5,
    },
    "burst": {
        "kind": "burst",
        "amplitude": 3,
        "on_s": [1, 1],
        "off_s": [1, 1],
        "cycles": 2,
    },
    "course": {
        "kind": "course",
        "stretches": [
            {"duration_s": 1, "mix": {"A": 1}, "capacity_rps_per_node": 190, "ramp_s": 1},
            {"duration_s": 1, "mix": {"B": 1}, "capacity_rps_per_node": 110, "load": 0.8},
            {
                "duration_s": 1,
                "mix": {"A": 1, "B": 1},
                "capacity_rps_per_node": 150,
                "ramp_s": 0.5,
                "rush": {"surface": "A", "part": 0.4, "who": "newcomers"},
            },
            {
                "duration_s": 1,
                "mix": {"B": 1},
                "capacity_rps_per_node": 120,
                "rush": {"surface": "B", "part": 0.5, "who": "hot_items"},
            },
        ],
        "crowd": {"hot_shards": 0.1},
    },
}


def small_scenario(**changes: Any) -> Scenario:
    """The small scenario with dotted paths replaced: ``small_scenario(**{"nodes": 1})``."""
    scenario = Scenario.load(copy.deepcopy(SMALL))
    return scenario.replace(changes) if changes else scenario


def started(
    scenario: Scenario,
    seed: int = 1,
    *,
    clusters: int = 1,
    threads: int = 1,
    share: float | None = None,
) -> Simulator:
    """A simulator whose clusters stand on their first warm start; cluster i has seed + i."""
    simulator = Simulator(scenario, clusters, threads)
    for cluster in range(clusters):
        simulator.reset(cluster, streams_from_seed(seed + cluster), 0, share)
    return simulator


def with_params(simulator: Simulator, **rooms: dict[str, Any]) -> Params:
    """Change coefficients that no scenario can express, such as ``cost={"link_byte": 0}``."""
    params = simulator.lowered.params
    for room, changes in rooms.items():
        params = params._replace(**{room: getattr(params, room)._replace(**changes)})
    simulator.lowered = simulator.lowered._replace(params=params)
    return params


def wandering_shares(
    seed: int, windows: int, nodes: int, low: float = 0.1, high: float = 0.9
) -> Iterator[NDArray[np.float64]]:
    """EMB shares that change on most nodes in every window, now and then by a lot."""
    rng = np.random.default_rng(seed)
    shares = rng.uniform(low, high, nodes)
    for _ in range(windows):
        yield shares.copy()
        step = rng.uniform(-0.15, 0.15, nodes)
        jump = rng.uniform(low, high, nodes)
        shares = np.clip(np.where(rng.random(nodes) < 0.3, jump, shares + step), low, high)
        shares[rng.integers(nodes)] = shares[0]  # some keep a share, or share one
