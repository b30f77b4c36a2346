"""The highest load that a policy sustains: goodput as papers on serving report it.

A policy sustains a load on a seed if 99 % of the requests that arrive in its episode are served
within the SLO, a shed one not being; so the P99 of all arrivals meets it. That is the question that
:mod:`helm_gym.suites.capacity` asks of static shares at a steady rate; here it is asked of any
policy in the scenario's own regime. Every policy meets the same requests at a rate, and a search
ends on a grid of rates that all share, so capacities are compared seed by seed. A search of the
kind of ``static:best`` is made once, at the scenario's own load.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helm_gym._version import __version__
from helm_gym.benchmark.plan import is_search
from helm_gym.config.scenario import Scenario
from helm_gym.errors import ConfigError
from helm_gym.evaluation.specs import make_policy
from helm_gym.evaluation.tune import resolve
from helm_gym.files import replacing
from helm_gym.processes import worker_pool
from helm_gym.provenance import code_digest, policy_digest
from helm_gym.runs.rollout import run_policy
from helm_gym.runs.stats import Interval, mean_interval, paired
from helm_gym.suites.capacity import SATISFACTION
from helm_gym.suites.probe import highest_rate
from helm_gym.suites.seeds import EVALUATION_SEEDS

if TYPE_CHECKING:
    from rich.table import Table

POINT = ("load", "goodput_rps", "slo_satisfaction", "tail_ms", "p99_ms")
Row = dict[str, Any]


@dataclass(frozen=True)
class Sustained:
    """What one policy sustains, by seed."""

    policy: str
    spec: str  # what it was run as
    loads: Mapping[int, float]  # seed -> highest load; 0 if it sustains none

    def interval(self) -> Interval:
        """Mean over seeds."""
        return mean_interval(list(self.loads.values()))

    def above(self, other: Sustained) -> Interval:
        """Difference to another policy's, seed by seed."""
        return paired(list(self.loads.values()), [other.loads[seed] for seed in self.loads])


def search(scenario: Scenario, spec: str, seed: int) -> list[Row]:
    """Every load that a policy was tried at on one seed, and what it sustained.

    Args:
        scenario: where; its load is replaced.
        spec: policy, made anew for this search.
        seed: of the requests.

    Returns:
        One row per load tried, with ``sustained`` the same in all.
    """
    policy, unit = make_policy(spec), scenario.workload.capacity_rps_per_node.value
    points: list[Row] = []

    def margin(rate: float) -> float:
        tried = scenario.replace({"workload.load": rate / unit})
        (episode,) = run_policy(tried, policy, spec, [seed])
        points.append({"load": rate / unit} | {name: episode.figures[name] for name in POINT[1:]})
        return episode.figures["slo_satisfaction"] - SATISFACTION

    found = highest_rate(margin, scenario.workload.load * unit) / unit
    return [
        {"spec": spec, "seed": seed, "sustained": found, **point}
        for point in sorted(points, key=lambda point: float(point["load"]))
    ]


def _job(job: tuple[Mapping[str, Any], str, int]) -> list[Row]:
    data, spec, seed = job
    return search(Scenario.parse(dict(data), "goodput"), spec, seed)


def measure(
    scenario: Scenario,
    policies: Sequence[str],
    *,
    seeds: Sequence[int],
    out: Path | None = None,
    processes: int = 1,
    progress: bool = False,
) -> list[Sustained]:
    """Find what every policy sustains on every seed.

    Args:
        scenario: where.
        policies: specs; searches are resolved at the scenario's load.
        seeds: out of those for comparisons.
        out: Parquet file for the rows; finished searches in it are not made again.
        processes: searches at a time; results do not depend on it.
        progress: show a progress bar on stderr.

    Raises:
        ConfigError: a policy or a seed cannot be used, or the scenario replays a log.
        PolicyError: a policy failed.
    """
    _check(scenario, policies, seeds)
    for spec in policies:
        if not is_search(spec):
            make_policy(spec)  # so that a typo costs no time
    specs = {policy: resolve(scenario, policy) for policy in policies}
    about = {spec: _about(scenario, spec) for spec in specs.values()}
    rows = _known(out)
    by_job = _finished(rows, about)
    wanted = dict.fromkeys((spec, seed) for spec in specs.values() for seed in seeds)
    missing = [job for job in wanted if job not in by_job]
    for found in _searches(scenario, missing, processes, progress):
        rows += [{**about[row["spec"]], **row} for row in found]
        by_job = _finished(rows, about)
        if out is not None:
            _write(rows, out)
    return [
        Sustained(policy, spec, {seed: by_job[spec, seed] for seed in seeds})
        for policy, spec in specs.items()
    ]


def _about(scenario: Scenario, spec: str) -> Row:
    """What decides the rows of a policy: one that differs in any of it is another's."""
    return {
        "cell": scenario.name,
        "scenario_digest": scenario.digest(),
        "policy_digest": policy_digest(spec, make_policy(spec)),
        "code_digest": code_digest(),
        "helm_gym": __version__,
    }


def _finished(rows: Sequence[Row], about: Mapping[str, Row]) -> dict[tuple[str, int], float]:
    """(spec, seed) -> highest load, of the rows that are of these policies as they are now."""
    return {
        (row["spec"], row["seed"]): float(row["sustained"])
        for row in rows
        if row["spec"] in about and about[row["spec"]].items() <= row.items()
    }


def _check(scenario: Scenario, policies: Sequence[str], seeds: Sequence[int]) -> None:
    if scenario.workload.replay is not None:
        raise ConfigError("goodput needs generated requests; this scenario replays a log")
    if not policies:
        raise ConfigError("name at least one policy, such as -p static:best")
    wrong = [seed for seed in seeds if seed not in EVALUATION_SEEDS]
    if wrong or not seeds:
        raise ConfigError(
            f"seeds {list(seeds)}: comparisons use {EVALUATION_SEEDS.start} to "
            f"{EVALUATION_SEEDS.stop - 1}, because lower ones are for training and searches"
        )


def _searches(
    scenario: Scenario, jobs: Sequence[tuple[str, int]], processes: int, progress: bool
) -> Iterator[list[Row]]:
    """Rows of every search, as they finish."""
    from rich.console import Console
    from rich.progress import Progress

    data = scenario.to_dict()
    full = [(data, spec, seed) for spec, seed in jobs]
    alone = processes == 1 or len(full) < 2
    with ExitStack() as stack:
        console = Console(stderr=True)
        bar = stack.enter_context(Progress(console=console, disable=not progress))
        found: Iterable[list[Row]] = map(_job, full)
        if not alone:
            pool = stack.enter_context(worker_pool(min(processes, len(full))))
            found = (one.result() for one in as_completed([pool.submit(_job, job) for job in full]))
        yield from bar.track(found, total=len(full), description="goodput")


def _known(out: Path | None) -> list[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if out is None or not out.is_file():
        return []
    try:
        rows: list[Row] = pq.read_table(out).to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise ConfigError(f"{out}: cannot be read as rows of goodput ({error})") from None
    if rows and "sustained" not in rows[0]:
        raise ConfigError(f"{out}: holds other rows; name another file with --out")
    return rows


def _write(rows: Sequence[Row], out: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    out.parent.mkdir(parents=True, exist_ok=True)
    order = ("scenario_digest", "spec", "policy_digest", "code_digest", "seed", "load")
    ordered = sorted(rows, key=lambda row: tuple(row[name] for name in order))
    with replacing(out) as file:
        pq.write_table(pa.Table.from_pylist(ordered), file)


def table(found: Sequence[Sustained]) -> Table:
    """Highest loads with intervals, and their distance to the first policy's."""
    from rich.table import Table

    from helm_gym.benchmark.leaderboard import with_interval

    shown = Table(title="Highest load with P99 inside the SLO, [95 % bootstrap interval]")
    for heading in ("policy", "run as", "load", f"less {found[0].policy}'s"):
        shown.add_column(heading)
    for one in sorted(found, key=lambda one: -one.interval().mean):
        less = "" if one is found[0] else with_interval(one.above(found[0]), "+.3f")
        shown.add_row(one.policy, one.spec, with_interval(one.interval()), less)
    return shown
