"""``publish``: rows of a run, judged by the schedules of their streams, to be shipped."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from helm_gym.cli.shared import app, reported


@app.command()
@reported
def publish(
    runs: Annotated[Path, typer.Argument(help="Folder of helm-gym bench.")],
    out: Annotated[Path | None, typer.Option(help="The Parquet file; that of the package.")] = None,
    searches: Annotated[
        Path | None, typer.Option(help="Folder of helm-gym searches; that of the package.")
    ] = None,
) -> None:
    """Write the rows of a run as published ones, with what they are worth beside the schedule."""
    from helm_gym.benchmark import judging
    from helm_gym.benchmark.rows import PUBLISHED
    from helm_gym.benchmark.searches import FOLDER, load_searches

    file = out or PUBLISHED / "paper-v2.parquet"
    rows = judging.publish(runs, load_searches(searches or FOLDER), file)
    judged = sum(row.get("distance") is not None for row in rows)
    typer.echo(f"published: {file} ({len(rows)} rows, {judged} beside a schedule)")
