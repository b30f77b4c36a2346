"""Kernel-time forms against measured kernels: shapes held out at random, by band, by engine.

A random half of a dense grid tests interpolation; whole sequence lengths, head counts or users per
batch left out, sizes beyond all that were fitted, and another engine test what a simulation needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from helm_gym.fidelity.finding import Effort, Finding, Skipped
from helm_gym.hardware.attention import Incremental, fit_prefill
from helm_gym.hardware.calibrate import FITS
from helm_gym.hardware.devices import device
from helm_gym.hardware.form import MEASURED, Array, Form, errors_of, predict
from helm_gym.hardware.measurements import KINDS, Measurements, read_measurements

Table = dict[str, Array]
Mask = NDArray[np.bool_]
Fit = Callable[[Table], Form]

SPLITS = 20  # random halves of a small file
SPLITS_QUICK = 3
SPLITS_GEMM = 3  # a fit takes seconds
LARGE = 1024  # tokens; long sequences are told apart

NEVER = (
    ("HSTU attention", "a kernel on an A100", "no timing is public; hstu_factor is assumed"),
    (
        "attention",
        "head dimensions other than 128 on an A100",
        "not in the data; FLOPs and bytes per head dimension are assumed to count alone",
    ),
    (
        "incremental attention",
        "several users per batch on an A100",
        "the measured kernel ran one sequence at a time, as the simulator does",
    ),
)


class Room(NamedTuple):
    """One file of measurements and what is asked of its form."""

    part: str
    kind: str
    file: str
    target: float  # MAPE of random halves, %


ROOMS = (
    Room("matrix products", "gemm", "gemm_a100_aiconfigurator.csv", 8.0),
    Room("causal prefill", "attention", "attention_prefill_a100.csv", 4.0),
    Room("incremental attention", "incremental", "attention_incremental_prefill.csv", 5.0),
    Room("HSTU block on L20", "hstu-block", "hstu_block_l20.csv", 5.0),
)


def checks(effort: Effort) -> Iterator[Finding | Skipped]:
    """Compare every form with every measurement that is there."""
    for part, compared, reason in NEVER:
        yield Skipped(part, compared, reason)
    for room in ROOMS:
        name = f"calibration/{room.file}"
        path = effort.find(name)
        if path is None:
            yield Skipped(room.part, f"form against {name}", f"{name} is not in the data folder")
        else:
            yield from _room(room, path, effort)
    yield from _rates(effort)


def _room(room: Room, path: Path, effort: Effort) -> Iterator[Finding]:
    measured = read_measurements(path, KINDS[room.kind])
    gpu = device(measured.hardware)

    def fit(table: Table) -> Form:
        return FITS[room.kind](table, gpu)

    yield _halves(room, measured, fit, effort)
    if room.kind == "gemm":
        bands = {"m": _values(measured, "m", effort), "n": _values(measured, "n", effort)}
        beyond = {"m": 2048.0, "n": 4096.0}
    elif room.kind == "attention":
        names = ("seq_len", "n_heads", "batch")
        bands = {name: _values(measured, name, effort) for name in names}
        beyond = {"seq_len": 4096.0, "n_heads": 8.0, "batch": 4.0}
        yield from _engines(room, measured, fit)
    elif room.kind == "incremental":
        bands = {"n_heads": np.array([4.0, 16.0]), "n_new": np.array([112.0, 288.0, 1024.0])}
        beyond = {"n_cached": 2000.0}
        yield _fresh_tokens(room, measured, fit)
        yield _lines(room, measured, fit)
    else:
        bands = {name: _values(measured, name, effort) for name in ("batch", "history_len")}
        beyond = {"history_len": 2048.0, "new_len": 512.0}
    for name, values in bands.items():
        yield _bands(room, measured, fit, name, values)
    for name, edge in beyond.items():
        yield _beyond(room, measured, fit, name, edge)


def _values(measured: Measurements, name: str, effort: Effort) -> Array:
    """Values of a dimension to leave out, one after another; a few if quick or slow."""
    values = np.unique(measured.table[name])
    few = effort.quick or measured.kind.name == "gemm"
    return values[:: max(1, values.size // 3)] if few else values


def _take(table: Table, chosen: Mask) -> Table:
    return {name: column[chosen] for name, column in table.items()}


def _source(measured: Measurements) -> str:
    return f"{measured.path.name}, {measured.source}, {measured.hardware}"


def _halves(room: Room, measured: Measurements, fit: Fit, effort: Effort) -> Finding:
    """Fit random halves of the shapes, and predict the others."""
    table = measured.table
    splits = SPLITS_GEMM if room.kind == "gemm" else SPLITS
    splits = min(splits, SPLITS_QUICK) if effort.quick else splits
    splits = 1 if effort.quick and room.kind == "gemm" else splits
    errors = []
    for split in range(splits):
        order = np.random.default_rng([effort.seed, split]).permutation(measured.shapes)
        half = np.isin(np.arange(order.size), order[: order.size // 2])
        errors.append(errors_of(fit(_take(table, half)), _take(table, ~half)))
    mape = 100.0 * np.array([error.mape for error in errors])
    p90 = 100.0 * float(np.mean([error.p90 for error in errors]))
    bias = 100.0 * float(np.mean([error.bias for error in errors]))
    return Finding(
        part=room.part,
        compared=f"fit to half of the shapes, against the other half, {splits} random halves",
        points=measured.shapes - measured.shapes // 2,
        measure="MAPE",
        value=float(mape.mean()),
        unit="%",
        source=_source(measured),
        target=room.target,
        note=f"{mape.min():.1f} to {mape.max():.1f} %; P90 {p90:.1f} %, bias {bias:+.1f} %",
        details={"mape": mape.tolist()},
    )


def _stated(
    room: Room, measured: Measurements, compared: str, points: int, mape: float, note: str = ""
) -> Finding:
    source = _source(measured)
    return Finding(room.part, compared, points, "MAPE", 100.0 * mape, "%", source, note=note)


def _bands(
    room: Room, measured: Measurements, fit: Fit, name: str, values: Iterable[float]
) -> Finding:
    """Leave every shape with one value of a dimension out, one value after another."""
    table, found = measured.table, {}
    for value in values:
        band = table[name] == value
        found[f"{value:g}"] = errors_of(fit(_take(table, ~band)), _take(table, band))
    points = sum(error.points for error in found.values())
    mape = sum(error.mape * error.points for error in found.values()) / points
    worst = max(found, key=lambda value: found[value].mape)
    compared = f"one {name} left out of the fit at a time ({len(found)} of them)"
    note = f"worst: {name} {worst}, {found[worst].mape:.1%}"
    finding = _stated(room, measured, compared, points, mape, note)
    details = {"mape": {value: 100.0 * error.mape for value, error in found.items()}}
    return Finding(**{**finding.__dict__, "details": details})


def _beyond(room: Room, measured: Measurements, fit: Fit, name: str, edge: float) -> Finding:
    """Fit up to an edge, and predict everything above it."""
    table = measured.table
    near = table[name] <= edge
    errors = errors_of(fit(_take(table, near)), _take(table, ~near))
    compared = f"extrapolated: fit to {name} up to {edge:g}, against {name} above"
    note = f"P90 {errors.p90:.1%}, bias {errors.bias:+.1%}"
    return _stated(room, measured, compared, errors.points, errors.mape, note)


def _engines(room: Room, measured: Measurements, fit: Fit) -> Iterator[Finding]:
    """Another engine's kernels, with one factor for its speed; and fitted on their own."""
    form = fit(measured.table)
    for engine, table in measured.others.items():
        ratio = table[MEASURED] / predict(form, table)
        factor = float(np.median(ratio))
        error = np.abs(factor / ratio - 1.0)
        long = table["seq_len"] >= LARGE
        yield _stated(
            room,
            measured,
            f"fit to {measured.source}, against {engine}, times one factor",
            error.size,
            float(error.mean()),
            f"factor {factor:.2f}; {error[long].mean():.1%} from {LARGE} tokens on; "
            f"{np.abs(1.0 / ratio - 1.0).mean():.1%} without the factor",
        )
        half = np.random.default_rng(0).random(ratio.size) < 0.5
        errors = errors_of(fit(_take(table, half)), _take(table, ~half))
        compared = f"the same form fitted to half of {engine}, against the other half"
        finding = _stated(room, measured, compared, errors.points, errors.mape)
        yield Finding(**{**finding.__dict__, "target": room.target})


def _fresh_tokens(room: Room, measured: Measurements, fit: Fit) -> Finding:
    """Three numbers of new tokens left out at once, at 8 heads."""
    table = _take(measured.table, measured.table["n_heads"] == 8)
    out = np.isin(table["n_new"], (128.0, 288.0, 544.0))
    errors = errors_of(fit(_take(table, ~out)), _take(table, out))
    compared = "8 heads, 128, 288 and 544 new tokens left out of the fit"
    note = f"P90 {errors.p90:.1%}, bias {errors.bias:+.1%}"
    return _stated(room, measured, compared, errors.points, errors.mape, note)


def _lines(room: Room, measured: Measurements, fit: Fit) -> Finding:
    """The line in cached tokens that a simulation takes, through the jumps of split keys."""
    table = measured.table
    half = np.random.default_rng(0).random(measured.shapes) < 0.5
    form = fit(_take(table, half))
    assert isinstance(form, Incremental)
    rest = _take(table, ~half)
    fixed, per_key = form.lines(rest["n_new"], rest["n_heads"], rest["head_dim"])
    signed = (fixed + per_key * rest["n_cached"]) / rest[MEASURED] - 1.0
    compared = "line in cached tokens (what the simulator takes), fit to half, against the other"
    note = f"bias {signed.mean():+.1%}; the rest is jumps where the kernel splits keys otherwise"
    return _stated(room, measured, compared, signed.size, float(np.abs(signed).mean()), note)


def _rates(effort: Effort) -> Iterator[Finding | Skipped]:
    """How the rate grows with length, beside FlashAttention-2's own benchmark."""
    names = ("calibration/flashattention2_a100_fwdbwd.csv", "calibration/" + ROOMS[1].file)
    rates, prefill = (effort.find(name) for name in names)
    compared = "growth of the rate with length against FlashAttention-2's"
    if rates is None or prefill is None:
        yield Skipped(ROOMS[1].part, compared, f"{' or '.join(names)} is not in the data folder")
        return
    from pyarrow import csv

    rows = [
        row
        for row in csv.read_csv(rates).to_pylist()
        if row["causal"] == "yes" and row["head_dim"] == 128
    ]
    length = np.array([float(row["seq_len"]) for row in rows])
    theirs = np.array([float(row["value"]) for row in rows])
    form = fit_prefill(read_measurements(prefill, KINDS["attention"]).table)
    # That benchmark holds 16,384 tokens and a width of 2,048.
    batch = length.max() / length
    ours = batch * length**2 / form.seconds(batch, length, 16.0, 16.0)
    error = (ours / ours[-1]) / (theirs / theirs[-1]) - 1.0
    yield Finding(
        part=ROOMS[1].part,
        compared=compared,
        points=length.size,
        measure="MAPE",
        value=100.0 * float(np.abs(error).mean()),
        unit="%",
        source="Dao-AILab/flash-attention@0251105, A100-80GB, causal, d = 128, labels of a figure",
        note="rates relative to 16,384 tokens; theirs is forward and backward, ours forward",
        details={"seq_len": length.tolist(), "error": (100.0 * error).tolist()},
    )
