"""What each weight costs: prices against formulas, simulated moves, and the page of them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from helm_gym.config.scenario import Scenario
from helm_gym.envs import reward_units as units
from helm_gym.envs.reward import DEFAULT, PRESETS, RewardConfig
from helm_gym.envs.reward_units import price_table, unit_costs
from helm_gym.envs.vector_env import EmbKvVectorEnv

PAGE = Path(__file__).parents[2] / "docs" / "rewards.md"
STEPS, MOVED_AT = 12, 2  # windows; a copy takes one or two
SMALL = {
    "nodes": 4,
    "workload.users": 20_000,
    "episode.steps": STEPS,
    "episode.warmup_s": 20.0,
    "episode.warm_starts": 2,
}


@cache
def shipped() -> Scenario:
    return Scenario.load("taobao-shift")


@cache
def paid_for_moving(mode: str, load: float, start: float, move: float) -> NDArray[np.float64]:
    """(2,) refill and movement terms of two clusters, summed over all windows."""
    changes = {**SMALL, "refill.mode": mode, "workload.load": load}
    scenario = shipped().replace(changes)
    env = EmbKvVectorEnv(2, scenario=scenario, autoreset_mode=AutoresetMode.DISABLED)
    env.reset(seed=[40_000, 40_001], options={"share": start})
    paid = np.zeros(2)
    for window in range(STEPS):
        share = start + (move if window >= MOVED_AT else 0.0)
        _, _, _, _, infos = env.step(np.full((2, 1), share))
        paid -= infos["reward_terms/refill"] + infos["reward_terms/movement"]
    return paid


@pytest.mark.parametrize("load", [0.7, 0.95])
@pytest.mark.parametrize("start", [0.3, 0.6])
@pytest.mark.parametrize("mode", ["naive", "throttled", "paced"])
@pytest.mark.parametrize("sign", [1, -1], ids=["up", "down"])
def test_a_full_move_costs_at_least_a_millisecond_of_p99(
    mode: str, load: float, start: float, sign: int
) -> None:
    """What the run that moves pays more than the one that stays, on the same requests."""
    move = sign * units.FULL_MOVE
    more = paid_for_moving(mode, load, start, move) - paid_for_moving(mode, load, start, 0.0)
    costs = unit_costs(PRESETS[DEFAULT], shipped())
    assert (more >= costs[units.MS_OF_P99]).all(), (more, costs)
    if sign > 0:  # the copies are charged on top of the move, up to the size of a page
        assert (more >= 1.8 * costs[units.MOVE]).all()


def test_prices_are_their_formulas(tiny: Scenario) -> None:
    weights = {"slo_satisfaction": 0.5, "slo_violation": 3.0, "latency": 2.0, "shed": 0.7}
    weights |= {"refill": 1.5, "movement": 0.9, "work": 0.4}
    found = unit_costs(RewardConfig.load({**weights, "latency_measure": "p99"}), tiny)
    expected = {
        units.MS_OF_P99: 2.0 / 30,
        units.MS_BEYOND: 2.0 / 30,
        units.MS_OF_MEAN: 0.0,
        units.VIOLATIONS: 0.01 * 3.5,
        units.SHED: 0.01 * 0.7,
        units.GIGABYTE: 1.5 / 16,  # four pools of 4 GB
        units.MOVE: 0.04 * 0.9,
        units.REFILL: 0.04 * 1.5,
        units.WORK: 0.01 * 0.4,
    }
    assert tuple(found) == units.UNITS
    assert found == pytest.approx(expected)


@pytest.mark.parametrize(
    ("measure", "inside", "beyond", "mean"),
    [
        ("p99", 1 / 30, 1 / 30, 0.0),
        ("p99_excess", 0.0, 1 / 30, 0.0),
        ("mean", 0.0, 0.0, 1 / 30),
        ("log_p99", np.log(1 + 16 / 30) - np.log(1.5), np.log(1 + 46 / 30) - np.log(2.5), 0.0),
    ],
)
def test_a_millisecond_under_every_measure(
    tiny: Scenario, measure: str, inside: float, beyond: float, mean: float
) -> None:
    config = RewardConfig.load({"latency_measure": measure, "latency": 1.0})
    found = unit_costs(config, tiny)
    milliseconds = [found[unit] for unit in (units.MS_OF_P99, units.MS_BEYOND, units.MS_OF_MEAN)]
    assert milliseconds == pytest.approx([inside, beyond, mean])


def test_a_nodes_own_work_has_a_price(tiny: Scenario) -> None:
    found = unit_costs(RewardConfig(node_work=0.5), tiny)
    assert found.pop(units.WORK) == pytest.approx(0.005)
    assert not any(found.values())


def test_the_page_shows_the_prices_as_they_are() -> None:
    assert price_table(shipped()) in PAGE.read_text("utf-8")


@pytest.mark.parametrize("scenario", ["taobao-burst", "paper-v2-amazon-books-trend"])
def test_other_shipped_scenarios_have_the_same_price_of_a_move(scenario: str) -> None:
    here, there = (
        unit_costs(PRESETS[DEFAULT], one) for one in (shipped(), Scenario.load(scenario))
    )
    asked: tuple[Any, ...] = (units.MS_OF_P99, units.MOVE, units.REFILL)
    assert [here[unit] for unit in asked] == pytest.approx([there[unit] for unit in asked])
