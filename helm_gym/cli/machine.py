"""``speed`` and ``warmup``: this installation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from helm_gym.cli.shared import (
    QuietOption,
    app,
    reported,
)


@app.command()
@reported
def speed(
    quick: Annotated[bool, typer.Option("--quick", help="Fewer and shorter repeats.")] = False,
    cold: Annotated[bool, typer.Option("--cold", help="Time compilation too.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="Write the figures as JSON."),
    ] = None,
    quiet: QuietOption = False,
) -> None:
    """Measure time and memory of this installation, beside known yardsticks."""
    from helm_gym.studies.speed.speed import run_speed

    run_speed(quick=quick, cold=cold, out=out, progress=not quiet)


@app.command()
@reported
def warmup() -> None:
    """Compile all kernels now, so that no later run waits for it."""
    from helm_gym.runs.warmup import warm_up

    seconds, folder = warm_up()
    typer.echo(f"kernels are ready after {seconds:.1f} s, in {folder}")
