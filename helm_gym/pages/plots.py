"""Figures of a report as inline SVG; they read plain data and know nothing of simulators."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FIRST, LAST = "#4d4d4d", "#1b6ca8"
BETWEEN = ("#d95f02", "#e7a500", "#1b9e77", "#7570b3", "#a6761d", "#66a61e")
"""The reference is first and grey, what the report is about is last and blue."""
STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text: smaller, searchable, in the reader's own font
}
Policies = Sequence[Mapping[str, Any]]


def as_svg(name: str, size: tuple[float, float], draw: Callable[[Figure], None]) -> str:
    """Draw a figure and return its <svg> element.

    Built without pyplot, which would choose a backend and keep the figure alive.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    # Element ids are salted by the name, so that figures of one page do not share any.
    style: Any = {**STYLE, "svg.hashsalt": name}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure)
        text = io.StringIO()
        nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(text, format="svg", metadata=nothing)
    svg = text.getvalue()
    return svg[svg.index("<svg") :]


def _colours(count: int) -> list[str]:
    between = [BETWEEN[number % len(BETWEEN)] for number in range(count - 2)]
    return [FIRST, *between, LAST][-count:] if count > 1 else [LAST]


def _legend(figure: Figure, axes: Axes, policies: int) -> None:
    """Names once for all panels of a figure, above them."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=min(2, policies))


def timeline(name: str, policies: Policies, step_s: float, slo_ms: float) -> str:
    """Requests offered, EMB share and P99 over one episode.

    Args:
        name: of the figure.
        policies: ``label``, ``series`` (figure -> T values) and ``band`` (lowest and highest
            share of any node, T values each) of every policy.
        step_s: seconds per window.
        slo_ms: the target, drawn as a line.
    """

    def draw(figure: Figure) -> None:
        rate, share, tail = figure.subplots(3, 1, sharex=True, height_ratios=[1, 2, 2])
        for policy, colour in zip(policies, _colours(len(policies)), strict=True):
            series = policy["series"]
            time = step_s * (1.0 + np.arange(len(series["emb_share"])))
            share.plot(time, series["emb_share"], color=colour, label=policy["label"], lw=1.6)
            share.fill_between(time, *policy["band"], color=colour, alpha=0.15, lw=0)
            tail.plot(time, series["p99_ms"], color=colour, lw=1.4)
        # Every policy meets the same requests.
        rate.plot(time, policies[0]["series"]["offered_rps"], color="black", lw=1.2)
        tail.axhline(slo_ms, color="black", ls=":", lw=1)
        tail.annotate("SLO", (0, slo_ms), xytext=(2, 2), textcoords="offset points", fontsize=8)
        rate.set_ylabel("offered, 1/s")
        rate.set_ylim(bottom=0)
        share.set_ylabel("EMB share")
        share.set_ylim(0, 1)
        tail.set_ylabel("P99, ms")
        tail.set_yscale("log")
        plain_ticks(tail)
        tail.set_xlabel("simulated time, s")
        _legend(figure, share, len(policies))

    return as_svg(name, (8.6, 5.6), draw)


def hit_rates(name: str, policies: Policies, step_s: float) -> str:
    """KV and EMB hit rates, and utilisation of link and GPU, over one episode."""
    panels = (
        ("kv_hit_rate", "KV hit rate"),
        ("emb_hit_rate", "EMB hit rate, by bytes"),
        ("link_utilisation", "link utilisation"),
        ("gpu_utilisation", "GPU utilisation"),
    )

    def draw(figure: Figure) -> None:
        grid = figure.subplots(2, 2, sharex=True)
        for axes, (key, title) in zip(grid.flat, panels, strict=True):
            for policy, colour in zip(policies, _colours(len(policies)), strict=True):
                values = policy["series"][key]
                time = step_s * (1.0 + np.arange(len(values)))
                axes.plot(time, values, color=colour, label=policy["label"], lw=1.3)
            axes.set_title(title, fontsize=9)
        for axes in grid[1]:
            axes.axhline(1.0, color="black", ls=":", lw=1)
            axes.set_xlabel("simulated time, s")
        _legend(figure, grid[0, 0], len(policies))

    return as_svg(name, (8.6, 4.6), draw)


def latency(name: str, policies: Policies, slo_ms: float) -> str:
    """Part of the admitted requests that took longer than a latency.

    Args:
        name: of the figure.
        policies: ``label`` and ``latency`` (``ms`` and ``longer``, equally long) of every policy.
        slo_ms: the target, drawn as a line.
    """

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for policy, colour in zip(policies, _colours(len(policies)), strict=True):
            ms, longer = policy["latency"]["ms"], policy["latency"]["longer"]
            axes.plot(ms, longer, color=colour, label=policy["label"], lw=1.5)
        frame_latencies(axes, slo_ms)
        _legend(figure, axes, len(policies))

    return as_svg(name, (8.6, 3.6), draw)


def frame_latencies(axes: Axes, slo_ms: float) -> None:
    """Scales, labels and the lines of P99 and SLO around curves of requests that took longer."""
    axes.axvline(slo_ms, color="black", ls=":", lw=1)
    axes.axhline(0.01, color="black", ls=":", lw=1)
    axes.annotate("P99", (1, 0.01), xycoords=("axes fraction", "data"), fontsize=8)
    axes.annotate("SLO", (slo_ms, 1), xycoords=("data", "axes fraction"), fontsize=8)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(1e-4, 1.1)
    plain_ticks(axes)
    axes.set_xlabel("latency, ms")
    axes.set_ylabel("part of requests that took longer")


def basin(name: str, curves: Sequence[Mapping[str, Any]], slo_ms: float) -> str:
    """P99 of every static share that a grid search tried, one curve per load."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for curve, colour in zip(curves, _colours(len(curves)), strict=True):
            label = f"load {curve['load']:g}"
            axes.plot(curve["share"], curve["tail_ms"], "o-", ms=3, label=label, color=colour)
        axes.axhline(slo_ms, color="black", ls=":", lw=1)
        axes.set_yscale("log")
        plain_ticks(axes)
        axes.set_xlabel("static EMB share")
        axes.set_ylabel("P99, ms")
        _legend(figure, axes, len(curves))

    return as_svg(name, (8.6, 2.8), draw)


def learning(name: str, curve: Sequence[Mapping[str, float]]) -> str:
    """Reward per decision and SLO satisfaction during training."""

    def points(key: str) -> tuple[list[float], list[float]]:
        found = [(row["decisions"], row[key]) for row in curve if key in row]
        return [x for x, _ in found], [y for _, y in found]

    def draw(figure: Figure) -> None:
        reward, inside = figure.subplots(1, 2)
        reward.plot(*points("reward"), color=LAST, lw=1.3, label="while learning")
        held, value = points("validation_reward")
        if held:
            reward.plot(held, value, "o-", ms=3, color=BETWEEN[0], label="validation episodes")
        reward.legend(fontsize=8)
        reward.set_title("reward per decision", fontsize=9)
        x, y = points("slo_satisfaction")
        inside.plot(x, 100.0 * np.asarray(y), color=LAST, lw=1.3)
        inside.set_title("requests inside the SLO while learning, %", fontsize=9)
        for axes in (reward, inside):
            axes.set_xlabel("decisions")

    return as_svg(name, (8.6, 2.8), draw)


def plain_ticks(axes: Axes) -> None:
    """Write 20 instead of 2 * 10^1 on logarithmic axes."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    for axis in (axes.xaxis, axes.yaxis):
        if axis.get_scale() == "log":
            axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_locator(LogLocator(subs=()))
