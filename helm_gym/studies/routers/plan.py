"""Routers compared: the same requests and the same shares, under signals of different ages.

A thin plan over the benchmark: every router under every age of its signals is a benchmark of its
own in a folder of its own, so that it resumes and its rows replay like any other. Shares are those
of one policy per cell and load, found under the reference router with live signals, so that only
routing differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from helm_gym.benchmark.plan import Job, Setting, changes_of, is_search
from helm_gym.benchmark.rows import FAILED, Row
from helm_gym.benchmark.run import run_bench
from helm_gym.config.routers import ROUTERS
from helm_gym.config.scenario import Scenario
from helm_gym.console import progress_bar
from helm_gym.errors import ConfigError, HelmGymError, nearest
from helm_gym.evaluation.search import CHEAP, resolve
from helm_gym.evaluation.specs import from_file, make_policy
from helm_gym.provenance import code_digest
from helm_gym.store import digest_of, json_codec, open_store, save_rows
from helm_gym.suites import moving
from helm_gym.suites.splits import TEST, check_frozen, check_test_seeds

REFERENCE = "predicted_completion"
RATES = "kv_affinity"
"""Router of the suite whose capacities all loads refer to: one rate for all is that of a system
with a static share and affinity routing."""
VARIANTS: dict[str, dict[str, Any]] = {
    "helm_score+spare": {"router.name": "helm_score", "router.spare_only": True},
    "sglang_like+3": {"router.name": "sglang_like", "router.balance_requests": 3},
    "dynamo_like+8": {"router.name": "dynamo_like", "router.overlap_weight": 8},
}
"""Routers with settings other than their originals' defaults, found on validation seeds."""
KNOWN = (*ROUTERS, *VARIANTS)
BLIND = ("round_robin", "consistent_hash")
"""Routers that read no signals, so that their age does not matter."""
STALENESS_MS = (0.0, 50.0, 200.0)
LOADS = (0.95,)
QUICK_STALENESS_MS = (0.0, 200.0)
QUICK_COUNTED = 12  # windows of a smoke test that count
SEEDS, QUICK_SEEDS = 5, 2
QUICK_CELLS = ("taobao",)
POLICY = "static:best"


@dataclass(frozen=True)
class Age:
    """How old signals are, and whether the router keeps books in between."""

    staleness_ms: float
    books: bool

    @property
    def name(self) -> str:
        """Of its folder and in tables."""
        if not self.staleness_ms:
            return "live"
        return f"{self.staleness_ms:g} ms{', books' if self.books else ''}"

    @property
    def settings(self) -> dict[str, Any]:
        """Of the scenario."""
        if not self.staleness_ms:
            return {}
        return {"router.staleness_ms": self.staleness_ms, "router.books_own": self.books}


@dataclass(frozen=True)
class Study:
    """A finished comparison."""

    rows: list[Row]  # benchmark rows, each with router_label and age
    shares: dict[str, str]  # "cell at load" -> spec that was run
    asked: str  # policy as asked for
    quick: bool


def ages(staleness_ms: Sequence[float]) -> list[Age]:
    """Live signals once; older ones with and without books."""
    found = []
    for ms in dict.fromkeys(staleness_ms):
        found += [Age(ms, False), Age(ms, True)] if ms else [Age(0.0, False)]
    return found


def cells_named(parts: Sequence[str]) -> list[str]:
    """Cells of the suite whose name holds one of ``parts``; all without any.

    Raises:
        ConfigError: a part is in no name.
    """
    names = list(moving.CELL_NAMES)
    for part in parts:
        if not any(part in name for name in names):
            raise ConfigError(
                f"--cell {part}: no cell of {moving.PREFIX} has that in its name: {names}"
            )
    return [n for n in names if not parts or any(part in n for part in parts)]


def run_routers(
    out: Path,
    *,
    cells: Sequence[str] = (),
    loads: Sequence[float] = LOADS,
    routers: Sequence[str] = KNOWN,
    staleness_ms: Sequence[float] | None = None,
    seeds: int | None = None,
    policy: str = POLICY,
    steps: int | None = None,
    quick: bool = False,
    processes: int = 1,
    progress: bool = False,
) -> Study:
    """Run what the folder does not hold yet.

    Args:
        out: folder; a stopped comparison goes on there.
        cells: parts of names of the suite's cells; all by default.
        loads: fractions of what each stretch's best static share carries under :data:`RATES`.
        routers: of :data:`KNOWN`; the reference is run in any case.
        staleness_ms: times between two reports; 0, 50 and 200 by default.
        seeds: the first so many test seeds.
        policy: spec; a search is run once per cell and load, under the reference router.
        steps: windows per episode; whole episodes by default.
        quick: four cells, two seeds, one minute, live signals and 200 ms.
        processes: of the benchmarks.
        progress: show a bar.

    Raises:
        ConfigError: something does not exist.
        HelmGymError: a run failed.
    """
    apart = staleness_ms or (QUICK_STALENESS_MS if quick else STALENESS_MS)
    chosen = tuple(TEST.seeds[: seeds or (QUICK_SEEDS if quick else SEEDS)])
    check_test_seeds(chosen)
    names = cells_named(cells or (QUICK_CELLS if quick else ()))
    plan = _plan(names, loads, routers, apart, steps, quick)
    if not is_search(policy):
        make_policy(policy)
    shares: dict[str, str] = {}
    rows: list[Row] = []
    live = plan[REFERENCE, Age(0.0, False)]
    with (
        open_store(out / "searches", json_codec(str)) as store,
        progress_bar("routers", len(live) + len(plan), wanted=progress, transient=False) as bar,
    ):
        for setting in live:
            spec = policy
            if is_search(policy):
                key = digest_of(setting.scenario.digest(), policy, code_digest(resolve.__module__))
                found = store.piece(key, partial(resolve, setting.scenario, policy, CHEAP))
                spec = from_file(found, f"{out}/searches")
            shares[_place(setting)] = spec
            bar.advance(note=f"{_place(setting)}: {spec}")
        for (router, age), settings in plan.items():
            if age.staleness_ms not in apart:
                continue  # was there for the search alone
            jobs = [Job(setting, shares[_place(setting)], chosen) for setting in settings]
            folder = out / router / age.name.replace(", ", "-").replace(" ", "")
            bench = run_bench(jobs, folder, processes=processes)
            rows += [{**row, "router_label": router, "age": age.name} for row in bench.rows]
            bar.advance(note=f"{router}, {age.name}")
    bad = [row for row in rows if row["status"] == FAILED]
    if bad:
        raise HelmGymError(f"{bad[0]['router_label']} in {bad[0]['cell']}: {bad[0]['reason']}")
    left_out = ("share_by_window", "p99_by_window", "latency", "scenario")  # are in the folders
    kept = [{name: v for name, v in row.items() if name not in left_out} for row in rows]
    save_rows(kept, out / "routers.parquet")
    return Study(rows, shares, policy, quick)


def _place(setting: Setting) -> str:
    return f"{setting.cell} at {setting.load:g}"


def _plan(
    names: Sequence[str],
    loads: Sequence[float],
    routers: Sequence[str],
    staleness_ms: Sequence[float],
    steps: int | None,
    quick: bool,
) -> dict[tuple[str, Age], list[Setting]]:
    """Every cell at every load, by router and age; the reference with live signals is first."""
    for name in routers:
        if name not in KNOWN:
            raise ConfigError(f"router {name!r} does not exist{nearest(name, KNOWN)}")
    cells = {name: moving.frozen_cell(name, RATES) for name in names}
    check_frozen({scenario.name: scenario for scenario in cells.values()})
    wanted = [REFERENCE, *(r for r in dict.fromkeys(routers) if r != REFERENCE)]
    return {
        (router, age): [
            _setting(cell, scenario, load, router, age, steps or _windows(scenario, quick))
            for cell, scenario in cells.items()
            for load in loads
        ]
        for age in ages([0.0, *staleness_ms])
        for router in wanted
        if not age.staleness_ms or router not in BLIND
    }


def _windows(scenario: Scenario, quick: bool) -> int:
    """Windows of an episode."""
    return scenario.episode.uncounted + QUICK_COUNTED if quick else scenario.episode.steps


def _setting(
    cell: str, scenario: Scenario, load: float, router: str, age: Age, steps: int
) -> Setting:
    """A cell under one router; written out in its rows, which no shipped name describes."""
    settings = {"router.name": router, **VARIANTS.get(router, {}), **age.settings}
    changes = changes_of(scenario, load, settings["router.name"], steps)
    return Setting(moving.PREFIX, cell, scenario.replace({**changes, **settings}), shipped=False)
