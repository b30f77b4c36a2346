"""The one decorator for kernels, and where their machine code is cached.

Numba does not notice that a callee in another file changed, or a constant that a kernel takes in.
So each module's cache folder carries the digest of all code that the module imports: an edit of any
of it compiles the module's kernels anew, and rewording a comment does not.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing import parent_process
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
from numba import types
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import register_pass
from numba.core.registry import CPUDispatcher
from numba.core.typed_passes import NativeLowering
from numba.np import arrayobj

from helm_gym.provenance import cache_folder, code_digest, remember_sources

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])
settings: Any = numba.config  # its options are set at import and invisible to type checkers
Lowering: Any = NativeLowering  # numba's own classes have no types
Passes: Any = DefaultPassBuilder
register: Any = register_pass
indexing: Any = arrayobj
_make_function: Any = importlib.import_module("numba._dynfunc").make_function


# The numba whose inner parts the classes below replace. Any other compiles as it does by default:
# the same machine code in the end, in about twice the time.
TAILORED = numba.__version__.startswith("0.68.")
LARGEST = "kernel.step-*.nbi"  # what the cache has where the kernels have been compiled before
SIMULATOR = "helm_gym.sim."  # the modules whose every index check-bounds has seen
SAID = "HELM_GYM_COMPILES"  # set where this process, or the one that started it, has said so
_outlined: set[Any] = set()  # functions that callers do not take in


def kernel_folder(module: str) -> Path:
    """Folder of the machine code of a module's kernels."""
    checked = "with bounds checks" if settings.BOUNDSCHECK else ""  # numba's key leaves it out
    about = f"{numba.__version__} {code_digest(module)}{checked}"
    remember_sources()
    return (
        cache_folder() / "kernels" / f"{module}-{hashlib.sha256(about.encode()).hexdigest()[:16]}"
    )


def _say_that_it_compiles() -> None:
    """Tell the user once, also of many processes, why the first run seems to hang."""
    folder = kernel_folder("helm_gym.sim.kernel")
    if os.environ.get(SAID) or any(folder.rglob(LARGEST)):
        return
    os.environ[SAID] = "1"  # processes that this one starts inherit it
    if parent_process() is not None:  # of the workers of one parent the first one speaks
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"said-to-{os.getppid()}").touch(exist_ok=False)
        except OSError:
            return
    print(
        "helm-gym: compiling the simulator for this machine, once, for some 20 to 60 s; "
        f"it is kept in {cache_folder()}",
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


@contextmanager
def _indices_as_they_are(function: Callable[..., Any]) -> Iterator[None]:
    """Compile ``array[i]`` in the simulator without asking whether ``i`` counts from the end.

    No index there is negative (``helm-gym check-bounds`` refuses any), and to ask for every access
    costs a request some 5 % of its time. Kernels of other rooms may count from the end. Numba
    compiles under a lock of its own, so no function of the user's meets this.
    """
    if not function.__module__.startswith(SIMULATOR):
        yield
        return

    def as_it_is(context: Any, builder: Any, kind: Any, index: Any, size: Any) -> Any:
        return context.cast(builder, index, kind, types.intp if kind.signed else types.uintp)

    before, indexing.fix_integer_index = indexing.fix_integer_index, as_it_is
    try:
        yield
    finally:
        indexing.fix_integer_index = before


@register(mutates_CFG=True, analysis_only=False)
class _LowerForPython(NativeLowering):
    """Numba's own lowering, but for indices."""

    _name = "lower_for_python"

    def run_pass(self, state: Any) -> bool:
        """Add the lowered kernel to ``state``."""
        with _indices_as_they_are(state.func_id.func):
            return bool(Lowering.run_pass(self, state))


@register(mutates_CFG=True, analysis_only=False)
class _LowerForCallers(NativeLowering):
    """Lower a kernel to LLVM code that callers take in."""

    _name = "lower_for_callers"

    def run_pass(self, state: Any) -> bool:
        """Add the lowered kernel to ``state``."""
        name = state.func_id.func_qualname
        unfinished: Any = _Unfinished
        library = state.library = unfinished(state.targetctx.codegen(), name)
        state.flags.no_compile = True
        with _indices_as_they_are(state.func_id.func):
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


def _with_lowering(state: Any, lowering: type[Any]) -> Any:
    """Numba's passes with another one that lowers."""
    passes = Passes.define_nopython_pipeline(state)
    where = [step for step, _ in passes.passes].index(NativeLowering)
    passes.passes[where] = (lowering, lowering._name)
    passes._finalized = False
    passes.finalize()
    return passes


class _ForCallers(CompilerBase):
    """Numba's compiler, with the pass above in place of its own."""

    def define_pipelines(self) -> list[Any]:
        """Return the passes."""
        return [_with_lowering(self.state, _LowerForCallers)]


class _ForPython(CompilerBase):
    """Numba's compiler, announced: it is asked only for what the cache does not have."""

    def define_pipelines(self) -> list[Any]:
        """Return the passes."""
        _say_that_it_compiles()
        if not TAILORED:
            return [Passes.define_nopython_pipeline(self.state)]
        return [_with_lowering(self.state, _LowerForPython)]


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
    before, settings.CACHE_DIR = settings.CACHE_DIR, str(kernel_folder(function.__module__))
    try:
        entry = jit(cache=True, pipeline_class=_ForPython)(function)
    finally:
        settings.CACHE_DIR = before  # the user's own functions keep their folder
    entry.__class__ = _Kernel
    tailored = {"pipeline_class": _ForCallers} if TAILORED else {}
    entry.callee = jit(no_cpython_wrapper=True, **tailored)(function)
    return cast(FunctionT, entry)


def kernel(function: FunctionT) -> FunctionT:
    """Compile ``function`` without the GIL, cached on disk in :func:`kernel_folder`."""
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
