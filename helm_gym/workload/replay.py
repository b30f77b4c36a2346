"""A real log as the request source: items become shards, users become interest groups.

Order, users and gaps come from the log; the surface of a request, and with it the candidates, and
the items a request adds to a history come from the scenario as they do for generated requests.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from helm_gym.config.scenario import Scenario
from helm_gym.config.workload import Replay
from helm_gym.errors import ConfigError, LogError
from helm_gym.workload.logs import InteractionLog, read_arrivals, read_interactions
from helm_gym.workload.overlay import overlay
from helm_gym.workload.regimes import build_schedule
from helm_gym.workload.session_laws import mean_length

Floats = NDArray[np.float64]

DAY_S = 86_400.0
SESSION_GAP_S = 1800.0  # a longer silence of a user, on the log's own clock, ends the session
TASTES = 8  # directions of taste that tell users apart
GROUPING_SEED = 0  # where the clustering begins; its outcome belongs to the log, not to a run
PSEUDO_LOOKUPS = 8000.0  # of the law of all users; what a group's counts are smoothed with
OVERSIZE = 1.25  # the session table is sized for the load; a replay may exceed it by this much


@dataclass(frozen=True)
class ReplayLog:
    """A log ready for the kernels; ``user`` is None for a trace of arrival instants only."""

    time: Floats  # (R,) s from 0, not decreasing, compressed
    period_s: float  # the log starts again after this
    user: NDArray[np.int32] | None = None  # (R,)
    first: NDArray[np.uint8] | None = None  # (R,) 1 for the first request of a session
    group: NDArray[np.int16] | None = None  # (users,)
    history: NDArray[np.int32] | None = None  # (users,) tokens before the log, or None
    weights: Floats | None = None  # (G + 1, S) look-up probabilities
    compression: float = 1.0  # seconds of the log per simulated second
    notes: tuple[str, ...] = ()  # what was done to the rows

    @property
    def n_users(self) -> int:
        """Distinct users; ids run from 0."""
        return 0 if self.group is None else int(self.group.size)


def load_replay(scenario: Scenario, rng: np.random.Generator) -> ReplayLog:
    """Read, check and compress the log that a scenario replays.

    Args:
        scenario: one with ``workload.replay`` set.
        rng: the generator of the scenario's structure. It shifts the copies of an overlay, and
            deals out the interest groups of ``items: profile``; else a replay leaves it alone,
            since what a log says does not depend on a seed.

    Raises:
        LogError: the file cannot be used; names file, column and row.
        ConfigError: the scenario's settings do not fit the log.
    """
    replay = scenario.workload.replay
    if replay is None:
        raise ConfigError("workload.replay is not set, so there is no log to load")
    if scenario.workload.crowd() is not None:
        raise ConfigError(
            "workload.regime: a burst or a rush adds requests of its own, but workload.replay "
            "leaves their instants to the log; use regime steady, or a course without rushes"
        )
    if replay.kind == "arrivals":
        return _load_arrivals(scenario, replay)
    return _load_interactions(scenario, replay, rng)


def _load_arrivals(scenario: Scenario, replay: Replay) -> ReplayLog:
    if replay.history == "log":
        raise ConfigError(
            "workload.replay.history 'log' needs users, and a trace of kind 'arrivals' has none; "
            "write history: profile"
        )
    instants = read_arrivals(replay.path, replay.time_unit, replay.time_column)
    starts = _target_rps(scenario) / _requests_per_session(scenario)
    time, period, compression = _compress(instants, replay, starts)
    ratio = time.size / period / starts
    if ratio > OVERSIZE:
        load = scenario.workload.load
        raise ConfigError(
            f"workload.replay.compression {compression:g} offers {ratio:.3g} times the requests "
            f"that workload.load {load:g} makes room for; set workload.load to {load * ratio:.3g}, "
            f"or compression to at most {compression / ratio:.4g}"
        )
    return ReplayLog(time, period, compression=compression)


def _load_interactions(scenario: Scenario, replay: Replay, rng: np.random.Generator) -> ReplayLog:
    log = read_interactions(replay.path, replay.time_unit, replay.time_column)
    shards, copies = scenario.emb.shards, replay.overlay
    users = log.user_ids.size * copies
    if log.item_ids.size < shards and replay.items == "log":
        raise ConfigError(
            f"{replay.path} has {log.item_ids.size} items, fewer than emb.shards {shards}; set "
            f"emb.shards to at most {log.item_ids.size}"
        )
    history = None
    if replay.history == "log":
        _refuse_long_histories(log, scenario, replay)
        # Nothing is known from before the log: one token, so that every length is positive.
        history = np.ones(users, np.int32)
    time, period, compression = _compress(log.time_s, replay, _target_rps(scenario) / copies)
    user, first = log.user, session_starts(log.user, log.time_s)
    if copies > 1:
        rows, user, time = overlay(
            user, time, period, copies, _step_s(replay, log, compression), rng
        )
        first = first[rows]
    groups = int(scenario.workload.profile.popularity.interest_groups.value)
    weights = None
    if replay.items == "log":
        shard = item_shards(log.item, log.item_ids.size, shards)
        own = interest_groups(log.user, shard, log.user_ids.size, shards, groups)
        weights = lookup_weights(own[log.user], shard, groups, shards)
        group = np.tile(own, copies)
    else:
        group = rng.integers(0, groups, users).astype(np.int16)
    return ReplayLog(
        time=time,
        period_s=period,
        user=user,
        first=first,
        group=group,
        history=history,
        weights=weights,
        compression=compression,
        notes=log.notes,
    )


def _step_s(replay: Replay, log: InteractionLog, compression: float) -> float:
    """What shifts of an overlay are multiples of (s of simulated time), 0 for any."""
    if replay.overlay_shift == "log":
        return 0.0
    span = float(log.time_s[-1] - log.time_s[0])
    if span < 2 * DAY_S:
        raise ConfigError(
            f"{replay.path} spans {span / DAY_S:.2g} days, too few for copies shifted by whole "
            "days; write workload.replay.overlay_shift: log"
        )
    return DAY_S / compression


def _target_rps(scenario: Scenario) -> float:
    workload = scenario.workload
    return workload.load * workload.capacity_rps_per_node.value * scenario.nodes


def _requests_per_session(scenario: Scenario) -> float:
    """Mean length of the generator's sessions, over the surface mixes of the regime."""
    workload = scenario.workload
    schedule = build_schedule(workload, np.random.default_rng(scenario.structure_seed))
    lengths = [
        mean_length(surface.session_length or workload.profile.session_length)
        for surface in workload.surfaces
    ]
    requests = schedule.rate.sum(axis=1)
    sessions = (schedule.rate / np.array(lengths)).sum(axis=1)
    return float(np.mean(requests / sessions))


def _compress(instants: Floats, replay: Replay, rate: float) -> tuple[Floats, float, float]:
    """Shift a log to 0 and speed it up.

    Args:
        instants: (R,) s, not decreasing.
        replay: states the factor, or leaves it to ``rate``.
        rate: rows per simulated second, averaged over the log and the gap before it starts again.

    Returns:
        (R,) instants, the period (s), and the factor.
    """
    span = float(instants[-1] - instants[0])
    if not span > 0:
        raise LogError(
            f"{replay.path}: column {replay.time_column!r}, row {instants.size}: all "
            f"{instants.size} rows have the same instant, so there is no pace to replay; a log "
            "needs at least two instants"
        )
    gap = span / (instants.size - 1)  # the mean one, also put between two laps
    compression = replay.compression or rate * gap
    time = (instants - instants[0]) / compression
    return time, float(time[-1] + gap / compression), float(compression)


def _refuse_long_histories(log: InteractionLog, scenario: Scenario, replay: Replay) -> None:
    longest = int(scenario.hardware.model.max_history.value)
    counts = np.bincount(log.user)
    user = int(np.argmax(counts))
    if counts[user] > longest:
        row = int(log.row[np.flatnonzero(log.user == user)[longest]])
        raise LogError(
            f"{replay.path}: column 'user_id', row {row}: user {log.user_ids[user]} has "
            f"{counts[user]} items, and model {scenario.hardware.model.name} takes {longest}; cut "
            "the log, use a model with a longer hardware.model.max_history, or write "
            "workload.replay.history: profile"
        )


def session_starts(user: NDArray[np.int32], time_s: Floats) -> NDArray[np.uint8]:
    """Mark requests whose user was silent for more than ``SESSION_GAP_S`` before.

    Args:
        user: (R,) codes.
        time_s: (R,) s on the log's own clock, not decreasing.

    Returns:
        (R,) 1 for the first request of a session, else 0.
    """
    order = np.argsort(user, kind="stable")
    silence = np.diff(time_s[order], prepend=-np.inf)
    new_user = np.diff(user[order], prepend=-1) != 0
    first = np.empty(user.size, np.uint8)
    first[order] = new_user | (silence > SESSION_GAP_S)
    return first


def item_shards(item: NDArray[np.int32], items: int, shards: int) -> NDArray[np.int64]:
    """Lay rows out in the log's own order of popularity and cut the table into equal runs.

    The runs are those of :func:`helm_gym.workload.popularity.shard_mass`.

    Returns:
        (R,) shard of each look-up.
    """
    order = np.argsort(-np.bincount(item, minlength=items), kind="stable")
    starts = np.linspace(0, items, shards, endpoint=False).astype(np.int64)
    shard = np.empty(items, np.int64)
    shard[order] = np.searchsorted(starts, np.arange(items), side="right") - 1
    return shard[item]


def interest_groups(
    user: NDArray[np.int32], shard: NDArray[np.int64], users: int, shards: int, groups: int
) -> NDArray[np.int16]:
    """Put users who look the same shards up into the same group.

    k-means on the leading singular directions of the user-shard table, scaled as correspondence
    analysis does. Weights fitted on the first 70 % of every user's events and scored on the rest
    (1,024 shards, 32 groups) gained over one law for all, per look-up, 0.019 nats on Taobao (1,095
    users) and 0.133 on Amazon Video Games. At their best smoothing, groups by the mean rank of a
    user's items gained 0.011 and 0.033, k-means on coarse histograms of ranks 0.014 and 0.026,
    random groups 0.003 and nothing.

    Returns:
        (users,) group, in [0, groups).
    """
    taste = _tastes(user, shard, users, shards)
    distinct, member = np.unique(taste.round(9), axis=0, return_inverse=True)
    if len(distinct) <= groups:
        return np.asarray(member.reshape(-1), np.int16)
    return _cluster(taste, groups).astype(np.int16)


def _tastes(user: NDArray[np.int32], shard: NDArray[np.int64], users: int, shards: int) -> Floats:
    """Direction of each user's taste, (users, at most ``TASTES``), of length 1."""
    from scipy.sparse import csr_matrix
    from scipy.sparse.linalg import svds

    directions = min(TASTES, min(users, shards) - 2)
    if directions < 1:  # too few users to find directions in; tell them apart by their number
        return np.arange(users, dtype=np.float64)[:, None]
    share = (np.bincount(user)[user] * np.bincount(shard)[shard]) ** -0.5
    table = csr_matrix((share, (user, shard)), shape=(users, shards))
    left, size, _ = svds(table, k=directions + 1, v0=np.ones(min(users, shards)))
    # The first direction says only how much a user looks up.
    taste = (left * size)[:, np.argsort(-size)[1:]]
    norm = np.linalg.norm(taste, axis=1, keepdims=True)
    return np.asarray(taste / np.maximum(norm, 1e-12))


def _cluster(points: Floats, groups: int) -> NDArray[np.int32]:
    """k-means that begins with k-means++ centres from a fixed seed."""
    from scipy.cluster.vq import kmeans2

    rng = np.random.default_rng(GROUPING_SEED)
    centres = [points[0]]
    distance = np.full(len(points), np.inf)
    for _ in range(groups - 1):
        distance = np.minimum(distance, ((points - centres[-1]) ** 2).sum(axis=1))
        centres.append(points[rng.choice(len(points), p=distance / distance.sum())])
    with warnings.catch_warnings():
        # A centre that loses its users stays as an empty group; the smoothing provides for it.
        warnings.filterwarnings("ignore", message="One of the clusters is empty")
        _, member = kmeans2(points, np.array(centres), iter=30, minit="matrix")
    return np.asarray(member)


def lookup_weights(
    group: NDArray[np.int16], shard: NDArray[np.int64], groups: int, shards: int
) -> Floats:
    """Look-up probabilities of every group; the last row, a burst's, is the law of all users.

    A group's counts are smoothed with ``PSEUDO_LOOKUPS`` spread by the law of all: the amount that
    made held-out look-ups most likely on both logs named in :func:`interest_groups`. With 256 to
    4,096 shards, or 8 groups, it is within 0.012 and 0.021 nats of the best amount there.

    Args:
        group: (R,) interest group of each look-up.
        shard: (R,) shard of each look-up.
        groups: how many groups there are, G.
        shards: how many shards there are, S.

    Returns:
        (G + 1, S); every row sums to 1.
    """
    counts = np.zeros((groups + 1, shards))
    np.add.at(counts, (group, shard), 1.0)
    law = counts.sum(axis=0) / group.size
    total = counts.sum(axis=1, keepdims=True) + PSEUDO_LOOKUPS
    return np.asarray((counts + PSEUDO_LOOKUPS * law) / total)
