"""Model files: a card in JSON and weights as safetensors, in an SB3 file or beside each other.

``model.zip`` is what SB3 saves (``load`` of its class reads it) with two entries of ours. A
released model is ``NAME.safetensors`` with ``NAME.json`` beside it, which holds the card and the
digest of the weights that it belongs to. Nothing else is read here, so a file from a stranger can
be wrong but cannot run code.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from helm_gym.agents.models.actor import Actor, checked
from helm_gym.agents.models.card import FORMAT, Card
from helm_gym.agents.models.released import SUFFIX
from helm_gym.envs.observation import FEATURES
from helm_gym.errors import CheckpointError, ConfigError
from helm_gym.files import replacing, write_text

CARD, ACTOR = "helm_gym/card.json", "helm_gym/actor.safetensors"
LARGEST = 1 << 28  # bytes of an entry of model.zip; the released networks have 30,000
Array = NDArray[Any]


def write_model(path: Path, model: Any, arrays: Mapping[str, Array], card: Card) -> None:
    """Write ``model.zip``, whole or not at all.

    Args:
        path: where to.
        model: SB3's, with the weights to keep.
        arrays: the weights of the network that decides.
        card: what the file says of itself.
    """
    saved = io.BytesIO()
    model.save(saved)
    with zipfile.ZipFile(saved, "a") as archive:
        archive.writestr(CARD, card.model_dump_json(indent=1))
        archive.writestr(ACTOR, _packed(arrays))
    with replacing(path) as file:
        file.write(saved.getvalue())


def write_released(
    path: Path, card: Mapping[str, Any], arrays: Mapping[str, Array], about: Mapping[str, Any]
) -> None:
    """Write a released model: the weights, and beside them the card and ``about`` as JSON.

    Args:
        path: where to, ending in ``.safetensors``.
        card: the model's card, as :func:`read` gives it.
        arrays: weights by name.
        about: what else is to be known of the model.
    """
    weights = _packed(arrays)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(weights)
    whole = {"card": card, "sha256": hashlib.sha256(weights).hexdigest(), **about}
    write_text(path.with_suffix(".json"), json.dumps(whole, indent=1) + "\n")


def load(path: Path) -> tuple[Card, Actor]:
    """Card and network of a model file of either kind.

    Raises:
        CheckpointError: the file is missing, damaged, or does not fit this version of helm_gym.
    """
    data, arrays = read(path)
    try:
        card = Card.parse(data, str(path))
    except ConfigError as error:
        raise CheckpointError(f"made by another version of helm_gym? {error}") from None
    _check_fits(path, card)
    weights = checked(arrays, card, str(path))
    return card, Actor(card.algorithm, weights, chooses=card.view.action == "choice")


def read(path: Path) -> tuple[Any, dict[str, Array]]:
    """The card and the weights of a model file of either kind, not yet validated.

    Raises:
        CheckpointError: it is missing, damaged, or neither.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        card, weights = (_read_released if path.suffix == SUFFIX else _read_zip)(path)
        return json.loads(card), load(weights)
    except CheckpointError:
        raise
    except OSError as error:
        hint = "; train one with: helm-gym train" if isinstance(error, FileNotFoundError) else ""
        said = f"{error.filename or path}: cannot be read ({error.strerror or error}){hint}"
        raise CheckpointError(said) from None
    except (
        zipfile.BadZipFile, zlib.error, SafetensorError, ValueError, KeyError, TypeError, EOFError,
        NotImplementedError, RuntimeError, RecursionError,
    ) as error:  # fmt: skip
        raise CheckpointError(f"{path}: truncated or not a model file ({error})") from None


def _read_zip(path: Path) -> tuple[bytes, bytes]:
    with zipfile.ZipFile(path) as archive:
        for name in (CARD, ACTOR):
            if name not in archive.namelist():
                raise CheckpointError(
                    f"{path}: has no {name}: not a model that helm-gym train wrote. A model of "
                    "plain SB3 does not say which observation and control it was trained with"
                )
            if archive.getinfo(name).file_size > LARGEST:
                raise ValueError(f"{name} is larger than any model")
        return archive.read(CARD), archive.read(ACTOR)


def _read_released(path: Path) -> tuple[str, bytes]:
    weights, about = path.read_bytes(), json.loads(path.with_suffix(".json").read_text("utf-8"))
    if hashlib.sha256(weights).hexdigest() != about["sha256"]:
        raise CheckpointError(
            f"{path}: is not the file that {path.with_suffix('.json').name} describes; take both "
            "from one release"
        )
    return json.dumps(about["card"]), weights


def _packed(arrays: Mapping[str, Array]) -> bytes:
    """Weights as the bytes of a safetensors file."""
    from safetensors.numpy import save

    return save({name: np.ascontiguousarray(array) for name, array in arrays.items()})


def _check_fits(path: Path, card: Card) -> None:
    """Refuse what this version would feed with something else than it learned on."""
    if card.format != FORMAT:
        raise CheckpointError(
            f"{path}: is of format {card.format}, this version of helm_gym reads {FORMAT}"
        )
    known = tuple(feature.name for feature in FEATURES.get(card.view.observation, ()))
    if card.view.features != known:
        changed = sorted(set(card.view.features) ^ set(known)) or ["their order"]
        raise CheckpointError(
            f"{path}: was trained on another {card.view.observation!r} observation than this "
            f"version of helm_gym has ({', '.join(changed)} differ); train it again"
        )
