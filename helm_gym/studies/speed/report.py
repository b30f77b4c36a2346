"""What ``helm-gym speed`` prints and keeps, alone and beside another revision."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helm_gym.provenance import machine
from helm_gym.studies.speed import against as pairs_room
from helm_gym.studies.speed import history
from helm_gym.studies.speed import speed as room
from helm_gym.studies.speed.against import CONTROL, OTHER, OURS, Comparison, Middle
from helm_gym.studies.speed.revisions import Repository
from helm_gym.studies.speed.speed import Speed

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def run_speed(
    *,
    quick: bool = False,
    cold: bool = False,
    file: Path | None = None,
    progress: bool = True,
    console: Console | None = None,
) -> Speed:
    """Measure this installation, print the table, and add it to a history if one is named.

    Args:
        quick: fewer and shorter repeats.
        cold: time compilation too.
        file: the history.
        progress: say on stderr what is being measured.
        console: prints; stdout by default.

    Raises:
        ConfigError: the history cannot be read or written.
    """
    before = history.records(file) if file else []  # refused before anything is measured
    speed = room.measure(quick, cold, progress)
    known = history.last(before, None, quick)
    _show(speed_table(speed, quick, known), console)
    if file is not None:
        measures = [asdict(m) for m in speed.measures]
        made = history.record(
            measures, against=None, quick=quick, load=speed.busy, skipped=speed.skipped
        )
        _keep(file, made, console)
    return speed


def run_against(
    revision: str,
    *,
    quick: bool = False,
    control: bool = False,
    train: bool = False,
    file: Path | None = None,
    progress: bool = True,
    console: Console | None = None,
    **more: Any,
) -> Comparison:
    """Compare the working tree with a revision; print and keep it as :func:`run_speed` does.

    Args:
        revision: any that git knows.
        quick: few rounds.
        control: time the revision twice.
        train: train too.
        file: the history.
        progress: show a progress bar on stderr.
        console: prints; stdout by default.
        more: for :func:`helm_gym.studies.speed.against.compare`.

    Raises:
        ConfigError: no git, no checkout, no such revision, or an unusable history.
        SimulationError: a side died.
    """
    before = history.records(file) if file else []
    repository = more.pop("repository", None) or Repository.of()
    found = pairs_room.compare(
        revision, quick=quick, control=control, train=train, progress=progress,
        load=room.load_average, repository=repository, **more,
    )  # fmt: skip
    known = history.last(before, found.commit.digest, quick)
    _show(comparison_table(found, quick, known), console)
    if file is not None:
        made = history.record(
            [p.plain() for p in found.pairs], against=found.commit.digest, quick=quick,
            load=found.loads[0], rounds=found.rounds, skipped=found.skipped,
        )  # fmt: skip
        _keep(file, made, console)
    return found


def speed_table(speed: Speed, quick: bool, known: history.Record | None = None) -> Table:
    """Figures with targets, and those of the last time."""
    caption = f"{machine()}; load average {speed.busy:.1f} at the start"
    numbers = ["median", "range", "target", *_last_heading(known)]
    table = _table(_title("helm-gym speed", quick), caption, numbers, "met")
    for m in speed.measures:
        met = {True: "yes", False: "[red]no[/red]", None: ""}[m.met]
        figures = (f"{_short(m.value)} {m.unit}", f"{_short(m.low)} .. {_short(m.high)}", m.target)
        table.add_row(m.name, *figures, *_last(known, m.name, "value"), met)
    for name, why in speed.skipped.items():
        table.add_row(name, "skipped", "", "", *_last(known, "", "value"), why)
    return table


def comparison_table(found: Comparison, quick: bool, known: history.Record | None = None) -> Table:
    """Both medians, the ratio with its interval, the control's, and the ratio of the last time."""
    state = (
        "the working tree as it is, with changes that are in no commit"
        if found.dirty
        else ("the working tree, which is as committed")
    )
    caption = (
        f"{state}, to {found.commit.short}: medians of {found.rounds} paired rounds, 95 %\n"
        f"{machine()}; load average {min(found.loads):.1f} to {max(found.loads):.1f}"
    )
    controlled = any(CONTROL in p.values for p in found.pairs)
    control = [f"{found.commit.digest[:8]} to itself"] if controlled else []
    numbers = ["this", found.commit.digest[:8], "ratio", *control, *_last_heading(known)]
    table = _table(_title("helm-gym speed --against", quick), caption, numbers, "")
    for p in found.pairs:
        ours, other = (statistics.median(p.values[side]) for side in (OURS, OTHER))
        noise = [_interval(p.ratio(CONTROL))] if controlled else []
        table.add_row(
            p.name, f"{_short(ours)} {p.unit}", f"{_short(other)} {p.unit}", _interval(p.ratio()),
            *noise, *_last(known, p.name, "ratio"), p.verdict,
        )  # fmt: skip
    for name, why in found.skipped.items():
        blank = [""] * (len(numbers) - 1)
        table.add_row(name, "skipped", *blank, why)
    return table


def _table(title: str, caption: str, numbers: Sequence[str], words: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(title=title, caption=caption, caption_justify="left", box=box.SIMPLE)
    table.add_column("what")
    for heading in numbers:
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column(words)
    return table


def _title(name: str, quick: bool) -> str:
    return f"{name} (--quick: rough)" if quick else name


def _last_heading(known: history.Record | None) -> list[str]:
    return [f"on {known['date'][:10]}"] if known else []


def _last(known: history.Record | None, name: str, what: str) -> list[str]:
    """The cell of the last time, if there is such a column."""
    if known is None:
        return []
    found = next((m for m in known["measures"] if m["name"] == name), None)
    return [_short(found[what]) if found else ""]


def _short(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def _interval(middle: Middle) -> str:
    if math.isnan(middle.low):
        return f"{middle.value:.2f}"
    return f"{middle.value:.2f} [{middle.low:.2f}, {middle.high:.2f}]".replace("[", r"\[")


def _show(table: Table, console: Console | None) -> None:
    from rich.console import Console

    (console or Console()).print(table)


def _keep(file: Path, made: history.Record, console: Console | None) -> None:
    from rich.console import Console

    history.append(file, made)
    (console or Console()).print(f"history: {file}", markup=False, highlight=False)
