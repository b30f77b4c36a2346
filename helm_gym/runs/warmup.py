"""How long helm_gym takes to start: import, first compilation of the kernels, later starts."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from helm_gym.provenance import cache_folder
from helm_gym.runs.rollout import run_policy
from helm_gym.baselines.static import StaticPolicy
from helm_gym.config.scenario import Scenario
from helm_gym.seeding import streams_from_seed
from helm_gym.sim.simulator import Simulator

IMPORT = "import time; t = time.perf_counter(); import helm_gym; print(time.perf_counter() - t)"
# The kernels' share of a start: what warm_up imports is loaded before its clock begins.
WARM_UP = "from helm_gym.runs.warmup import warm_up; print(warm_up()[0])"
SHARE = 0.5


def warm_up() -> tuple[float, Path]:
    """Compile every kernel, or load it from the cache, by playing one tiny episode.

    Returns:
        Seconds it took, and the folder that keeps the machine code.
    """
    began = time.perf_counter()
    tiny = Scenario.load("feasibility").replace(
        {
            "nodes": 2,
            "workload.users": 1000,
            "episode.steps": 1,
            "episode.warmup_s": 5.0,
            "episode.warm_starts": 1,
        }
    )
    run_policy(tiny, StaticPolicy(SHARE), "warm-up", [0])
    simulator = Simulator(tiny)
    simulator.reset(0, streams_from_seed(0), share=SHARE)
    simulator.record(np.full(tiny.nodes, SHARE), 0)
    return time.perf_counter() - began, cache_folder()


def import_seconds() -> float:
    """Time of ``import helm_gym`` in a fresh process."""
    return _python(IMPORT)


def compile_seconds() -> tuple[float, float]:
    """:func:`warm_up` in two fresh processes: with an empty cache, and with what the first left."""
    with tempfile.TemporaryDirectory() as folder:
        return _python(WARM_UP, folder), _python(WARM_UP, folder)


def _python(code: str, cache: str | None = None) -> float:
    """Run ``code`` in a fresh process outside the checkout and read the number it prints."""
    environment = {} if cache is None else {"NUMBA_CACHE_DIR": cache}
    with tempfile.TemporaryDirectory() as elsewhere:
        ran = subprocess.run(
            [sys.executable, "-c", code],
            cwd=elsewhere,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=True,
        )
    return float(ran.stdout)
