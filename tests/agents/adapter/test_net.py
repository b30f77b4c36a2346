"""The residual network: zero at first, bounded, finite, and with a gradient that is one."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from helm_gym.agents.adapter.net import (
    ResidualWeights,
    forward,
    gradient,
    initial_weights,
    outputs,
    scratch_for,
    see,
)

NODES, INPUTS = 5, 12
BOUND = 0.2


def features(seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).uniform(0.0, 1.0, (NODES, INPUTS))


def trained(seed: int = 0, scale: float = 1.0) -> ResidualWeights:
    rng = np.random.default_rng(seed)
    start = initial_weights(INPUTS, seed)
    return ResidualWeights(*(scale * rng.normal(size=part.shape) for part in start))


def decide(
    weights: ResidualWeights,
    seen: NDArray[np.float64],
    gate: float = 1.0,
) -> NDArray[np.float64]:
    out = np.full(len(seen), 7.0)
    gates = np.full(len(seen), gate)
    forward(weights, BOUND, seen, gates, scratch_for(weights), out)
    return out


@pytest.mark.parametrize("seed", range(3))
def test_it_begins_at_exactly_zero(seed: int) -> None:
    assert np.array_equal(decide(initial_weights(INPUTS, seed), features(seed)), np.zeros(NODES))


def test_decisions_are_what_learning_thinks_they_are() -> None:
    weights = trained()
    found = decide(weights, features())
    assert np.ptp(found) > 0.0
    np.testing.assert_allclose(found, BOUND * outputs(weights, features()), rtol=0, atol=1e-15)


def test_the_gate_fades_the_residual_out() -> None:
    weights = trained(scale=0.1)
    plain = decide(weights, features())
    np.testing.assert_allclose(decide(weights, features(), gate=0.5), 0.5 * plain, atol=1e-16)
    assert np.array_equal(decide(weights, features(), gate=0.0), np.zeros(NODES))


def test_it_never_leaves_the_bound_and_is_zero_where_it_is_not_finite() -> None:
    assert np.abs(decide(trained(scale=1e6), features())).max() <= BOUND
    broken = features()
    broken[2, 3] = np.nan
    found = decide(trained(), broken)
    assert found[2] == 0.0
    assert np.isfinite(found).all()
    assert found[1] == decide(trained(), features())[1]


def test_the_gradient_is_the_slope_of_the_outputs() -> None:
    weights, seen = trained(scale=0.3), features()
    by_output = np.arange(1.0, NODES + 1.0)
    found = gradient(weights, seen, by_output)
    small = 1e-6
    for name, slope in found._asdict().items():
        for place in np.ndindex(slope.shape):
            moved = {sign: getattr(weights, name).copy() for sign in (1, -1)}
            for sign, part in moved.items():
                part[place] += sign * small
            ends = [
                float(by_output @ outputs(weights._replace(**{name: moved[sign]}), seen))
                for sign in (1, -1)
            ]
            assert (ends[0] - ends[1]) / (2 * small) == pytest.approx(slope[place], abs=1e-6)


def test_every_node_sees_itself_and_its_own_cluster() -> None:
    rows = np.random.default_rng(1).uniform(size=(2, NODES, 3))
    seen = see(rows)
    assert seen.shape == (2, NODES, 6)
    assert np.array_equal(seen[..., :3], rows)
    np.testing.assert_allclose(seen[1, 4, 3:], rows[1].mean(axis=0))
