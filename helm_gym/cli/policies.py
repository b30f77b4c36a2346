"""``train``, ``evaluate`` and ``demo``: policies and how they compare."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from helm_gym.cli.shared import (
    AllowOption,
    QuietOption,
    ScenarioOption,
    SetOption,
    ThreadsOption,
    app,
    cores,
    load_scenario,
    parse_pairs,
    reported,
)
from helm_gym.errors import ConfigError


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
    reward: Annotated[
        str | None, typer.Option(help="Preset of the reward column; tail_and_refill.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Write a row per policy and seed: .parquet or .json."),
    ] = None,
    settings: SetOption = None,
    allow: AllowOption = None,
    threads: ThreadsOption = None,
    quiet: QuietOption = False,
) -> None:
    """Compare policies on the same held-out request streams."""
    from rich.console import Console

    from helm_gym.envs.reward import DEFAULT
    from helm_gym.evaluation import evaluate as room
    from helm_gym.evaluation.tables import result_table, verdict
    from helm_gym.suites.seeds import EVALUATION_SEEDS

    if out is not None:
        room.check_rows_file(out)
    extra = [] if load is None else [f"workload.load={load}"]
    found = room.evaluate(
        load_scenario(scenario, [*(settings or ()), *extra]),
        policy,
        seeds=EVALUATION_SEEDS[:seeds],
        reward=reward or DEFAULT,
        threads=cores(threads),
        progress=not quiet,
        allow=allow or (),
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
    scenario: Annotated[
        str | None,
        typer.Option("--scenario", "-s", help="A shipped name or a YAML file; taobao-shift."),
    ] = None,
    suite: Annotated[
        str | None,
        typer.Option(help="Instead of one scenario: the training cells of a suite, as paper."),
    ] = None,
    randomise: Annotated[
        bool,
        typer.Option("--randomise", help="Draw all that the suite assumes, and the load."),
    ] = False,
    spread: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="How much of its range --randomise draws from; 0.5."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", help="YAML with the fields of TrainConfig; options go before."),
    ] = None,
    algorithm: Annotated[
        str | None, typer.Option(help="ppo, recurrent-ppo, sac or dqn; ppo.")
    ] = None,
    control: Annotated[
        str | None,
        typer.Option(help="cluster, node or per_node; cluster, or node for a suite."),
    ] = None,
    observation: Annotated[str | None, typer.Option(help="paper7 or extended; extended.")] = None,
    reward: Annotated[str | None, typer.Option(help="Reward preset; tail_and_refill.")] = None,
    decisions: Annotated[
        int | None,
        typer.Option(min=1, help="How long: rows times windows."),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="0 if not given.")] = None,
    seeds: Annotated[
        str | None,
        typer.Option(help="Several, as 0-4 or 0,3: one run each in --run-dir, and the best."),
    ] = None,
    run_dir: Annotated[
        str | None,
        typer.Option("--run-dir", help="Where to; runs/ALGORITHM[-SUITE] if not given."),
    ] = None,
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
        typer.Option(
            "--set", help="Algorithm's setting (gamma=0.8) or scenario path; repeat for more."
        ),
    ] = None,
    threads: ThreadsOption = None,
    allow: AllowOption = None,
    quiet: QuietOption = False,
) -> None:
    """Train a policy, or continue an interrupted training.

    With --seeds, the same command skips what is finished and continues what was stopped.
    """
    room = _training()
    if seeds is not None and (resume is not None or seed is not None or max_minutes is not None):
        raise ConfigError(
            "--seeds goes without --seed, --resume and --max-minutes: the same command goes on by "
            "itself, and seeds compare only after equally many decisions"
        )
    if resume is not None:
        result = room.resume(
            resume,
            threads=threads,
            max_minutes=max_minutes,
            progress=not quiet,
            allow=allow or (),
        )
    else:
        given = {
            "scenario": scenario, "suite": suite, "algorithm": algorithm, "control": control,
            "observation": observation, "reward": reward, "decisions": decisions, "seed": seed,
            "run_dir": run_dir, "overwrite": overwrite or None, "threads": threads,
            "max_minutes": max_minutes, "spread": _spread(randomise, spread),
        }  # fmt: skip
        asked = _train_config(config, given, parse_pairs(settings), allow or ())
        if seeds is not None:
            _train_seeds(asked, _seeds(seeds), quiet)
            return
        result = room.train(asked, progress=not quiet)
    typer.echo(f"{result.label}: {result.decisions:,} decisions, {result.stopped}")
    spec = f"{result.algorithm}:{result.model}"
    typer.echo(f"model: {result.model}\ncompare it: helm-gym evaluate -p static:best -p {spec}")


def _train_seeds(asked: Any, seeds: list[int], quiet: bool) -> None:
    from helm_gym.agents.training import seeds as room
    from helm_gym.console import show

    missing = asked.model_copy(update={"overwrite": False})
    found = room.train_seeds(missing, seeds, progress=not quiet, only_missing=not asked.overwrite)
    show(room.seeds_table(found))
    folders = " ".join(str(Path(found.folder) / run.folder) for run in found.runs)
    typer.echo(f"model: {found.spec}\ncurves: helm-gym curves {folders}")


def _seeds(text: str) -> list[int]:
    """``0-4`` or ``0,3,7-9`` as numbers."""
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise ConfigError(f"--seeds {text}: write numbers and ranges, as in 0-4 or 0,3,7-9")
        found += range(int(first), int(last or first) + 1)
    return found


@app.command()
@reported
def curves(
    runs: Annotated[list[Path], typer.Argument(help="Folders of training runs, such as seeds.")],
    out: Annotated[
        Path | None, typer.Option(help="Write median and range over decisions: an .svg file.")
    ] = None,
) -> None:
    """Show how training runs learned, and how far they lie apart."""
    from helm_gym.console import show
    from helm_gym.pages.templates import write_page

    _training()
    from helm_gym.agents.training import curves as room

    if out is not None and out.suffix != ".svg":
        raise ConfigError(f"--out {out}: curves are drawn as .svg; give the file that suffix")
    found = room.read_curves(runs)
    show(room.curves_table(found))
    if out is not None:
        write_page(out, room.curves_svg(found) + "\n")
        typer.echo(f"figure: {out}")


def _spread(randomise: bool, spread: float | None) -> float | None:
    from helm_gym.agents.training.randomise import SPREAD

    if spread is not None and not randomise:
        raise ConfigError(f"--spread {spread:g} is for --randomise; write both")
    return (SPREAD if spread is None else spread) if randomise else None


def _train_config(
    file: Path | None, given: dict[str, Any], pairs: dict[str, Any], allow: Sequence[str]
) -> Any:
    """A TrainConfig of what a file says and, before that, what options say.

    A rule to correct that options name was typed by a person; one in the file has to be allowed.
    """
    from helm_gym.agents.training.plan import TrainConfig
    from helm_gym.config.safe_yaml import read_yaml
    from helm_gym.evaluation.specs import from_file

    asked: dict[str, Any] = {}
    if file is not None:
        asked = read_yaml(file) or {}
        base = TrainConfig.parse(asked, str(file)).settings.get("base")
        if base is not None:
            from_file(base, str(file), allow)
    asked = {**asked, **{name: value for name, value in given.items() if value is not None}}
    algorithm = asked.get("algorithm", "ppo")
    learning, overrides = _split(pairs, algorithm)
    asked["settings"] = {**asked.get("settings", {}), **learning}
    asked["overrides"] = {**asked.get("overrides", {}), **overrides}
    suite = asked.get("suite")
    named = suite.get("name", "") if isinstance(suite, dict) else suite
    asked.setdefault("run_dir", f"runs/{algorithm}" + (f"-{named}" if named else ""))
    return TrainConfig.parse(asked, "train")


def _training() -> Any:
    try:
        from helm_gym.agents.training import train as room
    except ModuleNotFoundError as error:
        raise ConfigError(f"training needs {error.name}: pip install 'helm-gym[train]'") from None
    return room


def _split(pairs: dict[str, Any], algorithm: str = "ppo") -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings of an algorithm, which are plain names, and paths into the scenario."""
    from helm_gym.agents.training.hyperparameters import settings_class

    known = settings_class(algorithm).model_fields
    learning = {name: value for name, value in pairs.items() if name in known}
    return learning, {path: value for path, value in pairs.items() if path not in learning}


@app.command()
@reported
def release(
    run: Annotated[
        Path, typer.Argument(help="Folder of a finished training, or of one with --seeds.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where to; ends in .safetensors.")],
    allow: AllowOption = None,
) -> None:
    """Write a run's model, or the best seed's, as weights and a card to be given away."""
    from helm_gym.agents.models.released import SUFFIX
    from helm_gym.agents.training.release import release as write

    if out.suffix != SUFFIX:
        raise ConfigError(f"{out}: a released model ends in {SUFFIX}")
    typer.echo(f"model: {write(run, out, allow or ())}, card: {out.with_suffix('.json')}")


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
    from helm_gym.evaluation.demo import run_demo

    run_demo(out, quick=quick, scenario=scenario, seed=seed, threads=threads, progress=not quiet)
