"""The refill study as tables, for the terminal and as a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from helm_gym._version import __version__
from helm_gym.config.scenario import Refill
from helm_gym.console import make_table
from helm_gym.pages.templates import render
from helm_gym.runs.stats import Interval
from helm_gym.studies.refill.plan import (
    AFTER_S,
    EPISODE,
    MODES,
    STARVED,
    STEPPED,
    WINDOW_S,
    Line,
    Study,
)

if TYPE_CHECKING:
    from rich.table import Table

DIGITS = {"tail_ms": 1, "slo_satisfaction": 4, "refill_gb": 0, "filled_s": 0, "worst_ms": 0}
BETTER = {"tail_ms": -1, "slo_satisfaction": 1}
"""Which way a figure is better."""


def cells_of(line: Line, figures: Mapping[str, str]) -> list[str]:
    """Every figure of a line, as naive / throttled / paced."""
    return [
        " / ".join(f"{line.mean(mode, name):.{DIGITS[name]}f}" for mode in MODES)
        for name in figures
    ]


def difference(found: Interval, figure: str) -> str:
    """A difference with its interval; a star where the interval excludes zero."""
    digits = DIGITS[figure]
    text = f"{found.mean:+.{digits}f} [{found.low:+.{digits}f}, {found.high:+.{digits}f}]"
    return f"{text}*" if found.excludes_zero else text


def counts(lines: Sequence[Line], other: str, figure: str) -> dict[str, int]:
    """In how many lines paced is better than another mode, worse, or neither beyond doubt."""
    gains = [line.gain(figure, other) for line in lines]
    sure = [gain.mean * BETTER[figure] > 0 for gain in gains if gain.excludes_zero]
    better = sum(sure)
    return {"better": better, "worse": len(sure) - better, "open": len(gains) - len(sure)}


def tables(study: Study) -> list[Table]:
    """Tables for the terminal."""
    meaning = f"{' / '.join(MODES)}, mean of {len(study.seeds)} seeds"
    return [
        make_table(
            ("cell", "load", "policy", *figures.values()),
            [(x.cell, f"{x.load:g}", x.policy, *cells_of(x, figures)) for x in lines],
            title=f"{title}: {meaning}",
            left=3 + len(figures),
            plain=True,
        )
        for title, lines, figures in (
            ("policies", study.episodes, EPISODE),
            ("a step of the share", study.steps, STEPPED),
        )
    ]


def page(study: Study) -> str:
    """The study as Markdown."""
    return render(
        "refill.md.j2",
        study=study,
        version=__version__,
        paced=Refill(mode="paced"),
        episode=EPISODE,
        stepped=STEPPED,
        cells_of=cells_of,
        difference=difference,
        counts=counts,
        step_window=WINDOW_S,
        after=AFTER_S,
        starved=STARVED,
    )
