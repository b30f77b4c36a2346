"""The best single move: which two shares, and when, in hindsight of the very seeds that count.

A yardstick like the best static share, not an opponent: it is chosen on the seeds that policies are
compared on. Between the best static share and the best schedule it says how much of the gap one
well-timed change closes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from helm_gym.baselines.one_move import OneMove
from helm_gym.baselines.static import share_grid
from helm_gym.config.scenario import Scenario
from helm_gym.errors import ConfigError
from helm_gym.evaluation.common import SCORES, Scores, ratios, scores, scores_key
from helm_gym.evaluation.search import Figures, Search
from helm_gym.store import Store

N_SHARES = 5  # from the lowest share to the highest, in the first look
TENTHS = (1, 3, 5, 7, 9)  # of the episode, in the first look; the second looks beside the best
N_KEPT = 10  # moves that the first look, on the first seed alone, leaves for all seeds
Move = tuple[float, float, int]  # first share, share after, tenth of the episode


def search_one_move(
    scenario: Scenario, seeds: Sequence[int], store: Store[Scores] | None = None
) -> Search:
    """Find the single move with the lowest mean tail on the seeds given, coarsely.

    First all pairs of five shares at five moments, and the shares of ``static:best`` for ever, on
    the first seed. Then the ten best on all seeds, and then what lies beside the best of them: half
    a step in a share or a tenth of the episode. Some 130 episodes on one seed and 18 on the others.

    Args:
        scenario: where.
        seeds: those that policies are compared on.
        store: keeps scores, so that a stopped search goes on; None keeps nothing.

    Raises:
        ConfigError: no seed is given.
        PolicyError: a move failed.
    """
    if not seeds:
        raise ConfigError("the best single move is found in hindsight of seeds; give at least one")
    kept = Store(None, SCORES) if store is None else store
    digest = scenario.digest()

    def tried(moves: Iterable[Move], on: Sequence[int]) -> Scores:
        specs = list(dict.fromkeys(written(scenario, move) for move in moves))
        key = scores_key(digest, specs, on)
        return kept.piece(key, lambda: scores((scenario, specs, on)))

    first = first_look(scenario)
    told = ratios({digest: (found := tried(first, seeds[:1]))}, list(found))
    by_spec = {written(scenario, move): move for move in first}
    best = [by_spec[spec] for spec in sorted(told, key=lambda spec: told[spec])[:N_KEPT]]
    found = tried(best, seeds)
    told = ratios({digest: found}, list(found))
    around = beside(scenario, by_spec[min(told, key=lambda spec: told[spec])])
    found |= tried(around, seeds)
    told = ratios({digest: found}, list(found))
    winner = min(told, key=lambda spec: told[spec])
    return Search("one-move", winner, {spec: _mean(own) for spec, own in found.items()}, (*seeds,))


def first_look(scenario: Scenario) -> list[Move]:
    """Moves that are tried first; a share for ever is a move to itself."""
    grid, episode = _shares(scenario), scenario.episode
    pairs = [(a, b, tenth) for a in grid for b in grid if a != b for tenth in TENTHS]
    fixed = share_grid(episode.share_min, episode.share_max)
    return [*((share, share, 0) for share in fixed), *pairs]


def beside(scenario: Scenario, move: Move) -> list[Move]:
    """Moves half a step in the shares, or a tenth of the episode, away.

    Beside a share for ever lie moves in the middle of the episode.
    """
    low, high = scenario.episode.share_min, scenario.episode.share_max
    half = (high - low) / (N_SHARES - 1) / 2
    first, then, tenth = move[0], move[1], move[2] or 5
    near = [(first + d, then, tenth) for d in (-half, half)]
    near += [(first, then + d, tenth) for d in (-half, half)]
    near += [(first + d, then + d, tenth) for d in (-half, half)]
    near += [(first, then, tenth + d) for d in (-1, 1)]
    return [
        (round(a, 4), round(b, 4), t)
        for a, b, t in near
        if low <= round(a, 4) <= high and low <= round(b, 4) <= high and 0 < t < 10
    ]


def written(scenario: Scenario, move: Move) -> str:
    """A move as the spec of a policy."""
    first, then, tenth = move
    after = round(scenario.episode.steps * tenth / 10)
    return f"{OneMove.NAME}:first={first:g},then={then:g},after={after}"


def _shares(scenario: Scenario) -> list[float]:
    episode = scenario.episode
    grid = np.linspace(episode.share_min, episode.share_max, N_SHARES)
    return [round(float(share), 4) for share in grid]


def _mean(figures: Sequence[Figures]) -> Figures:
    return {name: float(np.mean([one[name] for one in figures])) for name in figures[0]}
