"""What a person sees in a terminal: the one progress bar on stderr, and tables on stdout."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID
    from rich.table import Table

NAME_WIDTH = 14  # characters that the first column of a wide table has at least


class Bar:
    """A progress bar with the time left and a note behind it; made by :func:`progress_bar`."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task

    def advance(self, amount: int = 1, note: str | None = None) -> None:
        """Add to what is done, and replace the note if one is given."""
        self._progress.update(self._task, advance=amount, **_fields(note))

    def show(self, done: int, total: int | None = None, note: str | None = None) -> None:
        """Set what is done, and replace the total or the note if they are given."""
        self._progress.update(self._task, completed=done, total=total, **_fields(note))

    def say(self, text: str) -> None:
        """Print a line above the bar, also where no bar is shown."""
        self._progress.console.print(text, highlight=False, markup=False)


def _fields(note: str | None) -> dict[str, Any]:
    return {} if note is None else {"note": note}


@contextmanager
def progress_bar(
    title: str,
    total: int | None,
    *,
    wanted: bool,
    done: int = 0,
    note: str = "",
    transient: bool = True,
) -> Iterator[Bar]:
    """Show a progress bar on stderr while the block runs.

    Args:
        title: what is being done, such as ``scoring``.
        total: amount of work; None if it is not known yet.
        wanted: False shows nothing, and every call of the bar is cheap.
        done: work that an earlier run has done.
        note: free text behind the bar, such as ``12/40 rows, 1 failed``.
        transient: remove the bar at the end.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        TaskProgressColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not wanted, transient=transient) as progress:
        yield Bar(progress, progress.add_task(title, total=total, completed=done, note=note))


def make_table(
    headings: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    title: str = "",
    caption: str = "",
    left: int = 1,
    plain: bool = False,
) -> Table:
    """A table of plain text for a terminal.

    Args:
        headings: one per column.
        rows: cells as text, as many as there are headings; brackets in them are shown as they are.
        title: line above the table.
        caption: line below the table.
        left: how many columns, from the left, hold words; the others are aligned to the right.
        plain: for wide tables: leave out the frame, break long words and never break numbers.
    """
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=title or None, caption=caption or None)
    if plain:
        table.box, table.pad_edge, table.caption_justify = box.SIMPLE_HEAVY, False, "left"
    for place, heading in enumerate(headings):
        words = place < left
        table.add_column(
            escape(heading),
            justify="left" if words else "right",
            overflow="fold" if plain else "ellipsis",
            no_wrap=plain and not words,
            min_width=NAME_WIDTH if plain and not place else None,
        )
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def show(*things: Any) -> None:
    """Print tables, or anything else that rich can print, on stdout."""
    from rich.console import Console

    console = Console()
    for thing in things:
        console.print(thing)
