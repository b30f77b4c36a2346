"""Indices that come from floating point stay inside their arrays, whatever the numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from helm_gym.config.scenario import Scenario
from helm_gym.errors import ConfigError
from helm_gym.seeding import Stream, streams_from_seed
from helm_gym.sim import boundary, emb_cache, layout, rng, window
from helm_gym.sim.simulator import Simulator

WILD = (math.inf, 1e300, 1e25, math.nan, -1.0, -math.inf, 0.0)


@pytest.fixture
def simulator(tiny: Scenario) -> Simulator:
    simulator = Simulator(tiny)
    simulator.reset(0, streams_from_seed(1))
    return simulator


@pytest.mark.parametrize("latency", WILD)
def test_a_request_that_ends_at_any_time_is_booked_once(
    simulator: Simulator, latency: float
) -> None:
    out = simulator.states[0].out
    before = int(out.pending.sum())
    outside = simulator.snapshot()
    window.admit(out, 5.0, latency, out.cluster[layout.Cluster.TIME_S] + latency, True)
    assert out.pending.sum() == before + 1
    simulator._reports[:] = outside[:, -simulator._reports.shape[1] :]
    assert (simulator.snapshot() == outside).all()  # nothing but the report was written


@pytest.mark.parametrize("share", [math.nan, -1.0, 2.0, 1e300, -1e300])
def test_any_share_leaves_a_cache_between_nothing_and_everything(
    simulator: Simulator, share: float
) -> None:
    state, params = simulator.states[0], simulator.lowered.params
    boundary.set_share(state, params, 1, share, 0.0)
    assert 0 <= state.emb.pages[1] <= state.emb.heat.shape[1]
    assert state.emb.pages[1] == state.emb.paged[1].sum()
    assert state.kv.capacity[1] >= 0
    assert 0 <= state.kv.used[1] <= state.kv.capacity[1]


def test_heat_that_is_no_number_gives_no_page_beside_the_table(simulator: Simulator) -> None:
    state, params = simulator.states[0], simulator.lowered.params
    state.emb.heat[1] = math.nan
    emb_cache.resize(state.emb, state.stages, params.cache, params.cost, 1, 64, 0.0)
    assert state.emb.pages[1] == state.emb.paged[1].sum()
    emb_cache.resize(state.emb, state.stages, params.cache, params.cost, 1, 0, 0.0)
    assert state.emb.pages[1] == state.emb.paged[1].sum()


def test_a_uniform_number_is_never_one() -> None:
    mask = (1 << 64) - 1
    value = mask  # mix64(state) of all ones; the bijection is undone step by step
    value ^= (value >> 31) ^ (value >> 62)
    value = value * pow(int(rng.MIX_2), -1, 1 << 64) & mask
    value ^= (value >> 27) ^ (value >> 54)
    value = value * pow(int(rng.MIX_1), -1, 1 << 64) & mask
    value ^= (value >> 30) ^ (value >> 60)
    streams = np.zeros(len(Stream), np.uint64)
    streams[Stream.USER] = np.uint64((value - int(rng.GOLDEN)) & mask)
    assert rng.uniform(streams, int(Stream.USER)) == 1.0 - 2.0**-53


@pytest.mark.parametrize(
    "shares",
    [np.full((1, 5), 0.5), np.full((1, 3), 0.5), np.full((2, 4), 0.5), np.full((1, 4), np.nan)],
    ids=["more-nodes", "fewer-nodes", "more-clusters", "nan"],
)
def test_shares_of_another_shape_never_reach_the_kernel(
    simulator: Simulator, shares: np.ndarray
) -> None:
    with pytest.raises(ConfigError, match=r"EMB shares are numbers from 0 to 1 in the shape"):
        simulator.step(shares)
    with pytest.raises(ConfigError, match="EMB shares are numbers"):
        simulator.record(shares[0], 0) if shares.shape == (1, 4) else simulator.record(shares, 0)
