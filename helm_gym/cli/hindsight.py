"""``hindsight``: the best schedule of a known request stream, and policies against it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from helm_gym.cli.shared import (
    AllowOption,
    QuietOption,
    ScenarioOption,
    SetOption,
    app,
    load_scenario,
    reported,
)


@app.command()
@reported
def hindsight(
    scenario: ScenarioOption = "taobao-shift",
    policies: Annotated[
        list[str] | None,
        typer.Option("--policies", "-p", help="Compared with the schedule; repeat for more."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, max=10_000, help="Held-out request streams.")] = 1,
    objective: Annotated[
        str, typer.Option(help="What a schedule minimises: tail (P99) or a reward preset.")
    ] = "tail",
    fast: Annotated[
        bool,
        typer.Option("--fast", help="A fifth of the search: for hundreds of decisions."),
    ] = False,
    out: Annotated[Path, typer.Option(help="Folder; finished seeds are not repeated.")] = Path(
        "runs/hindsight"
    ),
    settings: SetOption = None,
    allow: AllowOption = None,
    quiet: QuietOption = False,
) -> None:
    """Find the best schedule in hindsight, and how far policies are from it."""
    from rich.console import Console

    from helm_gym.benchmark import hindsight as room
    from helm_gym.benchmark import hindsight_report as report
    from helm_gym.hindsight.search import FAST, FULL
    from helm_gym.store import save_rows
    from helm_gym.suites.seeds import EVALUATION_SEEDS

    found = room.compare(
        load_scenario(scenario, settings),
        policies or ["balance"],
        seeds=EVALUATION_SEEDS[:seeds],
        objective=objective,
        search=FAST if fast else FULL,
        out=out,
        progress=not quiet,
        allow=allow or (),
    )
    console = Console()
    console.print(report.table(found, console.width))
    for sentence in report.findings(found):
        typer.echo(f"* {sentence}")
    rows = out / "rows.parquet"
    save_rows(found.records(), rows)
    typer.echo(f"rows: {rows}")
    for path in report.paths(found, out):
        typer.echo(f"play it: helm-gym evaluate -p schedule:{path}")
