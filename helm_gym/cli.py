"""The ``helm-gym`` command: reads arguments, calls the library, prints what it returns.

Every command imports what it needs inside its function, so that ``--help`` loads nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast

import typer

from helm_gym._version import __version__
from helm_gym.errors import ConfigError, HelmGymError

if TYPE_CHECKING:
    from helm_gym.config import Scenario

CommandT = TypeVar("CommandT", bound=Callable[..., None])
FAILED, INTERRUPTED = 2, 130

app = typer.Typer(
    help="Simulated GPU clusters that serve generative recommenders: split HBM between EMB and KV.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
scenario_app = typer.Typer(help="Scenarios: what is simulated.", no_args_is_help=True)
profile_app = typer.Typer(help="Workload profiles: what a data set says.", no_args_is_help=True)
app.add_typer(scenario_app, name="scenario")
app.add_typer(profile_app, name="profile")

ScenarioOption = Annotated[
    str, typer.Option("--scenario", "-s", help="A shipped scenario's name, or a YAML file.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Replace a setting, as in workload.load=0.9; repeat for more."),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option(min=1, help="Simulator threads; results do not depend on them."),
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress bars.")]


def main() -> None:
    """Run the command line and exit: 0, 2 on errors that say what to do, 130 after Ctrl-C."""
    app(prog_name="helm-gym")


def reported(command: CommandT) -> CommandT:
    """Turn the library's errors, and Ctrl-C, into one message and an exit code."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except HelmGymError as error:
            _complain(str(error))
            raise typer.Exit(FAILED) from None
        except KeyboardInterrupt as error:
            _complain(str(error) or "stopped; nothing of this command is kept")
            raise typer.Exit(INTERRUPTED) from None

    return cast(CommandT, run)


def _complain(text: str) -> None:
    typer.secho(f"helm-gym: {text}", fg=typer.colors.RED, err=True)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"helm-gym {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Say the version.")
    ] = False,
) -> None:
    pass


def _pairs(settings: Sequence[str] | None) -> dict[str, Any]:
    """``["a.b=1"]`` as ``{"a.b": 1}``; values are YAML, so numbers, true and lists work."""
    import yaml

    found = {}
    for setting in settings or ():
        path, equals, value = setting.partition("=")
        if not (path and equals):
            raise ConfigError(f"--set {setting}: write PATH=VALUE, as in --set workload.load=0.9")
        try:
            found[path.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {setting}: {value!r} is not YAML ({error})") from None
    return found


def _scenario(name: str, settings: Sequence[str] | None) -> Scenario:
    from helm_gym.config import Scenario

    return Scenario.load(name).replace(_pairs(settings))


def _cores(threads: int | None) -> int:
    import os

    return threads or min(2, os.cpu_count() or 1)


@scenario_app.command("list")
@reported
def scenario_list() -> None:
    """Name the shipped scenarios."""
    from helm_gym.config import Scenario

    for name in Scenario.names():
        text = " ".join(Scenario.load(name).description.split())
        typer.echo(f"{name:16}{text.split('. ')[0].rstrip('.')}.")


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
    scenario = _scenario(name, settings)
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
    from rich.console import Console

    from helm_gym.baselines import capacity as room
    from helm_gym.baselines.static import share_grid

    loaded = _scenario(scenario, settings)
    shares = share_grid(loaded.episode.share_min, loaded.episode.share_max, step)
    results = room.measure_capacity(
        loaded, shares, measure_s=seconds, threads=_cores(threads), progress=not quiet
    )
    Console().print(room.capacity_table(results))
    typer.echo(room.capacity_yaml(loaded, results))


@app.command()
@reported
def evaluate(
    policy: Annotated[
        list[str],
        typer.Option("--policy", "-p", help="static:0.4, static:best, balance, ppo:PATH, ..."),
    ],
    scenario: ScenarioOption = "taobao-shift",
    seeds: Annotated[int, typer.Option(min=1, max=10_000, help="Held-out episodes.")] = 5,
    load: Annotated[
        float | None,
        typer.Option(help="Short for --set workload.load=LOAD."),
    ] = None,
    reward: Annotated[str, typer.Option(help="Reward preset of the reward column.")] = "paper",
    out: Annotated[
        Path | None,
        typer.Option(help="Write a row per policy and seed: .parquet or .json."),
    ] = None,
    settings: SetOption = None,
    threads: ThreadsOption = None,
    quiet: QuietOption = False,
) -> None:
    """Compare policies on the same held-out request streams."""
    from rich.console import Console

    from helm_gym.baselines import evaluate as room
    from helm_gym.baselines.tables import result_table, verdict
    from helm_gym.baselines.tune import EVALUATION_SEEDS

    if out is not None:
        room.check_rows_file(out)
    extra = [] if load is None else [f"workload.load={load}"]
    found = room.evaluate(
        _scenario(scenario, [*(settings or ()), *extra]),
        policy,
        seeds=EVALUATION_SEEDS[:seeds],
        reward=reward,
        threads=_cores(threads),
        progress=not quiet,
    )
    console = Console()
    console.print(result_table(found, console.width))
    for entry in found.entries:
        if entry is not found.reference:
            typer.echo(verdict(found, entry, found.reference))
    if out is not None:
        room.save_rows([found], out)
        typer.echo(f"rows: {out}")


@app.command()
@reported
def train(
    scenario: ScenarioOption = "taobao-shift",
    control: Annotated[str, typer.Option(help="cluster, node or per_node.")] = "cluster",
    observation: Annotated[str, typer.Option(help="paper7 or extended.")] = "extended",
    reward: Annotated[str, typer.Option(help="Reward preset.")] = "paper",
    decisions: Annotated[
        int | None,
        typer.Option(min=1, help="How long: rows times windows."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    run_dir: Annotated[str, typer.Option("--run-dir", help="Where to.")] = "runs/ppo",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Remove an older run.")] = False,
    resume: Annotated[
        str | None,
        typer.Option("--resume", help="Continue the run in this folder; other settings are its."),
    ] = None,
    max_minutes: Annotated[
        float | None,
        typer.Option(help="Stop after so long."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="PPO setting (n_epochs=5) or scenario path; repeat for more."),
    ] = None,
    threads: ThreadsOption = None,
    quiet: QuietOption = False,
) -> None:
    """Train a PPO policy, or continue an interrupted training."""
    room = _training()
    if resume is not None:
        result = room.resume(resume, threads=threads, max_minutes=max_minutes, progress=not quiet)
    else:
        ppo, overrides = _split(_pairs(settings))
        asked = {
            "scenario": scenario, "overrides": overrides, "control": control,
            "observation": observation, "reward": reward, "settings": ppo,
            "decisions": decisions, "seed": seed, "run_dir": run_dir, "overwrite": overwrite,
            "threads": threads, "max_minutes": max_minutes,
        }  # fmt: skip
        result = room.train(room.TrainConfig.parse(asked, "train"), progress=not quiet)
    typer.echo(f"{result.label}: {result.decisions:,} decisions, {result.stopped}")
    typer.echo(
        f"model: {result.model}\ncompare it: helm-gym evaluate -p static:best -p ppo:{result.model}"
    )


def _training() -> Any:
    try:
        from helm_gym.agents import train as room
    except ModuleNotFoundError as error:
        raise ConfigError(f"training needs {error.name}: pip install 'helm-gym[train]'") from None
    return room


def _split(pairs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings of PPO, which are plain names, and paths into the scenario."""
    from helm_gym.agents.hyperparameters import Hyperparameters

    ppo = {name: value for name, value in pairs.items() if name in Hyperparameters.model_fields}
    return ppo, {path: value for path, value in pairs.items() if path not in ppo}


@app.command()
@reported
def demo(
    quick: Annotated[bool, typer.Option("--quick", help="A smoke test of under a minute.")] = False,
    out: Annotated[Path, typer.Option(help="Folder for everything that is written.")] = Path(
        "runs/demo"
    ),
    scenario: ScenarioOption = "taobao-shift",
    seed: Annotated[int, typer.Option(min=0, help="Of the training.")] = 0,
    threads: ThreadsOption = None,
    quiet: QuietOption = False,
) -> None:
    """Train PPO, compare it with the baselines, and write a report."""
    from helm_gym.baselines.demo import run_demo

    run_demo(out, quick=quick, scenario=scenario, seed=seed, threads=threads, progress=not quiet)


@app.command()
@reported
def speed(
    quick: Annotated[bool, typer.Option("--quick", help="Fewer and shorter repeats.")] = False,
    cold: Annotated[bool, typer.Option("--cold", help="Time compilation too.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="Write the figures as JSON."),
    ] = None,
    quiet: QuietOption = False,
) -> None:
    """Measure time and memory of this installation, beside known yardsticks."""
    from helm_gym.baselines.speed import run_speed

    run_speed(quick=quick, cold=cold, out=out, progress=not quiet)


@app.command()
@reported
def warmup() -> None:
    """Compile all kernels now, so that no later run waits for it."""
    from helm_gym.baselines.starts import warm_up

    seconds, folder = warm_up()
    typer.echo(f"kernels are ready after {seconds:.1f} s, in {folder}")


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
    Console().print(fitted.report())
    typer.echo(f"profile: {out} (use it with --set workload.profile={out})")
