"""What burst recovery does to policies: each base beside ``recovery:BASE`` on the same requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from helm_gym.benchmark.rows import asked_digest
from helm_gym.config.scenario import Scenario
from helm_gym.evaluation.search import CHEAP, resolve
from helm_gym.evaluation.specs import make_policy
from helm_gym.provenance import code_digest, policy_digest
from helm_gym.runs.rollout import Episode, run_policy
from helm_gym.runs.stats import Interval, mean_interval
from helm_gym.store import digest_of, json_codec, open_store
from helm_gym.suites import moving
from helm_gym.suites.seeds import EVALUATION_SEEDS

REGIMES = ("burst", "steady", "trend")
ROUTER = moving.ROUTERS[0]
BASES = ("static:best", "balance:best", "hysteresis:best", "thompson:best", "ppo:released")
FORMS = ("recovery", "recovery(strict)")
"""Ways of recovery that are tried: the default, and one that overrides as HELM is said to do."""
FIGURES = ("tail_ms", "slo_satisfaction", "share_moved", "refill_gb")
N_SEEDS = 5


@dataclass(frozen=True)
class Effect:
    """One base in one cell at one load; figures by seed."""

    regime: str
    dataset: str
    load: float
    asked: str
    spec: str
    base: Mapping[str, tuple[float, ...]]
    recovered: Mapping[str, Mapping[str, tuple[float, ...]]]  # by form

    def change(self, form: str) -> Interval:
        """Change of the tail by recovery, in % of the base's, seed by seed."""
        pairs = zip(self.recovered[form]["tail_ms"], self.base["tail_ms"], strict=True)
        return mean_interval([100.0 * (a / b - 1.0) for a, b in pairs])

    def rows(self) -> list[dict[str, Any]]:
        """One row per seed."""
        about = {k: getattr(self, k) for k in ("regime", "dataset", "load", "asked", "spec")}
        return [
            {
                **about,
                "seed": EVALUATION_SEEDS[n],
                **{f"base_{k}": v[n] for k, v in self.base.items()},
                **{
                    f"{form}_{k}": v[n]
                    for form, figures in self.recovered.items()
                    for k, v in figures.items()
                },
            }
            for n in range(len(self.base["tail_ms"]))
        ]


def plan(quick: bool) -> list[tuple[str, str, float]]:
    """Regime, data set and load of every cell."""
    datasets = moving.DATASETS[:1] if quick else moving.DATASETS
    return [
        (regime, dataset, load)
        for regime in REGIMES
        for dataset in datasets
        for load in (moving.LOADS if regime == "burst" and not quick else (moving.LOAD,))
    ]


def cell_of(regime: str, dataset: str, load: float) -> Scenario:
    """The scenario of a cell at a load."""
    cell = moving.frozen_cell(moving.name_of(dataset, regime, ROUTER), ROUTER)
    return cell.replace({"workload.load": load})


def measure(regime: str, dataset: str, load: float, seeds: int = N_SEEDS) -> list[Effect]:
    """Search every base on tuning seeds; run it alone and with recovery, on evaluation seeds."""
    scenario = cell_of(regime, dataset, load)
    found = []
    for asked in BASES:
        spec = resolve(scenario, asked, CHEAP)
        base, *others = [
            _figures(run_policy(scenario, make_policy(s), s, EVALUATION_SEEDS[:seeds], threads=2))
            for s in (spec, *(f"{form}:{spec}" for form in FORMS))
        ]
        recovered = dict(zip(FORMS, others, strict=True))
        found.append(Effect(regime, dataset, load, asked, spec, base, recovered))
    return found


def _figures(episodes: Sequence[Episode]) -> dict[str, tuple[float, ...]]:
    return {name: tuple(e.figures[name] for e in episodes) for name in FIGURES}


def run_effects(out: Path | None, *, quick: bool = False, progress: bool = False) -> list[Effect]:
    """:func:`measure` every cell of :func:`plan` that ``effects/`` in a folder does not hold."""
    seeds = 3 if quick else N_SEEDS
    jobs = {_key(cell_of(*cell), BASES, seeds): (*cell, seeds) for cell in plan(quick)}
    with open_store(None if out is None else out / "effects", json_codec(list[Effect])) as store:
        found = store.complete(jobs, lambda job: measure(*job), title="effects", progress=progress)
    return [effect for effects in found.values() for effect in effects]


def _key(scenario: Scenario, bases: Sequence[str], seeds: int) -> str:
    """Digest of what a cell's effects depend on; of a search, its candidates and its code."""
    digests = [asked_digest(scenario, base) for base in bases]
    # Around any base recovery is the same code; a search's result is known only once it is made.
    around = [policy_digest(s, make_policy(s)) for s in (f"{form}:balance" for form in FORMS)]
    return digest_of(scenario.digest(), bases, digests, around, seeds, code_digest(__name__))


def findings(effects: Sequence[Effect]) -> list[str]:
    """What the table says, by regime and form."""
    return [
        _finding(regime, form, [e for e in effects if e.regime == regime])
        for regime in dict.fromkeys(e.regime for e in effects)
        for form in FORMS
    ]


def _finding(regime: str, form: str, own: Sequence[Effect]) -> str:
    changes = [e.change(form) for e in own]
    at = int(np.argmax([c.mean for c in changes]))
    worse, better = sum(c.low > 0.0 for c in changes), sum(c.high < 0.0 for c in changes)
    average = float(np.mean([c.mean for c in changes]))
    return (
        f"{form}, {regime}: P99 {average:+.2f} % on average over {len(own)} cases; worse beyond "
        f"chance in {worse}, better in {better}; worst mean {changes[at].mean:+.2f} % "
        f"({own[at].dataset}, load {own[at].load:g}, {own[at].spec})"
    )
