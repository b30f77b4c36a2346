"""What one comparison found: the rows of the fidelity card."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Status = Literal["met", "missed", "stated"]


@dataclass(frozen=True)
class Finding:
    """One comparison of a part of the model with something outside it.

    Args:
        part: of the model, such as ``GEMM time``.
        compared: what with what, such as ``form against held-out A100 shapes``.
        points: how many.
        measure: name of the error, such as ``MAPE``.
        value: of the error.
        unit: of the error, such as ``%`` or ``points``.
        source: of what it was compared with, with its date or revision.
        target: largest error that was aimed at; None if the error is only stated.
        note: what a reader has to know beside the number.
        details: series and tables behind it, for plots.
    """

    part: str
    compared: str
    points: int
    measure: str
    value: float
    unit: str
    source: str
    target: float | None = None
    note: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def status(self) -> Status:
        """Whether the target was met; ``stated`` if there was none."""
        if self.target is None:
            return "stated"
        return "met" if self.value <= self.target else "missed"


@dataclass(frozen=True)
class Skipped:
    """A comparison that could not run here, and why."""

    part: str
    compared: str
    reason: str


@dataclass(frozen=True)
class Effort:
    """What a run may use.

    Args:
        data: folder with ``calibration/`` and ``traces/``, None if there is none.
        quick: fewer points and shorter runs, for continuous integration.
        seed: of everything that is drawn.
    """

    data: Path | None
    quick: bool = False
    seed: int = 0

    def find(self, name: str) -> Path | None:
        """Path of a file below the data folder, None if it is not there."""
        path = None if self.data is None else self.data / name
        return path if path is not None and path.is_file() else None


Checks = Callable[[Effort], Iterator[Finding | Skipped]]
"""Every room of the card is a function like this."""
