"""The algorithms beside PPO: they play as SB3 would, resume bit for bit, and say what they are."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import zipfile
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("stable_baselines3")
pytest.importorskip("sb3_contrib")

import torch
from sb3_contrib import RecurrentPPO
from small import SMALL
from stable_baselines3 import DQN, SAC
from training_runs import flat, interrupt_at_step
from typer.testing import CliRunner

from helm_gym.agents.models.card import TITLES
from helm_gym.agents.models.files import ACTOR, CARD
from helm_gym.agents.models.trained import TrainedPolicy
from helm_gym.agents.models.view import STEPS
from helm_gym.agents.training.build import make_env, make_model, make_validator
from helm_gym.agents.training.hyperparameters import (
    CLASSES,
    KEYS,
    load_hyperparameters,
    shipped_entries,
)
from helm_gym.agents.training.interrupt import TrainingInterrupted
from helm_gym.agents.training.plan import Plan, RunFolder, TrainConfig
from helm_gym.agents.training.sb3.algorithms import RowwiseDqn, algorithm_of
from helm_gym.agents.training.train import resume, train
from helm_gym.benchmark.rows import policy_digest
from helm_gym.cli import app
from helm_gym.config.scenario import Scenario
from helm_gym.envs.action import INCREMENTS
from helm_gym.envs.observation import FEATURES
from helm_gym.envs.vector_env import EmbKvVectorEnv
from helm_gym.errors import CheckpointError, ConfigError, PolicyError
from helm_gym.evaluation.specs import TRAINED, make_policy

NODES = SMALL["nodes"]
N_FEATURES = len(FEATURES["extended"])
# A buffer of 12 windows wraps round in the second round of eight.
OFF = {"batch_size": 32, "buffer_size": 48, "learning_starts": 16, "gradient_steps": 2}
SETTINGS: dict[str, dict[str, Any]] = {
    "recurrent-ppo": {"n_epochs": 2, "lstm_size": 8},
    "sac": {**OFF, "train_every": 2},
    "dqn": {**OFF, "target_update_interval": 12},
}
SB3 = {"recurrent-ppo": RecurrentPPO, "sac": SAC, "dqn": DQN}
CASES = [(algorithm, control) for algorithm in SETTINGS for control in ("cluster", "node")]
ROUNDS = 3
PART = {"cluster": 2 * 8 * 4, "node": 2 * 8 * 4 * NODES}  # decisions of two rounds


def new_config(run_dir: Any, algorithm: str, control: str = "cluster", **changes: Any) -> Any:
    """Three rounds of eight windows on four clusters of three nodes."""
    rows = 4 * (NODES if control == "node" else 1)
    settings = {**SETTINGS.get(algorithm, {}), **changes.pop("settings", {})}
    if "buffer_size" in settings:
        settings["buffer_size"] *= rows // 4
    plain = {"clusters": 4, "n_steps": 8, "net_arch": [16], "learning_rate": 0.03}
    values = {
        "algorithm": algorithm,
        "scenario": SMALL,
        "overrides": {"workload.load": 1.4},
        "reward": "mean_latency",
        "control": control,
        "settings": {**plain, "validate_every": 2, "validation_clusters": 2, **settings},
        "decisions": ROUNDS * 8 * rows,
        "run_dir": str(run_dir),
        "checkpoint_s": 0.0,
        "threads": 1,
        **changes,
    }
    return TrainConfig.parse(values, "test")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """An uninterrupted run of every algorithm and control; read only."""
    folder = tmp_path_factory.mktemp("runs")
    found = {case: folder / "-".join(case) for case in CASES}
    for (algorithm, control), run in found.items():
        train(new_config(run, algorithm, control), progress=False)
    return found


def observations(control: str, rows: int = 5, seed: int = 0) -> Any:
    """(windows, rows, ...) random observations."""
    shape = (20, rows, NODES, N_FEATURES) if control == "node" else (20, rows, N_FEATURES)
    return np.random.default_rng(seed).uniform(0, 1, shape).astype(np.float32)


@pytest.mark.parametrize(("algorithm", "control"), CASES)
def test_it_decides_as_sb3s_deterministic_policy_would(
    algorithm: str, control: str, runs: dict[tuple[str, str], Path]
) -> None:
    policy = make_policy(f"{algorithm}:{runs[algorithm, control]}")
    model = SB3[algorithm].load(runs[algorithm, control] / "model.zip", device="cpu")
    view, state = policy.card.view, None
    policy.reset(0)
    chosen = []
    for obs in observations(control):
        rows = obs.reshape(-1, N_FEATURES)
        output, state = model.predict(view.see(rows), state, deterministic=True)
        chosen.append(policy.act(obs))
        expected = view.shares(output, rows, None).reshape(chosen[-1].shape)
        np.testing.assert_allclose(chosen[-1], expected, atol=1e-5)
    assert np.ptp(chosen) > 1e-4, "a constant proves nothing"


@pytest.mark.parametrize(("algorithm", "control"), CASES)
def test_it_runs_in_the_environment_it_asks_for(
    algorithm: str, control: str, runs: dict[tuple[str, str], Path]
) -> None:
    policy = make_policy(f"{algorithm}:{runs[algorithm, control]}")
    env = EmbKvVectorEnv(2, scenario=SMALL, control=policy.control, observation=policy.observation)
    obs, _ = env.reset(seed=0)
    policy.reset(0)
    for _ in range(3):
        obs, rewards, *_ = env.step(policy.act(obs))
    assert np.isfinite(rewards).all()


@pytest.mark.parametrize(("algorithm", "control"), CASES)
def test_an_interrupted_run_resumes_with_the_same_weights(
    algorithm: str,
    control: str,
    runs: dict[tuple[str, str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    interrupt_at_step(monkeypatch, 11)  # in the second of three rounds
    with pytest.raises(TrainingInterrupted, match=f"^training stopped: {PART[control]} of"):
        train(new_config(tmp_path / "run", algorithm, control), progress=False)
    monkeypatch.undo()
    resume(tmp_path / "run", threads=2, progress=False)
    assert_same(runs[algorithm, control], tmp_path / "run")


def assert_same(one: Path, other: Path) -> None:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    assert (one / "curve.csv").read_text() == (other / "curve.csv").read_text()


def weights(run: Path) -> dict[str, torch.Tensor]:
    """Policy, optimizers and what else SB3 keeps in tensors, flat."""
    with zipfile.ZipFile(run / "model.zip") as archive:
        names = [name for name in archive.namelist() if name.endswith(".pth")]
        blobs = {name: io.BytesIO(archive.read(name)) for name in names}
    return {
        key: value
        for name, blob in blobs.items()
        for key, value in flat(torch.load(blob, weights_only=True), name).items()
    }


def test_a_recurrent_policy_forgets_at_reset_and_keeps_its_rows_apart(
    runs: dict[tuple[str, str], Path],
) -> None:
    policy = make_policy(f"recurrent-ppo:{runs['recurrent-ppo', 'cluster']}")
    obs = observations("cluster")

    def play(of: Any) -> Any:
        policy.reset(0)
        return np.array([policy.act(window) for window in of])

    first = play(obs)
    np.testing.assert_array_equal(play(obs), first)
    np.testing.assert_allclose(play(obs[:, 2:3]), first[:, 2:3], atol=1e-6)
    policy.reset(0)
    assert np.abs(policy.act(obs[7]) - first[7]).max() > 1e-6, "it remembers nothing"
    with pytest.raises(PolicyError, match=r"remembers 5 rows .* got 3"):
        policy.act(obs[0, :3])


def test_validation_remembers_what_the_policy_does(runs: dict[tuple[str, str], Path]) -> None:
    run = runs["recurrent-ppo", "cluster"]
    plan = RunFolder(run).read()[1]
    model = make_model(plan, make_env(plan, 1))
    model.set_parameters(run / "model.zip", device="cpu")
    found = make_validator(plan, 1).consider(model)
    policy, env = TrainedPolicy(run), make_env(plan, 1, validate=True)
    env.seed(1_900_000_000)
    env.reset()
    rewards = []
    for _ in range(plan.scenario.episode.steps):
        obs, reward, _, _ = env.venv.step(policy.act(env._seen))
        env._seen = np.asarray(obs)
        rewards.append(reward)
    assert found == pytest.approx(np.mean(rewards), rel=1e-4)


def test_neither_torch_nor_sb3_is_needed_to_use_them(runs: dict[tuple[str, str], Path]) -> None:
    specs = [f"{algorithm}:{runs[algorithm, 'cluster']}" for algorithm in SETTINGS]
    code = (
        "import sys, numpy as np\n"
        "from helm_gym.evaluation.specs import make_policy\n"
        f"for spec in {specs!r}:\n"
        "    policy = make_policy(spec)\n"
        "    policy.reset(0)\n"
        f"    policy.act(np.zeros((2, {N_FEATURES}), np.float32))\n"
        "loaded = {'torch', 'stable_baselines3', 'sb3_contrib'} & set(sys.modules)\n"
        "sys.exit(f'loaded {loaded}' if loaded else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("algorithm", SETTINGS)
def test_a_spec_of_another_algorithm_is_refused_with_the_right_one(
    algorithm: str, runs: dict[tuple[str, str], Path]
) -> None:
    run = runs[algorithm, "cluster"]
    assert make_policy(f"{algorithm}:{run}").card.label == TITLES[algorithm]
    with pytest.raises(ConfigError, match=f"is of {algorithm}; write {algorithm}:"):
        make_policy(f"ppo:{run}")
    with pytest.raises(ConfigError, match=f"write {algorithm}:PATH"):
        make_policy(f"{algorithm}:")


def changed(run: Path, path: Path, **card: Any) -> Path:
    """A copy of a run's model with another card."""
    with zipfile.ZipFile(run / "model.zip") as old, zipfile.ZipFile(path, "w") as new:
        for name in (CARD, ACTOR):
            blob = old.read(name)
            if name == CARD:
                known = {**json.loads(blob), **card}
                blob = json.dumps({k: v for k, v in known.items() if v is not None}).encode()
            new.writestr(name, blob)
    return path


@pytest.mark.parametrize(("claimed", "hint"), [("recurrent-ppo", "lstm_in"), ("a2c", "algorithm")])
def test_a_card_that_does_not_fit_its_weights_is_refused(
    claimed: str, hint: str, runs: dict[tuple[str, str], Path], tmp_path: Path
) -> None:
    path = changed(runs["sac", "cluster"], tmp_path / "other.zip", algorithm=claimed)
    with pytest.raises(CheckpointError, match=hint):
        TrainedPolicy(path)


def test_the_benchmark_knows_a_policy_by_the_content_of_its_file(
    runs: dict[tuple[str, str], Path], tmp_path: Path
) -> None:
    run = runs["dqn", "cluster"]
    moved = shutil.copy(run / "model.zip", tmp_path / "moved.zip")
    other = changed(run, tmp_path / "other.zip", seed=1)
    digests = [policy_digest(spec, make_policy(spec)) for spec in (f"dqn:{run}", f"dqn:{moved}")]
    assert digests[0] == digests[1]
    assert policy_digest(f"dqn:{other}", make_policy(f"dqn:{other}")) != digests[0]


def test_the_choices_are_helms_increments() -> None:
    view = Plan.of(new_config("unused", "dqn")).view()
    obs = np.full((len(INCREMENTS), N_FEATURES), 0.5, np.float32)
    shares = view.shares(np.arange(len(INCREMENTS)), obs, None)
    np.testing.assert_allclose(shares[:, 0] - 0.5, INCREMENTS, atol=1e-7)
    np.testing.assert_allclose(0.06 * STEPS, INCREMENTS, atol=1e-12)


def test_rows_explore_on_their_own() -> None:
    plan = Plan.of(new_config("unused", "dqn"))
    model = make_model(plan, make_env(plan, 1))
    assert isinstance(model, RowwiseDqn)
    seen = np.zeros((1000, plan.view().inputs), np.float32)
    best, _ = model.predict(seen, deterministic=True)
    model.exploration_rate = 0.7
    chosen, _ = model.predict(seen)
    wandered = np.mean(chosen != best)
    assert wandered == pytest.approx(0.7 * 6 / 7, abs=0.05)  # a random step may be the best one
    model.exploration_rate = 0.0
    np.testing.assert_array_equal(model.predict(seen)[0], best)


@pytest.mark.parametrize("algorithm", CLASSES)
def test_every_shipped_entry_is_valid_and_says_where_its_values_come_from(algorithm: str) -> None:
    entries = shipped_entries(algorithm)
    controls = [control for control, key in KEYS.items() if key in entries]
    assert {"cluster", "node"} <= set(controls)
    assert len(controls) == len(entries)
    for control in controls:
        settings = load_hyperparameters(control, algorithm=algorithm)
        rows = settings.clusters * (32 if control == "node" else 1)
        assert settings.batch(rows) >= 512
    name = f"{algorithm.replace('-', '_')}.yaml"
    text = resources.files("helm_gym.agents.training").joinpath(name).read_text("utf-8")
    assert [x for x in text.splitlines() if x.startswith("  ") and "#" not in x] == []


def test_every_algorithm_has_a_spec_and_a_class() -> None:
    assert tuple(CLASSES) == tuple(TITLES) == TRAINED
    assert all(algorithm_of(name) for name in CLASSES)


@pytest.mark.parametrize(
    ("changes", "hint"),
    [
        ({"algorithm": "sca"}, "'sac'"),
        ({"control": "per_node"}, "--control cluster or node"),
        ({"settings": {"n_epochs": 3}}, "n_epochs"),
        ({"settings": {"buffer_size": 100_001}}, "buffer_size"),
        ({"settings": {"buffer_size": 7}}, "two windows of 4 rows"),
        ({"settings": {"train_every": 3}}, "train_every 3 does not divide"),
        ({"settings": {"action": "choice"}}, "action"),
        ({"settings": {"ent_coef": "some"}}, "ent_coef"),
    ],
    ids=str,
)
def test_what_cannot_be_trained_is_refused_before_anything_is_written(
    changes: dict[str, Any], hint: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=hint):
        train(new_config(tmp_path / "run", **{"algorithm": "sac", **changes}), progress=False)
    assert not (tmp_path / "run").exists()


def test_a_missing_sb3_contrib_is_named_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sb3_contrib", None)
    with pytest.raises(ConfigError, match="pip install sb3-contrib"):
        train(new_config(tmp_path / "run", "recurrent-ppo"), progress=False)
    assert not (tmp_path / "run").exists()


def test_a_plan_comes_back_as_what_it_was() -> None:
    for algorithm in SETTINGS:
        plan = Plan.of(new_config("unused", algorithm))
        back = Plan.parse(plan.model_dump(mode="json"), "back")
        assert (back.digest(), type(back.settings)) == (plan.digest(), CLASSES[algorithm])


def test_the_command_takes_the_algorithm_and_its_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[TrainConfig] = []

    def pretend(config: TrainConfig, progress: bool) -> None:
        asked.append(config)
        raise TrainingInterrupted("enough")

    monkeypatch.setattr("helm_gym.agents.training.train.train", pretend)
    monkeypatch.chdir(tmp_path)
    given = ["--algorithm", "sac", "--set", "gradient_steps=3", "--set", "workload.load=0.8"]
    CliRunner().invoke(app, ["train", *given, "-q"])
    assert (asked[0].algorithm, asked[0].run_dir) == ("sac", "runs/sac")
    assert asked[0].settings == {"gradient_steps": 3}
    assert asked[0].overrides == {"workload.load": 0.8}


@pytest.mark.parametrize("algorithm", CLASSES)
def test_names_of_settings_and_of_scenario_keys_do_not_collide(algorithm: str) -> None:
    assert not set(CLASSES[algorithm].model_fields) & set(Scenario.model_fields)
