"""Invented rows of a benchmark, with policies whose true scores are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from helm_gym.benchmark.rows import COLUMNS, SERIES, write_rows
from helm_gym.metrics import METRICS
from helm_gym.sim.layout import N_BINS
from helm_gym.sim.stages import bin_edge

CELLS = ("paper-v2-taobao-steady", "paper-v2-taobao-trend")
LOADS = (0.7, 0.95)
ROUTERS = ("helm_score", "predicted_completion")
SEEDS = (20_000, 20_001, 20_002, 20_003)
TRUE = {"static:best": 1.0, "better": 0.8, "worse": 1.3}
WINDOWS = 12


def row(cell: str, load: float, router: str, policy: str, seed: int, **own: Any) -> dict[str, Any]:
    """One row with every column."""
    figures = {name: 1.0 for name in METRICS}
    return {
        "suite": "paper-v2",
        "cell": cell,
        "load": load,
        "router": router,
        "policy": policy,
        "spec": "static:0.45" if policy == "static:best" else policy,
        "seed": seed,
        "status": "ok",
        "reason": "",
        "held_out": cell.endswith("trend"),
        "steps": WINDOWS,
        "key": f"{cell}/{load}/{router}/{policy}/{seed}",
        "scenario_digest": f"digest of {cell} {load} {router}",
        "policy_digest": f"digest of {policy}",
        "asked_digest": policy,
        "code_digest": "c0de",
        "helm_gym": "1.2.3",
        "numpy": "2.0",
        "numba": "0.61",
        "python": "3.11",
        "requests": 1000,
        "decision_p50_us": 10.0,
        "decision_p99_us": 30.0,
        "wall_s": 0.5,
        "reward": 1.0,
        **figures,
        **own,
    }


def build(
    true: Mapping[str, float] = TRUE,
    *,
    cells: Sequence[str] = CELLS,
    loads: Sequence[float] = LOADS,
    routers: Sequence[str] = ROUTERS,
    seeds: Sequence[int] = SEEDS,
    noise: float = 0.02,
    random: int = 0,
) -> list[dict[str, Any]]:
    """Rows in which a policy's P99 is its true score times what its run costs any policy.

    Args:
        true: score by policy.
        cells: names.
        loads: of every cell.
        routers: of every cell.
        seeds: of every cell.
        noise: standard deviation of the logarithm of a run's score.
        random: seed of it.
    """
    rng = np.random.default_rng(random)
    rows = []
    for cell in cells:
        for load in loads:
            for router in routers:
                for seed in seeds:
                    base = 20.0 * load * float(np.exp(rng.normal(0.0, 0.3)))
                    for policy, score in true.items():
                        own = 1.0 if policy == "static:best" else np.exp(rng.normal(0.0, noise))
                        p99 = base * score * float(own)
                        figures = {
                            "tail_ms": p99, "p99_ms": p99, "mean_ms": p99 / 3.0, "miss_gb": 40.0,
                            "refill_gb": 2.0, "goodput_rps": 900 * load, "offered_rps": 1e3 * load,
                            "slo_satisfaction": 0.99,
                        }  # fmt: skip
                        rows.append(row(cell, load, router, policy, seed, **figures))
    return rows


def failed(rows: Sequence[Mapping[str, Any]], policy: str, reason: str) -> list[dict[str, Any]]:
    """Rows of one more policy, that failed wherever the others ran."""
    where = {(r["cell"], r["load"], r["router"], r["seed"]) for r in rows}
    nothing = dict.fromkeys([*METRICS, "tail_ms", "reward"])
    return [
        row(cell, load, router, policy, seed, status="failed", reason=reason, **nothing)
        for cell, load, router, seed in sorted(where)
    ]


def with_series(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows with shares over time, and latencies that are exponential around the row's mean."""
    edges_ms = 1e3 * np.array([bin_edge(i) for i in range(N_BINS + 1)])
    found = []
    for one in rows:
        if one["status"] != "ok":
            found.append(dict(one))
            continue
        below = 1.0 - np.exp(-edges_ms / one["mean_ms"])
        found.append(
            {
                **one,
                "share_by_window": np.linspace(0.3, 0.6, WINDOWS).tolist(),
                "p99_by_window": np.linspace(10.0, 20.0, WINDOWS).tolist(),
                "latency": np.round(10_000 * np.diff(below)).astype(int).tolist(),
            }
        )
    return found


def save(rows: Sequence[Mapping[str, Any]], folder: Path, series: bool = False) -> Path:
    """Write rows as helm-gym bench does, and its series too."""
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(rows, folder / "rows.parquet", COLUMNS)
    if series:
        write_rows(with_series(rows), folder / "series.parquet", ("key", *SERIES))
    return folder / "rows.parquet"
