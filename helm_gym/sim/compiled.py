"""The one decorator for kernels, and where their machine code is cached.

Numba does not notice that a callee in another file changed, or a constant that a kernel takes in.
So each module's cache folder carries the digest of all code that the module imports: an edit of any
of it compiles the module's kernels anew, and rewording a comment does not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
from numba.core.registry import CPUDispatcher

from helm_gym.provenance import cache_folder, code_digest, remember_sources

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


def kernel_folder(module: str) -> Path:
    """Folder of the machine code of a module's kernels."""
    about = f"{numba.__version__} {code_digest(module)}"
    remember_sources()
    return (
        cache_folder() / "kernels" / f"{module}-{hashlib.sha256(about.encode()).hexdigest()[:16]}"
    )


class _NoEntry(CPUDispatcher):
    """What only kernels can call: machine code without a way in from Python."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(
            f"{self.py_func.__qualname__} is compiled for calls from kernels only; call its "
            ".py_func, or decorate it with @kernel"
        )


def _compile(function: FunctionT, *, entry: bool, **options: bool) -> FunctionT:
    settings: Any = numba.config  # its options are set at import and invisible to type checkers
    before, settings.CACHE_DIR = settings.CACHE_DIR, str(kernel_folder(function.__module__))
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
    """Compile ``function`` without the GIL, cached on disk in :func:`kernel_folder`."""
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
