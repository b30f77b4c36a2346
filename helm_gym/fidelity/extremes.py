"""Random scenarios at the ends of their physical ranges, small enough to be simulated at once."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from helm_gym.config.routers import ROUTERS
from helm_gym.config.scenario import Scenario
from helm_gym.errors import ConfigError
from helm_gym.sim.lowering import lower
from helm_gym.sim.simulator import SETTLE_AT_MOST_S, SETTLE_SESSIONS

BASE = "feasibility"
NODES = (1, 1, 2, 2, 3, 8, 8, 33, 63, 64, 65, 128, 1000, 1024)
SHARDS = (2, 3, 5, 64, 65, 333, 1024, 4096)
MOST_PAGES = 1 << 17  # nodes times shards
MOST_USERS = 1 << 21  # nodes times users
MOST_SETTLING = 1e5  # requests before the first window
SURFACES = ("A", "B")

# Least and greatest value by path; what costs memory or time stops short of its range.
_COEFFICIENT, _RATE = (1e-12, 1e6), (1e-6, 1e12)
_GPU = {
    "gemm": "launch_us tile_half tile_us split_us overlap throttle",
    "prefill": "launch_us step_us tail split_below split_us",
    "incremental": "launch_us rows_us own_ns step_us crowd_us split_us",
}
_GPU_RATES = {
    "gemm": "tflops store_gbps reduce_gbps read_gbps write_gbps",
    "prefill": "tflops query_gbps kv_gbps split_gbps",
    "incremental": "tflops",
}
LIMITS: dict[str, tuple[float, float]] = {
    **{
        f"hardware.gpu.{form}.{n}": _COEFFICIENT
        for form, all_ in _GPU.items()
        for n in all_.split()
    },
    **{
        f"hardware.gpu.{form}.{n}": _RATE for form, all_ in _GPU_RATES.items() for n in all_.split()
    },
    **{f"hardware.gpu.{form}.sms": (1, 1e5) for form in _GPU},
    "hardware.gpu.hstu_factor": (1e-6, 1e6),
    "hardware.host.latency_us": (1e-12, 1e6),
    "hardware.host.miss_gbps": (1e-6, 1e6),
    "hardware.host.bulk_gbps": (1e-6, 1e6),
    "hardware.host.keys_per_s": (1e-6, 1e18),
    "hardware.model.width": (1, 1 << 17),
    "memory.pool_gb": (1e-6, 1e5),
    "emb.table_gb": (1e-6, 1e6),
    "emb.candidate_row_bytes": (1, 1e9),
    "emb.history_row_bytes": (1, 1e9),
    "emb.bytes_per_key": (1, 1e9),
    "emb.heat_half_life_s": (1e-3, 1e9),
    "emb.swap_hysteresis": (1, 1e6),
    "kv.ghost_gb": (1e-6, 1e6),
    "router.affinity_bonus": (0, 1e6),
    "router.overload": (0, 1e6),
    "router.balance_requests": (0, 1e9),
    "router.balance_ratio": (1, 1e6),
    "router.match_threshold": (0, 1),
    "router.overlap_weight": (0, 1e6),
    "router.price_half_life_s": (1e-3, 1e9),
    "router.price_utilisation": (0, 0.999),
    "slo.p99_ms": (1e-3, 1e12),
    "slo.deadline_ms": (1e-3, 1e12),
    "episode.hot_user_s": (1e-3, 1e9),
    "workload.session_start_cv": (0.01, 100),
    "workload.profile.popularity.exponent": (1e-3, 20),
    "workload.profile.popularity.shift_items": (0, 1e12),
    "workload.profile.popularity.own_interest_share": (0, 1),
    "workload.profile.popularity.interest_spread": (0, 100),
    "workload.profile.history.log_mean": (-25, 25),
    "workload.profile.history.log_sigma": (1e-6, 10),
    "workload.profile.activity_sigma": (0, 10),
    "workload.profile.session_length.log_mean": (-25, 4),
    "workload.profile.session_length.log_sigma": (1e-6, 2),  # sessions of at most some 20,000
    "workload.profile.gap.log_mean": (-25, 25),
    "workload.profile.gap.log_sigma": (1e-6, 10),
    "workload.profile.gap.cut_s": (1e-3, 1e8),
    "workload.profile.new_items_per_request": (0, 1e6),
    "workload.profile.interest_half_life_s": (1e-3, 1e9),
}
WHOLE: dict[str, tuple[int, int]] = {
    "hardware.model.layers": (1, 10_000),
    "hardware.model.max_history": (1, 1 << 16),
    "emb.swaps_per_tick": (0, 4096),
    "kv.block_tokens": (1, 1 << 20),
    "workload.users": (1, 1 << 17),
    "workload.profile.popularity.interest_groups": (1, 64),
    "workload.profile.popularity.catalogue_items": (4096, 10**6),
}
KEPT = 0.5  # part of the numbers that stay as they are in BASE


def draw_changes(rng: np.random.Generator, folder: Path) -> dict[str, Any]:
    """Draw what distinguishes a scenario from :data:`BASE`.

    Args:
        rng: draws it.
        folder: where a log to replay is written, if one is drawn.

    Returns:
        Dotted path -> value. The scenario may still be refused: numbers exclude each other.
    """
    changes: dict[str, Any] = {
        path: _extreme(rng, *limits) for path, limits in LIMITS.items() if rng.random() > KEPT
    }
    changes |= {
        path: round(_extreme(rng, *limits)) for path, limits in WHOLE.items() if rng.random() > KEPT
    }
    nodes = int(rng.choice(NODES))
    step_s = 10.0 ** rng.uniform(-3, 3)
    changes |= {
        "nodes": nodes,
        "hardware.gpu.memory_gb": 1e6,
        "emb.shards": min(int(rng.choice(SHARDS)), max(2, MOST_PAGES // nodes)),
        "emb.policy": str(rng.choice(["heat", "lru"])),
        "emb.tick_s": min(max(0.01, step_s / 10 ** rng.uniform(0, 1.5)), 1e5),
        "router.name": str(rng.choice(ROUTERS)),
        "router.spare_only": bool(rng.random() < 0.5),
        "router.staleness_ms": float(rng.choice([0.0, min(500.0, max(0.1, 20.0 * step_s))])),
        "workload.profile.history.shortest": 1,
        "workload.surfaces": [
            {"name": name, "candidates": round(_extreme(rng, 1, 1 << 14))} for name in SURFACES
        ],
        "workload.mix": {},
        "workload.regime": _regime(rng),
        "structure_seed": int(rng.integers(0, 1 << 32)),
        "extrapolates": [],
        "episode": {
            "step_s": step_s,
            "warmup_s": step_s * int(rng.integers(0, 3)),
            "warm_starts": 1,
            "initial_share": float(rng.choice([0.0, 1.0, rng.random()])),
            "share_min": 0.0,
            "share_max": 1.0,
        },
    }
    changes["workload.users"] = min(changes.get("workload.users", 1 << 14), MOST_USERS // nodes)
    changes |= _refill(rng, changes["emb.shards"], changes.get("emb.table_gb", 200.0))
    if changes["workload.regime"]["kind"] != "burst" and rng.random() < 0.15:
        changes["workload.replay"] = _replay(rng, folder)
    return changes


def draw_scenario(rng: np.random.Generator, folder: Path) -> Scenario:
    """Draw a scenario and set its rate so that a few windows are simulated in a second or so.

    Raises:
        ConfigError: what was drawn does not go together.
    """
    changes = draw_changes(rng, folder)
    name = f"extreme-{changes['router.name']}-{changes['workload.regime']['kind']}"
    scenario = Scenario.load(BASE).replace({**changes, "name": name})
    regime, duration = changes["workload.regime"], lower(scenario).session_s
    settling = max(min(SETTLE_SESSIONS * duration, SETTLE_AT_MOST_S), 1e-3)
    peak = min(10.0 ** rng.uniform(1, 4) / scenario.episode.step_s, MOST_SETTLING / settling)
    rate_per_node = peak / max(regime.get("amplitude", 1.0), 1.0) / scenario.nodes
    if rate_per_node < 0.01:
        raise ConfigError(f"{name}: at its lowest rate it would take minutes to settle")
    rate_per_node = min(rate_per_node, 1e6)
    return scenario.replace({"workload.load": 1.0, "workload.capacity_rps_per_node": rate_per_node})


def _extreme(rng: np.random.Generator, low: float, high: float) -> float:
    """An end of a range, or any number in it, where possible evenly over powers of ten."""
    where = rng.random()
    if where < 0.6:
        return low if where < 0.3 else high
    if low > 0.0:
        return math.exp(rng.uniform(math.log(low), math.log(high)))
    return float(rng.uniform(low, high))


def _regime(rng: np.random.Generator) -> dict[str, Any]:
    kind = str(rng.choice(["steady", "phases", "trend", "burst"]))
    if kind == "phases":
        phases = [
            {"duration_s": float(rng.choice([1.0, 1.5, 30.0, 1e5])), "mix": {name: 1.0}}
            for name in SURFACES
        ]
        return {"kind": kind, "phases": phases, "ramp_s": float(rng.choice([0.0, 20.0, 1e6]))}
    if kind == "trend":
        return {
            "kind": kind,
            "speedup": _extreme(rng, 0.01, 1e5),
            "span_hours": float(rng.choice([1e-6, 1.0, 24.0])),
            "drift_half_life_s": float(rng.choice([1e-3, 1e9])),
        }
    if kind == "burst":
        return {
            "kind": kind,
            "amplitude": _extreme(rng, 1e-3, 1e4),
            "on_s": [0.0, float(rng.choice([0.0, 30.0, 1e3]))],
            "off_s": [0.0, float(rng.choice([0.0, 30.0, 1e3]))],
            "cycles": int(rng.choice([1, 8, 100])),
            "new_user_share": _extreme(rng, 0, 1),
            "hot_item_share": _extreme(rng, 0, 1),
            "hot_shards": _extreme(rng, 0, 0.75),
            "hot_focus": _extreme(rng, 0, 1),
            "newcomers": _extreme(rng, 1e-6, 2),
        }
    return {"kind": kind}


def _refill(rng: np.random.Generator, shards: int, table_gb: float) -> dict[str, Any]:
    mode = str(rng.choice(["naive", "throttled", "paced"]))
    if mode != "paced":
        return {"refill": {"mode": mode}}
    shard_mb = table_gb * 1e3 / shards
    chunk = min(max(shard_mb / 10.0 ** rng.uniform(-1, 2), 1e-3), 1e6)
    ends = {"floor": _extreme(rng, 0, 1), "rush": _extreme(rng, 0, 1)}
    return {
        "refill": {"mode": mode, **ends, "patience_s": _extreme(rng, 0, 1e6), "chunk_mb": chunk}
    }


def _replay(rng: np.random.Generator, folder: Path) -> dict[str, Any]:
    """A log of a few thousand events, of users and items or of instants only."""
    kind = str(rng.choice(["interactions", "arrivals"]))
    rows = int(rng.choice([50, 3000]))
    times = np.sort(rng.uniform(0.0, 10.0 ** rng.uniform(0, 6), rows))
    path = folder / f"{kind}.csv"
    if kind == "arrivals":
        lines = ["timestamp", *(f"{t:.6f}" for t in times)]
    else:
        users, items = rng.integers(0, rows // 3, rows), rng.permutation(max(rows, 5000))[:rows]
        lines = ["user_id,item_id,timestamp"]
        lines += [f"{u},{i},{t:.6f}" for u, i, t in zip(users, items, times, strict=True)]
    path.write_text("\n".join(lines) + "\n")
    found: dict[str, Any] = {"path": str(path), "kind": kind}
    if kind == "interactions":
        found |= {"items": "profile", "history": str(rng.choice(["profile", "log"]))}
        found["overlay"] = int(rng.choice([1, 3]))
    return found
