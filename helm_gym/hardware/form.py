"""What every fitted kernel-time form has in common: its range, and how wrong it is.

A form is a frozen class with coefficients, a vectorised ``seconds`` and the ranges of the shapes
that it was fitted to. Its fit function takes the table of one half of the measurements,
``fit(table) -> form``, and never sees the other half.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Protocol, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import model_validator

from helm_gym.config.quantity import Frozen, within

Array = NDArray[np.float64]
Columns = Mapping[str, NDArray[Any]]
"""Column name -> (R,) values, one per measurement; ``seconds`` holds the measured times."""

MEASURED = "seconds"
Size = Annotated[float, within(0, 1e18)]


class Range(Frozen):
    """Lowest and highest value of a dimension among the shapes that a form was fitted to."""

    low: Size
    high: Size

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if self.low > self.high:
            raise ValueError(f"low {self.low:g} is above high {self.high:g}")
        return self


class Form(Protocol):
    """A kernel-time form with its coefficients."""

    @property
    def dimensions(self) -> tuple[str, ...]:
        """Names of the columns that ``seconds`` and ``outside`` take, in their order."""

    @property
    def ranges(self) -> dict[str, Range]:
        """Dimension -> calibrated range."""

    @property
    def seconds(self) -> Callable[..., Array]:
        """Time of each shape; takes one array per dimension, and broadcasts them."""

    @property
    def outside(self) -> Callable[..., NDArray[np.bool_]]:
        """Whether each shape lies outside the calibrated range; arguments as ``seconds``."""


class Calibrated(Frozen):
    """Base of forms: calibrated ranges, and whether a shape lies outside them."""

    dimensions: ClassVar[tuple[str, ...]] = ()
    ranges: dict[str, Range] = {}  # noqa: RUF012 - pydantic copies defaults

    @model_validator(mode="after")
    def _ranges_are_of_dimensions(self) -> Calibrated:
        unknown = sorted(set(self.ranges) - set(self.dimensions))
        if unknown:
            raise ValueError(f"ranges of {unknown}, but the form takes {list(self.dimensions)}")
        return self

    def outside(self, *columns: ArrayLike) -> NDArray[np.bool_]:
        """Whether each shape lies outside the calibrated range; arguments as ``seconds``."""
        values = np.broadcast_arrays(*(np.asarray(column, float) for column in columns))
        found = np.zeros(values[0].shape, bool)
        for name, value in zip(self.dimensions, values, strict=True):
            if name in self.ranges:
                found |= (value < self.ranges[name].low) | (value > self.ranges[name].high)
        return found


FormT = TypeVar("FormT", bound=Form)
Fit = Callable[[Columns], FormT]


@dataclass(frozen=True)
class Errors:
    """Relative errors of predicted times, ``predicted / measured - 1``.

    Args:
        points: how many shapes.
        mape: mean absolute error, as a fraction.
        p90: 90th percentile of the absolute error, as a fraction.
        bias: mean signed error; positive means that the form is too slow.
    """

    points: int
    mape: float
    p90: float
    bias: float


def ranges_of(table: Columns, dimensions: tuple[str, ...]) -> dict[str, Range]:
    """Lowest and highest value of each dimension in a table."""
    return {
        name: Range(low=float(table[name].min()), high=float(table[name].max()))
        for name in dimensions
    }


def predict(form: Form, table: Columns) -> Array:
    """Seconds of every row of a table."""
    return form.seconds(*(table[name] for name in form.dimensions))


def errors_of(form: Form, table: Columns) -> Errors:
    """How wrong a form is on a table."""
    signed = predict(form, table) / table[MEASURED] - 1.0
    absolute = np.abs(signed)
    return Errors(
        points=signed.size,
        mape=float(absolute.mean()),
        p90=float(np.quantile(absolute, 0.9)),
        bias=float(signed.mean()),
    )
