"""What makes the search fast changes no result, or loses little: bounds, held decisions, tries."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from small import REGIMES, small_scenario

from helm_gym.config.scenario import Scenario
from helm_gym.errors import ConfigError
from helm_gym.hindsight import search as room
from helm_gym.hindsight.branches import Branches, Plan, Slot, Stand
from helm_gym.hindsight.dp import Arrival, Way, approach, choose, solve
from helm_gym.hindsight.objective import Objective
from helm_gym.hindsight.search import FAST, FULL, Search, hindsight
from helm_gym.sim.layout import view

SEED = 20_000
GRID = [0.2, 0.4, 0.6, 0.8]
LIKE_FAST = FAST.model_copy(
    update={
        "step": 0.1, "static_step": 0.2, "coarse_step": 0.4, "longest_move": 0.2, "radius": 0.2,
    }
)  # fmt: skip


@pytest.fixture(scope="module")
def phases() -> Scenario:
    """Surfaces in turn, so that the best share changes; one window is 0.4 s, a phase 1 s."""
    return small_scenario(**{"workload.regime": REGIMES["phases"], "workload.load": 1.4})


def played(
    objective: Objective, *, width: int, tries: int | None = None
) -> tuple[Plan, float, Branches]:
    branches = Branches(objective, SEED)
    choices = [GRID] * objective.scenario.episode.steps
    plan, cost = solve(branches, objective, choices, longest_move=0.4, width=width, tries=tries)
    return plan, cost, branches


@pytest.mark.parametrize("width", [1, 2, 3])
def test_a_bound_saves_windows_and_changes_no_result(
    phases: Scenario, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = Objective("tail", phases, 12.0)
    plan, cost, bounded = played(objective, width=width)
    monkeypatch.setattr(Objective, "least", float("-inf"))  # as if nothing were known
    assert played(objective, width=width)[:2] == (plan, cost)
    assert bounded.steps < played(objective, width=width)[2].steps


def test_no_window_costs_less_than_the_least(phases: Scenario) -> None:
    objective = Objective("tail", phases, 12.0)
    windows = Branches(objective, SEED).follow(Plan(0.2, tuple(GRID * 2)))
    costs = [objective.of_window(window) for window in windows]
    assert min(costs) >= objective.least == 0.0
    assert max(costs) > 1.0, "some arrival must be slow"
    assert Objective("paper", phases).least == float("-inf")  # rewards have no known bound


def test_choosing_one_by_one_is_choosing_from_all() -> None:
    """States are given back as soon as they are beaten, so ways are chosen while they arrive."""
    rng = np.random.default_rng(0)
    stand = Stand(Slot(np.zeros(0, np.uint8), None), np.zeros((1, 1)))  # type: ignore[arg-type]
    for width in (1, 2, 3, 5):
        for _ in range(100):
            arrived = [
                Arrival(Way(float(cost), (0.5,), None), stand, float(rng.integers(4)))
                for cost in rng.permutation(12)
            ]
            kept: list[Arrival] = []
            for each in arrived:
                kept = choose([*kept, each])[:width]
            assert kept == choose(arrived)[:width]


def test_a_wide_lattice_of_held_decisions_is_brute_force(phases: Scenario) -> None:
    scenario = phases.replace({"episode.steps": 5})
    objective, lengths = Objective("mean_latency", scenario), (2, 2, 1)
    branches = Branches(objective, SEED)
    costs = {}
    for start, *targets in itertools.product(GRID, repeat=len(lengths) + 1):
        shares, at = [], start
        for target, windows in zip(targets, lengths, strict=True):
            if abs(target - at) > windows * 0.2 + 1e-9:
                break
            shares += approach(at, target, windows, 0.2)
            at = target
        if len(shares) == sum(lengths):
            plan = Plan(start, tuple(shares))
            costs[plan] = room.summed(objective, branches.follow(plan))
    plan, cost = solve(
        branches, objective, [GRID] * 3, longest_move=0.2, width=10_000, lengths=lengths
    )
    assert len(costs) > 50
    assert cost == costs[plan] == min(costs.values())


def test_a_share_is_approached_as_fast_as_moves_allow() -> None:
    assert approach(0.1, 0.22, 2, 0.06) == (0.16, 0.22)
    assert approach(0.5, 0.4, 3, 0.06) == (0.44, 0.4, 0.4)
    assert approach(0.3, 0.3, 2, 0.06) == (0.3, 0.3)


def test_fewer_tries_save_windows(phases: Scenario) -> None:
    objective = Objective("tail", phases, 12.0)
    _, best, all_ways = played(objective, width=2)
    _, cost, few = played(objective, width=2, tries=2)
    assert few.steps < all_ways.steps
    assert cost >= best


def test_states_are_given_back_and_starts_stay_as_they_are(phases: Scenario) -> None:
    objective = Objective("tail", phases, 12.0)
    plan, cost, branches = played(objective, width=2)
    held, steps = branches.most, branches.steps
    choices = [GRID] * phases.episode.steps
    for _ in range(3):
        again = solve(branches, objective, choices, longest_move=0.4, width=2)
        assert again == (plan, cost)
    assert branches.steps == 4 * steps
    assert branches.most == held <= len(GRID) * (1 + 2 * 2) + 1  # starts, before, after, in play


def test_a_state_of_ones_own_is_simulated_as_the_simulators(phases: Scenario) -> None:
    from helm_gym.sim.simulator import Simulator

    simulator = Simulator(phases)
    simulator.reset(0, np.arange(20, dtype=np.uint64)[: len(simulator.states[0].arrivals.rng)])
    own = simulator.snapshot()[0]
    state, shares = view(own, simulator.lowered.sizes), np.full(phases.nodes, 0.4)
    for _ in range(3):
        simulator.advance(state, shares)
        simulator.step(shares[None])
    np.testing.assert_array_equal(own, simulator.snapshot()[0])
    with pytest.raises(ConfigError, match="shape"):
        simulator.advance(state, shares[1:])


@pytest.mark.parametrize("name", ["tail", "mean_latency"])
def test_the_fast_search_finds_the_best_of_all_schedules_of_a_small_case(
    phases: Scenario, name: str
) -> None:
    scenario = phases.replace({"episode.steps": 4})
    found = hindsight(scenario, SEED, name, LIKE_FAST)
    objective = Objective(name, scenario)
    branches = Branches(objective, SEED)
    best = min(
        objective.of_windows(branches.follow(Plan(shares[0], shares[1:])))
        for shares in itertools.product(np.round(np.arange(0.1, 0.91, 0.1), 4).tolist(), repeat=5)
        if max(abs(np.diff(shares))) < 0.2 + 1e-9
    )
    assert found.best.cost - best <= 0.05 * (found.static.cost - best)


def test_the_fast_search_is_near_the_full_one_and_saves_windows(phases: Scenario) -> None:
    wide = Search(step=0.1, coarse_step=0.2, longest_move=0.2, radius=0.2)
    full, fast = (hindsight(phases, SEED, "tail", search) for search in (wide, LIKE_FAST))
    assert fast.static == full.static
    assert fast.best.cost - full.best.cost <= 0.05 * (full.static.cost - full.best.cost)
    assert fast.simulated < 0.6 * full.simulated


def test_the_fast_search_gives_the_same_result_again(phases: Scenario) -> None:
    assert hindsight(phases, SEED, "tail", LIKE_FAST) == hindsight(phases, SEED, "tail", LIKE_FAST)


def test_shares_that_are_good_lie_on_the_grid_of_what_is_held(phases: Scenario) -> None:
    found = hindsight(phases, SEED, "mean_latency", LIKE_FAST)
    assert len(found.grid) == 5
    for own, good in zip(found.schedule.shares, found.good, strict=True):
        assert set(good) <= {own, *found.grid}


def test_the_presets_can_leave_their_grids() -> None:
    for search in (FULL, FAST):
        assert search.coarse_step / search.hold <= search.longest_move + 1e-9
