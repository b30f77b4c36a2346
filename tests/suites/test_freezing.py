"""How suites are frozen: files that read back, pins that are kept, changes that are noticed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from helm_gym.config.scenario import SCENARIOS, Scenario
from helm_gym.errors import ConfigError
from helm_gym.suites import moving
from helm_gym.suites import splits as bench_splits
from helm_gym.suites.freezing import as_file, pinned, write_frozen


def test_a_file_reads_back_as_what_was_drafted() -> None:
    data = moving.draft("amazon-books", "day", "kv_affinity")
    loaded = Scenario.parse(yaml.safe_load(as_file(data)), "suite")
    assert loaded.digest() == Scenario.parse(data, "suite").digest()


def test_a_file_holds_no_default_it_would_pin_by_accident() -> None:
    text = as_file(moving.draft("taobao", "steady"))
    for key in ("structure_seed", "refill:", "max_step"):
        assert key not in text


def test_files_and_digests_are_written_together(tmp_path: Path) -> None:
    drafts = [moving.draft("taobao", regime) for regime in ("steady", "trend")]
    written = write_frozen(drafts, tmp_path, "own.sha")
    table = pinned(tmp_path / "own.sha")
    assert [path.stem for path in written] == list(table)
    assert {name: moving.frozen()[name] for name in table} == table
    with pytest.raises(ConfigError, match="the suite is not frozen"):
        pinned(tmp_path / "other.sha")


def test_no_other_file_calls_itself_of_the_suite() -> None:
    files = {path.stem for path in SCENARIOS.glob(f"{moving.PREFIX}-*.yaml")}
    assert files == set(moving.frozen())


def test_a_changed_cell_is_refused(tmp_path: Path) -> None:
    name = moving.CELL_NAMES[0]
    changed = Path(shutil.copy(SCENARIOS / f"{name}.yaml", tmp_path))
    changed.write_text(changed.read_text().replace("load: 0.95", "load: 0.9"))
    with pytest.raises(ConfigError, match="its suite was frozen with"):
        bench_splits.check_frozen({name: Scenario.load(str(changed))})
