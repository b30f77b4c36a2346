"""Searches on tuning seeds: the best static share, and the best settings of every rule.

A search tries the same candidates whatever it may cost; its :class:`Budget` says on how many seeds
and how long. All searches of a comparison get the same budget, and none sees the seeds that
policies are compared on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from helm_gym.baselines.kv_opt import KvEmbOpt
from helm_gym.baselines.registry import BEST, RULES, STATIC
from helm_gym.baselines.rule import Rule, Value
from helm_gym.baselines.static import share_grid
from helm_gym.config.scenario import Scenario
from helm_gym.config.workload import Course
from helm_gym.errors import ConfigError, PolicyError, nearest
from helm_gym.evaluation import helm_candidates
from helm_gym.evaluation.specs import HELM_SEARCH, SEARCHES, make_policy
from helm_gym.policy import router_of, view_of
from helm_gym.runs.bank import Bank, Timed
from helm_gym.runs.rollout import Episode, Tick, run_policy, starting_share
from helm_gym.suites.courses import faster
from helm_gym.suites.seeds import EVALUATION_SEEDS, TUNING_SEEDS

N_CANDIDATES = 24
"""Settings that a search tries at most, so that no rule is tuned more than the others."""
OBJECTIVE = "tail_ms"
"""What a search minimises, over all its seeds: P99 over all arrivals, a shed one counting as the
deadline. It is the figure that comparisons are about."""
CURVE = f"{KvEmbOpt.NAME}:{BEST}"
"""The search that reads a whole curve instead of taking a minimum."""
GENEROUS_S = 1.0  # budget per decision: the comparison judges time, not the search

Figures = dict[str, float]  # mean of every figure over the seeds
Try = Callable[[Sequence[str], Sequence[int]], dict[str, list[Episode]]]


@dataclass(frozen=True)
class Budget:
    """What a search may cost.

    With ``kept``, all candidates are tried on the first seed only, and that part of them, the best,
    on the others. Where episodes are shorter than ``seconds``, as in a smoke test, the first seed
    then decides alone.
    """

    seeds: tuple[int, ...]
    seconds: float | None = None  # simulated per candidate and seed; None: the whole episode
    kept: float | None = None  # part of the candidates that stay after the first seed; None: all
    fewest: int = 3  # candidates that stay at least
    together: bool = False  # whether candidates are run side by side, in one rollout
    faster: float | None = None  # instead of cutting a course, play it so many times faster


FULL = Budget(tuple(TUNING_SEEDS[:5]))
"""What ``helm-gym evaluate`` spends: every candidate on five seeds, in whole episodes."""
CHEAP = Budget(tuple(TUNING_SEEDS[:3]), seconds=240.0, kept=0.25, together=True, faster=3.0)
"""What a benchmark spends on each of its many searches. It sees the whole of a course."""


@dataclass(frozen=True)
class Search:
    """A finished search; ``figures`` are in the order tried."""

    asked: str  # the spec that was resolved
    best: str  # spec of the winner
    figures: dict[str, Figures]  # by spec, over the seeds that the spec was tried on
    seeds: tuple[int, ...]


# Candidates


def grid(scenario: Scenario, asked: str) -> list[str]:
    """Specs that a search tries; those that a search in two stages tries first.

    Raises:
        ConfigError: it is none of :data:`~helm_gym.evaluation.specs.SEARCHES`.
    """
    if asked not in SEARCHES:
        raise ConfigError(f"{asked!r} is no search{nearest(asked, SEARCHES)}")
    low, high = scenario.episode.share_min, scenario.episode.share_max
    if asked == HELM_SEARCH:
        return [candidate.spec for candidate in helm_candidates.anchors(low, high)]
    name = asked.partition(":")[0]
    if name in (STATIC, KvEmbOpt.NAME):
        written = f"{STATIC}:" if name == STATIC else f"{name}:share="
        return [f"{written}{share:g}" for share in share_grid(low, high)]
    return candidates(RULES[name])


def most_tried(scenario: Scenario, asked: str) -> int:
    """How many specs a search tries in all its stages, at most."""
    return N_CANDIDATES if asked == HELM_SEARCH else len(grid(scenario, asked))


def candidates(rule: type[Rule]) -> list[str]:
    """Specs of a rule's ``SEARCH``: all of them, or a random subset that is always the same."""
    combinations = list(product(*rule.SEARCH.values()))
    if len(combinations) > N_CANDIDATES:
        chosen = np.random.default_rng(0).choice(len(combinations), N_CANDIDATES, replace=False)
        combinations = [combinations[n] for n in sorted(chosen)]
    return [
        f"{rule.NAME}:" + ",".join(map(_written, rule.SEARCH, values)) for values in combinations
    ]


def _written(name: str, value: Value) -> str:
    return f"{name}={value}" if isinstance(value, str) else f"{name}={value:g}"


# Searching


def search(
    scenario: Scenario,
    asked: str,
    budget: Budget = FULL,
    *,
    threads: int = 1,
    tick: Tick | None = None,
) -> Search:
    """Try the candidates of a spec and keep the one with the lowest tail.

    Args:
        scenario: where, as it will be compared.
        asked: one of :data:`~helm_gym.evaluation.specs.SEARCHES`.
        budget: seeds, and how much is tried on them.
        threads: simulator threads; results do not depend on them.
        tick: called after every window; not where candidates are run together.

    Raises:
        ConfigError: a seed is one of those for comparisons.
        PolicyError: a candidate failed.
    """
    check_seeds(budget.seeds)
    scenario, more_seeds = shortened(scenario, budget)
    if asked == CURVE:  # no point of the curve may be left out
        budget = replace(budget, kept=None, together=False)

    def tried(specs: Sequence[str], seeds: Sequence[int]) -> dict[str, list[Episode]]:
        if budget.together:
            return episodes_of(scenario, specs, seeds)
        return {
            spec: run_policy(scenario, make_policy(spec), spec, seeds, threads=threads, tick=tick)
            for spec in specs
        }

    first = budget.seeds if budget.kept is None else budget.seeds[:1]
    found = _stages(scenario, asked, tried, first)
    ranked = sorted(found, key=lambda spec: tail(found[spec]))
    if budget.kept is not None and more_seeds:
        kept = ranked[: n_kept(budget, len(ranked))]
        for spec, more in tried(kept, budget.seeds[1:]).items():
            found[spec] = found[spec] + more
        ranked = sorted(kept, key=lambda spec: tail(found[spec]))
    figures = {spec: means(episodes) for spec, episodes in found.items()}
    best = KvEmbOpt.choose(figures) if asked == CURVE else ranked[0]
    return Search(asked, best, figures, budget.seeds)


def shortened(scenario: Scenario, budget: Budget) -> tuple[Scenario, bool]:
    """A scenario as long as a budget pays for, and whether its episodes were long enough.

    Args:
        scenario: as it will be compared.
        budget: how much the search may play.

    Returns:
        The scenario to try candidates in; False if seeds after the first are to be left out.
    """
    episode = scenario.episode
    if budget.faster is not None and isinstance(scenario.workload.regime, Course):
        return faster(scenario, budget.faster), True
    seconds = budget.seconds or episode.steps * episode.step_s
    # Of a shorter episode as much counts as of a whole one: all but the uncounted beginning.
    windows = max(1, min(episode.steps, round(seconds / episode.step_s) + episode.uncounted))
    if windows != episode.steps:
        scenario = scenario.replace({"episode.steps": windows})
    return scenario, windows * episode.step_s >= seconds


def n_kept(budget: Budget, tried: int) -> int:
    """How many candidates stay after the first seed."""
    part = 1.0 if budget.kept is None else budget.kept
    return max(budget.fewest, math.ceil(part * tried))


def _stages(
    scenario: Scenario, asked: str, tried: Try, seeds: Sequence[int]
) -> dict[str, list[Episode]]:
    """Episodes of all candidates, those of a second stage chosen by the first."""
    found = tried(grid(scenario, asked), seeds)
    if asked == HELM_SEARCH:
        tails = {spec: tail(episodes) for spec, episodes in found.items()}
        low, high = scenario.episode.share_min, scenario.episode.share_max
        second = helm_candidates.around(tails, low, high)
        found |= tried([candidate.spec for candidate in second], seeds)
    return found


def episodes_of(
    scenario: Scenario, specs: Sequence[str], seeds: Sequence[int]
) -> dict[str, list[Episode]]:
    """Episodes of specs, all that see the environment in the same way in one rollout."""
    groups: dict[tuple[object, ...], list[str]] = {}
    for spec in specs:
        policy = make_policy(spec)
        view = (*view_of(policy), starting_share(scenario, policy), router_of(policy))
        groups.setdefault(view, []).append(spec)
    found: dict[str, list[Episode]] = {spec: [] for spec in specs}
    for own in groups.values():
        runs = [(spec, seed) for spec in own for seed in seeds]
        policies = [
            Timed(make_policy(spec), GENEROUS_S, scenario.episode.steps) for spec, _ in runs
        ]
        bank = Bank(own[0], policies, [seed for _, seed in runs])
        episodes = run_policy(scenario, bank, own[0], bank.seeds)
        for cluster, why in bank.failures.items():
            raise PolicyError(f"the search failed on {runs[cluster][0]}: {why}")
        for (spec, _), episode in zip(runs, episodes, strict=True):
            found[spec].append(episode)
    return found


def tail(episodes: Sequence[Episode]) -> float:
    """Mean of what a search minimises; infinite if nothing was served in some episode."""
    mean = float(np.mean([episode.figures[OBJECTIVE] for episode in episodes]))
    return math.inf if math.isnan(mean) else mean


def check_seeds(seeds: Sequence[int]) -> None:
    """Refuse seeds that policies are compared on.

    Raises:
        ConfigError: there is one.
    """
    for seed in seeds:
        if seed in EVALUATION_SEEDS:
            raise ConfigError(
                f"seed {seed} is for comparisons ({EVALUATION_SEEDS.start} to "
                f"{EVALUATION_SEEDS.stop - 1}): a search that sees it would be judged on what it "
                f"was tuned on; use seeds from {TUNING_SEEDS.start}"
            )


def resolve(scenario: Scenario, spec: str, budget: Budget = FULL, threads: int = 1) -> str:
    """Spec of a policy: that of the winner if ``spec`` names a search, else ``spec`` itself."""
    return search(scenario, spec, budget, threads=threads).best if spec in SEARCHES else spec


def means(episodes: Sequence[Episode]) -> dict[str, float]:
    """Mean of every figure over episodes; a NaN in one makes the mean NaN."""
    names = episodes[0].figures
    return {name: float(np.mean([e.figures[name] for e in episodes])) for name in names}
