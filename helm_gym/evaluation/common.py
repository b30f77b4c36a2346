"""Searches once for many scenarios: ``NAME:dataset`` and ``NAME:suite``.

``NAME:best`` is tuned where it is judged. Here one setting has to do for a whole set of scenarios
(cells at their loads): the regimes of a data set, or a suite. What a candidate scores in a cell is
kept in a file, so a stopped search goes on, and sets that share a cell share its scores.

Cells weigh alike: in each, a candidate's tail counts as a ratio to the lowest tail of all
candidates compared there, and the mean of the ratios over the cells decides. A mean of the tails
themselves would be decided by the cells beyond the edge. A ratio has no upper limit, so a setting
that loses one cell altogether is not chosen for being a little better in the others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from helm_gym.baselines.kv_opt import KvEmbOpt
from helm_gym.baselines.registry import BEST
from helm_gym.config.scenario import Scenario
from helm_gym.errors import ConfigError, nearest
from helm_gym.evaluation import helm_candidates
from helm_gym.evaluation.search import (
    CHEAP,
    CURVE,
    OBJECTIVE,
    Budget,
    Figures,
    check_seeds,
    episodes_of,
    grid,
    n_kept,
    shortened,
)
from helm_gym.evaluation.specs import COMMON_SEARCHES, HELM_SEARCH, make_policy
from helm_gym.provenance import code_digest, policy_digest
from helm_gym.store import Codec, Store, digest_of, json_codec

Scores = dict[str, list[Figures]]
"""Figures of every seed, by spec: what a cell keeps of its candidates."""
SCORES: Codec[Scores] = json_codec(dict[str, list[dict[str, float]]])
SEARCH = "helm_gym.evaluation.search"
"""Module whose code decides what a candidate scores."""


@dataclass(frozen=True)
class Common:
    """A finished search for many scenarios."""

    asked: str  # the spec that was resolved
    best: str  # spec of the winner
    ratios: dict[str, float]  # mean over cells of tail / lowest tail, by spec compared at the end
    figures: dict[str, dict[str, Figures]]  # means over seeds, by scenario digest, then by spec
    seeds: tuple[int, ...]


def alone(asked: str) -> str:
    """The search in one scenario that a common one repeats: ``aimd:best`` for ``aimd:suite``.

    Raises:
        ConfigError: it is no common search.
    """
    if asked not in COMMON_SEARCHES:
        raise ConfigError(
            f"{asked!r} is no search for many scenarios{nearest(asked, COMMON_SEARCHES)}"
        )
    return f"{asked.rpartition(':')[0]}:{BEST}"


def search_common(
    scenarios: Sequence[Scenario],
    asked: str,
    budget: Budget = CHEAP,
    *,
    store: Store[Scores] | None = None,
    processes: int = 1,
    progress: bool = False,
) -> Common:
    """Try the candidates of a spec in every scenario and keep one for all of them.

    All candidates are tried on the first seed everywhere. With ``budget.kept``, that part of them
    with the lowest mean ratio is tried on the others. In each cell that costs what the search of
    that cell alone costs.

    Args:
        scenarios: as they will be compared; their order does not matter, nor do repetitions.
        asked: one of :data:`~helm_gym.evaluation.specs.COMMON_SEARCHES`.
        budget: seeds, and how much is tried on them.
        store: keeps the scores of every cell; None keeps nothing.
        processes: cells at a time; results do not depend on it.
        progress: show a progress bar on stderr.

    Raises:
        ConfigError: scenarios have other candidates, or a seed is one of those for comparisons.
        PolicyError: a candidate failed.
    """
    single = alone(asked)
    check_seeds(budget.seeds)
    short = [shortened(scenario, budget) for scenario in scenarios]
    cells = {scenario.digest(): scenario for scenario, _ in short}
    specs = _candidates(list(cells.values()), asked, single)
    if single == CURVE:  # no point of the curve may be left out
        budget = replace(budget, kept=None)

    kept = Store(None, SCORES) if store is None else store
    found: dict[str, Scores] = {digest: {} for digest in sorted(cells)}

    def tried(groups: Sequence[Sequence[str]], seeds: Sequence[int]) -> None:
        jobs = {
            scores_key(digest, specs, seeds): (cells[digest], tuple(specs), tuple(seeds))
            for digest in found
            for specs in groups
        }
        made = kept.complete(jobs, scores, processes=processes, title=asked, progress=progress)
        for (scenario, _, _), more in zip(jobs.values(), made.values(), strict=True):
            own = found[scenario.digest()]
            for spec, figures in more.items():
                own[spec] = [*own.get(spec, []), *figures]

    first = first_seeds(budget)
    tried([specs], first)
    if single == HELM_SEARCH:
        episode = scenarios[0].episode
        around = helm_candidates.around(ratios(found, specs), episode.share_min, episode.share_max)
        second = [candidate.spec for candidate in around]
        tried([second], first)
        specs = [*specs, *second]
    told = ratios(found, specs)
    if budget.kept is not None and all(long_enough for _, long_enough in short):
        specs = sorted(specs, key=lambda spec: told[spec])[: n_kept(budget, len(specs))]
        # One by one: searches over other sets of cells keep other candidates, and share these.
        tried([[spec] for spec in specs], budget.seeds[1:])
        told = ratios(found, specs)
    means = {d: {spec: _means(own[spec]) for spec in own} for d, own in found.items()}
    best = _knee(means, specs) if single == CURVE else min(specs, key=lambda spec: told[spec])
    return Common(asked, best, told, means, budget.seeds)


def first_seeds(budget: Budget) -> tuple[int, ...]:
    """Seeds on which every candidate is tried."""
    return budget.seeds if budget.kept is None else budget.seeds[:1]


def _candidates(cells: Sequence[Scenario], asked: str, single: str) -> list[str]:
    """Specs to try, which have to be the same in all scenarios."""
    if not cells:
        raise ConfigError(f"{asked!r} is searched over scenarios, and there are none")
    specs = grid(cells[0], single)
    for cell in cells[1:]:
        if grid(cell, single) != specs:
            raise ConfigError(
                f"{asked!r}: {cell.name!r} allows other shares than {cells[0].name!r}, so their "
                f"candidates differ; give both the same episode.share_min and share_max, or write "
                f"{single}"
            )
    return specs


def scores_key(scenario_digest: str, specs: Sequence[str], seeds: Sequence[int]) -> str:
    """Digest of what the scores of candidates depend on: a stored piece is found by it."""
    first = policy_digest("", make_policy(specs[0]))
    return digest_of(scenario_digest, list(specs), list(seeds), first, code_digest(SEARCH))


def scores(job: tuple[Scenario, Sequence[str], Sequence[int]]) -> Scores:
    """Figures of candidates in one scenario, by spec and in the order of the seeds.

    Args:
        job: scenario, specs and seeds, in one argument for worker processes.
    """
    scenario, specs, seeds = job
    found = episodes_of(scenario, specs, seeds)
    return {spec: [episode.figures for episode in found[spec]] for spec in specs}


def ratios(found: Mapping[str, Scores], specs: Sequence[str]) -> dict[str, float]:
    """Mean over cells of a candidate's tail over the lowest of the candidates compared.

    Args:
        found: scores of every cell.
        specs: candidates, on the same seeds.

    Returns:
        By spec; infinite where a candidate served nothing in some cell.
    """
    total = dict.fromkeys(specs, 0.0)
    for own in found.values():
        tails = {spec: _tail(own[spec]) for spec in specs}
        lowest = min(tails.values())
        for spec, tail in tails.items():
            total[spec] += tail / lowest if math.isfinite(tail) else math.inf
    return {spec: value / len(found) for spec, value in total.items()}


def _tail(figures: Sequence[Figures]) -> float:
    mean = _means(figures)[OBJECTIVE]
    return math.inf if math.isnan(mean) else mean


def _means(figures: Sequence[Figures]) -> Figures:
    return {name: math.fsum(one[name] for one in figures) / len(figures) for name in figures[0]}


def _knee(means: Mapping[str, Mapping[str, Figures]], specs: Sequence[str]) -> str:
    """The point at the knee of the mean curve over all cells."""
    curve = {spec: _means([own[spec] for own in means.values()]) for spec in specs}
    return KvEmbOpt.choose(curve)
