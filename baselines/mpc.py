"""Model-based control: forecast what comes, predict what each share would cost, take the best."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from helm_gym.baselines.rule import CONTROLS, Count, Fraction, Grid, Positive, Rule, share_points
from helm_gym.envs.reading import GHOST, SMALL, Floats, Signals, delay

POINTS = share_points(0.02)  # (K,) shares that are compared
N_TERMS = 5  # of the cost model: 1, a, a^2, c, a c with share a (from 0.5) and candidates c
UNSURE = 100.0  # variance of every coefficient before anything was seen; also its upper bound
SLOPE_NOISE = 4.0  # variance of a slope that a ghost tells, relative to a value that is seen


def terms(share: Floats, candidates: Floats) -> Floats:
    """(..., N_TERMS) regressors of the log of seconds per request."""
    a = share - 0.5
    return np.stack([np.ones_like(a), a, a * a, candidates, a * candidates], axis=-1)


def slope_terms(share: Floats, candidates: Floats) -> Floats:
    """Their derivatives by the share."""
    zero = np.zeros_like(share)
    return np.stack([zero, zero + 1.0, 2.0 * (share - 0.5), zero, candidates], axis=-1)


class LeastSquares:
    """Recursive least squares with forgetting, for many rows and both stages at once.

    Textbook: Åström & Wittenmark, "Adaptive Control", 1995. The covariance is kept below its first
    value, or a share that stands still would let it grow for ever.
    """

    def __init__(self, rows: int) -> None:
        self.coefficients = np.zeros((rows, N_TERMS, 2))
        self.covariance = UNSURE * np.repeat(np.eye(N_TERMS)[None], rows, axis=0)

    def forget(self, keep: float) -> None:
        """Trust what was learned a little less."""
        grown = self.covariance / keep
        size = np.trace(grown, axis1=1, axis2=2)[:, None, None]
        self.covariance = grown * np.minimum(1.0, N_TERMS * UNSURE / size)

    def predict(self, x: Floats) -> Floats:
        """(R, ..., 2) values at (R, ..., N_TERMS) regressors."""
        return np.asarray(np.einsum("r...i,rio->r...o", x, self.coefficients))

    def learn(self, x: Floats, y: Floats, noise: float = 1.0) -> None:
        """Take in (R, N_TERMS) regressors and the (R, 2) values that they should give."""
        spread = np.einsum("rij,rj->ri", self.covariance, x)
        gain = spread / (noise + np.einsum("ri,ri->r", x, spread))[:, None]
        wrong = y - self.predict(x)
        self.coefficients = self.coefficients + gain[:, :, None] * wrong[:, None, :]
        self.covariance = self.covariance - gain[:, :, None] * spread[:, None, :]


@dataclass(kw_only=True)
class Mpc(Rule):
    """Model predictive control with a forecast of the load and a cost model fitted online.

    Textbook: Camacho & Bordons, "Model Predictive Control", 2007, with Holt's linear trend (1957)
    as the forecast; no paper with this controller for a split pool is known to us. The cost model
    is ours: the logs of link and of GPU seconds per request are polynomials in the share and in the
    candidates per request, learned from values that were seen and slopes that the ghosts tell, and
    shifted to meet the last window (the offset of dynamic matrix control). A plan is a target that
    is approached at ``max_move`` a decision; its first move is made. It costs the busier stage's
    predicted utilisation over the time it has left, in the mean over the horizon, and a toll on the
    way. No forecast knows of a change of regime before it comes, and the way back is long, so a
    part of the cost is that of the load as it was on average (``hedge``).

    Args:
        horizon: decisions ahead.
        toll: cost of moving the whole pool, in the same unit.
        alpha: weight of the newest window in the forecast's level.
        beta: the same for its trend.
        hedge: weight of the load being as it was on average, rather than as forecast.
        keep: trust in the cost model that is left after each decision.
        ghost: how much share a marginal value stands for.
    """

    NAME: ClassVar[str] = "mpc"
    SEARCH: ClassVar[Grid] = {
        "horizon": (2, 6),
        "toll": (1.0, 4.0, 16.0),
        "hedge": (0.0, 0.3),
        "control": CONTROLS,
    }

    horizon: Count = 6
    toll: Positive = 1.0
    alpha: Fraction = 0.5
    beta: Fraction = 0.1
    hedge: Fraction = 0.3
    keep: Annotated[float, Field(gt=0, le=1)] = 0.95
    ghost: Positive = GHOST
    _model: LeastSquares = field(init=False, repr=False)
    _offset: Floats = field(init=False, repr=False)  # (R, 2) by which the logs are short now
    _level: Floats = field(init=False, repr=False)  # (2, R) rate and candidates
    _usual: Floats = field(init=False, repr=False)  # (2, R) mean so far
    _windows: int = field(default=0, init=False, repr=False)
    _trend: Floats = field(init=False, repr=False)  # (2, R) per decision

    def begin(self, seen: Signals) -> None:
        """Nothing is known of the costs; the load stays as it is."""
        self._model = LeastSquares(self._rows)
        self._level = np.stack([seen.rate, seen.candidates])
        self._trend, self._usual, self._windows = np.zeros_like(self._level), self._level, 0

    def target(self, seen: Signals) -> Floats:
        """Learn, forecast, and take the best target."""
        self._learn(seen)
        self._follow(np.stack([seen.rate, seen.candidates]))
        cost = self.toll * np.abs(POINTS - seen.share[:, None])
        for ahead in range(1, self.horizon + 1):
            coming = self._busier(seen, ahead, self._level + ahead * self._trend)
            usual = self._busier(seen, ahead, self._usual)
            cost = cost + ((1.0 - self.hedge) * coming + self.hedge * usual) / self.horizon
        return np.asarray(POINTS[cost.argmin(axis=1)])

    def state(self) -> dict[str, Any]:
        """What the rule remembers, the cost model as two arrays."""
        state = super().state()
        if "_model" in state:
            state["_model"] = (state["_model"].coefficients, state["_model"].covariance)
        return state

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state` gave, bit for bit."""
        super().restore(state)
        if "_model" in state:
            self._model = LeastSquares(self._rows)
            self._model.coefficients, self._model.covariance = map(np.copy, state["_model"])

    def _learn(self, seen: Signals) -> None:
        here, slope = terms(seen.share, seen.candidates), slope_terms(seen.share, seen.candidates)
        self._model.forget(self.keep)
        work = np.maximum(seen.work(), SMALL)
        self._model.learn(here, np.log(work))
        self._model.learn(slope, seen.slopes(self.ghost) / work, SLOPE_NOISE)
        self._offset = np.log(work) - self._model.predict(here)

    def _follow(self, now: Floats) -> None:
        """Holt's update, and the mean of the episode so far."""
        self._windows += 1
        self._usual = self._usual + (now - self._usual) / self._windows
        level = self.alpha * now + (1.0 - self.alpha) * (self._level + self._trend)
        self._trend = self.beta * (level - self._level) + (1.0 - self.beta) * self._trend
        self._level = level

    def _busier(self, seen: Signals, ahead: int, load: Floats) -> Floats:
        """(R, K) predicted delay of the busier stage, ``ahead`` decisions on toward each target."""
        rate, candidates = load
        way = np.clip(POINTS - seen.share[:, None], -ahead * self.max_move, ahead * self.max_move)
        there = seen.share[:, None] + way
        x = terms(there, np.broadcast_to(np.clip(candidates, 0.0, 1.0)[:, None], there.shape))
        work = np.exp(np.clip(self._model.predict(x) + self._offset[:, None], -9.0, 2.0))
        return delay(np.maximum(rate, 0.05)[:, None] * work.max(axis=-1))
