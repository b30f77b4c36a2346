"""Rows of a benchmark: their columns, what identifies one, and the files that keep them.

A finished job is a small Parquet file of its own, which appears whole or not at all;
``rows.parquet`` and ``series.parquet`` are merged from those files. A row is run again only if
something that decides it has changed: its key is a digest of scenario, policy, seed, version and
simulator code.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helm_gym._version import __version__
from helm_gym.benchmark.plan import REWARD, Job, is_common, is_search
from helm_gym.config.scenario import Scenario
from helm_gym.errors import ConfigError
from helm_gym.evaluation.common import alone
from helm_gym.evaluation.search import grid
from helm_gym.evaluation.specs import make_policy
from helm_gym.files import replacing
from helm_gym.metrics import METRICS
from helm_gym.provenance import code_digest, policy_digest, versions
from helm_gym.runs.figures import EXTRA
from helm_gym.store import digest_of, writing

if TYPE_CHECKING:
    import pyarrow as pa

Row = dict[str, Any]

OK, FAILED = "ok", "failed"
SEARCH = "helm_gym.evaluation.search"
"""Module that decides what a search finds."""
COMMON = "helm_gym.evaluation.common"
"""Module that decides what a search for many scenarios finds."""
PUBLISHED = Path(__file__).parent / "published"
"""Rows that come with the package."""
FIGURES = (*METRICS, *EXTRA)
IDENTITY = {
    "suite": "paper-v2, or empty outside a suite",
    "cell": "name of the scenario",
    "load": "fraction of the measured capacity",
    "router": "which node serves a request",
    "own_router": "one that the policy brings along and was run with instead; null if none",
    "policy": "spec as asked for, such as static:best",
    "spec": "spec as run, such as static:0.45; what a search on validation seeds found",
    "seed": "of the request stream",
    "status": "ok or failed",
    "reason": "why it failed; empty if it did not",
    "held_out": "whether training and validation never see the scenario",
    "steps": "windows of the episode",
    "step_s": "s per window",
    "uncounted": "windows at the beginning that no figure counts",
    "slo_ms": "ms; the P99 that is to be met",
    "reward_preset": "of the reward column",
    "budget_ms": "mean wall clock that a decision was allowed",
    "key": "digest of scenario, policy, seed, version and simulator code",
    "scenario_digest": "of the scenario as run",
    "policy_digest": "digest of the spec as run, its code, its files and the policies inside it",
    "asked_digest": "digest of what the spec as asked for depends on",
    "code_digest": "digest of the code that plays episodes",
    "helm_gym": "version",
    "numpy": "version",
    "numba": "version",
    "python": "version",
    "scenario": "the scenario as run, as JSON; null if the cell is shipped",
    "requests": "simulated, that is arrived, in the counted windows",
}
WALL_CLOCK = {
    "decision_mean_us": "us per decision of one cluster",
    "decision_p50_us": "us; median over the episode's decisions",
    "decision_p99_us": "us; 99th percentile",
    "wall_s": "s of the job over its seeds; without the search",
}
"""Columns that differ from run to run; every other one is reproduced bit for bit."""
JUDGED = {
    "distance": "mean |share - schedule's| over counted windows and nodes",
    "distance_good": "the same to the nearest share within 1 % of the schedule's",
    "adapt_s": "s; mean time to adapt after a jump of the stream",
    "unsettled": "jumps after which it did not adapt before the next one",
}
"""Columns that compare a row with the schedule of its stream; null where none is known."""
SERIES = {
    "share_by_window": "EMB share in force, mean over nodes, per window",
    "shares_by_node": "the same of every node, window after window; null where all nodes agreed",
    "p99_by_window": "ms; P99 of the window's admitted requests",
    "tail_by_window": "ms; P99 of the window's arrivals, a shed one counting as the deadline",
    "latency": "histogram of counted latencies; bin i ends at helm_gym.sim.stages.bin_edge(i + 1)",
}
"""Kept in ``series.parquet``, by key: what plots need and tables do not."""
COLUMNS = (*IDENTITY, *FIGURES, *WALL_CLOCK, *JUDGED)
_WHOLE = {"seed", "steps", "uncounted", "requests"}
_NUMBERS = {"load", "budget_ms", "step_s", "slo_ms", *FIGURES, *WALL_CLOCK, *JUDGED}


def schema() -> pa.Schema:
    """Types of all columns, so that a file without a single good row has the same."""
    import pyarrow as pa

    def kind(name: str) -> pa.DataType:
        if name in _NUMBERS:
            return pa.float64()
        if name in _WHOLE:
            return pa.int64()
        return pa.bool_() if name == "held_out" else pa.string()

    series = {name: pa.list_(pa.int64() if name == "latency" else pa.float64()) for name in SERIES}
    return pa.schema([*((name, kind(name)) for name in COLUMNS), *series.items()])


# What identifies a row


def asked_digest(
    scenario: Scenario,
    spec: str,
    allow: Collection[str] = (),
    among: Collection[Scenario] = (),
    tuned: str = "",
) -> str:
    """16 hex digits of what a spec as asked for depends on.

    That of a search covers its candidates and how it chooses; what it finds follows from them.

    Args:
        scenario: where.
        spec: as a person asked for it.
        allow: see :func:`~helm_gym.evaluation.specs.make_policy`.
        among: scenarios that a common search is made over, see
            :func:`~helm_gym.benchmark.plan.among`.
        tuned: spec that helm-gym tune found for it; empty where the benchmark searches itself.
    """
    if tuned:
        return digest_of(spec, policy_digest(tuned, make_policy(tuned, allow)))
    if is_common(spec):
        candidates = grid(scenario, alone(spec))
        first = policy_digest("", make_policy(candidates[0]))
        cells = sorted({other.digest() for other in among})
        return digest_of(spec, *candidates, first, code_digest(COMMON), *cells)
    if not is_search(spec):
        return policy_digest(spec, make_policy(spec, allow))
    candidates = grid(scenario, spec)
    first = policy_digest("", make_policy(candidates[0]))
    return digest_of(spec, *candidates, first, code_digest(SEARCH))


def asked_by(job: Job) -> str:
    """The :func:`asked_digest` of a job."""
    return asked_digest(job.setting.scenario, job.policy, job.allow, job.among, job.tuned)


def row_key(scenario_digest: str, asked: str, seed: int) -> str:
    """What a stored row is found by; ``asked`` is its :func:`asked_digest`."""
    return digest_of(scenario_digest, asked, seed, REWARD, __version__, code_digest())


def identity(job: Job, asked: str) -> Row:
    """What all rows of a job share, ``asked`` being its :func:`asked_digest`."""
    setting = job.setting
    return {
        "suite": setting.suite,
        "cell": setting.cell,
        "load": setting.load,
        "router": setting.router,
        "policy": job.policy,
        "held_out": setting.held_out,
        "steps": setting.scenario.episode.steps,
        "step_s": setting.scenario.episode.step_s,
        "uncounted": setting.scenario.episode.uncounted,
        "slo_ms": setting.scenario.slo.p99_ms.value,
        "reward_preset": REWARD,
        "budget_ms": job.budget_ms,
        "scenario_digest": setting.scenario.digest(),
        "asked_digest": asked,
        "code_digest": code_digest(),
        **versions(),
        "scenario": None if setting.shipped else json.dumps(setting.scenario.to_dict()),
    }


# Files


def write_rows(rows: Sequence[Mapping[str, Any]], path: Path, names: Sequence[str] = ()) -> None:
    """Write rows as Parquet, whole or not at all.

    Args:
        rows: with any of the columns; what one lacks is null.
        path: where to.
        names: columns to keep; all by default.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = schema()
    if names:
        types = pa.schema([types.field(name) for name in names])
    full = [{name: row.get(name) for name in types.names} for row in rows]
    with writing(path), replacing(path) as file:
        pq.write_table(pa.Table.from_pylist(full, schema=types), file, compression="zstd")


def read_rows(path: Path) -> list[Row]:
    """Read the rows of one file.

    Raises:
        ConfigError: there is none, or it holds no rows of a benchmark.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise ConfigError(f"{path}: there are no rows; helm-gym bench writes rows.parquet")
    try:
        rows: list[Row] = pq.read_table(path).to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise ConfigError(f"{path}: cannot be read as rows ({error})") from None
    if rows and "scenario_digest" not in rows[0]:
        raise ConfigError(f"{path}: has no rows of helm-gym bench")
    return rows


def read_parts(folder: Path) -> dict[str, Row]:
    """Every stored row by key; a file that cannot be read counts as not there."""
    found: dict[str, Row] = {}
    for path in sorted(folder.glob("*.parquet"), key=lambda p: (p.stat().st_mtime_ns, p.name)):
        try:
            found |= {row["key"]: row for row in read_rows(path)}
        except ConfigError as error:
            print(f"left out: {error}", file=sys.stderr)
    return found


def part_name(rows: Sequence[Mapping[str, Any]]) -> str:
    """Name of the file of a finished job: the same rows, the same name."""
    keys = "".join(sorted(row["key"] for row in rows))
    return f"{hashlib.sha256(keys.encode()).hexdigest()[:16]}.parquet"


def place(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Where a row stands in a table, and which row it replaces there."""
    return row["cell"], row["load"], row["router"], row["policy"], row["seed"]


def merge(parts: Iterable[Row], planned: Iterable[str], out: Path) -> list[Row]:
    """Write ``rows.parquet`` and ``series.parquet`` from the rows of this version.

    Args:
        parts: stored rows, older ones first; of two in one place the planned one stays, else the
            later one.
        planned: keys of the rows that were asked for now.
        out: folder.

    Returns:
        The rows, sorted by place.
    """
    first = set(planned)
    chosen: dict[tuple[Any, ...], Row] = {}
    for row in parts:
        if row["helm_gym"] != __version__ or row["code_digest"] != code_digest():
            continue
        other = chosen.get(place(row))
        if other is None or row["key"] in first or other["key"] not in first:
            chosen[place(row)] = row
    rows = [chosen[at] for at in sorted(chosen)]
    write_rows(rows, out / "rows.parquet", COLUMNS)
    write_rows(rows, out / "series.parquet", ("key", *SERIES))
    return rows
