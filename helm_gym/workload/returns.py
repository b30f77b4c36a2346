"""When a user comes back: what a profile's law of gaps between sessions says of each user.

The profile pools the gaps of all users, and says how unequal users are. Those who come often have
short gaps, so part of the pooled spread is theirs, and the rest is every user's own.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares
from scipy.special import log_ndtr, ndtr, ndtri

from helm_gym.config.workload import Profile

Floats = NDArray[np.float64]

NODES, FURTHEST = 24, 3.2  # activities over which laws are pooled, up to so many sigmas
CELL_S = 1800.0  # grid of the hours' tilt
DAY_S, TILT_DAYS, TILT_ROUNDS = 86_400.0, 14, 40
CANDIDATES = 64  # instants of return drawn for each that is chosen by the hour


class ReturnLaws(NamedTuple):
    """Gaps of a user of log activity x: lognormal above ``cut``, ``log_mean`` falling in x."""

    activity: Floats  # (NODES,) x, rising
    log_mean: Floats  # (NODES,)
    log_sigma: float
    cut: float  # s
    mean: Floats  # (NODES,) s from one session's begin to the next one's


def return_laws(profile: Profile, cut: float, session_s: float) -> ReturnLaws:
    """Split the pooled law of gaps into one per user.

    A user's sessions are as frequent as ``activity_sigma`` says, each user's gaps are lognormal,
    and the gaps of all sessions together have the profile's mean and spread above ``cut``.

    Args:
        profile: with ``between_sessions`` and ``activity_sigma``.
        cut: a shorter silence does not end a session (s).
        session_s: mean duration of a session.
    """
    pooled, sigma = profile.between_sessions, profile.activity_sigma.value
    normal = np.linspace(-FURTHEST, FURTHEST, NODES)
    activity, users = sigma * normal, np.exp(-(normal**2) / 2)
    goal = np.array(_log_moments(pooled.log_mean.value, pooled.log_sigma.value, cut))

    def laws(point: Floats) -> ReturnLaws:
        own = float(point[1])
        grid = np.linspace(np.log(cut) - 4.0, np.log(cut) + 12.0, 3000)
        mean = session_s + _mean(grid, own, cut)
        wanted = np.exp(point[0] - activity)
        log_mean = np.interp(np.log(wanted), np.log(mean), grid)
        return ReturnLaws(activity, log_mean, own, cut, np.interp(log_mean, grid, mean))

    def misfit(point: Floats) -> Floats:
        found = laws(point)
        share = users / found.mean
        share /= share.sum()
        mean, spread = _log_moments(found.log_mean, found.log_sigma, cut)
        centre = (share * mean).sum()
        return (
            np.array([centre, np.sqrt((share * (spread**2 + (mean - centre) ** 2)).sum())]) - goal
        )

    most = float(pooled.log_sigma.value)
    begin = np.array([goal[0] + 0.5, max(0.1, 0.7 * most)])
    low, high = np.array([0.0, 0.02]), np.array([30.0, most + 0.05])
    return laws(least_squares(misfit, begin, bounds=(low, high)).x)


def _log_moments(mu: Floats | float, sigma: float, cut: float) -> tuple[Floats, Floats]:
    """Mean and sd of the log of a lognormal above ``cut``."""
    alpha = (np.log(cut) - np.asarray(mu)) / sigma
    hazard = np.exp(-(alpha**2) / 2 - np.log(np.sqrt(2 * np.pi)) - log_ndtr(-alpha))
    variance = 1.0 + alpha * hazard - hazard**2
    return mu + sigma * hazard, sigma * np.sqrt(np.maximum(variance, 1e-9))


def _mean(mu: Floats, sigma: float, cut: float) -> Floats:
    """Mean of a lognormal above ``cut`` (s)."""
    alpha = (np.log(cut) - mu) / sigma
    return np.asarray(np.exp(mu + sigma**2 / 2 + log_ndtr(sigma - alpha) - log_ndtr(-alpha)))


class HourTilt(NamedTuple):
    """Weights that make returns follow the hours of the day and leave laws of gaps as they were."""

    gap: Floats  # (NODES, cells of TILT_DAYS)
    hour: Floats  # (NODES, cells of a day)

    def weight(self, node: NDArray[np.int64], gap: Floats, end: Floats) -> Floats:
        """Weights of silences of ``gap`` s that end at instants ``end`` (s)."""
        cell = np.minimum(gap / CELL_S, self.gap.shape[1] - 1).astype(np.int64)
        # A gap from the middle of a cell ends between two: half a cell later than it was fitted.
        hour = ((end - CELL_S / 2) % DAY_S / CELL_S).astype(np.int64) % self.hour.shape[1]
        return np.asarray(self.gap[node, cell] * self.hour[node, hour])


def hour_tilt(hourly: Floats, laws: ReturnLaws) -> HourTilt:
    """Tilt every law so that sessions begin by the hour table and the law stays.

    Weights of the gap and of the hour at its end, found by proportional fitting: with sessions
    spread over the day by the table, gaps drawn in proportion to law times weights have the law as
    their margin, and end by the table.

    Args:
        hourly: (24,) rate by hour.
        laws: of users.
    """
    middles = (np.arange(round(DAY_S / CELL_S)) + 0.5) * CELL_S / 3600.0
    day = np.interp(middles, np.arange(24) + 0.5, hourly, period=24.0)
    day /= day.sum()
    edges = np.log(np.maximum(np.arange(TILT_DAYS * day.size + 1) * CELL_S, laws.cut))
    mass = np.diff(ndtr((edges - laws.log_mean[:, None]) / laws.log_sigma), axis=1)
    mass = np.maximum(mass, 1e-300)
    mass /= mass.sum(axis=1, keepdims=True)
    pairs = [_fit_tilt(row, day) for row in mass]
    return HourTilt(np.stack([gap for gap, _ in pairs]), np.stack([hour for _, hour in pairs]))


def _fit_tilt(mass: Floats, day: Floats) -> tuple[Floats, Floats]:
    """Weights of gaps and of the hours at their ends, for one law of gaps."""
    end = (np.arange(day.size)[:, None] + np.arange(mass.size)) % day.size  # (day, gaps)
    by_gap, by_hour = np.ones(mass.size), np.ones(day.size)
    for _ in range(TILT_ROUNDS):
        joint = mass * by_gap * by_hour[end]
        joint *= (day / joint.sum(axis=1))[:, None]
        by_gap *= mass / joint.sum(axis=0)
        joint = mass * by_gap * by_hour[end]
        joint *= (day / joint.sum(axis=1))[:, None]
        by_hour *= day / np.bincount(end.ravel(), joint.ravel(), day.size)
    return by_gap, by_hour


def draw_returns(
    laws: ReturnLaws,
    tilt: HourTilt,
    activity: Floats,
    ends: Floats,
    delay: float,
    rng: np.random.Generator,
) -> Floats:
    """Silences after sessions of users.

    Args:
        laws: of users.
        tilt: of the laws.
        activity: (n,) log activity of the users.
        ends: (n,) instants at which their sessions ended (s).
        delay: of a session's mean event after its begin (s); the hours are those of events.
        rng: draws them.

    Returns:
        (n,) s.
    """
    middles = (laws.activity[1:] + laws.activity[:-1]) / 2
    node = np.searchsorted(middles, activity)[:, None]
    log_mean = np.interp(activity, laws.activity, laws.log_mean)[:, None]
    below = ndtr((np.log(laws.cut) - log_mean) / laws.log_sigma)
    u = below + (1.0 - below) * rng.random((ends.size, CANDIDATES))
    gaps = np.exp(log_mean + laws.log_sigma * ndtri(np.minimum(u, 1.0 - 1e-16)))
    weights = np.cumsum(tilt.weight(node, gaps, ends[:, None] + gaps + delay), axis=1)
    chosen = (weights < (rng.random(ends.size) * weights[:, -1])[:, None]).sum(axis=1)
    return np.asarray(gaps[np.arange(ends.size), chosen])
