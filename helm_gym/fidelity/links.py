"""The miss path against measurements: where a form was fitted, where it was only believed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from helm_gym.config.quantity import load_preset
from helm_gym.errors import ConfigError
from helm_gym.fidelity.finding import Effort, Finding, Skipped
from helm_gym.hardware.form import MEASURED, predict
from helm_gym.hardware.link import REPORTED, Transfer, bulk_path, fit_link, miss_path
from helm_gym.hardware.presets import FOLDER, Host
from helm_gym.units import MS, US

Table = dict[str, NDArray[Any]]

COPIES = "calibration/pcie_h2d.csv"
ROWS = "calibration/embedding_lookup.csv"
RELOAD = "calibration/kv_reload_flexkv.csv"
GATHER = "calibration/elementwise_embgather_a100_vidur.csv"
A100, SMALL = "A100-PCIE-40GB", "Quadro RTX 6000 (PCIe Gen3 x16) - NOT A100"
BULK = 16e6  # bytes; above it the latency is below a tenth of the time
HALF_PRECISION = 2  # bytes
TILE_TOKENS = 32  # below it the measured gather takes another kernel
ROW_BYTES_FP32 = 4

NEVER = (
    (
        "random rows over the link",
        "miss_gbps of an A100 against reads of rows in host memory (UVM or mapped)",
        "never measured on an A100 as far as known: 14 GB/s (dedicated-link) is half of what an "
        "H100 reached over PCIe Gen5, 3 GB/s (shared-link) half of bulk copies by all GPUs",
    ),
    (
        "CPU look-up",
        "latency_us and keys_per_s of cpu-lookup against a look-up service beside an A100",
        "no such measurement is known: HPS was profiled at one query size on a GPU that is not "
        "named, so that fixed time and rate cannot be told apart",
    ),
    (
        "link under contention",
        "misses, refill and D2H at a time against measured queues",
        "only ranges that users reported are known: H2D beside D2H "
        f"{REPORTED.h2d_beside_d2h.value:g} and with all GPUs {REPORTED.all_gpus.value:g} of the "
        "bandwidth alone; that misses and refill share the link without loss is assumed",
    ),
)


def checks(effort: Effort) -> Iterator[Finding | Skipped]:
    """Compare the forms of the miss path with every measurement that is there."""
    for part, compared, reason in NEVER:
        yield Skipped(part, compared, reason)
    yield from _from_file(effort, COPIES, _copy_findings)
    yield from _from_file(effort, RELOAD, _reload_findings)
    yield from _from_file(effort, ROWS, _row_findings)
    yield from _from_file(effort, GATHER, _gather_findings)


def _from_file(effort: Effort, name: str, findings: Any) -> Iterator[Finding | Skipped]:
    path = effort.find(name)
    if path is None:
        yield Skipped("host link", f"forms against {name}", f"{name} is not in the data folder")
    else:
        yield from findings(_read(path))


def _read(path: Path) -> list[dict[str, Any]]:
    from pyarrow import csv

    rows: list[dict[str, Any]] = csv.read_csv(path).to_pylist()
    return rows


def _host(name: str) -> Host:
    return load_preset(Host, name, FOLDER / "hosts", "host")


# -- copies --------------------------------------------------------------------------------------
def _copies(rows: Sequence[dict[str, Any]], **wanted: str) -> Table:
    """``bytes`` and ``seconds`` of the rows that are as wanted and give a size."""
    chosen = [r for r in rows if r["bytes"] and all(r[k] == v for k, v in wanted.items())]
    return _table([float(r["bytes"]) for r in chosen], [r["time_us"] * US for r in chosen])


def _table(size: Sequence[float], seconds: Sequence[float]) -> Table:
    return {"bytes": np.array(size, float), MEASURED: np.array(seconds, float)}


def _copy_findings(rows: Sequence[dict[str, Any]]) -> Iterator[Finding | Skipped]:
    for direction in ("H2D", "D2H"):
        table = _copies(rows, hardware=A100, direction=direction, host_memory="pinned")
        yield _held_out(
            f"bulk copy, {direction}",
            table,
            "A100-PCIE-40GB bandwidthTest, pinned (jdh4/della-gpu-A100, CUDA 11.3)",
            "latency rests on one 1 MB point",
        )
    for memory in ("pinned", "pageable"):
        table = _copies(rows, hardware=SMALL, direction="H2D", host_memory=memory)
        yield _held_out(
            f"small copy, H2D, {memory}",
            table,
            "Quadro RTX 6000, PCIe Gen3, 1 KB..1 MB (npho/cse554)",
            "not an A100: copies below 1 MB were never measured on one",
        )
    yield _other_hosts(rows)


def _held_out(part: str, table: Table, source: str, note: str) -> Finding | Skipped:
    """Each half of the sizes, every second one, predicted by a fit to the other half.

    Sizes below or above those of the fit test extrapolation, so they are told apart.
    """
    compared = "fit to every second size, against the sizes between, both ways"
    _, place = np.unique(table["bytes"], return_inverse=True)
    off, beyond = np.zeros(place.size), np.zeros(place.size, bool)
    for odd in (0, 1):
        mine = place % 2 == odd
        try:
            form = fit_link({name: values[mine] for name, values in table.items()})
        except ConfigError as error:
            return Skipped(part, compared, str(error))
        off[~mine] = _errors(form, table)[~mine]
        beyond[~mine] = form.outside(table["bytes"])[~mine]
    whole = fit_link(table)
    inside, outside = np.abs(off[~beyond]), np.abs(off[beyond])
    bias = off[~beyond].mean()
    return Finding(
        part=part,
        compared=compared,
        points=inside.size,
        measure="MAPE",
        value=100 * float(inside.mean()),
        unit="%",
        source=source,
        note=f"{note}; largest error {100 * inside.max():.0f} %, bias {100 * bias:+.1f} %; "
        f"sizes beyond those of the fit: up to {100 * outside.max(initial=0.0):.0f} %; fit to "
        f"all: {whole.latency_us.value:.1f} us, {whole.gbps.value:.1f} GB/s",
        details={
            "bytes": table["bytes"].tolist(),
            "measured_s": table[MEASURED].tolist(),
            "fitted_s": predict(whole, table).tolist(),
            "held_out_error": off.tolist(),
        },
    )


def _errors(form: Transfer, table: Table) -> NDArray[np.float64]:
    return np.asarray(predict(form, table) / table[MEASURED] - 1.0)


def _other_hosts(rows: Sequence[dict[str, Any]]) -> Finding:
    """The shipped link against pinned copies of other A100 hosts."""
    others = [
        r
        for r in rows
        if r["direction"] == "H2D"
        and r["host_memory"] == "pinned"
        and r["bytes"]
        and r["hardware"] not in (A100, SMALL)
        and r["bytes"] >= BULK
    ]
    table = _table([float(r["bytes"]) for r in others], [r["time_us"] * US for r in others])
    off = _errors(bulk_path(_host("dedicated-link")), table)
    speeds = ", ".join(f"{r['value']:g}" for r in others)
    return Finding(
        part="bulk copy, H2D",
        compared="preset dedicated-link against other A100 hosts, never fitted",
        points=off.size,
        measure="MAPE",
        value=100 * float(np.abs(off).mean()),
        unit="%",
        source="bandwidthTest of four A100 hosts, 32 MB, pinned",
        note=f"hosts differ ({speeds} GB/s), the form does not fail: measure your own",
        details={"measured_gbps": [r["value"] for r in others]},
    )


def _reload_findings(rows: Sequence[dict[str, Any]]) -> Iterator[Finding | Skipped]:
    chosen = [r for r in rows if r["op"] == "onboard_wait"]
    sizes = np.array([float(r["kv_bytes"]) for r in chosen])
    measured = np.array([r["value"] * MS for r in chosen])
    # Few points with a large fixed part: relative least squares, linear in its two coefficients.
    design = np.column_stack([np.ones(sizes.size), sizes]) / measured[:, None]
    (fixed, per_byte), *_ = np.linalg.lstsq(design, np.ones(sizes.size), rcond=None)
    off = (fixed + per_byte * sizes) / measured - 1.0
    preset = _host("gen5-link").bulk_gbps.value
    yield Finding(
        part="bulk copy, H2D",
        compared="form against KV loaded from host memory on H100; fitted to the same points",
        points=sizes.size,
        measure="largest error",
        value=100 * float(np.abs(off).max()),
        unit="%",
        source="FlexKV onboarding, H100 (recsys-examples@43465ae)",
        note=f"three points, none held out; {fixed / MS:.1f} ms of software before the copy, then "
        f"{1e-9 / per_byte:.1f} GB/s (preset gen5-link: {preset:g})",
    )


# -- rows ----------------------------------------------------------------------------------------
def _row_findings(rows: Sequence[dict[str, Any]]) -> Iterator[Finding | Skipped]:
    through_uvm = [
        r
        for r in rows
        if r["engine"] == "TorchRec/FBGEMM TBE" and str(r["config"]).startswith("no_")
    ]
    path = miss_path(_host("gen5-link"))
    keys = np.array([float(r["unique_rows"]) for r in through_uvm])
    size = keys * np.array([float(r["dim"]) for r in through_uvm]) * ROW_BYTES_FP32
    off = path.seconds(size, keys) / (np.array([r["value"] for r in through_uvm]) * MS) - 1.0
    yield Finding(
        part="random rows over the link",
        compared="preset gen5-link against look-ups in host memory through UVM; its rate is theirs",
        points=off.size,
        measure="MAPE",
        value=100 * float(np.abs(off).mean()),
        unit="%",
        source="FBGEMM TBE, H100 (recsys-examples@43465ae), 434k unique rows of 512 bytes",
        note="one number of rows, so neither latency nor another row size was seen; with 10 % of "
        "the table in HBM no faster",
    )
    yield from _profiled_look_up(rows)


def _profiled_look_up(rows: Sequence[dict[str, Any]]) -> Iterator[Finding | Skipped]:
    found = [
        r
        for r in rows
        if r["engine"] == "HugeCTR HPS"
        and r["phase"] == "inference median"
        and str(r["config"]).startswith("miss")
    ]
    if not found:
        yield Skipped("CPU look-up", "preset against HPS", "no HPS row in the data")
        return
    (row,) = found
    keys = 0.156 * row["lookups"]  # mean hit rate 0.844
    path = miss_path(_host("cpu-lookup"))
    off = float(path.seconds(keys * row["dim"] * ROW_BYTES_FP32, keys)) / (row["value"] * MS) - 1.0
    yield Finding(
        part="CPU look-up",
        compared="preset cpu-lookup against synchronous insertion of missing rows",
        points=1,
        measure="error",
        value=100 * abs(off),
        unit="%",
        source="HugeCTR HPS profiler @065b738 (GPU not stated), 2,000 keys, hit rate 0.844",
        note=f"signed {100 * off:+.0f} %; one query size, and the preset's latency is the look-up "
        "inside the same time: consistent, not validated",
    )


def _gather_findings(rows: Sequence[dict[str, Any]]) -> Iterator[Finding | Skipped]:
    chosen = [r for r in rows if r["op"] == "emb" and r["num_tokens"] >= TILE_TOKENS]
    moved = [2.0 * HALF_PRECISION * r["n_embd"] * r["num_tokens"] for r in chosen]  # read, write
    yield _held_out(
        "rows in HBM",
        _table(moved, [r["value"] * US for r in chosen]),
        "vocabulary embedding on A100 80GB, rows of 5-16 KB (microsoft/vidur@7d47513)",
        "the simulator takes hits as free; this vLLM kernel is slower than an embedding kernel "
        "such as TBE",
    )
