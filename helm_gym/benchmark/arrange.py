"""Rows of a benchmark: read, checked and arranged by cell, for statistics and pages.

A *run* is one policy in one setting (a cell, a load and a router) on one seed. All policies meet
the same requests in a setting and seed, so figures are compared run by run. Scores are ratios to
a reference, the best static share as a rule: 0.9 is a P99 10 % below its.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from helm_gym.baselines.schedule import Schedule
from helm_gym.benchmark.rows import OK, read_rows
from helm_gym.errors import ConfigError

Floats = NDArray[np.float64]
Row = Mapping[str, Any]
Cells = Sequence[Floats]
"""One (K, n) array per cell: K pairs of load and router, n seeds."""

REFERENCE = "static:best"
KEY = ("cell", "load", "router", "policy", "seed")
NEEDED = (*KEY, "spec", "status", "reason", "scenario_digest", "policy_digest", "helm_gym")
OUTCOME = (*NEEDED, "tail_ms", "p99_ms", "mean_ms", "goodput_rps", "miss_gb", "reward")
"""Columns in which two rows of one run must agree; wall times need not."""
SERIES, GOODPUT, SCHEDULES = "series.parquet", "goodput.parquet", "schedules"
"""What may lie beside rows: of helm-gym bench, by ``key``; of helm-gym goodput; and a folder of the
schedules that helm-gym hindsight found."""


class Setting(NamedTuple):
    """A cell under a load and a router."""

    cell: str
    load: float
    router: str


@dataclass(frozen=True)
class LeftOut:
    """A policy that is not ranked, and why."""

    policy: str
    runs: int  # that have no figure
    of: int
    reasons: tuple[str, ...]


def load_rows(where: Path) -> list[dict[str, Any]]:
    """Read rows from a Parquet file, or from all of a folder.

    Args:
        where: a file, or a folder, of which the files beside the rows are left out.

    Raises:
        ConfigError: nothing is there, or it holds no rows of a benchmark.
    """
    files = [where]
    if where.is_dir():
        other = (SERIES, GOODPUT)
        files = [file for file in sorted(where.glob("*.parquet")) if file.name not in other]
    rows: list[dict[str, Any]] = []
    for file in files:
        found = read_rows(file)
        missing = [name for name in NEEDED if found and name not in found[0]]
        if missing:
            raise ConfigError(
                f"{file}: has no column {missing[0]!r}, so it holds no rows of helm-gym bench"
            )
        rows += found
    if not rows:
        raise ConfigError(f"{where}: holds no rows; helm-gym bench writes rows.parquet")
    return rows


def beside(where: Path, name: str) -> Path:
    """A file or folder that lies beside rows.

    Args:
        where: file or folder of the rows.
        name: of what lies beside them.
    """
    return (where if where.is_dir() else where.parent) / name


def load_series(where: Path, keys: Collection[str]) -> dict[str, Row]:
    """Shares over time and latencies of some runs, by key; empty if they were not kept.

    Args:
        where: file or folder of the rows, beside which ``series.parquet`` lies.
        keys: of the rows that are wanted.
    """
    import pyarrow.parquet as pq

    file = beside(where, SERIES)
    if not file.is_file() or not keys:
        return {}
    table = pq.read_table(file, filters=[("key", "in", list(keys))])
    return {row["key"]: row for row in table.to_pylist()}


def load_schedules(folder: Path) -> dict[tuple[str, int], Floats]:
    """Optimal shares in hindsight, (T,) each, by scenario digest and seed.

    Args:
        folder: of schedules, or results of helm-gym hindsight; of several for the same requests
            the one that minimises P99 counts.

    Raises:
        ConfigError: a file there is no schedule.
    """
    found: dict[tuple[str, int], Schedule] = {}
    for file in sorted(folder.glob("*.json")):
        schedule = Schedule.load(file)
        key = (schedule.scenario_digest, schedule.seed)
        if key not in found or schedule.objective == "tail":
            found[key] = schedule
    return {key: np.asarray(one.shares, np.float64) for key, one in found.items()}


@dataclass(frozen=True)
class Benchmark:
    """Rows of several policies, by run. Make it with :func:`arrange`."""

    runs: Mapping[tuple[Any, ...], Row]  # by KEY
    figure: str  # that scores are made of
    reference: str
    settings: Mapping[str, tuple[Setting, ...]]  # cell -> its loads and routers
    seeds: Mapping[str, tuple[int, ...]]  # cell -> seeds, the same in all its settings
    policies: tuple[str, ...]  # with a figure in every run, the reference first
    left_out: tuple[LeftOut, ...]

    def row(self, setting: Setting, policy: str, seed: int) -> Row:
        """One run's row."""
        return self.runs[(*setting, policy, seed)]

    def values(self, policy: str, column: str) -> list[Floats]:
        """A column of a policy, cell by cell; NaN where a row has none."""
        return [
            np.array(
                [
                    [_number(self.row(setting, policy, seed).get(column)) for seed in seeds]
                    for setting in self.settings[cell]
                ]
            )
            for cell, seeds in self.seeds.items()
        ]

    def mean(self, policy: str, column: str) -> float:
        """Mean of a column over all runs of a policy."""
        return float(np.mean(np.concatenate([v.ravel() for v in self.values(policy, column)])))

    @cached_property
    def scores(self) -> dict[str, list[Floats]]:
        """Ratio of every ranked policy's figure to the reference's, run by run."""
        base = self.values(self.reference, self.figure)
        return {
            policy: [a / b for a, b in zip(self.values(policy, self.figure), base, strict=True)]
            for policy in self.policies
        }

    @property
    def n_runs(self) -> int:
        """Of every policy."""
        return sum(len(self.settings[cell]) * len(seeds) for cell, seeds in self.seeds.items())

    def distinct(self, column: str) -> list[str]:
        """Values of a column over all rows, sorted."""
        return sorted({str(row[column]) for row in self.runs.values() if row.get(column)})

    def specs(self, policy: str) -> list[str]:
        """What a policy was run as, such as ``static:0.45``, over its settings."""
        rows = [row for row in self.runs.values() if row["policy"] == policy]
        return sorted({str(row["spec"]) for row in rows if row["spec"]})

    @property
    def held_out(self) -> list[bool]:
        """Of every cell, whether training never saw it."""
        first = [self.settings[cell][0] for cell in self.seeds]
        rows = [self.row(s, self.reference, self.seeds[s.cell][0]) for s in first]
        return [bool(row.get("held_out")) for row in rows]


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def arrange(rows: Sequence[Row], reference: str = REFERENCE) -> Benchmark:
    """Check rows and arrange them by run.

    Args:
        rows: of any number of policies, in any order.
        reference: policy that scores refer to.

    Raises:
        ConfigError: rows contradict each other, or the reference lacks runs.
    """
    runs = _unique(rows)
    _check_digests(runs.values())
    have_tail = all(row.get("tail_ms") is not None for row in runs.values() if _ok(row))
    figure = "tail_ms" if have_tail else "p99_ms"
    settings, seeds = _design(runs, reference)
    wanted = [(*s, seed) for cell in settings for s in settings[cell] for seed in seeds[cell]]
    policies, left_out = [], []
    for policy in dict.fromkeys([reference, *sorted(key[3] for key in runs)]):
        found = [runs.get((*run[:3], policy, run[3])) for run in wanted]
        reasons = [_reason(row, figure) for row in found]
        bad = [reason for reason in reasons if reason]
        if bad:
            left_out.append(LeftOut(policy, len(bad), len(wanted), tuple(dict.fromkeys(bad))))
        else:
            policies.append(policy)
    if reference not in policies:
        raise ConfigError(
            f"{reference} is what scores refer to, and {left_out[0].runs} of its "
            f"{left_out[0].of} runs have no figure ({left_out[0].reasons[0]})"
        )
    return Benchmark(runs, figure, reference, settings, seeds, tuple(policies), tuple(left_out))


def _ok(row: Row) -> bool:
    return bool(row["status"] == OK)


def _reason(row: Row | None, figure: str) -> str:
    """Why a run has no figure; empty if it has one."""
    if row is None:
        return "not run"
    if not _ok(row):
        return str(row["reason"] or "failed without a reason")
    good = math.isfinite(_number(row.get(figure))) and float(row[figure]) > 0.0
    return "" if good else f"{figure} is not known: no request was served"


def _unique(rows: Sequence[Row]) -> dict[tuple[Any, ...], Row]:
    """Rows by run; one that is there twice has to say the same twice."""
    runs: dict[tuple[Any, ...], Row] = {}
    for row in sorted(rows, key=lambda row: tuple(row[name] for name in KEY)):
        key = tuple(row[name] for name in KEY)
        other = runs.setdefault(key, row)
        apart = [n for n in OUTCOME if not _same(other.get(n), row.get(n))]
        if apart:
            where = ", ".join(f"{name} {value}" for name, value in zip(KEY, key, strict=True))
            raise ConfigError(
                f"two rows for {where} differ in {apart[0]} ({other.get(apart[0])} and "
                f"{row.get(apart[0])}); keep the rows of one of the two benchmarks"
            )
    return runs


def _same(a: Any, b: Any) -> bool:
    return bool(a == b) or (a != a and b != b)


def _check_digests(rows: Any) -> None:
    """One digest per setting: rows of different scenarios under one name cannot be compared."""
    digests: dict[Setting, str] = {}
    for row in rows:
        setting = Setting(row["cell"], row["load"], row["router"])
        known = digests.setdefault(setting, row["scenario_digest"])
        if known != row["scenario_digest"]:
            raise ConfigError(
                f"cell {setting.cell} at load {setting.load:g} has rows of two scenarios, digests "
                f"{known} and {row['scenario_digest']}; run all policies on one of them"
            )


def _design(
    runs: Mapping[tuple[Any, ...], Row], reference: str
) -> tuple[dict[str, tuple[Setting, ...]], dict[str, tuple[int, ...]]]:
    """Settings and seeds of every cell, as the reference was run."""
    by_setting: dict[Setting, list[int]] = {}
    for cell, load, router, policy, seed in runs:
        if policy == reference:
            by_setting.setdefault(Setting(cell, load, router), []).append(seed)
    if not by_setting:
        known = ", ".join(sorted({key[3] for key in runs})) or "no policy"
        raise ConfigError(
            f"no row is of {reference}, which scores refer to (rows are of {known}); run helm-gym "
            f"bench with it as well, or name another reference"
        )
    settings: dict[str, list[Setting]] = {}
    seeds: dict[str, tuple[int, ...]] = {}
    for setting in sorted(by_setting):
        settings.setdefault(setting.cell, []).append(setting)
        mine = tuple(sorted(by_setting[setting]))
        if seeds.setdefault(setting.cell, mine) != mine:
            raise ConfigError(
                f"{reference} was run on seeds {seeds[setting.cell]} and {mine} in settings of "
                f"{setting.cell}; finish the benchmark with the command that began it"
            )
    return {cell: tuple(those) for cell, those in settings.items()}, seeds
