"""Rows get the digests of today's code, or nothing happens at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from helm_gym.benchmark.plan import make_plan
from helm_gym.benchmark.rekey import rekey
from helm_gym.benchmark.rows import read_rows, write_rows
from helm_gym.benchmark.run import run_bench
from helm_gym.errors import ConfigError
from helm_gym.evaluation.golden import Golden

OLD = {"code_digest": "old", "policy_digest": "p", "asked_digest": "a", "key": "k"}


def stored(folder: Path, *, now: str = "1") -> Path:
    """Golden digests that the state ``old`` is known to give."""
    golden = Golden(machine="m", versions={}, code=("old",), trajectories={"t": now})
    golden.save(folder / "golden.json")
    return folder / "golden.json"


@pytest.fixture
def equal(monkeypatch: pytest.MonkeyPatch) -> None:
    now = Golden(machine="m", versions={}, code=("new",), trajectories={"t": "1"})
    monkeypatch.setattr(Golden, "play", classmethod(lambda cls: now))


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of one policy in one shipped scenario, as they are made today."""
    out = tmp_path_factory.mktemp("bench")
    plan = make_plan("taobao-steady", ["static:0.5"], 2, steps=2, loads=[0.5])
    return run_bench(plan, out).path


def aged(fresh: Path, path: Path, **changes: Any) -> list[dict[str, Any]]:
    """Write the same rows as an older state of the code would have keyed them."""
    rows = [{**row, **OLD, **changes} for row in read_rows(fresh)]
    write_rows(rows, path, list(rows[0]))
    return rows


@pytest.mark.usefixtures("equal")
def test_rows_become_what_they_would_be_today(fresh: Path, tmp_path: Path) -> None:
    old = tmp_path / "rows.parquet"
    aged(fresh, old)
    assert rekey([old], stored(tmp_path)) == {old: 2}
    assert read_rows(old) == read_rows(fresh)
    assert Golden.load(tmp_path / "golden.json").code[-1] == read_rows(fresh)[0]["code_digest"]


@pytest.mark.usefixtures("equal")
def test_rows_of_an_unknown_state_are_refused_and_no_file_changes(
    fresh: Path, tmp_path: Path
) -> None:
    known, unknown = tmp_path / "known.parquet", tmp_path / "unknown.parquet"
    aged(fresh, known)
    aged(fresh, unknown, code_digest="other")
    before = known.read_bytes()
    with pytest.raises(ConfigError, match="rows of code other cannot be re-keyed"):
        rekey([known, unknown], stored(tmp_path))
    assert known.read_bytes() == before


@pytest.mark.usefixtures("equal")
def test_changed_trajectories_refuse_everything(fresh: Path, tmp_path: Path) -> None:
    old = tmp_path / "rows.parquet"
    aged(fresh, old)
    before = old.read_bytes()
    with pytest.raises(ConfigError, match="1 of 1 golden trajectories are not what they were"):
        rekey([old], stored(tmp_path, now="2"))
    assert old.read_bytes() == before
