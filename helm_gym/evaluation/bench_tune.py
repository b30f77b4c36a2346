"""Searches of a benchmark: the candidates of ``helm-gym evaluate``, tried in less time.

A paper suite has hundreds of searches, so each tries all candidates on one validation seed, and
then the best quarter of them on two more. Candidates run side by side in one rollout, on episodes
of four minutes. All searches get the same, static shares included. Where the episodes that are
compared are shorter than that, as with ``--quick``, the first seed decides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from helm_gym.baselines.kv_opt import KvEmbOpt
from helm_gym.config.scenario import Scenario
from helm_gym.errors import PolicyError
from helm_gym.evaluation import tune
from helm_gym.evaluation.specs import make_policy
from helm_gym.policy import initial_share_of, router_of, view_of
from helm_gym.runs.bank import Bank, Timed
from helm_gym.runs.rollout import run_policy
from helm_gym.suites import seeds as seeds_of

SECONDS = 240.0  # simulated, per candidate and seed: a trend passes once
SEEDS = tuple(seeds_of.TUNING_SEEDS[:3])
KEPT = 0.25  # of the candidates after the first seed
FEWEST = 3  # candidates that are kept at least
GENEROUS_S = 1.0  # budget per decision: the comparison judges time, not the search


def resolve(scenario: Scenario, asked: str) -> str:
    """Spec that a search finds.

    Args:
        scenario: where, as it will be compared.
        asked: one of :data:`helm_gym.evaluation.specs.SEARCHES`.

    Raises:
        PolicyError: a candidate failed.
    """
    episode = scenario.episode
    windows = max(1, min(episode.steps, round(SECONDS / episode.step_s)))
    if windows != episode.steps:
        scenario = scenario.replace({"episode.steps": windows})
    if asked == f"{KvEmbOpt.NAME}:best":  # reads a whole curve, so no candidate may be left out
        return tune.search(scenario, asked, SEEDS).best
    candidates = tune.grid(scenario, asked)
    first = tails(scenario, candidates, SEEDS[:1])
    n_kept = max(FEWEST, math.ceil(KEPT * len(candidates)))
    kept = sorted(candidates, key=lambda spec: first[spec])[:n_kept]
    if windows * episode.step_s < SECONDS:  # a smoke test, whose searches are one as well
        return kept[0]
    rest = tails(scenario, kept, SEEDS[1:])
    return min(kept, key=lambda spec: first[spec] + rest[spec])


def tails(scenario: Scenario, candidates: Sequence[str], seeds: Sequence[int]) -> dict[str, float]:
    """Sum of what a search minimises over seeds, by candidate; infinite if nothing was served."""
    groups: dict[tuple[object, ...], list[str]] = {}
    for spec in candidates:
        policy = make_policy(spec)
        view = (*view_of(policy), initial_share_of(policy), router_of(policy))
        groups.setdefault(view, []).append(spec)
    found: dict[str, float] = dict.fromkeys(candidates, 0.0)
    for specs in groups.values():
        runs = [(spec, seed) for spec in specs for seed in seeds]
        policies = [
            Timed(make_policy(spec), GENEROUS_S, scenario.episode.steps) for spec, _ in runs
        ]
        bank = Bank(specs[0], policies, [seed for _, seed in runs])
        episodes = run_policy(scenario, bank, specs[0], bank.seeds)
        for cluster, why in bank.failures.items():
            raise PolicyError(f"the search failed on {runs[cluster][0]}: {why}")
        for (spec, _), episode in zip(runs, episodes, strict=True):
            tail = episode.figures[tune.OBJECTIVE]
            found[spec] += math.inf if math.isnan(tail) else tail
    return found
