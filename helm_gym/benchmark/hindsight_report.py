"""A comparison with the hindsight optimum as a table, in sentences, and as rows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from helm_gym.benchmark.hindsight import (
    BEST,
    FREE,
    POINTS,
    STATIC,
    YARDSTICK,
    Comparison,
    file_key,
)
from helm_gym.console import make_table
from helm_gym.evaluation.tables import span
from helm_gym.runs.stats import Interval

if TYPE_CHECKING:
    from rich.table import Table


WIDE = 100  # characters; a narrower window gets one column less
FIGURES = (  # figure, heading, scale, format, whether a narrow window shows it
    ("tail_ms", "P99\nms", 1.0, ".1f", True),
    ("slo_satisfaction", "in SLO\n%", 100.0, ".2f", False),
    ("regret", "regret", 1.0, ".2f", True),
    ("distance", "|share -\nschedule's|", 1.0, ".3f", True),
    ("distance_good", "the same,\nto 1 %", 1.0, ".3f", True),
)


def table(comparison: Comparison, width: int = WIDE) -> Table:
    """The comparison, with intervals over seeds.

    Args:
        comparison: what to show.
        width: of the window.
    """
    scenario, first = comparison.scenario, comparison.found[0]
    figures = [figure for figure in FIGURES if figure[-1] or width >= WIDE]
    rows = [
        (
            name,
            *(
                cell(comparison.interval(name, figure), scale, form)
                for figure, _, scale, form, _ in figures
            ),
        )
        for name in comparison.names()
    ]
    return make_table(
        ("policy", *(heading for _, heading, *_ in figures)),
        rows,
        title=f"{scenario.name}, load {scenario.workload.load:g}, seeds {span(comparison.seeds)}, "
        f"objective {comparison.objective}",
        caption=(
            f"Regret in {first.unit}. |share - schedule's|: mean over windows and nodes; 1 %: "
            "shares that cost at most 1 % more in their window count as optimal. [95 % bootstrap "
            "interval over seeds]. The second row follows caches that no policy has: no policy "
            f"can play it. HELM reports distances of {YARDSTICK[0]} to {YARDSTICK[1]}."
        ),
        plain=True,
    )


def cell(interval: Interval, scale: float, form: str) -> str:
    """A mean, and below it its interval if there is one."""
    mean, low, high = (format(scale * value, form) for value in interval)
    known = np.isfinite(interval.low) and low != high
    return f"{mean}\n[{low}, {high}]" if known else mean


def findings(comparison: Comparison) -> list[str]:
    """What the comparison says, in sentences; where a schedule was beaten, that comes first."""
    own = [name for name in comparison.names() if name not in POINTS]
    unit = comparison.found[0].unit
    said = [text for name in (STATIC, *own) if (text := beaten(comparison, name))]
    static, best = (comparison.interval(name, "cost").mean for name in (STATIC, BEST))
    said.append(
        f"Knowing the requests, the best static costs {static:.2f} and the schedule {best:.2f} "
        f"({unit}); the best static of every window, as if moves were free and caches followed at "
        f"once, {comparison.interval(FREE, 'cost').mean:.2f}."
    )
    for name in own:
        cost = comparison.interval(name, "cost").mean
        off, good = (comparison.interval(name, f).mean for f in ("distance", "distance_good"))
        part = ""
        if best < cost < static:
            part = f" and closes {100 * (static - cost) / (static - best):.0f} % of that gap"
        said.append(
            f"{name} costs {cost:.2f}{part}; its share is {off:.3f} off the schedule's on average, "
            f"{good:.3f} if shares within 1 % count (HELM reports {YARDSTICK[0]} to "
            f"{YARDSTICK[1]})."
        )
    return said


def beaten(comparison: Comparison, policy: str) -> str:
    """A sentence if a policy costs less than the schedule on some seed, else nothing."""
    regrets = [row.regret for row in comparison.rows if row.policy == policy]
    lower = [regret for regret in regrets if regret < 0.0]
    if not lower:
        return ""
    return (
        f"NO OPTIMUM: {policy} costs less than the schedule on {len(lower)} of {len(regrets)} "
        f"seeds, by up to {-min(lower):.3g}. Either it has what a schedule has not (longer moves, "
        "shares per node, its own router), or the search should be wider."
    )


def paths(comparison: Comparison, out: Path) -> list[Path]:
    """Files of the schedules."""
    return [
        out / f"{file_key(comparison.scenario, comparison.objective, seed, found.key)}.json"
        for seed, found in zip(comparison.seeds, comparison.found, strict=True)
    ]
