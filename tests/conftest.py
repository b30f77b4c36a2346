"""Fixtures that several test files use."""

from __future__ import annotations

import copy
import signal
from typing import Any

import pytest

from helm_gym.config.scenario import Scenario

# A shell starts jobs in the background with Ctrl-C ignored, and tests that press it would wait.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

TINY: dict[str, Any] = {
    "name": "tiny",
    "nodes": 4,
    "hardware": {"gpu": "a100-80gb", "host": "shared-link", "model": "hstu-8x1024"},
    "extrapolates": ["incremental.n_cached", "incremental.n_new"],
    "memory": {"weights_gb": 2, "workspace_gb": 12, "reserve_gb": 6, "pool_gb": 4},
    "emb": {
        "table_gb": 6,
        "shards": 64,
        "candidate_row_bytes": 8192,
        "history_row_bytes": 2048,
        "bytes_per_key": 512,
    },
    "kv": {"ghost_gb": 0.5},
    "slo": {"p99_ms": 30, "deadline_ms": 150},
    "workload": {
        "profile": {
            "name": "tiny",
            "popularity": {
                "catalogue_items": 4000,
                "exponent": 1.0,
                "shift_items": 20,
                "own_interest_share": 0.5,
                "interest_spread": 1.0,
                "interest_groups": 4,
            },
            "history": {"log_mean": 8.0, "log_sigma": 0.4, "shortest": 1024},
            "activity_sigma": 0.8,
            "session_length": {"log_mean": 1.5, "log_sigma": 0.5},
            "gap": {"log_mean": 0.0, "log_sigma": 1.0, "cut_s": 60},
            "between_sessions": {"log_mean": 6.0, "log_sigma": 1.0},
            "new_items_per_request": 1.1,
            "interest_half_life_s": 3600,
            "hourly": [1.0] * 24,
        },
        "users": 2000,
        "surfaces": [{"name": "A", "candidates": 1024}, {"name": "B", "candidates": 4096}],
        "load": 0.9,
        "capacity_rps_per_node": 100,
    },
    "episode": {"step_s": 5, "steps": 6, "warmup_s": 10, "warm_starts": 2},
}


@pytest.fixture
def tiny_scenario() -> dict[str, Any]:
    """Four nodes and some 200 requests/s: a step takes well under a millisecond."""
    return copy.deepcopy(TINY)


@pytest.fixture
def tiny(tiny_scenario: dict[str, Any]) -> Scenario:
    """The tiny scenario, validated."""
    return Scenario.load(tiny_scenario)
