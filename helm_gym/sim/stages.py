"""Service times of one request, and the latency histogram."""

from __future__ import annotations

import math

import numpy as np

from helm_gym.sim.compiled import inlined, kernel, outlined
from helm_gym.sim.layout import BINS_PER_OCTAVE, FIRST_OCTAVE, N_BINS, Array
from helm_gym.sim.params import Cost
from helm_gym.sim.token_times import STRIDE, Column

# A double is its octave (11 bits, 1023 for the octave of 1.0), then 52 bits of place inside it.
PLACE_SHIFT = 52 - (BINS_PER_OCTAVE.bit_length() - 1)  # leaves a bin's share of the place
FIRST_BIN = (1023 + FIRST_OCTAVE) * BINS_PER_OCTAVE
ROW_SHIFT = STRIDE.bit_length() - 1  # both are powers of two: a shift is cheaper than a division


@inlined
def gpu_seconds(cost: Cost, new: int, cached: int, candidates: int) -> float:
    """GPU time of ``new`` history tokens and ``candidates`` on ``cached`` resident tokens (s)."""
    table = cost.tokens
    computed = _row(new + candidates)
    if cached == 0:
        history, scored = _row(new), _row(candidates)
        attend = table[history, Column.PREFILL] + table[scored, Column.QUERY]
        return table[computed, Column.GEMM] + attend + table[scored, Column.KEY] * new
    attend = table[computed, Column.QUERY] + table[computed, Column.KEY] * (cached + new)
    return table[computed, Column.GEMM] + attend


@inlined
def _row(tokens: int) -> int:
    """Row of ``Cost.tokens`` for a token count, rounded up."""
    return (tokens + (STRIDE - 1)) >> ROW_SHIFT


@inlined
def link_seconds(cost: Cost, missing_bytes: float) -> float:
    """Link time of the missing rows of one request (s)."""
    return cost.link_latency + missing_bytes * cost.link_byte if missing_bytes > 0.0 else 0.0


@inlined
def latency_bin(latency: float) -> int:
    """Histogram bin of a latency in seconds; each bin is at most 1/64 of its value wide."""
    index = (np.float64(latency).view(np.int64) >> PLACE_SHIFT) - FIRST_BIN
    return min(max(int(index), 0), N_BINS - 1)


@kernel
def bin_edge(index: int) -> float:
    """Lower edge of a bin in seconds."""
    octave, part = divmod(index, BINS_PER_OCTAVE)
    return math.ldexp(1.0 + part / BINS_PER_OCTAVE, octave + FIRST_OCTAVE)


@outlined
def quantile(histogram: Array, q: float) -> float:
    """Quantile of a latency histogram by linear interpolation inside its bin; NaN if empty."""
    total = 0
    for i in range(N_BINS):
        total += histogram[i]
    if total == 0:
        return math.nan
    target = q * total
    seen = 0.0
    for i in range(N_BINS):
        count = float(histogram[i])
        if count > 0.0 and seen + count >= target:
            low = bin_edge(i)
            return low + (bin_edge(i + 1) - low) * (target - seen) / count
        seen += count
    return bin_edge(N_BINS)
