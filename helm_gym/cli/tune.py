"""``tune``: the settings of every rule for the suite, once per cell and once for all."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from helm_gym.cli.shared import QuietOption, app, cores, reported


@app.command()
@reported
def tune(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[RULE]...", help="Such as mpc; all rules.")
    ] = None,
    routers: Annotated[
        list[str] | None, typer.Option("--router", help="Of the suite; both.")
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder of scores; a stopped command goes on there.")
    ] = Path("runs/tune"),
    path: Annotated[
        Path | None, typer.Option("--file", help="What was found; that of the package.")
    ] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Worker processes.")] = None,
    quiet: QuietOption = False,
) -> None:
    """Tune rules for the suite of moving optima, all with the same search."""
    from helm_gym.benchmark import tuning
    from helm_gym.console import make_table, show
    from helm_gym.suites import moving

    file = path or tuning.TUNED
    found = tuning.tune(
        out,
        names=names or tuning.NAMES,
        routers=routers or moving.ROUTERS,
        path=file,
        processes=cores(jobs),
        progress=not quiet,
    )
    rows = [(one.router, one.best) for one in found.found if one.word == "suite"]
    show(make_table(("router", "tuned for the suite"), rows, left=2))
    typer.echo(f"tuned: {file} ({len(found.found)} searches)")
