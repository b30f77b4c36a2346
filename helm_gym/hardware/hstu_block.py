"""Time of a block of HSTU layers: two matrix products and one attention kernel per layer.

The only measurements are of NVIDIA's HSTU kernels on an L20 (recsys-examples), read off a figure.
They have the structure of :mod:`helm_gym.hardware.attention` without split keys: a row tile of
queries walks over all its keys alone. With few new tokens on a long cache that walk is all there
is, which is what makes a KV hit slower than its FLOPs.

No HSTU kernel was ever timed on an A100. :func:`scaled` moves a block to another GPU by peak rates,
and :func:`hstu_factor` says by how much that differs from softmax attention there.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from helm_gym.config.quantity import Positive, Quantity
from helm_gym.hardware.attention import Incremental, Prefill
from helm_gym.hardware.form import MEASURED, Array, Calibrated, Columns, ranges_of
from helm_gym.hardware.relative_fit import fit_relative, quantities
from helm_gym.units import TFLOPS, US

# Row tiles of 128 fit better than 64; since a path of 128 rows would beat a multiprocessor's peak
# rate, they are rather two of 64 side by side.
ROWS, KEYS = 128, 64
TAIL = 0.5  # share of the longest path that other blocks do not hide
GEMM_FLOPS = 10.0  # per token and squared width: d -> 4d (u, v, q, k) and d -> d, 2 FLOP each
SOURCE = "NVIDIA recsys-examples@43465ae, HSTU inference benchmark on L20"


class Peak(NamedTuple):
    """Data-sheet rate of dense bf16 products, and multiprocessors."""

    tflops: float
    sms: float


L20 = Peak(119.5, 92.0)  # NVIDIA L20 data sheet
A100 = Peak(312.0, 108.0)  # NVIDIA A100 data sheet


class HstuBlock(Calibrated):
    """``new_len`` history tokens and ``candidates`` on ``cached_len`` tokens, ``batch`` users.

    With m = batch (new + candidates) tokens, the row tiles of 128 queries and the key steps of 64
    that each of them needs (candidates need all), per layer::

        path    = step_us * steps of the longest tile
        busy    = all steps * 4 * 128 * 64 d / attention_tflops + path / 2 * min(1, tiles / sms)
        t_layer = 10 width^2 m / gemm_tflops + max(path, busy)

    and ``t = launch_us + layers * t_layer``. The history is all of ``cached_len + new_len``;
    ``history_len`` is only checked against that sum.

    Args:
        layers, width, heads, sms: of the model and the GPU that were measured.
        launch_us: of the whole block, a replayed graph.
        gemm_tflops: rate of matrix products.
        attention_tflops: rate of attention with all multiprocessors busy, whole tiles counted.
        step_us: 64 keys of one row tile alone.
    """

    dimensions: ClassVar[tuple[str, ...]] = (
        *("batch", "history_len", "cached_len", "new_len", "candidates"),
    )

    layers: Positive
    width: Positive
    heads: Positive
    sms: Positive
    launch_us: Positive
    gemm_tflops: Positive
    attention_tflops: Positive
    step_us: Positive

    def seconds(
        self,
        batch: ArrayLike,
        history_len: ArrayLike,
        cached_len: ArrayLike,
        new_len: ArrayLike,
        candidates: ArrayLike,
    ) -> Array:
        """Time of each shape, s; arguments broadcast."""
        columns = np.broadcast_arrays(
            *(np.asarray(x, float) for x in (batch, cached_len, new_len, candidates))
        )
        values = np.array([getattr(self, name).value for name in _FITTED])
        return _block(values, _fixed(self), *columns)

    def attention_seconds(
        self, cached_len: ArrayLike, new_len: ArrayLike, candidates: ArrayLike
    ) -> Array:
        """Attention of one layer and one user, s."""
        columns = np.broadcast_arrays(
            *(np.asarray(x, float) for x in (1.0, cached_len, new_len, candidates))
        )
        values = np.array([getattr(self, name).value for name in _FITTED])
        return _attention(values, _fixed(self), *columns)


class _Fixed(NamedTuple):
    layers: float
    width: float
    heads: float
    sms: float


_START = {
    **{"launch_us": (120.0, "us"), "gemm_tflops": (80.0, "TFLOP/s")},
    **{"attention_tflops": (90.0, "TFLOP/s"), "step_us": (4.0, "us")},
}
_FITTED = tuple(_START)


def _fixed(block: HstuBlock) -> _Fixed:
    return _Fixed(*(getattr(block, name).value for name in _Fixed._fields))


def _block(
    values: Array, fixed: _Fixed, batch: Array, cached: Array, new: Array, candidates: Array
) -> Array:
    """Seconds of (R,) shapes; ``values`` in the order of :data:`_FITTED`."""
    launch, gemm = values[:2]
    flops = GEMM_FLOPS * fixed.width**2 * batch * (new + candidates)
    attention = _attention(values, fixed, batch, cached, new, candidates)
    time: Array = launch * US + fixed.layers * (flops / (gemm * TFLOPS) + attention)
    return time


def _attention(
    values: Array, fixed: _Fixed, batch: Array, cached: Array, new: Array, candidates: Array
) -> Array:
    """Seconds of one layer's attention."""
    _, _, tflops, step = values
    tiles, steps, longest = _tiles(cached, new, candidates)
    together = batch * fixed.heads
    path = step * US * longest
    dim = fixed.width / fixed.heads
    busy = together * steps * 4.0 * ROWS * KEYS * dim / (tflops * TFLOPS)
    filled = np.minimum(1.0, together * tiles / fixed.sms)
    time: Array = np.maximum(path, busy + TAIL * path * filled)
    return time


def _tiles(cached: Array, new: Array, candidates: Array) -> tuple[Array, Array, Array]:
    """Row tiles of one head, key steps of all of them, and of the longest.

    History is causal, so a tile's steps grow from the cached keys to all; candidates see the
    whole history and themselves. The sum over tiles is in closed form, so it is not rounded up per
    tile.
    """
    tiles = np.ceil((new + candidates) / ROWS)
    history = cached + new
    own = np.where(candidates > 0, ROWS, 0.0)  # a candidate's own key lies in one more step
    steps = np.ceil(new / ROWS) * (cached + (new + ROWS) / 2.0) / KEYS
    steps = steps + np.ceil(candidates / ROWS) * (history + own) / KEYS
    return tiles, steps, np.ceil((history + own) / KEYS)


def fit_hstu_block(
    table: Columns,
    sms: float = L20.sms,
    layers: float = 8.0,
    width: float = 1024.0,
    heads: float = 4.0,
) -> HstuBlock:
    """Fit the coefficients to relative errors.

    Args:
        table: a column per dimension, and seconds.
        sms: multiprocessors of the GPU.
        layers: of the measured model, as its ``width`` and ``heads``.
        width: see ``layers``.
        heads: see ``layers``.
    """
    names = ("batch", "cached_len", "new_len", "candidates")
    columns = [np.asarray(table[name], float) for name in names]
    fixed = _Fixed(layers, width, heads, sms)
    fitted = fit_relative(
        lambda values: _block(values, fixed, *columns),
        np.array([_START[name][0] for name in _FITTED]),
        np.asarray(table[MEASURED], float),
    )
    units = {name: _START[name][1] for name in _FITTED}
    given = {
        name: Quantity(value=float(value), unit="1", source=SOURCE)
        for name, value in fixed._asdict().items()
    }
    found = quantities(dict(zip(_FITTED, fitted.values, strict=True)), units)
    return HstuBlock(ranges=ranges_of(table, HstuBlock.dimensions), **given, **found)


def scaled(block: HstuBlock, here: Peak = L20, there: Peak = A100) -> HstuBlock:
    """Move a block to another GPU: the same shares of its peak rates, an assumption."""
    faster = there.tflops / here.tflops
    each = faster * here.sms / there.sms  # per multiprocessor
    source = f"assumed: same share of peak as on a GPU of {here.tflops:g} TFLOP/s"

    def times(quantity: Quantity, factor: float) -> Quantity:
        return Quantity(value=quantity.value * factor, unit=quantity.unit, source=source)

    return block.model_copy(
        update={
            "sms": Quantity(value=there.sms, unit="1", source="data sheet"),
            "gemm_tflops": times(block.gemm_tflops, faster),
            "attention_tflops": times(block.attention_tflops, faster),
            "step_us": times(block.step_us, 1.0 / each),
            "ranges": {},
        }
    )


class Factor(NamedTuple):
    """HSTU attention over softmax attention on the same GPU, by shape."""

    miss: Array
    hit: Array

    @property
    def low(self) -> float:
        """Smallest."""
        return float(min(self.miss.min(), self.hit.min()))

    @property
    def high(self) -> float:
        """Largest."""
        return float(max(self.miss.max(), self.hit.max()))


def hstu_factor(
    block: HstuBlock,
    prefill: Prefill,
    incremental: Incremental,
    histories: ArrayLike = (1024, 2048, 4096, 8192, 16384),
    news: ArrayLike = (128, 256, 512, 1024),
    candidates: float = 256.0,
) -> Factor:
    """How far a block's attention is from the softmax forms of the same GPU.

    Args:
        block: on that GPU, see :func:`scaled`.
        prefill: softmax attention of a whole history there.
        incremental: softmax attention of new tokens on cached ones there.
        histories: (H,) lengths of misses, and cached lengths of hits.
        news: (N,) new tokens of hits, before the candidates.
        candidates: per request.

    Returns:
        factors of misses (H,) and of hits (N, H).
    """
    # The softmax forms count heads of 128; FLOPs are those of the width.
    heads = block.width.value / 128.0
    history, new = np.asarray(histories, float), np.asarray(news, float)[:, None]
    fixed, per_key = prefill.per_candidate(heads, heads)
    miss = prefill.seconds(1.0, history, heads, heads) + candidates * (fixed + per_key * history)
    u, v = incremental.lines(new + candidates, heads)
    hit = u + v * history
    return Factor(
        block.attention_seconds(0.0, history, candidates) / miss,
        block.attention_seconds(history, new, candidates) / hit,
    )
