"""One number for a policy: what it gets of what knowing the future is worth, in moving cells.

The gap closed for the mean of the 5-s P99s, with ``static:0.5`` in the place of the best static
share, so that finding the right share counts as well as following it. Each value is clipped to 0
to 1 before the mean: a collapse in one cell counts as nothing won there, and neither hides what was
won elsewhere nor can be made up for by it.

A setting without a gap says nothing about any policy and is left out for all. One in which this
policy failed counts as 0, or failing would pay.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from helm_gym.benchmark.arrange import Setting
from helm_gym.benchmark.contest import WINDOW_TAIL, Prize
from helm_gym.benchmark.gap import Absent, Figure, Why
from helm_gym.errors import ConfigError

REFERENCE = "static:0.5"


@dataclass(frozen=True)
class Score:
    """A score, and what it rests on."""

    value: float  # 0 to 1
    cells: Mapping[str, float]  # of every cell that counts, 0 to 1
    settings: Mapping[Setting, Figure]  # the gap closed, unclipped, or why there is none
    counted: Mapping[Setting, float]  # what the settings that count are worth, 0 to 1


def score(
    prizes: Mapping[Setting, Prize | Absent], policy: str, moving: Collection[str]
) -> Score | Absent:
    """The mean over moving cells of the clipped gap closed.

    Loads and routers of a cell are averaged first, so that every cell weighs the same.

    Args:
        prizes: what the mean of the 5-s P99s can gain over the static share :data:`REFERENCE`.
        policy: spec as asked for.
        moving: names of the cells whose optimum moves.

    Raises:
        ConfigError: a prize is of another figure or refers to another share.
    """
    _check(prizes)
    settings: dict[Setting, Figure] = {}
    for setting, prize in sorted(prizes.items()):
        if setting.cell in moving:
            settings[setting] = prize if isinstance(prize, Absent) else _closed(prize, policy)
    counted: dict[Setting, float] = {}
    for setting, closed in settings.items():
        if not isinstance(closed, Absent):
            counted[setting] = float(np.clip(closed.mean, 0.0, 1.0))
        elif closed.why is Why.NOT_PLAYED and isinstance(prizes[setting], Prize):
            counted[setting] = 0.0
    if not counted:
        return Absent(Why.NOT_SEARCHED, f"none of {len(settings)} settings of moving cells counts")
    by_cell: dict[str, list[float]] = {}
    for setting, worth in counted.items():
        by_cell.setdefault(setting.cell, []).append(worth)
    cells = {cell: float(np.mean(those)) for cell, those in by_cell.items()}
    return Score(float(np.mean(list(cells.values()))), cells, settings, counted)


def _closed(prize: Prize, policy: str) -> Figure:
    """The gap closed; a policy without any row here was not played."""
    if prize.gap.absent is None and policy not in prize.contest.values:
        return Absent(Why.NOT_PLAYED, f"no row is of {policy}")
    return prize.gap.absent or prize.closed(policy)


def _check(prizes: Mapping[Setting, Prize | Absent]) -> None:
    for setting, prize in prizes.items():
        if isinstance(prize, Absent):
            continue
        if prize.contest.figure != WINDOW_TAIL or prize.static != REFERENCE:
            raise ConfigError(
                f"a score rests on {WINDOW_TAIL} against {REFERENCE}, and the prize in "
                f"{setting.cell} is of {prize.contest.figure} against {prize.static}; make it with "
                f"prize(..., static={REFERENCE!r})"
            )
