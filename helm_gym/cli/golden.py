"""``golden`` and ``rekey``: whether the bits are still the same, and what follows for rows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from helm_gym.cli.shared import AllowOption, app, reported


@app.command()
@reported
def golden(
    write: Annotated[
        bool, typer.Option("--write", help="Store what comes out now, whatever was stored.")
    ] = False,
) -> None:
    """Play the golden trajectories, and fail unless every bit is as it was stored."""
    from helm_gym.evaluation.golden import GOLDEN, Golden, checked

    if write:
        Golden.play().save()
        typer.echo(f"stored in {GOLDEN}")
        return
    known = checked(Golden.load())
    typer.echo(f"all {len(known.trajectories)} golden trajectories are equal, bit for bit")


@app.command()
@reported
def rekey(
    files: Annotated[list[Path], typer.Argument(help="Parquet files of helm-gym bench.")],
    allow: AllowOption = None,
) -> None:
    """Give rows the digests of today's code; refused unless all golden trajectories are equal."""
    from helm_gym.benchmark.rekey import rekey as renew

    for file, count in renew(files, allow=allow or ()).items():
        typer.echo(f"{file}: {count} rows re-keyed")
