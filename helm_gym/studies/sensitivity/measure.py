"""What one variant of a scenario does: capacities, best shares, and how policies rank.

Load means the same everywhere in this project, a fraction of what the best static share carries, so
a variant's capacity is measured anew. The same variant at the *stated* request rates says what
happens to an operator whose traffic does not care about our assumptions.
"""

from __future__ import annotations

import hashlib
import pickle
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from helm_gym.baselines.static import share_grid
from helm_gym.config.scenario import Scenario
from helm_gym.config.workload import Phases
from helm_gym.errors import HelmGymError, SimulationError
from helm_gym.evaluation.search import OBJECTIVE
from helm_gym.evaluation.specs import SEARCHES, make_policy
from helm_gym.provenance import code_digest, policy_digest
from helm_gym.runs.rollout import Episode, run_policy
from helm_gym.sim.lowering import lower
from helm_gym.store import digest_of
from helm_gym.suites.capacity import SEED, Probe, basin, best_share
from helm_gym.suites.mixes import mixes_of, steady
from helm_gym.suites.seeds import EVALUATION_SEEDS, TUNING_SEEDS

BEST = "static:best"
FIGURES = ("tail_ms", "mean_ms", "shed_rate", "slo_satisfaction")
ALIKE = 0.05  # shares whose P99 is within this of the best one's are listed as alike
Figures = dict[str, list[float]]  # figure -> one value per seed


@dataclass(frozen=True)
class Budget:
    """How much is measured per variant."""

    share_step: float = 0.1
    capacity_seeds: int = 2
    capacity_s: float = 60.0  # simulated time per seed and rate, after the warm-up
    tuning_seeds: int = 3  # for the P99-optimal share
    seeds: int = 5  # for the comparison of policies
    overrides: Mapping[str, Any] = field(default_factory=dict)  # of the scenario


FULL = Budget()
# A smaller cluster, seconds of everything: it shows that all parts run.
QUICK = Budget(
    share_step=0.4,
    capacity_seeds=1,
    capacity_s=10.0,
    tuning_seeds=1,
    seeds=2,
    overrides={
        "nodes": 2,
        "workload.users": 5_000,
        "episode.steps": 12,
        "episode.warmup_s": 10.0,
        "episode.warm_starts": 1,
    },
)


@dataclass(frozen=True)
class Task:
    """One variant to measure, as it travels to a worker process."""

    scenario: dict[str, Any]
    budget: Budget
    specs: tuple[str, ...]


def measure(task: Task) -> dict[str, Any]:
    """Measure one variant; plain values, as JSON has them.

    Returns:
        ``mixes``: capacity and best share of every surface mix; ``relative``: the scenario at its
        load, as a fraction of these capacities (None if some mix carries nothing); ``fixed``: at
        the request rates as stated; ``seconds``: how long it took. Or ``failed``: why not.
    """
    began = time.monotonic()
    try:
        found = _measure(Scenario.load(task.scenario), task)
    except HelmGymError as error:
        found = {"failed": str(error)}
    return {**found, "seconds": time.monotonic() - began}


def _measure(scenario: Scenario, task: Task) -> dict[str, Any]:
    budget = task.budget
    mixes = [
        _best_capacity(scenario, name, mix, guess, budget)
        for (name, mix), guess in zip(mixes_of(scenario).items(), stated(scenario), strict=True)
    ]
    relative = None
    if all(mix["capacity"] > 0.0 for mix in mixes):
        loaded = with_capacities(scenario, [mix["capacity"] for mix in mixes])
        relative = _optimum(loaded, budget)
        if "best" in relative:
            relative["policies"] = _policies(loaded, relative["best"], task.specs, budget)
    return {"mixes": mixes, "relative": relative, "fixed": _optimum(scenario, budget)}


def _shares(scenario: Scenario, budget: Budget) -> list[float]:
    return share_grid(scenario.episode.share_min, scenario.episode.share_max, budget.share_step)


def _best_capacity(
    scenario: Scenario, name: str, mix: Mapping[str, float], guess: float, budget: Budget
) -> dict[str, Any]:
    """The highest rate that some share carries in one mix, and the shares as good as the best."""
    seeds = range(SEED, SEED + budget.capacity_seeds)
    probe = Probe(steady(scenario, mix), seeds, budget.capacity_s)
    carried = probe.capacities(_shares(scenario, budget), guess)
    capacity, alike = max(carried.values()), basin(carried, highest=True)
    return {
        "name": name,
        "mix": dict(mix),
        "capacity": capacity,
        "share": best_share(carried, highest=True) if capacity else None,
        "alike": [alike[0], alike[-1]] if capacity else None,
    }


def stated(scenario: Scenario) -> list[float]:
    """Capacity of every mix as the scenario's file states it, requests/s per node."""
    workload = scenario.workload
    if not isinstance(workload.regime, Phases):
        return [workload.capacity_rps_per_node.value]
    phases = workload.regime.phases
    return [(p.capacity_rps_per_node or workload.capacity_rps_per_node).value for p in phases]


def with_capacities(scenario: Scenario, capacities: Sequence[float]) -> Scenario:
    """The scenario with other capacities of its mixes: its load refers to these."""
    changes = {"workload.capacity_rps_per_node": max(capacities)}
    if isinstance(scenario.workload.regime, Phases):
        changes |= {
            f"workload.regime.phases.{n}.capacity_rps_per_node": rate
            for n, rate in enumerate(capacities)
        }
    return scenario.replace(changes)


def _optimum(scenario: Scenario, budget: Budget) -> dict[str, Any]:
    """P99 of every static share on tuning seeds, and the best one."""
    seeds = TUNING_SEEDS[: budget.tuning_seeds]
    grid: dict[float, Figures] = {}
    try:
        for share in _shares(scenario, budget):
            grid[share] = _run(scenario, f"static:{share:g}", seeds)
    except SimulationError as error:  # far beyond capacity, more sessions than there is room for
        return {"failed": str(error)}
    tails = {share: float(np.mean(figures[OBJECTIVE])) for share, figures in grid.items()}
    best = min(tails, key=lambda share: tails[share])
    alike = [share for share, tail in tails.items() if tail <= tails[best] * (1.0 + ALIKE)]
    rows = [{"share": share, **figures} for share, figures in grid.items()]
    return {"grid": rows, "best": best, "alike": [alike[0], alike[-1]]}


def _policies(
    scenario: Scenario, share: float, specs: Sequence[str], budget: Budget
) -> list[dict[str, Any]]:
    """Every policy on the seeds for comparisons, all on the same requests."""
    seeds = EVALUATION_SEEDS[: budget.seeds]
    resolved = {asked: f"static:{share:g}" if asked == BEST else asked for asked in specs}
    return [
        {"asked": asked, "spec": spec, **_run(scenario, spec, seeds)}
        for asked, spec in resolved.items()
    ]


def _run(scenario: Scenario, spec: str, seeds: Sequence[int]) -> Figures:
    episodes: list[Episode] = run_policy(scenario, make_policy(spec), spec, seeds)
    return {name: [episode.figures[name] for episode in episodes] for name in FIGURES}


def fingerprint(scenario: Scenario) -> str:
    """Digest of what the simulator gets: equal ones behave alike, whatever the scenarios say."""
    settings = (scenario.nodes, scenario.episode.digest(), scenario.slo.digest())
    told = (lower(scenario), settings, stated(scenario), mixes_of(scenario))
    return hashlib.sha256(pickle.dumps(told)).hexdigest()[:16]


def key_of(task: Task, print_: str) -> str:
    """Digest of everything that a measurement's result depends on."""
    policies = {spec: _digest_of(spec) for spec in task.specs}
    told = [print_, asdict(task.budget), policies, code_digest(__name__), task.scenario]
    return digest_of(told)


def _digest_of(spec: str) -> str:
    """Digest of a policy; that of a search follows from the code that searches."""
    return "" if spec in SEARCHES else policy_digest(spec, make_policy(spec))
