"""Training over many scenarios: rows of a mixture, suites, randomisation, and runs that resume."""

from __future__ import annotations

import copy
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

pytest.importorskip("stable_baselines3")

import torch
from agents_small import SETTINGS, small_config
from small import REGIMES, SMALL, small_scenario
from training_runs import assert_same_run, interrupt_at_step

from helm_gym.agents.training import randomise
from helm_gym.agents.training import train as train_room
from helm_gym.agents.training.build import make_env, make_validator
from helm_gym.agents.training.curves import (
    curves_svg,
    curves_table,
    read_curves,
    spread_of,
)
from helm_gym.agents.training.interrupt import TrainingInterrupted
from helm_gym.agents.training.plan import Plan, RunFolder, TrainConfig
from helm_gym.agents.training.randomise import draw, drawn_value
from helm_gym.agents.training.scenarios import Suite
from helm_gym.cli import app
from helm_gym.config.quantity import Quantity
from helm_gym.config.scenario import Scenario
from helm_gym.envs.action import INCREMENTS
from helm_gym.envs.mixture import MixtureVectorEnv
from helm_gym.envs.vector_env import EmbKvVectorEnv
from helm_gym.errors import CheckpointError, ConfigError, InvalidAction
from helm_gym.state_file import read_state, write_state
from helm_gym.suites import moving
from helm_gym.suites.capacity import Probe
from helm_gym.suites.splits import TRAINING, VALIDATION

SCENARIOS = {
    "busy": small_scenario(),
    "burst": small_scenario(
        **{"workload.regime": REGIMES["burst"], "workload.load": 0.7, "episode.steps": 5}
    ),
    "lru": small_scenario(**{"emb.policy": "lru"}),
}
SIZES = {"busy": 2, "burst": 1, "lru": 2}  # clusters
WINDOWS = 18  # episodes have 8 and 5, so rows end together and apart


def single(name: str, control: str, clusters: int = 1, action: str = "share") -> EmbKvVectorEnv:
    return EmbKvVectorEnv(
        clusters,
        scenario=SCENARIOS[name],
        control=control,
        action=action,
        observation="extended",
        autoreset_mode="SameStep",
    )


def mixture(control: str, threads: int = 1) -> MixtureVectorEnv:
    return MixtureVectorEnv([single(n, control, size) for n, size in SIZES.items()], threads)


def actions_of(env: Any, seed: int, windows: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.1, 0.9, (windows, *env.action_space.shape))


def same(one: Any, other: Any) -> bool:
    """Equal trees of arrays, bit for bit."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, np.ndarray) and one.dtype.hasobject:
        return all(map(same, one.tolist(), other.tolist()))
    if isinstance(one, np.ndarray):
        return one.shape == other.shape and one.tobytes() == np.asarray(other).tobytes()
    return bool(one == other)


def rows_of(infos: dict[str, Any], rows: slice) -> dict[str, Any]:
    """What those rows of a vector environment's infos say, where their masks say anything."""
    found = {}
    for key, value in infos.items():
        if key.startswith("_") or not infos[f"_{key}"][rows].any():
            continue
        found[key] = rows_of(value, rows) if isinstance(value, dict) else value[rows]
        found[f"_{key}"] = infos[f"_{key}"][rows]
    return found


@pytest.mark.parametrize("control", ["cluster", "node", "per_node"])
@pytest.mark.parametrize("threads", [1, 3])
def test_every_cluster_is_the_single_environment_with_its_seed(control: str, threads: int) -> None:
    """Observations, rewards, ends and infos, with those of an episode's last window."""
    env = mixture(control, threads)
    names = [name for name, size in SIZES.items() for _ in range(size)]
    alone = [single(name, control) for name in names]
    seen, infos = env.reset(seed=40)
    first = [other.reset(seed=40 + number) for number, other in enumerate(alone)]
    own = [slice(n * o.num_envs, (n + 1) * o.num_envs) for n, o in enumerate(alone)]
    assert same(seen, np.concatenate([obs for obs, _ in first]))
    assert all(same(rows_of(infos, rows), told[1]) for rows, told in zip(own, first, strict=True))
    ends = 0
    for actions in actions_of(env, 1, WINDOWS):
        told = env.step(actions)
        for rows, other in zip(own, alone, strict=True):
            want = other.step(actions[rows])
            assert all(same(a[rows], b) for a, b in zip(told[:4], want[:4], strict=True))
            assert same(rows_of(told[4], rows), want[4])
            ends += int(want[3].all() and "final_info" in want[4])
    assert ends == 4 * (WINDOWS // 8) + WINDOWS // 5
    assert [s.digest() for s in env.scenarios] == [SCENARIOS[n].digest() for n in names]


@pytest.mark.parametrize("control", ["cluster", "node", "per_node"])
def test_increments_reach_the_parts(control: str) -> None:
    names = ("busy", "lru")
    env = MixtureVectorEnv([single(name, control, 2, "choice") for name in names])
    shares = MixtureVectorEnv([single(name, control, 2) for name in names])
    env.reset(seed=1)
    shares.reset(seed=1)
    env.action_space.seed(0)
    for _ in range(10):
        choices = env.action_space.sample()
        held = shares.layout.row_shares(shares.shares)
        steps = np.array(INCREMENTS)[choices].reshape(held.shape)
        assert same(env.step(choices)[:4], shares.step(held + steps)[:4])
    with pytest.raises(InvalidAction, match="0 to 6 stand for"):
        env.step(held)
    assert [row.shape for row in env.get_attr("shares")] == [(3,)] * env.num_envs


def test_a_list_of_seeds_and_a_mask_reach_the_clusters_they_name() -> None:
    env, other = mixture("node"), mixture("node")
    seen, _ = env.reset(seed=[7, 7, 3, 9, 9])
    assert same(seen[0:3], seen[3:6]) and same(seen[9:12], seen[12:15])
    other.reset(seed=[7, 7, 3, 9, 9])
    mask = np.zeros(15, np.bool_)
    mask[6:9] = True  # the one cluster of the burst
    for environment in (env, other):
        told = environment.step(np.full((15, 1), 0.4))
    again, infos = env.reset(seed=50, options={"reset_mask": mask, "share": 0.3})
    assert same(again[~mask], told[0][~mask]) and same(env.shares[2], np.full(3, 0.3))
    assert infos["_p99_ms"].tolist() == mask.tolist()
    assert env.np_random_seed == (7, 7, 52, 9, 9)


def test_a_state_goes_on_bit_for_bit_and_a_foreign_one_changes_nothing(tmp_path: Path) -> None:
    env = mixture("node", threads=2)
    env.reset(seed=3)
    actions = actions_of(env, 2, 12)
    for action in actions[:6]:
        env.step(action)
    write_state(tmp_path / "state", env.get_state())
    want = [env.step(action) for action in actions[6:]]
    other = mixture("node")
    other.set_state(read_state(tmp_path / "state"))
    assert same([other.step(action) for action in actions[6:]], want)
    before = other.get_state()
    parts = [single(name, "node", 2) for name in SIZES]  # the burst has one cluster above
    foreign = MixtureVectorEnv(parts)
    foreign.reset(seed=1)
    with pytest.raises(CheckpointError, match="clusters 2"):
        other.set_state(foreign.get_state())
    with pytest.raises(CheckpointError, match="has 1 scenarios, but this environment 3"):
        other.set_state({**before, "parts": before["parts"][:1]})
    assert same(other.get_state(), before)


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ({"control": "cluster"}, "control"),
        ({"observation": "paper7"}, "observation"),
        ({"reward": "mean_latency"}, "reward_config"),
        ({"action": "choice"}, "action"),
        ({"overrides": {"nodes": 2}}, "nodes"),
        ({"autoreset_mode": "NextStep"}, "in the step that ends"),
    ],
)
def test_environments_that_are_no_mixture_are_refused(other: dict[str, Any], why: str) -> None:
    common = {
        "scenario": SCENARIOS["busy"],
        "control": "node",
        "observation": "extended",
        "autoreset_mode": "SameStep",
    }
    with pytest.raises(ConfigError, match=why):
        MixtureVectorEnv([EmbKvVectorEnv(1, **common), EmbKvVectorEnv(1, **{**common, **other})])


def test_a_wrong_action_simulates_nothing() -> None:
    env = mixture("node")
    env.reset(seed=0)
    before = env.get_state()
    actions = np.full((15, 1), 0.5)
    actions[14] = np.nan  # in the last part
    with pytest.raises(InvalidAction, match="row 14"):
        env.step(actions)
    assert same(env.get_state(), before)


def small_suite(**changes: Any) -> dict[str, Any]:
    """Two scenarios to train on and one to choose weights on."""
    named = [
        {**copy.deepcopy(SMALL), "name": name, "structure_seed": n}
        for n, name in enumerate(("one", "two", "three"))
    ]
    suite = {"name": "tiny", "training": named[:2], "validation": named[2:], "loads": [0.7, 0.9]}
    return {**suite, **changes}


def train_suite(run: Path, **changes: Any) -> None:
    """Three updates on four clusters."""
    settings = {"n_steps": 4, "batch_size": 48, "validate_every": 2, "validation_clusters": 2}
    values = {"suite": small_suite(), "decisions": 144, **changes}
    values["settings"] = {**settings, **values.pop("settings", {})}
    config = small_config(run, **values).model_dump(exclude={"scenario"})
    train_room.train(TrainConfig.parse(config, "test"), progress=False)


def test_curves_of_several_seeds_have_a_median_and_a_range(tmp_path: Path) -> None:
    for seed, rewards in enumerate(((0.5, 0.9), (0.7, 0.6), (0.6, 0.8))):
        config = small_config(tmp_path / str(seed), seed=seed)
        folder = RunFolder(config.run_dir)
        folder.path.mkdir()
        folder.begin(config, Plan.of(config))
        validated = zip((64, 160), rewards, strict=True)
        rows = ["32,", *(f"{decisions},{reward}" for decisions, reward in validated)]
        folder.curve.write_text("\n".join(["decisions,validation_reward", *rows]) + "\n")
    found = read_curves([tmp_path / str(seed) for seed in range(3)])
    spread = spread_of(found)
    assert spread.decisions.tolist() == [64, 160]
    assert [spread.low.tolist(), spread.median.tolist(), spread.high.tolist()] == [
        [0.5, 0.6], [0.6, 0.8], [0.7, 0.9],
    ]  # fmt: skip
    assert [curve.decisions[curve.best] for curve in found] == [160, 64, 160]
    assert curves_table(found).caption == "best of each run: median 0.8000, range 0.7000 to 0.9000"
    assert "median and range of 3 runs" in curves_svg(found)
    (tmp_path / "0/curve.csv").write_text("decisions\n32\n")
    with pytest.raises(ConfigError, match="validate_every"):
        read_curves([tmp_path / "0"])


def test_a_file_says_what_to_train_and_options_go_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[TrainConfig] = []

    def pretend(config: TrainConfig, progress: bool) -> Any:
        asked.append(config)
        raise TrainingInterrupted("12 decisions are kept")

    monkeypatch.setattr(train_room, "train", pretend)
    file = tmp_path / "train.yaml"
    file.write_text("suite: paper\nseed: 3\nspread: 0.3\nsettings: {gamma: 0.8, n_epochs: 4}\n")
    run = partial(CliRunner().invoke, app)
    run(["train", "--config", str(file), "--seed", "4", "--set", "n_epochs=3"])
    run(["train", "--config", str(file), "--randomise", "--set", "router.name=round_robin"])
    run(["train", "--suite", "paper", "--algorithm", "sac"])
    first, second, third = asked
    assert (first.suite, first.seed, first.spread) == ("paper", 4, 0.3)
    assert first.settings == {"gamma": 0.8, "n_epochs": 3}
    assert (second.seed, second.spread) == (3, randomise.SPREAD)
    assert second.overrides == {"router.name": "round_robin"}
    assert (third.run_dir, third.spread, third.seed) == ("runs/sac-paper", 0.0, 0)
    file.write_text("siute: paper\n")
    wrong = run(["train", "--config", str(file)])
    assert wrong.exit_code == 2 and "did you mean 'suite'" in wrong.output
    assert "write both" in run(["train", "--suite", "paper", "--spread", "0.2"]).output
    assert len(asked) == 3


@pytest.mark.parametrize("changes", [{}, {"spread": 0.2, "settings": {"group": 2}}])
def test_a_run_over_scenarios_resumes_with_the_same_weights(
    changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(randomise, "measured_capacity", lambda scenario: 150.0)
    monkeypatch.setattr(randomise, "_check_measured", lambda drawn, stated: None)
    train_suite(tmp_path / "whole", **changes)
    interrupt_at_step(monkeypatch, 5)
    with pytest.raises(TrainingInterrupted):
        train_suite(tmp_path / "parts", **changes)
    monkeypatch.undo()  # what was drawn is kept: nothing is measured again
    train_room.resume(tmp_path / "parts", threads=2, progress=False)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_a_run_keeps_what_it_trains_on_and_notices_when_that_changes(tmp_path: Path) -> None:
    file = tmp_path / "one.yaml"
    file.write_text(yaml.safe_dump(SMALL))
    suite = {"name": "mine", "training": [str(file)], "loads": [0.8]}
    config = TrainConfig.parse({"suite": suite, "run_dir": str(tmp_path / "run")}, "test")
    folder, plan = RunFolder(config.run_dir), Plan.of(config)
    assert plan.control == "node" and plan.trained_on[0] == "mine"
    folder.path.mkdir()
    folder.begin(config, plan)
    _, read, _ = folder.read()
    assert read == plan and read.digest() == plan.digest()
    file.write_text(yaml.safe_dump({**SMALL, "structure_seed": 5}))
    with pytest.raises(CheckpointError, match="changed since"):
        make_env(folder.read()[1])


def test_a_plan_of_one_scenario_says_what_it_is_trained_on() -> None:
    plan = Plan.of(TrainConfig(scenario=SMALL, settings=SETTINGS))
    assert plan.control == "cluster"
    assert set(plan.model_dump(mode="json")) == set(Plan.model_fields)  # nothing goes unsaid
    assert plan.trained_on == ("small", Scenario.load(SMALL).digest())


def test_the_paper_suite_is_trained_on_its_training_cells_at_all_loads() -> None:
    plan = Plan.of(TrainConfig(suite="paper", settings={"updates": 1}))
    chosen = plan.training_set
    assert chosen is not None and plan.control == "node" and plan.settings.context
    pairs = [(part.scenario, part.changes["workload.load"]) for part in chosen.training]
    cells = [name for name in moving.CELL_NAMES if name in TRAINING.scenarios]
    assert len(cells) == 8 and pairs == list(product(cells, moving.LOADS))
    assert {part.scenario for part in chosen.validation} == set(cells)
    assert {part.clusters for part in chosen.training} == {1}
    assert plan.trained_on[0] == moving.PREFIX
    assert plan.trained_on[1] not in {s.digest() for s in chosen.scenarios}


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"suite": "papr"}, "did you mean 'paper'"),
        ({"suite": small_suite(training=["paper-v2-amazon-books-trend"])}, "is for test"),
        ({"suite": small_suite(validation=["paper-v2-amazon-books-day"])}, "held out"),
        ({"suite": "paper", "seed": 10_000}, "seed 10000, which is for validation"),
        ({"suite": "paper", "clusters": 8}, "at least 24"),
        ({"suite": small_suite(), "overrides": {"nodes": 2}, "scenario": "feasibility"}, "one of"),
        ({"spread": 0.5}, "randomises a suite"),
        ({"suite": small_suite(), "spread": 0.5, "overrides": {"workload.load": 1}}, "is drawn"),
    ],
)
def test_what_no_policy_may_be_trained_on_is_refused(asked: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        Plan.of(TrainConfig.parse(asked, "test"))


def test_a_held_out_cell_under_another_name_is_refused() -> None:
    trend = Scenario.load("paper-v2-amazon-books-trend").to_dict() | {"name": "mine"}
    with pytest.raises(ConfigError, match="which is paper-v2-amazon-books-trend but for name"):
        Suite.load(small_suite(training=[trend])).check(range(4), {})
    # Nor may a setting turn a training cell into one.
    names = ("profile", "regime", "mix", "capacity_rps_per_node")
    changes = {f"workload.{name}": trend["workload"][name] for name in names}
    steady = small_suite(training=["paper-v2-taobao-steady"], validation=[])
    with pytest.raises(ConfigError, match="paper-v2-amazon-books-trend"):
        Suite.load(steady).check(range(4), changes)


def test_scenarios_that_one_network_cannot_serve_are_refused() -> None:
    one, two = small_suite()["training"]
    two["nodes"] = 2
    with pytest.raises(ConfigError, match="one has nodes 3, two 2"):
        Plan.of(TrainConfig.parse({"suite": small_suite(training=[one, two])}, "test"))


class Still:
    """A model that always gives the middle share."""

    num_timesteps = 0
    policy = torch.nn.Linear(1, 1)

    def predict(self, seen: Any, *others: Any, **settings: Any) -> tuple[Any, None]:
        return np.zeros((len(seen), 1), np.float32), None


def test_validation_plays_the_seeds_that_its_split_has() -> None:
    settings = {**SETTINGS, "validate_every": 2}
    plan = Plan.of(TrainConfig.parse({"suite": small_suite(), "settings": settings}, "test"))
    validator = make_validator(plan, threads=1)
    asked: list[int] = []
    env = validator._env
    assert env is not None
    seed = env.seed
    env.seed = lambda first=None: asked.append(first) or seed(first)  # type: ignore[method-assign,func-returns-value]
    validator.consider(Still())
    assert asked == [VALIDATION.seeds.start]
    assert set(env.venv.vector_env.np_random_seed) <= set(VALIDATION.seeds)


@pytest.mark.parametrize("spread", [0.0, 0.3, 1.0])
def test_a_drawn_value_lies_in_the_stated_part_of_its_range(spread: float) -> None:
    wide = Quantity(value=10.0, low=1.5, high=1000.0, assumed=True)
    ends = [drawn_value(wide, spread, place) for place in (0.0, 1.0)]
    assert ends == pytest.approx([10 * 0.15**spread, 10 * 100**spread], rel=1e-5)
    from_zero = Quantity(value=0.05, low=0.0, high=0.5, assumed=True)
    ends = [drawn_value(from_zero, spread, place) for place in (0.0, 1.0)]
    assert ends == pytest.approx([0.05 * (1 - spread), 0.05 + 0.45 * spread], rel=1e-5)
    count = Quantity(value=64, low=16, high=256, assumed=True)
    assert drawn_value(count, spread, 0.37).is_integer()


# The paper's hardware, tables and sessions on two nodes with few users, so that a draw takes a
# fraction of a second; its load is wrong on purpose, since a draw measures its own.
QUICK = {
    "nodes": 2, "workload.users": 20_000, "episode.steps": 6, "episode.warmup_s": 20.0,
    "episode.warm_starts": 1,
}  # fmt: skip


def test_draws_are_reproducible_and_neither_idle_nor_overloaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(randomise, "MEASURE_S", 10.0)
    stated = Scenario.load(TRAINING.scenarios[0]).replace(QUICK)
    draws = [draw(stated, 0.5, (0, number)) for number in range(4)]
    assert draw(stated, 0.5, (0, 1)) == draws[1]
    assert len({found.scenario.digest() for found in draws}) == len(draws)
    assert all(stated.replace(d.changes).digest() == d.scenario.digest() for d in draws)
    fits = 0
    for found in draws:
        workload, memory = found.scenario.workload, found.scenario.memory
        assert memory.total_gb == pytest.approx(stated.memory.total_gb, abs=1e-3)
        assert 0.6 <= workload.load <= 1.0
        assert found.scenario.slo.deadline_ms.value >= found.scenario.slo.p99_ms.value
        rate = workload.load * workload.capacity_rps_per_node.value
        played = Probe(found.scenario, (0,), 20.0).figures(rate, 0.5)
        fits += 0.3 <= max(played.gpu, played.link) <= 1.05 and played.shed < 0.1
    assert fits >= 3


def test_a_draw_that_cannot_be_is_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Scenario] = []

    def measured(scenario: Scenario) -> float:
        seen.append(scenario)
        if len(seen) < 3:
            raise ConfigError("too slow")
        return 99.0

    monkeypatch.setattr(randomise, "measured_capacity", measured)
    found = draw(Scenario.load(TRAINING.scenarios[0]), 0.3, (1, 2))
    assert found.scenario.workload.capacity_rps_per_node.value == 99.0
    assert len({scenario.digest() for scenario in seen}) == 3
    monkeypatch.setattr(randomise, "TRIES", 2)
    seen.clear()
    with pytest.raises(ConfigError, match=r"none of 2 draws .* too slow"):
        draw(Scenario.load(TRAINING.scenarios[0]), 0.3, (1, 2))
