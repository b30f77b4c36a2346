"""The results of a suite on one page: who closes how much of the gap, and tables by cell below."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from helm_gym.benchmark.arrange import Row
from helm_gym.benchmark.contest import STATIC, TAIL, WINDOW_TAIL
from helm_gym.benchmark.gap import Absent, Figure
from helm_gym.benchmark.leaderboard import SHOWN_SPECS
from helm_gym.benchmark.searches import LOSS, Searched, replays
from helm_gym.benchmark.standings import (
    RUNAWAY,
    Line,
    Stand,
    closed_in,
    lines,
    mean,
    regime_of,
    stands,
)
from helm_gym.evaluation.tables import span
from helm_gym.pages.plots import FIRST, LAST, as_svg
from helm_gym.pages.templates import render

REGIMES = ("trend", "burst", "day")
CONTROLLER = "helm"
PICTURE = Path("docs") / "leaderboard.svg"  # from the page's folder


def of_the_same(searches: Sequence[Searched], rows: Sequence[Row]) -> list[Searched]:
    """Searches of scenarios that the rows are of: others cannot be compared with them."""
    digests = {row["scenario_digest"] for row in rows}
    return [one for one in searches if one.found.schedule.scenario_digest in digests]


def markdown(rows: Sequence[Row], searches: Sequence[Searched]) -> str:
    """The page, from rows of a benchmark and searches of the same settings."""
    costs = {figure: replays(searches, figure) for figure in (TAIL, WINDOW_TAIL)}
    found = stands(rows, costs, LOSS)
    everybody = lines(found, rows)
    shown = [line for line in everybody if not is_yardstick(line.policy)]
    return render(
        "standings.md.j2",
        said=sentences(everybody, found),
        regimes=REGIMES,
        lines=[_line(line) for line in shown],
        yardsticks=[_line(line) for line in everybody if is_yardstick(line.policy)],
        cells=[_cell(stand) for stand in found],
        runaway=RUNAWAY,
        routers=sorted({stand.setting.router for stand in found}),
        loads=sorted({stand.setting.load for stand in found}),
        seeds=span(sorted({seed for stand in found for seed in stand.tail.seeds})),
        searched=sum(len(one) for one in costs[TAIL].values()),
        versions={
            name: sorted({str(row[name]) for row in rows})
            for name in ("helm_gym", "numpy", "numba", "python", "code_digest")
        },
    )


def picture(rows: Sequence[Row], searches: Sequence[Searched]) -> str:
    """Score of every policy as an SVG, the best on top; static shares stand in one line."""
    costs = {figure: replays(searches, figure) for figure in (TAIL, WINDOW_TAIL)}
    everybody = lines(stands(rows, costs, LOSS), rows)
    scored = [(line.policy, line.score.value, is_yardstick(line.policy)) for line in everybody
              if not isinstance(line.score, Absent)]  # fmt: skip
    still = [(policy, value) for policy, value, yard in scored if yard][:1]
    shown = [*[(policy, value) for policy, value, yard in scored if not yard], *still]
    shown.sort(key=lambda one: one[1])

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        colours = [FIRST if is_yardstick(policy) else LAST for policy, _ in shown]
        axes.barh([policy for policy, _ in shown], [value for _, value in shown], color=colours)
        axes.set_xlim(0.0, 1.0)
        axes.set_xlabel("score: part of what knowing the future is worth; grey: best single share")
        axes.grid(axis="y", visible=False)

    return as_svg("leaderboard", (7.0, 0.6 + 0.22 * len(shown)), draw) + "\n"


def is_yardstick(policy: str) -> bool:
    """Whether it is one of the 17 static shares, which together are the yardstick."""
    return policy.startswith(STATIC) and policy.rpartition(":")[2][:1].isdigit()


def sentences(everybody: Sequence[Line], found: Sequence[Stand]) -> list[str]:
    """What the tables say, the good news first."""
    ranked = [line for line in everybody if not isinstance(line.score, Absent)]
    rules = [line for line in ranked if not is_yardstick(line.policy)]
    if not rules:
        return ["No policy has a score: no setting with a gap was searched."]
    first = rules[0]
    said = [
        f"The highest score has `{first.policy}`: {_score(first)}, and it ran away in "
        f"{first.runaways} of {first.episodes} episodes."
    ]
    open_gaps = [s for s in found if not isinstance(s.gap, Absent) and s.gap.gap.absent is None]
    if open_gaps:
        most = max(open_gaps, key=lambda stand: _headroom(stand))
        said.append(
            f"In {len(open_gaps)} of {sum(_is_moving(s) for s in found)} moving settings there is "
            f"something to win; most in {_where(most)}, where the best static share has "
            f"{_headroom(most):.2f} times the P99 of the schedule."
        )
    for line in ranked:
        if line.policy == CONTROLLER:
            place = 1 + sum(not is_yardstick(r.policy) for r in ranked[: ranked.index(line)])
            said.append(
                f"`{CONTROLLER}` as shipped is number {place} of {len(rules)} with "
                f"{_score(line)}; it ran away in {line.runaways} of {line.episodes} episodes."
            )
    return said


def _is_moving(stand: Stand) -> bool:
    return regime_of(stand.setting.cell) in REGIMES


def _headroom(stand: Stand) -> float:
    return math.nan if isinstance(stand.gap, Absent) else stand.gap.gap.headroom.mean


def _where(stand: Stand) -> str:
    setting = stand.setting
    return f"{short(setting.cell)} at {setting.load:g} under {setting.router}"


def short(cell: str) -> str:
    """A cell's data set and regime: what tables show."""
    words = cell.split("-")
    return " ".join([" ".join(words[2:-1]), words[-1]])


def _score(line: Line) -> str:
    return "n/a" if isinstance(line.score, Absent) else f"{line.score.value:.2f}"


def _line(line: Line) -> dict[str, Any]:
    specs: Sequence[str] = line.specs if line.specs != (line.policy,) else ()
    named = ", ".join(specs) if len(specs) <= SHOWN_SPECS else f"{len(specs)} settings"
    if line.missing:
        named = ", ".join([named, f"not played in {line.missing} settings"]).removeprefix(", ")
    return {
        "policy": line.policy,
        "found": named,
        "score": _score(line),
        "closed": [_part(line.closed.get(regime, math.nan)) for regime in REGIMES],
        "worst": "" if line.worst is None else _part(line.worst[1]),
        "runaways": f"{line.runaways} of {line.episodes}" if line.episodes else "",
        "harm": "" if line.harm is None else f"{line.harm[1]:.2f}",
        "adapts": _plain(line.figures["adapt_s"], ".0f"),
        "apart": _plain(line.figures["distance_good"], ".3f"),
        "slo": f"{100 * line.figures['slo_satisfaction']:.2f}",
        "moved": f"{line.figures['moved_gb']:.0f}",
        "decision": f"{line.figures['decision_p50_us']:.0f}",
    }


def _part(value: float) -> str:
    return _plain(value, ".2f")


def _plain(value: float, form: str) -> str:
    return "" if math.isnan(value) else format(value, form)


def _cell(stand: Stand) -> dict[str, Any]:
    """One setting's folded table."""
    tail, static = stand.tail, stand.static
    chosen = [p for p in tail.values if not is_yardstick(p) or p == static]
    schedule = headroom = ""
    if not isinstance(stand.gap, Absent) and stand.gap.seeds:
        schedule = f"{stand.gap.gap.schedule.mean():.1f} ms"
        headroom = f"{_headroom(stand):.2f}"
    return {
        "where": _where(stand),
        "static": "n/a" if isinstance(static, Absent) else f"{static} {stand.static_ms():.1f} ms",
        "schedule": schedule or "not searched",
        "headroom": headroom,
        "rows": [
            (p, f"{mean(tail, p):.1f}", _figure(closed_in(stand, p)), _figure(_window(stand, p)))
            for p in sorted(chosen, key=lambda policy: _order(mean(tail, policy)))
        ],
    }


def _order(value: float) -> float:
    return math.inf if math.isnan(value) else value


def _window(stand: Stand, policy: str) -> Figure:
    gap = stand.window_gap
    return gap if isinstance(gap, Absent) else gap.closed(policy)


def _figure(found: Figure) -> str:
    """A part with its interval, or why there is none."""
    if isinstance(found, Absent):
        return str(found)
    mean_, low, high = found
    return f"{mean_:.2f}" if math.isnan(low) else f"{mean_:.2f} [{low:.2f}, {high:.2f}]"
