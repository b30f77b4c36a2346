"""Infos in Gymnasium's vector format: an array per key, and a mask ``_key`` of its rows.

Keys are flat: the term NAME of a reward is ``reward_terms/NAME``. Frameworks copy infos key by key
into arrays, and nested dictionaries break them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Values = Mapping[str, Floats]
TERM_PREFIX = "reward_terms/"
"""What the keys of the weighted terms of a reward begin with."""


def vector_infos(values: Values, rows: Mask) -> dict[str, Any]:
    """Lay values out as ``gymnasium.vector.VectorEnv`` would collect them row by row.

    Args:
        values: (rows,) arrays by name.
        rows: (rows,) which rows have them; the others read 0.

    Returns:
        The values, with a mask beside every key; copies where some rows have none.
    """
    everyone = bool(rows.all())
    infos: dict[str, Any] = {
        key: value if everyone else np.where(rows, value, 0.0) for key, value in values.items()
    }
    infos.update(zip(_masks(tuple(values)), rows[None].repeat(len(values), axis=0), strict=True))
    return infos


@cache
def _masks(keys: tuple[str, ...]) -> tuple[str, ...]:
    """Keys of the masks."""
    return tuple(f"_{key}" for key in keys)


def final_infos(observations: NDArray[np.float32], values: Values, rows: Mask) -> dict[str, Any]:
    """``final_obs`` and ``final_info`` of the rows whose episode ended in this step.

    Args:
        observations: (rows, ...) last observations of all rows.
        values: what the rows' infos are.
        rows: (rows,) which of them ended.
    """
    final_obs = np.full(rows.size, None, dtype=object)
    for row in np.flatnonzero(rows).tolist():
        final_obs[row] = observations[row].copy()
    return {
        "final_obs": final_obs,
        "_final_obs": rows.copy(),
        "final_info": vector_infos(values, rows),
        "_final_info": rows.copy(),
    }


def single_info(infos: Mapping[str, Any]) -> dict[str, np.float64]:
    """Infos of a one-row vector environment as NumPy scalars, without masks.

    TorchRL reads the ``dtype`` of every info, which Python's own numbers do not have.
    """
    return {key: value[0] for key, value in infos.items() if not key.startswith("_")}


@cache
def _term_keys(names: tuple[str, ...]) -> tuple[str, ...]:
    """Keys of reward terms."""
    return tuple(f"{TERM_PREFIX}{name}" for name in names)


def term_values(terms: Mapping[str, Floats]) -> dict[str, Floats]:
    """Weighted terms of a reward under their keys in infos."""
    return dict(zip(_term_keys(tuple(terms)), terms.values(), strict=True))
