"""The hindsight optimum: real costs, moves in bounds, nothing static beats it, and it resumes."""

from __future__ import annotations

import io
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from small import REGIMES, small_scenario
from typer.testing import CliRunner

from helm_gym.baselines.schedule import Schedule, SchedulePolicy
from helm_gym.baselines.static import StaticPolicy
from helm_gym.benchmark import hindsight as metrics
from helm_gym.benchmark import hindsight_report as report
from helm_gym.benchmark.distance import distance, distance_good
from helm_gym.config.scenario import Scenario
from helm_gym.envs.reward import DEFAULT, PRESETS
from helm_gym.errors import ConfigError
from helm_gym.evaluation.specs import make_policy
from helm_gym.hindsight import search as room
from helm_gym.hindsight.branches import Branches, Plan
from helm_gym.hindsight.dp import Unreachable, corridor, solve
from helm_gym.hindsight.objective import OBJECTIVES, Objective, slower_part
from helm_gym.hindsight.search import Search, hindsight
from helm_gym.runs.rollout import run_policy
from helm_gym.sim.layout import N_BINS
from helm_gym.sim.stages import bin_edge
from helm_gym.store import json_codec, open_store, save_rows

SEED = 20_000
WIDE = 10_000  # ways kept: more than there are


@pytest.fixture(scope="module")
def phases() -> Scenario:
    """Surfaces in turn, so that the best share changes; one window is 0.4 s, a phase 1 s."""
    return small_scenario(**{"workload.regime": REGIMES["phases"], "workload.load": 1.0})


@pytest.fixture(scope="module")
def search() -> Search:
    return Search(step=0.1, coarse_step=0.2, longest_move=0.2, radius=0.2, width=2, rounds=2)


@pytest.fixture(scope="module", params=["tail", "mean_latency"])
def found(request: pytest.FixtureRequest, phases: Scenario, search: Search) -> room.Hindsight:
    return hindsight(phases, SEED, request.param, search)


def brute_force(branches: Branches, objective: Objective, grid: list[float]) -> dict[Plan, float]:
    """Cost of every schedule, each simulated from its beginning."""
    windows = branches.scenario.episode.steps
    return {
        (plan := Plan(shares[0], shares[1:])): room.summed(objective, branches.follow(plan))
        for shares in itertools.product(grid, repeat=windows + 1)
    }


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_wide_lattice_is_brute_force(phases: Scenario, name: str) -> None:
    scenario = phases.replace({"episode.steps": 3, "workload.load": 1.6})
    objective, grid = Objective(name, scenario, 12.0), [0.2, 0.5, 0.8]
    branches = Branches(objective, SEED)
    costs = brute_force(branches, objective, grid)
    plan, cost = solve(branches, objective, [grid] * 3, longest_move=1.0, width=WIDE)
    assert cost == min(costs.values())
    assert costs[plan] == cost
    assert len(set(costs.values())) > 27, "the objective must tell schedules apart"


def test_the_tail_does_not_depend_on_the_default_reward(phases: Scenario) -> None:
    assert Objective("tail", phases).reward == PRESETS["paper"] != PRESETS[DEFAULT]


def test_a_wide_lattice_with_short_moves_is_brute_force_over_what_they_reach(
    phases: Scenario,
) -> None:
    scenario = phases.replace({"episode.steps": 3})
    objective, grid = Objective("mean_latency", scenario), [0.2, 0.5, 0.8]
    branches = Branches(objective, SEED)
    reachable = {
        plan: cost
        for plan, cost in brute_force(branches, objective, grid).items()
        if max(abs(np.diff([plan.initial_share, *plan.shares]))) < 0.31
    }
    _, cost = solve(branches, objective, [grid] * 3, longest_move=0.3, width=WIDE)
    assert cost == min(reachable.values())


def test_a_wider_lattice_keeps_ways_that_a_narrow_one_forgets(phases: Scenario) -> None:
    objective = Objective("mean_latency", phases)
    branches = Branches(objective, SEED)
    choices = [[0.2, 0.4, 0.6, 0.8]] * phases.episode.steps
    costs = [
        solve(branches, objective, choices, longest_move=0.2, width=width)[1] for width in (1, 40)
    ]
    assert costs[1] <= costs[0]


def test_no_static_share_beats_the_schedule(phases: Scenario, found: room.Hindsight) -> None:
    objective = Objective(found.schedule.objective, phases)
    for share in found.grid:
        (episode,) = run_policy(phases, StaticPolicy(share), "x", [SEED], reward=objective.reward)
        assert found.best.cost <= objective.of_episode(episode)
    assert found.best.cost < found.static.cost
    assert found.source != "static"


def test_the_environment_replays_the_schedule_bit_for_bit(
    phases: Scenario, found: room.Hindsight
) -> None:
    objective = Objective(found.schedule.objective, phases)
    (episode,) = run_policy(
        phases, SchedulePolicy(found.schedule), "x", [SEED], reward=objective.reward
    )
    assert objective.of_episode(episode) == found.best.cost
    for figure in ("tail_ms", "slo_satisfaction"):
        assert episode.figures[figure] == getattr(found.best, figure)
    assert episode.figures["mean_ms"] == pytest.approx(found.best.mean_ms, rel=1e-12)
    np.testing.assert_array_equal(episode.shares[:, 0], found.schedule.shares)
    for each in found.rounds:  # a branch is what the whole simulation does
        assert each.replayed == each.expected


def test_moves_stay_within_the_limit(found: room.Hindsight, search: Search) -> None:
    shares = [found.schedule.initial_share, *found.schedule.shares]
    moves = np.abs(np.diff(shares))
    assert 0.0 < moves.max() <= search.longest_move + 1e-9
    assert set(shares) <= set(found.grid)


def test_the_scenarios_own_limit_holds_too(phases: Scenario, search: Search) -> None:
    scenario = phases.replace({"episode.max_step": 0.05})
    objective = Objective("mean_latency", scenario)
    found = hindsight(scenario, SEED, "mean_latency", search)
    (episode,) = run_policy(
        scenario, SchedulePolicy(found.schedule), "x", [SEED], reward=objective.reward
    )
    assert np.abs(np.diff(episode.shares[:, 0])).max() <= 0.05 + 1e-9
    assert objective.of_episode(episode) == found.best.cost


def test_the_threshold_falls_with_the_tail(phases: Scenario, search: Search) -> None:
    found = hindsight(phases, SEED, "tail", search)
    thresholds = [each.threshold_ms for each in found.rounds]
    assert thresholds[0] == pytest.approx(found.static.cost)
    assert thresholds == sorted(thresholds, reverse=True)
    assert found.best.cost == found.best.tail_ms == min(each.cost for each in found.rounds)


def test_slow_arrivals_are_counted_as_quantiles_cut_bins() -> None:
    counts = np.zeros(N_BINS)
    counts[700] = 10.0
    low, high = bin_edge(700) * 1e3, bin_edge(701) * 1e3
    for part in (0.0, 0.25, 1.0):
        assert slower_part(low + part * (high - low)) @ counts == pytest.approx(10 * (1 - part))


def test_good_shares_hold_the_schedules_own(found: room.Hindsight) -> None:
    assert len(found.good) == len(found.schedule.shares)
    for own, good in zip(found.schedule.shares, found.good, strict=True):
        assert own in good
        assert list(good) == sorted(set(good))


def test_distances() -> None:
    grid, good = [0.1, 0.2, 0.3, 0.4], [(0.2, 0.3), (0.1, 0.4)]
    shares = np.array([[0.25, 0.35], [0.2, 0.5]])
    assert distance(shares, (0.2, 0.1)) == pytest.approx((0.05 + 0.15 + 0.1 + 0.4) / 4)
    assert distance_good(shares, good, grid) == pytest.approx((0 + 0.05 + 0.1 + 0.1) / 4)


def test_a_corridor_that_is_cut_says_so(phases: Scenario) -> None:
    objective = Objective("paper", phases)
    plan = Plan(0.2, tuple([0.2, 0.8] * 4))
    choices = corridor(plan, [0.2, 0.3, 0.5, 0.7, 0.8], 0.1)
    assert choices[:2] == [[0.2, 0.3], [0.7, 0.8]]
    with pytest.raises(Unreachable, match="window 1"):
        solve(Branches(objective, SEED), objective, choices, longest_move=0.1)


def test_a_better_policy_shows_the_search_where_to_look(
    phases: Scenario, search: Search, tmp_path: Path
) -> None:
    """A poor schedule on file is improved as soon as a policy with one share beats it."""
    full = hindsight(phases, SEED, "mean_latency", search)
    poor = full.model_copy(
        update={
            "schedule": full.schedule.model_copy(update={"shares": (0.9,) * phases.episode.steps}),
            "best": full.best.model_copy(update={"cost": 1e6}),
        }
    )
    rival = Plan(full.schedule.initial_share, full.schedule.shares)
    better = room.improve(poor, phases, rival.shares, search)
    assert better.best.cost <= full.best.cost
    assert better.source == "around a policy"


def run_compare(scenario: Scenario, search: Search, out: Path) -> metrics.Comparison:
    return metrics.compare(
        scenario,
        ["static:0.4", "balance"],
        seeds=[SEED, SEED + 1],
        objective="mean_latency",
        search=search,
        out=out,
    )


def test_a_finished_seed_is_not_searched_again(
    phases: Scenario, search: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run_compare(phases, search, tmp_path)
    files = sorted(tmp_path.glob("*.json"))
    assert len(files) == 2
    searched: list[int] = []

    def counted(scenario: Scenario, seed: int, *rest: Any) -> room.Hindsight:
        searched.append(seed)
        return hindsight(scenario, seed, *rest)

    monkeypatch.setattr(room, "hindsight", counted)
    assert run_compare(phases, search, tmp_path) == first
    assert searched == []
    files[1].write_text(files[1].read_text()[:-40])  # as if it had been cut
    with pytest.warns(UserWarning, match=f"{files[1].name} is damaged"):
        assert run_compare(phases, search, tmp_path) == first
    assert searched == [SEED + 1]
    wider = search.model_copy(update={"width": 3})
    run_compare(phases, wider, tmp_path)
    assert searched == [SEED + 1, SEED, SEED + 1]


def test_table_and_rows(phases: Scenario, search: Search, tmp_path: Path) -> None:
    compared = run_compare(phases, search, tmp_path)
    by_name = {row.policy: row for row in compared.rows if row.seed == SEED}
    best, still = by_name[metrics.BEST], by_name["static:0.4"]
    assert best.regret == best.distance == best.distance_good == 0.0
    assert still.regret > 0.0
    shares = compared.found[0].schedule.shares
    assert still.distance == pytest.approx(np.mean(np.abs(np.array(shares) - 0.4)))
    assert still.distance_good <= still.distance
    assert report.table(compared).row_count == len(metrics.POINTS) + 2
    text = io.StringIO()
    Console(width=80, file=text).print(report.table(compared, 80))
    assert "…" not in text.getvalue()  # what a narrow window cannot hold is left out, not cut off
    assert all(name.split()[0] in text.getvalue() for name in compared.names())
    assert not any(text.startswith("NO OPTIMUM: static") for text in report.findings(compared))
    save_rows(compared.records(), tmp_path / "rows.parquet")
    rows = pq.read_table(tmp_path / "rows.parquet").to_pylist()
    assert len(rows) == 2 * (len(metrics.POINTS) + 2)
    assert rows[0]["scenario_digest"] == phases.digest()


def test_a_beaten_schedule_is_admitted(phases: Scenario, search: Search, tmp_path: Path) -> None:
    compared = run_compare(phases, search, tmp_path)
    rows = [
        metrics.Row(**{**vars(row), "regret": -0.5}) if row.policy == "balance" else row
        for row in compared.rows
    ]
    beaten = metrics.Comparison(**{**vars(compared), "rows": tuple(rows)})
    assert report.findings(beaten)[0].startswith("NO OPTIMUM: balance costs less")
    assert "2 of 2 seeds" in report.findings(beaten)[0]


def test_schedule_files(phases: Scenario, found: room.Hindsight, tmp_path: Path) -> None:
    own, whole = tmp_path / "schedule.json", tmp_path / "found.json"
    found.schedule.save(own)
    with open_store(tmp_path, json_codec(room.Hindsight)) as store:
        store.put("found", found)
        assert store.get("found") == found
    assert Schedule.load(own) == Schedule.load(whole) == found.schedule
    policy = SchedulePolicy(own)
    assert policy.initial_share == found.schedule.initial_share
    for _ in range(2):
        policy.reset(0)
        played = [policy.act(np.zeros((3, 7))) for _ in found.schedule.shares]
        assert [float(shares[0, 0]) for shares in played] == list(found.schedule.shares)
        assert played[0].shape == (3, 1)
    with pytest.raises(ConfigError, match="ends after 8 windows"):
        policy.act(np.zeros((3, 7)))


def test_a_spec_names_a_schedules_file(found: room.Hindsight, tmp_path: Path) -> None:
    path = tmp_path / "schedule.json"
    found.schedule.save(path)
    policy = make_policy(f"schedule:{path}")
    assert isinstance(policy, SchedulePolicy)
    assert policy.schedule == found.schedule
    with pytest.raises(ConfigError, match="needs a file"):
        make_policy("schedule")


@pytest.mark.parametrize(
    ("text", "says"),
    [(None, "No such file"), ("{", "not JSON"), ("[]", "initial_share"), ('{"x": 1}', "schedule")],
)
def test_a_file_that_is_no_schedule_says_why(tmp_path: Path, text: str | None, says: str) -> None:
    path = tmp_path / "x.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=says):
        SchedulePolicy(path)


def test_what_cannot_be_searched_is_refused(phases: Scenario) -> None:
    with pytest.raises(ConfigError, match="tail"):
        hindsight(phases, SEED, "tial")
    with pytest.raises(ConfigError, match="finer"):
        hindsight(phases, SEED, "tail", Search(step=0.1, longest_move=0.06))


def test_the_command(phases: Scenario, tmp_path: Path) -> None:
    from helm_gym.cli import hindsight as command
    from helm_gym.cli.shared import app

    assert command
    file = tmp_path / "phases.yaml"
    file.write_text(phases.replace({"episode.steps": 3}).to_yaml())
    out = tmp_path / "out"
    ran = CliRunner().invoke(
        app, ["hindsight", "-s", str(file), "-p", "static:0.4", "--fast", "-q", "--out", str(out)]
    )
    assert ran.exit_code == 0, ran.output
    assert "small, load 1, seeds 20000, objective tail" in ran.output
    assert "play it: helm-gym evaluate -p schedule:" in ran.output
    (path,) = out.glob("*.json")
    assert len(json.loads(path.read_text())["schedule"]["shares"]) == 3
