"""GPU seconds of one model by token count: the cost forms, tabulated for the kernel.

Kernels work in tiles of 16 tokens at the least, so a time depends on the token count rounded up to
the next multiple of :data:`STRIDE`; one row per multiple is all there is to know.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from helm_gym.hardware.attention import HEAD_DIM, PAGED_ROWS
from helm_gym.hardware.presets import Gpu, ModelSpec

STRIDE = 16  # tokens; the smallest tile of the tensor cores


class Column(IntEnum):
    """Columns of :func:`token_times`; seconds of all layers."""

    GEMM = 0  # the products of that many tokens
    PREFILL = 1  # causal attention among that many tokens
    QUERY = 2  # attention of that many queries on cached keys, apart from the keys
    KEY = 3  # what every key adds to it


def token_times(gpu: Gpu, model: ModelSpec, most: int) -> NDArray[np.float64]:
    """Seconds for 0, STRIDE, 2 STRIDE ... tokens, up to at least ``most``.

    Heads count as ``width / 128``: the forms were measured on heads of 128 channels, and FLOPs
    depend on the width alone.

    Returns:
        (rows, 4), in the order of :class:`Column`; the first row, of no tokens, is 0.
    """
    tokens = STRIDE * np.arange(1.0, -(-most // STRIDE) + 1)
    width = model.width.value
    heads = width / HEAD_DIM
    attention = gpu.hstu_factor.value
    times = np.zeros((tokens.size + 1, len(Column)))
    # HSTU: one product makes u, v, q and k of every token, another one the layer's output.
    both = gpu.gemm.seconds(tokens, width, 4 * width) + gpu.gemm.seconds(tokens, width, width)
    times[1:, Column.GEMM] = both
    times[1:, Column.PREFILL] = attention * gpu.prefill.seconds(1, tokens, heads, heads)
    # A row tile of queries meets its own keys in one more tile; other new tokens count as cached.
    own = np.minimum(tokens, PAGED_ROWS)
    query, key = gpu.incremental.lines(tokens, heads, own_keys=own)
    times[1:, Column.QUERY], times[1:, Column.KEY] = attention * query, attention * key
    return model.layers.value * times
