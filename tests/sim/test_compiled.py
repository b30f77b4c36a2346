"""Decorators of kernels: which have a way in from Python, and what the others answer."""

from __future__ import annotations

import numpy as np
import pytest

from helm_gym.provenance import cache_folder, imported_modules
from helm_gym.sim import compiled
from helm_gym.sim.compiled import exposed, inlined, inner, kernel


@inner
def _half(x: float) -> float:
    return 0.5 * x


@inlined
def _twice(x: float) -> float:
    return 2.0 * x


@exposed
def _more(x: float) -> float:
    return x + 1.0


@kernel
def _all(x: float) -> float:
    return _more(_twice(_half(x)))


def test_a_kernel_calls_what_python_cannot() -> None:
    assert _all(3.0) == 4.0
    assert _more(1.0) == 2.0


@pytest.mark.parametrize("function", [_half, _twice])
def test_without_a_way_in_there_is_an_error_and_no_crash(function: object) -> None:
    with pytest.raises(TypeError, match="only; call its"):
        function(1.0)  # type: ignore[operator]
    assert np.isfinite(function.py_func(1.0))  # type: ignore[attr-defined]


def test_machine_code_lies_under_the_digest_of_what_its_module_imports() -> None:
    folder = compiled.kernel_folder("helm_gym.agents.controller.path")
    assert folder.parent == cache_folder() / "kernels"
    assert folder == compiled.kernel_folder("helm_gym.agents.controller.path")
    assert folder.name != compiled.kernel_folder("helm_gym.sim.kernel").name
    # A constant that decide_nodes takes in lies three modules away.
    assert "helm_gym.envs.action" in imported_modules("helm_gym.agents.controller.path")
