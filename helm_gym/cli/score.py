"""``score``: one number for one policy in under a minute, and its worst moment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from helm_gym.cli.shared import AllowOption, QuietOption, app, cores, reported
from helm_gym.errors import ConfigError


@app.command()
@reported
def score(
    spec: Annotated[
        str | None,
        typer.Argument(metavar="[SPEC]", help="my_module:MyPolicy, balance:gain=0.6, ppo:PATH ..."),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write everything as data.")
    ] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Worker processes; 2.")] = None,
    budget_ms: Annotated[
        float, typer.Option("--budget-ms", help="Mean time that a decision may take.")
    ] = 50.0,
    search: Annotated[
        bool,
        typer.Option("--search", help="Make schedules that the package lacks; minutes for each."),
    ] = False,
    folder: Annotated[
        Path | None, typer.Option(help="Where the schedules lie, if not in the package.")
    ] = None,
    allow: AllowOption = None,
    quiet: QuietOption = False,
) -> None:
    """Score a policy from 0, a share of one half, to 1, a schedule that knew the requests."""
    from helm_gym.benchmark import yardsticks

    where = folder or yardsticks.FOLDER
    if (spec is None) != search:
        raise ConfigError("name one policy, as in helm-gym score balance, or write --search alone")
    if spec is None:
        _search(where, jobs or 1, not quiet)
        return
    from helm_gym.benchmark import scoring_report as report
    from helm_gym.benchmark.scoring import score_policy
    from helm_gym.console import show
    from helm_gym.files import write_text
    from helm_gym.store import writing

    scored = score_policy(
        spec,
        jobs=cores(jobs),
        allow=allow or (),
        budget_ms=budget_ms,
        folder=where,
        progress=not quiet,
    )
    show(report.table(scored))
    for sentence in report.findings(scored):
        typer.echo(f"* {sentence}")
    if json_file is not None:
        with writing(json_file):
            write_text(json_file, json.dumps(report.record(scored)) + "\n")
        typer.echo(f"data: {json_file}")


def _search(folder: Path, jobs: int, progress: bool) -> None:
    from helm_gym.benchmark.yardsticks import make_all
    from helm_gym.suites.score_draws import draws

    found = make_all(draws(), folder, processes=jobs, progress=progress)
    typer.echo(f"schedules: {folder} ({len(found)})")
