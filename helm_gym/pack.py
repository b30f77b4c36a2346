"""Nested state to and from one file without pickle: JSON for the structure, arrays beside it.

A file is a ZIP archive: ``tree.json`` holds the structure with every array replaced by its number,
``N.npy`` the arrays, and ``seal.json`` a SHA-256 over all of them, written last. Nothing in it is
executable, so a foreign file can be refused but can do no harm.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import sys
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from helm_gym.errors import CheckpointError
from helm_gym.files import replacing

TREE, SEAL = "tree.json", "seal.json"
Array = NDArray[Any]


def write_packed(path: Path, tree: Mapping[str, Any]) -> str:
    """Write ``tree`` so that ``path`` holds either its old content or all of the new one.

    Args:
        path: the file; its folder must exist.
        tree: dictionaries, lists, tuples, numbers, strings, None, arrays and tensors.

    Returns:
        The content's digest, 64 hex digits.
    """
    with replacing(path) as file:
        return _write(file, tree)


def read_packed(path: Path) -> dict[str, Any]:
    """Read what :func:`write_packed` wrote.

    Raises:
        CheckpointError: the file is missing, truncated, damaged, or not one of ours.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if TREE not in names or SEAL not in names:
                raise CheckpointError(f"{path}: not a helm_gym checkpoint (no {TREE}, {SEAL})")
            blobs = {name: archive.read(name) for name in names}
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError) as error:
        raise CheckpointError(f"{path}: truncated or damaged ({error})") from None
    except RuntimeError as error:  # an encrypted archive
        raise CheckpointError(f"{path}: not a helm_gym checkpoint ({error})") from None
    return _unseal(path, blobs)


def _write(file: BinaryIO, tree: Mapping[str, Any]) -> str:
    arrays: list[Array] = []
    text = json.dumps(_pack(tree, arrays), allow_nan=True).encode()
    seal = hashlib.sha256(text)
    # Level 1 shrinks simulator states fivefold at some 200 MB/s; more effort buys little.
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr(TREE, text)
        for number, array in enumerate(arrays):
            blob = _npy(array)
            seal.update(blob)
            archive.writestr(f"{number}.npy", blob)
        archive.writestr(SEAL, json.dumps({"sha256": seal.hexdigest(), "arrays": len(arrays)}))
    return seal.hexdigest()


def _unseal(path: Path, blobs: Mapping[str, bytes]) -> dict[str, Any]:
    try:
        seal = json.loads(blobs[SEAL])
        numbered = [blobs[f"{number}.npy"] for number in range(seal["arrays"])]
        digest = hashlib.sha256(blobs[TREE])
        for blob in numbered:
            digest.update(blob)
        if digest.hexdigest() != seal["sha256"]:
            raise CheckpointError(f"{path}: the content does not match its digest")
        arrays = [np.load(io.BytesIO(blob), allow_pickle=False) for blob in numbered]
        tree = _unpack(json.loads(blobs[TREE]), arrays)
    except CheckpointError:
        raise
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise CheckpointError(f"{path}: damaged ({type(error).__name__}: {error})") from None
    if not isinstance(tree, dict):
        raise CheckpointError(f"{path}: not a helm_gym checkpoint")
    return tree


def _npy(array: Array) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(array), allow_pickle=False)
    return buffer.getvalue()


def _pack(value: Any, arrays: list[Array]) -> Any:
    """JSON values stand for themselves; ``{"~": kind, ...}`` stands for everything else."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"~": "float", "v": repr(float(value))}
    if isinstance(value, list):
        return [_pack(item, arrays) for item in value]
    if isinstance(value, tuple):
        return {"~": "tuple", "v": [_pack(item, arrays) for item in value]}
    if isinstance(value, Mapping):
        items = [[_pack(k, arrays), _pack(v, arrays)] for k, v in value.items()]
        return {"~": "dict", "v": items}
    torch = sys.modules.get("torch")  # without it nothing can be a tensor
    if torch is not None and isinstance(value, torch.Tensor):
        arrays.append(value.detach().cpu().numpy())
        return {"~": "tensor", "v": len(arrays) - 1}
    if isinstance(value, (np.ndarray, np.generic)) and not np.asarray(value).dtype.hasobject:
        arrays.append(np.asarray(value))
        kind = "array" if isinstance(value, np.ndarray) else "scalar"
        return {"~": kind, "v": len(arrays) - 1}
    raise CheckpointError(f"a {type(value).__name__} cannot be part of a checkpoint")


def _unpack(value: Any, arrays: list[Array]) -> Any:
    if isinstance(value, list):
        return [_unpack(item, arrays) for item in value]
    if not isinstance(value, dict):
        return value
    kind, inner = value["~"], value["v"]
    if kind == "dict":
        return {_unpack(k, arrays): _unpack(v, arrays) for k, v in inner}
    if kind == "tuple":
        return tuple(_unpack(item, arrays) for item in inner)
    if kind == "float":
        return float(inner)
    if kind == "array":
        return arrays[inner]
    if kind == "scalar":
        return arrays[inner][()]
    if kind == "tensor":
        import torch

        return torch.from_numpy(arrays[inner].copy())
    raise ValueError(f"unknown kind {kind!r}")
