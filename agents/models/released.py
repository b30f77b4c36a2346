"""Models that come with the package: weights as safetensors, and a card in JSON. No pickle.

``NAME.safetensors`` has the arrays that decide, ``NAME.json`` the card of the model file, the
learning curve of its run, what it was trained on, and the digest of the weights that it belongs to;
of a training with several seeds also the scores of all and the spread of their curves.
``ppo:released`` and its like are their specs, and ``ppo:released-continuous`` of a second model of
an algorithm, ``ppo-continuous.safetensors``.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from helm_gym.agents.models.card import TITLES
from helm_gym.errors import CheckpointError

SUFFIX = ".safetensors"
FOLDER = Path(__file__).parent / "released"
NAME = "released"
"""What stands in a spec where a path would, perhaps with a variant: ``released-continuous``."""


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
