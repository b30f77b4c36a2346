"""``adapt``: whether a residual that is learned online helps on drifts that its base never saw."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from helm_gym.cli.shared import QuietOption, ThreadsOption, app, cores, reported
from helm_gym.errors import ConfigError


@app.command()
@reported
def adapt(
    policy: Annotated[
        list[str] | None,
        typer.Option(
            "--policy", "-p", help="The base first, then what is compared with it; repeat."
        ),
    ] = None,
    log: Annotated[
        list[str] | None,
        typer.Option("--log", help="A replay too: NAME=PATH[,SETTING=VALUE...]; repeat for more."),
    ] = None,
    drift: Annotated[
        list[str] | None,
        typer.Option(help="Only drifts whose name contains this; repeat for more."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, max=10_000, help="Streams per drift.")] = 5,
    steps: Annotated[
        int | None, typer.Option(min=3, help="Decisions per stream; 360, half an hour.")
    ] = None,
    load: Annotated[float, typer.Option(help="Of what the best static share carries.")] = 0.95,
    out: Annotated[Path, typer.Option(help="Folder for results.")] = Path("runs/adapt"),
    threads: ThreadsOption = None,
    quiet: QuietOption = False,
) -> None:
    """Compare a frozen base with what adapts it, on long streams that drift."""
    from helm_gym.console import show
    from helm_gym.pages.templates import write_page
    from helm_gym.studies.adaptation import study as room

    scenarios = room.drifts(log or (), steps or room.STEPS, load)
    if drift:
        known = ", ".join(scenarios)
        scenarios = {n: s for n, s in scenarios.items() if any(part in n for part in drift)}
        if not scenarios:
            raise ConfigError(f"no drift has {' or '.join(drift)} in its name; there are {known}")
    found = room.study(
        scenarios, policy or room.POLICIES, seeds=seeds, out=out, threads=cores(threads),
        progress=not quiet,
    )  # fmt: skip
    show(room.table(found))
    write_page(out / "adapt.md", room.markdown(found))
    write_page(out / "adapt.svg", room.figure(found) + "\n")
    typer.echo(f"table: {out / 'adapt.md'}, figure: {out / 'adapt.svg'}")
