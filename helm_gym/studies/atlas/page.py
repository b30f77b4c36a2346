"""The atlas's page, its figures, and answers for numbers that it did not measure."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from helm_gym._version import __version__
from helm_gym.pages import templates
from helm_gym.studies.atlas.plots import loss_figure, optimum_figure
from helm_gym.studies.atlas.points import (
    FACTORS,
    NODES,
    POOL_GB,
    base_values,
    outside,
    settings_text,
)
from helm_gym.studies.atlas.rule import (
    FEATURES,
    MIN_POINTS,
    Pair,
    Rule,
    feasible,
    fit_rule,
    loss_of,
    nearest,
    pairs,
    row_at,
)
from helm_gym.studies.atlas.run import LOADS, column

Rows = Sequence[Mapping[str, Any]]
QUICK_WARNING = (
    "This is a smoke test (--quick): few points, short runs, five shares. It shows that everything "
    "runs; its numbers mean nothing."
)
APART = ((0.0, 0.1), (0.1, 0.3), (0.3, 0.5), (0.5, 1.0))  # distances between two optima
RATIOS = (0.0, 0.1, 0.3, 1.0, 3.0, np.inf)
EXAMPLE = {"history": 8000.0, "candidates": 2048.0}


def save(rows: Rows, page: Path, quick: bool) -> None:
    """Write the page and, beside it, its figures as SVG.

    Raises:
        ConfigError: packages are missing, or the folder cannot be written.
    """
    templates.check_installed()
    found = pairs(rows)
    figures = {
        f"{page.stem}-optimum.svg": optimum_figure(rows),
        f"{page.stem}-loss.svg": loss_figure(found),
    }
    for name, data in figures.items():
        templates.write_page(page.parent / name, data)
    templates.write_page(page, render(rows, found, page.stem, quick))


def render(rows: Rows, found: Sequence[Pair], stem: str, quick: bool) -> str:
    """The page, Markdown."""
    rule = _rule(rows)
    good = feasible(rows)
    return templates.render(
        "atlas.md.j2",
        version=__version__,
        warning=QUICK_WARNING if quick else "",
        stem=stem,
        nodes=NODES,
        pool=POOL_GB,
        points=len(rows),
        feasible=len(good),
        relaxed=sum(row["slo_ms"] > 30.0 for row in good),
        extrapolated=extrapolated(rows),
        summary=summary(rows, found),
        ratios=ratio_lines(rows),
        apart=apart_lines(found),
        loads=LOADS,
        factors=factor_lines(rows),
        rule=rule,
        features=FEATURES,
        example=answer(rows, EXAMPLE) if rule else [],
        example_settings=settings_text(EXAMPLE),
        min_points=MIN_POINTS,
    )


def _rule(rows: Rows) -> Rule | None:
    return fit_rule(rows) if len(feasible(rows)) >= MIN_POINTS else None


def summary(rows: Rows, found: Sequence[Pair]) -> list[str]:
    """What the atlas says, in sentences."""
    good = feasible(rows)
    best = np.array([row["best_share"] for row in good])
    width = np.array([row["basin_high"] - row["basin_low"] for row in good])
    middle = np.array([loss_of(row, 0.5) for row in good])
    said = [
        f"The share that carries most ran from {best.min():g} to {best.max():g}; it lay at 0.2 or "
        f"below at {_part(best <= 0.2)} of the points and at 0.6 or above at {_part(best >= 0.6)}.",
        f"Shares within 2 % of the most capacity span {np.median(width):.2f} in the median, "
        f"{np.quantile(width, 0.1):.2f} to {np.quantile(width, 0.9):.2f} from the lowest tenth to "
        f"the highest. A fixed share of 0.5 gives away {100 * np.median(middle):.0f} % of capacity "
        f"in the median, {100 * np.quantile(middle, 0.9):.0f} % at the worst tenth of the points.",
    ]
    for load in LOADS:
        loss = np.array([row.p99_loss[load] for row in found]) if found else np.zeros(1)
        said.append(
            f"Two surfaces in turn at load {load:g}: the best single share loses more than 5 % P99 "
            f"in {_part(loss > 0.05)} of {len(found)} pairs and more than 20 % in "
            f"{_part(loss > 0.20)}; {100 * np.median(loss):.1f} % in the median."
        )
    capacity = np.array([row.capacity_loss for row in found]) if found else np.zeros(1)
    said.append(
        f"In capacity the best single share loses {100 * np.median(capacity):.1f} % in the median "
        f"pair and {100 * np.quantile(capacity, 0.9):.0f} % in the worst tenth."
    )
    return said


def extrapolated(rows: Rows) -> str:
    """How many points use kernel times outside what was measured, by dimension."""
    names = sorted({name for row in rows for name in row["extrapolates"]})
    counts = [f"{name} at {sum(name in row['extrapolates'] for row in rows)}" for name in names]
    return ", ".join(counts) or "none"


def _part(true: Any) -> str:
    return f"{100 * float(np.mean(true)):.0f} %"


def ratio_lines(rows: Rows) -> list[list[str]]:
    """The optimum by how much link time EMB can save over what KV can save."""
    good, lines = feasible(rows), []
    for low, high in itertools.pairwise(RATIOS):
        best = [row["best_share"] for row in good if low <= row["ratio"] < high]
        if best:
            quantiles = np.quantile(best, (0.1, 0.5, 0.9))
            span = f"{low:g} to {high:g}" if np.isfinite(high) else f"above {low:g}"
            lines.append([span, str(len(best)), *(f"{q:.2f}" for q in quantiles)])
    return lines


def apart_lines(found: Sequence[Pair]) -> list[list[str]]:
    """What one share loses by how far the two optima are apart."""
    lines = []
    for low, high in APART:
        members = [p for p in found if low - 1e-9 <= p.distance < high - 1e-9]
        if members:
            middle = [100 * np.median([p.p99_loss[load] for p in members]) for load in LOADS]
            tenth = [100 * np.quantile([p.p99_loss[load] for p in members], 0.9) for load in LOADS]
            both = [f"{m:.0f} ({t:.0f})" for m, t in zip(middle, tenth, strict=True)]
            capacity = 100 * float(np.median([p.capacity_loss for p in members]))
            lines.append([f"{low:g} to {high:g}", str(len(members)), f"{capacity:.1f}", *both])
    return lines


def factor_lines(rows: Rows) -> list[list[str]]:
    """One factor at a time: the optimum at each of its levels."""
    base, good, lines = base_values(), feasible(rows), []
    for name, factor in FACTORS.items():
        cells = []
        for row in sorted(good, key=lambda r: float(r[name])):
            if all(row[n] == v for n, v in base.items() if n != name):
                tail = row[f"p99_share_{column(LOADS[-1])}"]
                cells.append(f"{number(float(row[name]))}: {row['best_share']:g} ({tail:g})")
        lines.append([name, factor.meaning, "; ".join(cells)])
    return lines


def number(value: float) -> str:
    """A level as a reader writes it: 16,384 and 0.98."""
    return f"{value:,.0f}" if value >= 1000.0 else f"{value:.3g}"


def answer(rows: Rows, values: Mapping[str, float]) -> list[str]:
    """Say what to expect with given numbers, in lines of text.

    Args:
        rows: an atlas.
        values: factors that differ from the base point.
    """
    here = row_at(values)
    said = [f"not measured there: {what}" for what in outside(values)]
    said.append(
        f"one request: {here['candidates_link_ms']:.2g} ms of link if every candidate row misses, "
        f"{here['history_link_ms']:.2g} ms more for the history after a KV miss; GPU "
        f"{here['gpu_miss_ms']:.2g} ms on a KV miss, {here['gpu_hit_ms']:.2g} ms on a hit; "
        f"ratio {here['ratio']:.2g}"
    )
    rule = _rule(rows)
    if rule is not None:
        said.append(
            f"rule: an EMB share of {rule.share(here):.2f} carries most (off by {rule.error:.2f} "
            f"on average and by {rule.p90:.2f} in one of ten clusters that it did not see; always "
            f"saying the mean is off by {rule.naive:.2f})"
        )
    said.append("nearest points (distance; most capacity at; least P99 at 0.95; 0.5 gives away):")
    for apart, row in nearest(rows, values):
        differs = {n: row[n] for n in FACTORS if abs(row[n] / here[n] - 1.0) > 1e-6}
        at = settings_text(differs) or "the same"
        said.append(
            f"  {apart:.2f}: share {row['best_share']:g} ({row['basin_low']:g} to "
            f"{row['basin_high']:g} within 2 %), {row['best_capacity']:.0f} requests/s per node; "
            f"{row[f'p99_share_{column(LOADS[-1])}']:g}; {100 * loss_of(row, 0.5):.0f} %  [{at}]"
        )
    return said
