"""Heat maps of the atlas: where the best share lies, and what one share for two surfaces loses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from helm_gym.studies.atlas.points import FACTORS, GRIDS, base_values
from helm_gym.studies.atlas.rule import Pair
from helm_gym.studies.atlas.run import LOADS, column

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]
Rows = Sequence[Mapping[str, Any]]
SHARE_COLOURS, LOSS_COLOURS = "viridis", "magma_r"


def grid_of(rows: Rows, y: str, x: str, figure: str) -> Floats:
    """A figure over two factors, the others at the base.

    Returns:
        (levels of y, levels of x), NaN where nothing is known.
    """
    base = base_values()
    found = np.full((len(FACTORS[y].levels), len(FACTORS[x].levels)), np.nan)
    for row in rows:
        if row["feasible"] and all(row[n] == v for n, v in base.items() if n not in (y, x)):
            if row[y] in FACTORS[y].levels and row[x] in FACTORS[x].levels:
                place = FACTORS[y].levels.index(row[y]), FACTORS[x].levels.index(row[x])
                found[place] = row[figure]
    return found


def losses_of(pairs: Sequence[Pair], factor: str, load: float) -> Floats:
    """Loss of the best single share for two surfaces that differ in one factor only."""
    levels, base = FACTORS[factor].levels, base_values()
    found = np.full((len(levels), len(levels)), np.nan)
    for pair in pairs:
        ends = (pair.first, pair.second)
        if all(e[n] == v for e in ends for n, v in base.items() if n != factor):
            i, j = (levels.index(end[factor]) for end in ends)
            found[i, j] = found[j, i] = pair.p99_loss[load]
    return found


def optimum_figure(rows: Rows) -> bytes:
    """The capacity-optimal share, and the P99-optimal one at the highest load, over every grid."""
    p99 = f"p99_share_{column(LOADS[-1])}"

    def draw(figure: Figure) -> None:
        panels = figure.subplots(len(GRIDS), 2)
        for line, (y, x) in zip(panels, GRIDS, strict=True):
            for axes, name, says in zip(
                line, ("best_share", p99), ("most capacity", f"least P99 at {LOADS[-1]:g}"),
                strict=True,
            ):  # fmt: skip
                values = grid_of(rows, y, x, name)
                _map(axes, values, y, x, SHARE_COLOURS, (0.1, 0.9), "{:.2g}")
                axes.set_title(f"share of {says}")

    return _drawn("atlas-optimum", (8.6, 2.5 * len(GRIDS)), draw)


def loss_figure(pairs: Sequence[Pair]) -> bytes:
    """What one share loses to two, over pairs of candidates and of gaps, by load (%)."""

    def draw(figure: Figure) -> None:
        panels = figure.subplots(2, len(LOADS))
        for line, factor in zip(panels, ("candidates", "gap"), strict=True):
            for axes, load in zip(line, LOADS, strict=True):
                values = 100.0 * losses_of(pairs, factor, load)
                _map(axes, values, factor, factor, LOSS_COLOURS, (0.0, 100.0), "{:.0f}")
                axes.set_title(f"P99 lost, %, load {load:g}")

    return _drawn("atlas-loss", (9.6, 6.0), draw)


def _map(
    axes: Axes, values: Floats, y: str, x: str, colours: str, span: tuple[float, float], form: str
) -> None:
    """Cells with their numbers in them; unknown ones stay empty."""
    axes.imshow(values, origin="lower", aspect="auto", cmap=colours, vmin=span[0], vmax=span[1])
    axes.grid(False)
    middle, dark_low = (span[0] + span[1]) / 2, colours == SHARE_COLOURS
    for (row, col), value in np.ndenumerate(values):
        if np.isfinite(value):
            white = (value < middle) == dark_low
            axes.text(
                col, row, form.format(value), ha="center", va="center", fontsize=7,
                color="white" if white else "black",
            )  # fmt: skip
    axes.set_xticks(range(values.shape[1]), [_level(v) for v in FACTORS[x].levels])
    axes.set_yticks(range(values.shape[0]), [_level(v) for v in FACTORS[y].levels])
    axes.set_xlabel(x)
    axes.set_ylabel(y)


def _level(value: float) -> str:
    return f"{value / 1000.0:.3g}k" if value >= 10_000.0 else f"{value:.4g}"


def _drawn(name: str, size: tuple[float, float], draw: Any) -> bytes:
    import io

    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    from helm_gym.pages.plots import STYLE

    style: Any = {**STYLE, "svg.hashsalt": name, "font.size": 8, "axes.titlesize": 8}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure)
        data = io.BytesIO()
        about: Any = {"Date": None, "Creator": None}
        figure.savefig(data, format="svg", metadata=about, facecolor="white")
    return data.getvalue()
