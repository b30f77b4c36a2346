"""A scenario that leaves the measured sizes says so, once, unless it announces it."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
from small import small_scenario

from helm_gym.config.scenario import Scenario
from helm_gym.errors import CalibrationWarning, ConfigError
from helm_gym.hardware.extrapolation import DIMENSIONS
from helm_gym.sim import simulator as room
from helm_gym.sim.simulator import Simulator

INSIDE: dict[str, Any] = {  # every size that the shipped A100 was measured at
    "extrapolates": [],
    "hardware.model": {"name": "short", "layers": 5, "width": 512, "max_history": 3968},
    "workload.profile.history.shortest": 64,
}


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_warned", set())


def test_measured_sizes_are_not_remarked_upon() -> None:
    scenario = small_scenario(**INSIDE)
    assert scenario.extrapolations() == []
    Simulator(scenario)  # pytest turns warnings into errors


@pytest.mark.parametrize(
    ("changes", "texts"),
    [
        ({"hardware.model.max_history": 8192}, ("incremental.n_cached", "64 to 8,192", "3,968")),
        ({"workload.surfaces.0.candidates": 8}, ("incremental.n_new", "8 to 1,024", "from 96")),
        ({"hardware.model.width": 64}, ("gemm.k", "64 to 64", "from 128")),
        ({"hardware.model.width": 4096}, ("gemm.n", "to 16,384", "to 8,192")),
    ],
)
def test_it_warns_once_with_both_ranges(changes: dict[str, Any], texts: tuple[str, ...]) -> None:
    scenario = small_scenario(**{**INSIDE, **changes})
    with pytest.warns(CalibrationWarning) as caught:
        Simulator(scenario)
    said = [str(warning.message) for warning in caught if texts[0] in str(warning.message)]
    assert len(said) == 1
    for text in (*texts, "small", "a100-80gb", f"extrapolates: [{texts[0]}]"):
        assert text in said[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Simulator(scenario)


def test_announced_extrapolation_is_silent() -> None:
    changes = {**INSIDE, "hardware.model.max_history": 8192}
    announced = {**changes, "extrapolates": ["incremental.n_cached"]}
    assert small_scenario(**changes).extrapolations()
    assert small_scenario(**announced).extrapolations() == []


def test_only_sizes_can_be_announced() -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'incremental\.n_cached'"):
        small_scenario(extrapolates=["incremental.n_cache"])


@pytest.mark.parametrize("name", Scenario.names())
def test_shipped_scenarios_announce_theirs(name: str) -> None:
    scenario = Scenario.load(name)
    assert scenario.extrapolations() == []
    unannounced = scenario.replace({"extrapolates": []}).extrapolations()
    assert len(unannounced) == len(scenario.extrapolates), "announces more than it does"
    assert set(scenario.extrapolates) <= set(DIMENSIONS)
