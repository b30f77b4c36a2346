"""Laws of users, sessions and gaps fitted to a log, each with a standard error.

Standard errors of gaps inside sessions, and of session lengths, take events as independent; those
of activity and of returns allow for what one user's events have in common.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq, least_squares, minimize
from scipy.special import gammaincinv, log_ndtr, ndtr, ndtri

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

CLOCK_STEPS_US = (86_400_000_000, 3_600_000_000, 60_000_000, 10_000_000, 1_000_000, 1_000, 1)
LONGEST = 20_000  # session length up to which a law's tail is summed
USER_GROUPS = 25  # left out one by one for the errors of what users share
GRID = 60  # quantiles of activity, and of chance, that a law of totals is summed over
LOWEST_SIGMA, WIDEST_SIGMA = 1e-3, 5.0


class Estimate(NamedTuple):
    """A fitted number and its standard error, None where none could be had."""

    value: float
    se: float | None = None


def clock_step(time_s: Floats) -> float:
    """Longest of the usual clock steps (s) on which at least 99 % of the instants lie."""
    micros = np.rint(time_s * 1e6).astype(np.int64)
    for step in CLOCK_STEPS_US:
        phase = micros % step
        values, counts = np.unique(phase, return_counts=True)
        if counts.max() >= 0.99 * micros.size or values.size == 1:
            return step / 1e6
    return 1e-6


def gini(amounts: Counts) -> Estimate:
    """Gini index of positive amounts, with Davidson's (2009) standard error."""
    x = np.sort(amounts).astype(np.float64)
    n, mean = x.size, x.mean()
    rank = (2 * np.arange(1, n + 1) - 1) / n
    index = float((rank * x).mean() / mean - 1.0)
    influence = (rank - index - 1.0) * x - 2.0 * np.cumsum(x) / n
    return Estimate(index, float(influence.std() / mean / math.sqrt(n)))


def gini_index(amounts: Floats) -> float:
    """Gini index of positive amounts."""
    x = np.sort(amounts)
    rank = (2 * np.arange(1, x.size + 1) - 1) / x.size
    return float((rank * x).mean() / x.mean() - 1.0)


def log_moments(values: Floats) -> tuple[Estimate, Estimate]:
    """Mean and standard deviation of the logarithm of positive values."""
    logs = np.log(values)
    n, spread = logs.size, float(logs.std())
    fourth = float(((logs - logs.mean()) ** 4).mean())
    error = math.sqrt(max(0.0, fourth - spread**4) / n) / (2 * spread) if spread > 0 else None
    return Estimate(float(logs.mean()), spread / math.sqrt(n)), Estimate(spread, error)


def cut_lognormal(values: Floats, step: float, cut: float) -> tuple[Estimate, Estimate]:
    """Lognormal law of values that a clock rounded and a cut truncated, by maximum likelihood.

    Args:
        values: (n,) in [0, cut]; multiples of ``step``, each standing for a stretch that wide.
        step: the clock's step.
        cut: values above it were left out.

    Returns:
        Mean and standard deviation of the logarithm before the cut.
    """
    distinct, counts = np.unique(values, return_counts=True)
    low = np.log(np.maximum(distinct - step / 2, 1e-300))
    high = np.log(distinct + step / 2)
    last = math.log(cut + step / 2)

    def loss(point: Floats) -> float:
        mu, sigma = point[0], math.exp(point[1])
        mass = _between((low - mu) / sigma, (high - mu) / sigma)
        inside = max(float(ndtr((last - mu) / sigma)), 1e-300)
        return float(-(counts * np.log(mass)).sum() / values.size + math.log(inside))

    mu, sigma = log_moments(np.maximum(values, step / 2))
    begin = np.array([mu.value, math.log(max(sigma.value, 0.05))])
    best = minimize(loss, begin, method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-10}).x
    spread = np.linalg.pinv(_hessian(loss, best)) / values.size
    deviation = math.exp(best[1])
    return (
        Estimate(float(best[0]), root(spread[0, 0])),
        Estimate(deviation, root(spread[1, 1], deviation)),
    )


def _between(low: Floats, high: Floats) -> Floats:
    """Normal mass between quantiles, from the tail where no digits cancel."""
    mass = np.where(low > 0, ndtr(-low) - ndtr(-high), ndtr(high) - ndtr(low))
    return np.asarray(np.maximum(mass, 1e-300))


class Silences(NamedTuple):
    """Silences of users that ended a session, seen to their end (a return) or to the log's."""

    logs: Floats  # (n,) log s, all above the cut
    ended: NDArray[np.bool_]  # (n,) False if the log ended first
    user: Counts  # (n,)


def returns(silences: Silences, cut: float) -> tuple[Estimate, Estimate]:
    """Lognormal law of the gaps between sessions, by maximum likelihood.

    A log of D days shows no gap longer than that, and few nearly as long: moments of the gaps seen
    make users return too soon and too evenly (spread 1.10 for 1.28 in a log of 9 days). So gaps
    that the log's end cut off count as longer than what was seen of them, and the law is one
    above ``cut``. Errors come from leaving out groups of users.

    Args:
        silences: all above ``cut``.
        cut: what ends a session (s).

    Returns:
        Mean and standard deviation of the logarithm, before the cut.
    """
    begin = np.array([silences.logs.mean(), math.log(max(float(silences.logs.std()), 0.05))])
    best = _fit_returns(silences, cut, begin)
    group = silences.user % USER_GROUPS
    left: list[Floats] = []
    for g in range(USER_GROUPS):
        keep = group != g
        if keep.any() and not keep.all():
            left.append(_fit_returns(Silences(*(part[keep] for part in silences)), cut, best))
    errors: list[float | None] = [None, None]
    if len(left) > 1:
        spread = np.var(np.array(left), axis=0) * (len(left) - 1)
        errors = [root(spread[0]), root(spread[1], math.exp(best[1]))]
    return Estimate(float(best[0]), errors[0]), Estimate(math.exp(best[1]), errors[1])


def _fit_returns(silences: Silences, cut: float, begin: Floats) -> Floats:
    """The (mu, ln sigma) under which silences are most likely."""
    seen, open_ = silences.logs[silences.ended], silences.logs[~silences.ended]
    n, total, square = seen.size, float(seen.sum()), float((seen**2).sum())
    first = math.log(cut)

    def loss(point: Floats) -> float:
        mu, sigma = point[0], math.exp(point[1])
        squares = square - 2 * mu * total + n * mu * mu
        value = squares / (2 * sigma * sigma) + n * point[1]
        value -= log_ndtr((mu - open_) / sigma).sum()
        value += (n + open_.size) * log_ndtr((mu - first) / sigma)
        return float(value) / (n + open_.size)

    options = {"xatol": 1e-5, "fatol": 1e-9}
    bounds = [(first - 20.0, first + 30.0), (math.log(LOWEST_SIGMA), math.log(10.0))]
    return np.asarray(minimize(loss, begin, method="Nelder-Mead", bounds=bounds, options=options).x)


def activity(totals: Counts, lengths: Counts) -> Estimate:
    """Spread of users' activity from their events, without the noise of counting.

    The Gini index of the totals also holds chance: how many sessions came, and how long they were.
    Sessions are taken to come independently, so that a total has the variance
    ``sum(lengths^2) / sum(lengths)`` times its mean.

    Args:
        totals: (users,) events of each user.
        lengths: (sessions,) events of each session of all users.

    Returns:
        Standard deviation of the logarithm of the activity.
    """
    seen, mean = gini(totals), float(totals.mean())
    lumps = float((lengths.astype(np.float64) ** 2).sum() / lengths.sum())

    def excess(sigma: float) -> float:
        return _gini_of_counts(sigma, mean, lumps) - seen.value

    if excess(LOWEST_SIGMA) > 0:  # chance alone makes users as unequal as that
        return Estimate(0.0)
    sigma = float(brentq(excess, LOWEST_SIGMA, WIDEST_SIGMA, xtol=1e-4))
    slope = (excess(sigma + 0.02) - excess(sigma)) / 0.02
    return Estimate(sigma, None if seen.se is None else seen.se / slope)


def _gini_of_counts(sigma: float, mean: float, lumps: float) -> float:
    """Gini index of gamma totals of users of lognormal activity, those below one event left out.

    Args:
        sigma: of the log of the activity.
        mean: total of a user with events.
        lumps: variance over mean of one user's total.
    """
    side = (np.arange(GRID) + 0.5) / GRID
    means = np.exp(sigma * ndtri(side) - sigma**2 / 2)[:, None]
    drawn = mean
    for _ in range(3):  # those left out raise the mean of the others
        totals = lumps * gammaincinv(drawn * means / lumps, side)
        kept = totals[totals >= 1.0]
        drawn *= mean / float(kept.mean())
    return gini_index(kept)


def rounded_up_lognormal(lengths: Counts) -> tuple[Estimate, Estimate] | None:
    """Lognormal whose rounded-up draws have the mean, and the mean logarithm, of ``lengths``.

    Maximum likelihood is not used: real session lengths are no lognormals, and on Taobao it gave
    14 % too many requests per session, with which the share of first requests is wrong.

    Returns:
        Mean and standard deviation of the logarithm, or None if no lognormal does that.
    """
    n = lengths.size
    data = np.stack([lengths.astype(np.float64), np.log(lengths)])
    target = data.mean(axis=1)

    def misfit(point: Floats) -> Floats:
        return np.asarray((_rounded_up_means(point[0], point[1]) - target) / target)

    if not target[1] > 0:
        return None
    begin = np.array([target[1] - 0.3, max(1.2 * data[1].std(), 0.2)])
    fitted = least_squares(misfit, begin, bounds=([-10.0, 0.01], [9.0, 5.0]))
    if fitted.cost > 1e-10:
        return None
    slope = np.linalg.pinv(fitted.jac * target[:, None])
    spread = slope @ np.cov(data) @ slope.T / n
    return (
        Estimate(float(fitted.x[0]), root(spread[0, 0])),
        Estimate(float(fitted.x[1]), root(spread[1, 1])),
    )


def _rounded_up_means(mu: float, sigma: float) -> Floats:
    """Mean, and mean logarithm, of a lognormal rounded up."""
    k = np.log(np.arange(1, LONGEST + 1))
    tail = 1.0 - ndtr((k - mu) / sigma)  # of lengths above k
    return np.array([1.0 + tail.sum(), (tail[:-1] * np.diff(k)).sum()])


def _hessian(function: Callable[[Floats], float], point: Floats, step: float = 1e-3) -> Floats:
    """Second derivatives by central differences."""
    units = np.eye(point.size) * step
    return np.array(
        [
            [
                function(point + a + b)
                - function(point + a - b)
                - function(point - a + b)
                + function(point - a - b)
                for b in units
            ]
            for a in units
        ]
    ) / (4 * step * step)


def root(variance: float, slope: float = 1.0) -> float | None:
    """Standard error from a variance, times a slope; None if the variance is none."""
    return slope * math.sqrt(variance) if variance > 0 else None
