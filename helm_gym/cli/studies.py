"""``fidelity``, ``sensitivity``, ``atlas`` and ``suite``: how far numbers hold, and where."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from helm_gym.cli.shared import (
    QuietOption,
    ScenarioOption,
    SetOption,
    app,
    cores,
    load_scenario,
    print_study,
    reported,
)


@app.command()
@reported
def sensitivity(
    scenario: ScenarioOption = "taobao-shift",
    only: Annotated[
        list[str] | None,
        typer.Option(help="A number's path, or its beginning, such as emb; repeat for more."),
    ] = None,
    policies: Annotated[
        list[str] | None,
        typer.Option("--policies", "-p", help="Ranked beside static:best; repeat for more."),
    ] = None,
    points: Annotated[int, typer.Option(help="Values per number: 3, or 5.")] = 3,
    seeds: Annotated[
        int | None, typer.Option(min=1, max=10_000, help="Held-out episodes per policy.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A smoke test of under a minute.")] = False,
    out: Annotated[Path, typer.Option(help="Folder; a stopped study goes on there.")] = Path(
        "runs/sensitivity"
    ),
    page: Annotated[
        Path | None, typer.Option(help="The page; OUT/sensitivity.md by default.")
    ] = None,
    processes: Annotated[int | None, typer.Option(min=1, help="Worker processes.")] = None,
    settings: SetOption = None,
    quiet: QuietOption = False,
) -> None:
    """Move every assumed number over its range: what happens to shares, P99 and rankings."""
    from rich.console import Console

    from helm_gym.studies.sensitivity import page as report
    from helm_gym.studies.sensitivity import run as room

    study = room.run_sensitivity(
        load_scenario(scenario, settings),
        only=only or (),
        specs=policies or room.DEFAULT_POLICIES,
        points=points,
        quick=quick,
        seeds=seeds,
        out=out,
        processes=processes,
        progress=not quiet,
    )
    written = report.save(study, out, page)
    print_study(
        report.table(study, Console().width),
        report.findings(study),
        report.QUICK_WARNING if study.quick else None,
        written,
        out / "sensitivity.parquet",
    )


@app.command()
@reported
def fidelity(
    data: Annotated[
        Path | None,
        typer.Option(
            envvar="HELM_GYM_DATA", help="Folder with calibration/ and traces/; else without."
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Fewer points, in a minute; not the card's errors.")
    ] = False,
    out: Annotated[Path, typer.Option(help="Folder; a stopped run goes on there.")] = Path(
        "runs/fidelity"
    ),
    only: Annotated[
        list[str] | None,
        typer.Option(help="kernels, links, emb, kv, queues or workload; repeat for more."),
    ] = None,
    processes: Annotated[int, typer.Option(min=1, help="Comparisons at a time.")] = 2,
    quiet: QuietOption = False,
) -> None:
    """Compare the parts of the model with measurements and exact models; write the card."""
    import datetime

    from helm_gym.console import show
    from helm_gym.fidelity import card, page
    from helm_gym.fidelity.finding import Effort
    from helm_gym.pages.templates import check_installed

    check_installed()
    results = card.run(
        Effort(data, quick), out, only=only or (), processes=processes, progress=not quiet
    )
    paths = page.save(results, out, datetime.date.today().isoformat())
    show(page.table(results))
    for sentence in page.misses(results):
        typer.echo(f"missed: {sentence}")
    for path in paths:
        typer.echo(f"card: {path}")


@app.command()
@reported
def atlas(
    quick: Annotated[bool, typer.Option("--quick", help="A smoke test of a minute or so.")] = False,
    out: Annotated[Path, typer.Option(help="Folder; a stopped atlas goes on there.")] = Path(
        "runs/atlas"
    ),
    page: Annotated[Path | None, typer.Option(help="The page; OUT/atlas.md by default.")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Worker processes.")] = None,
    at: Annotated[
        str | None,
        typer.Option(help="Measure nothing; answer for history=8000,candidates=512,... from OUT."),
    ] = None,
    quiet: QuietOption = False,
) -> None:
    """Map the best static share over workloads, and what a single share loses."""
    from helm_gym.pages.templates import check_installed
    from helm_gym.studies.atlas import page as report
    from helm_gym.studies.atlas import run as room
    from helm_gym.studies.atlas.points import parse_at
    from helm_gym.studies.atlas.rule import pairs

    if at is not None:
        for line in report.answer(room.load(out), parse_at(at)):
            typer.echo(line)
        return
    check_installed()
    rows = room.run_atlas(out, quick=quick, jobs=cores(jobs), progress=not quiet)
    written = page or out / "atlas.md"
    report.save(rows, written, quick)
    print_study(
        None,
        report.summary(rows, pairs(rows)),
        report.QUICK_WARNING if quick else None,
        written,
        out / "atlas.parquet",
    )
