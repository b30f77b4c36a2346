"""Decorators of kernels, where their machine code lies, and what the first run says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from helm_gym.provenance import cache_folder, imported_modules
from helm_gym.sim import compiled, kernel
from helm_gym.sim.compiled import inlined, outlined

START = """
import numpy as np
from multiprocessing import get_context
from helm_gym.seeding import Stream
from helm_gym.sim import kernel
def draw(_=0):
    return kernel.new_items(np.zeros(len(Stream), np.uint64), 1.0)
if __name__ == "__main__":
    with get_context("spawn").Pool(2) as pool:
        assert {mine} or pool.map(draw, range(4)) == [1, 1, 1, 1]
        assert not {mine} or [draw(), *pool.map(draw, range(4))] == [1, 1, 1, 1, 1]
"""


@outlined
def _half(x: float) -> float:
    return 0.5 * x


@inlined
def _twice(x: float) -> float:
    return 2.0 * x


@compiled.kernel
def _last(values: np.ndarray) -> float:
    return float(values[-1])


@compiled.kernel
def _all(x: float) -> float:
    return _twice(_half(x)) + _half(x)


def test_every_kernel_is_called_from_kernels_and_from_python() -> None:
    assert _all(3.0) == 4.5
    assert _half(3.0) == 1.5
    assert _twice(3.0) == 6.0


def test_only_the_simulators_kernels_cannot_count_from_the_end() -> None:
    assert _last(np.arange(3.0)) == 2.0
    assert _last.__module__ != compiled.SIMULATOR and not _last.__module__.startswith("helm_gym.")


def test_another_numba_compiles_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "TAILORED", not compiled.TAILORED)

    def half(x: float) -> float:
        return 0.5 * x

    inner = inlined(half)

    def twice_half(x: float) -> float:
        return 2.0 * inner(x)

    assert compiled.kernel(twice_half)(3.0) == 3.0


def test_machine_code_lies_under_the_digest_of_what_its_module_imports() -> None:
    folder = compiled.kernel_folder("helm_gym.agents.controller.path")
    assert folder.parent == cache_folder() / "kernels"
    assert folder == compiled.kernel_folder("helm_gym.agents.controller.path")
    assert folder.name != compiled.kernel_folder("helm_gym.sim.kernel").name
    # A constant that decide_nodes takes in lies three modules away.
    assert "helm_gym.envs.action" in imported_modules("helm_gym.agents.controller.path")


def test_code_with_bounds_checks_has_a_folder_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = compiled.kernel_folder("helm_gym.sim.kernel")
    monkeypatch.setattr(compiled.settings, "BOUNDSCHECK", 1)
    assert compiled.kernel_folder("helm_gym.sim.kernel") != usual


@pytest.mark.parametrize("mine", [True, False], ids=["parent-compiles", "workers-compile"])
def test_the_first_run_says_once_that_it_compiles(tmp_path: Path, mine: bool) -> None:
    script = tmp_path / "start.py"
    script.write_text(START.format(mine=mine))
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    environment.pop(compiled.SAID, None)

    def run() -> str:
        done = subprocess.run(
            [sys.executable, script], env=environment, capture_output=True, text=True, check=True
        )
        return done.stderr

    said = run()
    assert said.count("compiling the simulator") == 1
    assert str(tmp_path / "cache") in said


def test_a_warm_cache_is_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv(compiled.SAID, raising=False)
    folder = compiled.kernel_folder(kernel.__name__) / "sim_0"
    folder.mkdir(parents=True)
    (folder / "kernel.step-1.py311.nbi").touch()
    compiled._say_that_it_compiles()
    assert capsys.readouterr().err == ""
    assert compiled.SAID not in os.environ
