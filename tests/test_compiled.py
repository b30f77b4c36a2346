"""Decorators of kernels: which have a way in from Python, and what the others answer."""

from __future__ import annotations

import numpy as np
import pytest

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


def test_the_cache_folder_knows_every_file_it_names() -> None:
    named = {name for names in compiled.CALLED.values() for name in names}
    assert named <= {path.name for path in compiled._sources()}
