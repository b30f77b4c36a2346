"""Known programs timed in the same run, so that our figures mean something on any machine.

Each yardstick returns seconds per request, or raises :class:`Missing` with the reason.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

OBJECTS = 200_000
EXPONENT = 0.9
CACHED = 32 * 4096  # as many entries as 32 nodes with 4,096 users each
SERVERS = 32
UTILISATION = 0.8
# libCacheSim's oracleGeneral format: s, object, bytes, next access (unused by LRU)
TRACE = np.dtype([("time", "<u4"), ("object", "<u8"), ("bytes", "<u4"), ("next", "<i8")])
Process = Generator[Any, Any, None]


class Missing(Exception):
    """A yardstick cannot be timed here; the message says why."""


def lru_seconds(requests: int, hash_bits: int = 24) -> float:
    """LRU of libCacheSim, in C, on a Zipf stream read from a file: seconds per request.

    Args:
        requests: length of the stream; it is played once untimed, to fill the cache.
        hash_bits: log2 of its hash table's slots. 24 is the library's default; 18 fits what is
            cached here, and the processor's caches.
    """
    try:
        import libcachesim
    except ImportError as error:
        raise Missing(f"libcachesim is not installed ({error})") from None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "zipf.oracleGeneral")
        _zipf_trace(requests).tofile(path)
        kind = libcachesim.TraceType.ORACLE_GENERAL_TRACE
        cache = libcachesim.LRU(CACHED, hashpower=hash_bits)
        cache.process_trace(libcachesim.TraceReader(str(path), kind))
        reader = libcachesim.TraceReader(str(path), kind)
        began = time.perf_counter()
        cache.process_trace(reader)
        return (time.perf_counter() - began) / requests


def _zipf_trace(requests: int) -> NDArray[np.void]:
    rng = np.random.default_rng(0)
    law = np.cumsum(np.arange(1.0, OBJECTS + 1.0) ** -EXPONENT)
    rows = np.zeros(requests, TRACE)
    rows["object"] = 1 + np.searchsorted(law / law[-1], rng.random(requests))
    rows["bytes"] = 1
    rows["next"] = -1
    return rows


def simpy_seconds(requests: int) -> float:
    """SimPy model of a queue per server, join the shortest, two random draws: s per request."""
    try:
        import simpy
    except ImportError as error:
        raise Missing(f"simpy is not installed ({error})") from None
    rng = np.random.default_rng(0)
    gaps = rng.exponential(1.0 / (SERVERS * UTILISATION), requests).tolist()
    work = rng.exponential(1.0, requests).tolist()
    env = simpy.Environment()
    servers = [simpy.Resource(env) for _ in range(SERVERS)]

    def request(seconds: float) -> Process:
        server = min(servers, key=lambda s: len(s.queue) + s.count)
        with server.request() as turn:
            yield turn
            yield env.timeout(seconds)

    def arrivals() -> Process:
        for gap, seconds in zip(gaps, work, strict=True):
            yield env.timeout(gap)
            env.process(request(seconds))

    env.process(arrivals())
    began = time.perf_counter()
    env.run()
    return (time.perf_counter() - began) / requests
