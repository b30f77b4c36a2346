"""The tornado plot of a sensitivity study."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING, Any

from helm_gym.config.vary import assumed_numbers
from helm_gym.pages.plots import STYLE
from helm_gym.studies.sensitivity.effects import Effect, by_influence, effects
from helm_gym.studies.sensitivity.run import Row, Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LOW, HIGH = "#1b6ca8", "#d95f02"


def tornado(study: Study, kind: str) -> bytes:
    """Draw one panel per figure and one row per number, the most influential on top.

    Args:
        study: what to draw.
        kind: ``svg`` or ``png``.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    names, panels = by_influence(study), effects(study)
    size = (2.6 + 1.35 * len(panels), 1.3 + 0.23 * max(len(names), 3))
    style: Any = {**STYLE, "svg.hashsalt": "tornado", "font.size": 8, "axes.grid.axis": "x"}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=size, layout="constrained")
        (FigureCanvasSVG if kind == "svg" else FigureCanvasAgg)(figure)
        grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axes, effect in zip(grid, panels, strict=True):
            _panel(axes, effect, study, names)
        grid[0].set_yticks(range(len(names)), [_short(name) for name in names])
        grid[0].set_ylim(len(names) - 0.4, -0.6)
        _legend(figure)
        data = io.BytesIO()
        about: Any = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
        figure.savefig(data, format=kind, metadata=about, dpi=110, facecolor="white")
    return data.getvalue()


def _panel(axes: Axes, effect: Effect, study: Study, names: list[str]) -> None:
    stated = effect.of(study.base)
    axes.set_title(effect.title, fontsize=7.5)
    axes.set_axisbelow(True)
    if effect.scale == "log":
        axes.set_xscale("log")
        _few_ticks(axes)
    elif effect.scale == "symlog":  # percents: linear up to 10
        axes.set_xscale("symlog", linthresh=10.0)
        _percent_ticks(axes)
    elif effect.title.startswith("share"):
        axes.set_xlim(0.0, 1.0)
    if math.isnan(stated):
        return
    values = {n.name: n.quantity.value for n in assumed_numbers(study.scenario)}
    for place, name in enumerate(names):
        rows = [row for row in study.rows if row.variant.number == name]
        # The longest first, so that a shorter one on the same side stays visible.
        known = [(row, effect.of(row)) for row in rows]
        known.sort(key=lambda pair: -abs(pair[1] - stated) if math.isfinite(pair[1]) else 0.0)
        for row, value in known:
            colour = _colour(values, row)
            if math.isfinite(value):
                axes.barh(place, value - stated, left=stated, height=0.7, color=colour, lw=0)
            else:
                axes.plot(stated, place, "x", color=colour, ms=4)
    axes.axvline(stated, color="black", lw=0.8)
    axes.tick_params(axis="x", labelsize=7)


def _colour(stated: dict[str, float], row: Row) -> str:
    return LOW if row.variant.value < stated[row.variant.number] else HIGH


def _legend(figure: Any) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles = [
        Patch(color=LOW, label="the number lower than stated"),
        Patch(color=HIGH, label="higher"),
        Line2D([], [], color="black", marker="x", ls="", ms=4, label="does not exist there"),
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=3)


def _few_ticks(axes: Axes) -> None:
    """Write 20 instead of 2 * 10^1, and few of them: the panels are narrow."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0), numticks=5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _percent_ticks(axes: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, SymmetricalLogLocator

    axes.xaxis.set_major_locator(SymmetricalLogLocator(base=10.0, linthresh=10.0))
    axes.tick_params(axis="x", rotation=90)  # where zero is near the middle they would touch
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _short(name: str) -> str:
    """A path without what every reader knows."""
    for beginning in ("hardware.", "workload.profile.", "workload."):
        name = name.removeprefix(beginning)
    return name
