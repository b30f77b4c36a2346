"""Learning curves of several runs, such as seeds of one: a table, and their median and range."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from helm_gym.agents.training.plan import RunFolder
from helm_gym.console import make_table
from helm_gym.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

FIGURE = "validation_reward"  # column of curve.csv
SIZE = (6.4, 3.2)  # inches


@dataclass(frozen=True)
class LearningCurve:
    """Validation rewards of one run, V of them."""

    run: str
    seed: int
    decisions: NDArray[np.int64]  # (V,) made before each validation
    rewards: NDArray[np.float64]  # (V,) mean per window

    @property
    def best(self) -> int:
        """Place of the highest reward, whose weights became the model."""
        return int(np.argmax(self.rewards))


def read_curves(runs: Sequence[Path]) -> list[LearningCurve]:
    """Read the curves of runs, finished or not.

    Raises:
        ConfigError: a folder holds no run, or its run has not validated yet or never does.
    """
    return [_read(RunFolder(run)) for run in runs]


def _read(folder: RunFolder) -> LearningCurve:
    config, _, _ = folder.read()
    rows: list[dict[str, str]] = []
    if folder.curve.is_file():
        with folder.curve.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row.get(FIGURE)]
    if not rows:
        raise ConfigError(
            f"{folder.path}: its curve has no {FIGURE} yet; let it train on, with --set "
            "validate_every=4 for example"
        )
    return LearningCurve(
        run=str(folder.path),
        seed=config.seed,
        decisions=np.array([int(row["decisions"]) for row in rows]),
        rewards=np.array([float(row[FIGURE]) for row in rows]),
    )


@dataclass(frozen=True)
class Spread:
    """Median and range over runs where all of them validated, V times."""

    decisions: NDArray[np.int64]
    low: NDArray[np.float64]
    median: NDArray[np.float64]
    high: NDArray[np.float64]


def spread_of(curves: Sequence[LearningCurve]) -> Spread:
    """Median and range of the rewards after equally many decisions.

    Raises:
        ConfigError: there is no number of decisions after which all runs validated.
    """
    common = set(curves[0].decisions.tolist()).intersection(*(c.decisions.tolist() for c in curves))
    if not common:
        raise ConfigError(
            "these runs never validated after equally many decisions, so they have no common "
            "curve; give them the same clusters, n_steps and validate_every"
        )
    at = np.array(sorted(common))
    rewards = np.array([c.rewards[np.isin(c.decisions, at)] for c in curves])
    low, median, high = np.quantile(rewards, (0.0, 0.5, 1.0), axis=0)
    return Spread(at, low, median, high)


def curves_table(curves: Sequence[LearningCurve]) -> Table:
    """One row per run, and the median and range of the best rewards."""
    rows = [
        (
            c.run, str(c.seed), f"{c.decisions[-1]:,}", f"{c.rewards[0]:.4f}",
            f"{c.rewards[c.best]:.4f}", f"{c.decisions[c.best]:,}", f"{c.rewards[-1]:.4f}",
        )
        for c in curves
    ]  # fmt: skip
    low, median, high = np.quantile([c.rewards[c.best] for c in curves], (0.0, 0.5, 1.0))
    return make_table(
        ("run", "seed", "decisions", "first", "best", "after", "last"),
        rows,
        title="Validation reward per window",
        caption=f"best of each run: median {median:.4f}, range {low:.4f} to {high:.4f}",
    )


def curves_svg(curves: Sequence[LearningCurve]) -> str:
    """Median and range over decisions, and every run as a thin line, as one <svg> element."""
    from helm_gym.pages.plots import LAST, as_svg

    spread = spread_of(curves)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for curve in curves:
            axes.plot(curve.decisions, curve.rewards, color=LAST, lw=0.5, alpha=0.5)
        axes.fill_between(spread.decisions, spread.low, spread.high, color=LAST, alpha=0.2, lw=0)
        label = f"median and range of {len(curves)} runs"
        axes.plot(spread.decisions, spread.median, color=LAST, lw=1.8, label=label)
        axes.set_xlabel("decisions")
        axes.set_ylabel("validation reward per window")
        axes.legend(loc="lower right")

    return as_svg("learning-curves", SIZE, draw)
