"""Where a result comes from: digests of the code that made it, versions, and the machine.

One rule decides whether stored rows, searches, schedules, kernels or pages are still valid: the
digest of the modules that really make them. :func:`code_digest` follows the imports of a module
below ``helm_gym``, those inside functions too, and hashes the syntax tree of every module it meets.
Docstrings and comments are left out, so rewording them changes nothing. The names that a package's
``__init__`` re-exports are not followed, because our own code imports the defining module.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import json
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import platformdirs

from helm_gym._version import __version__
from helm_gym.files import write_text

PACKAGE = "helm_gym"
DIGITS = 16  # hexadecimal digits of a digest
EPISODE = "helm_gym.runs.rollout"
"""Module that plays episodes; its digest covers everything between a scenario and its figures."""
# Fields of the syntax tree that say nothing about what runs, or differ between Python versions.
_IGNORED = {"ctx", "kind", "type_comment", "type_ignores"}
_SCHEME = "1"  # change it when the digest of a syntax tree is made differently

Read = Callable[[Path], bytes]


class Source(NamedTuple):
    """What a module's text says: the digest of its syntax tree, and what it imports."""

    digest: str
    imports: tuple[tuple[int, str, str], ...]  # (leading dots, module, name or "")


def code_digest(*modules: str, read: Read = Path.read_bytes) -> str:
    """Digest of modules and of all modules below ``helm_gym`` that they import.

    Args:
        modules: dotted names; :data:`EPISODE` if none is given.
        read: returns the bytes of a file; tests pass one that plants an edit.

    Returns:
        16 hexadecimal digits, equal on all Python versions for equal code.
    """
    if read is Path.read_bytes:
        return _remembered(modules or (EPISODE,))
    return _digest(modules or (EPISODE,), read)


@cache
def _remembered(modules: tuple[str, ...]) -> str:
    return _digest(modules, Path.read_bytes)


def _digest(modules: Sequence[str], read: Read) -> str:
    total = hashlib.sha256(_SCHEME.encode())
    for name in imported_modules(*modules, read=read):
        total.update(f"{name} {_source_of(module_file(name), read).digest}\n".encode())
    return total.hexdigest()[:DIGITS]


def imported_modules(*modules: str, read: Read = Path.read_bytes) -> list[str]:
    """Names of modules and of all modules below ``helm_gym`` that they import, sorted."""
    found: set[str] = set()
    left = list(modules)
    while left:
        name = left.pop()
        file = module_file(name)
        if name in found or file is None:
            continue
        found.add(name)
        if file.name != "__init__.py" or name in modules:
            left += _targets(name, file, _source_of(file, read))
    return sorted(found)


@cache
def _folders() -> dict[str, Path]:
    """Folders of ``helm_gym`` and of the packages that lie beside it in a checkout."""
    found = {PACKAGE: Path(__file__).parent}
    for name in ("envs", "agents", "baselines"):
        spec = importlib.util.find_spec(f"{PACKAGE}.{name}")  # does not import it
        if spec is not None and spec.submodule_search_locations:
            found[f"{PACKAGE}.{name}"] = Path(next(iter(spec.submodule_search_locations)))
    return found


def module_file(module: str) -> Path | None:
    """File of a module below ``helm_gym``; None if there is none of that name."""
    package = max((p for p in _folders() if f"{module}.".startswith(f"{p}.")), key=len, default="")
    if not package:
        return None
    path = _folders()[package].joinpath(*module.split(".")[package.count(".") + 1 :])
    for file in (path / "__init__.py", path.with_suffix(".py")):
        if file.is_file():
            return file
    return None


def _targets(importer: str, file: Path, source: Source) -> list[str]:
    """Modules below ``helm_gym`` that a module imports."""
    found = []
    package = importer if file.name == "__init__.py" else importer.rpartition(".")[0]
    for dots, module, name in source.imports:
        base = module
        if dots:
            above = package.split(".")[: package.count(".") + 2 - dots]
            base = ".".join([*above, module] if module else above)
        if base.split(".")[0] != PACKAGE:
            continue
        inner = f"{base}.{name}"
        found.append(inner if name and module_file(inner) is not None else base)
    return found


# Syntax trees


def _source_of(file: Path | None, read: Read) -> Source:
    assert file is not None
    text = read(file)
    key = hashlib.sha256(text).hexdigest()
    if key not in _memory():
        tree = ast.parse(text)
        _memory()[key] = Source(syntax_digest(tree), tuple(_imports(tree)))
    return _memory()[key]


def syntax_digest(tree: ast.AST) -> str:
    """Digest of a syntax tree without docstrings, comments and positions."""
    total = hashlib.sha256()
    for part in _parts(tree):
        total.update(part.encode("utf-8", "surrogatepass") + b"\0")
    return total.hexdigest()


def _parts(value: Any) -> Iterator[str]:
    """What a syntax tree holds, in order; alike on all Python versions that we support."""
    if isinstance(value, ast.AST):
        yield f"({type(value).__name__}"
        for name in value._fields:
            inner = getattr(value, name, None)
            if isinstance(value, ast.JoinedStr):
                inner = _whole_texts(inner)
            if name not in _IGNORED and inner is not None and inner != []:
                yield name
                yield from _parts(inner)
        yield ")"
    elif isinstance(value, list):
        yield "["
        for item in value:
            if not _is_text(item):
                yield from _parts(item)
        yield "]"
    else:
        yield f"{type(value).__name__} {value!r}"


def _whole_texts(values: Any) -> list[Any]:
    """Pieces of an f-string with texts side by side joined: Python 3.12 cuts them elsewhere."""
    joined: list[Any] = []
    for piece in values:
        last = joined[-1] if joined else None
        if isinstance(piece, ast.Constant) and isinstance(last, ast.Constant):
            joined[-1] = ast.Constant(str(last.value) + str(piece.value))
        elif not (isinstance(piece, ast.Constant) and piece.value == ""):
            joined.append(piece)
    return joined


def _is_text(node: Any) -> bool:
    """Whether a statement is a bare string: a docstring, or the comment of a constant."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _imports(tree: ast.AST) -> Iterator[tuple[int, str, str]]:
    """Imports of a module, those inside functions too, but not those for type checkers."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.level, node.module or "", alias.name) for alias in node.names)
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for other in node.orelse:
                yield from _imports(ast.Module([other], []))
        else:
            yield from _imports(node)


@cache
def _memory() -> dict[str, Source]:
    """Sources by the SHA-256 of their text, as far as earlier processes parsed them.

    Parsing all of them takes over a second, which every process that simulates would pay.
    """
    global _written
    try:
        kept = {
            str(key): Source(str(digest), tuple((int(d), str(m), str(n)) for d, m, n in imports))
            for key, (digest, imports) in json.loads(_memory_file().read_text("utf-8")).items()
        }
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
    _written = len(kept)
    return kept


def _memory_file() -> Path:
    return cache_folder() / f"syntax-{_SCHEME}.json"


def remember_sources() -> None:
    """Keep what was parsed for later processes, if the folder can be written."""
    global _written
    if len(_memory()) <= _written:
        return
    _written = len(_memory())
    try:
        _memory_file().parent.mkdir(parents=True, exist_ok=True)
        write_text(_memory_file(), json.dumps(_memory()))
    except OSError:
        pass  # read-only: the next process parses again


_written = 0  # sources that the file held when it was last read or written


def cache_folder() -> Path:
    """Folder for what can be made again: compiled kernels, digests of sources."""
    return Path(os.environ.get("NUMBA_CACHE_DIR") or platformdirs.user_cache_dir("helm-gym"))


@cache
def presets_digest() -> str:
    """Digest of the presets that come with the package: hardware, profiles and scenarios."""
    total = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.yaml")):
        total.update(path.name.encode() + path.read_bytes())
    return total.hexdigest()[:DIGITS]


# Policies


def policy_digest(spec: str, policy: Any) -> str:
    """Digest of what a policy is: its spec, its code, its files, and the policies inside it.

    A model file counts by its content, wherever it lies.

    Args:
        spec: as the policy was asked for; the path of a model file in it does not count.
        policy: the policy itself. Policies inside it are found as its ``base``.
    """
    file = _model_file(spec, policy)
    total = hashlib.sha256((spec.partition(":")[0] if file else spec).encode())
    for part in _chain(policy):
        total.update(_code_of(type(part)).encode())
        inside = _model_file(spec if part is policy else "", part)
        if inside is not None:
            total.update(inside.read_bytes())
    return total.hexdigest()[:DIGITS]


def _chain(policy: Any) -> Iterator[Any]:
    """A policy and those inside it, from the outermost on."""
    while hasattr(policy, "act"):
        yield policy
        policy = getattr(policy, "base", None)


def _code_of(cls: type) -> str:
    """Digest of the code behind a class; its name where there is no source."""
    if cls.__module__.split(".")[0] == PACKAGE:
        return code_digest(cls.__module__)
    try:
        tree = ast.parse(Path(inspect.getfile(cls)).read_bytes())
    except (OSError, TypeError, SyntaxError):
        return cls.__qualname__
    ours = sorted({t for t in _targets("", Path("x.py"), Source("", tuple(_imports(tree))))})
    return syntax_digest(tree) + (code_digest(*ours) if ours else "")


def _model_file(spec: str, policy: Any) -> Path | None:
    for found in (getattr(policy, "path", None), spec.partition(":")[2] or None):
        if isinstance(found, (str, Path)) and Path(found).is_file():
            return Path(found)
    return None


# Versions and machine


def versions(*packages: str) -> dict[str, str]:
    """Versions of helm_gym, Python and packages by name; one that is not installed is left out.

    Args:
        packages: distributions that have a part in a result; ``numpy`` and ``numba`` by default.
    """
    found = {"helm_gym": __version__, "python": platform.python_version()}
    for package in packages or ("numpy", "numba"):
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def machine() -> str:
    """Processor, cores, system and Python, in words."""
    processor = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        named = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        processor = named[0].partition(":")[2].strip() if named else processor
    cores = f"{os.cpu_count()} cores"
    return f"{processor}, {cores}, {platform.system()}, Python {platform.python_version()}"
