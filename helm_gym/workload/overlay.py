"""Copies of a log's users, shifted in time: a small log that loads a cluster at its own pace."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def overlay(
    user: NDArray[np.int32],
    time: Floats,
    period: float,
    copies: int,
    step: float,
    rng: np.random.Generator,
) -> tuple[NDArray[np.int64], NDArray[np.int32], Floats]:
    """Lay copies of a log over each other, every user of every copy shifted in time.

    What a shift moves beyond the log's end comes in at its beginning, so gaps of a user stay as
    they were but for one per lap. Shifts are per user, not per copy: users who share their hours
    of the day would otherwise keep them, and a few copies would not make a steady rate.

    Args:
        user: (R,) codes from 0.
        time: (R,) s from 0, not decreasing.
        period: s after which the log starts again.
        copies: how many.
        step: shifts are multiples of this (s); 0 for any.
        rng: draws the shifts.

    Returns:
        (R * copies,) rows of the log, user codes, and instants, not decreasing.
    """
    users = int(user.max()) + 1
    shift: Floats = period * rng.random((copies, users))
    if step > 0.0:
        days = rng.integers(0, max(1, int(period / step + 0.5)), (copies, users))
        shift = np.asarray(step * days, np.float64)
    moved = (time + shift[:, user]) % period
    rows = np.argsort(moved.ravel(), kind="stable")
    codes = (user + users * np.arange(copies)[:, None]).ravel()[rows]
    instants: Floats = moved.ravel()[rows]
    return rows % user.size, codes.astype(np.int32), instants
