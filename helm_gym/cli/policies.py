"""``train``, ``evaluate`` and ``demo``: policies and how they compare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from helm_gym.cli.shared import (
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
        load_scenario(scenario, [*(settings or ()), *extra]),
        policy,
        seeds=EVALUATION_SEEDS[:seeds],
        reward=reward,
        threads=cores(threads),
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
        ppo, overrides = _split(parse_pairs(settings))
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
