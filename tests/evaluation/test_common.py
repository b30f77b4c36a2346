"""Searches once for many scenarios, and the best single move in hindsight."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helm_gym.config.scenario import Scenario
from helm_gym.errors import ConfigError
from helm_gym.evaluation import common as searching
from helm_gym.evaluation import one_move
from helm_gym.evaluation.common import SCORES, Scores, alone, ratios, search_common
from helm_gym.evaluation.search import CHEAP, Budget, grid, search
from helm_gym.evaluation.specs import COMMON_SEARCHES, SEARCHES, make_policy
from helm_gym.runs.rollout import run_policy
from helm_gym.store import open_store
from helm_gym.suites.seeds import EVALUATION_SEEDS, TUNING_SEEDS

ONE = Budget(tuple(TUNING_SEEDS[:1]), together=True)


@pytest.fixture
def cells(tiny: Scenario) -> list[Scenario]:
    """Two loads that want different shares, or not."""
    return [tiny.replace({"workload.load": load}) for load in (0.5, 1.2)]


def told(**tails: float) -> Scores:
    """Scores of specs on one seed."""
    return {spec: [{"tail_ms": tail}] for spec, tail in tails.items()}


def test_cells_weigh_alike_whatever_their_tails_are() -> None:
    found = {"calm": told(a=10.0, b=15.0), "edge": told(a=110.0, b=100.0)}
    assert ratios(found, ["a", "b"]) == pytest.approx({"a": (1.0 + 1.1) / 2, "b": (1.5 + 1.0) / 2})
    assert ratios({"calm": found["calm"]}, ["a", "b"])["b"] == pytest.approx(1.5)


def test_a_candidate_that_serves_nothing_somewhere_is_never_chosen() -> None:
    found = {"calm": told(a=10.0, b=11.0), "edge": told(a=float("nan"), b=100.0)}
    assert ratios(found, ["a", "b"]) == {"a": float("inf"), "b": pytest.approx(1.05)}
    nobody = {"edge": told(a=float("nan"), b=float("nan"))}
    assert set(ratios(nobody, ["a", "b"]).values()) == {float("inf")}


def test_every_search_has_its_two_common_forms() -> None:
    assert len(COMMON_SEARCHES) == 2 * len(SEARCHES)
    assert {alone(asked) for asked in COMMON_SEARCHES} == set(SEARCHES)


@pytest.mark.parametrize("asked", ["static:best", "static:0.5", "aimd:suit", "one-move:suite"])
def test_what_is_no_common_search_is_refused(asked: str, tiny: Scenario) -> None:
    with pytest.raises(ConfigError, match="no search for many"):
        search_common([tiny], asked, ONE)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("static:dataset", "searched once for many scenarios.*static:best"),
        ("aimd:suite", "searched once for many scenarios.*aimd:best"),
        ("recovery:static:suite", "searched once for many scenarios"),
        ("static:siute", "did you mean 'static:suite'"),
        ("aimd:datset", "did you mean 'dataset'"),
        ("helm:suit", "did you mean 'suite'"),
    ],
)
def test_a_common_search_is_no_policy(spec: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_policy(spec)


def test_over_one_scenario_it_finds_what_the_search_there_finds(tiny: Scenario) -> None:
    both = Budget(tuple(TUNING_SEEDS[:2]), kept=0.25, together=True)
    for asked in ("static:dataset", "kv-emb-opt:suite", "helm:suite"):
        want = search(tiny, alone(asked), both)
        found = search_common([tiny], asked, both)
        assert found.best == want.best
        (figures,) = found.figures.values()
        for spec, own in want.figures.items():
            assert figures[spec]["tail_ms"] == pytest.approx(own["tail_ms"], rel=1e-12)


def test_one_setting_serves_all_cells_best_on_average(cells: list[Scenario]) -> None:
    found = search_common(cells, "kv-opt:suite", ONE)
    alone_in = [search(cell, "kv-opt:best", ONE).figures for cell in cells]
    specs = grid(cells[0], "kv-opt:best")
    tails = np.array([[figures[spec]["tail_ms"] for spec in specs] for figures in alone_in])
    want = (tails / tails.min(axis=1, keepdims=True)).mean(axis=0)
    assert [found.ratios[spec] for spec in specs] == pytest.approx(want.tolist())
    assert found.best == specs[int(want.argmin())]
    back = search_common(cells[::-1] + cells, "kv-opt:suite", ONE)
    assert (back.best, back.ratios) == (found.best, found.ratios)


def test_scores_of_a_cell_are_made_once_for_all_sets(cells: list[Scenario], tmp_path: Path) -> None:
    with open_store(tmp_path, SCORES) as store:
        first = search_common(cells[:1], "static:dataset", ONE, store=store)
        assert store.made == 1
        both = search_common(cells, "static:suite", ONE, store=store)
        assert store.made == 2, "the first cell is known"
    with open_store(tmp_path, SCORES) as store:
        again = search_common(cells, "static:suite", ONE, store=store)
        assert store.made == 0
    assert (again.best, again.ratios, again.figures) == (both.best, both.ratios, both.figures)
    assert first.figures.items() <= both.figures.items()


def test_only_the_best_are_tried_on_more_seeds(
    tiny: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[tuple[int, int]] = []

    def scores(job: tuple[Scenario, list[str], list[int]]) -> Scores:
        _, specs, seeds = job
        tried.append((len(specs), len(seeds)))
        return {spec: [{"tail_ms": float(spec.partition(":")[2])} for _ in seeds] for spec in specs}

    monkeypatch.setattr(searching, "scores", scores)
    long = tiny.replace({"episode.step_s": 5.0, "episode.steps": 96})
    n = len(grid(long, "static:best"))
    found = search_common([long, long.replace({"workload.load": 0.3})], "static:suite", CHEAP)
    kept = max(3, -(-n // 4))
    assert tried == [(n, 1)] * 2 + [(1, 2)] * 2 * kept, "one by one, to share them"
    assert found.best == grid(long, "static:best")[0] and len(found.ratios) == kept


def test_seeds_of_comparisons_and_other_ranges_of_shares_are_refused(tiny: Scenario) -> None:
    with pytest.raises(ConfigError, match="for comparisons"):
        search_common([tiny], "static:suite", Budget((EVALUATION_SEEDS[0],)))
    narrow = tiny.replace({"episode.share_min": 0.3})
    with pytest.raises(ConfigError, match=r"allows other shares.*static:best"):
        search_common([tiny, narrow], "static:suite", ONE)
    with pytest.raises(ConfigError, match="there are none"):
        search_common([], "static:suite", ONE)


def test_the_best_single_move_is_the_best_of_what_was_tried(tiny: Scenario, tmp_path: Path) -> None:
    seeds = EVALUATION_SEEDS[:2]
    with open_store(tmp_path, SCORES) as store:
        found = one_move.search_one_move(tiny, seeds, store)
        assert store.made == 3
    tails = {spec: figures["tail_ms"] for spec, figures in found.figures.items()}
    assert found.best == min(tails, key=lambda spec: tails[spec])
    episodes = run_policy(tiny, make_policy(found.best), found.best, seeds)
    assert np.mean([e.figures["tail_ms"] for e in episodes]) == pytest.approx(tails[found.best])
    with open_store(tmp_path, SCORES) as store:
        assert one_move.search_one_move(tiny, seeds, store) == found
        assert store.made == 0
    with pytest.raises(ConfigError, match="at least one"):
        one_move.search_one_move(tiny, [])


def test_moves_lie_on_the_grid_and_inside_the_episode(tiny: Scenario) -> None:
    long = tiny.replace({"episode.steps": 240, "episode.share_min": 0.1, "episode.share_max": 0.9})
    first = one_move.first_look(long)
    assert len(set(first)) == len(first) == 17 + 20 * 5
    assert one_move.written(long, (0.1, 0.7, 3)) == "one-move:first=0.1,then=0.7,after=72"
    near: list[Any] = one_move.beside(long, (0.1, 0.7, 9))
    assert near == [(0.2, 0.7, 9), (0.1, 0.6, 9), (0.1, 0.8, 9), (0.2, 0.8, 9), (0.1, 0.7, 8)]
    assert (0.4, 0.5, 5) in one_move.beside(long, (0.5, 0.5, 0))
