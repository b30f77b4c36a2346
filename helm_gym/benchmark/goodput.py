"""The highest load that a policy sustains: goodput as papers on serving report it.

A policy sustains a load on a seed if 99 % of the requests that arrive in its episode are served
within the SLO, a shed one not being; so the P99 of all arrivals meets it. That is the question that
:mod:`helm_gym.suites.capacity` asks of static shares at a steady rate; here it is asked of any
policy in the scenario's own regime. Every policy meets the same requests at a rate, and a search
ends on a grid of rates that all share, so capacities are compared seed by seed. A search of the
kind of ``static:best`` is made once, at the scenario's own load.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helm_gym._version import __version__
from helm_gym.benchmark.plan import is_search
from helm_gym.config.scenario import Scenario
from helm_gym.console import make_table
from helm_gym.errors import ConfigError
from helm_gym.evaluation.search import resolve
from helm_gym.evaluation.specs import make_policy
from helm_gym.pages.table import with_interval
from helm_gym.provenance import code_digest, policy_digest
from helm_gym.runs.rollout import run_policy
from helm_gym.runs.stats import Interval, mean_interval, paired
from helm_gym.store import ROWS, digest_of, open_store, save_rows
from helm_gym.suites.capacity import SATISFACTION, highest_rate
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


def search(scenario: Scenario, spec: str, seed: int, allow: Collection[str] = ()) -> list[Row]:
    """Every load that a policy was tried at on one seed, and what it sustained.

    Args:
        scenario: where; its load is replaced.
        spec: policy, made anew for this search.
        seed: seed of the request stream.
        allow: see :func:`~helm_gym.evaluation.specs.make_policy`.

    Returns:
        One row per load tried, with ``sustained`` the same in all.
    """
    policy, unit = make_policy(spec, allow), scenario.workload.capacity_rps_per_node.value
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


def _search(job: tuple[Scenario, str, int, Row, Collection[str]]) -> list[Row]:
    scenario, spec, seed, about, allow = job
    return [{**about, **row} for row in search(scenario, spec, seed, allow)]


def measure(
    scenario: Scenario,
    policies: Sequence[str],
    *,
    seeds: Sequence[int],
    out: Path | None = None,
    processes: int = 1,
    progress: bool = False,
    allow: Collection[str] = (),
) -> list[Sustained]:
    """Find what every policy sustains on every seed.

    Args:
        scenario: where.
        policies: specs; searches are resolved at the scenario's load.
        seeds: out of those for comparisons.
        out: Parquet file for the rows. Finished searches are kept in the folder ``NAME-searches``
            beside it and not made again; the file holds all of that folder.
        processes: searches at a time; results do not depend on it.
        progress: show a progress bar on stderr.
        allow: see :func:`~helm_gym.evaluation.specs.make_policy`.

    Raises:
        ConfigError: a policy or a seed cannot be used, or the scenario replays a log.
        PolicyError: a policy failed.
    """
    _check(scenario, policies, seeds)
    for spec in policies:
        if not is_search(spec):
            make_policy(spec, allow)  # so that a typo costs no time
    specs = {policy: resolve(scenario, policy) for policy in policies}
    about = {spec: _about(scenario, spec, allow) for spec in specs.values()}
    jobs = {
        digest_of(spec, seed, about[spec]): (scenario, spec, seed, about[spec], tuple(allow))
        for spec in about
        for seed in seeds
    }
    with open_store(None if out is None else _searches_of(out), ROWS) as store:
        found = store.complete(
            jobs,
            _search,
            processes=processes,
            title="goodput",
            progress=progress,
            transient=False,
        )
        if out is not None:
            order = ("scenario_digest", "spec", "policy_digest", "code_digest", "seed", "load")
            rows = [row for piece in store.pieces() for row in piece]
            save_rows(sorted(rows, key=lambda row: [row[name] for name in order]), out)
    loads = {(rows[0]["spec"], rows[0]["seed"]): rows[0]["sustained"] for rows in found.values()}
    return [
        Sustained(policy, spec, {seed: loads[spec, seed] for seed in seeds})
        for policy, spec in specs.items()
    ]


def _searches_of(out: Path) -> Path:
    """Folder that keeps the searches of a file of rows, which must not hold anything else.

    Raises:
        ConfigError: the file holds something else.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if out.is_file():
        try:
            columns = pq.read_schema(out).names
        except (pa.ArrowInvalid, OSError) as error:
            raise ConfigError(f"{out}: cannot be read as rows of goodput ({error})") from None
        if "sustained" not in columns:
            raise ConfigError(f"{out}: holds other rows; name another file with --out")
    return out.with_name(f"{out.stem}-searches")


def _about(scenario: Scenario, spec: str, allow: Collection[str]) -> Row:
    """What decides the rows of a policy: one that differs in any of it is another's."""
    return {
        "cell": scenario.name,
        "scenario_digest": scenario.digest(),
        "policy_digest": policy_digest(spec, make_policy(spec, allow)),
        "code_digest": code_digest(),
        "helm_gym": __version__,
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


def table(found: Sequence[Sustained]) -> Table:
    """Highest loads with intervals, and their distance to the first policy's."""
    first = found[0]
    title = "Highest load with P99 inside the SLO, [95 % bootstrap interval]"
    headings = ("policy", "run as", "load", f"less {first.policy}'s")
    rows = [
        [
            one.policy,
            one.spec,
            with_interval(one.interval()),
            "" if one is first else with_interval(one.above(first), "+.3f"),
        ]
        for one in sorted(found, key=lambda one: -one.interval().mean)
    ]
    return make_table(headings, rows, title=title, left=4)
