"""Training runs: equal when repeated, resumed or interrupted, and never on top of one another."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytest.importorskip("stable_baselines3")

import torch
from agents_small import UPDATES, small_config, train_small
from training_runs import assert_same_run, interrupt_at_step

from helm_gym.agents.training import monitor
from helm_gym.agents.training.build import make_env, make_model, make_validator
from helm_gym.agents.training.interrupt import TrainingInterrupted
from helm_gym.agents.training.plan import Plan, RunFolder
from helm_gym.agents.training.train import resume
from helm_gym.errors import CheckpointError, ConfigError
from helm_gym.store import locked

SCRIPT = Path(__file__).parents[2] / "agents_small.py"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run; read only."""
    run = tmp_path_factory.mktemp("runs") / "finished"
    train_small(run)
    return run


def run_script(*arguments: object) -> int:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, check=False, timeout=300).returncode


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_run_killed_twice_ends_with_the_same_weights(finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "killed"
    assert run_script(run, "--kill-at", "rollout") == -signal.SIGKILL
    before = sorted(p.name for p in (run / "checkpoints").iterdir())
    assert before == ["000000000032.ckpt", "000000000064.ckpt"]
    assert run_script(run, "--resume", "--kill-at", "checkpoint") == -signal.SIGKILL
    assert sorted(p.name for p in (run / "checkpoints").glob("*.ckpt"))[-1] == "000000000096.ckpt"
    result = resume(run, threads=2, progress=False)  # threads decide nothing
    assert result.decisions == UPDATES * 32
    assert_same_run(finished, run)
    assert not (run / "checkpoints").exists()


def test_the_same_seed_gives_the_same_run_and_another_one_does_not(
    finished: Path, tmp_path: Path
) -> None:
    train_small(tmp_path / "again")
    assert_same_run(finished, tmp_path / "again")
    train_small(tmp_path / "other", seed=1)
    assert (finished / "curve.csv").read_text() != (tmp_path / "other/curve.csv").read_text()


@pytest.mark.parametrize(
    ("control", "settings"),
    [
        ("node", {"action": "residual", "context": True, "group": 2, "n_steps": 4}),
        ("node", {"action": "increment", "use_sde": True, "n_steps": 4}),
        ("per_node", {"action": "residual"}),
        ("cluster", {"validate_every": 2, "validation_clusters": 2}),
    ],
)
def test_every_kind_of_run_resumes_with_the_same_weights(
    control: str, settings: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = 12 if control == "node" else 4
    size = {"control": control, "settings": {"batch_size": None, **settings}}
    size["decisions"] = 4 * rows * settings.get("n_steps", 8)
    train_small(tmp_path / "whole", **size)
    interrupt_at_step(monkeypatch, settings.get("n_steps", 8) + 1)
    with pytest.raises(TrainingInterrupted):
        train_small(tmp_path / "parts", **size)
    monkeypatch.undo()
    resume(tmp_path / "parts", progress=False)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_ctrl_c_keeps_the_update_and_says_how_to_go_on(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = signal.getsignal(signal.SIGINT)
    interrupt_at_step(monkeypatch, 10)
    run = tmp_path / "stopped"
    with pytest.raises(TrainingInterrupted, match="64 of 160 decisions") as stopped:
        # So rarely that only Ctrl-C makes it write the second checkpoint.
        train_small(run, checkpoint_s=1e9)
    assert f"helm-gym train --resume {run}" in str(stopped.value)
    assert signal.getsignal(signal.SIGINT) is handler
    monkeypatch.undo()
    resume(run, progress=False)
    assert_same_run(finished, run)


def test_a_second_ctrl_c_stops_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt_at_step(monkeypatch, 10)
    once = monitor.Watch._on_step

    def twice(watch: monitor.Watch) -> bool:
        went_on = once(watch)
        if watch.n_calls == 11:
            os.kill(os.getpid(), signal.SIGINT)
        return went_on

    monkeypatch.setattr(monitor.Watch, "_on_step", twice)
    with pytest.raises(TrainingInterrupted, match="32 of 160 decisions"):
        train_small(tmp_path / "run")


def test_a_truncated_checkpoint_gives_way_to_the_one_before(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    interrupt_at_step(monkeypatch, 20)
    with pytest.raises(TrainingInterrupted):
        train_small(run)
    monkeypatch.undo()
    older, newest = sorted((run / "checkpoints").iterdir())
    whole = newest.read_bytes()
    newest.write_bytes(whole[: len(whole) // 2])
    resume(run, progress=False)
    assert_same_run(finished, run)
    assert not older.exists()


def test_without_a_usable_checkpoint_resume_refuses_and_removes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    interrupt_at_step(monkeypatch, 20)
    with pytest.raises(TrainingInterrupted):
        train_small(run)
    monkeypatch.undo()
    for path in (run / "checkpoints").iterdir():
        path.write_bytes(b"not a checkpoint")
    before = sorted(run.rglob("*"))
    with pytest.raises(CheckpointError, match="no checkpoint can be used"):
        resume(run, progress=False)
    assert [p for p in before if not p.exists()] == []


def test_a_run_stopped_before_its_first_checkpoint_begins_again(
    finished: Path, tmp_path: Path
) -> None:
    config = small_config(tmp_path / "run")
    folder = RunFolder(config.run_dir)
    folder.path.mkdir()
    folder.begin(config, Plan.of(config))
    resume(folder.path, progress=False)
    assert_same_run(finished, folder.path)


def test_the_folder_tells_what_was_run(finished: Path) -> None:
    about = yaml.safe_load((finished / "run.yaml").read_text())
    assert about["scenario_digest"] == RunFolder(finished).read()[1].scenario.digest()
    assert about["args"]["seed"] == 0
    assert about["plan"]["settings"]["n_steps"] == 8
    assert {"helm_gym", "torch", "numpy", "numba", "stable-baselines3"} <= about["versions"].keys()
    result = json.loads((finished / "result.json").read_text())
    assert result["stopped"] == "all decisions made"
    with (finished / "curve.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["updates"]) for row in rows] == list(range(1, UPDATES + 1))
    assert all(0.0 <= float(row["slo_satisfaction"]) <= 1.0 for row in rows)


def test_tensorboard_gets_serving_figures_reward_terms_and_sb3s_own(finished: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(finished / "tensorboard"))
    events.Reload()
    wanted = {
        "serving/p99_ms", "serving/slo_satisfaction", "serving/kv_hit_rate",
        "serving/emb_hit_rate", "serving/emb_share", "serving/refill_gb",
        "serving/link_utilisation", "serving/gpu_utilisation", "reward/slo_satisfaction",
        "reward/latency", "rollout/ep_rew_mean", "train/approx_kl", "time/fps",
    }  # fmt: skip
    assert wanted - set(events.Tags()["scalars"]) == set()
    shown = [event.value for event in events.Scalars("serving/slo_satisfaction")]
    with (finished / "curve.csv").open() as file:
        kept = [float(row["slo_satisfaction"]) for row in csv.DictReader(file)]
    assert shown == pytest.approx(kept, rel=1e-6)


def test_a_finished_run_is_neither_resumed_nor_overwritten_silently(finished: Path) -> None:
    before = (finished / "model.zip").read_bytes()
    with pytest.raises(ConfigError, match="is finished"):
        resume(finished, progress=False)
    with pytest.raises(ConfigError, match=r"holds a finished run.*--overwrite"):
        train_small(finished)
    assert (finished / "model.zip").read_bytes() == before


def test_an_unfinished_run_is_named_and_overwrite_replaces_it(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    interrupt_at_step(monkeypatch, 10)
    with pytest.raises(TrainingInterrupted):
        train_small(run, seed=5)
    monkeypatch.undo()
    (run / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="--resume"):
        train_small(run)
    train_small(run, overwrite=True)
    assert (run / "notes.txt").read_text() == "mine"
    assert_same_run(finished, run)


def test_two_processes_cannot_train_into_one_folder(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    with (
        locked(tmp_path),
        pytest.raises(ConfigError, match="another process"),
    ):
        train_small(tmp_path)


def test_a_changed_plan_is_refused(finished: Path, tmp_path: Path) -> None:
    text = (finished / "run.yaml").read_text()
    (tmp_path / "run.yaml").write_text(text.replace("n_steps: 8", "n_steps: 16"))
    with pytest.raises(CheckpointError, match="changed since the run began"):
        resume(tmp_path, progress=False)


def test_resume_of_a_folder_without_a_run_makes_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no training run"):
        resume(tmp_path / "nothing", progress=False)
    assert not (tmp_path / "nothing").exists()


def test_a_time_limit_ends_the_run_and_says_so(tmp_path: Path) -> None:
    result = train_small(tmp_path / "run", decisions=100_000, max_minutes=1e-9 + 0.01)
    assert result.decisions < 100_000
    assert "depends on the machine's speed" in result.stopped
    assert (tmp_path / "run/model.zip").is_file()


def test_the_model_is_the_best_on_validation_seeds(tmp_path: Path) -> None:
    settings = {"validate_every": 1, "validation_clusters": 3, "learning_rate": 1e-2}
    validate = {"overrides": {"workload.load": 1.4}, "reward": "mean_latency"}
    result = train_small(tmp_path / "run", settings=settings, **validate)
    plan = RunFolder(tmp_path / "run").read()[1]
    validator, model = make_validator(plan), make_model(plan, make_env(plan))
    rewards = {0: validator.consider(model)}
    with (tmp_path / "run/curve.csv").open() as file:
        for row in csv.DictReader(file):
            rewards[int(row["decisions"])] = float(row["validation_reward"])
    assert len(set(rewards.values())) > 1, "equal policies prove nothing"
    best = max(rewards, key=rewards.__getitem__)
    assert result.chosen_at == best
    model.set_parameters(tmp_path / "run/model.zip")
    assert validator.consider(model) == rewards[best]


def test_the_best_of_three_is_chosen_wherever_it_came() -> None:
    config = small_config("unused", reward="mean_latency", overrides={"workload.load": 1.4})
    settings = {"validate_every": 1, "validation_clusters": 2}
    plan = Plan.of(config.model_copy(update={"settings": {**config.settings, **settings}}))
    model = make_model(plan, make_env(plan))

    def always(output: float) -> None:
        with torch.no_grad():
            model.policy.action_net.weight.zero_()
            model.policy.action_net.bias.fill_(output)

    rewards = {}
    for output in (-1.0, 0.0, 1.0):
        always(output)
        rewards[output] = make_validator(plan).consider(model)
    worst, middle, best = sorted(rewards, key=rewards.__getitem__)
    assert len(set(rewards.values())) == 3
    validator = make_validator(plan)
    for decisions, output in enumerate((worst, best, middle)):
        always(output)
        model.num_timesteps = decisions
        assert validator.consider(model) == rewards[output]
    assert validator.choose(model) == 1
    assert model.policy.action_net.bias.item() == best


@pytest.mark.parametrize(
    ("changes", "hint"),
    [
        ({"scenario": "feasibilty"}, "feasibility"),
        ({"overrides": {"workload.laod": 1}}, "load"),
        ({"settings": {"learning_rte": 1e-3}}, "learning_rate"),
        ({"settings": {"batch_size": 7}}, "does not divide"),
        ({"settings": {"group": 3}}, "group 3 does not divide"),
        ({"settings": {"context": True}}, "control 'node'"),
        ({"observation": "extendet"}, "extended"),
        ({"observation": "paper7", "settings": {"action": "residual"}}, "extended"),
        ({"reward": "papr"}, "paper"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_cannot_be_trained_is_refused_before_anything_is_written(
    changes: dict, hint: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=hint):
        train_small(tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("decisions", "updates"), [(1, 1), (32, 1), (33, 2), (None, 7)])
def test_decisions_are_made_up_to_whole_updates(decisions: int | None, updates: int) -> None:
    plan = Plan.of(small_config("unused", decisions=decisions, settings={"updates": 7}))
    assert plan.settings.updates == updates
    assert plan.decisions == 32 * updates


def test_unknown_options_are_refused_with_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match="did you mean 'decisions'"):
        small_config("run", decision=5)
