"""Fits positive coefficients to measured times by relative error."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from scipy.optimize import least_squares

from helm_gym.config.quantity import Quantity
from helm_gym.hardware.form import Array

LOSS_SCALE = 0.05  # relative errors above this count linearly in the fit, not squared
REACH = 1000.0  # a coefficient that the data do not show stays within this factor of its start
DIGITS = 5  # significant digits of a coefficient


class Fitted(NamedTuple):
    """Coefficients, and the robust loss that they leave."""

    values: Array
    loss: float


def fit_relative(form: Callable[[Array], Array], start: Array, measured: Array) -> Fitted:
    """Find the positive coefficients that bring ``form`` closest to the measured times.

    Args:
        form: (C,) coefficients -> (R,) seconds.
        start: (C,) where to begin.
        measured: (R,) seconds.
    """
    begin = np.log(start)
    # From the times' own scale: another GPU may be many times faster or slower.
    found = least_squares(
        lambda log: np.log(form(np.exp(log)) / measured),
        begin,
        bounds=(begin - np.log(REACH), begin + np.log(REACH)),
        loss="soft_l1",
        f_scale=LOSS_SCALE,
        x_scale="jac",
        max_nfev=300,
    )
    return Fitted(np.exp(found.x), float(found.cost))


def quantities(values: Mapping[str, float], units: Mapping[str, str]) -> dict[str, Quantity]:
    """Coefficients as quantities that say they were fitted."""
    return {
        name: Quantity(value=float(f"{value:.{DIGITS}g}"), unit=units[name], source="fit")
        for name, value in values.items()
    }
