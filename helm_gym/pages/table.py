"""Tables of a page: cells that show one thing and are sorted by another."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Cell:
    """Text, and what it is sorted by: the number if there is one, else the text."""

    text: str
    value: float | None = None
    note: str = ""  # shown smaller, such as an interval
    tint: float | None = None  # 0 to 1; how strongly the cell is coloured

    @property
    def sort(self) -> str:
        """For the page's script: a number, or nothing."""
        return "" if self.value is None or math.isnan(self.value) else repr(self.value)


@dataclass(frozen=True)
class Table:
    """Rows under headings; ``name`` is how a link can ask for it to be sorted."""

    name: str
    headings: Sequence[str]
    rows: Sequence[Sequence[Cell]]


def words(text: str) -> Cell:
    """A cell that is sorted by its text."""
    return Cell(text)


def number(
    value: float | tuple[float, float, float], form: str = ".3f", tint: float | None = None
) -> Cell:
    """A cell that is sorted by its number.

    Args:
        value: the number, or (mean, low, high), whose interval is shown beside the mean.
        form: format of the numbers.
        tint: how strongly the cell is coloured, 0 to 1.
    """
    if not isinstance(value, tuple):
        return Cell("" if math.isnan(value) else format(value, form), value, tint=tint)
    mean, low, high = value
    note = "" if math.isnan(low) or low == high else f"[{low:{form}}, {high:{form}}]"
    return Cell("" if math.isnan(mean) else format(mean, form), mean, note, tint)


def with_interval(found: tuple[float, float, float], form: str = ".3f", scale: float = 1.0) -> str:
    """``0.912 [0.901, 0.925]``, without the ends or empty where they are not known.

    Args:
        found: mean, low and high.
        form: format of the numbers.
        scale: factor on all three, such as 100 for percent.
    """
    mean, low, high = (scale * x for x in found)
    if math.isnan(mean):
        return ""
    ends = "" if math.isnan(low) else f" [{low:{form}}, {high:{form}}]"
    return f"{mean:{form}}{ends}"


def md_cell(text: object) -> str:
    """Text that cannot end a cell or its line of a Markdown table, nor be read as HTML."""
    if isinstance(text, Cell):
        text = f"{text.text} {text.note}"
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")


def md_cells(line: Iterable[object]) -> str:
    """The inside of a line of a Markdown table."""
    return " | ".join(map(md_cell, line))
