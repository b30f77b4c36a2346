"""Searches in two stages, in less time: as :mod:`helm_gym.evaluation.bench_tune` does the others.

All candidates of both stages are tried on one validation seed, the second stage around the best of
the first, and then the best quarter of all on two more: as many settings and episodes as any other
search may have.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from helm_gym.config.scenario import Scenario
from helm_gym.evaluation import bench_tune, tune
from helm_gym.evaluation.bench_tune import FEWEST, KEPT, SECONDS, SEEDS, tails
from helm_gym.evaluation.specs import HELM_SEARCH

STAGED = (HELM_SEARCH,)


def resolve(scenario: Scenario, asked: str) -> str:
    """Spec that a search finds, in one stage or two.

    Args:
        scenario: where, as it will be compared.
        asked: one of :data:`helm_gym.evaluation.specs.SEARCHES`.

    Raises:
        PolicyError: a candidate failed.
    """
    if asked not in STAGED:
        return bench_tune.resolve(scenario, asked)
    episode = scenario.episode
    windows = max(1, min(episode.steps, round(SECONDS / episode.step_s)))
    if windows != episode.steps:
        scenario = scenario.replace({"episode.steps": windows})
    first = tails(scenario, tune.grid(scenario, asked), SEEDS[:1])
    first |= tails(scenario, tune.refined(scenario, asked, first), SEEDS[:1])
    kept = best_of(first)
    if windows * episode.step_s < SECONDS:  # a smoke test, whose searches are one as well
        return kept[0]
    rest = tails(scenario, kept, SEEDS[1:])
    return min(kept, key=lambda spec: first[spec] + rest[spec])


def best_of(tails: dict[str, float]) -> Sequence[str]:
    """The quarter of all specs that is tried on, the best first."""
    return sorted(tails, key=lambda spec: tails[spec])[: max(FEWEST, math.ceil(KEPT * len(tails)))]
