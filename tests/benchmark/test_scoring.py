"""Scoring one policy: what it is worth, its worst moment, and what people and programs are told."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from score_small import BOTH, GOOD, ONE, OTHER, STEPS, UNCOUNTED, schedule, write_yardsticks
from typer.testing import CliRunner

from helm_gym import cli
from helm_gym.benchmark import scoring, yardsticks
from helm_gym.benchmark import scoring_report as report
from helm_gym.benchmark.arrange import Setting
from helm_gym.benchmark.moment import Moment, Outcome, stretch_in_words, worst_moment
from helm_gym.benchmark.scoring import Scored, score_policy
from helm_gym.config.scenario import Scenario
from helm_gym.errors import ConfigError
from helm_gym.suites import score_draws
from helm_gym.suites.score_draws import Draw, draws
from helm_gym.suites.seeds import EVALUATION_SEEDS, SCORE_SEEDS, TRAINING_SEEDS, TUNING_SEEDS
from helm_gym.suites.splits import check_test_seeds


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Yardsticks of both small draws."""
    made = tmp_path_factory.mktemp("score")
    write_yardsticks(made)
    return made


def small_score(spec: str, folder: Path, among: list[Draw] = BOTH, **how: Any) -> Scored:
    return score_policy(spec, among=among, folder=folder, **how)


# Draws


def test_seeds_and_data_sets_are_nobody_elses() -> None:
    seeds = [draw.seed for draw in draws(8)]
    assert len(set(seeds)) == len(seeds) == 96
    assert set(seeds) <= set(SCORE_SEEDS)
    for others in (TRAINING_SEEDS, TUNING_SEEDS, EVALUATION_SEEDS):
        assert not set(SCORE_SEEDS) & set(others)
    assert {draw.dataset for draw in draws()} == {"taobao", "amazon-video-games"}
    with pytest.raises(ConfigError, match="is for helm-gym score"):
        check_test_seeds(seeds[:1])


def test_more_seeds_leave_the_first_draws_as_they_are() -> None:
    assert draws(2)[: len(draws(1))] == draws(1)
    assert [draw.seed for draw in draws(1)] == list(SCORE_SEEDS[:12])
    with pytest.raises(ConfigError, match="ask for 1 to 8"):
        draws(9)


def test_a_draw_is_a_cell_with_a_course_of_its_own() -> None:
    burst, other = (d for d in draws() if d.cell == "score-taobao-burst")
    assert burst.scenario.name == "score-taobao-burst"
    assert burst.scenario.workload.load == burst.load == 1.05
    assert burst.scenario.router.name == burst.router == score_draws.ROUTER
    frozen = Scenario.load("paper-v2-taobao-burst").workload.regime
    courses = [burst.scenario.workload.regime, other.scenario.workload.regime, frozen]
    assert all(a != b for a in courses for b in courses if a is not b)


# The score


def test_the_schedule_has_1_and_a_share_of_one_half_0(folder: Path, tmp_path: Path) -> None:
    assert small_score("static:0.5", folder).value == 0.0
    file = tmp_path / "one.json"
    schedule(ONE).save(file)
    assert small_score(f"schedule:{file}", folder, [ONE]).value == 1.0


def test_what_is_better_than_the_schedule_has_1_too(tmp_path: Path) -> None:
    poor = yardsticks.play(ONE, schedule(ONE, 0.4))
    with (tmp_path / f"{ONE.key}.json").open("wb") as file:
        yardsticks.CODEC.write(file, poor)
    assert small_score(f"static:{GOOD}", tmp_path, [ONE]).value == 1.0


def test_a_policy_that_fails_has_0_there_and_is_named(folder: Path) -> None:
    scored = small_score("score_small:Fragile", folder)
    assert list(scored.failures) == [ONE]
    assert scored.score.cells == {ONE.cell: 0.0, OTHER.cell: 1.0}
    assert scored.value == 0.5
    assert scored.worst is not None
    assert scored.worst.outcome.draw == OTHER
    said = report.findings(scored)[0]
    assert ONE.cell in said
    assert "I cannot do this" in said


def test_a_policy_that_fails_everywhere_has_0_and_no_worst_moment(folder: Path) -> None:
    scored = small_score("score_small:Broken", folder)
    assert (scored.value, scored.worst, len(scored.failures)) == (0.0, None, 2)
    assert json.loads(json.dumps(report.record(scored), allow_nan=False))["worst"] is None


def test_two_processes_say_the_same_as_one(folder: Path) -> None:
    one, two = (small_score("balance", folder, jobs=jobs) for jobs in (1, 2))
    assert report.record(one) == report.record(two)


def test_yardsticks_of_other_code_are_played_again(folder: Path, tmp_path: Path) -> None:
    write_yardsticks(tmp_path, code_digest="of yesterday")
    old, new = small_score("balance", tmp_path), small_score("balance", folder)
    assert (old.played_again, new.played_again) == (2, 0)
    assert old.value == new.value
    assert any("simulator has changed" in text for text in report.findings(old))


def test_what_was_not_searched_counts_for_nobody(folder: Path, tmp_path: Path) -> None:
    stranger = ONE._replace(seed=30_250, regime="trend")
    scored = small_score("balance", folder, [ONE, stranger])
    assert scored.not_searched == (stranger,)
    assert set(scored.score.cells) == {ONE.cell}
    with pytest.raises(ConfigError, match="--search"):
        small_score("balance", tmp_path)


def test_a_damaged_yardstick_is_named(tmp_path: Path) -> None:
    write_yardsticks(tmp_path)
    (tmp_path / f"{ONE.key}.json").write_text('{"searched": 1}')
    with pytest.raises(ConfigError, match=f"{ONE.key}.json cannot be used"):
        small_score("balance", tmp_path)


def test_a_policy_that_has_seen_a_draw_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seen in ({"scenario_digest": ONE.scenario.digest(), "seed": 1}, {"seed": 30_299}):
        card = SimpleNamespace(**{"scenario_digest": "another", **seen})
        monkeypatch.setattr(scoring, "card_of", lambda policy, card=card: card)
        with pytest.raises(ConfigError, match="the score rests on"):
            small_score("static:0.4", folder)


def test_searches_are_made_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sought: list[int] = []

    def pretend(scenario: Scenario, seed: int, *how: Any) -> Any:
        sought.append(seed)
        return SimpleNamespace(schedule=schedule(next(d for d in BOTH if d.seed == seed)))

    monkeypatch.setattr(yardsticks, "hindsight", pretend)
    made = yardsticks.make_all(BOTH, tmp_path)
    assert yardsticks.make_all(BOTH, tmp_path) == made
    assert sought == [ONE.seed, OTHER.seed]
    assert yardsticks.load(BOTH, tmp_path) == dict(zip(BOTH, made, strict=True))


def test_searches_of_other_code_are_played_again_and_kept(folder: Path, tmp_path: Path) -> None:
    write_yardsticks(tmp_path, code_digest="of yesterday")
    assert yardsticks.make_all(BOTH, tmp_path) == list(yardsticks.load(BOTH, folder).values())
    assert all(one.current for one in yardsticks.load(BOTH, tmp_path).values())


# The worst moment


def spiked(folder: Path, draw: Draw, spikes: Mapping[int, float]) -> Outcome:
    """A policy as good as the schedule, but for some windows."""
    yardstick = yardsticks.load([draw], folder)[draw]
    tails = list(yardstick.schedule.tails)
    for window, ms in spikes.items():
        tails[window] += ms
    played = yardstick.schedule.model_copy(update={"tails": tuple(tails)})
    return Outcome(draw, yardstick, played, {}, "")


def planted(folder: Path) -> Moment:
    """A spike in window 17 of the second draw; a higher one does not count."""
    outcomes = [
        spiked(folder, ONE, {9: 20.0}),
        spiked(folder, OTHER, {1: 500.0, 15: 30.0, 16: 40.0, 17: 50.0, 18: 20.0}),
    ]
    assert UNCOUNTED > 1
    moment = worst_moment(outcomes)
    assert moment is not None
    return moment


def test_the_worst_moment_is_where_the_spike_is(folder: Path) -> None:
    moment = planted(folder)
    assert (moment.outcome.draw, moment.window) == (OTHER, 17)
    assert moment.at_s == pytest.approx(6.8)
    assert (moment.since_s, moment.until_s) == (pytest.approx(6.0), pytest.approx(7.2))
    assert moment.excess_ms == pytest.approx(50.0)
    assert moment.static_ms == moment.outcome.yardstick.static.tails[17]
    assert moment.policy == moment.schedule
    assert moment.policy.then == pytest.approx(GOOD)


def test_it_is_told_in_sentences(folder: Path) -> None:
    said = " ".join(report.worst(planted(folder)))
    for text in (
        "score-taobao-burst at load 1.3, seed 30201",
        "3 s into a calm stretch",
        "from 6 s to 7.2 s",
    ):
        assert text in said, said
    calm = dataclasses.replace(planted(folder), policy_ms=0.0)
    assert report.worst(calm) == ["The policy is nowhere slower than the schedule."]


@pytest.mark.parametrize(
    ("at_s", "words"),
    [
        (1.0, "1 s into a drift of the mix from 100 % A to 100 % B (4 s long)"),
        (4.0, "0 s into a calm stretch of 100 % B, before a burst of newcomers on B (3 s long)"),
        (9.0, "2 s into a burst of newcomers on B (5 s long)"),
        (13.0, "1 s into a drift of the mix from 100 % A to 100 % B (4 s long)"),
    ],
)
def test_a_time_of_a_course_in_words(at_s: float, words: str) -> None:
    assert stretch_in_words(ONE.scenario, at_s) == words


def test_a_stream_without_a_course_has_a_regime(tiny: Scenario) -> None:
    assert stretch_in_words(tiny, 3.0) == "the regime steady"


# What is told


def test_the_data_are_complete_and_plain_json(folder: Path) -> None:
    scored = small_score("balance", folder)
    data = json.loads(json.dumps(report.record(scored), allow_nan=False))
    assert data["score"] == scored.value
    assert [s["cell"] for s in data["settings"]] == [ONE.cell, OTHER.cell]
    for setting in data["settings"]:
        assert set(setting["window_tail_ms"]) == {"policy", "static:0.5", "schedule"}
        assert 0.0 <= setting["counted"] <= 1.0
    worst, series = data["worst"], data["series"]
    for who in ("policy", "static:0.5", "schedule"):
        assert len(series["tail_ms"][who]) == len(series["shares"][who]) == STEPS
        assert series["tail_ms"][who][worst["window"]] == worst["tail_ms"][who]
    assert len(series["figures"]["gpu_utilisation"]) == len(series["at_s"]) == STEPS
    assert series["at_s"][worst["window"]] == worst["at_s"]


def test_a_setting_without_a_gap_says_why(folder: Path, tmp_path: Path) -> None:
    flat = yardsticks.play(ONE, schedule(ONE, 0.5))
    write_yardsticks(tmp_path)
    with (tmp_path / f"{ONE.key}.json").open("wb") as file:
        yardsticks.CODEC.write(file, flat)
    scored = small_score("static:0.5", tmp_path)
    assert str(scored.score.settings[Setting(ONE.cell, ONE.load, ONE.router)]).startswith("n/a")
    assert "rests on 1 of 2 settings" in report.findings(scored)[0]
    assert report.record(scored)["settings"][0]["counted"] is None


def test_the_command_prints_and_writes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "draws", lambda: BOTH)
    monkeypatch.setenv("COLUMNS", "160")
    file = tmp_path / "new" / "score.json"
    given = ["score", "balance", "--jobs", 1, "--folder", folder, "--json", file, "-q"]
    ran = CliRunner().invoke(cli.app, [str(part) for part in given])
    assert ran.exit_code == 0, ran.output
    value = json.loads(file.read_text())["score"]
    for text in (f"score {value:.3f}", "Worst moment: ", "gap closed", str(file)):
        assert text in ran.stdout, ran.stdout


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ((), "name one policy"),
        (("balance", "--search"), "name one policy"),
        (("blance",), "balance"),
        (("no_module:Mine",), "no module"),
        (("static:best",), "grid search"),
    ],
)
def test_what_cannot_be_scored_is_one_message(given: tuple[str, ...], text: str) -> None:
    ran = CliRunner().invoke(cli.app, ["score", *given])
    assert ran.exit_code == 2
    assert text in ran.stderr
