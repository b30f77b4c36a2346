"""Several seeds by one command: what is done is kept, the best is chosen, draws are shared."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

pytest.importorskip("stable_baselines3")
pytest.importorskip("safetensors")

import torch
from agents_small import small_config
from small import small_scenario
from stable_baselines3 import PPO

from helm_gym.agents.models.trained import TrainedPolicy
from helm_gym.agents.training import randomise, seeds
from helm_gym.agents.training.draws import Job, draw_all
from helm_gym.agents.training.plan import Plan
from helm_gym.agents.training.release import release
from helm_gym.agents.training.seeds import SCORE_SEEDS, score, scored_on, train_seeds
from helm_gym.cli import app
from helm_gym.errors import CheckpointError, ConfigError
from helm_gym.suites.splits import VALIDATION

VALIDATED = {"validate_every": 1, "validation_clusters": 2}


def config(run_dir: Path, **changes: Any) -> Any:
    """Two updates, each validated."""
    settings = {**VALIDATED, **changes.pop("settings", {})}
    return small_config(run_dir, decisions=64, settings=settings, **changes)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> seeds.SeedsResult:
    folder = tmp_path_factory.mktemp("seeds") / "runs"
    return train_seeds(config(folder), [3, 4], progress=False)


def test_the_best_seed_has_the_lowest_tail_on_validation_seeds(trained: seeds.SeedsResult) -> None:
    assert [run.seed for run in trained.runs] == [3, 4]
    assert trained.best.score == min(run.score for run in trained.runs)
    assert set(SCORE_SEEDS) <= set(VALIDATION.seeds)
    for run in trained.runs:
        model = Path(trained.folder) / run.folder / "model.zip"
        assert score(model, scored_on(config(Path(trained.folder)))) == run.cells
        assert run.score == pytest.approx(np.exp(np.mean(np.log(list(run.cells.values())))))
    assert trained.spec.endswith(f"seed-{trained.best.seed}/model.zip")
    assert json.loads((Path(trained.folder) / "seeds.json").read_text())["chosen"] == (
        trained.best.seed
    )


def test_a_finished_seed_is_skipped_and_a_stopped_one_goes_on(
    trained: seeds.SeedsResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "runs"
    own, train, began = config(folder), seeds.train, []

    def stopped(asked: Any, progress: bool) -> Any:
        began.append(asked.seed)
        if asked.seed == 4 and len(began) == 2:
            plan = Plan.of(asked)
            run = seeds.RunFolder(asked.run_dir)
            run.path.mkdir()
            run.begin(asked, plan)
            raise KeyboardInterrupt
        return train(asked, progress)

    monkeypatch.setattr(seeds, "train", stopped)
    with pytest.raises(KeyboardInterrupt):
        train_seeds(own, [3, 4], progress=False)
    first = (folder / "seed-3" / "model.zip").stat().st_mtime_ns
    again = train_seeds(own, [3, 4], progress=False)
    assert began == [3, 4]  # the second time neither began: one was kept, the other continued
    assert (folder / "seed-3" / "model.zip").stat().st_mtime_ns == first
    assert [r.score for r in again.runs] == [r.score for r in trained.runs]  # reproducible
    for run, other in zip(again.runs, trained.runs, strict=True):
        mine = TrainedPolicy(folder / run.folder).actor.layers
        theirs = TrainedPolicy(Path(trained.folder) / other.folder).actor.layers
        for (weight, bias), (weight2, bias2) in zip(mine, theirs, strict=True):
            assert weight.tobytes() == weight2.tobytes() and bias.tobytes() == bias2.tobytes()


def test_a_folder_of_other_settings_is_refused_and_can_be_overwritten(
    trained: seeds.SeedsResult, tmp_path: Path
) -> None:
    folder = tmp_path / "runs"
    train_seeds(config(folder), [3], progress=False)
    other = config(folder, settings={"gamma": 0.5})
    with pytest.raises(ConfigError, match="of other settings"):
        train_seeds(other, [3], progress=False)
    found = train_seeds(other, [3], progress=False, only_missing=False)
    assert found.runs[0].run != trained.runs[0].run


@pytest.mark.parametrize(
    ("changes", "numbers", "why"),
    [
        ({"settings": {"validate_every": 0}}, [1, 2], "nothing is validated"),
        ({}, [1, 1], "each only once"),
        ({}, [], "at least one"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    tmp_path: Path, changes: dict[str, Any], numbers: list[int], why: str
) -> None:
    with pytest.raises(ConfigError, match=why):
        train_seeds(config(tmp_path / "runs", **changes), numbers, progress=False)


def test_the_released_card_names_all_seeds(trained: seeds.SeedsResult, tmp_path: Path) -> None:
    path = release(Path(trained.folder), tmp_path / "best.safetensors")
    about = json.loads(path.with_suffix(".json").read_text())
    assert about["card"]["seed"] == about["seeds"]["chosen"] == trained.best.seed
    assert [run["seed"] for run in about["seeds"]["runs"]] == [3, 4]
    for at in about["seeds"]["curves"]:
        assert at["low"] <= at["median"] <= at["high"]
    (scenario,) = about["trained"]["scenarios"]
    assert scenario == {
        "name": "small", "load": small_scenario().workload.load,
        "digest": about["card"]["scenario_digest"], "clusters": 4,
    }  # fmt: skip
    obs = np.random.default_rng(0).random((5, 21), np.float32)
    best = TrainedPolicy(Path(trained.folder) / trained.best.folder)
    np.testing.assert_array_equal(TrainedPolicy(path).act(obs), best.act(obs))
    (Path(trained.folder) / "seeds.json").rename(tmp_path / "kept")
    with pytest.raises(CheckpointError, match=r"model\.zip"):
        release(Path(trained.folder), tmp_path / "none.safetensors")
    (tmp_path / "kept").rename(Path(trained.folder) / "seeds.json")


def test_the_command_trains_several_and_says_what_it_cannot_read(tmp_path: Path) -> None:
    file = tmp_path / "small.json"  # JSON is YAML
    asked = config(tmp_path / "runs").model_dump(mode="json", exclude={"seed", "run_dir"})
    file.write_text(json.dumps(asked))
    arguments = ["train", "--config", str(file), "--run-dir", str(tmp_path / "runs"), "-q"]
    said = CliRunner().invoke(app, [*arguments, "--seeds", "0-1"])
    assert said.exit_code == 0, said.output
    assert f"helm-gym curves {tmp_path / 'runs' / 'seed-0'}" in said.output.replace("\n", " ")
    assert "best" in said.output
    for wrong, why in (("one", "0-4 or 0,3,7-9"), ("3-1", "at least one")):
        said = CliRunner().invoke(app, [*arguments, "--seeds", wrong])
        assert said.exit_code == 2 and why in said.output, said.output
    said = CliRunner().invoke(app, [*arguments, "--seeds", "0", "--seed", "1"])
    assert said.exit_code == 2 and "--seeds goes without" in said.output


JOBS = [
    Job(scenario="paper-v2-taobao-steady", overrides={"nodes": 2}, spread=0.3, seed=(0, number))
    for number in range(3)
]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Digests of the scenarios whose capacity was measured, which takes no time here."""
    seen: list[str] = []

    def quickly(scenario: Any) -> float:
        seen.append(scenario.digest())
        return 100.0

    monkeypatch.setattr(randomise, "measured_capacity", quickly)
    return seen


def test_a_model_is_scored_again_if_it_changed_whatever_its_date(
    trained: seeds.SeedsResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored: list[float] = []

    def counted(*_: Any) -> dict[str, float]:
        scored.append(len(scored) + 1.0)
        return {"a cell": scored[-1]}

    monkeypatch.setattr(seeds, "score", counted)
    model = tmp_path / "model.zip"
    result: Any = SimpleNamespace(
        run_dir=str(tmp_path), model=str(model), validation_reward=0.0, decisions=1, chosen_at=1
    )
    plan: Any = SimpleNamespace(digest=lambda: "x")
    found = []
    for seed in (3, 3, 4):
        shutil.copy(Path(trained.folder) / f"seed-{seed}" / "model.zip", model)
        os.utime(model, (0, 0))
        found.append(seeds._scored(result, config(tmp_path), plan, False).score)
    assert found == pytest.approx([1.0, 1.0, 2.0])


def test_draws_are_kept_and_made_once(tmp_path: Path, measured: list[str]) -> None:
    alone = draw_all(JOBS)
    assert len(measured) == len(set(measured)) == 3
    first = draw_all(JOBS[:2], tmp_path / "draws")  # as if it had been stopped here
    assert draw_all(JOBS, tmp_path / "draws") == alone and first == alone[:2]
    assert len(measured) == 6
    assert draw_all(JOBS, tmp_path / "draws") == alone
    assert len(measured) == 6
    draw_all([JOBS[0].model_copy(update={"spread": 0.2})], tmp_path / "draws")
    assert len(measured) == 7


def test_a_damaged_draw_is_named_and_drawn_again(tmp_path: Path, measured: list[str]) -> None:
    drawn = draw_all(JOBS[:1], tmp_path)
    (file,) = tmp_path.glob("*.json")
    file.write_text(file.read_text()[:40])
    with pytest.warns(UserWarning, match=f"{file.name} is damaged"):
        assert draw_all(JOBS[:1], tmp_path) == drawn
    assert len(measured) == 2


def test_drawing_shows_how_far_it_is(
    tmp_path: Path, measured: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    draw_all(JOBS, tmp_path, progress=True)
    assert "drawing scenarios" in capsys.readouterr().err
    draw_all(JOBS, tmp_path, progress=True)  # nothing to wait for
    assert "drawing" not in capsys.readouterr().err


def test_seeds_share_draws_and_a_part_stays_as_stated(tmp_path: Path, measured: list[str]) -> None:
    suite = {
        "name": "two", "training": ["paper-v2-taobao-steady", "paper-v2-taobao-burst"],
        "validation": ["paper-v2-amazon-video-games-steady"], "loads": [0.7, 0.9],
    }  # fmt: skip
    asked = {
        "suite": suite, "spread": 0.3, "drawn": 0.5, "clusters": 8, "run_dir": str(tmp_path),
        "threads": 1, "draw_seed": 7, "draws": str(tmp_path / "draws"),
    }  # fmt: skip
    plans = [Plan.of(seeds.TrainConfig.parse({**asked, "seed": seed}, "test")) for seed in (0, 1)]
    assert len(measured) == 4
    one, other = (plan.training_set for plan in plans)
    assert one is not None and one == other and plans[0].digest() != plans[1].digest()
    loads = [part.changes["workload.load"] for part in one.training]
    assert sorted(loads[:4]) == [0.7, 0.7, 0.9, 0.9] and len(one.training) == 8
    assert len({part.scenario_digest for part in one.training}) == 8


def test_nodes_explore_together_and_each_as_its_network_says() -> None:
    import gymnasium as gym

    from helm_gym.agents.training.sb3.exploration import CoherentPolicy

    class Env(gym.Env[Any, Any]):
        observation_space = gym.spaces.Box(0.0, 1.0, (3,), np.float32)
        action_space: Any = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def drawn(coherence: float, **spaces: Any) -> tuple[Any, torch.Tensor]:
        env = Env()
        env.__dict__.update(spaces)
        together = {"nodes": 2, "coherence": coherence}
        model = PPO(CoherentPolicy, env, policy_kwargs=together, seed=0, device="cpu")
        seen = torch.full((40_000, 3), 0.3)
        with torch.no_grad():
            actions, _, log_prob = model.policy(seen)
            _, again, _ = model.policy.evaluate_actions(seen, actions)
        torch.testing.assert_close(log_prob, again)  # what PPO will compare with
        return model.policy.get_distribution(seen[:1]).distribution, actions.reshape(-1, 2)

    for coherence in (0.25, 0.81):
        normal, actions = drawn(coherence)
        assert torch.corrcoef(actions.T)[0, 1].item() == pytest.approx(coherence, abs=0.02)
        assert actions.mean().item() == pytest.approx(normal.mean.item(), abs=0.02)
        assert actions.std().item() == pytest.approx(normal.stddev.item(), rel=0.02)
    choices, actions = drawn(0.8, action_space=gym.spaces.Discrete(7))
    parts = torch.bincount(actions.reshape(-1), minlength=7) / actions.numel()
    torch.testing.assert_close(parts, choices.probs[0], atol=0.01, rtol=0)
    assert torch.corrcoef(actions.T.float())[0, 1].item() > 0.6


def test_coherence_needs_rows_that_are_nodes(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="only with control 'node'"):
        Plan.of(small_config(tmp_path, settings={"coherence": 0.5}))
    assert Plan.of(small_config(tmp_path)).model_dump()["settings"]["coherence"] == 0.0
