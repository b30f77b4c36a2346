"""The suite's page says where the optimum lies, and which cells have less to win than wanted."""

from __future__ import annotations

import math

import pytest
from benchmark_built import row

from helm_gym.benchmark.arrange import Setting
from helm_gym.benchmark.contest import SHARES, name_of
from helm_gym.benchmark.suite_page import Place, fell_short, markdown, picture, travel
from helm_gym.benchmark.variants import Variant
from helm_gym.suites import moving

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")


def place(cell: str, headroom: float, load: float = 1.05) -> Place:
    return Place(Setting(f"paper-v2-{cell}", load, "foresight"), "0.4", 40.0, 40.0 / headroom,
                 headroom, (0.3, 0.6), {1: 38.0}, 3)  # fmt: skip


def test_the_optimum_moves_where_the_mix_does() -> None:
    for cell in moving.CELL_NAMES:
        low, high = travel(cell, "foresight")
        assert 0.1 <= low <= high <= 0.9
        assert (high - low > 0.15) == (cell in moving.MOVING), cell
    low, high = travel("paper-v2-amazon-books-trend", "foresight")
    assert high - low == pytest.approx(0.35, abs=0.01), "the distance that HELM reports"


def test_cells_with_less_to_win_are_named_at_their_best_load() -> None:
    found = [place("taobao-burst", 1.11), place("taobao-burst", 1.05, 0.95),
             place("taobao-day", 1.1), place("taobao-day", 2.0, 0.95),
             place("taobao-steady", 1.0), place("taobao-trend", math.nan)]  # fmt: skip
    (said,) = fell_short(found)
    assert said == "taobao burst: the schedule saves 10 % at most (load 1.05, foresight)"


def test_the_page_has_a_line_for_every_setting_with_all_shares() -> None:
    rows = [
        row("paper-v2-taobao-day", 1.05, "foresight", name_of(share), seed,
            tail_ms=40.0 + share, window_tail_ms=30.0, own_router=None)
        for share in SHARES for seed in (20_000, 20_001)
    ]  # fmt: skip
    points = [Variant(kind="ends", label="near", distance=0.1, static_share=0.4, static_ms=44.0,
                      schedule_ms=40.0, low=0.3, high=0.5)]  # fmt: skip
    page = markdown(rows, [], [], points)
    assert "| taobao day | 1.05 | foresight | 0.1 | 40.1 | not searched |" in page
    assert "0 of 72 searches are done" in page
    assert "| near | 0.10 | 0.4 | 44.0 | 40.0 | 1.10 |" in page
    assert markdown(rows[:-1], [], [], points).count("| taobao day | 1.05") == 0
    assert picture(points).startswith("<svg")
