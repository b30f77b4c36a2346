"""The miss path: how long rows and shards take from host memory to the GPU, and who shares the way.

Three ways lead there. *Random rows*: kernels read the missing rows where they lie, in mapped or
managed host memory (UVM-like). *Bulk*: one copy from pinned memory, as refill makes them.
*Look-up*: the CPU gathers rows from a hash table and sends them in bulk; both overlap, so the
slower one decides. A host preset holds the coefficients of all three (:func:`miss_path`,
:func:`bulk_path`).
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import least_squares

from helm_gym.config.quantity import Coefficient, Frozen, Quantity, Rate
from helm_gym.errors import ConfigError
from helm_gym.hardware.form import MEASURED, Calibrated, Columns, ranges_of
from helm_gym.hardware.presets import Host
from helm_gym.units import GBPS, US

Array = NDArray[np.float64]

FEWEST_SIZES = 3  # two coefficients, and something left to see an error in
LEAST_SPAN = 10.0  # largest over smallest copy: a narrower set cannot tell latency from bandwidth
LARGEST_SMALL = 16e6  # bytes; the smallest copy has to show the latency beside its transfer time
# Random rows over bulk copies: 14 of 25.5 GB/s in the preset dedicated-link (assumed, 7 to 20); on
# H100 27.7 of 42.5 GB/s were measured (0.65).
ROWS_OF_BULK = (0.27, 0.55, 0.78)
WORST_LINE = 0.7  # median relative error; good links stay below 0.1
DIGITS = 6
ROBUST_SCALE = 0.05  # relative error beyond which a point counts less: single runs are noisy


class Transfer(Calibrated):
    """``t = latency + bytes / gbps`` of one copy or gather."""

    dimensions: ClassVar[tuple[str, ...]] = ("bytes",)
    latency_us: Coefficient
    gbps: Rate

    def seconds(self, size: ArrayLike) -> Array:
        """Time of copies of ``size`` bytes."""
        moved = np.asarray(size, float)
        return self.latency_us.value * US + moved / (self.gbps.value * GBPS)


class Lookup(Calibrated):
    """``t = latency + max(bytes / gbps, keys / keys_per_s)``: a gather that a copy overlaps."""

    dimensions: ClassVar[tuple[str, ...]] = ("bytes", "keys")
    latency_us: Coefficient
    gbps: Rate
    keys_per_s: Rate

    def seconds(self, size: ArrayLike, keys: ArrayLike) -> Array:
        """Time of gathering ``keys`` rows of ``size`` bytes together."""
        moved = np.asarray(size, float) / (self.gbps.value * GBPS)
        gathered = np.asarray(keys, float) / self.keys_per_s.value
        return self.latency_us.value * US + np.maximum(moved, gathered)


def miss_path(host: Host) -> Lookup:
    """The form by which the simulator times missing rows on a host (docs/model.md, section 5)."""
    return Lookup(latency_us=host.latency_us, gbps=host.miss_gbps, keys_per_s=host.keys_per_s)


def bulk_path(host: Host) -> Transfer:
    """The form by which the simulator times refill on a host (docs/model.md, section 6)."""
    return Transfer(latency_us=host.latency_us, gbps=host.bulk_gbps)


# -- who shares the link -------------------------------------------------------------------------
class Contention(Frozen):
    """What is left of a link's bandwidth alone, as factors.

    Misses and refill go the same way, so they queue: together they get what one gets alone. D2H
    copies go the other way and still slow them down on every A100 host that was reported.
    """

    h2d_beside_d2h: Coefficient
    d2h_beside_h2d: Coefficient
    all_gpus: Coefficient
    misses_and_refill: Coefficient


def _factor(value: float, low: float, high: float, source: str, assumed: bool = False) -> Quantity:
    return Quantity(value=value, unit="1", source=source, low=low, high=high, assumed=assumed)


# Over the 25.5 GB/s that the same reports give for H2D and D2H alone.
REPORTED = Contention(
    h2d_beside_d2h=_factor(
        0.47, 0.43, 0.51, "A100: 11-13 of 25.5 GB/s (nvbandwidth issues 11 and 53); no raw tables"
    ),
    d2h_beside_h2d=_factor(
        0.96, 0.94, 0.98, "A100: 24-25 of 25.5 GB/s (nvbandwidth issues 11 and 53); no raw tables"
    ),
    all_gpus=_factor(
        0.22, 0.20, 0.24, "A100: 5-6 GB/s per GPU, all GPUs of a host, both ways (nvbandwidth 11)"
    ),
    misses_and_refill=_factor(
        1.0, 0.8, 1.0, "assumed: two H2D streams share the link without loss; not measured", True
    ),
)


def beside(path: Transfer, factor: Quantity) -> Transfer:
    """The same path while something else uses the link."""
    gbps = path.gbps.value * factor.value
    shared = Quantity(
        value=gbps,
        unit="GB/s",
        source=f"{path.gbps.value:g} GB/s alone, times {factor.value:g} ({factor.source})",
        assumed=path.gbps.assumed or factor.assumed,
    )
    return path.model_copy(update={"gbps": shared})


def contention_of(alone: Columns, beside_other: Columns) -> float:
    """Bandwidth beside other copies over bandwidth alone, from copies of the same sizes.

    Args:
        alone: ``bytes`` and ``seconds`` of copies with the link to themselves.
        beside_other: the same of copies beside others.
    """
    times = {size: _median_seconds(alone, size) for size in np.unique(alone["bytes"])}
    both = [size for size in np.unique(beside_other["bytes"]) if size in times]
    if not both:
        raise ConfigError(
            "no size was copied both alone and beside other copies: measure both with the same "
            "sizes, as helm-gym measure does"
        )
    largest = max(both)  # where bandwidth, not latency, decides
    return float(times[largest] / _median_seconds(beside_other, largest))


def _median_seconds(table: Columns, size: float) -> float:
    return float(np.median(table[MEASURED][table["bytes"] == size]))


# -- fits ----------------------------------------------------------------------------------------
def fit_link(table: Columns) -> Transfer:
    """Fit ``latency + bytes / gbps`` to copies of several sizes.

    Relative errors count, so that small copies weigh as much as large ones; a robust loss keeps
    single noisy runs from pulling the line.

    Args:
        table: ``bytes`` and ``seconds``, (R,) each.
    """
    size, seconds = np.asarray(table["bytes"], float), np.asarray(table[MEASURED], float)
    _refuse_degenerate(size, seconds)
    latency, rate = _fit_line(size, seconds)
    _refuse_stalls(size, seconds, latency + size / rate)
    source = f"fit to {size.size} copies of {_bytes(size.min())} to {_bytes(size.max())}"
    return Transfer(
        latency_us=Quantity(value=_rounded(latency / US), unit="us", source=source),
        gbps=Quantity(value=_rounded(rate / GBPS), unit="GB/s", source=source),
        ranges=ranges_of(table, Transfer.dimensions),
    )


def fit_keys(table: Columns) -> float:
    """Keys per second of a gather by the CPU, from ``keys`` and ``seconds``.

    Its fixed part is fitted and left out: the host's latency stands for it.
    """
    keys, seconds = np.asarray(table["keys"], float), np.asarray(table[MEASURED], float)
    if np.unique(keys).size < FEWEST_SIZES:
        raise ConfigError(
            f"a look-up rate needs at least {FEWEST_SIZES} different numbers of keys, got "
            f"{np.unique(keys).size}"
        )
    return _fit_line(keys, seconds)[1]


def measured_host(name: str, bulk: Transfer, rows: Transfer | None = None) -> Host:
    """A host preset from fits; what was not measured is assumed, with a range.

    Args:
        name: of the preset.
        bulk: pinned H2D copies.
        rows: gathers of random rows through the link, whose latency then counts too: misses are
            many and small, refill copies few and large. None if they were not measured.
    """
    return Host(
        name=name,
        latency_us=bulk.latency_us if rows is None else rows.latency_us,
        miss_gbps=_part_of(bulk.gbps) if rows is None else rows.gbps,
        bulk_gbps=bulk.gbps,
        keys_per_s=Quantity(value=1e12, unit="keys/s", source="no CPU look-up on this path"),
    )


def looking_up_host(name: str, bulk: Transfer, keys_per_s: float) -> Host:
    """A host preset whose CPU gathers rows at a measured rate and sends them in bulk."""
    gathered = f"fit to gathers by the CPU, {_rounded(keys_per_s):g} keys/s; no hash table"
    return Host(
        name=name,
        latency_us=bulk.latency_us,
        miss_gbps=bulk.gbps,
        bulk_gbps=bulk.gbps,
        keys_per_s=Quantity(value=_rounded(keys_per_s), unit="keys/s", source=gathered),
    )


def _part_of(bulk: Quantity) -> Quantity:
    """Random rows where only bulk copies were measured."""
    low, middle, high = (round(bulk.value * part, 3) for part in ROWS_OF_BULK)
    return Quantity(
        value=middle,
        unit="GB/s",
        source=f"assumed: {ROWS_OF_BULK[1]:g} of the bulk rate, as the dedicated-link preset does",
        assumed=True,
        low=low,
        high=high,
    )


def _fit_line(amount: Array, seconds: Array) -> tuple[float, float]:
    """Robust fit of ``fixed + amount / rate`` in relative terms; both are positive."""

    def residuals(logs: Array) -> Array:
        return np.asarray(np.log((np.exp(logs[0]) + np.exp(logs[1]) * amount) / seconds))

    start = np.log([0.5 * seconds.min(), float(np.median(seconds / amount))])
    found: Any = least_squares(residuals, start, loss="soft_l1", f_scale=ROBUST_SCALE)
    fixed, per_unit = np.exp(found.x)
    return float(fixed), float(1.0 / per_unit)


def _refuse_degenerate(size: Array, seconds: Array) -> None:
    sizes = np.unique(size)
    if sizes.size < FEWEST_SIZES:
        raise ConfigError(
            f"a link fit needs at least {FEWEST_SIZES} different copy sizes, got {sizes.size}: "
            "measure sizes from some KB to some hundred MB"
        )
    if not (sizes[0] > 0 and np.all(seconds > 0)):
        raise ConfigError("a link fit needs copy sizes and times greater than 0")
    if sizes[-1] < LEAST_SPAN * sizes[0] or sizes[0] > LARGEST_SMALL:
        raise ConfigError(
            f"copies of {_bytes(sizes[0])} to {_bytes(sizes[-1])} cannot tell latency from "
            f"bandwidth: add sizes, the smallest at most {_bytes(LARGEST_SMALL)} and the largest "
            f"at least {LEAST_SPAN:g} times it"
        )


def _refuse_stalls(size: Array, seconds: Array, fitted: Array) -> None:
    """Copies that waited for something else lie on no line at all."""
    off = float(np.median(np.abs(fitted / seconds - 1.0)))
    if off > WORST_LINE:
        raise ConfigError(
            f"copies of {_bytes(size.min())} to {_bytes(size.max())} lie on no line of latency and "
            f"bandwidth (half of them more than {100 * off:.0f} % off): measure them again on an "
            "idle machine"
        )


def _rounded(value: float) -> float:
    """To the digits that a measurement can have."""
    return float(f"{value:.{DIGITS}g}")


def _bytes(size: float) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if size >= scale:
            return f"{size / scale:g} {unit}"
    return f"{size:g} bytes"
