"""Figures of the card, drawn from the details of findings.

A finding that wants one has ``details["plot"]``: ``x_label``, ``y_label``, optionally ``log_x`` and
``log_y``, and ``series``, each with ``label``, ``x``, ``y`` and optionally ``error``. Curves named
``ours`` and ``real`` beside ``sizes`` or ``shares``, or below ``quantiles``, are drawn too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from helm_gym.pages.plots import BETWEEN, FIRST, LAST
from helm_gym.pages.plots import as_svg as svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MODEL = "model"  # what a label of ours begins with; drawn in colour, the rest in grey
DASHES = ("-", "--", ":", "-.")
SIZE = (5.4, 3.4)


def plot_of(details: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What to draw of a finding's details, None if they hold no series that is known here."""
    if "plot" in details:
        plot: Mapping[str, Any] = details["plot"]
        return plot
    for key, x_label, y_label in (
        ("sizes", "cache size, part of the users", "hit rate"),
        ("shares", "top part of the items", "their part of the views, %"),
    ):
        if {key, "ours", "real"} <= details.keys():
            return _two(details[key], details["real"], details["ours"], x_label, y_label)
    if {"ours", "real"} <= details.get("quantiles", {}).keys():
        pair = details["quantiles"]
        plot = _two(pair["real"], pair["real"], pair["ours"], "real quantiles", "quantiles")
        return {**plot, "log_y": True}
    return None


def _two(x: Any, real: Any, ours: Any, x_label: str, y_label: str) -> dict[str, Any]:
    series = [{"label": "real", "x": x, "y": real}, {"label": MODEL, "x": x, "y": ours}]
    return {"x_label": x_label, "y_label": y_label, "log_x": True, "series": series}


def figure(name: str, spec: Mapping[str, Any]) -> str:
    """Draw one plot as an <svg> element.

    Args:
        name: of the figure, unique on its page.
        spec: see the module.
    """
    series: Sequence[Mapping[str, Any]] = spec["series"]

    def draw(canvas: Figure) -> None:
        axes = canvas.subplots()
        for line, style in zip(series, _styles(series), strict=True):
            error = line.get("error")
            axes.errorbar(
                line["x"], line["y"], error, label=line["label"], lw=1.4, capsize=3, **style
            )
        if any("error" in line for line in series):
            axes.axhline(0.0, color=FIRST, lw=0.8)
        axes.set_xlabel(spec["x_label"])
        axes.set_ylabel(spec["y_label"])
        for axis in ("x", "y"):
            if spec.get(f"log_{axis}"):
                getattr(axes, f"set_{axis}scale")("log")
        canvas.legend(loc="outside upper left", ncols=2, fontsize=8)

    return svg(name, SIZE, draw)


def _styles(series: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Ours in colour with marks, what it is compared with in grey dashes, errors as marks."""
    colours = iter((LAST, *BETWEEN) * len(series))
    dashes = iter(DASHES * len(series))
    styles: list[dict[str, Any]] = []
    for line in series:
        if "error" in line:
            styles.append({"color": next(colours), "marker": "o", "ms": 4, "ls": "none"})
        elif str(line["label"]).startswith(MODEL):
            styles.append({"color": next(colours), "marker": "o", "ms": 3})
        else:
            styles.append({"color": FIRST, "ls": next(dashes)})
    return styles
