"""The guard takes the residual away where it is worse than the base, and only there."""

from __future__ import annotations

import numpy as np
import pytest

from helm_gym.agents.adapter.config import ResidualConfig
from helm_gym.agents.adapter.guard import Guard

NOISE = 0.01


def run(
    gain: float, windows: int = 360, seed: int = 0, load: float = 0.0, **settings: float
) -> tuple[Guard, list[float]]:
    """A stream whose reward is ``gain`` better with the whole residual than without."""
    guard = Guard(ResidualConfig(**settings))  # type: ignore[arg-type]
    rng = np.random.default_rng(seed)
    gates = []
    for window in range(windows):
        gates.append(guard.gate)
        level = 0.9 - load * (window > windows // 2)
        guard.follow(level + gain * guard.gate + NOISE * rng.standard_normal())
    return guard, gates


@pytest.mark.parametrize("seed", range(5))
def test_a_harmful_residual_is_switched_off_after_one_trial(seed: int) -> None:
    guard, gates = run(-0.2, windows=80, seed=seed)
    assert guard.trips == 1
    assert guard.trials == 1
    assert guard.resting
    assert gates[-1] == 0.0


def test_a_slightly_harmful_residual_takes_several_trials() -> None:
    guard, _ = run(-0.015, windows=720)
    assert guard.trips >= 1
    assert guard.trials > guard.trips


def test_a_good_residual_stays_and_is_tried_more_and_more_rarely() -> None:
    guard, gates = run(0.1)
    assert guard.trips == 0
    away = np.flatnonzero(np.diff((np.array(gates) < 1.0).astype(int)) > 0)
    assert len(away) >= 2
    assert np.diff(away).min() > away[0]


def test_false_alarms_are_rare_where_the_residual_does_nothing() -> None:
    trips = [run(0.0, seed=seed)[0].trips for seed in range(100)]
    assert sum(trips) <= 3


def test_load_that_hurts_both_begins_a_trial_and_trips_nothing() -> None:
    calm, _ = run(0.05, seed=1)
    guard, _ = run(0.05, seed=1, load=0.3)
    assert guard.trials > calm.trials
    assert guard.trips == 0


def test_it_comes_back_after_a_rest_that_doubles_with_every_trip() -> None:
    guard, gates = run(-0.2, windows=900, rest=30)
    assert guard.trips >= 3
    off = np.array(gates) == 0.0
    ends = np.flatnonzero(np.diff(np.r_[0, off.astype(int), 0]))
    rests = np.diff(ends)[::2]
    long = rests[rests >= 30]
    assert long[1] >= long[0] + 30
    assert max(gates[ends[1] :]) == 1.0


def test_switched_off_it_leaves_the_residual_alone() -> None:
    guard, gates = run(-0.2, guard=False)
    assert guard.trips == guard.trials == 0
    assert set(gates) == {1.0}


def test_the_gate_moves_by_ramps() -> None:
    _, gates = run(0.1)
    assert np.abs(np.diff(gates)).max() <= 0.25 + 1e-12
