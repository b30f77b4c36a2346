"""``decision-speed`` and ``export``: the trained base where requests are served."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from helm_gym.cli.shared import AllowOption, QuietOption, app, reported

BaseOption = Annotated[
    str, typer.Option("--base", "-b", help="released, or a model file or run folder.")
]


@app.command("decision-speed")
@reported
def decision_speed(
    base: BaseOption = "released",
    nodes: Annotated[int, typer.Option(min=2, max=1024, help="In the larger cluster.")] = 32,
    calls: Annotated[int, typer.Option(min=10, help="Timed calls of a round.")] = 2000,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; their median counts.")] = 5,
    allow: AllowOption = None,
    quiet: QuietOption = False,
) -> None:
    """Time a decision of the controller, beside SB3, torch, ONNX Runtime and NumPy."""
    from helm_gym.agents.layers.helm import load_base
    from helm_gym.console import progress_bar, show
    from helm_gym.studies.speed import decisions as room

    timings = []
    with progress_bar("timing", 2 * 6, wanted=not quiet) as bar:
        for timing in room.measure(load_base(base, allow or ()), nodes, calls, rounds):
            timings.append(timing)
            bar.advance()
    show(room.table(timings))


@app.command()
@reported
def export(
    out: Annotated[Path, typer.Argument(help="The file, such as base.onnx.")],
    base: BaseOption = "released",
    allow: AllowOption = None,
) -> None:
    """Write the base network as an ONNX graph: observations in, shares out."""
    from helm_gym.agents.layers.helm import load_base
    from helm_gym.agents.models.onnx import export as write

    typer.echo(f"graph: {write(load_base(base, allow or ()), out)}")
