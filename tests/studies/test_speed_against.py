"""A comparison of two revisions, in repositories and with measures that take milliseconds."""

from __future__ import annotations

import importlib.util
import io
import json
import math
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from scipy import stats
from typer.testing import CliRunner

from helm_gym import cli
from helm_gym.config.scenario import Scenario
from helm_gym.errors import ConfigError, SimulationError
from helm_gym.studies.speed import against, child, history, report
from helm_gym.studies.speed.revisions import Repository, state_of

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
NAMES = {
    f"GIT_{who}_{what}": text
    for who in ("AUTHOR", "COMMITTER")
    for what, text in (("NAME", "a"), ("EMAIL", "a@b.c"))
}
# A side whose figures stand in a file of its tree; "die" and "lacks" there do what they say.
FAKE = """
import json, sys
from pathlib import Path
tree = Path(sys.argv[1])
print(json.dumps({"package": str(tree / "helm_gym" / "__init__.py")}), flush=True)
ready = set()
for line in sys.stdin:
    room, text = json.loads(line), (tree / "figure").read_text().strip()
    if text == "die":
        sys.exit("no memory")
    if text == "lacks" and room == "decision":
        answer = {"skipped": "ImportError: no controller"}
    elif room not in ready:
        ready.add(room)
        answer = {}
    else:
        value = 1.0 if text == "lacks" else float(text)
        answer = {f"time of {room}": [value, "ns", False]}
        answer[f"rate of {room}"] = [1 / value, "x", True]
    print(json.dumps(answer), flush=True)
"""
Git = Callable[..., str]


@pytest.fixture
def git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Git:
    """A repository in tmp_path/own whose tag ``old`` takes twice as long as its HEAD."""
    for name, text in NAMES.items():
        monkeypatch.setenv(name, text)
    folder = tmp_path / "own"
    (folder / "helm_gym").mkdir(parents=True)
    (folder / "helm_gym" / "__init__.py").touch()

    def run(*arguments: str) -> str:
        ran = subprocess.run(
            ["git", *arguments], cwd=folder, check=True, capture_output=True, text=True
        )
        return ran.stdout

    run("init", "-q")
    for figure in ("2.0", "1.0"):
        (folder / "figure").write_text(figure)
        run("add", ".")
        run("commit", "-qm", figure)
    run("tag", "old", "HEAD~1")
    return run


@pytest.fixture
def compared(git: Git, tmp_path: Path) -> Callable[..., tuple[against.Comparison, str]]:
    """The command in that repository: what it found and what it printed."""
    script = tmp_path / "fake.py"
    script.write_text(FAKE)

    def run(revision: str, **options: Any) -> tuple[against.Comparison, str]:
        printed = io.StringIO()
        own = Repository.of(tmp_path / "own" / "helm_gym")
        found = report.run_against(
            revision, quick=True, progress=False, console=Console(file=printed, width=200),
            script=script, repository=own, **options,
        )  # fmt: skip
        assert git("worktree", "list").count("\n") == 1  # the temporary one is gone
        return found, printed.getvalue()

    return run


def test_both_sides_are_measured_in_pairs(compared: Any, git: Git) -> None:
    found, text = compared("old")
    assert found.commit.digest == git("rev-parse", "old").strip() and not found.dirty
    assert [p.name for p in found.pairs[:2]] == ["time of router predicted_completion",
                                                 "rate of router predicted_completion"]  # fmt: skip
    assert not any("training" in p.name for p in found.pairs)
    for pair in found.pairs:
        rate = pair.name.startswith("rate")
        assert pair.ratio() == ((2.0,) * 3 if rate else (0.5,) * 3)
        assert pair.verdict == "better"
        assert {len(values) for values in pair.values.values()} == {found.rounds}
    text = " ".join(text.split())  # the caption is as wide as the table
    assert "0.50 [0.50, 0.50]" in text and "which is as committed" in text
    assert "6 paired rounds" in text and "itself" not in text


def test_the_tree_is_measured_as_it_is_and_a_control_shows_the_noise(
    compared: Any, tmp_path: Path
) -> None:
    (tmp_path / "own" / "figure").write_text("4.0")
    found, text = compared("old", control=True, train=True)
    assert found.dirty and "changes that are in no commit" in " ".join(text.split())
    first = found.pairs[0]
    assert (first.ratio().value, first.ratio("control").value) == (2.0, 1.0)
    assert first.verdict == "worse" and "to itself" in text
    assert found.pairs[-1].name == "rate of training"


def test_what_one_side_lacks_is_left_out_with_the_reason(compared: Any, git: Git) -> None:
    (tree := Path(git("rev-parse", "--show-toplevel").strip()) / "figure").write_text("lacks")
    git("commit", "-qam", "lacks")
    tree.write_text("1.0")
    found, text = compared("HEAD")
    (why,) = found.skipped.values()
    assert why.startswith("HEAD (") and why.endswith("ImportError: no controller")
    assert "skipped" in text and not any("decision" in p.name for p in found.pairs)


def test_a_side_that_dies_and_ctrl_c_leave_no_work_tree(
    compared: Any, git: Git, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own" / "figure").write_text("die")
    with pytest.raises(SimulationError, match="times the working tree ended: no memory"):
        compared("old")
    assert git("worktree", "list").count("\n") == 1

    def interrupted(*arguments: Any) -> None:
        assert git("worktree", "list").count("\n") == 2
        raise KeyboardInterrupt

    (tmp_path / "own" / "figure").write_text("1.0")
    monkeypatch.setattr(against, "measure_round", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compared("old")
    assert git("worktree", "list").count("\n") == 1


def test_a_history_grows_by_a_record_and_shows_the_last_one(compared: Any, tmp_path: Path) -> None:
    file = tmp_path / "new" / "history.jsonl"
    _, text = compared("old", file=file)
    assert f"history: {file}" in text
    (tmp_path / "own" / "figure").write_text("4.0")
    _, text = compared("old", file=file)
    assert f"on {history.records(file)[0]['date'][:10]}" in text
    row = next(line for line in text.splitlines() if "time of clusters" in line)
    assert row.split()[-3:] == ["2.00]", "0.5", "worse"]
    first, second = (json.loads(line) for line in file.read_text().splitlines())
    assert [m["ratio"] for m in (first["measures"][0], second["measures"][0])] == [0.5, 2.0]
    assert first["rounds"] == 6 and first["against"] == second["against"]
    assert first["versions"]["helm_gym"] and len(first["commit"]) in (0, 40)


def test_only_a_like_run_of_this_machine_is_the_last_one() -> None:
    like = history.record([], against="a", quick=True, load=1.0)
    others = [{**like, "machine": "z"}, {**like, "against": None}, {**like, "quick": False}]
    assert history.last([like, *others], "a", True) is like
    assert history.last(others, "a", True) is None


def test_a_file_that_is_no_history_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    file = tmp_path / "h.jsonl"
    for text in ("nonsense\n", "[1]\n", '{"a": 1}\n'):
        file.write_text(text)
        with pytest.raises(ConfigError, match="line 1, is no record of helm-gym speed"):
            report.run_speed(file=file)
    assert file.read_text() == text


def test_the_interval_of_a_median_is_that_of_the_sign_test() -> None:
    values = np.random.default_rng(0).normal(size=21)
    found = against.Middle.of(values.tolist())
    expected = stats.quantile_test(values, q=0.0, p=0.5).confidence_interval(0.95)
    assert found == (np.median(values), expected.low, expected.high)
    assert math.isnan(against.Middle.of([1.0] * 5).low)  # five cannot say 95 %
    assert against.Middle.of([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]) == (3.5, 1.0, 6.0)


def test_a_repository_says_what_it_lacks(
    git: Git, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Repository.of(tmp_path / "own" / "helm_gym")
    for revision in ("nowhere", "--all", ""):
        with pytest.raises(ConfigError, match="has no such revision; write a branch"):
            own.commit(revision)
    inside = tmp_path / "own" / "site-packages" / "helm_gym"
    inside.mkdir(parents=True)  # installed into somebody's repository: not a checkout of ours
    for package in (tmp_path, inside):
        with pytest.raises(ConfigError, match="is no git checkout; clone"):
            Repository.of(package)
    assert state_of(tmp_path) == ("", False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="there is no git"):
        Repository.of(tmp_path / "own" / "helm_gym")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--control"], "add --against REV"),
        (["--train"], "add --against REV"),
        (["--against", "HEAD", "--cold"], "compares what is warm"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: list[str], message: str) -> None:
    result = CliRunner().invoke(cli.app, ["speed", *options])
    assert result.exit_code == 2 and message in result.stderr


# The real side


def test_every_room_measures_something_finite(
    tiny: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "feasibility", lambda router="least_loaded": tiny)
    monkeypatch.setattr(child, "MANY", 3)
    monkeypatch.setattr(child, "CALLS", 2)
    asked = [json.dumps(room) for room in against.ROOMS for _ in range(2)]
    replies = list(child.answers(iter(asked)))
    assert replies[::2] == [{}] * len(against.ROOMS)
    names = [name for reply in replies[1::2] for name in reply]
    assert len(names) == len(set(names)) == 10
    for reply in replies[1::2]:
        for value, _, _ in reply.values():
            assert 0.0 < value < math.inf


def test_a_room_that_cannot_be_measured_says_why() -> None:
    (reply,) = child.answers(iter(['"nowhere"']))
    assert reply == {"skipped": "KeyError: 'nowhere'"}
    assert child.either("helm_gym.nowhere", "helm_gym.seeding").__name__ == "helm_gym.seeding"
    with pytest.raises(ImportError, match="nowhere"):
        child.either("helm_gym.seeding.x", "helm_gym.nowhere")


def test_clusters_begin_alike_however_many_there_are(tiny: Scenario) -> None:
    room = child.Clusters(tiny)
    one, three = room.simulator(1), room.simulator(3, threads=2)
    assert np.array_equal(one.snapshot()[0], three.snapshot()[0])
    assert not np.array_equal(three.snapshot()[0], three.snapshot()[1])


def test_a_side_times_its_own_tree_and_not_what_is_installed(tmp_path: Path) -> None:
    """The packages that lie beside helm_gym in a checkout too."""
    for folder in ("helm_gym", "envs"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").touch()
    with against.side("x", tmp_path) as found:
        assert found.package == tmp_path / "helm_gym"
        assert found.ask("decision")["skipped"].startswith("ModuleNotFoundError: No module")
    finder = child.OneTree(tmp_path)
    spec = finder.find_spec("helm_gym.envs")
    assert spec is not None and spec.origin == str(tmp_path / "envs" / "__init__.py")
    assert importlib.util.module_from_spec(spec).__path__ == [str(tmp_path / "envs")]
    assert finder.find_spec("numpy") is None  # other finders find it
    with pytest.raises(ModuleNotFoundError, match=r"helm_gym\.agents"):
        finder.find_spec("helm_gym.agents", [str(tmp_path / "helm_gym")])
    (tmp_path / "bare").mkdir()
    with pytest.raises((ConfigError, SimulationError)), against.side("x", tmp_path / "bare"):
        pass
