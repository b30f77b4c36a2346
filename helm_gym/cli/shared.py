"""What every command needs: the app, its options, and how errors reach the user."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast

import typer

from helm_gym._version import __version__
from helm_gym.errors import ConfigError, HelmGymError

if TYPE_CHECKING:
    from helm_gym.config.scenario import Scenario

CommandT = TypeVar("CommandT", bound=Callable[..., None])
FAILED, INTERRUPTED = 2, 130

app = typer.Typer(
    help="Simulated GPU clusters that serve generative recommenders: split HBM between EMB and KV.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

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
AllowOption = Annotated[
    list[str] | None,
    typer.Option(
        "--allow",
        metavar="MODULE:CLASS",
        help="Code of yours that a file may name, such as a model's rule; repeat for more.",
    ),
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress bars.")]


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


def parse_pairs(settings: Sequence[str] | None) -> dict[str, Any]:
    """``["a.b=1"]`` as ``{"a.b": 1}``; values are YAML, so numbers, true and lists work."""
    from helm_gym.config.safe_yaml import parse_setting

    found = {}
    for setting in settings or ():
        path, equals, value = setting.partition("=")
        if not (path and equals):
            raise ConfigError(f"--set {setting}: write PATH=VALUE, as in --set workload.load=0.9")
        found[path.strip()] = parse_setting(value, f"--set {setting}")
    return found


def load_scenario(name: str, settings: Sequence[str] | None) -> Scenario:
    """Load a scenario and apply ``--set`` options to it."""
    from helm_gym.config.scenario import Scenario

    return Scenario.load(name).replace(parse_pairs(settings))


def cores(threads: int | None) -> int:
    """Threads asked for, else two or what the machine has."""
    import os

    return threads or min(2, os.cpu_count() or 1)


def print_study(
    shown: Any | None, findings: Sequence[str], warning: str | None, page: Path, rows: Path
) -> None:
    """Print what a study found: a table, sentences, a warning if it was a quick one, its files."""
    from helm_gym.console import show

    if shown is not None:
        show(shown)
    for sentence in findings:
        typer.echo(f"* {sentence}")
    if warning:
        typer.echo(warning)
    typer.echo(f"page: {page}\nrows: {rows}")
