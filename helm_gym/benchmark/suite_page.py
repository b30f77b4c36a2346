"""The suite's page: where the optimum lies, how far it moves, and what following it is worth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from helm_gym.benchmark.arrange import Row, Setting
from helm_gym.benchmark.contest import TAIL, WINDOW_TAIL
from helm_gym.benchmark.gap import Absent
from helm_gym.benchmark.searches import LOADS, LOSS, Late, Searched, replays
from helm_gym.benchmark.standings import STEADY, Stand, regime_of, stands
from helm_gym.benchmark.standings_page import short
from helm_gym.benchmark.tuning import dataset_of
from helm_gym.benchmark.variants import Variant, peak
from helm_gym.pages.plots import LAST, as_svg
from helm_gym.pages.templates import render
from helm_gym.suites import moving
from helm_gym.suites.courses import lone_stretches

WANTED = 0.15  # part of the best static share's P99 that the schedule should save
PARTS = (0.1, 0.9)  # quantiles of the schedule's shares


@dataclass(frozen=True)
class Place:
    """One setting as the page shows it."""

    setting: Setting
    static_share: str
    static_ms: float
    schedule_ms: float  # NaN where it was not searched
    headroom: float
    shares: tuple[float, float]  # of the schedule; NaN where it was not searched
    late_ms: Mapping[int, float]  # by delay
    seeds: int  # whose schedule is known

    @property
    def saved(self) -> float:
        """Part of the best static share's P99 that the schedule saves."""
        return 1.0 - 1.0 / self.headroom


def places(rows: Sequence[Row], searches: Sequence[Searched], late: Sequence[Late]) -> list[Place]:
    """Every setting of which rows of all 17 static shares are there."""
    costs = {figure: replays(searches, figure) for figure in (TAIL, WINDOW_TAIL)}
    return [
        _place(stand, searches, late)
        for stand in stands(rows, costs, LOSS)
        if not isinstance(stand.static, Absent)
    ]


def _place(stand: Stand, searches: Sequence[Searched], late: Sequence[Late]) -> Place:
    setting, gap = stand.setting, stand.gap
    assert isinstance(stand.static, str)
    mine = [one for one in searches if Setting(one.cell, one.load, one.router) == setting]
    schedule_ms = headroom = math.nan
    if not isinstance(gap, Absent) and gap.seeds:
        schedule_ms, headroom = float(gap.gap.schedule.mean()), gap.gap.headroom.mean
    shares = (math.nan, math.nan)
    if mine:
        skipped = moving.frozen_cell(setting.cell, setting.router).episode.uncounted
        all_shares = np.concatenate([one.found.schedule.shares[skipped:] for one in mine])
        low, high = np.quantile(all_shares, PARTS)
        shares = (float(low), float(high))
    by_delay: dict[int, list[float]] = {}
    for one in late:
        if Setting(one.cell, one.load, one.router) == setting:
            by_delay.setdefault(one.delay, []).append(one.figures[TAIL])
    return Place(
        setting=setting,
        static_share=stand.static.partition(":")[2],
        static_ms=stand.static_ms(),
        schedule_ms=schedule_ms,
        headroom=headroom,
        shares=shares,
        late_ms={delay: float(np.mean(values)) for delay, values in by_delay.items()},
        seeds=len(mine),
    )


def travel(cell: str, router: str) -> tuple[float, float]:
    """Lowest and highest of the shares that carry most in the stretches of a cell."""
    dataset, regime = dataset_of(cell), regime_of(cell)
    stretches = moving.stretches(dataset, router, regime)
    names = {_name(stretch) for stretch in stretches}
    tops = []
    for name in names:
        found = moving.carried()[f"{dataset} / {router} / {name}"].by_share
        tops.append(peak({float(share): rate for share, rate in found.items()}))
    return min(tops), max(tops)


def _name(stretch: Mapping[str, Any]) -> str:
    """Name under which the capacity of a stretch was measured."""
    same = ("mix", "rush")
    for name, alone in lone_stretches().items():
        if all(alone.get(key) == stretch.get(key) for key in same):
            return name
    raise AssertionError(f"no capacity was measured for {stretch}")


def fell_short(found: Sequence[Place]) -> list[str]:
    """Moving cells where the schedule saves less than wanted, whatever the load and router."""
    by_cell: dict[str, list[Place]] = {}
    for place in found:
        if regime_of(place.setting.cell) != STEADY and not math.isnan(place.headroom):
            by_cell.setdefault(place.setting.cell, []).append(place)
    said = []
    for cell, own in by_cell.items():
        best = max(own, key=lambda place: place.saved)
        if best.saved < WANTED:
            said.append(
                f"{short(cell)}: the schedule saves {100 * best.saved:.0f} % at most "
                f"(load {best.setting.load:g}, {best.setting.router})"
            )
    return said


def markdown(
    rows: Sequence[Row],
    searches: Sequence[Searched],
    late: Sequence[Late],
    variants: Sequence[Variant],
) -> str:
    """The page."""
    found = places(rows, searches, late)
    routers = sorted({place.setting.router for place in found})
    return render(
        "moving.md.j2",
        lines=[_line(place) for place in found],
        travels=[
            (short(cell), router, *travel(cell, router))
            for cell in moving.CELL_NAMES
            for router in routers
        ],
        short=fell_short(found),
        late=bool(late),
        searched=len(searches),
        variants=sorted(variants, key=lambda one: (one.kind != "ends", -one.distance)),
        dataset="Amazon Books",
        loads=LOADS,
        wanted=round(100 * WANTED),
        optima=moving.optima(),
        table_gb=moving.TABLE_GB,
        digests=sorted(moving.frozen().items()),
    )


def _line(place: Place) -> dict[str, str]:
    def ms(value: float) -> str:
        return "" if math.isnan(value) else f"{value:.1f}"

    known = not math.isnan(place.schedule_ms)
    low, high = place.shares
    return {
        "cell": short(place.setting.cell),
        "router": place.setting.router,
        "load": f"{place.setting.load:g}",
        "share": place.static_share,
        "static": ms(place.static_ms),
        "schedule": ms(place.schedule_ms) if known else "not searched",
        "headroom": f"{place.headroom:.2f}" if known else "",
        "shares": f"{low:.2f} to {high:.2f}" if known else "",
        "late": " / ".join(ms(place.late_ms[d]) for d in sorted(place.late_ms)),
        "seeds": str(place.seeds) if known else "",
    }


def picture(variants: Sequence[Variant]) -> str:
    """Headroom against the distance of a drift's ends, as an SVG."""
    ends = sorted((one for one in variants if one.kind == "ends"), key=lambda one: one.distance)

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        axes.plot([e.distance for e in ends], [e.headroom for e in ends], "o-", color=LAST)
        axes.set_xlabel("distance between the best shares at the two ends")
        axes.set_ylabel("P99 of the best single share / schedule's")
        axes.set_ylim(bottom=1.0)

    return as_svg("suite", (6.0, 3.0), draw) + "\n"
