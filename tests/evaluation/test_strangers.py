"""Files from strangers name code: nothing of it is imported, in whatever reads them."""

from __future__ import annotations

import json
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

pytest.importorskip("safetensors")

from helm_gym.agents.controller.controller import HelmController
from helm_gym.agents.layers.helm import HelmPolicy, load_base
from helm_gym.agents.models.card import Card
from helm_gym.agents.models.files import read, write_model
from helm_gym.agents.models.released import FOLDER
from helm_gym.agents.models.trained import TrainedPolicy
from helm_gym.benchmark.plan import make_plan
from helm_gym.benchmark.replay import replay
from helm_gym.benchmark.rows import asked_digest
from helm_gym.benchmark.run import outstanding
from helm_gym.cli import app
from helm_gym.config.scenario import Scenario
from helm_gym.errors import ConfigError, HelmGymError
from helm_gym.evaluation.evaluate import evaluate
from helm_gym.evaluation.specs import from_file, make_policy
from helm_gym.studies.routers import plan as routers
from helm_gym.studies.speed.decisions import SITE

MODULE = "stranger_of_the_tests"
OWN = f"{MODULE}:Half"
CODE = """
import numpy as np
from pathlib import Path
Path(__file__).with_name("CODE_RAN").write_text("it did")

class Half:
    control, observation = "node", "extended"
    def reset(self, seed): pass
    def act(self, obs): return np.full((len(obs), 1), 0.5)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a module that leaves a mark when it is imported."""
    (tmp_path / f"{MODULE}.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    return tmp_path


@pytest.fixture
def model(folder: Path) -> Path:
    """A model whose card names that module as the rule that it corrects."""
    return written(folder / "stranger.safetensors", OWN)


def written(path: Path, base: str) -> Path:
    """The released model as a residual around ``base``."""
    about = json.loads((FOLDER / "ppo-continuous.json").read_text())
    about["card"]["view"] |= {"action": "residual", "base": base, "bound": 0.1}
    path.with_suffix(".json").write_text(json.dumps(about))
    path.write_bytes((FOLDER / "ppo-continuous.safetensors").read_bytes())
    return path


def zipped(model: Path) -> Path:
    """The same model as the run folder of a training has it."""
    card, arrays = read(model)
    run = model.parent / "run"
    run.mkdir()
    empty = SimpleNamespace(save=lambda file: zipfile.ZipFile(file, "w").close())  # SB3's part
    write_model(run / "model.zip", empty, arrays, Card.parse(card, "x"))
    return run


def ran(folder: Path) -> bool:
    return (folder / "CODE_RAN").exists() or MODULE in sys.modules


READERS: dict[str, Callable[[str], Any]] = {
    "spec": lambda path: make_policy(f"ppo:{path}"),
    "wrapped": lambda path: make_policy(f"recovery:adapted:ppo:{path}"),
    "helm": lambda path: make_policy(f"helm:base={path}"),
    "helm of a spec": lambda path: make_policy(f"helm:base=ppo:{path}"),
    "HelmPolicy": HelmPolicy,
    "HelmController": lambda path: HelmController(SITE, 2, base=path),
    "TrainedPolicy": TrainedPolicy,
    "load_base": load_base,
    "evaluate": lambda path: evaluate(Scenario.load("taobao-steady"), [f"ppo:{path}"]),
    "bench": lambda path: make_plan("taobao-steady", [f"ppo:{path}"], quick=True),
}


@pytest.mark.parametrize("reader", READERS)
def test_no_reader_of_a_model_imports_what_it_names(reader: str, model: Path) -> None:
    for path in (model, zipped(model)):
        with pytest.raises(ConfigError, match=rf"names the code '{OWN}'.*--allow {OWN}"):
            READERS[reader](str(path))
    assert not ran(model.parent)


@pytest.mark.parametrize(
    "command",
    [
        "evaluate -s taobao-steady --seeds 1 -q -p ppo:{}",
        "bench --suite taobao-steady --quick -q -p ppo:{}",
        "goodput -s taobao-steady --seeds 1 -q -p ppo:{}",
        "hindsight -s taobao-steady --fast -q -p ppo:{}",
        "export out.onnx --base {}",
        "decision-speed --base {} -q",
    ],
)
def test_no_command_imports_what_a_model_names(command: str, model: Path) -> None:
    said = CliRunner().invoke(app, command.format(model).split())
    assert said.exit_code == 2 and "--allow" in said.output
    assert not ran(model.parent)


@pytest.mark.parametrize("base", ["os:getcwd", "sys:exit", "ppo:released", "builtins:exit"])
def test_a_model_cannot_call_what_is_no_rule(base: str, folder: Path) -> None:
    model = written(folder / "other.safetensors", base)
    with pytest.raises(ConfigError):
        make_policy(f"ppo:{model}")


def test_what_a_person_allows_is_used(model: Path) -> None:
    policy = make_policy(f"ppo:{model}", [OWN])
    nodes, features = 3, len(policy.card.view.features)
    shares = policy.act(np.full((2, nodes, features), 0.3, np.float32))
    assert shares.shape == (2, nodes) and (np.abs(shares - 0.5) <= 0.1 + 1e-6).all()
    assert ran(model.parent)
    with pytest.raises(ConfigError, match="--allow"):
        make_policy(f"ppo:{model}", [f"{MODULE}:Other"])
    assert HelmController(SITE, 2, allow=[OWN]).shares.shape == (2,)


def test_what_a_person_types_is_imported(folder: Path) -> None:
    assert make_policy(f"recovery:{OWN}").base.control == "node"  # type: ignore[attr-defined]
    assert ran(folder)


# Rows


def row(**changes: Any) -> dict[str, Any]:
    plain = {"cell": "taobao-steady", "load": 0.9, "router": "predicted_completion", "seed": 20_000,
             "steps": 2, "spec": "balance", "policy": "balance"}  # fmt: skip
    return {**plain, **changes}


@pytest.mark.parametrize(
    "changes",
    [
        {"spec": OWN},
        {"policy": OWN},
        {"spec": f"recovery:{OWN}"},
        {"spec": f"adapted(bound=0.1):recovery(strict):{OWN}"},
        {"policy": "static:best", "spec": OWN},
    ],
)
def test_a_row_is_not_replayed_if_it_names_code(changes: dict[str, Any], folder: Path) -> None:
    with pytest.raises(ConfigError, match=f"--allow {OWN}"):
        replay(row(**changes))
    said = CliRunner().invoke(app, ["bench", "--replay", json.dumps(row(**changes))])
    assert said.exit_code == 2 and "--allow" in said.output
    assert not ran(folder)


@pytest.mark.parametrize("spec", [5, None, ["balance"]])
def test_a_row_whose_spec_is_no_text_is_refused(spec: Any) -> None:
    with pytest.raises(ConfigError, match="is no policy"):
        replay(row(spec=spec))


def test_a_row_of_an_allowed_policy_is_replayed(folder: Path) -> None:
    small = Scenario.load("taobao-steady").replace(
        {"nodes": 2, "workload.users": 5000, "episode.steps": 2, "episode.warm_starts": 1,
         "episode.warmup_s": 10.0}
    )  # fmt: skip
    told = row(spec=OWN, policy=OWN, scenario=json.dumps(small.to_dict()), status="ok")
    assert not replay(told, [OWN]).again["reason"]
    assert ran(folder)


def test_a_search_is_not_taken_from_a_stored_row_that_names_code(folder: Path) -> None:
    (job,) = make_plan("taobao-steady", ["static:best"], 1, quick=True)
    scenario = job.setting.scenario
    stored = {
        "x": {
            "scenario_digest": scenario.digest(),
            "asked_digest": asked_digest(scenario, "static:best"),
            "code_digest": "x",
            "spec": OWN,
        }
    }
    with pytest.raises(ConfigError, match=f"--allow {OWN}"):
        outstanding([job], stored)
    assert not ran(folder)


def test_the_comparison_of_routers_takes_no_code_from_its_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = folder / "searches"
    kept.mkdir()
    (kept / "key.json").write_text(json.dumps(OWN))
    monkeypatch.setattr(routers, "digest_of", lambda *parts: "key")
    with pytest.raises(ConfigError, match="--allow"):
        routers.run_routers(folder, quick=True, policy="static:best")
    assert not ran(folder)


# Scenarios, schedules, plans


@pytest.mark.parametrize(
    "path", ["workload.profile", "router.name", "hardware.gpu", "hardware.model", "emb.policy"]
)
def test_a_scenario_names_built_in_things_only(path: str, folder: Path) -> None:
    data = Scenario.load("taobao-steady").to_dict()
    *above, last = path.split(".")
    inner = data
    for name in above:
        inner = inner[name]
    inner[last] = OWN
    (folder / "own.yaml").write_text(json.dumps(data))
    with pytest.raises(ConfigError):
        Scenario.load("own.yaml")
    assert not ran(folder)


def test_a_schedule_names_nothing(folder: Path) -> None:
    (folder / "schedule.json").write_text(json.dumps({"schedule": OWN, "scenario": OWN}))
    with pytest.raises(HelmGymError):
        make_policy("schedule:schedule.json")
    assert not ran(folder)


def test_a_spec_from_a_file_may_name_what_is_built_in() -> None:
    for spec in ("balance:gain=0.6", "recovery(strict):adapted:ppo:released", "static:best"):
        assert from_file(spec, "x") == spec
    assert from_file(OWN, "x", [OWN]) == OWN
