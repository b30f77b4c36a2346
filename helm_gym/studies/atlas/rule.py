"""What the atlas says about numbers that it did not measure: a rule, its error, nearest points."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from helm_gym.errors import ConfigError
from helm_gym.studies.atlas.points import FACTORS, base_values, kv_bytes, model_of, scenario_at
from helm_gym.studies.atlas.run import LOADS, column, needs

Floats = NDArray[np.float64]
LOW, HIGH = 0.1, 0.9
FOLDS = 10
MIN_POINTS = 24  # below which a rule would follow noise
FEATURES: Mapping[str, str] = {
    "ln(ratio)": "link time that EMB can save / time that KV can save, per request",
    "ln(gpu share)": "GPU time of a KV hit / of a miss",
    "ln(table)": "table bytes / pool bytes",
    "exponent": "of popularity",
    "ln(KV per user)": "KV bytes of the median history / pool bytes",
    "ln(gap)": "median gap, s",
    "ln(session)": "median requests of a session",
}


def features(row: Mapping[str, Any]) -> list[float]:
    """The rule's inputs for a row of the atlas."""
    from helm_gym.studies.atlas.points import POOL_GB

    return [
        math.log(row["ratio"]),
        math.log(row["gpu_hit_ms"] / row["gpu_miss_ms"]),
        math.log(row["table"]),
        row["exponent"],
        math.log(row["kv_bytes"] * row["history"] / (POOL_GB * 1e9)),
        math.log(row["gap"]),
        math.log(row["session"]),
    ]


@dataclass(frozen=True)
class Rule:
    """``share = 0.1 + 0.8 / (1 + exp(-(c + w . x)))``, the capacity-optimal share."""

    constant: float
    weights: tuple[float, ...]
    error: float  # mean absolute error on clusters that the fit did not see
    p90: float  # of the absolute error, same
    naive: float  # mean absolute error of always saying the mean
    points: int

    def share(self, row: Mapping[str, Any]) -> float:
        """Expected capacity-optimal share."""
        return float(
            _predict(np.array([self.constant, *self.weights]), np.array([features(row)]))[0]
        )


def feasible(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Rows of points that some share serves within the SLO."""
    return [row for row in rows if row["feasible"]]


def _predict(theta: Floats, x: Floats) -> Floats:
    from scipy.special import expit

    return LOW + (HIGH - LOW) * np.asarray(expit(theta[0] + x @ theta[1:]), np.float64)


def _fit(x: Floats, y: Floats) -> Floats:
    from scipy.optimize import least_squares

    start = np.zeros(x.shape[1] + 1)
    # A little ridge: without it, optima at the ends of the range drive weights to infinity.
    found = least_squares(lambda t: np.append(_predict(t, x) - y, 0.01 * t[1:]), start)
    return np.asarray(found.x)


def fit_rule(rows: Sequence[Mapping[str, Any]]) -> Rule:
    """Fit the rule, and its error on clusters left out of the fit.

    Raises:
        ConfigError: too few points to fit anything.
    """
    good = feasible(rows)
    if len(good) < MIN_POINTS:
        raise ConfigError(
            f"{len(good)} points are too few for a rule, which needs {MIN_POINTS}: this atlas is a "
            "quick one; run helm-gym atlas without --quick"
        )
    x = np.array([features(row) for row in good])
    y = np.array([row["best_share"] for row in good])
    clusters = sorted({row["cluster"] for row in good})
    fold = {name: place % FOLDS for place, name in enumerate(clusters)}
    folds = np.array([fold[row["cluster"]] for row in good])
    left_out = np.empty(len(y))
    for number in range(FOLDS):
        out = folds == number
        if out.any():
            left_out[out] = _predict(_fit(x[~out], y[~out]), x[out])
    off = np.abs(left_out - y)
    theta = _fit(x, y)
    return Rule(
        float(theta[0]),
        tuple(float(w) for w in theta[1:]),
        float(off.mean()),
        float(np.quantile(off, 0.9)),
        float(np.abs(y - y.mean()).mean()),
        len(y),
    )


@dataclass(frozen=True)
class Pair:
    """Two surfaces that one cluster would serve in turn."""

    first: Mapping[str, Any]
    second: Mapping[str, Any]
    capacity_loss: float  # the best single share's larger loss of capacity
    p99_loss: Mapping[float, float]  # load -> its larger P99 over the own optimum's, minus 1

    @property
    def distance(self) -> float:
        """How far the two capacity-optimal shares are apart."""
        return abs(float(self.first["best_share"]) - float(self.second["best_share"]))


def pairs(rows: Sequence[Mapping[str, Any]]) -> list[Pair]:
    """Every two points of a cluster, with what the best single static share loses.

    The single share is the one whose larger loss is least. What it loses to each surface's own
    optimum bounds what adapting could gain there: moving is taken to be free and instant.
    """
    clusters: dict[str, list[Mapping[str, Any]]] = {}
    for row in feasible(rows):
        clusters.setdefault(f"{row['cluster']}/{row['slo_ms']}", []).append(row)
    return [
        _pair(first, second)
        for members in clusters.values()
        for first, second in itertools.combinations(members, 2)
    ]


def _pair(first: Mapping[str, Any], second: Mapping[str, Any]) -> Pair:
    both = sorted(set(first["shares"]) & set(second["shares"]))
    ends = (first, second)
    capacity = _worse([1.0 - _at(r, "capacity", both) / r["best_capacity"] for r in ends])
    tails = {}
    for load in LOADS:
        mark = column(load)
        over = [_at(r, f"p99_{mark}", both) / r[f"p99_best_{mark}"] for r in ends]
        tails[load] = _worse(over) - 1.0
    return Pair(first, second, capacity, tails)


def _worse(losses: Sequence[Floats]) -> float:
    """The larger loss of the share for which that is least."""
    return float(np.max(losses, axis=0).min())


def _at(row: Mapping[str, Any], name: str, shares: Sequence[float]) -> Floats:
    """A figure at some of the shares of a row."""
    known = dict(zip(row["shares"], row[name], strict=True))
    return np.array([known[share] for share in shares])


def row_at(values: Mapping[str, float]) -> dict[str, Any]:
    """The inputs of the rule for values that need not be a point."""
    full = base_values() | dict(values)
    full["kv_bytes"] = kv_bytes(*model_of(full["kv_bytes"]))
    need = needs(scenario_at(full))
    return {
        **full,
        "ratio": need.ratio,
        "gpu_miss_ms": need.gpu_miss,
        "gpu_hit_ms": need.gpu_hit,
        "candidates_link_ms": need.candidates_link,
        "history_link_ms": need.history_link,
    }


def nearest(
    rows: Sequence[Mapping[str, Any]], values: Mapping[str, float], count: int = 5
) -> list[tuple[float, Mapping[str, Any]]]:
    """The closest points and their distance: each factor in units of its range in the atlas."""

    def place(row: Mapping[str, Any]) -> Floats:
        found = []
        for name, factor in FACTORS.items():
            low, high, value = factor.levels[0], factor.levels[-1], row[name]
            if factor.log:
                low, high, value = math.log(low), math.log(high), math.log(value)
            found.append((value - low) / (high - low))
        return np.array(found)

    here = place(base_values() | dict(values))
    apart = [(float(np.linalg.norm(place(row) - here)), row) for row in feasible(rows)]
    return sorted(apart, key=lambda item: item[0])[:count]


def loss_of(row: Mapping[str, Any], share: float) -> float:
    """Part of the capacity that a share of the common grid gives away."""
    known = dict(zip(row["shares"], row["capacity"], strict=True))
    return float(1.0 - known[share] / row["best_capacity"])
