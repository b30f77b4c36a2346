"""Who asks next: session starts, sessions under way in a calendar queue, or a replayed log.

Nothing here reads the state of a cache or a queue, so every policy meets the same requests.
"""

from __future__ import annotations

import math

from helm_gym.seeding import Stream
from helm_gym.sim.compiled import inlined, kernel
from helm_gym.sim.intrinsics import prefetch
from helm_gym.sim.layout import Array, Arrivals, Clock, Count, Status
from helm_gym.sim.params import Source
from helm_gym.sim.rng import normal_cdf, normal_quantile, uniform, unit_interval

LOOK_AHEAD = 4  # calendar buckets
INTERACTIONS = 1  # Source.log_kind of a log with users


@kernel
def clear(arrivals: Arrivals, now: float, bucket_s: float) -> None:
    """Forget all sessions and set the clock."""
    arrivals.clock[:] = now
    arrivals.tally[:] = 0
    arrivals.tally[Count.BUCKET] = math.floor(now / bucket_s)
    arrivals.bucket[:] = -1
    sessions = arrivals.sessions
    for i in range(sessions.size):
        sessions[i].next = i + 1
    sessions[sessions.size - 1].next = -1


@inlined
def cell(source: Source, time: float) -> int:
    """Schedule cell of an instant; the schedule repeats."""
    return math.floor(time / source.cell_s) % source.starts.size


@kernel
def draw_start(arrivals: Arrivals, source: Source) -> None:
    """Set the instant of the next session start."""
    clock = arrivals.clock
    if source.log_kind > 0:
        position = arrivals.tally[Count.LOG_POSITION]
        lap, row = divmod(position, source.log_time.size)
        clock[Clock.NEXT_START] = source.log_time[row] + lap * source.log_period
        return
    hazard = unit_interval(arrivals.rng, Stream.START, source.start_cv)
    time = clock[Clock.NEXT_START]
    index = math.floor(time / source.cell_s)
    while True:  # the rate is constant inside a cell, so this is exact
        rate = source.starts[int(index) % source.starts.size]
        end = (index + 1.0) * source.cell_s
        if rate > 0.0 and hazard <= (end - time) * rate:
            break
        hazard -= max(0.0, end - time) * rate
        time = end
        index += 1.0
    clock[Clock.NEXT_START] = time + hazard / rate


@inlined
def draw_surface(arrivals: Arrivals, source: Source, time: float) -> int:
    """Surface of a session that starts at ``time``."""
    mix = source.mix[cell(source, time)]
    if mix.size == 1:
        return 0
    u = uniform(arrivals.rng, Stream.SURFACE)
    surface = 0
    while surface < mix.size - 1 and u >= mix[surface]:
        surface += 1
    return surface


@inlined
def draw_user(
    arrivals: Arrivals, users: Array, source: Source, time: float, surface: int
) -> tuple[int, int]:
    """User and interest group of a session that starts at ``time`` on a surface.

    Activity is lognormal over users, so the user of a random session has a size-biased quantile.
    """
    n_regular = source.regular_users
    z = normal_quantile(uniform(arrivals.rng, Stream.USER)) + source.activity_sigma
    user = min(int(normal_cdf(z) * n_regular), n_regular - 1)
    group = users[user].group
    now = cell(source, time)
    excess = source.excess[now, surface]
    if excess > 0.0 and uniform(arrivals.rng, Stream.BURST) < excess:
        if uniform(arrivals.rng, Stream.BURST) < source.newcomers[now]:
            n_new = users.size - n_regular
            user = n_regular + min(int(uniform(arrivals.rng, Stream.BURST) * n_new), n_new - 1)
            group = users[user].group
        if uniform(arrivals.rng, Stream.BURST) < source.hot_items[now]:
            group = source.burst_group
    return user, group


@inlined
def draw_length(arrivals: Arrivals, source: Source, surface: int) -> int:
    """Requests of a session: a lognormal, rounded up."""
    z = normal_quantile(uniform(arrivals.rng, Stream.LENGTH))
    draw = math.exp(source.length[surface, 0] + source.length[surface, 1] * z)
    return math.ceil(min(draw, 1e6))


@inlined
def draw_gap(arrivals: Arrivals, source: Source, surface: int) -> float:
    """Seconds to a session's next request: a lognormal cut at the session gap, then scaled."""
    z = normal_quantile(uniform(arrivals.rng, Stream.GAP) * source.gap_cut[surface])
    return math.exp(source.gap[surface, 0] + source.gap[surface, 1] * z) * source.gap[surface, 2]


@inlined
def _file(arrivals: Arrivals, source: Source, slot: int) -> None:
    """Put a session where its next request will be found."""
    sessions, count = arrivals.sessions, arrivals.tally
    bucket = math.floor(sessions[slot].time / source.bucket_s)
    ahead = bucket - count[Count.BUCKET]
    if ahead <= 0:
        _insert_open(arrivals, slot)
        return
    wrap = arrivals.bucket.size - 1
    ahead = min(ahead, wrap)  # beyond the horizon: looked at again when that bucket opens
    place = (count[Count.BUCKET] + ahead) & wrap
    sessions[slot].next = arrivals.bucket[place]
    arrivals.bucket[place] = slot


@inlined
def _insert_open(arrivals: Arrivals, slot: int) -> None:
    """Insert into the open bucket, kept with the earliest request last."""
    sessions, count, open_slot = arrivals.sessions, arrivals.tally, arrivals.open_slot
    n = count[Count.OPEN]
    if n == open_slot.size:
        count[Count.STATUS] = Status.BUCKET_FULL
        return
    time = sessions[slot].time
    while n > 0 and sessions[open_slot[n - 1]].time < time:
        open_slot[n] = open_slot[n - 1]
        n -= 1
    open_slot[n] = slot
    count[Count.OPEN] += 1


@kernel
def _open_until(
    arrivals: Arrivals, users: Array, entries: Array, source: Source, until: float
) -> None:
    """Open buckets until one has an entry, or the next one begins after ``until``."""
    sessions, count = arrivals.sessions, arrivals.tally
    while count[Count.OPEN] == 0 and (count[Count.BUCKET] + 1) * source.bucket_s <= until:
        count[Count.BUCKET] += 1
        place = count[Count.BUCKET] & (arrivals.bucket.size - 1)
        slot = arrivals.bucket[place]
        arrivals.bucket[place] = -1
        while slot >= 0:
            following = sessions[slot].next
            entry = users[sessions[slot].user].entry
            if entry >= 0:
                prefetch(entries, entry)
            _file(arrivals, source, slot)
            slot = following


@inlined
def look_ahead(arrivals: Arrivals, users: Array, bucket: int, slot: int) -> tuple[int, int]:
    """Go one session further in the calendar, ahead of the open bucket, and prefetch what it needs.

    A bucket is a chain through sessions all over memory: to wait for each of them costs more than
    a request. So a scout goes along the chains, a session a request, some buckets ahead.

    Args:
        arrivals: the calendar.
        users: rows that are prefetched.
        bucket: where the scout is; it goes on from the open bucket if that has overtaken it.
        slot: session where the scout is, already prefetched; -1 at the end of a chain.

    Returns:
        Bucket and slot where the scout is next.
    """
    now = arrivals.tally[Count.BUCKET]
    if bucket <= now:
        bucket, slot = now, -1
    if slot >= 0:
        session = arrivals.sessions[slot]
        prefetch(users, session.user)
        slot = session.next
    while slot < 0 and bucket < now + LOOK_AHEAD:
        bucket += 1
        slot = arrivals.bucket[bucket & (arrivals.bucket.size - 1)]
    if slot >= 0:
        prefetch(arrivals.sessions, slot)
    return bucket, slot


@inlined
def peek(arrivals: Arrivals, users: Array, entries: Array, source: Source, until: float) -> float:
    """Instant of the next request; only what comes before ``until`` is looked for.

    Nothing of ``users`` and the KV ``entries`` is used: those of coming requests are prefetched.
    """
    start = arrivals.clock[Clock.NEXT_START]
    if source.log_kind == INTERACTIONS:
        return start
    _open_until(arrivals, users, entries, source, min(until, start))
    if arrivals.tally[Count.OPEN] > 0:
        return min(
            start, arrivals.sessions[arrivals.open_slot[arrivals.tally[Count.OPEN] - 1]].time
        )
    return start


@inlined
def _begin_session(
    arrivals: Arrivals, users: Array, source: Source, time: float
) -> tuple[int, int, int, bool]:
    """First request of a session: user, group, surface, True; the rest is filed."""
    surface = draw_surface(arrivals, source, time)
    if source.log_kind == INTERACTIONS:
        row = arrivals.tally[Count.LOG_POSITION] % source.log_time.size
        user = source.log_user[row]
        arrivals.tally[Count.LOG_POSITION] += 1
        draw_start(arrivals, source)
        return user, users[user].group, surface, source.log_first[row] == 1
    user, group = draw_user(arrivals, users, source, time, surface)
    left = draw_length(arrivals, source, surface)
    arrivals.tally[Count.LOG_POSITION] += 1
    draw_start(arrivals, source)
    if left > 1:
        slot = arrivals.tally[Count.FREE]
        if slot < 0:
            arrivals.tally[Count.STATUS] = Status.SESSIONS_FULL
            return user, group, surface, True
        session = arrivals.sessions[slot]
        arrivals.tally[Count.FREE] = session.next
        session.time = time + draw_gap(arrivals, source, surface)
        session.user = user
        session.group = group
        session.surface = surface
        session.left = left - 1
        _file(arrivals, source, slot)
    return user, group, surface, True


@inlined
def take(
    arrivals: Arrivals, users: Array, source: Source, time: float
) -> tuple[int, int, int, bool]:
    """Take the request that :func:`peek` found.

    Returns:
        User, interest group, surface, and whether it is the first of its session.
    """
    count = arrivals.tally
    if (
        count[Count.OPEN] == 0
        or arrivals.sessions[arrivals.open_slot[count[Count.OPEN] - 1]].time > time
    ):
        return _begin_session(arrivals, users, source, time)
    count[Count.OPEN] -= 1
    slot = arrivals.open_slot[count[Count.OPEN]]
    session = arrivals.sessions[slot]
    session.left -= 1
    surface = int(session.surface)
    if session.left > 0:
        session.time = time + draw_gap(arrivals, source, surface)
        _file(arrivals, source, slot)
    else:
        session.next = count[Count.FREE]
        count[Count.FREE] = slot
    return int(session.user), int(session.group), surface, False
