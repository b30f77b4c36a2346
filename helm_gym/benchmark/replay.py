"""Run one row of a benchmark again, and say whether it comes out the same, bit for bit."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helm_gym.benchmark.jobs import run_job
from helm_gym.benchmark.plan import BUDGET_MS, Job, Setting, changes_of, shipped_cell
from helm_gym.benchmark.rows import COLUMNS, FAILED, FIGURES, Row, read_rows
from helm_gym.config.scenario import Scenario
from helm_gym.errors import ConfigError
from helm_gym.evaluation.specs import from_file

NEEDED = ("cell", "load", "router", "seed", "steps", "spec", "policy")
COMPARED = ("status", "requests", *FIGURES)
CAUSES = (
    "scenario_digest", "policy_digest", "code_digest", "helm_gym", "numpy", "numba", "python",
)  # fmt: skip
"""Columns that explain why figures may differ."""


@dataclass(frozen=True)
class Difference:
    """A column in which the row and its repetition differ."""

    column: str
    stored: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.column}: {self.stored!r} in the row, {self.now!r} now"


@dataclass(frozen=True)
class Replay:
    """A row that was run again."""

    row: Row
    again: Row
    figures: tuple[Difference, ...]
    causes: tuple[Difference, ...]

    @property
    def same(self) -> bool:
        """Whether every figure of the row came out again."""
        return not self.figures

    def lines(self) -> list[str]:
        """What to tell."""
        row = self.row
        where = f"{row['cell']}, load {row['load']:g}, {row['router']}"
        what = f"{where}, {row['spec']}, seed {row['seed']}"
        n = sum(name in row for name in COMPARED)
        if self.same and row.get("status") == FAILED:
            head = f"{what}: it failed again, as the row says"
        elif self.same:
            head = f"{what}: all {n} figures are the same, bit for bit"
        else:
            head = f"{what}: {len(self.figures)} of {n} figures differ"
        causes = [f"not as it was: {cause}" for cause in self.causes]
        if self.figures and not causes:
            causes = ["versions, code, scenario and policy are as they were: the row was changed, "
                      "or the machine computes otherwise"]  # fmt: skip
        failed = [f"it failed: {self.again['reason']}"] if self.again["reason"] else []
        return [head, *(f"  {one}" for one in (*self.figures, *causes, *failed))]


def find_row(reference: str) -> Row:
    """Read a row.

    Args:
        reference: ``rows.parquet#17``, a JSON file, or JSON itself; of a list of rows in a file
            too, ``rows.json#17``.

    Raises:
        ConfigError: there is no such row.
    """
    if reference.lstrip().startswith("{"):
        return _checked(_parsed(reference, "the row"), "the row")
    path, _, index = reference.rpartition("#") if "#" in reference else (reference, "", "")
    file = Path(path)
    if file.suffix == ".json":
        found = _parsed(_text(file), path)
        rows = found if isinstance(found, list) else [found]
    else:
        rows = read_rows(file)
    if not index and len(rows) != 1:
        raise ConfigError(f"{path} has {len(rows)} rows; say which, as in {path}#0")
    try:
        place = int(index or 0)
    except ValueError:
        raise ConfigError(f"{reference}: {index!r} is no number of a row") from None
    if not 0 <= place < len(rows):
        raise ConfigError(f"{reference}: there are {len(rows)} rows, counted from 0")
    return _checked(rows[place], reference)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror or error})") from None


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{where}: is not JSON ({error})") from None


def _checked(row: Any, where: str) -> Row:
    missing = [name for name in NEEDED if not isinstance(row, Mapping) or row.get(name) is None]
    if missing:
        raise ConfigError(f"{where}: has no {missing[0]!r}, so it cannot be run again")
    return {name: row[name] for name in COLUMNS if name in row}


def replay(row: Row, allow: Sequence[str] = ()) -> Replay:
    """Run a row again and compare every figure.

    What a search found is taken from the row, not searched for again.

    Args:
        row: a row that :func:`find_row` returned.
        allow: classes, as ``module:Class``, that the row, or a model that it names, may name.

    Raises:
        ConfigError: its scenario or its policy is not there, or it names code that is not allowed.
    """
    policy, spec = (from_file(row[name], f"the row's {name}", allow) for name in ("policy", "spec"))
    job = Job(
        setting_of(row),
        policy,
        (int(row["seed"]),),
        float(row.get("budget_ms") or BUDGET_MS),
        spec,
        tuple(allow),
    )
    (again,) = run_job(job)
    again = {name: again.get(name) for name in COLUMNS}
    return Replay(row, again, _differences(row, again, COMPARED), _differences(row, again, CAUSES))


def setting_of(row: Row) -> Setting:
    """The scenario that a row was run in."""
    if row.get("scenario"):
        scenario = Scenario.load(_parsed(row["scenario"], "the row's scenario"))
        return Setting(row.get("suite") or "", row["cell"], scenario, shipped=False)
    cell = shipped_cell(row["cell"], row["router"])
    changes = changes_of(cell, float(row["load"]), row["router"], int(row["steps"]))
    return Setting(row.get("suite") or "", row["cell"], cell.replace(changes), shipped=True)


def _differences(row: Row, again: Row, names: tuple[str, ...]) -> tuple[Difference, ...]:
    return tuple(
        Difference(name, row[name], again[name])
        for name in names
        if name in row and not _same(row[name], again[name])
    )


def _same(a: Any, b: Any) -> bool:
    """Equal to the last bit; a figure that is unknown is so in both."""
    if isinstance(a, float) and isinstance(b, float):
        return a == b or (math.isnan(a) and math.isnan(b))
    return bool(a == b)
