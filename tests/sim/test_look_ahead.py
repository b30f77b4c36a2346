"""The scout that prefetches sessions: it sees those ahead, once, and touches nothing."""

from __future__ import annotations

import numpy as np
import pytest

from helm_gym.config.scenario import Scenario
from helm_gym.seeding import streams_from_seed
from helm_gym.sim.arrivals import LOOK_AHEAD, look_ahead
from helm_gym.sim.layout import Arrivals, Count
from helm_gym.sim.simulator import Simulator


@pytest.fixture(scope="module")
def simulator() -> Simulator:
    """One cluster with some thousand sessions under way."""
    scenario = Scenario.load("paper-v2-taobao-steady").replace(
        {"nodes": 2, "workload.users": 20_000, "episode.warmup_s": 5}
    )
    simulator = Simulator(scenario)
    simulator.reset(0, streams_from_seed(0))
    return simulator


def chained(arrivals: Arrivals, bucket: int) -> list[int]:
    """Slots of one calendar bucket."""
    found, slot = [], arrivals.bucket[bucket & (arrivals.bucket.size - 1)]
    while slot >= 0:
        found.append(int(slot))
        slot = arrivals.sessions["next"][slot]
    return found


def test_it_visits_every_session_of_the_coming_buckets_once(simulator: Simulator) -> None:
    state = simulator.states[0]
    now = int(state.arrivals.tally[Count.BUCKET])
    expected = [s for b in range(1, LOOK_AHEAD + 1) for s in chained(state.arrivals, now + b)]
    assert expected, "no session in sight: the test shows nothing"
    before = simulator.snapshot()
    bucket, slot, visited = 0, -1, []
    for _ in range(len(expected) + 3):  # it waits at the end of what it may see
        bucket, slot = look_ahead(state.arrivals, state.users, bucket, slot)
        if slot >= 0:
            visited.append(slot)
    assert visited == expected
    assert (bucket, slot) == (now + LOOK_AHEAD, -1)
    assert np.array_equal(simulator.snapshot(), before)


def test_it_goes_on_from_the_open_bucket_if_that_has_overtaken_it(simulator: Simulator) -> None:
    state = simulator.states[0]
    now = int(state.arrivals.tally[Count.BUCKET])
    ahead = [look_ahead(state.arrivals, state.users, b, 0) for b in (0, now - 1, now)]
    assert len(set(ahead)) == 1
    assert now < ahead[0][0] <= now + LOOK_AHEAD
