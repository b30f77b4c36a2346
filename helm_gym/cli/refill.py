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
    out: Annotated[Path, typer.Option(help="Folder; a stopped study goes on there.")] = Path(
        "runs/refill"
    ),
    page: Annotated[Path | None, typer.Option(help="Write the Markdown page.")] = None,
    settings: SetOption = None,
    quiet: QuietOption = False,
) -> None:
    """Compare refill modes on the trend and burst cells of the suite."""
    from helm_gym.console import show
    from helm_gym.pages.templates import write_page
    from helm_gym.studies.refill import page as report
    from helm_gym.studies.refill import plan as room

    study = room.run_study(quick=quick, settings=parse_pairs(settings), out=out, progress=not quiet)
    show(*report.tables(study))
    if page is not None:
        write_page(page, report.page(study))
        typer.echo(f"page: {page}")
