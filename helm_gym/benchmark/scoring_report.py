"""A score as a table, in sentences, and as data for programs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from helm_gym._version import __version__
from helm_gym.benchmark.arrange import Setting
from helm_gym.benchmark.contest import TAIL, WINDOW_TAIL
from helm_gym.benchmark.gap import Absent
from helm_gym.benchmark.moment import Moment, Outcome, Shares
from helm_gym.benchmark.score import REFERENCE
from helm_gym.benchmark.scoring import Scored
from helm_gym.benchmark.yardsticks import SCHEDULE, Played
from helm_gym.console import make_table
from helm_gym.provenance import code_digest
from helm_gym.suites.score_draws import PREFIX

if TYPE_CHECKING:
    from rich.table import Table

POLICY = "policy"
SHOWN = (TAIL, WINDOW_TAIL)
Data = dict[str, Any]


def means(outcomes: Sequence[Outcome], figure: str) -> dict[str, float]:
    """Seed means of a figure: of the policy, the static share and the schedule.

    Args:
        outcomes: those of one setting.
        figure: such as ``tail_ms``.

    Returns:
        By name; NaN where the policy failed on a seed.
    """
    return {
        POLICY: _mean((one.played for one in outcomes), figure),
        REFERENCE: _mean((one.yardstick.static for one in outcomes), figure),
        SCHEDULE: _mean((one.yardstick.schedule for one in outcomes), figure),
    }


def _mean(played: Iterable[Played | None], figure: str) -> float:
    values = [math.nan if one is None else one.figures[figure] for one in played]
    return math.fsum(values) / len(values)


# For people


def table(scored: Scored) -> Table:
    """What the policy did in every setting."""
    rows = [
        (_short(setting.cell), f"{setting.load:g}", *_figures(those), _closed(scored, setting))
        for setting, those in scored.outcomes.items()
    ]
    return make_table(
        ("cell", "load", "P99, ms", "mean of 5-s P99s", "gap closed"),
        rows,
        title=f"{scored.spec}: score {scored.value:.3f}",
        caption=f"Milliseconds: policy / {REFERENCE} / schedule that knew the requests. Gap "
        f"closed: of the mean of 5-s P99s, 0 is {REFERENCE} and 1 the schedule. The score is the "
        "mean over cells, each setting clipped to 0 to 1.",
        plain=True,
    )


def _short(cell: str) -> str:
    return cell.removeprefix(f"{PREFIX}-")


def _figures(outcomes: Sequence[Outcome]) -> list[str]:
    return [
        " / ".join("-" if math.isnan(ms) else f"{ms:.1f}" for ms in means(outcomes, name).values())
        for name in SHOWN
    ]


def _closed(scored: Scored, setting: Setting) -> str:
    closed = scored.score.settings[setting]
    if not isinstance(closed, Absent):
        return f"{closed.mean:.2f}"
    failed = setting in scored.score.counted
    return "0 (failed)" if failed else str(closed)


def findings(scored: Scored) -> list[str]:
    """What a person has to know beside the table, in sentences."""
    said = [
        f"{draw.cell} at load {draw.load:g}, seed {draw.seed}: the policy failed and has 0 there. "
        f"{reason}"
        for draw, reason in scored.failures.items()
    ]
    said.append(_rests_on(scored))
    if scored.not_searched:
        names = ", ".join(f"{_short(draw.cell)} {draw.load:g}" for draw in scored.not_searched)
        said.append(f"Not searched yet, so that they count for nobody: {names}.")
    if scored.played_again:
        said.append(
            f"The simulator has changed since the package's schedules were played: "
            f"{scored.played_again} were played again, and their searches were not repeated."
        )
    return said + (worst(scored.worst) if scored.worst is not None else [])


def _rests_on(scored: Scored) -> str:
    counted, settings = len(scored.score.counted), len(scored.outcomes)
    if counted == settings:
        return f"Score {scored.value:.3f}: it rests on all {settings} settings of the table."
    return (
        f"Score {scored.value:.3f}: it rests on {counted} of {settings} settings of the table. The "
        "others have next to nothing to win, for any policy."
    )


def worst(moment: Moment) -> list[str]:
    """The worst moment in sentences."""
    draw = moment.outcome.draw
    if moment.excess_ms <= 0.0:
        return ["The policy is nowhere slower than the schedule."]
    return [
        f"Worst moment: {draw.cell} at load {draw.load:g}, seed {draw.seed}, {moment.at_s:g} s "
        f"after the policy took over. That is {moment.stretch}.",
        f"P99 in that window was {moment.policy_ms:.1f} ms; the schedule had "
        f"{moment.schedule_ms:.1f} ms and {REFERENCE} {moment.static_ms:.1f} ms.",
        *_lasted(moment),
        f"The policy's EMB share, from a minute before to a minute after: {_went(moment.policy)}.",
        f"The schedule's: {_went(moment.schedule)}.",
    ]


def _lasted(moment: Moment) -> list[str]:
    """How long it was at least half as bad, and what was busy then."""
    lasted = (
        f"It was at least half as far above the schedule from {moment.since_s:g} s to "
        f"{moment.until_s:g} s."
    )
    figures = moment.outcome.series
    if not figures:
        return [lasted]
    link, gpu, shed = (
        100.0 * float(figures[name][moment.window])
        for name in ("link_utilisation", "gpu_utilisation", "shed_rate")
    )
    return [
        lasted,
        f"The policy's link then had {link:.0f} % and its GPUs {gpu:.0f} % of the work that they "
        f"can do, and {shed:.1f} % of the requests were shed.",
    ]


def _went(shares: Shares) -> str:
    if f"{shares.low:.2f}" == f"{shares.high:.2f}":
        return f"{shares.then:.2f} all the while"
    return (
        f"{shares.before:.2f}, then {shares.then:.2f}, and {shares.after:.2f} at the end; between "
        f"{shares.low:.2f} and {shares.high:.2f} all the while"
    )


# For programs


def record(scored: Scored) -> Data:
    """Everything about a score, as JSON can hold it; a figure that does not exist is null.

    Times are in s since the start of the policy's control, latencies in ms. ``gap_closed`` is not
    clipped; ``counted`` is what enters the score, null where nothing counts.
    """
    about: Data = {
        "policy": scored.spec,
        "score": scored.value,
        "cells": dict(scored.score.cells),
        "settings": [_setting(scored, setting) for setting in scored.outcomes],
        "failures": [
            {**draw._asdict(), "cell": draw.cell, "reason": reason}
            for draw, reason in scored.failures.items()
        ],
        "not_searched": [{**draw._asdict(), "cell": draw.cell} for draw in scored.not_searched],
        "worst": None if scored.worst is None else _moment(scored.worst),
        "series": None if scored.worst is None else _series(scored.worst.outcome),
        "yardsticks_played_again": scored.played_again,
        "code_digest": code_digest(),
        "helm_gym": __version__,
    }
    cleaned: Data = _known(about)
    return cleaned


def _setting(scored: Scored, setting: Setting) -> Data:
    outcomes, closed = scored.outcomes[setting], scored.score.settings[setting]
    why = f"{closed}: {closed.detail}" if isinstance(closed, Absent) else None
    return {
        **setting._asdict(),
        "seeds": [one.draw.seed for one in outcomes],
        **{figure: means(outcomes, figure) for figure in SHOWN},
        "gap_closed": None if isinstance(closed, Absent) else closed.mean,
        "counted": scored.score.counted.get(setting),
        "why_absent": why,
    }


def _moment(moment: Moment) -> Data:
    draw = moment.outcome.draw
    return {
        **draw._asdict(),
        "cell": draw.cell,
        "router": draw.router,
        "window": moment.window,
        "at_s": moment.at_s,
        "since_s": moment.since_s,
        "until_s": moment.until_s,
        "stretch": moment.stretch,
        "tail_ms": {
            POLICY: moment.policy_ms,
            REFERENCE: moment.static_ms,
            SCHEDULE: moment.schedule_ms,
        },
        "excess_ms": moment.excess_ms,
        "shares": {POLICY: vars(moment.policy), SCHEDULE: vars(moment.schedule)},
    }


def _series(outcome: Outcome) -> Data:
    """Every window of the worst draw: times, P99s and shares of all, and the policy's figures."""
    step_s, steps = outcome.draw.scenario.episode.step_s, len(outcome.yardstick.schedule.tails)
    ends = {SCHEDULE: outcome.yardstick.schedule, REFERENCE: outcome.yardstick.static}
    if outcome.played is not None:
        ends = {POLICY: outcome.played, **ends}
    return {
        "at_s": [window * step_s for window in range(steps)],
        "uncounted": outcome.draw.scenario.episode.uncounted,
        "tail_ms": {name: list(played.tails) for name, played in ends.items()},
        "shares": {name: list(played.shares) for name, played in ends.items()},
        "figures": {name: values.tolist() for name, values in outcome.series.items()},
    }


def _known(value: Any) -> Any:
    """The same with null for every number that is not finite, which JSON has not."""
    if isinstance(value, Mapping):
        return {name: _known(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_known(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
