"""``bursts``: how soon burst detectors speak, how often falsely, and what recovery does."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from helm_gym.cli.shared import QuietOption, app, print_study, reported


@app.command()
@reported
def bursts(
    quick: Annotated[
        bool, typer.Option("--quick", help="A smoke test, in under 2 minutes.")
    ] = False,
    log: Annotated[
        list[str] | None,
        typer.Option(help="An arrival trace, NAME=PATH[,time_column=t]; repeat for more."),
    ] = None,
    effect: Annotated[
        bool, typer.Option("--effect/--no-effect", help="Policies with and without recovery too.")
    ] = True,
    out: Annotated[
        Path, typer.Option(help="Folder for rows and page; a stopped run goes on there.")
    ] = Path("runs/bursts"),
    page: Annotated[Path | None, typer.Option(help="The page; OUT/recovery.md by default.")] = None,
    quiet: QuietOption = False,
) -> None:
    """Measure false alarms, detection delays, and what burst recovery does to policies."""
    from helm_gym.pages.templates import check_installed
    from helm_gym.studies.bursts import page as report
    from helm_gym.studies.bursts.detection import run_study
    from helm_gym.studies.bursts.effect import findings, run_effects

    check_installed()
    study = run_study(out, quick=quick, logs=log or (), progress=not quiet)
    effects = run_effects(out, quick=quick, progress=not quiet) if effect else []
    written = report.save(study, effects, out, page)
    print_study(
        report.table(study),
        findings(effects),
        report.QUICK_WARNING if quick else None,
        written,
        out / "detection.parquet",
    )
