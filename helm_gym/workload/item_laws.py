"""The popularity law of a log's items: by ranks where it knows them, else by counts of counts.

The Good-Turing coverage decides: one minus the part of the views that went to items seen only once
estimates how much of all demand goes to items that the log has seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import pdtr

from helm_gym.workload.fit_laws import Estimate, root

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

EXACT_RANKS = 100  # one node each; ranks beyond are summed in geometric stretches
STRETCHES = 300
DRAWS, CORRECTIONS = 16, 3
COUNT_RATIO = 1.15  # width of the cells in which counts above 10 are compared
BEGINS = ((0.8, 10.0), (1.0, 1000.0), (1.4, 100.0))  # exponent and shift that searches begin at
EXPONENT, SHIFT, SIZE = (-4.0, 2.0), (0.0, 16.0), (0.0, 12.0)  # bounds: ln s, ln(1 + q), ln K/seen


class ItemLaw(NamedTuple):
    """Zipf-Mandelbrot law: ``p(rank) ~ (rank + shift) ** -exponent``, rank 1 to ``items``."""

    exponent: Estimate
    shift: Estimate
    items: Estimate


def coverage(viewers: Counts) -> float:
    """Good and Turing's estimate of the part of all views that goes to items in the log."""
    return 1.0 - float((viewers == 1).sum()) / float(viewers.sum())


def ranked_law(views: Counts, items: int | None = None) -> ItemLaw:
    """Law of a catalogue that the log saw nearly all of: multinomial likelihood of the ranks.

    Real catalogues follow no law exactly, and this fit keeps what the cache sees, the mass of the
    head: the top 1 % of Amazon Video Games have 16 % of the views by this fit, 17 % in the log, and
    25 % by :func:`sampled_law`. Observed ranks are steeper at the end than true ones (5 % in the
    exponent with 10 views an item), so logs are drawn from the law that was found, fitted alike,
    and the law moved until their fits agree with that of the real log. Their scatter is the
    standard error.

    Args:
        views: (V,) views of each item seen.
        items: size of the catalogue; if None, what was seen and Chao's estimate of what was not.
    """
    once, twice = int((views == 1).sum()), int((views == 2).sum())
    size = items or views.size + round(once * (once - 1) / (2 * (twice + 1)))
    found = _fit_ranks(views, size)
    law, scatter = found, np.zeros(2)
    for _ in range(CORRECTIONS):
        rng = np.random.default_rng(0)  # the same draws each time, so that steps settle
        again = np.stack([_fit_ranks(_draw(law, size, views, rng), size) for _ in range(DRAWS)])
        scatter = again.std(axis=0, ddof=1)
        low, high = np.transpose([EXPONENT, SHIFT])
        law = np.clip(law + found - again.mean(axis=0), low, high)
    exponent, shift = math.exp(law[0]), math.expm1(law[1])
    return ItemLaw(
        Estimate(exponent, exponent * float(scatter[0])),
        Estimate(shift, (shift + 1.0) * float(scatter[1])),
        Estimate(float(size)),
    )


def observed_law(views: Counts) -> ItemLaw:
    """Law of the views by observed rank as they stand, the items seen being the catalogue.

    It is what a replay looks up, not what users would look up next: in a small log it takes chance
    for popularity.

    Args:
        views: (V,) views of each item seen.
    """
    found = _fit_ranks(views, views.size)
    size = Estimate(float(views.size))
    return ItemLaw(Estimate(math.exp(found[0])), Estimate(math.expm1(found[1])), size)


def _draw(law: Floats, size: int, views: Counts, rng: np.random.Generator) -> Counts:
    """Views of each item in a log like the given one, drawn from a law."""
    mass = (np.arange(1, size + 1) + math.expm1(law[1])) ** -math.exp(law[0])
    return np.asarray(rng.poisson(views.sum() * mass / mass.sum()), np.int64)


def _fit_ranks(views: Counts, size: int) -> Floats:
    """The (ln s, ln(1 + q)) under which the views by observed rank are most likely."""
    begins = np.unique(np.round(_rank_edges(float(size))).astype(np.int64))
    width, middle = np.diff(begins), (begins[:-1] + begins[1:] - 1) / 2.0
    ordered = np.full(size + 1, float(views.sum()))
    ordered[: views.size + 1] = np.concatenate(([0.0], np.cumsum(np.sort(views)[::-1])))
    share = np.diff(ordered[begins - 1]) / ordered[-1]

    def loss(point: Floats) -> float:
        logs = math.exp(point[0]) * np.log(middle + math.expm1(point[1]))
        return float((share * logs).sum() + math.log((width * np.exp(-logs)).sum()))

    return _search(loss, [EXPONENT, SHIFT])


def sampled_law(viewers: Counts, items: int | None = None, parts: Counts | None = None) -> ItemLaw:
    """Law of a catalogue of which the log saw a sample: likelihood of its counts of counts.

    How many items were seen once, twice, ... is compared with what the law expects, so no item has
    to be ranked: in a small sample ranks by observed count hide the skew (Taobao's 1,095 users:
    exponent 0.50 by ranks, 0.94 this way). Counts are Poisson given the law; cells are weighted as
    if independent, and the standard error corrects for that they are not.

    Args:
        viewers: (V,) how often each item was seen, counting a user once: repeats by the same user
            would look like popularity.
        items: size of the catalogue; estimated if None (a tail that was never seen leaves no
            trace, so then it is a lower bound).
        parts: (P, V) viewers by group of users; without it, errors are those of chance alone.
    """
    total, seen = float(viewers.sum()), viewers.size
    edges = _count_edges(int(viewers.max()))
    observed = np.histogram(viewers, bins=edges)[0].astype(np.float64)

    def parameters(point: Floats) -> tuple[float, float, float]:
        size = float(items) if items is not None else seen * math.exp(point[2])
        return math.exp(point[0]), math.expm1(point[1]), size

    def expected(point: Floats, views: float = total) -> tuple[Floats, Floats, Floats]:
        return _spectrum(*parameters(point), views, edges)

    def loss(point: Floats) -> float:
        mean = np.maximum(expected(point)[0], 1e-300)
        return float((mean - observed * np.log(mean)).sum()) / seen

    bounds = [EXPONENT, SHIFT] if items is not None else [EXPONENT, SHIFT, SIZE]
    best = _search(loss, bounds)
    values = parameters(best)
    slopes = (values[0], values[1] + 1.0, values[2])
    left = None
    if parts is not None:
        rest = viewers - parts
        left = np.stack(
            [
                np.histogram(row[row > 0], bins=edges)[0] - expected(best, float(row.sum()))[0]
                for row in rest
            ]
        )
    errors = _sampled_errors(expected, best, bounds, left)
    found = [
        Estimate(value, None if error is None else error * slope)
        for value, error, slope in zip(values, [*errors, None], slopes, strict=False)
    ]
    return ItemLaw(*found)


def _search(loss: Callable[[Floats], float], bounds: list[tuple[float, float]]) -> Floats:
    """Minimise from several beginnings, coarsely, and finish the best one."""

    def run(begin: Floats, tolerance: float, most: int) -> tuple[float, Floats]:
        options = {"xatol": tolerance, "fatol": tolerance**2, "maxiter": most}
        found = minimize(loss, begin, method="Nelder-Mead", bounds=bounds, options=options)
        return float(found.fun), np.asarray(found.x)

    begins = [np.array([math.log(s), math.log1p(q), 0.7])[: len(bounds)] for s, q in BEGINS]
    coarse = min((run(begin, 1e-2, 100) for begin in begins), key=lambda found: found[0])
    return run(coarse[1], 1e-5, 600)[1]


def _rank_edges(items: float) -> Floats:
    """Where the stretches of ranks begin that are summed as one; the last entry ends them."""
    begins = np.arange(1.0, min(EXACT_RANKS, items) + 1.0)
    if items > EXACT_RANKS:
        rest = np.geomspace(EXACT_RANKS + 1.0, items + 1.0, STRETCHES)
        return np.concatenate((begins, rest))
    return np.unique(np.append(begins, items + 1.0))


def _count_edges(most: int) -> Counts:
    edges = list(range(1, 11))
    while edges[-1] <= most:
        edges.append(max(edges[-1] + 1, math.ceil(edges[-1] * COUNT_RATIO)))
    return np.array(edges)


def _spectrum(
    exponent: float, shift: float, items: float, total: float, edges: Counts
) -> tuple[Floats, Floats, Floats]:
    """Expected items per cell of counts; shares (cells, nodes); how many ranks a node has."""
    begins = _rank_edges(items)
    width = np.diff(begins)
    mass = ((begins[:-1] + begins[1:] - 1.0) / 2.0 + shift) ** -exponent
    rate = total * mass / (mass * width).sum()
    below = pdtr(edges[:, None] - 1.0, rate)
    below[-1] = 1.0  # the last cell is open
    share = np.diff(below, axis=0)
    return share @ width, share, width


def _sampled_errors(
    expected: Callable[[Floats], tuple[Floats, Floats, Floats]],
    best: Floats,
    bounds: list[tuple[float, float]],
    left: Floats | None,
) -> list[float | None]:
    """Standard errors of the parameters that are not at a bound.

    A jackknife of one Newton step each, from what is observed beyond the expected where groups of
    users are ``left`` out, (P, cells); a sandwich of Poisson counts without it.
    """
    errors: list[float | None] = [None] * best.size
    free = [i for i, (low, high) in enumerate(bounds) if min(best[i] - low, high - best[i]) > 1e-3]
    if not free:
        return errors
    mean, share, width = expected(best)
    step = 1e-4
    slopes = np.stack(
        [
            (expected(best + step * unit)[0] - expected(best - step * unit)[0]) / (2 * step)
            for unit in np.eye(best.size)[free]
        ],
        axis=1,
    )
    keep = mean > 1e-9
    slopes, mean, share = slopes[keep], mean[keep], share[keep]
    weighted = slopes / mean[:, None]
    bread = np.linalg.pinv(slopes.T @ weighted)
    if left is None:
        filling = weighted.T @ (np.diag(mean) - (share * width) @ share.T) @ weighted
        spread = bread @ filling @ bread
    else:
        steps = left[:, keep] @ weighted @ bread
        spread = np.cov(steps.T, ddof=0).reshape(len(free), len(free)) * (len(left) - 1)
    for place, index in enumerate(free):
        errors[index] = root(spread[place, place])
    return errors
