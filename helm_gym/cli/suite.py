"""``suite``: what the suite of moving optima is made of, and the page about it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from helm_gym.cli.shared import QuietOption, app, cores, reported

suite_app = typer.Typer(help="The suite: frozen scenarios.", no_args_is_help=True)
app.add_typer(suite_app, name="suite")


@suite_app.command("measure")
@reported
def suite_measure(
    out: Annotated[
        Path | None, typer.Option(help="The table; one that is there already is completed.")
    ] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Worker processes.")] = None,
) -> None:
    """Measure what static shares carry in every stretch of the suite (some 15 min)."""
    from helm_gym.suites import moving

    path = out or moving.CAPACITIES
    moving.measure(path, jobs=cores(jobs), say=typer.echo)
    typer.echo(f"table: {path}")


@suite_app.command("freeze")
@reported
def suite_freeze(
    folder: Annotated[Path, typer.Option(help="Where the files go.")],
) -> None:
    """Write the scenario files of the suite from what was measured."""
    from helm_gym.suites import moving

    for path in moving.freeze(folder):
        typer.echo(path)


@suite_app.command("variants")
@reported
def suite_variants(
    out: Annotated[Path | None, typer.Option(help="Folder; that of the package.")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Worker processes.")] = None,
    quiet: QuietOption = False,
) -> None:
    """Search what the prize depends on: nearer ends, the hour table, a table that fits."""
    from helm_gym.benchmark import variants

    folder = out or variants.FOLDER
    found = variants.make_all(folder, processes=cores(jobs), progress=not quiet)
    for one in found:
        typer.echo(f"{one.label}: distance {one.distance:.2f}, headroom {one.headroom:.2f}")
    typer.echo(f"variants: {folder}")


@suite_app.command("page")
@reported
def suite_page(
    rows: Annotated[
        Path | None, typer.Argument(help="Rows of helm-gym bench; the published ones.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The Markdown page.")] = Path(
        "docs/suite.md"
    ),
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; fail if OUT is not what the rows say.")
    ] = False,
) -> None:
    """Write the suite's page: where the optimum lies, and what following it is worth."""
    from helm_gym.benchmark import leaderboard, suite_page, variants
    from helm_gym.benchmark.arrange import load_rows
    from helm_gym.benchmark.rows import PUBLISHED
    from helm_gym.benchmark.searches import load_late, load_searches
    from helm_gym.benchmark.standings_page import of_the_same
    from helm_gym.pages.templates import check_installed, write_page

    check_installed()
    points = variants.load()
    found = load_rows(rows or PUBLISHED)
    searches = of_the_same(load_searches(), found)
    page = suite_page.markdown(found, searches, load_late(), points)
    if check:
        leaderboard.check(page, out, f"helm-gym suite page --out {out}")
        typer.echo(f"{out} is what its rows say")
        return
    write_page(out, page)
    if points:
        write_page(out.with_suffix(".svg"), suite_page.picture(points))
    typer.echo(f"page: {out}")
