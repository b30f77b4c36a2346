"""``scenario``, ``profile`` and ``capacity``: what is simulated, and what it carries."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, cast

import typer

from helm_gym.cli.shared import (
    QuietOption,
    SetOption,
    ThreadsOption,
    app,
    cores,
    load_scenario,
    reported,
)

scenario_app = typer.Typer(help="Scenarios: what is simulated.", no_args_is_help=True)
profile_app = typer.Typer(help="Workload profiles: what a data set says.", no_args_is_help=True)
app.add_typer(scenario_app, name="scenario")
app.add_typer(profile_app, name="profile")


@scenario_app.command("list")
@reported
def scenario_list() -> None:
    """Name the shipped scenarios."""
    from helm_gym.config.scenario import Scenario

    names = Scenario.names()
    width = max(map(len, names)) + 2
    for name in names:
        text = " ".join(Scenario.load(name).description.split())
        typer.echo(f"{name:{width}}{text.split('. ')[0].rstrip('.')}.")


@scenario_app.command("show")
@reported
def scenario_show(
    name: Annotated[str, typer.Argument(help="A shipped scenario's name, or a YAML file.")],
    assumptions: Annotated[
        bool, typer.Option("--assumptions", help="Only the assumed numbers, with ranges.")
    ] = False,
    settings: SetOption = None,
) -> None:
    """Print a scenario as YAML, or the numbers in it that are assumed."""
    scenario = load_scenario(name, settings)
    if not assumptions:
        typer.echo(f"# digest {scenario.digest()}\n{scenario.to_yaml()}", nl=False)
        return
    for path, quantity in scenario.assumptions():
        bounds = [x for x in (quantity.low, quantity.high) if x is not None]
        between = " to ".join(f"{x:g}" for x in bounds) if len(bounds) == 2 else "no range"
        unit = "" if quantity.unit == "1" else quantity.unit
        typer.echo(f"{path} = {quantity.value:g} {unit}".rstrip() + f"  ({between})")
        typer.echo(f"    {quantity.source}")


@app.command()
@reported
def capacity(
    scenario: Annotated[str, typer.Argument(help="A shipped scenario's name, or a YAML file.")],
    step: Annotated[float, typer.Option(help="Distance between static shares.")] = 0.1,
    seconds: Annotated[float, typer.Option(min=1, help="Simulated time per measurement.")] = 120.0,
    settings: SetOption = None,
    threads: ThreadsOption = None,
    quiet: QuietOption = False,
) -> None:
    """Measure the load that each static share carries within the SLO."""
    from helm_gym.baselines.static import share_grid
    from helm_gym.console import show
    from helm_gym.suites import mixes as room

    loaded = load_scenario(scenario, settings)
    shares = share_grid(loaded.episode.share_min, loaded.episode.share_max, step)
    results = room.measure_capacity(
        loaded, shares, measure_s=seconds, threads=cores(threads), progress=not quiet
    )
    show(room.capacity_table(results))
    typer.echo(room.capacity_yaml(loaded, results))


@profile_app.command("fit")
@reported
def profile_fit(
    log: Annotated[Path, typer.Argument(help="Parquet or CSV with user_id, item_id and a time.")],
    name: Annotated[str, typer.Option(help="Of the new profile.")],
    out: Annotated[
        Path | None,
        typer.Option(help="Write the profile here; printed otherwise."),
    ] = None,
    time_unit: Annotated[str, typer.Option(help="Of the time column: s, ms or us.")] = "s",
    time_column: Annotated[str, typer.Option(help="Its name, or none.")] = "timestamp",
    base: Annotated[str, typer.Option(help="Profile that fills in what a log hides.")] = "taobao",
    utc_offset_h: Annotated[float, typer.Option(help="Users' clock minus UTC, hours.")] = 0.0,
    catalogue_items: Annotated[
        int | None,
        typer.Option(min=1, help="Items there are, if known."),
    ] = None,
) -> None:
    """Fit a workload profile to a log of interactions."""
    from rich.console import Console

    from helm_gym.console import show
    from helm_gym.files import write_text
    from helm_gym.workload.fit import fit_profile

    fitted = fit_profile(
        log,
        name=name,
        time_unit=cast(Any, time_unit),
        time_column=None if time_column == "none" else time_column,
        base=base,
        utc_offset_h=utc_offset_h,
        catalogue_items=catalogue_items,
    )
    if out is None:
        Console(stderr=True).print(fitted.report())
        typer.echo(fitted.to_yaml(), nl=False)
        return
    write_text(out, fitted.to_yaml())
    show(fitted.report())
    typer.echo(f"profile: {out} (use it with --set workload.profile={out})")


@profile_app.command("generate")
@reported
def profile_generate(
    profile: Annotated[str, typer.Argument(help="A shipped profile's name, or a YAML file.")],
    out: Annotated[Path, typer.Option(help="Write the log here, as Parquet.")],
    users: Annotated[int, typer.Option(min=1, help="How many users there are.")] = 1000,
    days: Annotated[float, typer.Option(help="How long the log is.")] = 9.0,
    seed: Annotated[int, typer.Option(min=0, help="Of everything that is drawn.")] = 0,
) -> None:
    """Draw a log of interactions from a workload profile."""
    from helm_gym.config.quantity import load_preset
    from helm_gym.config.workload import PROFILES, Profile
    from helm_gym.workload.generate import generate_log, write_log

    loaded = load_preset(Profile, profile, PROFILES, "profile")
    log = generate_log(loaded, users=users, days=days, seed=seed)
    write_log(log, out)
    typer.echo(
        f"{log.user.size:,} events of {log.user_ids.size:,} users on {log.item_ids.size:,} items, "
        f"written to {out}"
    )
