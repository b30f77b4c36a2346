"""``bench``: many policies on the suite, in rows that anybody can run again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from helm_gym.cli.shared import AllowOption, QuietOption, app, cores, reported
from helm_gym.errors import ConfigError

NOT_REPRODUCED = 1


@app.command()
@reported
def bench(
    more: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SPEC]...", help="More policies, as in --policies A B C."),
    ] = None,
    suite: Annotated[
        str,
        typer.Option(help="paper, a shipped scenario, a YAML file, or a folder."),
    ] = "paper",
    policies: Annotated[
        list[str] | None,
        typer.Option("--policies", "-p", help="static:best, my_module:MyPolicy, ppo:PATH, ..."),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Test seeds; 5, or 2 with --quick.")
    ] = None,
    loads: Annotated[str | None, typer.Option(help="As in 0.8,0.95.")] = None,
    routers: Annotated[str | None, typer.Option(help="As in foresight,kv_affinity.")] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            min=2, help="Windows per episode; whole episodes of the suite, else ten minutes."
        ),
    ] = None,
    logs: Annotated[
        list[str] | None,
        typer.Option("--log", help="With paper: replay NAME=PATH,overlay=270; repeat for more."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder; a stopped benchmark goes on there.")
    ] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Worker processes.")] = None,
    backend: Annotated[str, typer.Option(help="loky, this machine; ray, a Ray cluster.")] = "loky",
    budget_ms: Annotated[
        float, typer.Option("--budget-ms", help="Mean time that a decision may take.")
    ] = 50.0,
    tuned: Annotated[
        Path | None, typer.Option(help="File of helm-gym tune; what comes with the package.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Episodes of one minute; the suite at one load.")
    ] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Run failed rows again.")] = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write OUT/tensorboard, for HParams.")
    ] = False,
    splits: Annotated[
        bool, typer.Option("--splits", help="Show what is held out; no run.")
    ] = False,
    replay: Annotated[
        str | None,
        typer.Option(metavar="ROW", help="Run a row again: rows.parquet#17, or JSON."),
    ] = None,
    allow: AllowOption = None,
    quiet: QuietOption = False,
) -> None:
    """Benchmark policies on held-out request streams, and keep rows that can be run again."""
    from helm_gym.console import show

    if splits:
        from helm_gym.suites.splits import check_splits, split_table

        check_splits()
        show(split_table())
        return
    if replay is not None:
        _replay(replay, allow or ())
        return
    from helm_gym.benchmark import hparams as bench_hparams
    from helm_gym.benchmark import run as room
    from helm_gym.benchmark.plan import make_plan
    from helm_gym.benchmark.tuning import TUNED, load_tuned

    if tensorboard:
        bench_hparams.check_installed()
    plan = make_plan(
        suite,
        [*(policies or ()), *(more or ())],
        seeds or (2 if quick else 5),
        loads=_numbers(loads),
        routers=None if routers is None else _listed(routers),
        steps=steps,
        quick=quick,
        budget_ms=budget_ms,
        logs=logs or (),
        allow=allow or (),
        tuned=load_tuned(tuned or TUNED) if tuned or TUNED.is_file() else None,
    )
    folder = out or Path("runs/bench-quick" if quick else "runs/bench")
    try:
        found = room.run_bench(
            plan,
            folder,
            processes=cores(jobs),
            backend=backend,
            retry=retry,
            progress=not quiet,
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"stopped; the same command goes on with {folder}") from None
    show(room.summary(found))
    for policy, rows in found.failed.items():
        typer.echo(f"failed: {policy}, {len(rows)} rows, the first because: {rows[0]['reason']}")
    if tensorboard:
        bench_hparams.write_hparams(found.rows, folder / "tensorboard")
        typer.echo(f"tensorboard: tensorboard --logdir {folder / 'tensorboard'}")
    typer.echo(f"rows: {found.path} ({len(found.rows)} asked for, {found.ran} run now)")


def _replay(reference: str, allow: Sequence[str]) -> None:
    from helm_gym.benchmark.replay import find_row
    from helm_gym.benchmark.replay import replay as again

    result = again(find_row(reference), allow)
    for line in result.lines():
        typer.echo(line)
    if not result.same:
        raise typer.Exit(NOT_REPRODUCED)


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _numbers(text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        return [float(part) for part in _listed(text)]
    except ValueError:
        raise ConfigError(f"--loads {text}: write numbers, as in 0.8,0.95") from None
