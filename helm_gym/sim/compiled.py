"""The one decorator for kernels, and where their machine code is cached.

Numba does not notice that a callee in another file changed, so the cache folder carries a digest of
every kernel source that others call: an edit anywhere compiles everything anew.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
import platformdirs

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


CALLED = {"envs": ("recovery_machine.py",), "agents": ("residual_net.py", "decision_kernels.py")}
"""Kernels outside this folder that kernels of other files call."""


def _sources() -> Iterator[Path]:
    yield from sorted(Path(__file__).parent.glob("*.py"))
    for package, names in CALLED.items():
        found = importlib.util.find_spec(f"helm_gym.{package}")  # finds it without importing it
        for folder in (found.submodule_search_locations or ()) if found else ():
            yield from (path for name in names if (path := Path(folder, name)).is_file())


def _cache_folder() -> Path:
    digest = hashlib.sha256(numba.__version__.encode())
    for path in _sources():
        digest.update(path.read_bytes())
    root = os.environ.get("NUMBA_CACHE_DIR") or platformdirs.user_cache_dir("helm-gym")
    return Path(root) / f"kernels-{digest.hexdigest()[:16]}"


CACHE_FOLDER = _cache_folder()


def _compile(function: FunctionT, **options: bool) -> FunctionT:
    settings: Any = numba.config  # its options are set at import and invisible to type checkers
    before, settings.CACHE_DIR = settings.CACHE_DIR, str(CACHE_FOLDER)
    try:
        # Without the runtime's reference counts (nothing here allocates) a request is six times
        # cheaper: every call that takes the state would touch some fifty counters atomically.
        jit: Any = numba.njit  # its stub does not know _nrt
        compiled = jit(cache=True, nogil=True, error_model="numpy", _nrt=False, **options)(function)
    finally:
        settings.CACHE_DIR = before  # the user's own functions keep their folder
    return cast(FunctionT, compiled)


def kernel(function: FunctionT) -> FunctionT:
    """Compile ``function`` without the GIL, cached on disk under :data:`CACHE_FOLDER`."""
    return _compile(function)


def inlined(function: FunctionT) -> FunctionT:
    """As :func:`kernel`, but merged into its callers: for what runs once per request."""
    return _compile(function, forceinline=True)
