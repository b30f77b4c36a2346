"""An interactions log drawn from a profile: what a log would look like if the profile were true.

It is the inverse of :mod:`helm_gym.workload.fit`, made to check it, and a stand-in for logs that
cannot be shared. The simulator draws its own requests (:mod:`helm_gym.sim.arrivals`) from the same
laws of session length, gaps inside sessions and items, but sessions come as one Poisson process
and their users are drawn by activity alone: there, ``between_sessions`` plays no part, and nothing
keeps a user from having two sessions at once. Here every user is a renewal process of their own,
with the profile's returns and hours of the day.

Not in a profile and so not here: users who look the same item up again (a quarter of Taobao's
events), tastes of single users beyond their interest group, and drift.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from helm_gym.config.workload import Crowd, Gap, LogNormal, Popularity, Profile
from helm_gym.errors import ConfigError
from helm_gym.files import replacing
from helm_gym.workload.logs import InteractionLog
from helm_gym.workload.popularity import group_weights, shard_mass
from helm_gym.workload.returns import DAY_S, draw_returns, hour_tilt, return_laws
from helm_gym.workload.session_laws import mean_gap, mean_length

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

BEGIN_S = 1_511_568_000.0  # 2017-11-25 00:00 UTC, a Saturday, as Taobao's log
SETTLE = 8.0  # mean returns of a user, up to twice as many, before the log begins
SHARDS = 1024  # runs of ranks that interest groups rearrange, as in the simulator
LONGEST = 1e6  # requests of a session
BALANCE_ROUNDS = 30
SAMPLE = 20_000  # sessions whose mean event is looked for


class _Sessions(NamedTuple):
    """Events of sessions, one row each."""

    user: Ints
    time: Floats


def generate_log(
    profile: Profile,
    *,
    users: int,
    days: float,
    seed: int = 0,
    begin_s: float = BEGIN_S,
    clock_s: float = 1.0,
    shards: int = SHARDS,
) -> InteractionLog:
    """Draw a log of whole users.

    Args:
        profile: its ``hourly`` table is that of the log's clock.
        users: how many there are; those who never came are not in the log.
        days: from the log's first to its last instant.
        seed: of everything that is drawn.
        begin_s: Unix time at which the log begins.
        clock_s: step of the log's clock; instants are rounded down to it.
        shards: equal runs of ranks that interest groups rearrange.

    Raises:
        ConfigError: a size that cannot be.
    """
    for name, value in (("users", users), ("days", days), ("clock_s", clock_s)):
        if not value > 0:
            raise ConfigError(f"{name} {value:g} must be positive")
    rng = np.random.default_rng(seed)
    events = _draw_sessions(profile, users, begin_s, begin_s + days * DAY_S, rng)
    if events.user.size < 2:
        raise ConfigError(
            f"{users} users and {days:g} days make {events.user.size} events; give more of either"
        )
    order = np.argsort(events.time, kind="stable")
    user, time = events.user[order], events.time[order]
    item = _draw_items(profile.popularity, user, users, shards, rng)
    user_ids, user = np.unique(user, return_inverse=True)
    item_ids, item = np.unique(item, return_inverse=True)
    return InteractionLog(
        user=user.astype(np.int32),
        item=item.astype(np.int32),
        time_s=np.floor(time / clock_s) * clock_s,
        row=np.arange(1, user.size + 1, dtype=np.int64),
        user_ids=user_ids,
        item_ids=item_ids,
        notes=(f"Drawn from profile {profile.name!r}.",),
    )


def write_log(log: InteractionLog, path: str | Path) -> None:
    """Write a log as Parquet with columns ``user_id``, ``item_id`` and ``timestamp`` (s).

    Raises:
        ConfigError: the file is not named like one.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if Path(path).suffix not in {".parquet", ".pq"}:
        raise ConfigError(f"{path}: a log is written as Parquet; give a name that ends in .parquet")
    whole = bool(np.all(log.time_s % 1.0 == 0.0))
    columns = {
        "user_id": log.user_ids[log.user],
        "item_id": log.item_ids[log.item],
        "timestamp": log.time_s.astype(np.int64) if whole else log.time_s,
    }
    with replacing(Path(path)) as file:
        pq.write_table(pa.table(columns), file, compression="zstd")


def _draw_sessions(
    profile: Profile, users: int, begin: float, end: float, rng: np.random.Generator
) -> _Sessions:
    """All events of all users in [begin, end): every user's sessions, one after the other."""
    gap, length = profile.gap, profile.session_length
    cut = gap.cut_s.value + 1.0  # beyond it even on a clock of whole seconds
    pace = mean_gap(gap, 1.0)
    session_s = (mean_length(length) - 1.0) * pace
    sizes = _lengths(length, SAMPLE, rng)
    delay = 0.5 * pace * float((sizes * (sizes - 1)).sum() / sizes.sum())
    laws = return_laws(profile, cut, session_s)
    tilt = hour_tilt(np.array([q.value for q in profile.hourly]), laws)
    x = profile.activity_sigma.value * rng.standard_normal(users)
    cycle = np.interp(x, laws.activity, laws.mean)
    # Long before the log, and each at another time, so that it finds every user in mid-life.
    now = begin - SETTLE * cycle * (1.0 + rng.random(users))
    active, found = np.arange(users), []
    while active.size:
        sizes = _lengths(length, active.size, rng)
        first = np.repeat(np.cumsum(sizes) - sizes, sizes)
        waits = _gaps(gap, int(sizes.sum()), rng)
        waits[np.cumsum(sizes) - sizes] = 0.0
        total = np.cumsum(waits)
        times = np.repeat(now, sizes) + total - total[first]
        owners = np.repeat(active, sizes)
        inside = (times >= begin) & (times < end)
        found.append(_Sessions(owners[inside], times[inside]))
        ends = times[np.cumsum(sizes) - 1]
        now = ends + draw_returns(laws, tilt, x[active], ends, delay, rng)
        on = now < end
        active, now = active[on], now[on]
    return _Sessions(*(np.concatenate(column) for column in zip(*found, strict=True)))


def _lengths(law: LogNormal, n: int, rng: np.random.Generator) -> Ints:
    """Requests of sessions: a lognormal rounded up, as in the simulator."""
    draws = np.exp(law.log_mean.value + law.log_sigma.value * rng.standard_normal(n))
    return np.asarray(np.minimum(np.ceil(draws), LONGEST), np.int64)


def _gaps(law: Gap, n: int, rng: np.random.Generator) -> Floats:
    """Gaps inside sessions: a lognormal cut at ``cut_s``, as in the simulator."""
    inside = ndtr((math.log(law.cut_s.value) - law.log_mean.value) / law.log_sigma.value)
    normal = ndtri(np.maximum(rng.random(n), 1e-300) * inside)
    return np.asarray(np.exp(law.log_mean.value + law.log_sigma.value * normal))


def balanced(groups: Floats, mass: Floats) -> Floats:
    """Bend laws of groups until their mean is the law of all, by proportional fitting.

    Args:
        groups: (G, S) look-up probabilities of equally many users each.
        mass: (S,) law of everybody.

    Returns:
        (G, S) probabilities.
    """
    bent = groups.copy()
    for _ in range(BALANCE_ROUNDS):
        bent *= mass / bent.mean(axis=0)
        bent /= bent.sum(axis=1, keepdims=True)
    return bent


def _draw_items(
    law: Popularity, user: Ints, users: int, shards: int, rng: np.random.Generator
) -> Ints:
    """Rank of every look-up: a shard by the user's interest group, then a rank inside by the law.

    Args:
        law: popularity of ranks and interests.
        user: (R,) who looks up.
        users: how many users there are.
        shards: runs of ranks, at most as many as items.
        rng: draws groups, their rankings, and the look-ups.

    Returns:
        (R,) ranks from 0.
    """
    items = int(law.catalogue_items.value)
    shards = min(shards, items)
    groups = balanced(group_weights(law, shards, rng, Crowd())[:-1], shard_mass(law, shards))
    group = rng.integers(0, len(groups), users)[user]
    # One search for all groups: the cumulated law of group g runs from g to g + 1.
    ends = np.cumsum(groups, axis=1)
    ends = (ends / ends[:, -1:] + np.arange(len(groups))[:, None]).ravel()
    shard = np.searchsorted(ends, group + rng.random(user.size), side="right") - group * shards
    shard = np.clip(shard, 0, shards - 1)
    mass = np.cumsum((np.arange(1, items + 1) + law.shift_items.value) ** -law.exponent.value)
    starts = np.append(np.linspace(0, items, shards, endpoint=False).astype(np.int64), items)
    below = np.append(0.0, mass)
    low, high = below[starts[shard]], below[starts[shard + 1]]
    rank = np.searchsorted(mass, low + (high - low) * rng.random(user.size), side="right")
    return np.asarray(np.clip(rank, starts[shard], starts[shard + 1] - 1))
