"""Write ``model.zip``: what SB3 saves, and what a policy needs without SB3."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from helm_gym.agents.models.card import Card
from helm_gym.agents.models.trained import model_entries
from helm_gym.files import replacing


def save_model(path: Path, model: Any, arrays: Mapping[str, NDArray[Any]], card: Card) -> None:
    """Write the model file, whole or not at all.

    Args:
        path: where to.
        model: SB3's, with the weights to keep.
        arrays: the weights of the network that decides.
        card: what the file says of itself.
    """
    saved = io.BytesIO()
    model.save(saved)
    with zipfile.ZipFile(saved, "a") as archive:
        for name, content in model_entries(card, arrays).items():
            archive.writestr(name, content)
    with replacing(path) as file:
        file.write(saved.getvalue())
