"""Names, shapes and units of the simulator's state: one flat buffer per cluster.

Letters used in shape comments, here and in every kernel:

    M nodes          S shards            G interest groups (the last one is the burst's)
    U users          W mask words        E KV entries per node
    Q session slots  K calendar buckets  C entries of the open bucket
    L latency bins   T schedule cells    F surfaces
    D changes of residency that are noted between two reports, 0 if the router sees live signals

Time is in seconds, memory in bytes, EMB fill in shards, KV capacity in blocks. A cluster's arrays
are views into one buffer, so that a snapshot, a warm start and a checkpoint are each one copy.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from helm_gym.seeding import N_STREAMS

Array = NDArray[Any]

SESSION = np.dtype(
    [
        ("time", "f8"),  # s, instant of the session's next request
        ("user", "i4"),
        ("next", "i4"),  # next slot in the same calendar bucket, -1 at the end
        ("left", "i4"),  # requests still to come, this one included
        ("group", "i2"),
        ("surface", "i2"),
    ],
    align=True,
)
USER = np.dtype(
    [
        ("history", "i4"),  # tokens
        ("evicted_node", "i2"),  # node that last evicted this user's KV, -1 if none
        ("group", "i2"),  # interest group
        ("last_seen", "f8"),  # s, previous request
        ("evicted_clock", "u4"),  # blocks that node had inserted by then, modulo 2**32
        ("entry", "i4"),  # KV entry on the node that took the user in last, -1 if it went
    ],
    align=True,
)
USER_WORDS = USER.itemsize // 8

ENTRY = np.dtype(
    [
        ("owner", "i4"),  # user, -1 if free
        ("blocks", "i4"),
        ("tokens", "i4"),  # history length that is cached
        ("newer", "i4"),  # LRU neighbours, -1 at the ends; `newer` chains the free list
        ("older", "i4"),
    ]
)

BINS_PER_OCTAVE = 64
FIRST_OCTAVE = -17  # latencies below 2**-17 s (8 us) share the first bin
OCTAVES = 24  # up to 2**7 s
N_BINS = BINS_PER_OCTAVE * OCTAVES
PENDING_WINDOWS = 64  # windows ahead for which completions are booked


class Node(IntEnum):
    """Columns of ``Output.node``: sums over one window on one node."""

    ARRIVED = 0  # requests routed here
    SHED = 1  # of them refused: predicted wait beyond the deadline
    WITHIN_SLO = 2  # of them finished inside the SLO
    LATENCY_S = 3  # sum over admitted
    WAIT_S = 4  # sum of link and GPU queueing over admitted
    KV_HITS = 5  # admitted requests whose user's KV was resident
    LOOKUP_BYTES = 6  # embedding bytes looked up
    MISS_BYTES = 7  # of them fetched over the link
    REFILL_BYTES = 8  # copied by refill
    LINK_S = 9  # link work of misses and refill
    GPU_S = 10  # GPU work admitted
    HISTORY_TOKENS = 11  # sum over arrived
    CANDIDATES = 12  # sum over arrived
    HOT = 13  # arrived requests of hot users
    WARM = 14  # arrived requests that are not the first of their session
    GHOST_KV_S = 15  # GPU and link seconds that `ghost` more KV would have saved
    SHARD_LOADS = 16  # refill copies finished
    EVICTED_BLOCKS = 17  # KV blocks evicted
    SWAPS = 18  # shards replaced by hotter ones
    # The rest are levels at the window's end, not sums.
    LINK_DELAY_S = 19  # until the link is free
    GPU_DELAY_S = 20  # until the GPU is free
    REFILL_BACKLOG = 21  # bytes waiting to be copied
    MARGINAL_EMB_S = 22  # link seconds per second that `ghost` more EMB would save
    EMB_BYTES = 23  # pages in use
    KV_BYTES = 24  # blocks in use
    SHARE = 25  # EMB share in force


N_NODE = len(Node)
N_NODE_SUMS = int(Node.LINK_DELAY_S)


class Cluster(IntEnum):
    """Columns of ``Output.cluster``: figures of one window over all nodes."""

    P50_S = 0
    P99_S = 1
    WARM_P50_S = 2
    WARM_P99_S = 3
    COMPLETED = 4  # requests that finished inside the window, whenever they arrived
    IN_FLIGHT = 5  # admitted and unfinished at the window's end
    TIME_S = 6  # the window's end


N_CLUSTER = len(Cluster)


class Clock(IntEnum):
    """Entries of ``Arrivals.clock``."""

    NOW = 0  # s, everything before this instant has been simulated
    NEXT_TICK = 1
    NEXT_START = 2  # instant of the next session start
    NEXT_REPORT = 3  # of the nodes to the router; infinite if its signals are live


class Count(IntEnum):
    """Entries of ``Arrivals.tally``: integers of the request source."""

    BUCKET = 0  # calendar bucket that is open
    OPEN = 1  # entries in the open bucket
    FREE = 2  # head of the free session list
    ROUND_ROBIN = 3
    LOG_POSITION = 4  # next row of a replayed log
    OFFERED = 5  # cumulative: requests offered
    COMPLETED = 6  # cumulative: finished before NOW
    SHED = 7  # cumulative
    STATUS = 8  # 0, or a Status


class Status(IntEnum):
    """Why a kernel stopped early."""

    OK = 0
    SESSIONS_FULL = 1
    BUCKET_FULL = 2


class Arrivals(NamedTuple):
    """Request source: random streams, active sessions in a calendar queue."""

    rng: Array  # (N_STREAMS,) u8
    clock: Array  # (4,) f8 see Clock
    tally: Array  # (9,) i8
    sessions: Array  # (Q,) SESSION
    bucket: Array  # (K,) i4 first session slot of each calendar bucket
    open_slot: Array  # (C,) i4 slots of the open bucket, latest first


class Kv(NamedTuple):
    """KV cache: LRU over users on each node, and a hash from (user, node) to entry."""

    mask: Array  # (U, W) u8 bit n of user u: resident on node n; beside the user's row
    entry: Array  # (M*E,) ENTRY; node n owns [n*E, (n+1)*E)
    newest: Array  # (M,) i4
    oldest: Array  # (M,) i4
    free: Array  # (M,) i4 head of the free list
    used: Array  # (M,) i8 blocks
    capacity: Array  # (M,) i8 blocks
    inserted: Array  # (M,) f8 blocks ever inserted: the clock of the ghost
    table: Array  # (H,) i4 open addressing, -1 empty; entries that no user's row names
    changed: Array  # (D,) i4 users whose mask has changed since the last report
    changes: Array  # (1,) i8 how many; beyond D the next report copies every mask


class Emb(NamedTuple):
    """EMB cache: pages given to shards, how full they are, and what that means per group."""

    fill: Array  # (M, S) f8 resident part of a shard's rows, in [0, 1]
    paged: Array  # (M, S) u1 1 if the shard has a page
    queued: Array  # (M, S) u1 1 if the shard waits in the refill queue
    heat: Array  # (M, S) f8 decayed look-up bytes
    lookups: Array  # (M, G) f8 bytes looked up since the last tick
    seen: Array  # (S,) f8 scratch of the tick: bytes looked up per shard
    readout: Array  # (3, G, M) f8 expected hit rate now, after drift, and over the hottest shards
    pages: Array  # (M,) i8 pages in use
    full: Array  # (M,) i8 of them, completely resident
    capacity: Array  # (M,) i8 pages
    coldest: Array  # (M,) f8 look-up bytes/s of the hottest shard without a page
    queue: Array  # (M, S) i4 ring of shards to refill, hottest first
    ready: Array  # (M, S) f8 instant a queued copy completes (naive), beside `queue`
    head: Array  # (M,) i8 position of the first queued shard
    waiting: Array  # (M,) i8 shards in the queue
    copied: Array  # (M,) f8 bytes of the first queued shard already copied (not naive)
    refilled_to: Array  # (M,) f8 instant up to which idle link time was given to refill
    credit: Array  # (M,) f8 s of busy link time that refill may still take (paced)


class Stages(NamedTuple):
    """The two servers of every node."""

    link_free: Array  # (M,) f8 instant
    gpu_free: Array  # (M,) f8 instant
    finish: Array  # (M,) f8 scratch of the router
    share: Array  # (M,) f8 EMB share in force
    pace: Array  # (M,) f8 part, from 0 to 1, of the link time open to refill that it may use


class Signals(NamedTuple):
    """What the router knows of the nodes: the live arrays themselves, or the last report."""

    mask: Array  # (U, W) u8 as in Kv
    readout: Array  # (3, G, M) f8 as in Emb
    link_free: Array  # (M,) f8 as in Stages
    gpu_free: Array  # (M,) f8


class Prices(NamedTuple):
    """What later requests pay for what one leaves behind, smoothed over windows."""

    kv: Array  # (M,) f8 s per block inserted
    link: Array  # (M,) f8 requests that a second of link work delays, per second of backlog
    gpu: Array  # (M,) f8 the same of GPU work


class Output(NamedTuple):
    """What a window reports."""

    node: Array  # (M, N_NODE) f8
    cluster: Array  # (N_CLUSTER,) f8
    latency: Array  # (L,) u4 histogram of admitted requests, all nodes
    warm: Array  # (L,) u4 of them, warm requests
    pending: Array  # (PENDING_WINDOWS,) i8 admitted requests finishing k windows ahead


class State(NamedTuple):
    """One cluster."""

    arrivals: Arrivals
    users: Array  # (U,) USER, each followed by the user's words of `Kv.mask`
    kv: Kv
    emb: Emb
    stages: Stages
    seen: Signals
    prices: Prices
    out: Output


class Sizes(NamedTuple):
    """The letters of the module docstring, as numbers."""

    nodes: int
    shards: int
    groups: int
    users: int
    kv_entries: int
    sessions: int
    buckets: int
    open_bucket: int = 4096
    changed: int = 0  # D; 0 lets the router see live signals

    @property
    def mask_words(self) -> int:
        """64-bit words that hold one bit per node."""
        return -(-self.nodes // 64)

    @property
    def table(self) -> int:
        """Hash slots: a power of two, at least twice the entries."""
        return 1 << int(2 * self.nodes * self.kv_entries - 1).bit_length()


Field = tuple[Any, tuple[int, ...]]  # dtype and shape


def _fields(z: Sizes) -> dict[str, dict[str, Field]]:
    """Dtype and shape of every array, by room and by the name it has there."""
    m, s, g, e = z.nodes, z.shards, z.groups, z.nodes * z.kv_entries
    f8, i8, i4, u1, u4, u8 = np.float64, np.int64, np.int32, np.uint8, np.uint32, np.uint64
    return {
        "arrivals": {
            "rng": (u8, (N_STREAMS,)),
            "clock": (f8, (len(Clock),)),
            "tally": (i8, (len(Count),)),
            "sessions": (SESSION, (z.sessions,)),
            "bucket": (i4, (z.buckets,)),
            "open_slot": (i4, (z.open_bucket,)),
        },
        # One cache line holds all that a request asks of its user.
        "users": {"rows": (u8, (z.users, USER_WORDS + z.mask_words))},
        "kv": {
            "entry": (ENTRY, (e,)),
            **dict.fromkeys(("newest", "oldest", "free"), (i4, (m,))),
            **dict.fromkeys(("used", "capacity"), (i8, (m,))),
            "inserted": (f8, (m,)),
            "table": (i4, (z.table,)),
            "changed": (i4, (z.changed,)),
            "changes": (i8, (1,)),
        },
        "emb": {
            **dict.fromkeys(("fill", "heat", "ready"), (f8, (m, s))),
            **dict.fromkeys(("paged", "queued"), (u1, (m, s))),
            "queue": (i4, (m, s)),
            "lookups": (f8, (m, g)),
            "seen": (f8, (s,)),
            "readout": (f8, (3, g, m)),
            **dict.fromkeys(("pages", "full", "capacity", "head", "waiting"), (i8, (m,))),
            **dict.fromkeys(("coldest", "copied", "refilled_to", "credit"), (f8, (m,))),
        },
        "stages": dict.fromkeys(Stages._fields, (f8, (m,))),
        "seen": _seen(z),
        "prices": dict.fromkeys(Prices._fields, (f8, (m,))),
        "out": {
            "node": (f8, (m, N_NODE)),
            "cluster": (f8, (N_CLUSTER,)),
            "latency": (u4, (N_BINS,)),
            "warm": (u4, (N_BINS,)),
            "pending": (i8, (PENDING_WINDOWS,)),
        },
    }


def _seen(z: Sizes) -> dict[str, Field]:
    """Arrays of a report, none if the router sees the live ones."""
    if not z.changed:
        return {}
    return {
        "mask": (np.uint64, (z.users, z.mask_words)),
        "readout": (np.float64, (3, z.groups, z.nodes)),
        **dict.fromkeys(("link_free", "gpu_free"), (np.float64, (z.nodes,))),
    }


def _bytes(field: Field) -> int:
    dtype, shape = field
    return int(np.dtype(dtype).itemsize) * int(np.prod(shape))


def _aligned(n_bytes: int) -> int:
    return -(-n_bytes // 64) * 64


def buffer_bytes(sizes: Sizes) -> int:
    """Bytes of one cluster's state."""
    rooms = _fields(sizes).values()
    return sum(_aligned(_bytes(field)) for room in rooms for field in room.values())


def report_bytes(sizes: Sizes) -> int:
    """Bytes of ``State.out``, the last room of the buffer."""
    return sum(_aligned(_bytes(field)) for field in _fields(sizes)["out"].values())


def report_fields(sizes: Sizes) -> dict[str, tuple[slice, Any, tuple[int, ...]]]:
    """Bytes, dtype and shape of every array of ``State.out``, counted from where it begins."""
    places: dict[str, tuple[slice, Any, tuple[int, ...]]] = {}
    offset = 0
    for name, field in _fields(sizes)["out"].items():
        places[name] = slice(offset, offset + _bytes(field)), *field
        offset += _aligned(_bytes(field))
    return places


def view(buffer: NDArray[np.uint8], sizes: Sizes) -> State:
    """Lay the arrays of one cluster over ``buffer`` (``buffer_bytes`` long) without copying."""
    rooms: dict[str, dict[str, Array]] = {}
    offset = 0
    for room, fields in _fields(sizes).items():
        rooms[room] = {}
        for name, field in fields.items():
            dtype, shape = field
            array = buffer[offset : offset + _bytes(field)].view(dtype).reshape(shape)
            rooms[room][name] = array
            offset += _aligned(_bytes(field))
    rows = rooms["users"]["rows"]
    users, mask = rows[:, :USER_WORDS].view(USER)[:, 0], rows[:, USER_WORDS:]
    kv, emb, stages = Kv(mask, **rooms["kv"]), Emb(**rooms["emb"]), Stages(**rooms["stages"])
    live = Signals(kv.mask, emb.readout, stages.link_free, stages.gpu_free)
    return State(
        arrivals=Arrivals(**rooms["arrivals"]),
        users=users,
        kv=kv,
        emb=emb,
        stages=stages,
        seen=Signals(**rooms["seen"]) if rooms["seen"] else live,
        prices=Prices(**rooms["prices"]),
        out=Output(**rooms["out"]),
    )
