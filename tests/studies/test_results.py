"""The controller's page says what its rows say: figures move verdicts, and gaps are named."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmark_built import row, save
from typer.testing import CliRunner

from helm_gym.baselines.schedule import Schedule
from helm_gym.benchmark.arrange import REFERENCE, load_schedules
from helm_gym.benchmark.distance import distance
from helm_gym.benchmark.jobs import run_job
from helm_gym.benchmark.plan import Job, Setting
from helm_gym.benchmark.rows import COLUMNS, asked_digest, read_parts, write_rows
from helm_gym.benchmark.run import PARTS, outstanding
from helm_gym.cli import app
from helm_gym.config.scenario import Scenario
from helm_gym.errors import ConfigError
from helm_gym.evaluation.specs import make_policy
from helm_gym.runs.rollout import run_policy
from helm_gym.studies.results import distance as controller_distance
from helm_gym.studies.results import plan
from helm_gym.studies.results import tables as controller_tables
from helm_gym.studies.results.page import hindsight_command, read_study, verdicts, write
from helm_gym.studies.results.plan import AFFINITY, FULL, PAPERS, POLICIES, TUNED, System
from helm_gym.studies.results.rows import Study, study_of
from helm_gym.studies.results.targets import (
    MET,
    MISSED,
    NOT_KNOWN,
    OPTIMUM,
    PAPER,
    SAME_ROUTER,
    Target,
    misses_first,
    targets,
)

pytest.importorskip("jinja2")

STEADY, TREND = "paper-v1-taobao-steady", "paper-v1-taobao-trend"
LOADS = (0.9, 0.95)
SEEDS = (20_000, 20_001, 20_002)
ROUTERS = (AFFINITY, "predicted_completion", "helm_score")
SCHEDULER = "helm_score"
GOOD = {**dict.fromkeys([*POLICIES, *PAPERS], 1.0), FULL: 0.6, TUNED: 0.65}
Rows = list[dict[str, Any]]
Change = Callable[[dict[str, Any]], Mapping[str, Any]]


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page has hundreds of intervals, whose last digits do not matter here."""
    monkeypatch.setattr("helm_gym.runs.stats.RESAMPLES", 99)
    monkeypatch.setattr("helm_gym.runs.stats.RESAMPLES", 99)


def rows_of(true: Mapping[str, float] = GOOD, change: Change = lambda own: {}) -> Rows:
    """Rows of all systems: P99 is the stream's times the policy's, 1 % of noise apart."""
    found = []
    for cell, load, router, seed in product((STEADY, TREND), LOADS, ROUTERS, SEEDS):
        for policy, score in true.items():
            if policy in PAPERS and router != AFFINITY:
                continue
            rng = np.random.default_rng([seed, *f"{cell}{load}{router}{policy}".encode()])
            p99_ms = (20.0 + seed % 10) * load * score * np.exp(rng.normal(0.0, 0.01))
            own = row(cell, load, router, policy, seed, tail_ms=float(p99_ms), p99_ms=float(p99_ms),
                      slo_satisfaction=0.99, throughput_rps=800.0 * load)  # fmt: skip
            found.append({**own, **change(own)})
    return found


def study(rows: Rows, **more: Any) -> Study:
    return study_of(rows, scheduler=SCHEDULER, **more)


def of(found: Study, group: str, label: str, policy: str = FULL) -> Target:
    """A system's target with that label, under the scheduler."""
    (target,) = [
        one
        for one in targets(found)
        if (one.group, one.label, one.policy) == (group, label, policy)
        and one.router in ("", SCHEDULER)
    ]
    return target


def by_place(target: Target) -> dict[tuple[str, float], str]:
    return {check.place: check.verdict for check in target.checks}


def scaled(cell: str, load: float, policy: str, **factors: float) -> Change:
    """Multiply columns of one policy's rows in one cell at one load."""

    def change(own: dict[str, Any]) -> Mapping[str, Any]:
        mine = (own["cell"], own["load"], own["policy"]) == (cell, load, policy)
        return {name: own[name] * factor for name, factor in factors.items()} if mine else {}

    return change


# Verdicts


def test_good_rows_meet_everything_but_the_distance() -> None:
    found = targets(study(rows_of()))
    assert {target.verdict for target in found if target.group != OPTIMUM} == {MET}
    assert {target.verdict for target in found if target.group == OPTIMUM} == {NOT_KNOWN}
    assert all(len(target.checks) == 4 for target in found)
    assert all(check.certain for t in found if t.group == PAPER for check in t.checks)


@pytest.mark.parametrize(
    ("group", "label", "factors"),
    [
        (PAPER, "P99 static:best", {"tail_ms": 1.4}),
        (PAPER, "P99 kv-opt:best", {"tail_ms": 1.4}),
        (PAPER, "P99 kv-emb-opt:best", {"tail_ms": 1.4}),
        (PAPER, "SLO", {"slo_satisfaction": 0.94}),
        (PAPER, "throughput kv-opt:best", {"throughput_rps": 0.99}),
        (SAME_ROUTER, "balance:best", {"tail_ms": 1.8}),
        (SAME_ROUTER, "static:best", {"tail_ms": 1.8}),
        (SAME_ROUTER, "hysteresis:best", {"tail_ms": 1.8}),
    ],
)
def test_one_cell_turns_a_verdict(group: str, label: str, factors: dict[str, float]) -> None:
    worse = study(rows_of(change=scaled(TREND, 0.9, FULL, **factors)))
    target = of(worse, group, label)
    assert target.verdict == MISSED
    assert {place for place, said in by_place(target).items() if said == MISSED} == {(TREND, 0.9)}
    assert target.worst is not None and target.worst.place == (TREND, 0.9)
    assert misses_first(targets(worse))[0].verdict == MISSED


def test_an_opponent_that_gets_better_turns_only_its_own_verdict() -> None:
    found = study(rows_of({**GOOD, "balance:best": 0.5}))
    assert of(found, SAME_ROUTER, "balance:best").verdict == MISSED
    assert of(found, SAME_ROUTER, REFERENCE).verdict == MET
    assert {t.verdict for t in targets(found) if t.group == PAPER} == {MET}


def test_equal_is_enough_except_in_trend_and_burst_at_the_highest_load() -> None:
    found = study(rows_of({**GOOD, FULL: 1.01}))
    assert by_place(of(found, SAME_ROUTER, REFERENCE)) == {
        (STEADY, 0.9): MET, (STEADY, 0.95): MET, (TREND, 0.9): MET, (TREND, 0.95): MISSED,
    }  # fmt: skip


def test_an_interval_that_crosses_the_bar_is_said() -> None:
    def apart(own: dict[str, Any]) -> Mapping[str, Any]:
        factor = {20_000: 1.4, 20_001: 0.9, 20_002: 0.5}[own["seed"]]
        return {"tail_ms": own["tail_ms"] * factor} if own["policy"] == FULL else {}

    found = study(rows_of({**GOOD, FULL: 0.98}, apart))
    check = of(found, SAME_ROUTER, REFERENCE).checks[-1]
    assert (check.verdict, check.certain) == (MET, False)
    assert check.found.low < check.bar < check.found.high
    asked = [target for target in targets(found) if target.router == SCHEDULER]
    table = controller_tables.by_cell(found, "x", asked)
    assert table.rows[-1][-1].text == "met (?)"


def test_the_router_of_the_strongest_is_the_one_that_serves_them_best() -> None:
    def helped(own: dict[str, Any]) -> Mapping[str, Any]:
        return {"tail_ms": 0.5 * own["tail_ms"]} if own["router"] == ROUTERS[1] else {}

    found = study(rows_of(change=helped))
    assert found.best_router() == ROUTERS[1]
    routers = [t.router for t in targets(found) if t.group == SAME_ROUTER]
    assert list(dict.fromkeys(routers)) == [ROUTERS[1], SCHEDULER]


# With the site's setting


def chose(follow: Mapping[tuple[str, float], float], bad: float = 1.0) -> Change:
    """Specs that the search found, and a factor on P99 in the last of the cells."""

    def change(own: dict[str, Any]) -> Mapping[str, Any]:
        if own["policy"] != TUNED:
            return {"spec": "static:0.55"} if own["policy"] == REFERENCE else {}
        place = (own["cell"], own["load"])
        spec = f"helm:anchor=0.6,follow={follow.get(place, 0.0):g},adapter=off"
        factor = bad if place == (TREND, 0.95) else 1.0
        return {"spec": spec, "tail_ms": own["tail_ms"] * factor}

    return change


def test_helm_is_judged_with_and_without_the_sites_setting(tmp_path: Path) -> None:
    found = study(rows_of(change=chose({}, bad=1.8)))
    assert of(found, SAME_ROUTER, REFERENCE).verdict == MET
    assert by_place(of(found, SAME_ROUTER, REFERENCE, TUNED))[TREND, 0.95] == MISSED
    asked = {target.policy: target for target in targets(found)}
    assert set(asked) == {FULL, TUNED}
    first = verdicts(found)[0]
    assert first.startswith("missed: ") and TUNED in first
    write(found, tmp_path / "page.md", None, [], "helm-gym results")
    text = (tmp_path / "page.md").read_text("utf-8")
    own = [target for target in targets(found) if target.policy == TUNED]
    missed = sum(target.verdict == MISSED for target in own)
    assert 0 < missed < len(own)
    assert f"**`helm:best under {SCHEDULER}`: {len(own) - missed - 1} of {len(own)} targets" in text
    assert f"{missed} are missed, 1 not known.**" in text
    assert f"**`helm under {SCHEDULER}`: {len(own) - 1} of {len(own)} targets" in text


def test_the_page_shows_which_follow_was_chosen(tmp_path: Path) -> None:
    found = study(rows_of(change=chose({(TREND, 0.95): 0.5, (TREND, 0.9): 0.5})))
    assert controller_tables.follows(found) == {0.0: 2, 0.5: 2}
    table = controller_tables.choices(found)
    shown = [[cell.text for cell in row] for row in table.rows]
    assert shown[0][:5] == ["taobao-steady", "0.9", "0.55", "0.6", "0"]
    assert shown[-1][:5] == ["taobao-trend", "0.95", "0.55", "0.6", "0.5"]
    write(found, tmp_path / "page.md", None, [], "helm-gym results")
    assert "chose a follow of 0 in 2, 0.5 in 2" in (tmp_path / "page.md").read_text("utf-8")


def test_rows_without_the_tuned_system_are_not_known() -> None:
    found = study([r for r in rows_of() if r["policy"] != TUNED])
    assert {t.verdict for t in targets(found) if t.policy == TUNED} == {NOT_KNOWN}
    asked = study(rows_of(), policies=[p for p in POLICIES if p != TUNED])
    assert {target.policy for target in targets(asked)} == {FULL}


def test_the_tuned_system_is_run_where_targets_and_tables_need_it() -> None:
    routers = {s.router for s in plan.systems(scheduler="foresight") if s.policy == TUNED}
    assert routers == {*plan.PLAIN, "foresight"}
    assert SCHEDULER in {s.router for s in plan.systems(scheduler=SCHEDULER) if s.policy == TUNED}


# Gaps


def test_what_is_missing_is_named_and_never_met(tmp_path: Path) -> None:
    rows = [r for r in rows_of() if r["policy"] != "kv-opt:best"]
    for own in rows:
        if own["policy"] == "balance:best" and own["seed"] == SEEDS[0]:
            own |= {"status": "failed", "reason": "it | broke", "tail_ms": None, "p99_ms": None}
    found = study(rows)
    assert of(found, PAPER, "P99 kv-opt:best").verdict == NOT_KNOWN
    assert of(found, SAME_ROUTER, "balance:best").verdict == NOT_KNOWN
    assert found.missing(System("kv-opt:best", AFFINITY)) == "12 of 12 runs: not run"
    assert found.missing(System("balance:best", AFFINITY)) == "4 of 12 runs: it | broke"
    write(found, tmp_path / "page.md", None, [], "helm-gym results")
    text = (tmp_path / "page.md").read_text("utf-8")
    assert "| kv-opt:best under kv_affinity | 12 of 12 runs: not run |" in text
    assert "it \\| broke" in text


def test_rows_without_the_reference_are_refused() -> None:
    with pytest.raises(ConfigError, match="no row is of static:best"):
        study([r for r in rows_of() if r["policy"] != REFERENCE])


# The page


def test_misses_stand_first_and_both_pages_say_the_same(tmp_path: Path) -> None:
    found = study(rows_of(change=scaled(TREND, 0.95, FULL, tail_ms=1.8)))
    page, html = tmp_path / "page.md", tmp_path / "page.html"
    write(found, page, html, ["why <not>"], "helm-gym results")
    text, web = page.read_text("utf-8"), html.read_text("utf-8")
    lines = [line for line in text.splitlines() if line.startswith(("| missed |", "| met |"))]
    order = [line.split("|")[1].strip() for line in lines]
    assert order == sorted(order, key=[MISSED, MET].index) and MISSED in order and MET in order
    assert verdicts(found)[0].startswith("missed: ")
    assert "seeds 20000-20002" in text and "c0de" in text
    for title in ("As the paper compares", "Against the strongest", "Layers, with and without"):
        assert f"## {title}" in text and f"<h2>{title}" in web
    assert "why &lt;not&gt;" in web
    more = len(controller_tables.every_system(found))
    figures, _, _ = text.partition("## Reasons")  # whose words only the Markdown page has
    assert web.count("<table") == figures.count("\n|---") + more


def test_every_table_has_rows_as_wide_as_its_headings(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    write(study(rows_of()), page, None, [], "helm-gym results")
    widths: list[int] = []
    for line in page.read_text("utf-8").splitlines():
        if line.startswith("|"):
            widths.append(line.replace("\\|", "").count("|"))
        elif widths:
            assert len(set(widths)) == 1 and len(widths) > 2
            widths = []


def test_scores_are_of_the_named_systems() -> None:
    found = study(rows_of({**GOOD, "static:0.5": 1.5}))
    half, both = System("static:0.5", AFFINITY), System(FULL, SCHEDULER)
    base = System(REFERENCE, AFFINITY)
    assert found.score(half, base, [0.9]).mean == pytest.approx(1.5, rel=0.02)
    assert found.score(both, base, [0.9]).mean == pytest.approx(0.6, rel=0.02)
    best = controller_tables.both(found).rows[0][0].text
    assert best.startswith(f"{FULL} under ")


# Distance


@pytest.fixture
def played(tiny: Scenario, tmp_path: Path) -> tuple[Rows, Path]:
    """Rows of two policies on two seeds, and a folder with the schedule of one seed."""
    setting = Setting("", tiny.name, tiny, shipped=False)
    rows = [r for spec in ("static:0.3", "balance") for r in run_job(Job(setting, spec, SEEDS[:2]))]
    rows = [{name: one[name] for name in COLUMNS} for one in rows]
    shares = tuple(np.linspace(0.2, 0.7, tiny.episode.steps).tolist())
    schedule = Schedule(scenario=tiny.name, scenario_digest=tiny.digest(), seed=SEEDS[0],
                        objective="tail", initial_share=0.5, shares=shares)  # fmt: skip
    (tmp_path / "schedules").mkdir()
    schedule.save(tmp_path / "schedules" / "one.json")
    return rows, tmp_path


def test_distances_are_those_of_the_shares_of_every_node(
    played: tuple[Rows, Path], tiny: Scenario
) -> None:
    rows, folder = played
    schedules = load_schedules(folder / "schedules")
    file = folder / controller_distance.FILE
    found, notes = controller_distance.measure(rows, schedules, file)
    assert not notes
    optimum = schedules[tiny.digest(), SEEDS[0]]
    for own in (rows[0], rows[2]):
        (episode,) = run_policy(tiny, make_policy(own["spec"]), own["spec"], SEEDS[:1])
        assert found[own["key"]] == distance(episode.shares, optimum.tolist()) > 0.0
    assert set(found) == {rows[0]["key"], rows[2]["key"]}  # the other seed has no schedule
    assert controller_distance.stored(file) == found


def test_a_row_that_does_not_come_out_again_has_no_distance(played: tuple[Rows, Path]) -> None:
    rows, folder = played
    rows[0]["tail_ms"] += 1.0
    schedules = load_schedules(folder / "schedules")
    found, notes = controller_distance.measure(rows, schedules, folder / controller_distance.FILE)
    assert set(found) == {rows[2]["key"]}
    assert len(notes) == 1 and "not the row's when run again" in notes[0]


def test_a_known_distance_meets_or_misses_its_bar() -> None:
    rows = rows_of()
    mine = [r for r in rows if (r["policy"], r["router"]) == (FULL, SCHEDULER)]
    near = study(rows, distances={r["key"]: 0.02 for r in mine})
    assert of(near, OPTIMUM, "distance").verdict == MET
    far = {r["key"]: 0.03 if r["cell"] == TREND else 0.02 for r in mine}
    assert of(study(rows, distances=far), OPTIMUM, "distance").count(MISSED) == 2
    some = {r["key"]: 0.02 for r in mine if r["cell"] == TREND}
    target = of(study(rows, distances=some), OPTIMUM, "distance")
    assert (target.verdict, target.count(MET), target.count(NOT_KNOWN)) == (NOT_KNOWN, 2, 2)


def test_distances_of_others_are_shown_when_the_full_system_has_none(tmp_path: Path) -> None:
    rows = rows_of()
    known = {r["key"]: 0.1234 for r in rows if r["policy"] == "balance:best"}
    write(study(rows, distances=known), tmp_path / "page.md", None, [], "helm-gym results")
    text = (tmp_path / "page.md").read_text("utf-8")
    assert "0 of 4 cells and loads have one, 0 of 12 runs" in text
    assert "| taobao-trend | 0.95 | kv_affinity | 3 of 3 |  |  | 0.123 |" in text


def test_the_command_for_schedules_is_of_the_scenario_that_rows_were_run_in() -> None:
    command = hindsight_command(study(rows_of()))
    changes = dict(word.split("=") for word in command.split() if "=" in word)
    assert changes["router.name"] == SCHEDULER and changes["episode.steps"] == "12"


# The plan


def test_the_papers_baselines_are_run_once_and_all_others_under_every_router() -> None:
    those = plan.systems(["static:best", "balance", *PAPERS], SCHEDULER)
    assert {s.router for s in those if s.policy in PAPERS} == {AFFINITY}
    assert {s.router for s in those if s.policy == "balance"} == set(plan.ROUTERS)
    assert len(those) == len(set(those))
    jobs = plan.make_jobs(those, 5)
    assert len(jobs) == len(those) * 9 * 3
    assert {job.seeds for job in jobs} == {(20_000, 20_001, 20_002, 20_003, 20_004)}


def test_a_plan_without_the_reference_or_with_an_unknown_router_is_refused() -> None:
    with pytest.raises(ConfigError, match="add -p static:best"):
        plan.systems(["balance"])
    with pytest.raises(ConfigError, match="did you mean 'helm_score'"):
        plan.systems(scheduler="helm_scor")


def test_searches_of_earlier_rows_are_used_again(tmp_path: Path) -> None:
    jobs = plan.make_jobs([System("static:best", AFFINITY), System("balance", AFFINITY)], 1,
                          quick=True)[:4]  # fmt: skip
    first = next(job for job in jobs if job.searches)
    scenario = first.setting.scenario
    own = row(first.setting.cell, first.setting.load, AFFINITY, first.policy, 20_000,
              spec="static:0.35", scenario_digest=scenario.digest(),
              asked_digest=asked_digest(scenario, first.policy))  # fmt: skip
    other = {**own, "scenario_digest": "another", "key": "other", "spec": "static:0.9"}
    write_rows([own, other], tmp_path / "rows.parquet", COLUMNS)
    found = plan.use_searches(jobs, tmp_path / "rows.parquet", tmp_path / "out")
    assert found == (1, sum(job.searches for job in jobs))
    _, todo = outstanding(jobs, read_parts(tmp_path / "out" / PARTS))
    assert [job.resolved for job in todo].count("static:0.35") == 1
    assert len(todo) == len(jobs)  # figures of other code are not taken over


# The command


def test_the_command_writes_the_page_of_rows(tmp_path: Path) -> None:
    rows = save(rows_of(change=scaled(TREND, 0.95, FULL, slo_satisfaction=0.9)), tmp_path / "in")
    page = tmp_path / "page.md"
    ran = CliRunner().invoke(
        app, ["results", "--rows", str(rows), "--scheduler", SCHEDULER, "--page", str(page), "-q"]
    )
    assert ran.exit_code == 0, ran.output
    assert ran.stdout.splitlines()[0].startswith("missed: requests of helm under helm_score inside")
    assert f"page: {page}" in ran.stdout
    shown, _ = read_study(rows, scheduler=SCHEDULER)
    assert ran.stdout.splitlines()[:-1] == verdicts(shown)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--rows", "nowhere.parquet"), "nowhere.parquet"),
        (("--rows", "x.parquet", "--seeds", "3"), "--rows runs nothing"),
        (("--scheduler", "helm_scor"), "did you mean 'helm_score'"),
        (("-p", "balance", "--quick"), "add -p static:best"),
        (("-p", "static:best", "-p", "helmet"), "policy 'helmet' does not exist"),
        (("--hindsight", "nowhere"), "--hindsight nowhere: is no folder"),
        (("--searched", "nowhere.parquet", "-p", "static:best"), "nowhere.parquet"),
    ],
)
def test_what_cannot_work_is_one_message(
    arguments: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = CliRunner().invoke(app, ["results", *arguments])
    assert ran.exit_code == 2
    assert message in ran.stderr
    assert len(ran.stderr.splitlines()) <= 2
