"""The page about burst recovery: curves, what was chosen, and what recovery costs and gives."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from helm_gym._version import __version__
from helm_gym.config.quantity import walk
from helm_gym.console import make_table
from helm_gym.envs.recovery_config import RecoveryConfig
from helm_gym.pages.plots import as_svg
from helm_gym.pages.templates import render, write_page
from helm_gym.store import save_rows
from helm_gym.studies.bursts.detection import MOST_FALSE, Score, Study
from helm_gym.studies.bursts.effect import FORMS, Effect, findings
from helm_gym.studies.bursts.streams import LOAD, LOADS

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

FIGURE = "recovery.svg"
COLOURS = ("#d95f02", "#1b6ca8", "#66a61e", "#7570b3", "#222222")
PAPERS = 3.0  # sd
QUICK_WARNING = "quick: a smoke test; the published curves come without --quick"


def settings(study: Study) -> dict[str, list[tuple[str, float]]]:
    """Detectors and thresholds worth a row: the chosen, and HELM's three sigmas."""
    rows: dict[str, list[tuple[str, float]]] = {}
    for name in dict.fromkeys(s.detector for s in study.scores):
        own = rows.setdefault(name, [])
        if "P99" in name and "union" not in name:
            own.append(("HELM's", PAPERS))
        own.append((f"at most {MOST_FALSE:g}/h", study.chosen[name]))
    return rows


def lines(study: Study) -> list[list[str]]:
    """Rows of the table: a setting, its false alarms, and delays by stream."""
    streams = [s for s in dict.fromkeys(x.stream for x in study.scores if x.kind != "steady")]
    found = []
    for name, own in settings(study).items():
        for why, threshold in own:
            at = [s for s in study.scores if s.detector == name and s.threshold == threshold]
            if not at:
                found.append([name, why, "none", "-", *("-" for _ in streams)])
                continue
            steady = [s for s in at if s.kind == "steady"]
            by = {s.stream: s for s in at}
            false = max(s.false_per_hour for s in steady)
            cells = [_delay(by[stream]) for stream in streams]
            found.append([name, why, f"{threshold:g}", f"{false:.2f}", *cells])
    return found


def headings(study: Study) -> list[str]:
    """Of :func:`lines`."""
    streams = list(dict.fromkeys(x.stream for x in study.scores if x.kind != "steady"))
    return ["detector", "setting", "threshold", "false/h, steady", *streams]


def _delay(score: Score) -> str:
    false = f", {score.false_per_hour:.1f} false/h" if score.kind == "replay" else ""
    if not score.bursts:
        return f"no burst{false}"
    return f"{score.delay_s:.1f} s ({score.detected}/{score.bursts}{false})"


def table(study: Study) -> Table:
    """The detection table, for people."""
    title = "False alarms and delays (evaluation seeds)"
    return make_table(headings(study), lines(study), title=title, left=len(headings(study)))


def curves(study: Study) -> str:
    """Draw a panel per stream with bursts: mean delay against false alarms of steady streams."""
    streams = list(dict.fromkeys(x.stream for x in study.scores if x.kind != "steady"))
    names = list(dict.fromkeys(s.detector for s in study.scores))

    def draw(figure: Figure) -> None:
        columns = min(len(streams), 4)
        grid = figure.subplots(-(-len(streams) // columns), columns, squeeze=False)
        for axes in grid.flat[len(streams) :]:
            axes.set_visible(False)
        for axes, stream in zip(grid.flat, streams, strict=False):
            for name, colour in zip(names, COLOURS, strict=True):
                points = _points(study, stream, name)
                axes.plot(*points, "o-", ms=3, lw=1, color=colour, label=name)
            axes.set_title(stream, fontsize=8)
            axes.set_xscale("symlog", linthresh=0.3)
            axes.set_yscale("log")
            axes.set_xlabel("false alarms per hour")
        grid[0][0].set_ylabel("mean delay, s")
        handles, labels = grid[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(names), fontsize=8)

    rows = -(-len(streams) // 4)
    return as_svg("recovery", (2.5 * min(len(streams), 4) + 0.5, 2.6 * rows + 0.5), draw)


def _points(study: Study, stream: str, name: str) -> tuple[list[float], list[float]]:
    own = [s for s in study.scores if s.detector == name]
    pairs = []
    for threshold in sorted({s.threshold for s in own}):
        at = [s for s in own if s.threshold == threshold]
        false = max(s.false_per_hour for s in at if s.kind == "steady")
        delays = [s.delay_s for s in at if s.stream == stream]
        if delays and np.isfinite(delays[0]):
            pairs.append((false, delays[0]))
    return [p[0] for p in pairs], [p[1] for p in pairs]


def save(study: Study, effects: Sequence[Effect], out: Path, page: Path | None = None) -> Path:
    """Write rows, figure and page.

    Raises:
        ConfigError: the folder cannot be written.
    """
    page = page or out / "recovery.md"
    scores = [{"split": "tuning", **s.row()} for s in study.tuning]
    scores += [{"split": "evaluation", **s.row()} for s in study.scores]
    save_rows(scores, out / "detection.parquet")
    save_rows([row for effect in effects for row in effect.rows()], out / "effect.parquet")
    write_page(page.with_name(FIGURE), curves(study))
    write_page(page, text(study, effects))
    return page


def text(study: Study, effects: Sequence[Effect]) -> str:
    """The page."""
    seeds = max(s.seeds for s in study.scores)
    return render(
        "recovery.md.j2",
        version=__version__,
        quick=QUICK_WARNING if study.quick else "",
        headings=headings(study),
        lines=lines(study),
        chosen=study.chosen,
        most=MOST_FALSE,
        load=LOAD,
        loads=", ".join(f"{x:g}" for x in LOADS),
        seeds=seeds,
        figure=FIGURE,
        effects=effects,
        forms=FORMS,
        findings=findings(effects),
        numbers=list(walk(RecoveryConfig())),
    )
