"""``searches``: the hindsight schedules of the suite's moving cells, and those that learn late."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from helm_gym.cli.shared import QuietOption, app, cores, reported


@app.command()
@reported
def searches(
    first: Annotated[
        int | None, typer.Option(min=1, help="Make only so many; the suite has 72.")
    ] = None,
    routers: Annotated[
        list[str] | None, typer.Option("--router", help="Of the suite; both.")
    ] = None,
    late: Annotated[
        bool, typer.Option("--late", help="Then plan the schedules that learn of changes late.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder; a stopped command goes on. That of the package.")
    ] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Worker processes.")] = None,
    quiet: QuietOption = False,
) -> None:
    """Search for the schedules that the suite's gaps refer to: some two minutes each."""
    from helm_gym.benchmark import searches as room

    wanted = [job for job in room.all_jobs() if not routers or job.router in routers][:first]
    folder = out or room.FOLDER
    found = room.search_all(wanted, folder, processes=cores(jobs), progress=not quiet)
    typer.echo(f"searches: {folder} ({len(found)})")
    if late:
        beside = room.LATE_FOLDER if out is None else out.with_name(f"{out.name}-late")
        made = room.late_all(found, beside, processes=cores(jobs), progress=not quiet)
        typer.echo(f"late: {beside} ({len(made)})")
