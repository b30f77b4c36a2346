"""Time of one matrix product on a GPU: tiles in waves over the multiprocessors, beside memory.

A library computes C = A B, with A (m, k) and B (k, n), in output tiles, one per multiprocessor at a
time; when the tiles are few it splits k among several and adds up the parts. A last wave that is
nearly empty costs as much as a full one, which is why measured times rise in steps. The form takes
the fastest of :data:`TILES` x :data:`SPLITS` for every shape, as a library's heuristic would.

With g = ceil(m/a) ceil(n/b) s tiles of a x b outputs, k split s ways, in w = ceil(g / sms) waves::

    step    = 2 a b / (tflops / sms) * (1 + h (1/a + 1/b)) / (1 + h (1/256 + 1/128))
    tile    = tile_us + ceil(k / (32 s)) 32 step + 2 a b / (store_gbps / sms)
    split   = 0 if s = 1, else split_us + 4 s m n / reduce_gbps
    fastest = min over (a, b, s) of (w tile + split)
    compute = fastest (1 + throttle fastest / (fastest + 200 us))
    memory  = 2 (m k + k n) / read_gbps + 2 m n / write_gbps
    t       = launch + (compute^q + memory^q)^(1/q)                        q = 1 + overlap

(``h`` is ``tile_half``: a tile that narrow in both directions spends most of its time on loading.)
Every part grows with m, k and n, so the form is monotone everywhere, outside its data as well.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from helm_gym.config.quantity import Coefficient, Processors, Quantity, Rate
from helm_gym.hardware.form import MEASURED, Array, Calibrated, Columns, ranges_of
from helm_gym.hardware.relative_fit import fit_relative, quantities
from helm_gym.units import GBPS, TFLOPS, US

TILES = ((64, 64), (64, 128), (128, 64), (128, 128), (64, 256), (256, 64), (128, 256), (256, 128))
"""Output tiles that GPU libraries choose from (CUTLASS's defaults for Ampere)."""
SPLITS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
"""Ways to split k; libraries allow any, these are the usual."""
K_STEP = 32  # elements of k per main-loop step
BYTES = 2.0  # bf16
ACCUMULATOR_BYTES = 4.0  # fp32 partial sums of a split product
THROTTLE_US = 200.0  # compute time at which half of the slow-down of long kernels is reached

_A, _B, _S = (
    np.array(column, float)
    for column in zip(*((a, b, s) for a, b in TILES for s in SPLITS), strict=True)
)


class Gemm(Calibrated):
    """Coefficients of the form above; all are effective rates, not data-sheet ones.

    Args:
        sms: multiprocessors.
        launch_us: launch and timing overhead of every product.
        tflops: rate of the largest tile on all multiprocessors.
        tile_half: width at which a square tile spends half its time on loading, elements.
        tile_us: start of a tile, before its main loop.
        store_gbps: rate at which all multiprocessors together write tiles out.
        split_us: second pass of a split product.
        reduce_gbps: rate at which partial sums are added up.
        read_gbps: rate of reading A and B.
        write_gbps: rate of writing C.
        overlap: 0 if memory and compute add up; the larger, the more one hides the other.
        throttle: by how much long kernels slow down (clocks fall under load), as a fraction.
    """

    dimensions: ClassVar[tuple[str, ...]] = ("m", "k", "n")

    sms: Processors
    launch_us: Coefficient
    tflops: Rate
    tile_half: Coefficient
    tile_us: Coefficient
    store_gbps: Rate
    split_us: Coefficient
    reduce_gbps: Rate
    read_gbps: Rate
    write_gbps: Rate
    overlap: Coefficient
    throttle: Coefficient

    def seconds(self, m: ArrayLike, k: ArrayLike, n: ArrayLike) -> Array:
        """Time of each product, s; arguments broadcast."""
        coefficients = np.array([getattr(self, name).value for name in COEFFICIENTS])
        shape = np.broadcast_shapes(np.shape(m), np.shape(k), np.shape(n))
        columns = (np.broadcast_to(np.asarray(x, float), shape).ravel() for x in (m, k, n))
        return _seconds(coefficients, self.sms.value, *columns).reshape(shape)


COEFFICIENTS = tuple(name for name in Gemm.model_fields if name not in ("ranges", "sms"))
UNITS = {
    **{name: "us" for name in COEFFICIENTS if name.endswith("_us")},
    **{name: "GB/s" for name in COEFFICIENTS if name.endswith("_gbps")},
    **{"tflops": "TFLOP/s", "tile_half": "elements", "overlap": "1", "throttle": "1"},
}
# Ratios to what the data show at a glance, in the order of COEFFICIENTS: where the fit begins.
_START = {
    **{"launch_us": 0.6, "tflops": 1.1, "tile_half": 80.0, "tile_us": 0.3, "store_gbps": 1.5},
    **{"split_us": 0.6, "reduce_gbps": 1.3, "read_gbps": 1.0, "write_gbps": 0.65},
    **{"overlap": 1.8, "throttle": 0.1},
}


def fit_gemm(table: Columns, sms: int) -> Gemm:
    """Fit the coefficients to the relative errors of measured products.

    Args:
        table: columns m, k, n and seconds.
        sms: multiprocessors of the GPU, from its data sheet.
    """
    m, k, n, seconds = (np.asarray(table[name], float) for name in ("m", "k", "n", MEASURED))
    fitted = fit_relative(
        lambda values: _seconds(values, sms, m, k, n), _start(m, k, n, seconds), seconds
    )
    return Gemm(
        sms=Quantity(value=float(sms), unit="1", source="data sheet"),
        ranges=ranges_of(table, Gemm.dimensions),
        **quantities(dict(zip(COEFFICIENTS, fitted.values, strict=True)), UNITS),
    )


def _start(m: Array, k: Array, n: Array, seconds: Array) -> Array:
    """Coefficients to begin from: the fastest product's time, rate and bandwidth, and ratios."""
    flops = np.quantile(2 * m * n * k / seconds, 0.99) / TFLOPS
    traffic = np.quantile(BYTES * (m * k + k * n + m * n) / seconds, 0.99) / GBPS
    scale = {"us": seconds.min() / US, "TFLOP/s": flops, "GB/s": traffic}
    return np.array([_START[name] * scale.get(UNITS[name], 1.0) for name in COEFFICIENTS])


def _seconds(coefficients: Array, sms: float, m: Array, k: Array, n: Array) -> Array:
    """Time of (R,) products, s; ``coefficients`` in the order of :data:`COEFFICIENTS`."""
    value = dict(zip(COEFFICIENTS, coefficients, strict=True))
    compute = _compute_seconds(value, sms, m, k, n)
    compute = compute * (1.0 + value["throttle"] * compute / (compute + THROTTLE_US * US))
    memory = BYTES * (m * k + k * n) / (value["read_gbps"] * GBPS)
    memory = memory + BYTES * m * n / (value["write_gbps"] * GBPS)
    longer = np.maximum(compute, memory)
    shorter = np.minimum(compute, memory) / longer
    q = 1.0 + value["overlap"]
    launch: Array = value["launch_us"] * US + longer * (1.0 + shorter**q) ** (1.0 / q)
    return launch


def _compute_seconds(value: dict[str, float], sms: float, m: Array, k: Array, n: Array) -> Array:
    """Time of the fastest way to tile and split each of (R,) products, s."""
    m, k, n = m[:, None], k[:, None], n[:, None]  # against (C,) candidates
    waves = np.ceil(np.ceil(m / _A) * np.ceil(n / _B) * _S / sms)
    loading = (1.0 + value["tile_half"] * (1.0 / _A + 1.0 / _B)) / (
        1.0 + value["tile_half"] * (1.0 / 256.0 + 1.0 / 128.0)
    )
    step = 2.0 * _A * _B * loading / (value["tflops"] * TFLOPS / sms)
    store = BYTES * _A * _B / (value["store_gbps"] * GBPS / sms)
    tile = value["tile_us"] * US + np.ceil(k / (_S * K_STEP)) * K_STEP * step + store
    adding = value["split_us"] * US + ACCUMULATOR_BYTES * _S * m * n / (value["reduce_gbps"] * GBPS)
    best: Array = (waves * tile + np.where(_S > 1, adding, 0.0)).min(axis=1)
    return best
