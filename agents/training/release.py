"""Write the model of a finished run as a released one: safetensors, and a card in JSON."""

from __future__ import annotations

import csv
from collections.abc import Collection
from pathlib import Path
from typing import Any

from helm_gym.agents.models.files import read, write_released
from helm_gym.agents.models.trained import TrainedPolicy
from helm_gym.agents.training import seeds
from helm_gym.agents.training.curves import read_curves, spread_of
from helm_gym.agents.training.plan import RunFolder

REWARD = "validation_reward"  # column of a run's curve


def release(run: Path, path: Path, allow: Collection[str] = ()) -> Path:
    """Write the model of a finished run as a released one.

    Args:
        run: its folder, or that of a training with several seeds, whose best one is taken.
        path: where to, ending in ``.safetensors``; the card is written beside it.
        allow: see :class:`~helm_gym.agents.models.trained.TrainedPolicy`.

    Returns:
        ``path``.

    Raises:
        CheckpointError: the run has no model yet, or its file is damaged.
        ConfigError: the model names code that is not allowed.
    """
    several = _seeds_of(run)
    if several:
        run = run / str(
            next(r["folder"] for r in several["runs"] if r["seed"] == several["chosen"])
        )
    TrainedPolicy(run, allow)  # refuses what nobody could use
    card, arrays = read(run / "model.zip")
    about = {"trained": _trained(run), "curve": _curve(run / "curve.csv")}
    if several:
        about["seeds"] = several
    write_released(path, card, arrays, about)
    return path


def _trained(run: Path) -> dict[str, Any]:
    """What the run was asked, and every scenario that it met."""
    config, plan, _ = RunFolder(run).read()
    known = plan.training_set
    own = [plan.scenario] if known is None else known.scenarios
    clusters = [plan.settings.clusters] if known is None else [p.clusters for p in known.training]
    return {
        "reward": config.reward,
        "spread": config.spread,
        "drawn": config.drawn if config.spread else 0.0,
        "draw_seed": config.seed if config.draw_seed is None else config.draw_seed,
        "settings": plan.settings.model_dump(mode="json"),
        "scenarios": [
            {
                "name": scenario.name,
                "load": scenario.workload.load,
                "digest": scenario.digest(),
                "clusters": number,
            }
            for scenario, number in zip(own, clusters, strict=True)
        ],
    }


def _seeds_of(folder: Path) -> dict[str, Any]:
    """Scores of all seeds, and the spread of their curves; empty if it is one run."""
    if not (folder / seeds.SUMMARY).is_file():
        return {}
    about = seeds.read_summary(folder)
    spread = spread_of(read_curves([folder / str(run["folder"]) for run in about["runs"]]))
    about["curves"] = [
        {"decisions": int(at), "low": low, "median": median, "high": high}
        for at, low, median, high in zip(
            spread.decisions, spread.low, spread.median, spread.high, strict=True
        )
    ]
    return about


def _curve(file: Path) -> list[dict[str, float]]:
    """Validation rewards over decisions; empty if the run validated nothing."""
    if not file.is_file():
        return []
    with file.open(newline="", encoding="utf-8") as rows:
        return [
            {"decisions": int(row["decisions"]), REWARD: float(row[REWARD])}
            for row in csv.DictReader(rows)
            if row.get(REWARD)
        ]
