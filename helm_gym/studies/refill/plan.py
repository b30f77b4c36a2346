"""What a refill mode is worth: the same requests under naive, throttled and paced refill.

Two measurements. *Policies*: whole episodes of the trend and burst cells of the suite, under
policies that move the boundary all the time, and under one that begins with far too little EMB, so
that misses saturate the link. *Step*: the share of all nodes grows by :data:`STEP` at one instant
and stays; how long until the pages are full, and what requests pay meanwhile. It ends at the best
static share of half and half, or begins at :data:`STARVED`, where misses may saturate the link.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from helm_gym.baselines.balance import Balance
from helm_gym.config.scenario import Scenario
from helm_gym.evaluation.specs import make_policy
from helm_gym.policy import Policy
from helm_gym.provenance import code_digest, policy_digest
from helm_gym.runs.figures import tail_ms
from helm_gym.runs.rollout import run_policy
from helm_gym.runs.stats import Interval, mean_interval, paired
from helm_gym.seeding import streams_from_seed
from helm_gym.sim.layout import Node
from helm_gym.sim.simulator import Simulator
from helm_gym.store import digest_of, json_codec, open_store
from helm_gym.suites import moving
from helm_gym.suites.courses import MIDDLE, mix_name
from helm_gym.suites.seeds import EVALUATION_SEEDS

MODES = ("naive", "throttled", "paced")
REGIMES = ("trend", "burst")
CELLS = tuple(f"{dataset}-{regime}" for regime in REGIMES for dataset in moving.DATASETS)
QUICK = ("amazon-books-trend", "taobao-burst")
LOADS = (0.9, 0.95)
WRONG = "balance from 0.1"
POLICIES = ("balance", "ppo:released", WRONG)
N_SEEDS = 5
ROUTER = moving.ROUTERS[0]
STEP, STARVED = 0.2, 0.1  # a step's size; and where the starved one begins
BEFORE_S, AFTER_S, WINDOW_S = 10, 90, 5  # a step's seconds, and of a window of its P99
FULL = 0.99  # resident part of the pages at which they count as filled
EPISODE = {"tail_ms": "P99, ms", "slo_satisfaction": "SLO satisfaction", "refill_gb": "refill, GB"}
"""Figures of an episode that are kept."""
STEPPED = {
    "filled_s": "pages full after, s",
    "worst_ms": "worst window's P99, ms",
    "slo_satisfaction": "SLO satisfaction",
}
"""Figures of a step; a time that is not reached counts as ``AFTER_S``."""


class WrongStart(Balance):
    """The balance rule from the smallest share: a link that misses saturate."""

    initial_share = 0.1


@dataclass(frozen=True)
class Line:
    """One case under every mode."""

    cell: str
    load: float
    policy: str
    figures: Mapping[str, Mapping[str, Sequence[float]]]  # mode -> figure -> one per seed

    def mean(self, mode: str, figure: str) -> float:
        """Mean over seeds."""
        return mean_interval(self.figures[mode][figure]).mean

    def gain(self, figure: str, other: str) -> Interval:
        """Paced less another mode, seed by seed."""
        return paired(self.figures["paced"][figure], self.figures[other][figure])


@dataclass(frozen=True)
class Study:
    """Everything that was measured."""

    episodes: tuple[Line, ...]
    steps: tuple[Line, ...]
    seeds: tuple[int, ...]


def run_study(
    *,
    quick: bool = False,
    seeds: Sequence[int] | None = None,
    cells: Sequence[str] | None = None,
    loads: Sequence[float] = LOADS,
    settings: Mapping[str, Any] | None = None,
    out: Path | None = None,
    progress: bool = False,
) -> Study:
    """Measure all modes.

    Args:
        quick: two cells at the higher load, two seeds, episodes of one minute.
        seeds: episodes; the first five held-out ones by default.
        cells: some of :data:`CELLS`; all by default.
        loads: fractions of the capacity of the best static share.
        settings: scenario settings that hold in all modes, by dotted path.
        out: folder that keeps what is measured, so that a stopped study goes on; None keeps
            nothing.
        progress: show a progress bar on stderr.
    """
    seeds = tuple(seeds or EVALUATION_SEEDS[: 2 if quick else N_SEEDS])
    cells = tuple(cells or (QUICK if quick else CELLS))
    changes = {**({"episode.steps": 12} if quick else {}), **(settings or {})}
    cases = [
        (measure, cell, load, policy)
        for load in (loads[-1:] if quick else loads)
        for cell in cells
        for measure, policies in ((_episodes, POLICIES), (_steps, steps_of(cell)))
        for policy in policies
    ]
    jobs = {
        (case, mode): Job(case[0], cell_scenario(*case[1:3], changes, mode), case[3], seeds)
        for case in cases
        for mode in MODES
    }
    keys = {asked: job.key() for asked, job in jobs.items()}
    with open_store(None if out is None else out / "cases", json_codec()) as store:
        found = store.complete(
            {keys[asked]: job for asked, job in jobs.items()},
            Job.measured,
            title="refill",
            progress=progress,
        )

    def lines(measure: Measure) -> tuple[Line, ...]:
        return tuple(
            Line(*case[1:], {mode: found[keys[case, mode]] for mode in MODES})
            for case in cases
            if case[0] is measure
        )

    return Study(lines(_episodes), lines(_steps), seeds)


def steps_of(cell: str) -> list[str]:
    """The steps of a cell: a starved one, and one to the best static share of half and half."""
    dataset = cell.rpartition("-")[0]
    best = moving.carried()[f"{dataset} / {ROUTER} / {mix_name(MIDDLE)}"].best_share
    begins = dict.fromkeys((STARVED, round(max(best - STEP, STARVED), 9)))
    return [f"{begin:g} to {begin + STEP:g}" for begin in begins]


def cell_scenario(cell: str, load: float, changes: Mapping[str, Any], mode: str) -> Scenario:
    """A cell of the suite at a load, with a refill mode; it counts from the first window on.

    Where a beginning does not count, everybody begins at the scenario's own share, and none would
    begin with too little.
    """
    scenario = moving.frozen_cell(f"{moving.PREFIX}-{cell}", ROUTER)
    own = {"workload.load": load, "episode.uncounted_s": 0.0}
    return scenario.replace({**own, **changes, "refill.mode": mode})


Figures = Mapping[str, Sequence[float]]  # figure -> one value per seed
Measure = Callable[[Scenario, str, Sequence[int]], Figures]


@dataclass(frozen=True)
class Job:
    """One case under one mode."""

    measure: Measure
    scenario: Scenario
    policy: str
    seeds: tuple[int, ...]

    def key(self) -> str:
        """Digest of what the figures depend on."""
        stepped = self.measure is _steps
        digest = "" if stepped else policy_digest(self.policy, _made(self.policy))
        code = code_digest(__name__)
        return digest_of(self.scenario.digest(), self.policy, digest, self.seeds, code)

    def measured(self) -> Figures:
        """The figures."""
        return self.measure(self.scenario, self.policy, self.seeds)


def _made(policy: str) -> Policy:
    made: Any = WrongStart() if policy == WRONG else make_policy(policy)
    found: Policy = made
    return found


def _episodes(scenario: Scenario, policy: str, seeds: Sequence[int]) -> Figures:
    found = run_policy(scenario, _made(policy), policy, seeds)
    return {name: [episode.figures[name] for episode in found] for name in EPISODE}


def _steps(scenario: Scenario, policy: str, seeds: Sequence[int]) -> Figures:
    """``policy`` is written as "0.45 to 0.65"."""
    begin, end = (float(share) for share in policy.split(" to "))
    simulator = Simulator(scenario.replace({"episode.step_s": 1.0}))
    each = [_one_step(simulator, begin, end, seed) for seed in seeds]
    return {name: [one[name] for one in each] for name in STEPPED}


def _one_step(simulator: Simulator, begin: float, end: float, seed: int) -> dict[str, float]:
    """Drive one cluster through a step, in windows of a second."""
    scenario, nodes = simulator.scenario, simulator.scenario.nodes
    simulator.reset(0, streams_from_seed(seed), seed, begin)  # another warm start per seed
    for _ in range(BEFORE_S):
        simulator.step(np.full((1, nodes), begin))
    full, tails, late, arrived = [], [], 0.0, 0.0
    for _ in range(AFTER_S // WINDOW_S):
        latency, shed, window = np.zeros(0, np.int64), 0.0, 0.0
        for _ in range(WINDOW_S):
            seen = simulator.step(np.full((1, nodes), end))
            emb = simulator.states[0].emb
            full.append(emb.fill.sum() >= FULL * emb.pages.sum())
            latency = seen.latency[0].astype(np.int64) + (latency if latency.size else 0)
            sums = seen.node[0].sum(axis=0)
            shed, window = shed + sums[Node.SHED], window + sums[Node.ARRIVED]
            late += sums[Node.ARRIVED] - sums[Node.WITHIN_SLO]
        arrived += window
        tails.append(tail_ms(latency, shed / window, scenario.slo.deadline_ms.value))
    return {
        "filled_s": float(full.index(True) + 1 if any(full) else AFTER_S),
        "worst_ms": max(tails),
        "slo_satisfaction": 1.0 - late / arrived,
    }
