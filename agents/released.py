"""Models that come with the package: weights as safetensors, and a card in JSON. No pickle.

``NAME.safetensors`` has the arrays that decide, ``NAME.json`` the card of the model file, the
learning curve of its run, what it was trained on, and the digest of the weights that it belongs to;
of a training with several seeds also the scores of all and the spread of their curves.
``ppo:released`` and its like are their specs, and ``ppo:released-continuous`` of a second model of
an algorithm, ``ppo-continuous.safetensors``.
"""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from helm_gym.agents.hyperparameters import TITLES
from helm_gym.errors import CheckpointError
from helm_gym.files import replacing, write_text

SUFFIX = ".safetensors"
FOLDER = Path(__file__).parent / "released"
NAME = "released"
"""What stands in a spec where a path would, perhaps with a variant: ``released-continuous``."""
REWARD = "validation_reward"  # column of a run's curve


def is_released(name: str) -> bool:
    """Whether what follows the algorithm in a spec names a released model, not a path."""
    return name == NAME or name.startswith(f"{NAME}-")


def released(algorithm: str, name: str = NAME) -> Path:
    """File of a model of an algorithm that comes with the package.

    Args:
        algorithm: that trained it.
        name: ``released``, or ``released-VARIANT``.

    Raises:
        CheckpointError: there is none.
    """
    path = FOLDER / f"{algorithm}{name.removeprefix(NAME)}{SUFFIX}"
    if not path.is_file():
        known = ", ".join(sorted(map(_spec, FOLDER.glob(f"*{SUFFIX}"))))
        raise CheckpointError(f"{algorithm}:{name} does not come with helm_gym; {known} do")
    return path


def _spec(file: Path) -> str:
    """Spec of a released file: of ``recurrent-ppo``, or of ``ppo-continuous``."""
    for algorithm in sorted(TITLES, key=len, reverse=True):
        if file.stem.startswith(algorithm):
            return f"{algorithm}:{NAME}{file.stem.removeprefix(algorithm)}"
    return str(file)


def read(path: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """The card, not yet validated, and the arrays.

    Raises:
        CheckpointError: a file is missing or damaged, or the two do not belong together.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        weights, text = path.read_bytes(), path.with_suffix(".json").read_text("utf-8")
        about = json.loads(text)
        arrays = load(weights)
        card, sha = dict(about["card"]), about["sha256"]
    except OSError as error:
        raise CheckpointError(
            f"{error.filename}: cannot be read ({error.strerror or error})"
        ) from None
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(f"{path}: truncated, or no released model ({error})") from None
    if hashlib.sha256(weights).hexdigest() != sha:
        raise CheckpointError(
            f"{path}: is not the file that {path.with_suffix('.json').name} describes; take both "
            "from one release"
        )
    return card, arrays


def release(run: Path, path: Path) -> Path:
    """Write the model of a finished run as a released one.

    Args:
        run: its folder, or that of a training with several seeds, whose best one is taken.
        path: where to, ending in ``.safetensors``; the card is written beside it.

    Returns:
        ``path``.

    Raises:
        CheckpointError: the run has no model yet, or its file is damaged.
    """
    from safetensors.numpy import save

    from helm_gym.agents.policy import entries

    several = _seeds_of(run)
    if several:
        run = run / str(
            next(r["folder"] for r in several["runs"] if r["seed"] == several["chosen"])
        )
    card, arrays = entries(run / "model.zip")
    weights = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    about = {
        "card": card,
        "sha256": hashlib.sha256(weights).hexdigest(),
        "trained": _trained(run),
        "curve": _curve(run / "curve.csv"),
        **({"seeds": several} if several else {}),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(weights)
    write_text(path.with_suffix(".json"), json.dumps(about, indent=1) + "\n")
    return path


def _trained(run: Path) -> dict[str, Any]:
    """What the run was asked, and every scenario that it met."""
    from helm_gym.agents.run_folder import RunFolder

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
    from helm_gym.agents import seeds
    from helm_gym.agents.learning_curves import read_curves, spread_of

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
