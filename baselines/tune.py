"""Grid searches: the best static share and the best feedback rule of a scenario.

Searches see tuning seeds only, never those that policies are compared on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from helm_gym.baselines import balance
from helm_gym.baselines.rollout import Episode, run_policy
from helm_gym.baselines.specs import SEARCHES, make_policy
from helm_gym.baselines.static import share_grid
from helm_gym.config import Scenario
from helm_gym.errors import ConfigError, nearest

TRAINING_SEEDS = range(0, 10_000)
TUNING_SEEDS = range(10_000, 20_000)
EVALUATION_SEEDS = range(20_000, 30_000)
"""Seeds for training, for searches and early stopping, and for comparisons; disjoint."""

N_TUNING = 5
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
    """Specs that a search tries."""
    if asked == "static:best":
        episode = scenario.episode
        return [f"static:{x:g}" for x in share_grid(episode.share_min, episode.share_max)]
    if asked == "balance:best":
        return list(balance.candidates())
    raise ConfigError(f"{asked!r} is no search{nearest(asked, SEARCHES)}")


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
        asked: ``static:best`` or ``balance:best``.
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
    figures = {
        spec: means(
            run_policy(scenario, make_policy(spec), spec, seeds, threads=threads, tick=tick)
        )
        for spec in grid(scenario, asked)
    }
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
