from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from helm_gym.config.scenario import SCENARIOS, Scenario
from helm_gym.errors import ConfigError
from helm_gym.studies.suite import page as suite_report
from helm_gym.studies.suite.page import Shown
from helm_gym.suites import paper as suite
from helm_gym.suites.paper import CELLS, Cell

pytestmark = pytest.mark.skipif(
    not suite.DIGESTS.is_file(), reason="the suite is not frozen: helm-gym suite freeze"
)


def shown(cell: Cell, optimum: float, steep: float = 100.0) -> Shown:
    tails = {share: 10.0 + steep * abs(share - optimum) for share in suite.FINE}
    return Shown(cell, "0" * 16, 0.95, 100.0, tails)


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_a_frozen_cell_is_the_one_that_was_pinned(cell: Cell) -> None:
    scenario = Scenario.load(cell.name)
    assert scenario.digest() == suite.pinned()[cell.name]
    assert (scenario.name, scenario.version) == (cell.name, suite.VERSION)
    assert scenario.workload.profile.name == cell.dataset
    assert scenario.workload.regime.kind == cell.regime
    assert scenario.workload.load == suite.LOAD
    assert "helm-gym suite freeze" in scenario.workload.capacity_rps_per_node.source


def test_no_other_file_calls_itself_of_the_suite() -> None:
    files = {path.stem for path in SCENARIOS.glob(f"{suite.PREFIX}-*.yaml")}
    assert files == set(suite.pinned()) == {cell.name for cell in CELLS}


def test_a_changed_cell_is_refused(tmp_path: Path) -> None:
    for path in (*SCENARIOS.glob(f"{suite.PREFIX}-*.yaml"), suite.DIGESTS):
        shutil.copy(path, tmp_path)
    changed = tmp_path / f"{CELLS[0].name}.yaml"
    changed.write_text(changed.read_text().replace("load: 0.95", "load: 0.9"))
    with pytest.raises(ConfigError, match="not the cell that was frozen"):
        suite_report.show(tmp_path, jobs=1)


def test_a_file_reads_back_as_what_was_measured() -> None:
    import yaml

    data = suite.draft(CELLS[4], 1024)
    loaded = Scenario.parse(yaml.safe_load(suite.as_file(data)), "suite")
    assert loaded.digest() == Scenario.parse(data, "suite").digest()


def test_tables_follow_catalogues_inside_the_assumed_range() -> None:
    assert suite.table_gb("taobao") == suite.ANCHOR_GB
    books = suite.CATALOGUES["amazon-books"] / suite.CATALOGUES["taobao"]
    assert suite.table_gb("amazon-books") == pytest.approx(200.0 * books, rel=0.01)
    assert suite.table_gb("amazon-video-games") == suite.TABLE_GB[0]


def test_the_choice_prefers_optima_inside_the_range_then_the_middle() -> None:
    optima = {512: [0.1, 0.1, 0.1], 1024: [0.3, 0.4, 0.1], 2048: [0.5, 0.6, 0.2]}
    optima |= {3072: [0.5, 0.6, 0.3], 4096: [0.8, 0.8, 0.3]}
    flat = iter([share for count in suite.CANDIDATES for share in optima[count]])
    chosen, table = suite.choose_candidates(lambda f, jobs: (next(flat) for _ in jobs))
    assert chosen == 3072
    assert table == optima


def test_facts_hold_for_optima_that_differ() -> None:
    cells = [shown(cell, (0.2, 0.5, 0.7)[n % 3]) for n, cell in enumerate(CELLS)]
    found = suite_report.facts(cells)
    assert [fact.holds for fact in found] == [True, True, True]
    share, _, most, _ = suite_report.single_share(cells)
    assert share == pytest.approx(0.45)  # 0.25 from the ends: 10 -> 35 ms
    assert most == pytest.approx(2.5)


def test_facts_do_not_hold_for_optima_at_one_end() -> None:
    found = suite_report.facts([shown(cell, 0.1) for cell in CELLS])
    assert [fact.holds for fact in found] == [False, False, False]


def test_a_frozen_file_holds_no_default_it_would_pin_by_accident() -> None:
    text = suite.as_file(suite.draft(CELLS[0], 1024))
    for key in ("structure_seed", "refill:", "router:", "max_step"):
        assert key not in text
