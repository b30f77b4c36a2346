"""What a benchmark runs: cells times loads times routers times policies, on the same seeds.

A job is all seeds of one policy in one setting: one rollout, side by side. Seeds fix the request
streams, so all policies meet the same requests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from helm_gym.baselines.registry import DATASET
from helm_gym.benchmark.tuning import Tuned
from helm_gym.config.routers import ROUTERS
from helm_gym.config.scenario import Scenario
from helm_gym.errors import ConfigError, nearest
from helm_gym.evaluation.common import alone
from helm_gym.evaluation.search import grid, most_tried
from helm_gym.evaluation.specs import COMMON_SEARCHES, make_policy
from helm_gym.suites import heldout, moving
from helm_gym.suites.replays import is_replay, replay_cells
from helm_gym.suites.splits import (
    TEST,
    check_frozen,
    check_policy,
    check_splits,
    check_test_seeds,
    held_out,
)

PAPER = ("paper", moving.PREFIX)
HELD_OUT = ("heldout", heldout.PREFIX)
MINUTES = 10.0  # of simulated time per episode that count, outside the suite
QUICK_MINUTES = 1.0
BUDGET_MS = 50.0  # mean wall clock per decision; a window lasts 5 s
SEARCH = ":best"
CANDIDATES_PER_ROLLOUT = 5  # that a search tries in the time of a job's rollout, about
REWARD = "tail_and_refill"


@dataclass(frozen=True)
class Setting:
    """One scenario as it is run: cell, load, router and length decided."""

    suite: str  # "paper-v2", "heldout-v2", or "" outside a suite
    cell: str
    scenario: Scenario
    shipped: bool  # whether the cell's name is enough to find it again

    @property
    def load(self) -> float:
        """Fraction of the measured capacity."""
        return float(self.scenario.workload.load)

    @property
    def router(self) -> str:
        """Which node serves a request."""
        return self.scenario.router.name

    @property
    def held_out(self) -> bool:
        """Whether training never sees it."""
        return held_out(self.scenario)


@dataclass(frozen=True)
class Job:
    """All seeds of one policy in one setting."""

    setting: Setting
    policy: str  # its spec as asked for
    seeds: tuple[int, ...]
    budget_ms: float = BUDGET_MS
    resolved: str | None = None  # what a search found before, if it did
    allow: tuple[str, ...] = ()  # classes, as module:Class, that files may name
    among: tuple[Scenario, ...] = ()  # that a search common to many scenarios is made over
    tuned: str = ""  # spec that helm-gym tune found for a search; its key depends on it

    @property
    def searches(self) -> bool:
        """Whether the spec has to be found by a search first."""
        return is_search(self.policy) or is_common(self.policy)

    @property
    def weight(self) -> int:
        """How many rollouts it takes, for the estimate of the time that is left."""
        if not is_search(self.policy) or self.resolved is not None:
            return 1  # common searches are made before any job
        return 1 + most_tried(self.setting.scenario, self.policy) // CANDIDATES_PER_ROLLOUT

    def describe(self) -> str:
        """In words, for progress and errors."""
        setting = self.setting
        return f"{setting.cell}, load {setting.load:g}, {setting.router}: {self.policy}"


def is_search(spec: str) -> bool:
    """Whether a spec names a search in one setting, on validation seeds, and no policy."""
    return spec.strip().endswith(SEARCH)


def is_common(spec: str) -> bool:
    """Whether a spec names one search for many settings."""
    return spec.strip() in COMMON_SEARCHES


def among(spec: str, scenario: Scenario, planned: Sequence[Scenario]) -> tuple[Scenario, ...]:
    """Scenarios that a common search is made over, for use in one of them.

    ``:dataset`` takes all regimes of the data set at the same load. ``:suite`` takes all cells at
    all loads, but none that is held out: what tunes a suite must not see them. Both take one router
    at a time, as all comparisons do, and no replay of a log, which is not of the suite.

    Args:
        spec: as asked for; empty is what any but a common search gives.
        scenario: where the result is used.
        planned: all scenarios of the benchmark.

    Raises:
        ConfigError: all scenarios that count are held out.
    """
    if not is_common(spec):
        return ()
    alike = [
        other
        for other in planned
        if other.router.name == scenario.router.name and not is_replay(other)
    ]
    if spec.endswith(f":{DATASET}"):
        own = scenario.workload
        return tuple(
            other
            for other in alike
            if (other.workload.profile.name, other.workload.load) == (own.profile.name, own.load)
        )
    found = tuple(other for other in alike if not held_out(other))
    if not found:
        raise ConfigError(
            f"policy {spec!r}: all cells are held out, and no suite of such cells may tune "
            f"anything; write {alone(spec)}, or the spec that was found on another suite"
        )
    return found


def make_plan(
    suite: str,
    policies: Sequence[str],
    n_seeds: int = 5,
    *,
    loads: Sequence[float] | None = None,
    routers: Sequence[str] | None = None,
    steps: int | None = None,
    quick: bool = False,
    budget_ms: float = BUDGET_MS,
    logs: Sequence[str] = (),
    allow: Sequence[str] = (),
    tuned: Tuned | None = None,
) -> list[Job]:
    """Decide every job before any runs.

    Args:
        suite: ``paper``, ``heldout``, a shipped scenario's name, a YAML file, or a folder of them.
        policies: specs.
        n_seeds: the first so many test seeds.
        loads: fractions of capacity; the suite's three, or a scenario's own.
        routers: names; two for the suite, or a scenario's own.
        steps: windows per episode; of the suite, whole episodes by default, else ten simulated
            minutes.
        quick: episodes of one minute; of the suite, its highest load with one router.
        budget_ms: mean wall clock that a decision may take.
        logs: to replay beside the suite's cells, see
            :func:`~helm_gym.suites.replays.replay_cell`.
        allow: see :func:`~helm_gym.evaluation.specs.make_policy`.
        tuned: what searches such as ``mpc:suite`` stand for in the suite. A search that it does
            not have for every setting is made when the benchmark runs, for all of them alike.

    Raises:
        ConfigError: something cannot be run as asked, or would be judged on what it was trained on.
    """
    specs = [spec.strip() for spec in policies]
    _check(specs, n_seeds, routers, budget_ms)
    check_splits()
    seeds = tuple(TEST.seeds[:n_seeds])
    check_test_seeds(seeds)
    if logs and suite not in PAPER:
        raise ConfigError(f"--log adds replays to --suite {PAPER[0]}, not to {suite!r}")
    found = settings(suite, loads=loads, routers=routers, steps=steps, quick=quick, logs=logs)
    planned = {s.scenario.digest(): s.cell for s in found if s.held_out}
    known = {} if tuned is None else {s: tuned for s in specs if _is_tuned(found, s, tuned)}
    for spec in specs:
        if is_search(spec):
            grid(found[0].scenario, spec)  # refuses what is no search
        elif is_common(spec) and spec not in known:
            among(spec, found[0].scenario, [one.scenario for one in found])
        elif not is_common(spec):
            check_policy(spec, make_policy(spec, allow), planned)
    scenarios = [setting.scenario for setting in found]
    return [
        _job(Job(setting, spec, seeds, budget_ms, allow=tuple(allow)), scenarios, known.get(spec))
        for setting, spec in product(found, specs)
    ]


def _job(job: Job, planned: Sequence[Scenario], tuned: Tuned | None) -> Job:
    """A job with what its search found before, or with what it will be searched over."""
    setting, spec = job.setting, job.policy
    if tuned is not None:
        found = tuned.spec(spec, setting.cell, setting.router)
        return replace(job, resolved=found, tuned=found)
    return replace(job, among=among(spec, setting.scenario, planned))


def _is_tuned(planned: Sequence[Setting], spec: str, tuned: Tuned) -> bool:
    """Whether helm-gym tune made a search for every setting of a plan.

    What was tuned on the suite's cells may be judged on held-out ones; nothing is tuned on them.
    """
    if not (is_search(spec) or is_common(spec)):
        return False
    suites = (moving.PREFIX, heldout.PREFIX)
    return all(one.suite in suites and tuned.get(spec, one.cell, one.router) for one in planned)


def _check(
    specs: Sequence[str], n_seeds: int, routers: Sequence[str] | None, budget_ms: float
) -> None:
    if not specs:
        raise ConfigError("nothing to compare: name policies, as in --policies static:best balance")
    twice = sorted({spec for spec in specs if specs.count(spec) > 1})
    if twice:
        raise ConfigError(f"policy {twice[0]!r} is named twice")
    if not 1 <= n_seeds <= len(TEST.seeds):
        raise ConfigError(f"--seeds {n_seeds}: there are 1 to {len(TEST.seeds)} test seeds")
    for router in routers or ():
        if router not in ROUTERS:
            raise ConfigError(f"router {router!r} does not exist{nearest(router, ROUTERS)}")
    if not budget_ms > 0.0:
        raise ConfigError(f"a budget of {budget_ms:g} ms per decision lets no policy decide")


def settings(
    suite: str,
    *,
    loads: Sequence[float] | None = None,
    routers: Sequence[str] | None = None,
    steps: int | None = None,
    quick: bool = False,
    logs: Sequence[str] = (),
) -> list[Setting]:
    """Every cell at every load with every router."""
    if suite in (*PAPER, *HELD_OUT):
        loads = loads or (moving.LOADS[-1:] if quick else moving.LOADS)
        routers = routers or (moving.ROUTERS[:1] if quick else moving.ROUTERS)
        of = moving if suite in PAPER else heldout
        return _of_suite(of.PREFIX, of.CELL_NAMES, loads, routers, steps, quick, replay_cells(logs))
    scenarios, shipped = _cells(suite)
    check_frozen(scenarios)
    found = []
    for cell, scenario in scenarios.items():
        own_loads = loads or (scenario.workload.load,)
        own_routers = routers or (scenario.router.name,)
        for load, router in product(own_loads, own_routers):
            own = shipped_cell(cell, router) if shipped else scenario
            changes = changes_of(own, load, router, steps or windows(own, quick))
            found.append(Setting("", cell, own.replace(changes), shipped))
    return found


def _of_suite(
    suite: str,
    cells: Sequence[str],
    loads: Sequence[float],
    routers: Sequence[str],
    steps: int | None,
    quick: bool,
    replays: Mapping[str, Scenario],
) -> list[Setting]:
    """Settings of a suite, in whole episodes: a schedule that is cut asks something else."""
    files = [moving.frozen_cell(c, r) for c, r in product(cells, moving.ROUTERS)]
    check_frozen({scenario.name: scenario for scenario in files})
    found = []
    for cell, load, router in product((*cells, *replays), loads, routers):
        shipped = cell not in replays
        scenario = shipped_cell(cell, router) if shipped else replays[cell]
        n = steps or (windows(scenario, quick) if quick else scenario.episode.steps)
        changes = changes_of(scenario, load, router, n)
        own = suite if shipped else ""  # a replay is played beside it
        found.append(Setting(own, cell, scenario.replace(changes), shipped))
    return found


def shipped_cell(name: str, router: str) -> Scenario:
    """A scenario that the package has, as a suite runs it under a router."""
    if name in (*moving.CELL_NAMES, *heldout.CELL_NAMES):
        return moving.frozen_cell(name, router)
    return Scenario.load(name)


def changes_of(scenario: Scenario, load: float, router: str, steps: int) -> dict[str, object]:
    """What a benchmark replaces in a cell; settings that already hold stay untouched."""
    wanted: dict[str, object] = {
        "workload.load": load, "router.name": router, "episode.steps": steps,
    }  # fmt: skip
    own = (scenario.workload.load, scenario.router.name, scenario.episode.steps)
    return {path: new for (path, new), old in zip(wanted.items(), own, strict=True) if new != old}


def windows(scenario: Scenario, quick: bool) -> int:
    """Decisions of an episode, those at its beginning that do not count included."""
    minutes = QUICK_MINUTES if quick else MINUTES
    counted = max(2, round(60.0 * minutes / scenario.episode.step_s))
    return counted + scenario.episode.uncounted


def _cells(suite: str) -> tuple[dict[str, Scenario], bool]:
    """Scenarios by name, and whether they are shipped."""
    if not Path(suite).is_dir():
        names = (PAPER[0], HELD_OUT[0], *Scenario.names())
        if suite not in names and Path(suite).suffix not in (".yaml", ".yml"):
            raise ConfigError(f"there is no suite or scenario {suite!r}{nearest(suite, names)}")
        scenario = Scenario.load(suite)
        return {scenario.name: scenario}, suite in Scenario.names()
    files = sorted([*Path(suite).glob("*.yaml"), *Path(suite).glob("*.yml")])
    if not files:
        raise ConfigError(f"{suite}: has no scenario files (*.yaml)")
    found: dict[str, Scenario] = {}
    for file in files:
        scenario = Scenario.load(str(file))
        if scenario.name in found:
            raise ConfigError(f"{file}: a second scenario with the name {scenario.name!r}")
        found[scenario.name] = scenario
    return found, False
