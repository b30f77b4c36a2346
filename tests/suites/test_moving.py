"""The moving suite: what was measured, what the cells are, and that they are those frozen."""

from __future__ import annotations

from pathlib import Path

import pytest

from helm_gym.config.scenario import SCENARIOS, Scenario
from helm_gym.config.workload import Course
from helm_gym.errors import ConfigError
from helm_gym.suites import moving
from helm_gym.suites.courses import EPISODE_S, FEED_PARTS, REGIMES, lone_stretches, mix_name
from helm_gym.suites.moving import CELLS, DATASETS, ROUTERS


def course_of(scenario: Scenario) -> Course:
    assert isinstance(scenario.workload.regime, Course)
    return scenario.workload.regime


def test_every_stretch_was_measured_under_every_router() -> None:
    expected = {f"{d} / {r} / {n}" for d in DATASETS for r in ROUTERS for n in lone_stretches()}
    assert set(moving.carried()) == expected


@pytest.mark.parametrize("name", sorted(moving.carried()))
def test_a_capacity_is_that_of_its_best_share(name: str) -> None:
    found = moving.carried()[name]
    assert found.rps_per_node == max(found.by_share.values()) > 0.0
    assert found.alike[0] <= found.best_share <= found.alike[1]
    for share, rate in found.by_share.items():
        alike = found.alike[0] <= float(share) <= found.alike[1]
        assert rate >= 0.98 * found.rps_per_node * 0.999 or not alike  # rounded to four digits


def test_the_table_is_the_one_whose_optima_lie_inside_and_move_most() -> None:
    assert moving.best_table(moving.optima()) == moving.TABLE_GB
    inside, at_an_end, still = {"x": (0.3, 0.5)}, {"x": (0.1, 0.8)}, {"x": (0.5, 0.5)}
    assert moving.best_table({1.0: at_an_end, 2.0: still, 3.0: inside}) == 3.0


@pytest.mark.parametrize("dataset", DATASETS)
def test_the_ends_are_the_mixes_whose_optima_lie_farthest_apart(dataset: str) -> None:
    first, last = moving.ends(dataset, ROUTERS[0])
    best = {
        feed: moving.carried()[f"{dataset} / {ROUTERS[0]} / {mix_name(feed)}"].best_share
        for feed in FEED_PARTS
    }
    distance = abs(best[first] - best[last])
    assert first > last
    assert all(abs(a - b) <= distance for a in best.values() for b in best.values())


@pytest.mark.parametrize("cell", CELLS, ids=lambda parts: str(parts))
def test_a_cell_is_the_one_that_was_frozen(cell: tuple[str, str, str]) -> None:
    name = moving.name_of(*cell)
    scenario = Scenario.load(name)
    assert scenario.digest() == moving.frozen()[name] == moving.cell(*cell).digest()
    assert scenario.router.name == cell[2]
    assert scenario.emb.table_gb.value == moving.TABLE_GB
    episode = scenario.episode
    assert episode.steps * episode.step_s == EPISODE_S + episode.uncounted_s


def test_the_files_are_what_the_table_gives(tmp_path: Path) -> None:
    written = moving.freeze(tmp_path)
    assert len(written) == len(CELLS) == len(DATASETS) * len(REGIMES) * len(ROUTERS)
    for path in written:
        assert path.read_text() == (SCENARIOS / path.name).read_text()


def test_both_routers_see_the_same_course_at_their_own_rates() -> None:
    one, other = (course_of(moving.cell("taobao", "day", router)).stretches for router in ROUTERS)
    for a, b in zip(one, other, strict=True):
        assert a.model_dump(exclude={"capacity_rps_per_node"}) == b.model_dump(
            exclude={"capacity_rps_per_node"}
        )
    assert [a.capacity_rps_per_node for a in one] != [b.capacity_rps_per_node for b in other]


def test_seeds_draw_schedules_of_their_own() -> None:
    assert moving.cell("taobao", "day", seed=1).digest() != moving.cell("taobao", "day").digest()


@pytest.mark.parametrize("parts", [("taobaoo", "day"), ("taobao", "dya"), ("taobao", "day", "x")])
def test_no_such_cell(parts: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="suite paper-v2"):
        moving.cell(*parts)
