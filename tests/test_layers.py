"""Reads the imports of the library's source files and proves that dependencies point down.

An import is of one of three kinds: at module level, for type checkers only (under
TYPE_CHECKING), or lazy (inside a function, run when it is called).
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

Kind = Literal["module", "typing", "lazy"]

CHECKOUT = Path(__file__).resolve().parents[1]
# Where each package's files lie; a longer name wins over a shorter one.
FOLDERS = {
    "helm_gym": CHECKOUT / "helm_gym",
    "helm_gym.envs": CHECKOUT / "envs",
    "helm_gym.agents": CHECKOUT / "agents",
    "helm_gym.baselines": CHECKOUT / "baselines",
}
# A module has the floor of its longest prefix here. A new room is entered by hand, on purpose.
# Rooms of one floor are apart by tenths, where an arrow between them is wanted: it goes down.
LAYERS: dict[str, float] = {
    "helm_gym._version": 0,
    "helm_gym.errors": 0,
    "helm_gym.seeding": 0,
    "helm_gym.files": 0,
    "helm_gym.lazy": 0,
    "helm_gym.processes": 0,
    "helm_gym.spec_grammar": 0,
    "helm_gym.units": 0,
    "helm_gym.console": 0,
    "helm_gym.store": 0,
    "helm_gym.state_file": 0,
    "helm_gym.provenance": 0,  # the kernels' cache is keyed by it
    "helm_gym.pages": 0,
    "helm_gym.config": 1,
    "helm_gym.hardware": 1,
    "helm_gym.scenarios": 1,
    "helm_gym.workload": 2,
    "helm_gym.sim": 2.1,
    "helm_gym.metrics": 3,
    "helm_gym.policy": 3,
    "helm_gym.envs": 4,
    "helm_gym.baselines": 5,
    "helm_gym.runs": 5.1,
    "helm_gym.suites": 5.2,
    "helm_gym.hindsight": 5.3,
    "helm_gym.agents": 6,
    "helm_gym.agents.models": 6,
    "helm_gym.agents.adapter": 6.1,
    "helm_gym.agents.layers": 6.2,
    "helm_gym.agents.controller": 6.3,
    "helm_gym.agents.training": 6.4,
    "helm_gym.evaluation": 7,
    "helm_gym.benchmark": 8,
    "helm_gym.studies": 9,
    "helm_gym.fidelity": 9,
    "helm_gym.cli": 10,
}
LEARNING = {"torch", "stable_baselines3"}
# Names that belong to other distributions: ours live inside helm_gym.
FOREIGN = {"envs", "agents", "baselines"}


@dataclass(frozen=True)
class Import:
    importer: str
    target: str
    kind: Kind
    line: int

    def __str__(self) -> str:
        return f"{self.importer}, line {self.line}: imports {self.target} ({self.kind})"


def within(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def layer(module: str) -> float | None:
    """The layer of a library module, or None if the table does not know it."""
    if module == "helm_gym":  # holds exports of layer 0 only: test_the_root_imports_little
        return 0
    known = [name for name in LAYERS if within(module, name)]
    return LAYERS[max(known, key=len)] if known else None


def library_files() -> dict[str, Path]:
    """Dotted name -> file of every library module."""
    files = {}
    for package, folder in FOLDERS.items():
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            files[".".join((package, *parts))] = path
    return files


FILES = library_files()


class ImportReader(ast.NodeVisitor):
    """Collects the imports of one file, each with its kind."""

    def __init__(self, importer: str, is_package: bool) -> None:
        self.importer = importer
        self.package = importer if is_package else importer.rpartition(".")[0]
        self.kind: Kind = "module"
        self.found: list[Import] = []

    def add(self, target: str, line: int) -> None:
        self.found.append(Import(self.importer, target, self.kind, line))

    def inside(self, kind: Kind, nodes: Iterable[ast.AST]) -> None:
        before, self.kind = self.kind, kind
        for node in nodes:
            self.visit(node)
        self.kind = before

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self.inside("lazy", node.body)

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815

    def visit_If(self, node: ast.If) -> None:
        if ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            self.inside("typing", node.body)
            self.inside(self.kind, node.orelse)
        else:
            self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        for name in node.names:
            self.add(name.name, node.lineno)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        base = node.module or ""
        if node.level:
            parts = self.package.split(".")
            above = parts[: len(parts) - node.level + 1]
            base = ".".join([*above, base] if base else above)
        for name in node.names:
            # "from helm_gym import config" reaches the module, not only the package.
            submodule = f"{base}.{name.name}"
            is_module = submodule in FILES or submodule in LAYERS
            self.add(submodule if is_module else base, node.lineno)


def imports_in(source: str, importer: str, is_package: bool = False) -> list[Import]:
    reader = ImportReader(importer, is_package)
    reader.visit(ast.parse(source))
    return reader.found


def library_imports() -> list[Import]:
    return [
        found
        for module, path in FILES.items()
        for found in imports_in(path.read_text("utf-8"), module, path.name == "__init__.py")
    ]


# Each rule answers: does this import break it?


def exports_its_own(found: Import) -> bool:
    """Whether a package names, for type checkers, what one of its own modules defines."""
    path = FILES.get(found.importer)
    is_package = path is not None and path.name == "__init__.py"
    return is_package and found.kind == "typing" and within(found.target, found.importer)


def points_up(found: Import) -> bool:
    if within(found.importer, "helm_gym.cli") or not within(found.target, "helm_gym"):
        return False
    if exports_its_own(found):
        return False
    above, below = layer(found.importer), layer(found.target)
    return above is not None and (below is None or below > above)


def makes_the_cli_slow(found: Import) -> bool:
    if not within(found.importer, "helm_gym.cli") or not within(found.target, "helm_gym"):
        return False
    return found.kind == "module" and not (
        layer(found.target) == 0 or within(found.target, "helm_gym.cli")
    )


def loads_the_root(found: Import) -> bool:
    if found.importer != "helm_gym" or found.kind == "typing":
        return False
    if within(found.target, "helm_gym"):
        return layer(found.target) != 0
    top = found.target.split(".")[0]
    return top not in sys.stdlib_module_names and top != "gymnasium"


def needs_learning_libraries(found: Import) -> bool:
    if not within(found.target, *LEARNING) or within(found.importer, "helm_gym.agents"):
        return False
    lazy_is_enough = within(
        found.importer, "helm_gym.hardware", "helm_gym.state_file", "helm_gym.benchmark",
        "helm_gym.studies",
    )  # fmt: skip
    return found.kind == "module" or not lazy_is_enough


def takes_a_foreign_name(found: Import) -> bool:
    return within(found.target, *FOREIGN)


def broken(rule: Callable[[Import], bool], imports: Iterable[Import]) -> list[str]:
    return [str(found) for found in imports if rule(found)]


ONE_OF_EACH = {
    "rich.progress": "helm_gym.console",
    "jinja2": "helm_gym.pages.templates",
    "fcntl": "helm_gym.files",
}
"""What one module alone imports: the progress bar, the template environment, the lock."""


@pytest.mark.parametrize("library", ONE_OF_EACH)
def test_one_module_alone_wraps_a_library(library: str) -> None:
    found = {each.importer for each in library_imports() if within(each.target, library)}
    assert found == {ONE_OF_EACH[library]}


def test_every_module_has_a_layer() -> None:
    assert [module for module in FILES if layer(module) is None] == []


@pytest.mark.parametrize(
    "rule",
    [
        points_up,
        makes_the_cli_slow,
        loads_the_root,
        needs_learning_libraries,
        takes_a_foreign_name,
    ],
    ids=lambda rule: rule.__name__,
)
def test_no_library_import_breaks_a_rule(rule: Callable[[Import], bool]) -> None:
    imports = library_imports()
    assert imports, "no library file was found, so nothing would be proven"
    assert broken(rule, imports) == []


@pytest.mark.parametrize(
    ("rule", "importer", "source"),
    [
        (points_up, "helm_gym.sim.kernel", "from helm_gym.envs.reward import terms"),
        (points_up, "helm_gym.errors", "from helm_gym import config"),
        (points_up, "helm_gym.sim.kernel", "from ..envs import reward"),
        (points_up, "helm_gym.metrics", "def f():\n    import helm_gym.agents"),
        (points_up, "helm_gym.envs.x", "if TYPE_CHECKING:\n    import helm_gym.agents"),
        (points_up, "helm_gym.baselines.x", "import helm_gym.agents"),
        (points_up, "helm_gym.baselines.x", "def f():\n    import helm_gym.agents"),
        (points_up, "helm_gym.agents.models.x", "import helm_gym.agents.training.y"),
        (points_up, "helm_gym.agents", "import helm_gym.agents.training.y"),
        (points_up, "helm_gym.agents", "if TYPE_CHECKING:\n    import helm_gym.cli.adapt"),
        (points_up, "helm_gym.workload.x", "import helm_gym.sim.y"),
        (points_up, "helm_gym.runs.x", "import helm_gym.suites.y"),
        (points_up, "helm_gym.agents.x", "import helm_gym.cli"),
        (points_up, "helm_gym.envs.x", "import helm_gym.a_room_not_in_the_table"),
        (makes_the_cli_slow, "helm_gym.cli", "from helm_gym.envs import x"),
        (loads_the_root, "helm_gym", "from helm_gym.config.scenario import Scenario"),
        (loads_the_root, "helm_gym", "import numpy"),
        (needs_learning_libraries, "helm_gym.sim.x", "def f():\n    import torch"),
        (needs_learning_libraries, "helm_gym.envs.x", "def f():\n    import torch"),
        (needs_learning_libraries, "helm_gym.envs.x", "class A:\n    import torch.nn"),
        (needs_learning_libraries, "helm_gym.baselines.x", "from stable_baselines3 import PPO"),
        (takes_a_foreign_name, "test_x", "def f():\n    from agents.train import main"),
    ],
)
def test_a_planted_fault_is_found(
    rule: Callable[[Import], bool], importer: str, source: str
) -> None:
    assert broken(rule, imports_in(source, importer))


@pytest.mark.parametrize(
    ("rule", "importer", "source"),
    [
        (points_up, "helm_gym.envs.x", "from helm_gym import errors\nfrom . import y"),
        (points_up, "helm_gym.evaluation.x", "def f():\n    import helm_gym.agents"),
        (points_up, "helm_gym.agents", "if TYPE_CHECKING:\n    import helm_gym.agents.training.y"),
        (points_up, "helm_gym.cli", "def f():\n    import helm_gym.agents"),
        (makes_the_cli_slow, "helm_gym.cli", "def f():\n    import helm_gym.agents"),
        (makes_the_cli_slow, "helm_gym.cli", "from helm_gym.errors import HelmGymError"),
        (loads_the_root, "helm_gym", "from gymnasium.envs.registration import register"),
        (needs_learning_libraries, "helm_gym.studies.x", "def f():\n    import torch"),
        (needs_learning_libraries, "helm_gym.studies.x", "if TYPE_CHECKING:\n    import torch"),
        (needs_learning_libraries, "helm_gym.agents.x", "import torch"),
        (takes_a_foreign_name, "helm_gym.cli", "from helm_gym import agents"),
    ],
)
def test_an_allowed_import_passes(
    rule: Callable[[Import], bool], importer: str, source: str
) -> None:
    assert broken(rule, imports_in(source, importer)) == []


def circles(imports: Iterable[Import]) -> list[list[str]]:
    """Modules that import each other, directly or through others; for type checkers counts too."""
    arrows: dict[str, set[str]] = {}
    for found in imports:
        if found.target in FILES:
            arrows.setdefault(found.importer, set()).add(found.target)
            arrows.setdefault(found.target, set())
    reach = {name: reachable(name, arrows) for name in arrows}
    groups = {
        tuple(sorted(other for other in reach[name] if name in reach[other])) for name in arrows
    }
    return sorted(list(group) for group in groups if group)


def reachable(start: str, arrows: dict[str, set[str]]) -> set[str]:
    found: set[str] = set()
    left = list(arrows[start])
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            left += arrows[name]
    return found


def test_no_files_import_each_other_in_a_circle() -> None:
    assert circles(library_imports()) == []


def test_a_planted_circle_is_found() -> None:
    one, two = "helm_gym.errors", "helm_gym.units"
    back = imports_in(f"def f():\n    import {one}", two)
    assert circles(imports_in(f"import {two}", one)) == []
    assert circles([*imports_in(f"import {two}", one), *back]) == [[one, two]]
    assert circles(imports_in(f"import {one}", one)) == [[one]]


def reexports(found: Import) -> bool:
    """Whether a module imports a name from a package instead of the module that defines it."""
    path = FILES.get(found.target)
    is_package = path is not None and path.name == "__init__.py"
    return is_package and found.target not in ("helm_gym", "helm_gym.cli")


def test_our_own_code_imports_the_defining_module() -> None:
    """Digests of code do not follow what a package's ``__init__`` re-exports."""
    packages = {name for name, path in FILES.items() if path.name == "__init__.py"}
    own = [found for found in library_imports() if found.importer not in packages]
    assert broken(reexports, own) == []
    assert broken(reexports, imports_in("from helm_gym.envs import EmbKvEnv", "helm_gym.runs.x"))


def other_python() -> Iterator[tuple[str, str]]:
    """(name, source) of the tests and of the notebooks' code cells."""
    for path in sorted((CHECKOUT / "tests").rglob("*.py")):
        yield path.name, path.read_text("utf-8")
    for path in sorted((CHECKOUT / "notebooks").rglob("*.ipynb")):
        cells = json.loads(path.read_text("utf-8"))["cells"]
        code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        # Lines that start with % or ! are IPython's, not Python's.
        lines = [line for line in code.splitlines() if not line.startswith(("%", "!"))]
        yield path.name, "\n".join(lines)


def test_tests_and_notebooks_import_ours_through_helm_gym() -> None:
    for name, source in other_python():
        assert broken(takes_a_foreign_name, imports_in(source, name)) == []


def test_importing_helm_gym_loads_no_learning_library(tmp_path: Path) -> None:
    code = "import sys, helm_gym; print(*sorted(sys.modules))"
    # Run elsewhere: in the checkout, "helm_gym" could be found without being installed.
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    loaded = set(ran.stdout.split())
    assert "helm_gym" in loaded
    assert loaded & LEARNING == set()
