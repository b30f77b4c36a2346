"""``calibrate`` and ``measure``: coefficients for another GPU, and the files to fit them to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from helm_gym.cli.shared import QuietOption, app, reported


@app.command()
@reported
def measure(
    out: Annotated[Path, typer.Option(help="Folder for the CSV files; the same one goes on.")],
    device: Annotated[
        str | None, typer.Option(help="cuda or cpu; cuda where torch finds a GPU.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Few small shapes: a first look in a minute.")
    ] = False,
    quiet: QuietOption = False,
) -> None:
    """Measure this machine's products, attention, embedding rows and host link."""
    from helm_gym.hardware.clock import chosen_device
    from helm_gym.hardware.measure import measure as run

    done = run(out, chosen_device(device), quick=quick, progress=not quiet)
    typer.echo(f"measured on {done.hardware}")
    for path in done.files:
        typer.echo(f"  {path}" + ("  (was there already)" if path.name in done.kept else ""))
    for reason in done.left_out:
        typer.echo(f"left out: {reason}")
    for reason in done.noisy:
        typer.echo(f"noisy: {reason}; measure again on an idle machine")
    for path in done.hosts:
        typer.echo(f"  {path}  (host preset)")
    if done.beside_d2h is not None:
        typer.echo(f"H2D beside D2H copies keeps {100 * done.beside_d2h:.0f} % of its bandwidth")
    typer.echo("next: helm-gym calibrate, as docs/measure.md shows")


@app.command()
@reported
def calibrate(
    out: Annotated[Path, typer.Option("--out", "-o", help="GPU preset to write, a YAML file.")],
    gemm: Annotated[Path | None, typer.Option(help="Matrix products: m, k, n.")] = None,
    attention: Annotated[Path | None, typer.Option(help="Causal prefill attention.")] = None,
    incremental: Annotated[
        Path | None, typer.Option(help="Attention of new tokens on cached ones.")
    ] = None,
    hstu_block: Annotated[
        Path | None, typer.Option(help="HSTU blocks, on any GPU: a check of the forms.")
    ] = None,
    h2d: Annotated[
        Path | None, typer.Option(help="Host-to-device copies; writes a host preset too.")
    ] = None,
    gpu: Annotated[
        str | None, typer.Option(help="Whose measurements they are; by default as in the files.")
    ] = None,
    engine: Annotated[
        str | None, typer.Option(help="Which `source` to fit; by default the largest.")
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(help="GPU preset to copy forms from that were not measured, as assumed."),
    ] = None,
    sms: Annotated[int | None, typer.Option(min=1, help="Multiprocessors of the GPU.")] = None,
    memory_gb: Annotated[float | None, typer.Option(help="Memory of the GPU, GB.")] = None,
    seed: Annotated[int, typer.Option(help="Of the split into fitted and held-out half.")] = 0,
    date: Annotated[str | None, typer.Option(help="Date in the sources; today's.")] = None,
) -> None:
    """Fit the kernel-time forms to measurements; a half that no fit sees tells their errors."""
    import datetime

    from helm_gym.console import show
    from helm_gym.hardware import calibrate as fitting

    given = {
        "gemm": gemm,
        "attention": attention,
        "incremental": incremental,
        "hstu-block": hstu_block,
        "h2d": h2d,
    }
    files = {kind: path for kind, path in given.items() if path is not None}
    found = fitting.calibrate(
        files, gpu=gpu, sms=sms, memory_gb=memory_gb, engine=engine, seed=seed
    )
    show(fitting.report(found))
    for note in found.notes:
        typer.echo(note)
    day = date or datetime.date.today().isoformat()
    for path in fitting.write_presets(found, out, day, base):
        typer.echo(f"wrote {path}")
