"""Models that come with the package, and how specs name them.

``NAME.safetensors`` has the arrays that decide, ``NAME.json`` the card of the model file, the
learning curve of its run, what it was trained on, and the digest of the weights that it belongs to;
of a training with several seeds also the scores of all and the spread of their curves.
``ppo:released`` and its like are their specs, and ``ppo:released-continuous`` of a second model of
an algorithm, ``ppo-continuous.safetensors``.
"""

from __future__ import annotations

import os
from pathlib import Path

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
    if not os.path.isfile(path):
        known = ", ".join(sorted(map(_spec, FOLDER.glob(f"*{SUFFIX}"))))
        raise CheckpointError(f"{algorithm}:{name} does not come with helm_gym; {known} do")
    return path


def _spec(file: Path) -> str:
    """Spec of a released file: of ``recurrent-ppo``, or of ``ppo-continuous``."""
    for algorithm in sorted(TITLES, key=len, reverse=True):
        if file.stem.startswith(algorithm):
            return f"{algorithm}:{NAME}{file.stem.removeprefix(algorithm)}"
    return str(file)
