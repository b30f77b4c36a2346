"""Draws that take a fraction of a second, for tests of the score and their worker processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from small import small_scenario

from helm_gym.baselines.schedule import Schedule
from helm_gym.benchmark.yardsticks import CODEC, Yardstick, play
from helm_gym.config.scenario import Scenario
from helm_gym.suites.score_draws import Draw

STEPS, UNCOUNTED = 30, 4
STRETCHES = [
    {"duration_s": 4, "mix": {"A": 1}, "capacity_rps_per_node": 190, "ramp_s": 2},
    {"duration_s": 3, "mix": {"B": 1}, "capacity_rps_per_node": 110, "load": 0.6},
    {
        "duration_s": 5,
        "mix": {"A": 1, "B": 1},
        "capacity_rps_per_node": 150,
        "rush": {"surface": "B", "part": 0.4, "who": "newcomers"},
    },
]
"""A drift, a calm stretch and a burst."""


class SmallDraw(Draw):
    """A draw of the small scenario, at any load."""

    @property
    def scenario(self) -> Scenario:
        return small_scenario(
            **{
                "name": self.cell,
                "workload.load": self.load,
                "router.name": self.router,
                "workload.regime": {"kind": "course", "stretches": STRETCHES},
                "episode.steps": STEPS,
                "episode.uncounted_s": UNCOUNTED * 0.4,
            }
        )


ONE = SmallDraw("taobao", "day", 1.6, 30_200)
OTHER = SmallDraw("taobao", "burst", 1.3, 30_201)
BOTH = [ONE, OTHER]
GOOD = 0.2  # share that is better than one half in both, by far more than 5 %


def schedule(draw: Draw, share: float = GOOD) -> Schedule:
    """A schedule that holds a share, as if a search had found it."""
    return Schedule(
        scenario=draw.cell, scenario_digest=draw.scenario.digest(), seed=draw.seed,
        objective="tail", initial_share=share, shares=(share,) * STEPS,
    )  # fmt: skip


def write_yardsticks(folder: Path, **changes: Any) -> None:
    """Files of both draws, as a search leaves them."""
    for draw in BOTH:
        yardstick: Yardstick = play(draw, schedule(draw)).model_copy(update=changes)
        with (folder / f"{draw.key}.json").open("wb") as file:
            CODEC.write(file, yardstick)


class Fragile:
    """Holds a share, but gives up in the draw whose seed is even."""

    control = "cluster"
    observation = "paper7"

    def reset(self, seed: int) -> None:
        self.seed = seed

    def act(self, obs: NDArray[Any]) -> NDArray[Any]:
        if self.seed % 2 == 0:
            raise RuntimeError("I cannot do this")
        return np.full((len(obs), 1), GOOD)


class Broken(Fragile):
    """Gives up everywhere."""

    def act(self, obs: NDArray[Any]) -> NDArray[Any]:
        raise RuntimeError("I cannot do anything")
