"""``refill``: what refill modes are worth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from helm_gym.cli.shared import QuietOption, SetOption, app, parse_pairs, reported


@app.command()
@reported
def refill(
    quick: Annotated[bool, typer.Option("--quick", help="Two cells, two seeds, a minute.")] = False,
    page: Annotated[Path | None, typer.Option(help="Write the Markdown page.")] = None,
    settings: SetOption = None,
    quiet: QuietOption = False,
) -> None:
    """Compare refill modes on the Trend and Burst cells of the paper suite."""
    from rich.console import Console
    from rich.progress import Progress

    from helm_gym.files import write_text
    from helm_gym.studies.refill import page as report
    from helm_gym.studies.refill import plan as room

    with Progress(console=Console(stderr=True), disable=quiet, transient=True) as bar:
        task = bar.add_task("refill", total=room.cases(quick))
        study = room.run_study(
            quick=quick, settings=parse_pairs(settings), tick=lambda: bar.advance(task)
        )
    for table in report.tables(study):
        Console().print(table)
    if page is not None:
        page.parent.mkdir(parents=True, exist_ok=True)
        write_text(page, report.page(study))
        typer.echo(f"page: {page}")
