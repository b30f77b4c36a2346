"""The command line: what it prints, what it refuses, and how it exits."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from helm_gym import cli
from helm_gym._version import __version__
from helm_gym.config.scenario import Scenario

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *arguments: CliRunner().invoke(cli.app, [str(a) for a in arguments])


@pytest.fixture
def tiny_file(tiny_scenario: dict[str, Any], tmp_path: Path) -> Path:
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(tiny_scenario))
    return file


def fails_with(result: Result, *texts: str, code: int = 2) -> None:
    """One message on stderr, no traceback, and the exit code of errors."""
    assert result.exit_code == code, result.output
    assert isinstance(result.exception, SystemExit)
    assert result.stderr.count("helm-gym: ") == 1
    for text in texts:
        assert text in result.stderr


def test_it_says_its_version(run: Run) -> None:
    result = run("--version")
    assert (result.exit_code, result.stdout) == (0, f"helm-gym {__version__}\n")


def test_help_names_every_command(run: Run) -> None:
    result = run("--help")
    assert result.exit_code == 0
    for command in (
        "scenario", "profile", "train", "evaluate", "capacity", "demo", "speed", "warmup",
        "calibrate", "measure", "fidelity", "sensitivity", "atlas",
        "bench", "score", "hindsight", "leaderboard", "goodput",
        "routers", "refill", "adapt", "bursts", "suite", "export", "decision-speed",
    ):  # fmt: skip
        assert f" {command} " in result.stdout
        assert run(command, "--help").exit_code == 0


def test_help_loads_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom helm_gym import cli\nsys.argv = ['helm-gym', '--help']\n"
        "try:\n    cli.main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "print(*sorted(sys.modules), file=sys.stderr)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    loaded = set(ran.stderr.split())
    assert "helm_gym.cli" in loaded and "capacity" in ran.stdout
    assert not loaded & {"torch", "numba", "scipy", "matplotlib", "helm_gym.config.scenario"}


def test_scenarios_are_listed_and_shown(run: Run) -> None:
    listed = run("scenario", "list").stdout.splitlines()
    assert [line.split()[0] for line in listed] == Scenario.names()
    shown = run("scenario", "show", "taobao-shift", "--set", "workload.load=0.5").stdout
    scenario = Scenario.load(yaml.safe_load(shown))
    assert scenario == Scenario.load("taobao-shift").replace({"workload.load": 0.5})
    assert shown.startswith(f"# digest {scenario.digest()}\n")


def test_assumptions_are_listed_with_ranges_and_sources(run: Run) -> None:
    shown = run("scenario", "show", "taobao-shift", "--assumptions").stdout
    assert "emb.candidate_row_bytes = 24576 bytes  (512 to 32768)\n" in shown
    assert "production values are not public" in shown
    paths = [line.split(" = ")[0] for line in shown.splitlines() if not line.startswith(" ")]
    assert paths == [path for path, _ in Scenario.load("taobao-shift").assumptions()]


needs_training = pytest.mark.skipif(
    find_spec("stable_baselines3") is None, reason="stable_baselines3 is not installed"
)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("scenario", "show", "taobao-shif"), "did you mean 'taobao-shift'"),
        (("scenario", "show", "taobao-shift", "--set", "workload.lod=1"), "did you mean 'load'"),
        (("scenario", "show", "taobao-shift", "--set", "workload.load"), "write PATH=VALUE"),
        (("scenario", "show", "taobao-shift", "--set", "nodes=[1"), "is not valid YAML"),
        (("scenario", "show", "nowhere.yaml"), "nowhere.yaml: cannot be read"),
        (("evaluate", "-p", "statik:best"), "did you mean 'static'"),
        (("evaluate", "-p", "ppo:nowhere.zip"), "nowhere.zip"),
        (("evaluate", "-p", "balance", "--out", "rows.csv"), ".parquet or .json"),
        (("capacity", "taobao-shift", "--step", "0"), "positive step"),
        (("profile", "fit", "nowhere.csv", "--name", "x"), "nowhere.csv"),
        pytest.param(("train", "--control", "nodes"), "control", marks=needs_training),
        pytest.param(
            ("train", "--resume", "nowhere"), "nowhere holds no training run", marks=needs_training
        ),
        (("demo", "--scenario", "taobao-shif"), "did you mean 'taobao-shift'"),
    ],
)
def test_what_cannot_work_is_one_message(
    run: Run, arguments: tuple[str, ...], message: str
) -> None:
    fails_with(run(*arguments), message)


def test_an_unknown_option_is_refused(run: Run) -> None:
    result = run("evaluate", "--polcy", "balance")
    assert result.exit_code == 2
    assert "--polcy" in result.stderr


def test_policies_are_compared_and_rows_kept(run: Run, tiny_file: Path, tmp_path: Path) -> None:
    result = run(
        "evaluate", "-s", tiny_file, "-p", "static:0.5", "-p", "balance", "--load", "0.6",
        "--set", "slo.p99_ms=25", "--out", "rows.json", "-q",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "tiny, load 0.6, seeds 20000-20004" in result.stdout
    assert "balance" in result.stdout and "At load 0.6" in result.stdout
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert len(rows) == 10
    scenario = Scenario.load(str(tiny_file)).replace({"slo.p99_ms": 25, "workload.load": 0.6})
    assert {row["scenario_digest"] for row in rows} == {scenario.digest()}


def test_capacity_prints_a_table_and_lines_to_paste(run: Run, tiny_file: Path) -> None:
    result = run("capacity", tiny_file, "--step", "0.4", "--seconds", "5", "-q")
    assert result.exit_code == 0, result.output
    assert "0.9" in result.stdout
    pasted = yaml.safe_load(result.stdout.strip().splitlines()[-1])["capacity_rps_per_node"]
    scenario = Scenario.load(str(tiny_file)).replace({"workload.capacity_rps_per_node": pasted})
    assert scenario.workload.capacity_rps_per_node.source.startswith("helm-gym capacity tiny")


def test_training_gets_what_was_asked_for(
    run: Run, tiny_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("stable_baselines3")
    from helm_gym.agents.training import train as room

    asked: list[Any] = []

    def pretend(config: room.TrainConfig, progress: bool) -> Any:
        asked.append((config, progress))
        raise room.TrainingInterrupted("12 decisions are kept")

    monkeypatch.setattr(room, "train", pretend)
    result = run(
        "train", "-s", tiny_file, "--control", "node", "--decisions", "99", "--seed", "7",
        "--run-dir", "here", "--set", "n_epochs=3", "--set", "net_arch=[8, 8]",
        "--set", "workload.load=0.8", "--set", "nodes=2", "--threads", "1", "-q",
    )  # fmt: skip
    fails_with(result, "12 decisions are kept", code=130)
    config, progress = asked[0]
    assert (config.scenario, config.control, config.seed) == (str(tiny_file), "node", 7)
    assert (config.decisions, config.run_dir, config.threads) == (99, "here", 1)
    assert config.settings == {"n_epochs": 3, "net_arch": [8, 8]}
    assert config.overrides == {"workload.load": 0.8, "nodes": 2}
    assert progress is False


def test_names_of_settings_and_of_scenario_keys_do_not_collide() -> None:
    """One --set serves both, so a name may mean only one of them."""
    from helm_gym.agents.training.hyperparameters import Hyperparameters

    assert not set(Hyperparameters.model_fields) & set(Scenario.model_fields)


def test_a_profile_is_fitted_and_can_be_used(run: Run, tmp_path: Path) -> None:
    rows = "".join(f"{n % 40},{n * n % 97},{1_600_000_000 + 60 * n}\n" for n in range(800))
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\n" + rows)
    printed = run("profile", "fit", "log.csv", "--name", "mine")
    assert printed.exit_code == 0, printed.output
    assert yaml.safe_load(printed.stdout)["name"] == "mine"
    assert "800 events" in printed.stderr

    written = run("profile", "fit", "log.csv", "--name", "mine", "--out", "mine.yaml")
    assert written.exit_code == 0 and "workload.profile=mine.yaml" in written.stdout
    assert (tmp_path / "mine.yaml").read_text() == printed.stdout
    shown = run("scenario", "show", "taobao-shift", "--set", "workload.profile=mine.yaml")
    assert yaml.safe_load(shown.stdout)["workload"]["profile"]["name"] == "mine"


def test_a_wrong_log_names_file_column_and_row(run: Run, tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\n1,2,3\n1,nan,4\n")
    fails_with(run("profile", "fit", "log.csv", "--name", "x"), "log.csv", "item_id", "row 2")


def test_ctrl_c_exits_130_with_a_word(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from helm_gym.evaluation import evaluate as room

    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(room, "evaluate", interrupted)
    fails_with(run("evaluate", "-p", "balance"), "nothing of this command is kept", code=130)


def test_the_demo_passes_its_options_on(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from helm_gym.evaluation import demo as room

    asked: dict[str, Any] = {}
    monkeypatch.setattr(room, "run_demo", lambda out, **settings: asked.update(settings, out=out))
    assert run("demo", "--quick", "--out", "there", "--seed", "3", "-q").exit_code == 0
    assert asked == {
        "out": Path("there"), "quick": True, "scenario": "taobao-shift", "seed": 3,
        "threads": None, "progress": False,
    }  # fmt: skip
    assert run("demo").exit_code == 0
    assert (asked["out"], asked["quick"], asked["progress"]) == (Path("runs/demo"), False, True)


def test_warmup_says_where_the_kernels_are(run: Run) -> None:
    from helm_gym.provenance import cache_folder

    result = run("warmup")
    assert result.exit_code == 0
    assert str(cache_folder()) in result.stdout
    assert any(cache_folder().rglob("*.nbc")), "no machine code was kept"
