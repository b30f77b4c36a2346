"""Nested state to and from one file without pickle: safetensors for arrays, JSON for the rest.

The arrays of a tree are the tensors ``0``, ``1``, ... of a safetensors file. Its metadata holds the
tree as JSON, in which a number stands for every array, and a SHA-256 over that text and all arrays.
Nothing in a file is executed, so a foreign file can be refused but can do no harm.

Arrays of a megabyte or more are deflated, because a simulator's state is mostly empty tables: a
checkpoint of 16 clusters takes 28 MB in place of 120.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from helm_gym.errors import CheckpointError
from helm_gym.files import replacing

FORMAT = "helm_gym state 1"
LARGE = 1 << 20  # bytes from which an array is deflated
THREADS = 2  # that deflate; what is written does not depend on it
DENSEST = 64  # times that a deflated array may grow when it is read, which bounds the memory
DTYPES = frozenset(
    "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64".split()
)
"""Types of arrays that safetensors and NumPy both know."""

Array = NDArray[Any]


def write_state(path: Path, tree: Mapping[str, Any]) -> None:
    """Write ``tree`` so that ``path`` holds either its old content or all of the new one.

    Args:
        path: the file; its folder must exist.
        tree: dictionaries, lists, tuples, numbers, strings, None, arrays and tensors.

    Raises:
        CheckpointError: the tree holds something else; nothing was written.
    """
    from safetensors.numpy import save

    arrays: list[Array] = []
    packed = _pack(tree, arrays)
    with ThreadPoolExecutor(THREADS) as pool:  # deflating releases the GIL
        stored = list(pool.map(_deflated, arrays))
    shapes = {
        number: [array.dtype.name, array.shape]
        for number, array in enumerate(arrays)
        if stored[number] is not array
    }
    text = json.dumps({"tree": packed, "deflated": shapes})
    seal = _seal(text, stored)
    named = {str(number): array for number, array in enumerate(stored)}
    content = save(named, {"format": FORMAT, "content": text, "sha256": seal})
    with replacing(path) as file:
        file.write(content)


def read_state(path: Path) -> dict[str, Any]:
    """Read what :func:`write_state` wrote.

    Raises:
        CheckpointError: the file is missing, truncated, damaged, or not one of ours.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            about = file.metadata() or {}
            if about.get("format") != FORMAT:
                raise CheckpointError(f"{path}: not a helm_gym checkpoint ({FORMAT!r} is missing)")
            stored = [file.get_tensor(str(number)) for number in range(len(file.keys()))]
        if _seal(about["content"], stored) != about["sha256"]:
            raise CheckpointError(f"{path}: the content does not match its digest")
        tree = _content(json.loads(about["content"]), stored)
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from None
    except SafetensorError as error:
        raise CheckpointError(
            f"{path}: truncated, or not a helm_gym checkpoint ({error})"
        ) from None
    except (KeyError, TypeError, ValueError, IndexError, RecursionError, zlib.error) as error:
        raise CheckpointError(f"{path}: damaged ({type(error).__name__}: {error})") from None
    if not isinstance(tree, dict):
        raise CheckpointError(f"{path}: not a helm_gym checkpoint (it holds no dictionary)")
    return tree


def _content(content: Mapping[str, Any], stored: list[Array]) -> Any:
    """The tree, with the arrays in their places."""
    for number, (dtype, shape) in content["deflated"].items():
        stored[int(number)] = _inflated(stored[int(number)], dtype, shape)
    return _unpack(content["tree"], stored)


def _seal(text: str, arrays: Sequence[Array]) -> str:
    """SHA-256 of the text and of every array's type, shape and bytes."""
    total = hashlib.sha256(text.encode())
    for array in arrays:
        total.update(f"{array.dtype.name}{array.shape}".encode())
        total.update(array.data)
    return total.hexdigest()


def _deflated(array: Array) -> Array:
    """A large array as deflated bytes; any other one as it is."""
    if array.nbytes < LARGE:
        return array
    # Level 1 shrinks simulator states fivefold at some 50 to 200 MB/s; more effort buys little.
    packed = zlib.compress(array.data, 1).ljust(-(-array.nbytes // DENSEST), b"\0")
    return np.frombuffer(packed, np.uint8) if len(packed) < array.nbytes else array


def _inflated(packed: Array, dtype: str, shape: Sequence[int]) -> Array:
    """Undo :func:`_deflated`; at most :data:`DENSEST` times the memory of ``packed`` is used."""
    if dtype not in DTYPES:
        raise ValueError(f"no array can have the type {dtype!r:.40}")
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if not 0 < size <= DENSEST * packed.nbytes:
        raise ValueError(f"an array of {packed.nbytes} bytes says that it has {size}")
    inflater = zlib.decompressobj()
    raw = bytearray(inflater.decompress(packed.data, size))
    if len(raw) != size or not inflater.eof:
        raise ValueError(f"an array of {size} bytes has other content than it says")
    return np.frombuffer(raw, dtype).reshape(shape)


def _kept(value: Any, arrays: list[Array]) -> int:
    """Add an array in the byte order and layout of the file; its number."""
    array = np.asarray(value)
    if array.dtype.name not in DTYPES:
        raise CheckpointError(f"an array of {array.dtype} cannot be part of a checkpoint")
    little = array.dtype.newbyteorder("<")
    arrays.append(np.asarray(array, little, order="C"))
    return len(arrays) - 1


def _pack(value: Any, arrays: list[Array]) -> Any:
    """JSON values stand for themselves; ``{"~": kind, ...}`` stands for everything else."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float) and not isinstance(value, np.generic):
        return value if math.isfinite(value) else {"~": "float", "v": repr(value)}
    if isinstance(value, list):
        return [_pack(item, arrays) for item in value]
    if isinstance(value, tuple):
        return {"~": "tuple", "v": [_pack(item, arrays) for item in value]}
    if isinstance(value, Mapping):
        items = [[_pack(k, arrays), _pack(v, arrays)] for k, v in value.items()]
        return {"~": "dict", "v": items}
    torch = sys.modules.get("torch")  # without it nothing can be a tensor
    if torch is not None and isinstance(value, torch.Tensor):
        return {"~": "tensor", "v": _kept(value.detach().cpu().numpy(), arrays)}
    if isinstance(value, np.ndarray):
        return {"~": "array", "v": _kept(value, arrays)}
    if isinstance(value, np.generic):
        return {"~": "scalar", "v": _kept(value, arrays)}
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

        return torch.from_numpy(arrays[inner])
    raise ValueError(f"unknown kind {kind!r:.40}")
