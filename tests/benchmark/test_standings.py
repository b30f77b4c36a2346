"""Lines of the suite's page, on invented rows whose gaps are known."""

from __future__ import annotations

import math
from typing import Any

import pytest
from benchmark_built import row

from helm_gym.benchmark.arrange import Setting
from helm_gym.benchmark.contest import SHARES, name_of
from helm_gym.benchmark.gap import Absent, Why
from helm_gym.benchmark.score import Score
from helm_gym.benchmark.standings import closed_in, is_calm, lines, regime_of, stands
from helm_gym.benchmark.standings_page import is_yardstick, sentences, short

SEEDS = (20_000, 20_001, 20_002)
DAY = Setting("paper-v2-taobao-day", 1.05, "foresight")
BURST = Setting("paper-v2-taobao-burst", 1.05, "foresight")
CALM = Setting("paper-v2-taobao-steady", 1.05, "foresight")
OTHERS = {"rule": 35.0, "helm": 90.0}  # of a schedule of 30 and a best static share of 40
NO_LOSS = {"day": 0.0}


def built(settings: tuple[Setting, ...] = (DAY, BURST, CALM), **own: Any) -> list[dict[str, Any]]:
    """P99 is least at a share of 0.4, where it is 40 ms; a seed adds its number."""
    costs = {name_of(share): 40.0 + 100.0 * abs(share - 0.4) for share in SHARES} | OTHERS
    return [
        row(
            *setting, policy, seed,
            **{"tail_ms": cost + n, "window_tail_ms": cost + n, "own_router": None,
               "slo_satisfaction": 0.9, "moves": 3.0, "moved_gb": 5.0, "refill_gb": 1.0, **own},
        )
        for setting in settings
        for policy, cost in costs.items()
        for n, seed in enumerate(SEEDS)
    ]  # fmt: skip


def replays(*settings: Setting) -> dict[str, dict[Setting, dict[int, float]]]:
    own = {setting: {seed: 30.0 + n for n, seed in enumerate(SEEDS)} for setting in settings}
    return {"tail_ms": own, "window_tail_ms": own}


def test_a_line_says_what_a_policy_closes_and_where_it_runs_away() -> None:
    rows = built()
    found = {line.policy: line for line in lines(stands(rows, replays(DAY, BURST), {}), rows)}
    rule, helm, static = found["rule"], found["helm"], found["static:0.4"]
    assert rule.closed == pytest.approx({"day": 0.5, "burst": 0.5})
    assert helm.closed == pytest.approx({"day": -5.0, "burst": -5.0})
    assert static.closed == pytest.approx({"day": 0.0, "burst": 0.0})
    # The score takes static:0.5 (50 ms) for standing still, and clips what is below it.
    assert isinstance(rule.score, Score) and rule.score.value == pytest.approx(0.75)
    assert isinstance(helm.score, Score) and helm.score.value == 0.0
    assert isinstance(static.score, Score) and static.score.value == pytest.approx(0.5)
    assert (helm.runaways, helm.episodes) == (6, 6) and rule.runaways == 0
    assert rule.harm == (CALM, pytest.approx(36.0 / 41.0)), "seed means"
    assert rule.worst is not None and rule.worst[1] == pytest.approx(0.5)
    assert rule.figures["moved_gb"] == 5.0


def test_the_best_come_first_and_shares_are_yardsticks() -> None:
    rows = built()
    order = [line.policy for line in lines(stands(rows, replays(DAY, BURST), {}), rows)]
    assert order[:2] == ["rule", "static:0.4"] and order[-1].startswith("static:")
    assert is_yardstick("static:0.4") and not is_yardstick("static:suite")
    assert (regime_of(DAY.cell), short("paper-v2-amazon-books-day")) == ("day", "amazon books day")


def test_who_was_not_played_everywhere_comes_last_and_it_is_said() -> None:
    rows = [r for r in built() if r["policy"] != "rule" or r["cell"] != BURST.cell]
    found = lines(stands(rows, replays(DAY, BURST), {}), rows)
    assert found[-1].policy == "rule" and found[-1].missing == 1 and found[0].missing == 0


def test_what_was_not_searched_has_no_gap_and_counts_in_no_figure() -> None:
    rows = built()
    found = stands(rows, replays(DAY), {})
    by_setting = {stand.setting: stand for stand in found}
    missing = closed_in(by_setting[BURST], "rule")
    assert isinstance(missing, Absent) and missing.why is Why.NOT_SEARCHED
    assert not is_calm(by_setting[BURST]) and is_calm(by_setting[CALM])
    line = next(one for one in lines(found, rows) if one.policy == "rule")
    assert list(line.closed) == ["day"] and line.episodes == 3
    assert lines(stands(rows, replays(), {}), rows)[0].worst is None


def test_a_lossy_search_gives_no_gap() -> None:
    found = stands(built((DAY,)), replays(DAY), {"day": 0.2})
    told = closed_in(found[0], "rule")
    assert isinstance(told, Absent) and told.why is Why.LOSS
    sure = stands(built((DAY,)), replays(DAY), NO_LOSS)
    assert not isinstance(closed_in(sure[0], "rule"), Absent)


def test_sentences_name_the_first_the_prize_and_the_controller() -> None:
    rows = built()
    found = stands(rows, replays(DAY, BURST), {})
    said = sentences(lines(found, rows), found)
    assert said[0] == "The highest score has `rule`: 0.75, and it ran away in 0 of 6 episodes."
    assert "2 of 2 moving settings" in said[1] and "1.32 times" in said[1]
    assert "number 2 of 2 with 0.00; it ran away in 6 of 6 episodes" in said[2]
    nothing = stands(rows, replays(), {})
    assert sentences(lines(nothing, rows), nothing)[0].startswith("No policy has a score")
    assert math.isnan(nothing[0].static_ms()) is False
