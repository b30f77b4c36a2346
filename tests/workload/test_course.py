"""Courses: stretches, ramps between them, rushes on one surface, histories that are kept."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from small import small_scenario, started

from helm_gym.errors import ConfigError
from helm_gym.sim import arrivals, lowering
from helm_gym.sim.layout import Node
from helm_gym.workload.regimes import Schedule, build_schedule

STANDARD_ERRORS = 4.5


def schedule_of(*stretches: dict[str, Any]) -> Schedule:
    regime = {"kind": "course", "stretches": list(stretches)}
    scenario = small_scenario(**{"workload.regime": regime})
    return build_schedule(scenario.workload, np.random.default_rng(0))


def stretch(seconds: float, mix: dict[str, float], rate: float, **more: Any) -> dict[str, Any]:
    return {"duration_s": seconds, "mix": mix, "capacity_rps_per_node": rate, **more}


def rush(surface: str, part: float, who: str) -> dict[str, Any]:
    return {"rush": {"surface": surface, "part": part, "who": who}}


def test_a_drift_a_flip_and_a_load_are_stretches() -> None:
    found = schedule_of(
        stretch(4, {"A": 1}, 200, ramp_s=4),  # a drift, all the way
        stretch(2, {"B": 1}, 100),  # and a flip back
        stretch(2, {"A": 1, "B": 1}, 150, load=0.5),
    )
    assert found.period_s == 8
    ahead = np.array([0.125, 0.375, 0.625, 0.875])
    np.testing.assert_allclose(found.rate[:4, 0], 1 - ahead)
    np.testing.assert_allclose(found.rate[:4, 1], 0.5 * ahead)
    np.testing.assert_allclose(found.rate[4:6], [[0, 0.5]] * 2)
    np.testing.assert_allclose(found.rate[6:], [[0.1875, 0.1875]] * 2)
    assert not found.excess.any()
    assert not found.newcomers.any()


def test_a_rush_lands_on_its_surface() -> None:
    found = schedule_of(
        stretch(2, {"A": 3, "B": 1}, 100),
        stretch(2, {"A": 3, "B": 1}, 100, **rush("B", 0.5, "newcomers")),
        stretch(2, {"A": 3, "B": 1}, 100, **rush("A", 0.2, "hot_items")),
        stretch(2, {"A": 3, "B": 1}, 100, **rush("A", 0.2, "regular")),
    )
    np.testing.assert_allclose(found.rate.sum(axis=1), 1.0)  # the capacity is that of all
    np.testing.assert_allclose(
        found.rate[::2], [[0.75, 0.25], [0.375, 0.625], [0.8, 0.2], [0.8, 0.2]]
    )
    np.testing.assert_allclose(found.excess[::2], [[0, 0], [0, 0.8], [0.25, 0], [0.25, 0]])
    assert found.newcomers[::2].tolist() == [0, 1, 0, 0]
    assert found.hot_items[::2].tolist() == [0, 0, 1, 0]


def test_a_ramp_into_a_rush_lets_it_swell() -> None:
    found = schedule_of(
        stretch(4, {"A": 1}, 100, ramp_s=4),
        stretch(4, {"A": 1}, 100, **rush("A", 0.5, "newcomers")),
    )
    np.testing.assert_allclose(found.excess[:4, 0], 0.5 * np.array([0.125, 0.375, 0.625, 0.875]))
    assert found.newcomers[:4].tolist() == [1, 1, 1, 1], "whoever is in excess is a newcomer"


def test_who_comes_in_a_rush() -> None:
    regime = {
        "kind": "course",
        "stretches": [
            stretch(10, {"A": 1, "B": 1}, 100, **rush("B", 0.5, "newcomers")),
            stretch(10, {"A": 1, "B": 1}, 100, **rush("A", 0.5, "hot_items")),
        ],
    }
    simulator = started(small_scenario(**{"workload.regime": regime, "workload.users": 500}), 1)
    source, users = simulator.lowered.params.source, simulator.lowered.users
    state = simulator.states[0].arrivals

    def drawn(time: float, surface: int) -> np.ndarray:
        draw = arrivals.draw_user
        return np.array([draw(state, users, source, time, surface) for _ in range(4000)])

    def within(part: np.ndarray, expected: float) -> None:
        error = max(part.std() / np.sqrt(part.size), 1e-9)
        assert abs(part.mean() - expected) < STANDARD_ERRORS * error

    assert (drawn(5.0, 0)[:, 0] < 500).all(), "the rush is on the other surface"
    within((drawn(5.0, 1)[:, 0] >= 500).astype(float), 2 / 3)
    hot = drawn(15.0, 0)
    assert (hot[:, 0] < 500).all()
    within((hot[:, 1] == source.burst_group).astype(float), 2 / 3)
    assert (drawn(15.0, 1)[:, 1] < source.burst_group).all()


def test_kept_histories_begin_every_session_as_drawn() -> None:
    def mean_tokens(histories: str) -> np.ndarray:
        regime = {
            "kind": "course",
            "histories": histories,
            "stretches": [stretch(5, {"A": 1}, 150)],
        }
        simulator = started(small_scenario(**{"workload.regime": regime}), 1)
        shares = np.full((1, simulator.scenario.nodes), 0.5)
        total = np.array([simulator.step(shares).total[0] for _ in range(400)])
        arrived = total[:, Node.ARRIVED].reshape(4, 100).sum(axis=1)
        return total[:, Node.HISTORY_TOKENS].reshape(4, 100).sum(axis=1) / arrived

    kept, grown = mean_tokens("kept"), mean_tokens("grow")
    assert grown[-1] > 1.02 * grown[0], "the test would see growth"
    assert np.ptp(kept) < 0.02 * kept[0]


def test_nobody_beyond_the_regular_users_without_a_rush() -> None:
    calm = small_scenario(
        **{"workload.regime": {"kind": "course", "stretches": [stretch(5, {"A": 1}, 150)]}}
    )
    assert lowering.lower(calm).users.size == calm.workload.users.value


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (rush("C", 0.5, "regular"), "C"),
        (rush("A", 1.0, "regular"), "part"),
        (rush("A", 0.5, "strangers"), "who"),
        ({"ramp_s": -1.0}, "ramp_s"),
    ],
)
def test_what_cannot_be_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        schedule_of(stretch(5, {"A": 1}, 150, **change))
