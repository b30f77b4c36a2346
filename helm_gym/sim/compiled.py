"""The one decorator for kernels, and where their machine code is cached.

Numba does not notice that a callee in another file changed, so the cache folder carries a digest of
every kernel source that others call: an edit anywhere compiles everything anew.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing import parent_process
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
import platformdirs
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import register_pass
from numba.core.registry import CPUDispatcher
from numba.core.typed_passes import NativeLowering

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])
settings: Any = numba.config  # its options are set at import and invisible to type checkers
Lowering: Any = NativeLowering  # numba's own classes have no types
Passes: Any = DefaultPassBuilder
_make_function: Any = importlib.import_module("numba._dynfunc").make_function


CALLED = {
    "envs": ("recovery_machine.py", "observation.py"),
    "agents": ("residual_net.py", "decision_kernels.py", "telemetry.py"),
}
"""Files outside this folder whose kernels or constants kernels of other files take in."""


def _sources() -> Iterator[Path]:
    yield from sorted(Path(__file__).parent.glob("*.py"))
    yield Path(__file__).parents[1] / "config.py"  # RouterId
    for package, names in CALLED.items():
        found = importlib.util.find_spec(f"helm_gym.{package}")  # finds it without importing it
        for folder in (found.submodule_search_locations or ()) if found else ():
            yield from (path for name in names if (path := Path(folder, name)).is_file())


def _cache_folder() -> Path:
    digest = hashlib.sha256(numba.__version__.encode())
    for path in _sources():
        digest.update(path.read_bytes())
    root = os.environ.get("NUMBA_CACHE_DIR") or platformdirs.user_cache_dir("helm-gym")
    checked = "-bounds" if settings.BOUNDSCHECK else ""  # numba's own key leaves it out
    return Path(root) / f"kernels-{digest.hexdigest()[:16]}{checked}"


CACHE_FOLDER = _cache_folder()
LARGEST = "kernel.step-*.nbi"  # what the cache has where the kernels have been compiled before
SAID = "HELM_GYM_COMPILES"  # set where this process, or the one that started it, has said so
_outlined: set[Any] = set()  # functions that callers do not take in


def _say_that_it_compiles() -> None:
    """Tell the user once, also of many processes, why the first run seems to hang."""
    if os.environ.get(SAID) or any(CACHE_FOLDER.rglob(LARGEST)):
        return
    os.environ[SAID] = "1"  # processes that this one starts inherit it
    if parent_process() is not None:  # of the workers of one parent the first one speaks
        try:
            CACHE_FOLDER.mkdir(parents=True, exist_ok=True)
            (CACHE_FOLDER / f"said-to-{os.getppid()}").touch(exist_ok=False)
        except OSError:
            return
    print(
        "helm-gym: compiling the simulator for this machine, once, for some 20 to 60 s; "
        f"it is kept in {CACHE_FOLDER}",
        file=sys.stderr,
        flush=True,
    )


class _Unfinished(JITCodeLibrary):
    """Code of a kernel for its callers, which optimise it and make it executable with their own.

    By default numba does both for every kernel, and again for each of its callers.
    """

    def _optimize_functions(self, module: Any) -> None:
        module.data_layout = self._codegen._data_layout
        codegen: Any = self._codegen
        passes, builder = codegen._function_pass_manager()
        for function in module.functions:
            if not function.is_declaration:
                passes.run(function, builder)

    def finalize(self) -> None:
        """Link what this kernel calls."""
        libraries: list[Any] = self._linking_libraries
        for library in dict.fromkeys(libraries):
            self._final_module.link_in(library._get_module_for_linking(), preserve=True)
        self._finalized = True


@register_pass(mutates_CFG=True, analysis_only=False)
class _LowerForCallers(NativeLowering):
    """Lower a kernel to LLVM code that callers take in."""

    _name = "lower_for_callers"

    def run_pass(self, state: Any) -> bool:
        """Add the lowered kernel to ``state``."""
        name = state.func_id.func_qualname
        unfinished: Any = _Unfinished
        library = state.library = unfinished(state.targetctx.codegen(), name)
        state.flags.no_compile = True
        Lowering.run_pass(self, state)
        library.finalize()
        lowered = state["cr"]
        if state.func_id.func in _outlined:
            body = library.get_function(lowered.fndesc.mangled_name)
            body.add_function_attribute("noinline")
        # The handle by which callers find the code; nobody calls it.
        module = lowered.fndesc.lookup_module()
        handle = _make_function(module, name, "", 0, lowered.env, (library,))
        state.targetctx.insert_user_function(handle, lowered.fndesc, [library])
        state["cr"] = lowered._replace(cfunc=handle)
        return True


class _ForCallers(CompilerBase):
    """Numba's compiler, with the pass above in place of its own."""

    def define_pipelines(self) -> list[Any]:
        """Return the passes."""
        passes = Passes.define_nopython_pipeline(self.state)
        where = [step for step, _ in passes.passes].index(NativeLowering)
        passes.passes[where] = (_LowerForCallers, "lowering for callers")
        passes._finalized = False
        passes.finalize()
        return [passes]


class _ForPython(CompilerBase):
    """Numba's compiler, announced: it is asked only for what the cache does not have."""

    def define_pipelines(self) -> list[Any]:
        """Return the passes."""
        _say_that_it_compiles()
        return [Passes.define_nopython_pipeline(self.state)]


class _Kernel(CPUDispatcher):
    """Compiled with a way in when Python calls it, and without one when another kernel does.

    Unpacking the state's hundreds of fields costs as much to compile as a kernel itself.
    """

    callee: Any

    def get_call_template(self, args: Any, kws: Any) -> Any:
        """What a calling kernel is told of the types."""
        return self.callee.get_call_template(args, kws)

    def get_overload(self, sig: Any) -> Any:
        """What a calling kernel takes in."""
        return self.callee.get_overload(sig)


def _compile(function: FunctionT, **options: bool) -> FunctionT:
    # Without the runtime's reference counts (nothing here allocates) a request is six times
    # cheaper: every call that takes the state would touch some fifty counters atomically.
    options |= {"nogil": True, "_nrt": False, "no_cfunc_wrapper": True}
    jit: Any = partial(numba.njit, error_model="numpy", **options)  # its stub does not know _nrt
    before, settings.CACHE_DIR = settings.CACHE_DIR, str(CACHE_FOLDER)
    try:
        entry = jit(cache=True, pipeline_class=_ForPython)(function)
    finally:
        settings.CACHE_DIR = before  # the user's own functions keep their folder
    entry.__class__ = _Kernel
    entry.callee = jit(no_cpython_wrapper=True, pipeline_class=_ForCallers)(function)
    return cast(FunctionT, entry)


def kernel(function: FunctionT) -> FunctionT:
    """Compile ``function`` without the GIL, cached on disk under :data:`CACHE_FOLDER`."""
    return _compile(function)


def outlined(function: FunctionT) -> FunctionT:
    """As :func:`kernel`, but never merged into its callers: for what runs seldom.

    What calls it stays small enough for the processor's registers, and compiles sooner.
    """
    _outlined.add(function)
    return _compile(function)


def inlined(function: FunctionT) -> FunctionT:
    """As :func:`kernel`, but merged into its callers: for what runs once per request."""
    return _compile(function, forceinline=True)
