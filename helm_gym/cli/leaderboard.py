"""``leaderboard`` and ``goodput``: what the rows of a benchmark say, and what a policy sustains."""

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
    cores,
    load_scenario,
    reported,
)


@app.command()
@reported
def leaderboard(
    rows: Annotated[
        Path | None,
        typer.Argument(help="Rows of helm-gym bench: a Parquet file, or a folder; the published."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The Markdown page.")] = Path(
        "LEADERBOARD.md"
    ),
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; fail if OUT is not what the rows say.")
    ] = False,
    page: Annotated[
        Path | None, typer.Option(help="Write an HTML page with plots too, such as bench.html.")
    ] = None,
    schedules: Annotated[
        Path | None, typer.Option(help="Folder of helm-gym hindsight, for the page.")
    ] = None,
    searches: Annotated[
        Path | None, typer.Option(help="Folder of helm-gym searches; that of the package.")
    ] = None,
    reference: Annotated[str, typer.Option(help="Policy that scores refer to.")] = "static:best",
) -> None:
    """Rank the policies of a benchmark, with intervals; or check that a page is up to date."""
    from helm_gym.benchmark import leaderboard as room
    from helm_gym.benchmark import standings_page
    from helm_gym.benchmark.arrange import load_rows
    from helm_gym.benchmark.rows import PUBLISHED
    from helm_gym.benchmark.searches import FOLDER, load_searches
    from helm_gym.pages.templates import check_installed, write_page

    check_installed()
    rows = rows or PUBLISHED
    found = load_rows(rows)
    known = standings_page.of_the_same(load_searches(searches or FOLDER), found)
    text = standings_page.markdown(found, known) if known else room.markdown(found, reference)
    if check:
        room.check(text, out, f"helm-gym leaderboard {rows} --out {out}")
        typer.echo(f"{out} is what {rows} gives")
        return
    write_page(out, text)
    if known:
        write_page(out.parent / standings_page.PICTURE, standings_page.picture(found, known))
    typer.echo(f"leaderboard: {out}")
    if page is not None:
        from helm_gym.benchmark.page.page import render

        write_page(page, render(rows, reference, schedules))
        typer.echo(f"page: {page}")


@app.command()
@reported
def goodput(
    policies: Annotated[
        list[str], typer.Option("--policies", "-p", help="Policy spec; repeat for more.")
    ],
    scenario: ScenarioOption = "taobao-shift",
    seeds: Annotated[int, typer.Option(min=1, max=10_000, help="Held-out seeds.")] = 5,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Rows; the same command goes on with them.")
    ] = Path("runs/goodput.parquet"),
    processes: Annotated[int | None, typer.Option(min=1, help="Worker processes.")] = None,
    settings: SetOption = None,
    allow: AllowOption = None,
    quiet: QuietOption = False,
) -> None:
    """Find the highest load at which each policy's P99 meets the SLO, seed by seed."""
    from helm_gym.benchmark import goodput as room
    from helm_gym.console import show
    from helm_gym.suites.seeds import EVALUATION_SEEDS

    found = room.measure(
        load_scenario(scenario, settings),
        policies,
        seeds=EVALUATION_SEEDS[:seeds],
        out=out,
        processes=cores(processes),
        progress=not quiet,
        allow=allow or (),
    )
    show(room.table(found))
    typer.echo(f"rows: {out}")
