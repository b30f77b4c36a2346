"""``results``: the three-layer controller against what it has to beat, run and written down."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from helm_gym.cli.shared import QuietOption, app, cores, reported
from helm_gym.errors import ConfigError

if TYPE_CHECKING:
    from helm_gym.studies.results.plan import System


@app.command()
@reported
def results(
    policies: Annotated[
        list[str] | None,
        typer.Option("--policies", "-p", help="Instead of all; static:best has to be there."),
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="Router of the full system; the plan's by default.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Test seeds; 5, or 2 with --quick.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=2, help="Windows per episode; ten minutes by default.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of rows; a stopped run goes on there.")
    ] = None,
    rows: Annotated[
        Path | None, typer.Option(help="Run nothing: write the page of these rows.")
    ] = None,
    searched: Annotated[
        Path | None, typer.Option(help="Rows whose searches are used again, where they fit.")
    ] = None,
    hindsight: Annotated[
        Path | None, typer.Option(help="Folder of helm-gym hindsight; SCHEDULES beside the rows.")
    ] = None,
    page: Annotated[
        Path | None, typer.Option(help="The Markdown page; docs/results.md by default.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write the same as HTML, with every system in every cell.")
    ] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Worker processes.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Episodes of one minute at one load, two seeds.")
    ] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Run failed rows again.")] = False,
    quiet: QuietOption = False,
) -> None:
    """Run the controller, its parts and its opponents; write which targets are missed and met."""
    from helm_gym.pages.templates import check_installed
    from helm_gym.studies.results import page as room
    from helm_gym.studies.results import plan

    check_installed()
    router = plan.known_router(scheduler or plan.SCHEDULER)
    if rows is not None and (searched is not None or retry or seeds or steps):
        raise ConfigError("--rows runs nothing: leave out --searched, --retry, --seeds and --steps")
    if hindsight is not None and not hindsight.is_dir():
        raise ConfigError(f"--hindsight {hindsight}: is no folder; helm-gym hindsight writes one")
    folder = out or Path("runs/results-quick" if quick else "runs/results")
    where = rows
    if where is None:
        those = plan.systems(policies, router, quick)
        where = _run(those, folder, seeds, steps, searched, jobs, quick, retry, quiet)
    study, notes = room.read_study(
        where, scheduler=router, policies=policies, schedules=hindsight, progress=not quiet
    )
    file = page or (folder / "results.md" if quick else Path("docs/results.md"))
    command = _command(
        quick=quick, policies=policies, scheduler=scheduler, seeds=seeds, steps=steps, rows=rows,
        searched=searched, hindsight=hindsight,
    )  # fmt: skip
    room.write(study, file, html, notes, command)
    for line in room.verdicts(study):
        typer.echo(line)
    typer.echo(f"page: {file}" + (f", {html}" if html else ""))


def _run(
    those: list[System],
    folder: Path,
    seeds: int | None,
    steps: int | None,
    searched: Path | None,
    jobs: int | None,
    quick: bool,
    retry: bool,
    quiet: bool,
) -> Path:
    """Run what is missing; the file of rows."""
    from helm_gym.benchmark.run import run_bench
    from helm_gym.studies.results import plan

    n_seeds = seeds or (plan.QUICK_SEEDS if quick else plan.SEEDS)
    planned = plan.make_jobs(those, n_seeds, quick=quick, steps=steps)
    if searched is not None:
        found = plan.use_searches(planned, searched, folder)
        typer.echo(f"searches: {found.known} of {found.of} are known from {searched}")
    try:
        done = run_bench(planned, folder, processes=cores(jobs), retry=retry, progress=not quiet)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"stopped; the same command goes on with {folder}") from None
    for policy, bad in done.failed.items():
        typer.echo(f"failed: {policy}, {len(bad)} rows, the first because: {bad[0]['reason']}")
    typer.echo(f"rows: {done.path} ({len(done.rows)} asked for, {done.ran} run now)")
    return done.path


def _command(**options: object) -> str:
    """What makes the page again: the options that decide what it says."""
    import shlex

    words = ["helm-gym", "results"]
    for name, value in options.items():
        if value is True:
            words.append(f"--{name}")
        elif isinstance(value, list):
            words += [word for one in value for word in ("-p", str(one))]
        elif value:
            words += [f"--{name}", str(value)]
    return shlex.join(words)
