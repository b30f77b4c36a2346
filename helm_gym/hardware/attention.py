"""Time of softmax attention on a GPU: whole histories, and new tokens on cached ones.

A kernel cuts the queries of every head into row tiles, one block of threads each, and a block walks
over the keys in steps. Three things bound its time: the steps of all blocks shared by the
multiprocessors (work), the steps of the longest block (its path, which no parallelism shortens),
and bytes. With few row tiles, kernels split the keys of a tile among several blocks and add up
the parts; how is decided by FlashAttention's published heuristic, which is repeated here.

Rates and times are per 128 elements of head dimension (:data:`HEAD_DIM`, the only one measured);
another head dimension scales every part but launches, an assumption.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from helm_gym.config.quantity import Coefficient, Processors, Quantity, Rate
from helm_gym.hardware.form import MEASURED, Array, Calibrated, Columns, ranges_of
from helm_gym.hardware.relative_fit import Fitted, fit_relative, quantities
from helm_gym.units import GBPS, NS, TFLOPS, US

HEAD_DIM = 128.0
BYTES = 2.0  # bf16
ROWS, KEYS = 128, 64  # tile of a prefill kernel on Ampere, d = 128 (FlashAttention-2 and -3)
SPLIT_KEYS, SPLIT_STEPS = 112, 4  # FlashAttention-3 on Ampere splits above 4 steps of 112 keys
PAGED_ROWS, PAGED_KEYS = 64, 128  # tile of FlashAttention-2's paged kernel, d = 128
FULL = 0.8  # of the multiprocessors busy: FlashAttention does not split
GOOD = 0.85  # of the best occupancy: FlashAttention takes the fewest splits that reach it
MOST_SPLITS = 128
NEVER = 1e-9  # ``split_below`` of an engine that does not split
GAIN = 0.98  # splitting has to lower the fit's loss to this to be believed


class Prefill(Calibrated):
    """Causal self-attention of whole sequences.

    With k = ceil(seq / 64) key steps, N = batch kv ceil(seq (heads / kv) / 128) row tiles (heads
    that share keys are packed) and, per 128 rows, work = batch heads k (k + max(1, 2 kv / heads)) /
    4 steps::

        path    = step k
        busy    = work 4 * 128 * 64 d / tflops + tail path min(1, N / sms)
        queries = 2 (Q + O elements) / query_gbps
        keys    = 2 (K + V elements) / kv_gbps
        t       = launch + max(path, busy + queries) + keys

    Where one sequence has less than ``split_below`` row tiles per multiprocessor and more than 448
    keys, the engine splits the keys: ``path`` has at most 2.2 work / sms + 2 steps, and
    ``split_us + 2 (O elements) / split_gbps`` are added.

    Args:
        sms: multiprocessors.
        launch_us: launch and timing overhead.
        tflops: rate with all multiprocessors busy, masked halves of tiles included.
        step_us: 64 keys of one block alone on its multiprocessor.
        tail: share of the longest path that other blocks do not hide.
        query_gbps: rate of reading Q and writing O.
        kv_gbps: rate of writing new K and V to the cache and reading them.
        split_below: row tiles per multiprocessor below which the engine splits keys.
        split_us: second pass of a split kernel.
        split_gbps: rate, in bytes of O, at which parts are written and added up.
    """

    dimensions: ClassVar[tuple[str, ...]] = (
        *("batch", "seq_len", "n_heads", "n_kv_heads", "head_dim"),
    )

    sms: Processors
    launch_us: Coefficient
    tflops: Rate
    step_us: Coefficient
    tail: Coefficient
    query_gbps: Rate
    kv_gbps: Rate
    split_below: Coefficient
    split_us: Coefficient
    split_gbps: Rate

    def seconds(
        self,
        batch: ArrayLike,
        seq_len: ArrayLike,
        n_heads: ArrayLike,
        n_kv_heads: ArrayLike,
        head_dim: ArrayLike = HEAD_DIM,
    ) -> Array:
        """Time of each shape, s; arguments broadcast."""
        values = np.array([getattr(self, name).value for name in _PREFILL])
        columns = _columns(batch, seq_len, n_heads, n_kv_heads, head_dim)
        return _prefill(values, self.sms.value, self.split_below.value, *columns)

    def per_candidate(
        self, n_heads: float, n_kv_heads: float, head_dim: float = HEAD_DIM
    ) -> tuple[float, float]:
        """Time of one more query beside a prefill, s: (fixed, per key it attends to)."""
        per_gbps = n_heads / self.query_gbps.value + n_kv_heads / self.kv_gbps.value
        rate = self.tflops.value * TFLOPS
        return 2.0 * BYTES * head_dim * per_gbps / GBPS, 4.0 * n_heads * head_dim / rate


_PREFILL = tuple(
    name for name in Prefill.model_fields if name not in ("ranges", "sms", "split_below")
)
# Where a fit begins, about right for an A100, and the units.
_PREFILL_START = {
    **{"launch_us": (12.0, "us"), "tflops": (200.0, "TFLOP/s"), "step_us": (2.5, "us")},
    **{"tail": (0.6, "1"), "query_gbps": (2000.0, "GB/s"), "kv_gbps": (1000.0, "GB/s")},
    **{"split_us": (5.0, "us"), "split_gbps": (600.0, "GB/s")},
}


def _prefill(
    values: Array,
    sms: float,
    split_below: float,
    batch: Array,
    seq: Array,
    heads: Array,
    kv: Array,
    dim: Array,
) -> Array:
    """Seconds of (R,) shapes; ``values`` in the order of :data:`_PREFILL`."""
    launch, tflops, step, tail, query_gbps, kv_gbps, split_us, split_gbps = values
    wide = dim / HEAD_DIM
    steps = np.ceil(seq / KEYS)
    tiles = kv * np.ceil(seq * heads / kv / ROWS)  # of one sequence
    work = batch * heads / 4.0 * steps * (steps + np.maximum(1.0, 2.0 * kv / heads))
    split = (tiles < split_below * sms) & (np.ceil(seq / SPLIT_KEYS) > SPLIT_STEPS)
    longest = np.where(split, np.minimum(steps, 2.2 * work / sms + 2.0), steps)
    path = step * US * wide * longest
    busy = work * (4.0 * ROWS * KEYS) * dim / (tflops * TFLOPS)
    busy = busy + tail * path * np.minimum(1.0, batch * tiles / sms)
    row = batch * seq * dim * BYTES / GBPS  # one head's Q, K, V or O, GB
    queries, keys = 2.0 * row * heads / query_gbps, 2.0 * row * kv / kv_gbps
    second_pass = np.where(split, split_us * US + row * heads / split_gbps, 0.0)
    time: Array = launch * US + np.maximum(path, busy + queries) + keys + second_pass
    return time


def fit_prefill(table: Columns, sms: float = 108.0) -> Prefill:
    """Fit the coefficients to relative errors, with and without split keys; the better is kept.

    Args:
        table: a column per dimension, and seconds.
        sms: multiprocessors of the GPU, from its data sheet.
    """
    columns = _columns(*(table[name] for name in Prefill.dimensions))
    measured = np.asarray(table[MEASURED], float)
    start = np.array([_PREFILL_START[name][0] for name in _PREFILL])

    def fit(below: float) -> Fitted:
        return fit_relative(lambda values: _prefill(values, sms, below, *columns), start, measured)

    split, whole = fit(FULL), fit(NEVER)
    splits = split.loss < GAIN * whole.loss
    below, kept = (FULL, split) if splits else (NEVER, whole)
    units = {name: _PREFILL_START[name][1] for name in _PREFILL}
    found = quantities(dict(zip(_PREFILL, kept.values, strict=True)), units)
    how = "FlashAttention-3's heuristic" if splits else "the engine's times show no split keys"
    return Prefill(
        sms=Quantity(value=float(sms), unit="1", source="data sheet"),
        split_below=Quantity(value=below, unit="tiles per SM", source=how),
        ranges=ranges_of(table, Prefill.dimensions),
        **found,
    )


class Incremental(Calibrated):
    """n new tokens (n > 0) of one sequence on L cached ones, all keys in pages.

    With M = heads ceil(n / 64) row tiles, k = ceil((n + L) / 128) key steps of each, s splits of
    them (:func:`key_splits`), b = ceil(k / s) steps in the longest, and r blocks of threads on the
    fullest multiprocessor (1 up to sms blocks, 2 up to 2 sms, then M s / sms)::

        t = launch + rows sqrt(n / 64) + own n ceil(M / sms) + b (step + crowd r)
            + 4 * 64 * 128 d M k / tflops + split (s - 1)^1.5

    s, b and r jump, so that measured times fall here and there as L or n grow. :meth:`lines` is the
    mean through the jumps: linear in L, and it never falls. ``seconds`` goes outside of the
    calibrated range as lines do, from its value at the edge, so it does not fall on the way out.

    The square root and the power 1.5 are found, not derived: without them (n, s - 1) the form is as
    good on shapes like the fitted ones and worse on heads and n left out.

    Args:
        sms: multiprocessors.
        launch_us: launch and timing overhead.
        rows_us: overhead that grows with the new tokens, of 64.
        own_ns: new tokens among themselves, per token and wave of row tiles.
        tflops: rate of whole tiles with all multiprocessors busy.
        step_us: 128 keys of the longest split.
        crowd_us: the same, per block that shares the multiprocessor.
        split_us: adding up two splits.
    """

    dimensions: ClassVar[tuple[str, ...]] = (
        *("n_heads", "n_kv_heads", "head_dim", "n_new", "n_cached"),
    )

    sms: Processors
    launch_us: Coefficient
    rows_us: Coefficient
    own_ns: Coefficient
    tflops: Rate
    step_us: Coefficient
    crowd_us: Coefficient
    split_us: Coefficient

    def seconds(
        self,
        n_heads: ArrayLike,
        n_kv_heads: ArrayLike,
        head_dim: ArrayLike,
        n_new: ArrayLike,
        n_cached: ArrayLike,
    ) -> Array:
        """Time of each shape, s; arguments broadcast. ``n_kv_heads`` makes no difference."""
        heads, _, dim, new, cached = _columns(n_heads, n_kv_heads, head_dim, n_new, n_cached)
        heads_in, new_in, cached_in = (
            self._clip(name, column)
            for name, column in (("n_heads", heads), ("n_new", new), ("n_cached", cached))
        )
        edge = _incremental(self._values(), self.sms.value, heads_in, dim, new_in, cached_in)
        u, v = self.lines(new, heads, dim)
        u_in, v_in = self.lines(new_in, heads_in, dim)
        time: Array = edge + (u + v * cached) - (u_in + v_in * cached_in)
        return time

    def lines(
        self,
        n_new: ArrayLike,
        n_heads: ArrayLike,
        head_dim: ArrayLike = HEAD_DIM,
        own_keys: ArrayLike | None = None,
    ) -> tuple[Array, Array]:
        """Mean time as u + v L: (u in s, v in s per cached token); neither falls as n grows.

        Args:
            n_new: queries.
            n_heads: heads.
            head_dim: of each.
            own_keys: keys of the new tokens that each of them meets, if they are not all of them,
                such as candidates that only see the history and themselves.
        """
        new, heads, dim, own_keys = _columns(
            n_new, n_heads, head_dim, n_new if own_keys is None else own_keys
        )
        sms, wide = self.sms.value, dim / HEAD_DIM
        launch, rows, own, tflops, step, crowd, split = self._values()
        tiles = heads * np.ceil(new / PAGED_ROWS)
        # Splits fill the multiprocessors nearly, in one wave or, with more tiles, in two or three.
        filled = np.minimum(1.0, tiles / (FILLED * sms))
        share = np.where(tiles < FULL * sms, np.minimum(filled, LONGEST), 1.0)
        crowded = np.where(tiles <= sms, filled, _crowd(tiles, sms))
        walk = (step * share + crowd * crowded) * wide * US
        work = 4.0 * PAGED_ROWS * PAGED_KEYS * dim * tiles / (tflops * TFLOPS)
        v = (walk + work) / PAGED_KEYS
        u = (launch + rows * np.sqrt(new / PAGED_ROWS) + split * MEAN_ADDING) * US
        u = u + own * NS * wide * own_keys * np.ceil(tiles / sms)
        # Rounding up adds half a step to the work, and to the longest split.
        u = u + v * own_keys + work / 2.0 + (step + crowd) * wide * US / 2.0
        return u, v

    def _values(self) -> Array:
        return np.array([getattr(self, name).value for name in _INCREMENTAL])

    def _clip(self, name: str, value: Array) -> Array:
        if name not in self.ranges:
            return value
        return np.clip(value, self.ranges[name].low, self.ranges[name].high)


FILLED = 0.9  # occupancy that the heuristic ends with, on average
LONGEST = 0.4  # of all steps are in the longest split at the most, on average
MEAN_ADDING = 4.0  # of (s - 1)^1.5, on average over the measured shapes

_INCREMENTAL = tuple(name for name in Incremental.model_fields if name not in ("ranges", "sms"))
_INCREMENTAL_START = {
    **{"launch_us": (6.0, "us"), "rows_us": (7.0, "us"), "own_ns": (10.0, "ns")},
    **{"tflops": (170.0, "TFLOP/s"), "step_us": (1.2, "us"), "crowd_us": (0.5, "us")},
    **{"split_us": (0.2, "us")},
}


def _incremental(
    values: Array, sms: float, heads: Array, dim: Array, new: Array, cached: Array
) -> Array:
    """Seconds of (R,) shapes; ``values`` in the order of :data:`_INCREMENTAL`."""
    launch, rows, own, tflops, step, crowd, split = values
    wide = dim / HEAD_DIM
    tiles = heads * np.ceil(new / PAGED_ROWS)
    steps = np.ceil((new + cached) / PAGED_KEYS)
    splits = key_splits(tiles, steps, sms)
    walk = np.ceil(steps / splits) * (step + crowd * _crowd(tiles * splits, sms)) * wide
    fixed = launch + rows * np.sqrt(new / PAGED_ROWS) + split * (splits - 1.0) ** 1.5
    time: Array = (
        (fixed + walk) * US
        + own * NS * wide * new * np.ceil(tiles / sms)
        + 4.0 * PAGED_ROWS * PAGED_KEYS * dim * tiles * steps / (tflops * TFLOPS)
    )
    return time


def _crowd(blocks: Array, sms: float) -> Array:
    """Blocks of threads on the fullest multiprocessor."""
    return np.maximum(np.minimum(np.ceil(blocks / sms), 2.0), blocks / sms)


def key_splits(tiles: ArrayLike, steps: ArrayLike, sms: float) -> Array:
    """Parts that FlashAttention-2 splits the keys into.

    None with enough row tiles; else the fewest that reach nearly the best occupancy, skipping
    those that do not shorten the longest part (``num_splits_heuristic``, flash_api.cpp).

    Args:
        tiles: row tiles of all heads.
        steps: key steps of each.
        sms: multiprocessors.
    """
    tiles, steps = np.broadcast_arrays(np.asarray(tiles, float), np.asarray(steps, float))
    pairs, where = np.unique(np.stack([tiles.ravel(), steps.ravel()]), axis=1, return_inverse=True)
    few, many = pairs[0][:, None], pairs[1][:, None]
    parts = np.arange(1.0, min(MOST_SPLITS, int(sms)) + 1.0)
    shorter = np.ceil(many / parts) < np.ceil(many / np.maximum(parts - 1.0, 0.5))
    waves = few * parts / sms
    filled = np.where((parts <= many) & (shorter | (parts == 1)), waves / np.ceil(waves), 0.0)
    chosen = parts[np.argmax(filled >= GOOD * filled.max(axis=1, keepdims=True), axis=1)]
    chosen = np.where(pairs[0] >= FULL * sms, 1.0, chosen)
    found: NDArray[np.float64] = chosen[where.ravel()].reshape(tiles.shape)
    return found


def fit_incremental(table: Columns, sms: float = 108.0) -> Incremental:
    """Fit the coefficients to relative errors.

    Args:
        table: a column per dimension, and seconds.
        sms: multiprocessors of the GPU, from its data sheet.
    """
    heads, _, dim, new, cached = _columns(*(table[name] for name in Incremental.dimensions))
    fitted = fit_relative(
        lambda values: _incremental(values, sms, heads, dim, new, cached),
        np.array([_INCREMENTAL_START[name][0] for name in _INCREMENTAL]),
        np.asarray(table[MEASURED], float),
    )
    units = {name: _INCREMENTAL_START[name][1] for name in _INCREMENTAL}
    return Incremental(
        sms=Quantity(value=float(sms), unit="1", source="data sheet"),
        ranges=ranges_of(table, Incremental.dimensions),
        **quantities(dict(zip(_INCREMENTAL, fitted.values, strict=True)), units),
    )


def _columns(*columns: ArrayLike) -> tuple[Array, ...]:
    """Arguments as floats of one shape."""
    return tuple(np.broadcast_arrays(*(np.asarray(column, float) for column in columns)))
