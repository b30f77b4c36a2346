"""Searches of the suite: which ones, kept one by one, and played again by other code."""

from __future__ import annotations

from pathlib import Path

import pytest

from helm_gym.baselines.schedule import Schedule
from helm_gym.benchmark import searches as room
from helm_gym.benchmark.searches import (
    FOLDER,
    Searched,
    all_jobs,
    late_all,
    load_late,
    load_searches,
    replays,
    search_all,
)
from helm_gym.hindsight.search import Hindsight, Outcome
from helm_gym.provenance import code_digest
from helm_gym.suites import moving

OUTCOME = Outcome(cost=30.0, tail_ms=30.0, mean_ms=9.0, slo_satisfaction=0.99)


def test_the_suite_has_72_searches_the_first_seed_of_all_cells_first() -> None:
    jobs = all_jobs()
    assert len(jobs) == len({job.key for job in jobs}) == 72
    assert {job.seed for job in jobs[:36]} == {20_000}
    assert {job.cell for job in jobs[:9]} == set(moving.MOVING) and len(moving.MOVING) == 9
    by_router = [job.router for job in jobs]
    assert (by_router.count("foresight"), by_router.count("kv_affinity")) == (54, 18)
    assert jobs[0].scenario.workload.load == 1.05 and jobs[0].scenario.episode.steps == 312


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Searches that were really made, or schedules that were played."""
    seen: list[str] = []

    def search(job: room.Job) -> Searched:
        seen.append(f"search {job.cell}")
        schedule = Schedule(
            scenario=job.cell, scenario_digest=job.scenario.digest(), seed=job.seed,
            objective="tail", initial_share=0.5, shares=(0.5,) * 312,
        )  # fmt: skip
        found = Hindsight(
            key="", schedule=schedule, unit="ms P99", best=OUTCOME, source="static",
            static_share=0.5, static=OUTCOME, free_shares=(0.5,), free=OUTCOME, jumped=OUTCOME,
            good=((0.5,),), grid=(0.5,), rounds=(), simulated=1,
        )  # fmt: skip
        return Searched(
            **job._asdict(), found=found, code_digest="old code", figures={"tail_ms": 31.0}
        )

    def played(job: room.Job, schedule: Schedule) -> dict[str, object]:
        seen.append(f"play {job.cell}")
        return {"code_digest": code_digest(), "figures": {"tail_ms": 30.0}}

    monkeypatch.setattr(room, "search", search)
    monkeypatch.setattr(room, "_played", played)
    monkeypatch.setattr(room, "delayed", lambda scenario, seed, delay, ms: (0.5 + delay / 100.0,))
    return seen


def test_a_search_is_made_once_and_played_again_by_other_code(
    made: list[str], tmp_path: Path
) -> None:
    jobs = all_jobs()[:2]
    first = search_all(jobs, tmp_path)
    assert [one.figures["tail_ms"] for one in first] == [30.0, 30.0]
    assert len(made) == 4, "two searches, and two replays by the code of now"
    again = search_all(all_jobs()[:3], tmp_path)
    third = all_jobs()[2].cell
    assert again[:2] == first and made[4:] == [f"search {third}", f"play {third}"]
    assert len(load_searches(tmp_path)) == 3
    costs = replays(again, "tail_ms")
    assert set(map(tuple, costs.values())) == {(20_000,)}


def test_delayed_schedules_lie_beside_the_searches(made: list[str], tmp_path: Path) -> None:
    found = search_all(all_jobs()[:1], tmp_path / "searches")
    late = late_all(found, tmp_path / "late")
    assert [(one.delay, one.shares) for one in late] == [(1, (0.51,)), (3, (0.53,))]
    before = len(made)
    assert late_all(found, tmp_path / "late") == late and len(made) == before
    assert len(load_late(tmp_path / "late")) == 2


def test_published_searches_are_of_the_frozen_cells() -> None:
    known = {job.key for job in all_jobs()}
    files = sorted(FOLDER.glob("*.json"))
    assert files and {file.stem for file in files} <= known
