"""Models that come with the package: weights as safetensors, and a card in JSON. No pickle.

``NAME.safetensors`` has the arrays that decide, ``NAME.json`` the card of the model file, the
learning curve of its run, and the digest of the weights that it belongs to. ``ppo:released`` and
its like are their specs.
"""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from helm_gym.errors import CheckpointError
from helm_gym.files import replacing, write_text

SUFFIX = ".safetensors"
FOLDER = Path(__file__).parent / "released"
NAME = "released"
"""What stands in a spec where a path would."""
REWARD = "validation_reward"  # column of a run's curve


def released(algorithm: str) -> Path:
    """File of the model of an algorithm that comes with the package.

    Raises:
        CheckpointError: there is none.
    """
    path = FOLDER / f"{algorithm}{SUFFIX}"
    if not path.is_file():
        known = ", ".join(sorted(f"{file.stem}:{NAME}" for file in FOLDER.glob(f"*{SUFFIX}")))
        raise CheckpointError(f"{algorithm}:{NAME} does not come with helm_gym; {known} do")
    return path


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
        run: its folder.
        path: where to, ending in ``.safetensors``; the card is written beside it.

    Returns:
        ``path``.

    Raises:
        CheckpointError: the run has no model yet, or its file is damaged.
    """
    from safetensors.numpy import save

    from helm_gym.agents.policy import entries

    card, arrays = entries(run / "model.zip")
    weights = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    about = {
        "card": card,
        "sha256": hashlib.sha256(weights).hexdigest(),
        "curve": _curve(run / "curve.csv"),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(weights)
    write_text(path.with_suffix(".json"), json.dumps(about, indent=1) + "\n")
    return path


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
