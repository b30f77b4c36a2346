"""Rules tuned for the suite: over which cells, and what a search then stands for."""

from __future__ import annotations

from pathlib import Path

import pytest

from helm_gym.benchmark import tuning
from helm_gym.benchmark.plan import make_plan
from helm_gym.benchmark.rows import asked_by
from helm_gym.benchmark.tuning import Scope, Tuned, cells_of, load_tuned, scopes, tune
from helm_gym.config.scenario import Scenario
from helm_gym.errors import ConfigError
from helm_gym.evaluation import common
from helm_gym.evaluation.common import Scores
from helm_gym.suites import moving


def test_amazon_books_tunes_nothing_but_its_own_cells() -> None:
    suite = cells_of(Scope("mpc", "suite", "", "foresight"))
    assert {cell.workload.profile.name for cell in suite} == {"taobao", "amazon-video-games"}
    assert len(suite) == 8
    (own,) = cells_of(Scope("mpc", "best", "paper-v2-amazon-books-day", "kv_affinity"))
    assert own.router.name == "kv_affinity"
    data = cells_of(Scope("static", "dataset", "amazon-books", "foresight"))
    assert [cell.workload.load for cell in data] == [tuning.LOAD] * 4


def test_only_a_static_share_is_tuned_for_a_data_set() -> None:
    found = list(scopes(["static", "mpc"], ["foresight"]))
    assert {s.name for s in found if s.word == "dataset"} == {"static"}
    assert len(found) == 2 * (1 + 12) + 3


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Candidates whose share is nearest to 0.3 win on Taobao, those nearest to 0.7 elsewhere."""
    seen: list[tuple[str, int]] = []

    def scores(job: tuple[Scenario, list[str], list[int]]) -> Scores:
        scenario, specs, seeds = job
        seen.append((scenario.name, len(specs)))
        best = 0.3 if scenario.workload.profile.name == "taobao" else 0.7
        return {
            spec: [{"tail_ms": 20.0 + abs(float(spec.partition(":")[2]) - best)} for _ in seeds]
            for spec in specs
        }

    monkeypatch.setattr(common, "scores", scores)
    monkeypatch.setattr(tuning, "scores", scores)
    return seen


def test_a_stopped_command_goes_on_and_a_plan_knows_what_was_found(
    played: list[tuple[str, int]], tmp_path: Path
) -> None:
    file = tmp_path / "tuned.json"
    found = tune(tmp_path / "s", names=["static"], routers=["foresight"], path=file)
    assert played[:12] == [(f"{cell}", 17) for cell in moving.CELL_NAMES], "the first look"
    assert {n for _, n in played[12:]} == {1}
    before = len(played)
    again = tune(tmp_path / "s", names=["static"], routers=["foresight"], path=file)
    assert len(played) == before and again == found == load_tuned(file)
    cell = "paper-v2-taobao-day"
    assert found.spec("static:best", cell, "foresight") == "static:0.3"
    assert found.spec("static:dataset", "paper-v2-amazon-books-day", "foresight") == "static:0.7"
    assert 0.3 <= float(found.spec("static:suite", cell, "foresight").split(":")[1]) <= 0.7
    jobs = make_plan("paper-v2", ["static:best", "static:suite", "balance"], 1, tuned=found,
                     routers=["foresight"])  # fmt: skip
    specs = {job.resolved for job in jobs if job.policy == "static:best"}
    assert specs == {"static:0.3", "static:0.7"}
    assert {job.resolved for job in jobs if job.policy == "balance"} == {None}
    beside = make_plan("heldout", ["static:suite"], 1, tuned=found, routers=["foresight"])
    assert {job.resolved for job in beside} == {found.spec("static:suite", cell, "foresight")}
    with pytest.raises(ConfigError, match=r"not tuned for .* under kv_affinity; run helm-gym tune"):
        found.spec("static:best", cell, "kv_affinity")
    mixed = make_plan("paper-v2", ["static:best", "balance"], 1, tuned=found)
    assert {job.resolved for job in mixed} == {None}, "one way of searching for all settings"


def test_what_was_tuned_before_stays(played: list[tuple[str, int]], tmp_path: Path) -> None:
    file = tmp_path / "tuned.json"
    tune(tmp_path / "s", names=["static"], routers=["foresight"], path=file)
    both = tune(tmp_path / "s", names=["static"], routers=["kv_affinity"], path=file)
    assert {one.router for one in both.found} == {"foresight", "kv_affinity"}


def test_errors_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'mpcc' is not tuned; write some of static, "):
        tune(tmp_path, names=["mpcc"])
    with pytest.raises(ConfigError, match="run helm-gym tune"):
        load_tuned(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ConfigError, match="is not JSON"):
        load_tuned(tmp_path / "bad.json")
    (tmp_path / "other.json").write_text('{"found": 3}')
    with pytest.raises(ConfigError, match=r"other\.json"):
        load_tuned(tmp_path / "other.json")
    assert Tuned(about="", found=()).found == ()


def test_the_key_of_a_row_says_what_was_tuned(tmp_path: Path) -> None:
    one, other = (
        Tuned(
            about="",
            found=[
                {"name": "static", "word": "suite", "where": "", "router": "foresight",
                 "best": best, "ratios": {}}
            ],
        )
        for best in ("static:0.3", "static:0.4")
    )  # fmt: skip
    asked = [
        asked_by(make_plan("paper", ["static:suite"], 1, tuned=t, routers=["foresight"])[0])
        for t in (one, other, None)
    ]
    assert len(set(asked)) == 3
