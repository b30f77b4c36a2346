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
from numba.core.registry import CPUDispatcher

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


CALLED = {
    "envs": ("recovery_machine.py", "observation.py"),
    "agents": ("residual_net.py", "decision_kernels.py", "telemetry.py"),
}
"""Files outside this folder whose kernels or constants kernels of other files take in."""


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


class _NoEntry(CPUDispatcher):
    """What only kernels can call: machine code without a way in from Python."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(
            f"{self.py_func.__qualname__} is compiled for calls from kernels only; call its "
            ".py_func, or decorate it with @kernel"
        )


def _compile(function: FunctionT, *, entry: bool, **options: bool) -> FunctionT:
    settings: Any = numba.config  # its options are set at import and invisible to type checkers
    before, settings.CACHE_DIR = settings.CACHE_DIR, str(CACHE_FOLDER)
    try:
        # Without the runtime's reference counts (nothing here allocates) a request is six times
        # cheaper: every call that takes the state would touch some fifty counters atomically.
        # Unpacking the state's hundreds of fields from Python, or for C, costs as much to compile
        # as a kernel itself: nobody needs the latter, and only what Python calls the former.
        jit: Any = numba.njit  # its stub does not know _nrt
        compiled = jit(
            cache=True, nogil=True, error_model="numpy", _nrt=False,
            no_cfunc_wrapper=True, no_cpython_wrapper=not entry, **options,
        )(function)  # fmt: skip
    finally:
        settings.CACHE_DIR = before  # the user's own functions keep their folder
    if not entry:
        compiled.__class__ = _NoEntry  # instead of a crash of the process
    return cast(FunctionT, compiled)


def kernel(function: FunctionT) -> FunctionT:
    """Compile ``function`` without the GIL, cached on disk under :data:`CACHE_FOLDER`."""
    return _compile(function, entry=True)


def inner(function: FunctionT) -> FunctionT:
    """As :func:`kernel`, for what only other kernels call: it compiles in half the time."""
    return _compile(function, entry=False)


def inlined(function: FunctionT) -> FunctionT:
    """As :func:`inner`, but merged into its callers: for what runs once per request."""
    return _compile(function, entry=False, forceinline=True)


def exposed(function: FunctionT) -> FunctionT:
    """As :func:`inlined`, but callable from Python too."""
    return _compile(function, entry=True, forceinline=True)
