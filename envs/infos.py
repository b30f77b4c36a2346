"""Infos in Gymnasium's vector format: an array per key, and a mask ``_key`` of its rows."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Values = Mapping[str, "Floats | dict[str, Floats]"]


def vector_infos(values: Values, rows: Mask) -> dict[str, Any]:
    """Lay values out as ``gymnasium.vector.VectorEnv`` would collect them row by row.

    Args:
        values: (rows,) arrays by name, or such mappings.
        rows: (rows,) which rows have them; the others read 0.

    Returns:
        The values, with a mask beside every key; copies where some rows have none.
    """
    everyone = bool(rows.all())
    infos: dict[str, Any] = {
        key: vector_infos(value, rows)
        if isinstance(value, dict)
        else (value if everyone else np.where(rows, value, 0.0))
        for key, value in values.items()
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


def single_info(infos: Mapping[str, Any]) -> dict[str, Any]:
    """Infos of a one-row vector environment as plain numbers, without masks."""
    return {
        key: single_info(value) if isinstance(value, Mapping) else float(value[0])
        for key, value in infos.items()
        if not key.startswith("_")
    }
