"""Digests of code: they cover whatever a run loads, move with every edit, and ignore words."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from helm_gym import provenance
from helm_gym.baselines.feedback import Aimd
from helm_gym.baselines.registry import make_rule
from helm_gym.provenance import code_digest, imported_modules, module_file, policy_digest

# Plays one short episode with a policy, and prints the modules that this loaded.
TRACED = """
import json, sys
from helm_gym.config.scenario import Scenario
from helm_gym.evaluation.specs import make_policy
from helm_gym.runs.rollout import run_policy

spec, paths = sys.argv[1], json.loads(sys.argv[2])
policy = make_policy(spec)
for name in [name for name in sys.modules if name.startswith("helm_gym.evaluation")]:
    del sys.modules[name]  # names policies, and has no part in an episode
scenario = Scenario.load("taobao-burst").replace(paths)
run_policy(scenario, policy, spec, [0])
print(json.dumps([type(policy).__module__, sorted(m for m in sys.modules if "helm_gym" in m)]))
"""
SHORT = {
    "nodes": 2, "workload.users": 2000, "episode.steps": 2, "episode.warmup_s": 5.0,
    "episode.warm_starts": 1,
}  # fmt: skip
SPECS = ("aimd", "helm")


@pytest.fixture(scope="module", params=SPECS)
def traced(request: pytest.FixtureRequest) -> tuple[str, list[str]]:
    """Module of a policy's class, and every module of ours that its episode loaded."""
    command = [sys.executable, "-c", TRACED, request.param, json.dumps(SHORT)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    policy, modules = json.loads(ran.stdout.splitlines()[-1])
    return policy, modules


def deciding(modules: list[str]) -> list[str]:
    """Modules that hold code: packages hold re-exports, which ``lazy`` makes for them."""
    files = {module: module_file(module) for module in modules if module != "helm_gym.lazy"}
    return [m for m, file in files.items() if file is not None and file.name != "__init__.py"]


def planted(module: str, change: Callable[[str], str]) -> provenance.Read:
    """Reads files as they are, but for one module."""
    file = module_file(module)

    def read(path: Path) -> bytes:
        text = path.read_bytes()
        return change(text.decode()).encode() if path == file else text

    return read


def edited(text: str) -> str:
    return f"{text}\n_planted = 1\n"


def reworded(text: str) -> str:
    """Other docstrings, other comments, other empty lines."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        for statement in body if isinstance(body, list) else ():
            if provenance._is_text(statement):
                statement.value.value = "Other words."
    return f"# a comment\n\n{ast.unparse(tree)}\n# another\n"


def test_the_digest_moves_with_every_module_that_a_run_loads(
    traced: tuple[str, list[str]],
) -> None:
    policy, modules = traced
    roots = (provenance.EPISODE, policy)
    covered = set(imported_modules(*roots))
    loaded = deciding(modules)
    # Looks up specs in the script above, which no episode does.
    extra = set(loaded) - covered - set(imported_modules("helm_gym.evaluation.specs"))
    assert extra == set()
    before = code_digest(*roots)
    assert len(loaded) > 30 and "helm_gym.sim.kernel" in loaded
    for module in sorted(set(loaded) & covered):
        assert code_digest(*roots, read=planted(module, edited)) != before, module
        assert code_digest(*roots, read=planted(module, reworded)) == before, module


def test_what_a_policy_does_not_import_does_not_count() -> None:
    policy = make_rule("aimd")
    assert "helm_gym.agents.adapter.learner" not in imported_modules(type(policy).__module__)
    assert "helm_gym.baselines.rule" in imported_modules(type(policy).__module__)


def test_imports_inside_functions_count_and_those_for_type_checkers_do_not() -> None:
    text = (
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import helm_gym.errors\nelse:\n    import helm_gym.units\n"
        "def f():\n    from helm_gym import seeding\n"
    )
    found = provenance._targets(
        "helm_gym.x",
        Path("x.py"),
        provenance.Source("", tuple(provenance._imports(ast.parse(text)))),
    )
    assert found == ["helm_gym.units", "helm_gym.seeding"]


def test_re_exports_of_a_package_are_not_followed() -> None:
    assert "helm_gym.envs.checkers" not in imported_modules("helm_gym.envs.vector_env")
    assert "helm_gym.envs.checkers" not in imported_modules("helm_gym.envs")


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("x = 1  # a", "# b\nx = 1", True),
        ('def f():\n    """A."""\n    return 1', "def f():\n    return 1", True),
        ('X = 1\n"""Says what X is."""', "X = 1", True),
        ("x = 1", "x = 1.0", False),
        ("x = 'a'", "x = b'a'", False),
        ("x = True", "x = 1", False),
        ("f(a)", "f(*a)", False),
        ("x = y", "x: int = y", False),
    ],
)
def test_syntax_and_nothing_else_decides(one: str, other: str, alike: bool) -> None:
    digests = {provenance.syntax_digest(ast.parse(text)) for text in (one, other)}
    assert (len(digests) == 1) == alike


def test_it_is_the_same_on_every_python(tmp_path: Path) -> None:
    """A fixed digest of every kind of syntax that our modules use."""
    text = (
        "from __future__ import annotations\n"
        "import a.b as c\n"
        "@d(1, *e, f=2.5, **g)\nclass A(B, metaclass=C):\n    x: int = 1\n"
        "    async def m(self, p, /, q=1j, *r, s, t=b'x', **u) -> None:\n"
        "        async with v as w, y: yield f'{p!r:>{q}} {s}'\n"
        "def n(x):\n    try:\n        pass\n    except (E, F) as z:\n        raise G from z\n"
        "    else:\n        return [i for i in x if i][1:2, ...]\n    finally:\n        del x[0]\n"
        "match h:\n    case [1, *k] | {'l': m}: pass\n    case O(p=1): pass\n    case _: pass\n"
        "while (q := 1) < 2 <= 3 and not r or s: break\n"
        "lambda: (yield)\nglobal t\nassert u, 'v'\nx = y if z else -1 ** 2\nx |= {**a, 'b': 1}\n"
    )
    assert provenance.syntax_digest(ast.parse(text)) == DIGEST


DIGEST = "4766f6b98834f23eba209c7230987c79c868ccc2f7266f9b5d8a9a3e17a80a63"


def test_a_policys_digest_covers_settings_code_file_and_what_it_wraps(tmp_path: Path) -> None:
    from helm_gym.agents.layers.adapted import AdaptedPolicy
    from helm_gym.agents.layers.recovered import RecoveredPolicy

    plain = Aimd()
    assert policy_digest("aimd", plain) == policy_digest("aimd", Aimd())
    assert policy_digest("aimd:up=0.02", plain) != policy_digest("aimd", plain)
    bases = [make_rule(spec) for spec in ("aimd", "balance")]
    for wrap in (AdaptedPolicy, RecoveredPolicy):
        inside = {policy_digest("same", wrap(base)) for base in bases}
        assert len(inside) == 2
    # The learner is imported by the adapter's class, and so counts.
    assert "helm_gym.agents.adapter.learner" in imported_modules(AdaptedPolicy.__module__)
