"""Settings of ``helm-gym score``: moving cells with courses and seeds that nothing else uses.

A draw is a cell of the suite at one load, whose course and requests come from one seed of its own.
Programs will evolve policies against this score. So the draws leave out Amazon Books, on which
nothing may be tuned, and share no seed with training, searches or comparisons.
"""

from __future__ import annotations

from functools import cache
from itertools import product
from typing import NamedTuple

from helm_gym.config.scenario import Scenario
from helm_gym.errors import ConfigError
from helm_gym.suites import moving
from helm_gym.suites.courses import REGIMES
from helm_gym.suites.seeds import SCORE_SEEDS

PREFIX = "score"
ROUTER = moving.ROUTERS[0]
DATASETS = ("taobao", "amazon-video-games")  # those that policies may be tuned on
MOVING = REGIMES[1:]  # a steady cell has next to nothing to win
LOADS = (1.05, 0.95)  # where there is most to win comes first
SETTINGS = tuple(product(LOADS, DATASETS, MOVING))
SEEDS_PER_SETTING = 1


class Draw(NamedTuple):
    """One episode that a score rests on."""

    dataset: str
    regime: str
    load: float
    seed: int  # of the course and of the requests

    @property
    def cell(self) -> str:
        """Name of the scenario, such as ``score-taobao-day``; all loads and seeds have it."""
        return f"{PREFIX}-{self.dataset}-{self.regime}"

    @property
    def router(self) -> str:
        """Name of the router, the same for all."""
        return ROUTER

    @property
    def scenario(self) -> Scenario:
        """What is simulated."""
        return _scenario(self)

    @property
    def key(self) -> str:
        """Name of a file about this draw, which changes with the scenario."""
        return f"{self.cell}-{self.load:g}-{self.seed}-{self.scenario.digest()[:8]}"


@cache
def _scenario(draw: Draw) -> Scenario:
    data = moving.draft(draw.dataset, draw.regime, ROUTER, draw.load, draw.seed)
    about = f"Of helm-gym score, with a course drawn by seed {draw.seed}. {data['description']}"
    return Scenario.parse(data | {"name": draw.cell, "description": about}, PREFIX)


def draws(seeds_per_setting: int = SEEDS_PER_SETTING) -> list[Draw]:
    """Every draw, the first of all settings before the second of any.

    Draw n of setting k has the seed ``SCORE_SEEDS[n * len(SETTINGS) + k]``, so that more draws
    leave those before them as they are.

    Args:
        seeds_per_setting: how many draws each setting has.

    Raises:
        ConfigError: there are not as many seeds.
    """
    wanted, most = seeds_per_setting * len(SETTINGS), len(SCORE_SEEDS)
    if not 0 < wanted <= most:
        raise ConfigError(
            f"{seeds_per_setting} seeds for each of {len(SETTINGS)} settings is not possible: "
            f"{most} seeds are for the score; ask for 1 to {most // len(SETTINGS)}"
        )
    return [
        Draw(dataset, regime, load, SCORE_SEEDS[n * len(SETTINGS) + k])
        for n in range(seeds_per_setting)
        for k, (load, dataset, regime) in enumerate(SETTINGS)
    ]
