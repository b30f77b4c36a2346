"""``routers``: which node serves a request, compared under signals of different ages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from helm_gym.cli.shared import QuietOption, app, cores, print_study, reported


@app.command()
@reported
def routers(
    cell: Annotated[
        list[str] | None,
        typer.Option(help="Part of a cell's name, such as taobao or burst; repeat for more."),
    ] = None,
    load: Annotated[
        list[float] | None, typer.Option(help="Fraction of capacity, 0.95; repeat for more.")
    ] = None,
    router: Annotated[
        list[str] | None, typer.Option(help="All by default; repeat for more.")
    ] = None,
    staleness: Annotated[
        list[float] | None,
        typer.Option(help="Milliseconds between two reports, 0, 50 and 200; repeat for more."),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, max=10_000, help="Test seeds; 5, or 2 with --quick.")
    ] = None,
    policy: Annotated[
        str, typer.Option("--policy", "-p", help="Decides the shares, the same for all routers.")
    ] = "static:best",
    steps: Annotated[int | None, typer.Option(min=2, help="Windows per episode.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A smoke test: four cells, a minute each.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder; a stopped comparison goes on there.")
    ] = None,
    page: Annotated[Path | None, typer.Option(help="The page; OUT/routers.md by default.")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Worker processes.")] = None,
    quiet: QuietOption = False,
) -> None:
    """Compare routers on the same requests and shares, with live and with stale signals."""
    from rich.console import Console

    from helm_gym.studies.routers import page as report
    from helm_gym.studies.routers import plan as room

    folder = out or Path("runs/routers-quick" if quick else "runs/routers")
    try:
        study = room.run_routers(
            folder,
            cells=cell or (),
            loads=load or room.LOADS,
            routers=router or room.KNOWN,
            staleness_ms=staleness,
            seeds=seeds,
            policy=policy,
            steps=steps,
            quick=quick,
            processes=cores(jobs),
            progress=not quiet,
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"stopped; the same command goes on with {folder}") from None
    written = page or folder / "routers.md"
    report.save(study, written)
    print_study(
        report.table(study, Console().width),
        report.findings(study),
        report.QUICK_WARNING if study.quick else None,
        written,
        folder / "routers.parquet",
    )
