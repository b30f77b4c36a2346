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
from helm_gym.errors import ConfigError


@app.command()
@reported
def speed(
    against: Annotated[
        str | None,
        typer.Option(
            metavar="REV", help="Compare the working tree with this git revision, in pairs."
        ),
    ] = None,
    control: Annotated[
        bool, typer.Option("--control", help="With --against: REV beside itself, too.")
    ] = False,
    train: Annotated[
        bool, typer.Option("--train", help="With --against: a training of one round, too.")
    ] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer and shorter repeats.")] = False,
    cold: Annotated[bool, typer.Option("--cold", help="Time compilation too.")] = False,
    json: Annotated[
        Path | None,
        typer.Option(help="Add the figures to this history, and show those of the last time."),
    ] = None,
    quiet: QuietOption = False,
) -> None:
    """Measure time and memory of this installation, beside known yardsticks or another commit."""
    from helm_gym.studies.speed.report import run_against, run_speed

    if against is None:
        if control or train:
            raise ConfigError("--control and --train are for a comparison; add --against REV")
        run_speed(quick=quick, cold=cold, file=json, progress=not quiet)
        return
    if cold:
        raise ConfigError("--against compares what is warm; leave --cold out, or --against")
    run_against(against, quick=quick, control=control, train=train, file=json, progress=not quiet)


@app.command()
@reported
def warmup() -> None:
    """Compile all kernels now, so that no later run waits for it."""
    from helm_gym.runs.warmup import warm_up

    seconds, folder = warm_up()
    typer.echo(f"kernels are ready after {seconds:.1f} s, in {folder}")


@app.command("check-bounds")
@reported
def check_bounds(
    scenarios: Annotated[int, typer.Option(min=1, help="How many random scenarios.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of all of them.")] = 0,
    first: Annotated[int, typer.Option(min=0, help="Number of the first one, to go on.")] = 0,
    minutes: Annotated[float, typer.Option(min=0, help="No scenario begins after these.")] = 60.0,
    quiet: QuietOption = False,
) -> None:
    """Play random extreme scenarios with kernels that check every index."""
    from helm_gym.console import progress_bar
    from helm_gym.fidelity.bounds import check_bounds as run

    with progress_bar("scenarios", scenarios, wanted=not quiet, transient=False) as bar:
        found = run(scenarios, seed, first, minutes, lambda f: bar.show(f.next - first))
    typer.echo(
        f"{found.played} scenarios played, {found.requests:,} requests recorded, "
        f"{found.refused} draws refused as impossible, {found.stopped} stopped with an error that "
        f"names the setting, {len(found.slow)} given up as too slow {found.slow or ''}"
    )
    if found.next < first + scenarios:
        typer.echo(f"time is up: go on with --first {found.next}")
    for number, what in found.faults.items():
        typer.echo(f"FAULT in scenario {number} of seed {seed}: {what}")
    if found.faults:
        raise typer.Exit(1)
    typer.echo("no index left its array")
