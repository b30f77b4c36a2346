"""From rows to static share, schedule, prices, capacity and score, on invented rows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from benchmark_built import row

from helm_gym.benchmark.arrange import Setting
from helm_gym.benchmark.contest import (
    SHARES,
    Contest,
    Prize,
    capacity_of,
    contests,
    name_of,
    price,
    prize,
)
from helm_gym.benchmark.gap import Absent, Why
from helm_gym.benchmark.interpolated import Capacity
from helm_gym.benchmark.score import Score, score
from helm_gym.errors import ConfigError
from helm_gym.runs.stats import Interval

SEEDS = (20_000, 20_001, 20_002)
ROUTER = "foresight"
HERE = Setting("day", 1.05, ROUTER)
REPLAYS = {20_000: 30.0, 20_001: 32.0}


def still(best: float = 0.4) -> dict[str, list[float]]:
    """P99 of all static shares by seed, least at one of them."""
    hard = np.array([0.0, 2.0, 10.0])
    return {name_of(s): (40.0 + 100.0 * abs(s - best) + hard).tolist() for s in SHARES}


def rows(
    figures: Mapping[str, list[float]], setting: Setting = HERE, **own: Any
) -> list[dict[str, Any]]:
    """Rows whose two figures are the same; a NaN is a failed row."""
    return [
        row(
            *setting, policy, seed,
            **{"tail_ms": value, "window_tail_ms": value, "own_router": None, **own},
            **({"status": "failed", "reason": "it broke"} if math.isnan(value) else {}),
        )
        for policy, values in figures.items()
        for seed, value in zip(SEEDS, values, strict=False)
    ]  # fmt: skip


def contest(figures: Mapping[str, list[float]], figure: str = "tail_ms") -> Contest:
    return contests(rows(figures), figure)[HERE]


def won(found: Prize | Absent) -> Prize:
    assert isinstance(found, Prize), found
    return found


def value(figure: object) -> float:
    assert isinstance(figure, Interval), figure
    return figure.mean


def test_there_are_seventeen_static_shares() -> None:
    assert len(SHARES) == 17
    assert (SHARES[0], SHARES[-1]) == (0.1, 0.9)


def test_the_best_static_has_the_least_mean_over_seeds() -> None:
    """0.3 is best on two seeds of three, and so bad on the third that 0.4 has the least mean."""
    figures = {**still(), name_of(0.3): [35.0, 35.0, 90.0], "static:best": [1.0, 1.0, 1.0]}
    assert contest(figures).best_static() == "static:0.4"


def test_a_static_share_that_was_not_played_could_be_the_best() -> None:
    figures = still()
    del figures["static:0.7"]
    figures["static:0.8"] = [30.0, math.nan, 30.0]
    absent = contest(figures).best_static()
    assert isinstance(absent, Absent) and absent.why is Why.NOT_PLAYED
    assert absent.detail == "static shares 0.7, 0.8"
    assert prize(contest(figures), REPLAYS, 0.0) == absent


def test_a_gap_rests_on_the_seeds_that_were_searched() -> None:
    """The share is chosen on all seeds; what is won is compared where a schedule is known."""
    found = won(prize(contest({**still(), "mine": [35.0, 37.0, 1.0]}), REPLAYS, 0.0))
    assert (found.static, found.seeds) == ("static:0.4", (20_000, 20_001))
    assert found.gap.schedule.tolist() == [30.0, 32.0]
    assert value(found.closed("mine")) == pytest.approx(0.5)


def test_policies_are_schedules_too_but_not_under_another_router() -> None:
    figures = {**still(), "mine": [28.0, 40.0, 50.0]}
    own = contests([*rows(figures), *rows({"kv_opt": [1.0] * 3}, own_router="kv_affinity")],
                   "tail_ms")[HERE]  # fmt: skip
    found = won(prize(own, REPLAYS, 0.0))
    assert found.gap.schedule.tolist() == [28.0, 32.0]
    assert value(found.closed("kv_opt")) > 1.0
    # Whoever states the router that is asked for anyway is a rival like all.
    same = contests([*rows(figures), *rows({"own": [29.0] * 3}, own_router=ROUTER)], "tail_ms")
    assert won(prize(same[HERE], REPLAYS, 0.0)).gap.schedule.tolist() == [28.0, 29.0]


def test_without_a_schedule_nothing_is_said() -> None:
    found = won(prize(contest(still()), {}, 0.0))
    absent = found.closed("static:0.4")
    assert isinstance(absent, Absent) and absent.why is Why.NOT_SEARCHED


def test_rows_that_cannot_be_arranged_are_refused() -> None:
    twice = [*rows({"mine": [1.0, 2.0, 3.0]}), *rows({"mine": [1.0, 2.5, 3.0]})]
    with pytest.raises(ConfigError, match="two rows of mine on seed 20001"):
        contests(twice, "tail_ms")
    with pytest.raises(ConfigError, match="no column 'nonsense'"):
        contests(twice, "nonsense")
    with pytest.raises(ConfigError, match="no row is of 'yours'"):
        contest({"mine": [1.0, 2.0, 3.0]}).of("yours")


def test_ratios_are_of_seed_means() -> None:
    found = contest({"mine": [1.0, 2.0, 6.0], "theirs": [2.0, 2.0, 2.0]})
    assert found.ratio("mine", "theirs").mean == pytest.approx(1.5)


def test_a_price_is_beyond_what_the_static_share_spends() -> None:
    tails = contest({"static:0.4": [40.0] * 3, "mine": [35.0] * 3, "bad": [50.0] * 3})
    paid = contest({"static:0.4": [10.0] * 3, "mine": [30.0] * 3, "bad": [30.0] * 3})
    assert value(price(tails, paid, "mine", "static:0.4")) == pytest.approx(4.0)
    absent = price(tails, paid, "bad", "static:0.4")
    assert isinstance(absent, Absent) and absent.why is Why.NO_GAIN
    failed = contest({"static:0.4": [40.0] * 3, "mine": [35.0, math.nan, 35.0]})
    absent = price(failed, paid, "mine", "static:0.4")
    assert isinstance(absent, Absent) and absent.why is Why.NOT_PLAYED


def test_capacity_from_rows() -> None:
    played = [
        one
        for load, tail in ((0.95, 20.0), (0.8, 10.0), (1.05, 40.0))
        for one in rows({"mine": [tail] * 3}, Setting("day", load, ROUTER))
    ]
    found = capacity_of(contests(played, "tail_ms"), "day", ROUTER, "mine", 30.0)
    assert isinstance(found, Capacity)
    assert found.load.mean == pytest.approx(1.0)
    missing = capacity_of(contests(played[:-1], "tail_ms"), "day", ROUTER, "mine", 30.0)
    assert isinstance(missing, Absent), "at one load a seed is not there"
    assert missing.why is Why.NOT_PLAYED
    with pytest.raises(ConfigError, match="no row is of cell 'night'"):
        capacity_of(contests(played, "tail_ms"), "night", ROUTER, "mine", 30.0)


# The score


def prizes(
    closed: Mapping[Setting, float], missing: Setting | None = None
) -> dict[Setting, Prize | Absent]:
    """Settings in which static:0.5 has 40 ms and the schedule 30, and `mine` closes a part."""
    found: dict[Setting, Prize | Absent] = {}
    for setting, part in closed.items():
        figures = {"static:0.5": [40.0] * 3, "mine": [40.0 - 10.0 * part] * 3}
        if setting == missing:
            figures["mine"] = [30.0, math.nan, 30.0]
        one = contests(rows(figures, setting), "window_tail_ms")[setting]
        found[setting] = prize(one, dict.fromkeys(SEEDS, 30.0), 0.0, static="static:0.5")
    return found


def at(cell: str, load: float = 1.05) -> Setting:
    return Setting(cell, load, ROUTER)


def scored(found: Mapping[Setting, Prize | Absent], *moving: str) -> Score:
    own = score(found, "mine", moving)
    assert isinstance(own, Score), own
    return own


def test_every_cell_is_clipped_before_the_mean() -> None:
    """A collapse counts as 0: clipping the mean instead would give 0 for everything."""
    own = scored(prizes({at("day"): -50.0, at("trend"): 0.8}), "day", "trend")
    assert own.value == pytest.approx(0.4)
    assert own.cells == pytest.approx({"day": 0.0, "trend": 0.8})
    assert value(own.settings[at("day")]) == pytest.approx(-50.0), "what it rests on is unclipped"


def test_better_than_every_known_schedule_is_one() -> None:
    assert scored(prizes({at("day"): 1.5}), "day").value == pytest.approx(1.0)


def test_cells_weigh_the_same_and_still_ones_nothing() -> None:
    closed = {at("day", 0.95): 0.2, at("day"): 0.4, at("trend"): 0.9, at("steady"): 0.0}
    assert scored(prizes(closed), "day", "trend").value == pytest.approx((0.3 + 0.9) / 2)


def test_failing_counts_as_nothing_and_no_gap_does_not_count() -> None:
    closed = {at("day"): 0.8, at("trend"): 0.8}
    assert scored(prizes(closed, missing=at("day")), "day", "trend").value == pytest.approx(0.4)
    flat = prizes(closed)
    flat[at("day")] = prize(
        contests(rows({"static:0.5": [40.0] * 3}, at("day")), "window_tail_ms")[at("day")],
        dict.fromkeys(SEEDS, 39.0), 0.0, static="static:0.5",
    )  # fmt: skip
    own = scored(flat, "day", "trend")
    assert own.value == pytest.approx(0.8)
    absent = own.settings[at("day")]
    assert isinstance(absent, Absent) and absent.why is Why.HEADROOM


def test_a_policy_without_rows_scores_nothing() -> None:
    own = score(prizes({at("day"): 0.5}), "yours", ["day"])
    assert isinstance(own, Score) and own.value == 0.0


def test_without_a_moving_cell_there_is_no_score() -> None:
    assert isinstance(score(prizes({at("steady"): 0.5}), "mine", ["day"]), Absent)


def test_a_score_rests_on_its_own_figure_and_share() -> None:
    other = {HERE: won(prize(contest({"static:0.4": [40.0] * 3}), REPLAYS, 0.0, "static:0.4"))}
    with pytest.raises(ConfigError, match=r"tail_ms against static:0\.4"):
        score(other, "mine", ["day"])
