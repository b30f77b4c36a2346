"""Figures of a benchmark's page as inline SVG; they read plain data, as plots.py does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from helm_gym.pages.plots import BETWEEN, FIRST, LAST, as_svg, frame_latencies, plain_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BOUND = "black"  # dashed: what knows the future
Floats = NDArray[np.float64]
Curve = Mapping[str, Any]


def styles(policies: Sequence[str], reference: str, bounds: Sequence[str]) -> dict[str, Any]:
    """One look per policy for all figures of a page: the reference grey, the best one blue.

    Args:
        policies: best first.
        reference: that scores refer to.
        bounds: policies that know the future.
    """
    colours = iter([LAST, *BETWEEN * (1 + len(policies) // len(BETWEEN))])
    looks: dict[str, Any] = {}
    for policy in policies:
        if policy in bounds:
            looks[policy] = {"color": BOUND, "ls": "--"}
        else:
            looks[policy] = {"color": FIRST if policy == reference else next(colours), "ls": "-"}
    return looks


def scores(name: str, policies: Sequence[Curve]) -> str:
    """Scores with intervals, one line per policy, best on top.

    Args:
        name: of the figure.
        policies: ``label``, ``mean``, ``low``, ``high`` and ``bound`` of every policy.
    """

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for place, policy in enumerate(policies):
            look: dict[str, Any] = (
                {"color": BOUND, "mfc": "white"} if policy["bound"] else {"color": LAST}
            )
            mean = policy["mean"]
            reach = [[mean - policy["low"]], [policy["high"] - mean]]
            axes.errorbar([mean], [place], xerr=np.maximum(reach, 0.0), fmt="o", ms=4, **look)
        axes.axvline(1.0, color=FIRST, ls=":", lw=1)
        axes.set_yticks(range(len(policies)), [policy["label"] for policy in policies])
        axes.set_ylim(len(policies) - 0.5, -0.5)
        axes.set_xlabel("P99 over the reference's, interquartile mean")

    return as_svg(name, (8.6, 1.0 + 0.24 * len(policies)), draw)


def profiles(name: str, policies: Sequence[Curve], taus: Floats) -> str:
    """Part of the runs whose score is at most tau.

    Args:
        name: of the figure.
        policies: ``label``, ``look`` and (T,) ``part``, ``low`` and ``high`` of every policy.
        taus: (T,) thresholds.
    """

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for policy in policies:
            look = policy["look"]
            axes.plot(taus, policy["part"], label=policy["label"], lw=1.5, **look)
            axes.fill_between(
                taus, policy["low"], policy["high"], color=look["color"], alpha=0.12, lw=0
            )
        axes.set_xlabel("score: P99 over the reference's")
        axes.set_ylabel("part of runs at most that")
        axes.set_ylim(0, 1.02)
        _legend(figure, axes)

    return as_svg(name, (8.6, 3.6), draw)


def over_time(name: str, policies: Sequence[Curve], step_s: float, slo_ms: float) -> str:
    """EMB share and P99 of every window of one episode.

    Args:
        name: of the figure.
        policies: ``label``, ``look``, and (T,) ``share`` of every policy; ``p99_ms`` where it is
            known.
        step_s: seconds per window.
        slo_ms: the target, drawn as a line.
    """

    def draw(figure: Figure) -> None:
        share, tail = figure.subplots(2, 1, sharex=True)
        for policy in policies:
            time = step_s * (1.0 + np.arange(len(policy["share"])))
            share.plot(time, policy["share"], label=policy["label"], lw=1.4, **policy["look"])
            if "p99_ms" in policy:
                tail.plot(time, policy["p99_ms"], lw=1.1, **policy["look"])
        tail.axhline(slo_ms, color="black", ls=":", lw=1)
        tail.annotate("SLO", (0, slo_ms), xytext=(2, 2), textcoords="offset points", fontsize=8)
        share.set_ylabel("EMB share")
        share.set_ylim(0, 1)
        tail.set_ylabel("P99, ms")
        tail.set_yscale("log")
        plain_ticks(tail)
        tail.set_xlabel("simulated time, s")
        _legend(figure, share)

    return as_svg(name, (8.6, 4.2), draw)


def over_loads(name: str, panels: Sequence[Curve]) -> str:
    """Goodput of every cell over its loads.

    Args:
        name: of the figure.
        panels: ``title``, ``offered`` (loads and 1/s) and ``policies``, each with ``label``,
            ``look``, ``load`` and ``goodput``, of every cell.
    """
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)

    def draw(figure: Figure) -> None:
        grid = figure.subplots(lines, columns, squeeze=False)
        for axes in grid.flat[len(panels) :]:
            axes.set_axis_off()
        for axes, panel in zip(grid.flat, panels, strict=False):
            axes.plot(*panel["offered"], color="black", ls=":", lw=1, label="offered")
            for policy in panel["policies"]:
                label = policy["label"]
                look = policy["look"]
                axes.plot(
                    policy["load"],
                    policy["goodput"],
                    marker="o",
                    ms=2.5,
                    lw=1.3,
                    label=label,
                    **look,
                )
            axes.set_title(panel["title"], fontsize=9)
        for axes in grid[-1]:
            axes.set_xlabel("load")
        for axes in grid[:, 0]:
            axes.set_ylabel("goodput, 1/s")
        _legend(figure, grid[0, 0])

    return as_svg(name, (8.6, 0.8 + 2.1 * lines), draw)


def moved(name: str, policies: Sequence[Mapping[str, Any]]) -> str:
    """Bytes over the host link per run: fetched on misses, and copied by refill.

    Args:
        name: of the figure.
        policies: ``label``, ``miss_gb`` and ``refill_gb`` of every policy.
    """

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        labels = [policy["label"] for policy in policies]
        places = np.arange(len(labels))
        miss = np.array([policy["miss_gb"] for policy in policies])
        refill = np.array([policy["refill_gb"] for policy in policies])
        axes.barh(places, miss, color=LAST, height=0.7, label="misses")
        axes.barh(places, refill, left=miss, color=BETWEEN[0], height=0.7, label="refill")
        axes.set_yticks(places, labels)
        axes.set_ylim(len(labels) - 0.5, -0.5)
        axes.set_xlabel("GB over the host link, mean over runs")
        _legend(figure, axes)

    return as_svg(name, (8.6, 1.2 + 0.24 * len(policies)), draw)


def latencies(name: str, policies: Sequence[Curve], slo_ms: float) -> str:
    """Part of the admitted requests that took longer than a latency.

    Args:
        name: of the figure.
        policies: ``label``, ``look``, ``ms`` and ``longer`` of every policy.
        slo_ms: the target, drawn as a line.
    """

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for policy in policies:
            axes.plot(
                policy["ms"], policy["longer"], label=policy["label"], lw=1.4, **policy["look"]
            )
        frame_latencies(axes, slo_ms)
        _legend(figure, axes)

    return as_svg(name, (8.6, 3.4), draw)


def _legend(figure: Figure, axes: Axes) -> None:
    """Names once for all panels of a figure, above them."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=min(3, max(1, len(labels))))
