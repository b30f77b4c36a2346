"""Grid searches: the best static share and the best settings of every classical rule.

Searches see tuning seeds only, never those that policies are compared on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from helm_gym.baselines import balance
from helm_gym.baselines.kv_opt import KvEmbOpt
from helm_gym.baselines.registry import RULES
from helm_gym.baselines.rule import Rule, Value
from helm_gym.baselines.static import share_grid
from helm_gym.config.scenario import Scenario
from helm_gym.errors import ConfigError, nearest
from helm_gym.evaluation import anchor_search
from helm_gym.evaluation.specs import HELM_SEARCH, SEARCHES, make_policy
from helm_gym.runs.rollout import Episode, run_policy
from helm_gym.suites.seeds import EVALUATION_SEEDS, TUNING_SEEDS

N_TUNING = 5
N_CANDIDATES = 24
"""Settings that a search tries at most, so that no rule is tuned more than the others."""
OBJECTIVE = "tail_ms"
"""What a search minimises, in the mean over seeds: P99 over all arrivals, a shed one counting as
the deadline. It is the figure that comparisons are about."""


@dataclass(frozen=True)
class Search:
    """A finished search; ``figures`` are in the order tried."""

    asked: str  # the spec that was resolved
    best: str  # spec of the winner
    figures: dict[str, dict[str, float]]  # spec -> mean figures over the tuning seeds
    seeds: tuple[int, ...]


def grid(scenario: Scenario, asked: str) -> list[str]:
    """Specs that a search tries; those that a search in two stages tries first.

    Raises:
        ConfigError: it is none of :data:`~helm_gym.evaluation.specs.SEARCHES`.
    """
    if asked not in SEARCHES:
        raise ConfigError(f"{asked!r} is no search{nearest(asked, SEARCHES)}")
    name = asked.partition(":")[0]
    if name == "balance":
        return list(balance.candidates())
    if asked == HELM_SEARCH:
        return anchor_search.anchors(scenario.episode.share_min, scenario.episode.share_max)
    if name in ("static", KvEmbOpt.NAME):
        written = "static:" if name == "static" else f"{name}:share="
        shares = share_grid(scenario.episode.share_min, scenario.episode.share_max)
        return [f"{written}{x:g}" for x in shares]
    return candidates(RULES[name])


def refined(scenario: Scenario, asked: str, tails: Mapping[str, float]) -> list[str]:
    """Specs that a search in two stages tries then; none of any other.

    Args:
        scenario: where.
        asked: one of :data:`~helm_gym.evaluation.specs.SEARCHES`.
        tails: the objective of every spec of :func:`grid`.
    """
    if asked != HELM_SEARCH:
        return []
    return anchor_search.around(tails, scenario.episode.share_min, scenario.episode.share_max)


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


def search(
    scenario: Scenario,
    asked: str,
    seeds: Sequence[int] | None = None,
    *,
    threads: int = 1,
    tick: Callable[[], None] | None = None,
) -> Search:
    """Try every spec of a grid and keep the one with the lowest tail.

    Args:
        scenario: where.
        asked: one of :data:`~helm_gym.evaluation.specs.SEARCHES`.
        seeds: episodes per spec; the first of :data:`TUNING_SEEDS` by default.
        threads: simulator threads.
        tick: called after every window.

    Raises:
        ConfigError: a seed is one of those for comparisons.
    """
    seeds = tuple(TUNING_SEEDS[:N_TUNING] if seeds is None else seeds)
    for seed in seeds:
        if seed in EVALUATION_SEEDS:
            raise ConfigError(
                f"seed {seed} is for comparisons ({EVALUATION_SEEDS.start} to "
                f"{EVALUATION_SEEDS.stop - 1}): a search that sees it would be judged on what it "
                f"was tuned on; use seeds from {TUNING_SEEDS.start}"
            )

    def tried(specs: Sequence[str]) -> dict[str, dict[str, float]]:
        return {
            spec: means(
                run_policy(scenario, make_policy(spec), spec, seeds, threads=threads, tick=tick)
            )
            for spec in specs
        }

    figures = tried(grid(scenario, asked))
    tails = {spec: found[OBJECTIVE] for spec, found in figures.items()}
    figures |= tried(refined(scenario, asked, tails))
    if asked == f"{KvEmbOpt.NAME}:best":  # defined by a curve, not by the tail
        best = KvEmbOpt.choose(figures)
    else:
        best = min(figures, key=lambda spec: figures[spec][OBJECTIVE])
    return Search(asked, best, figures, seeds)


def tune_balance(
    scenario: Scenario, seeds: Sequence[int] | None = None, threads: int = 1
) -> Search:
    """Tune the feedback rule as fairly as the static share: a grid, on the same seeds."""
    return search(scenario, "balance:best", seeds, threads=threads)


def resolve(scenario: Scenario, spec: str, threads: int = 1) -> str:
    """Spec of a policy: that of the winner if ``spec`` names a search, else ``spec`` itself."""
    return search(scenario, spec, threads=threads).best if spec in SEARCHES else spec


def means(episodes: Sequence[Episode]) -> dict[str, float]:
    """Mean of every figure over episodes; a NaN in one makes the mean NaN."""
    names = episodes[0].figures
    return {name: float(np.mean([e.figures[name] for e in episodes])) for name in names}
