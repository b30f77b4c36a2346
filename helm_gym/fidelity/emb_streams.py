"""Look-up streams, real and generated, and exact row-level caches that replay them."""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from heapq import heappush, heapreplace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from helm_gym.config.quantity import load_preset
from helm_gym.config.workload import PROFILES, Profile
from helm_gym.fidelity.finding import Effort, Skipped
from helm_gym.workload.logs import read_interactions

Rows = NDArray[np.int64]

PART = "EMB cache"
PER_ROW = 64  # independent look-ups per row: enough that their counts rank the rows
LARGEST = 100_000  # rows; larger catalogues are scaled down, law and all
QUICK_LOOKUPS, QUICK_ROWS, QUICK_PER_ROW = 120_000, 12_000, 32
# libCacheSim's oracleGeneral format: s, object, bytes, next access (unused by LRU and LFU)
TRACE = np.dtype([("time", "<u4"), ("object", "<u8"), ("bytes", "<u4"), ("next", "<i8")])
HASH_BITS = 18  # log2 of libCacheSim's first hash table


@dataclass(frozen=True)
class Stream:
    """Look-ups of embedding rows, in order.

    Args:
        name: of the stream.
        row: (N,) row of each look-up, in [0, rows).
        rows: distinct rows.
        independent: whether they are drawn from a law; then row r has the popularity rank r.
        source: where it comes from.
    """

    name: str
    row: Rows
    rows: int
    independent: bool
    source: str

    @property
    def half(self) -> int:
        """Where the measured part begins; everything before only warms caches up."""
        return self.row.size // 2


REAL = (
    (
        "Scarab look-ups",
        "traces/scarab_recs_lookups_nots.parquet",
        "Scarab Research e-commerce recommendations (Caffeine simulator, ccef95542a91)",
    ),
    (
        "Amazon Video Games",
        "traces/amazon_video_games_5core_ts.parquet",
        "Amazon reviews 2014, Video Games 5-core by time (ReChorus split, fff1be333c3e)",
    ),
    (
        "Taobao slice",
        "traces/taobao_userbehavior_slice_130min.parquet",
        "Taobao UserBehavior, 130 minutes of 2017-11-26, an 11 % sample of events (fd73088edbb2)",
    ),
)
PROFILE_NAMES = ("taobao", "amazon-books", "amazon-video-games")


def streams(effort: Effort) -> Iterator[Stream | Skipped]:
    """Every stream that can be had here: real ones, their popularity alone, profiles' laws."""
    for name, file, source in REAL:
        path = effort.find(file)
        if path is None:
            yield Skipped(PART, f"heat-managed shards and row LRU on {name}", f"no {file}")
            continue
        stream = _real(name, path, source, effort.quick)
        yield stream
        yield reshuffled(stream, effort)
    for profile in PROFILE_NAMES:
        yield generated(profile, effort)


def _real(name: str, path: Path, source: str, quick: bool) -> Stream:
    if "nots" in path.stem:  # items in order, without users or a clock
        import pyarrow.parquet as pq

        item = pq.read_table(path, columns=["item_id"]).column("item_id").to_numpy()
    else:
        item = read_interactions(path).item
    item = item[: QUICK_LOOKUPS if quick else None]
    known, row = np.unique(item, return_inverse=True)
    return Stream(name, row.reshape(-1).astype(np.int64), known.size, False, source)


def generated(name: str, effort: Effort) -> Stream:
    """Independent draws from a profile's popularity law.

    A Zipf-Mandelbrot law of K rows and shift q has, at equal fractions of the table, the masses of
    one of K / n rows and shift q / n, so that large catalogues are scaled down.
    """
    law = load_preset(Profile, name, PROFILES, "profile").popularity
    items, shift, exponent = (
        quantity.value for quantity in (law.catalogue_items, law.shift_items, law.exponent)
    )
    rows = min(int(items), QUICK_ROWS if effort.quick else LARGEST)
    scale = rows / items
    middle = np.arange(1.0, rows + 1.0) - 0.5 * (1.0 - scale)  # of the ranks that one stands for
    mass = (middle + shift * scale) ** -exponent
    scaled = "" if rows == items else f", scaled from {items:,.0f} rows to {rows:,}"
    source = f"drawn from profile {name}: s {exponent:g}, q {shift:g}{scaled}"
    return _drawn(f"law of profile {name}", mass, effort, source)


def reshuffled(stream: Stream, effort: Effort) -> Stream:
    """Independent draws with the popularity that the rows of a real stream have in all of it."""
    mass = np.sort(np.bincount(stream.row))[::-1].astype(np.float64)
    if mass.size > LARGEST:  # every n-th rank has the same masses at equal fractions
        mass = mass[np.linspace(0, mass.size, LARGEST, endpoint=False).astype(np.int64)]
    source = f"drawn with the popularity in {stream.source}"
    return _drawn(f"popularity of {stream.name}", mass, effort, source)


def _drawn(name: str, mass: NDArray[np.float64], effort: Effort, source: str) -> Stream:
    rng = np.random.default_rng([effort.seed, zlib.crc32(name.encode())])
    per_row = QUICK_PER_ROW if effort.quick else PER_ROW
    cumulative = np.cumsum(mass / mass.sum())
    row = np.searchsorted(cumulative, rng.random(per_row * mass.size))
    return Stream(name, row.clip(max=mass.size - 1), mass.size, True, source)


# -- the order of rows in the table -----------------------------------------------------------


def law_order(stream: Stream) -> NDArray[np.int64]:
    """Rows of a generated stream by true popularity."""
    return np.arange(stream.rows)


def hindsight_order(stream: Stream) -> NDArray[np.int64]:
    """Rows by look-ups in the whole stream, as a replay lays a log's rows out."""
    return np.argsort(-np.bincount(stream.row, minlength=stream.rows), kind="stable")


def learnt_order(stream: Stream) -> NDArray[np.int64]:
    """Rows by look-ups in the first half; those it never asked for come last, shuffled."""
    shuffled = np.random.default_rng(0).permutation(stream.rows)
    count = np.bincount(stream.row[: stream.half], minlength=stream.rows)
    return shuffled[np.argsort(-count[shuffled], kind="stable")]


LEARNT, HINDSIGHT = "the order of the first half", "the order of the whole stream"
ORDERS = {LEARNT: learnt_order, HINDSIGHT: hindsight_order}


# -- exact caches ------------------------------------------------------------------------------


def installed() -> bool:
    """Whether libCacheSim is here."""
    return find_spec("libcachesim") is not None


def hit_rates(stream: Stream, kind: str, capacities: list[int]) -> list[float]:
    """Hit rate on a stream's second half of a libCacheSim cache that has seen the first.

    Args:
        stream: what is looked up.
        kind: ``LRU`` or ``LFU`` (which forgets the counts of rows that left).
        capacities: in rows.
    """
    import libcachesim

    trace = libcachesim.TraceType.ORACLE_GENERAL_TRACE
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(Path(folder, f"{half}.oracleGeneral")) for half in "ab"]
        write_trace(paths[0], stream.row[: stream.half])
        write_trace(paths[1], stream.row[stream.half :])
        found = []
        for capacity in capacities:
            cache = getattr(libcachesim, kind)(capacity, hashpower=HASH_BITS)
            cache.process_trace(libcachesim.TraceReader(paths[0], trace))
            missed, _ = cache.process_trace(libcachesim.TraceReader(paths[1], trace))
            found.append(1.0 - float(missed))
    return found


def write_trace(path: str, row: Rows) -> None:
    """Write look-ups, or requests of users, as a trace of objects of one byte."""
    records = np.zeros(row.size, TRACE)
    records["object"] = row + 1
    records["bytes"] = 1
    records["next"] = -1
    records.tofile(path)


def perfect_lfu(stream: Stream, capacity: int) -> float:
    """Hit rate on a stream's second half of an LFU that remembers every row's count.

    Breslau and others (INFOCOM 1999) call it Perfect-LFU. The rows looked up most so far are
    resident; of equally many, the latest. libCacheSim has only the kind that forgets.
    """
    hits = _perfect_lfu(stream.row, stream.rows, capacity, stream.half)
    return float(hits) / (stream.row.size - stream.half)


@numba.njit(cache=True)
def _perfect_lfu(stream: Any, rows: int, capacity: int, measured_from: int) -> int:
    count, last = np.zeros(rows, np.int64), np.zeros(rows, np.int64)
    resident = np.zeros(rows, np.bool_)
    coldest = [(np.int64(0), np.int64(0), np.int64(0))][1:]  # heap of (count, last look-up, row)
    hits = 0
    for time in range(stream.size):
        row = stream[time]
        count[row] += 1
        last[row] = time
        if resident[row]:
            hits += int(time >= measured_from)
            continue
        if len(coldest) < capacity:
            resident[row] = True
            heappush(coldest, (count[row], last[row], row))
            continue
        while True:  # counts only grow: what is stale moves down until the first is right
            known, seen, cold = coldest[0]
            if known == count[cold] and seen == last[cold]:
                break
            heapreplace(coldest, (count[cold], last[cold], cold))
        if count[row] >= known:
            resident[cold] = False
            resident[row] = True
            heapreplace(coldest, (count[row], last[row], row))
    return hits
