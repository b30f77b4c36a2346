"""Host presets from the files that ``helm-gym measure`` wrote: link copies and gathers of rows."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import yaml

from helm_gym.errors import ConfigError
from helm_gym.files import write_text
from helm_gym.hardware import link
from helm_gym.hardware.benchmarks import BY_CPU, FLOAT_BYTES, MAPPED, SAME_GPU, TOGETHER
from helm_gym.hardware.form import MEASURED, Columns
from helm_gym.hardware.presets import Host
from helm_gym.units import US

ROW_BYTES = 512  # of the row size that gives the value; other sizes give its range

Cells = Mapping[str, str]


def write_hosts(copies: Path, gathers: Path, folder: Path) -> tuple[list[Path], float | None]:
    """Write ``host.yaml`` and ``host-cpu-lookup.yaml`` beside the measurements.

    Args:
        copies: the file of link copies.
        gathers: the file of embedding rows.
        folder: where to.

    Returns:
        The files, and what D2H copies leave of the H2D bandwidth (None if that was not measured).
    """
    moved, read = _read(copies), _read(gathers)
    alone = _copies(moved, "H2D")
    bulk = link.fit_link(alone)
    hosts = [link.measured_host("host", bulk, _rows_through_link(read))]
    by_cpu = [row for row in _in(read, BY_CPU) if _row_bytes(row) == ROW_BYTES]
    if by_cpu:
        hosts.append(link.looking_up_host("host-cpu-lookup", bulk, link.fit_keys(_gathers(by_cpu))))
    written = []
    for host in hosts:
        path = folder / f"{host.name}.yaml"
        write_text(path, _yaml(host, moved[0]["source"]))
        written.append(path)
    return written, _left_beside_d2h(moved, alone)


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _copies(rows: Iterable[Cells], direction: str) -> Columns:
    wanted = [r for r in rows if r["direction"] == direction and r["host_memory"] == "pinned"]
    return {
        "bytes": np.array([float(r["bytes"]) for r in wanted]),
        MEASURED: np.array([float(r["time_us"]) * US for r in wanted]),
    }


def _gathers(rows: Iterable[Cells]) -> Columns:
    rows = list(rows)
    keys = np.array([float(r["unique_rows"]) for r in rows])
    return {
        "keys": keys,
        "bytes": keys * np.array([_row_bytes(r) for r in rows]),
        MEASURED: np.array([float(r["value"]) * US for r in rows]),
    }


def _row_bytes(row: Cells) -> int:
    return int(row["dim"]) * FLOAT_BYTES


def _in(rows: Iterable[Cells], place: str) -> list[Cells]:
    return [row for row in rows if row["config"] == f"table {place}"]


def _rows_through_link(rows: Iterable[Cells]) -> link.Transfer | None:
    """The fit for rows of 512 bytes, its range that of the other row sizes; None without any."""
    mapped = _in(rows, MAPPED)
    fits = {}
    for size in sorted({_row_bytes(row) for row in mapped}):
        try:
            fits[size] = link.fit_link(_gathers(r for r in mapped if _row_bytes(r) == size))
        except ConfigError:
            continue  # too few numbers of rows fitted into the memory
    if not fits:
        return None
    size = min(fits, key=lambda found: abs(found - ROW_BYTES))
    speeds = [fit.gbps.value for fit in fits.values()]
    source = (
        f"gathers of {size}-byte rows from mapped host memory; the range is that of rows of "
        f"{min(fits)} to {max(fits)} bytes"
    )
    gbps = fits[size].gbps.model_copy(
        update={"low": min(speeds), "high": max(speeds), "source": source}
    )
    return fits[size].model_copy(update={"gbps": gbps})


def _left_beside_d2h(rows: Iterable[Cells], alone: Columns) -> float | None:
    beside = _copies(rows, TOGETHER[0] + SAME_GPU)
    return link.contention_of(alone, beside) if beside["bytes"].size else None


def _yaml(host: Host, source: str) -> str:
    """Settings below the machine and date that they come from; the ``source`` of each follows."""
    body = yaml.safe_dump(
        host.model_dump(mode="json", exclude_none=True, exclude_defaults=True),
        sort_keys=False,
        default_flow_style=None,
        width=10_000,
    )
    return f"# {source}\n{body}"
