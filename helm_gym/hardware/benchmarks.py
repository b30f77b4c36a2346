"""What is measured, on which shapes, and the row that each case gives.

Rows have the columns of the calibration files, and three more: ``spread`` (interquartile range, in
the row's unit), ``repeats``, and ``source`` with the versions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle, product
from typing import Any

from helm_gym.hardware.clock import Machine, Tensor, Timing

Case = dict[str, str | int]
Row = dict[str, str | int | float]

ALONE, TOGETHER = ("H2D", "D2H"), ("H2D with concurrent D2H", "D2H with concurrent H2D")
SAME_GPU = " (same GPU)"
IN_HBM, MAPPED, BY_CPU = (
    "in HBM",
    "in pinned host memory, read by the GPU",
    "in host memory, by CPU",
)
FLOAT_BYTES = 4
INDEX_BLOCKS = 8  # look-ups go on through the table, so that no cache holds their rows


@dataclass(frozen=True)
class Shapes:
    """Which shapes to measure.

    Args:
        gemm: (m, k, n).
        prefill: (batch, sequence, heads).
        incremental: (heads, new tokens, cached tokens).
        gather: (dim, look-ups).
        table_bytes: of the embedding table that look-ups read.
        copies: bytes of one copy.
        together: bytes of copies in both directions at a time.
        head_dim: channels of a head.
        budget_s: about how long to repeat one case.
    """

    gemm: tuple[tuple[int, int, int], ...]
    prefill: tuple[tuple[int, int, int], ...]
    incremental: tuple[tuple[int, int, int], ...]
    gather: tuple[tuple[int, int], ...]
    table_bytes: int
    copies: tuple[int, ...]
    together: tuple[int, ...]
    head_dim: int = 128
    budget_s: float = 0.2


def _powers(low: int, high: int, step: int = 1) -> tuple[int, ...]:
    """Powers of two from ``low`` to ``high``."""
    exponents = range(int(math.log2(low)), int(math.log2(high)) + 1, step)
    return tuple(2**exponent for exponent in exponents)


def shapes_for(device: str, quick: bool) -> Shapes:
    """Shapes that a device gets through in some minutes, or in well under one."""
    if quick:
        return Shapes(
            gemm=tuple(product((16, 64, 256, 1024), (128, 256, 512), (128, 256, 512))),
            prefill=tuple(product((1,), (128, 256, 384, 512, 768, 1024), (2, 4))),
            incremental=tuple(product((2, 4), (32, 64, 128), (0, 256, 512, 1024))),
            gather=tuple(product((16, 64, 128), (256, 1024, 4096, 16384))),
            table_bytes=32 * 2**20,
            copies=_powers(2**10, 2**24, 2),
            together=_powers(2**20, 2**24, 2),
            budget_s=0.03,
        )
    if device == "cpu":
        return Shapes(
            gemm=tuple(product(_powers(16, 2048), _powers(128, 1024), _powers(128, 1024))),
            prefill=tuple(product((1, 2), (128, 256, 384, 512, 768, 1024, 1536, 2048), (2, 4, 8))),
            incremental=tuple(product((2, 4, 8), (32, 64, 128, 256), (0, 256, 512, 1024, 2048))),
            gather=tuple(product((16, 64, 128, 512), _powers(2**8, 2**16, 2))),
            table_bytes=2**29,
            copies=_powers(2**10, 2**28),
            together=_powers(2**22, 2**28),
        )
    return Shapes(
        gemm=tuple(product(_powers(16, 32768), _powers(256, 4096), _powers(256, 8192))),
        prefill=tuple(
            product(
                (1, 4),
                (256, 512, 768, 1024, 1536, 2048, 3072, 4096, 8192, 12288, 16384),
                (4, 8, 16),
            )
        ),
        incremental=tuple(
            product((4, 8, 16), _powers(64, 4096), (0, 512, 1024, 2048, 4096, 8192, 16384))
        ),
        gather=tuple(product((16, 64, 128, 512), _powers(2**10, 2**20, 2))),
        table_bytes=2**31,
        copies=_powers(2**10, 2**30),
        together=_powers(2**22, 2**30),
    )


# -- cases ---------------------------------------------------------------------------------------
def gemm_cases(shapes: Shapes, device: str) -> Iterator[Case]:
    """Matrix products."""
    for m, k, n in shapes.gemm:
        yield {"m": m, "k": k, "n": n}


def prefill_cases(shapes: Shapes, device: str) -> Iterator[Case]:
    """Causal self-attention of whole sequences."""
    for batch, length, heads in shapes.prefill:
        yield {"batch": batch, "seq_len": length, **_heads(shapes, heads)}


def incremental_cases(shapes: Shapes, device: str) -> Iterator[Case]:
    """Causal attention of new tokens that follow cached ones."""
    for heads, new, cached in shapes.incremental:
        yield {**_heads(shapes, heads), "n_new": new, "n_cached": cached}


def _heads(shapes: Shapes, heads: int) -> Case:
    return {"n_heads": heads, "n_kv_heads": heads, "head_dim": shapes.head_dim}


def gather_cases(shapes: Shapes, device: str) -> Iterator[Case]:
    """Random rows of one table, wherever it may lie."""
    places = (IN_HBM, MAPPED, BY_CPU) if device == "cuda" else (BY_CPU,)
    for place, (dim, lookups) in product(places, shapes.gather):
        if lookups <= _table_rows(shapes, dim):  # every look-up its own row
            yield {
                "engine": "torch index_select", "config": f"table {place}", "phase": "eval",
                "dim": dim, "lookups": lookups, "unique_rows": lookups,
            }  # fmt: skip


def _table_rows(shapes: Shapes, dim: int) -> int:
    return shapes.table_bytes // (dim * FLOAT_BYTES)


def copy_cases(shapes: Shapes, device: str) -> Iterator[Case]:
    """Copies of each direction alone, pinned and pageable, and of both at a time."""
    for memory, direction, size in product(("pinned", "pageable"), ALONE, shapes.copies):
        yield {"direction": direction, "host_memory": memory, "bytes": size}
    for direction, size in product(TOGETHER, shapes.together):
        yield {"direction": direction + SAME_GPU, "host_memory": "pinned", "bytes": size}


# -- what a case runs ----------------------------------------------------------------------------
def run_gemm(machine: Machine, shapes: Shapes, case: Case) -> Row:
    """``out = a b`` into memory that is there already."""
    m, k, n = (int(case[name]) for name in ("m", "k", "n"))
    machine.need(FLOAT_BYTES * (m * k + k * n + m * n))
    a, b, out = machine.random(m, k), machine.random(k, n), machine.random(m, n)
    return _time_row(machine.time(lambda: machine.torch.mm(a, b, out=out)))


def run_prefill(machine: Machine, shapes: Shapes, case: Case) -> Row:
    """Causal attention over the whole sequence."""
    attend = machine.torch.nn.functional.scaled_dot_product_attention
    q, k, v = _qkv(machine, case, int(case["batch"]), int(case["seq_len"]), int(case["seq_len"]))
    return _time_row(machine.time(lambda: attend(q, k, v, is_causal=True)))


def run_incremental(machine: Machine, shapes: Shapes, case: Case) -> Row:
    """New tokens see all cached ones and, among themselves, the earlier ones."""
    attend = machine.torch.nn.functional.scaled_dot_product_attention
    new, keys = int(case["n_new"]), int(case["n_new"]) + int(case["n_cached"])
    q, k, v = _qkv(machine, case, 1, new, keys)
    mask = _lower_right(machine, new, keys)
    return _time_row(machine.time(lambda: attend(q, k, v, attn_mask=mask)))


def _qkv(machine: Machine, case: Case, batch: int, queries: int, keys: int) -> list[Tensor]:
    heads, channels = int(case["n_heads"]), int(case["head_dim"])
    machine.need(FLOAT_BYTES * batch * heads * channels * 2 * (queries + keys))
    return [machine.random(batch, heads, n, channels) for n in (queries, keys, keys)]


def _lower_right(machine: Machine, new: int, keys: int) -> Any:
    """Causal mask whose last query sees the last key; on CUDA one that fused kernels know."""
    if machine.kind == "cuda":
        from torch.nn.attention.bias import causal_lower_right

        return causal_lower_right(new, keys)
    full = machine.torch.ones(new, keys, dtype=machine.torch.bool)
    return full.tril(diagonal=keys - new)


def run_gather(machine: Machine, shapes: Shapes, case: Case) -> Row:
    """Rows at random places, never the same ones again until the table has been passed."""
    torch, dim, lookups = machine.torch, int(case["dim"]), int(case["lookups"])
    rows = _table_rows(shapes, dim)
    machine.need(2 * shapes.table_bytes)
    place = str(case["config"]).removeprefix("table ")
    on = torch.device("cpu") if place == BY_CPU else machine.device
    timer = Machine(torch, machine.budget_s) if place == BY_CPU else machine
    table = _table(machine, place, rows, dim)
    order = torch.randperm(rows, device=on)[: INDEX_BLOCKS * lookups]
    blocks = cycle(order.split(lookups)[: max(1, rows // lookups)])
    out = torch.empty(lookups, dim, device=on)
    timing = timer.time(lambda: torch.index_select(table, 0, next(blocks), out=out))
    moved = lookups * dim * FLOAT_BYTES
    return {
        **_time_row(timing),
        "M_lookups_per_s": round(lookups / timing.median_us, 4),
        "unique_GBps": round(moved / timing.median_us * 1e-3, 4),
    }


def _table(machine: Machine, place: str, rows: int, dim: int) -> Tensor:
    if place == IN_HBM:
        return machine.torch.ones(rows, dim, device=machine.device)
    table = machine.torch.ones(rows, dim, pin_memory=place == MAPPED and machine.kind == "cuda")
    return machine.mapped(table) if place == MAPPED else table


def run_copy(machine: Machine, shapes: Shapes, case: Case) -> Row:
    """One copy between host and device, alone or while the other direction is busy."""
    size, direction = int(case["bytes"]), str(case["direction"])
    machine.need(2 * size)
    pinned = case["host_memory"] == "pinned"
    to_device = _copier(machine, size, pinned, up=True)
    to_host = _copier(machine, size, pinned, up=False)
    mine, other = (to_device, to_host) if direction.startswith("H2D") else (to_host, to_device)
    alone = direction in ALONE
    timing = machine.time(mine) if alone else machine.time_beside(mine, other)
    speed = size / timing.median_us * 1e-3  # GB/s
    return {
        "value": round(speed, 6),
        "unit": "GB/s",
        "time_us": round(timing.median_us, 4),
        "note": machine.note,
        "spread": round(speed * timing.spread_us / timing.median_us, 6),
        "repeats": timing.repeats,
    }


def _copier(machine: Machine, size: int, pinned: bool, up: bool) -> Callable[[], object]:
    host, device = machine.host_buffer(size, pinned), machine.device_buffer(size)
    source, target = (host, device) if up else (device, host)
    return lambda: target.copy_(source, non_blocking=True)


def _time_row(timing: Timing) -> Row:
    return {
        "value": round(timing.median_us, 4),
        "unit": "us",
        "spread": round(timing.spread_us, 4),
        "repeats": timing.repeats,
    }
