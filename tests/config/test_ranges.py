"""Every number of a scenario has a physical range, and what lies outside is refused by name."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

import pytest

from helm_gym.config.quantity import Quantity
from helm_gym.config.scenario import Scenario
from helm_gym.errors import ConfigError
from helm_gym.sim.lowering import lower

ROUTER = {"name": "helm_score", "kv_weight": 0.2, "emb_weight": 0.3, "load_weight": 0.5}
GAP = {"log_mean": 0.5, "log_sigma": 1.0, "cut_s": 1800}
SURFACE = {"name": "A", "candidates": 512, "gap_scale": 1.0, "gap": GAP}
SURFACE["session_length"] = {"log_mean": 1.0, "log_sigma": 0.5}
REGIMES: dict[str, dict[str, Any]] = {
    "phases": {
        "kind": "phases",
        "phases": [{"duration_s": 30.0, "mix": {"A": 1.0}, "capacity_rps_per_node": 100.0}],
    },
    "trend": {"kind": "trend", "mix_end": {"A": 1.0}, "drift_half_life_s": 100.0},
    "burst": {"kind": "burst", "amplitude": 2.0},
    "steady": {"kind": "steady"},
}
FINITE = (1e25, -1e25)
NOT_FINITE = (math.nan, math.inf, -math.inf)


def full(regime: str) -> dict[str, Any]:
    """A scenario of a regime with every number written out."""
    given = Scenario.load("feasibility").to_dict()
    given["router"] |= ROUTER
    given["router"]["staleness_ms"] = 10.0
    given["refill"] = {"mode": "paced"}
    given["episode"]["max_step"] = 0.1
    given["workload"] |= {"surfaces": [SURFACE], "mix": {"A": 1.0}, "regime": REGIMES[regime]}
    if regime == "steady":
        replay = {"path": "log.csv", "compression": 2.0, "overlay": 2}
        given["workload"]["replay"] = replay
    return Scenario.load(given).to_dict()


def leaves(data: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Paths of all numbers below ``data``."""
    if isinstance(data, dict):
        for key, value in data.items():
            yield from leaves(value, (*path, key))
    elif isinstance(data, list):
        for index, value in enumerate(data):
            yield from leaves(value, (*path, index))
    elif isinstance(data, (int, float)) and not isinstance(data, bool):
        yield path


def put(data: Any, path: tuple[str | int, ...], value: float) -> dict[str, Any]:
    changed = copy.deepcopy(data)
    node = changed
    for part in path[:-1]:
        node = node[part]
    node[path[-1]] = value
    if path[-1] == "value":  # no sweep range that would refuse it first
        node |= {"low": None, "high": None}
    result: dict[str, Any] = changed
    return result


@pytest.mark.parametrize("regime", REGIMES)
def test_no_number_may_lie_outside_its_range(regime: str) -> None:
    data = full(regime)
    paths = list(leaves(data))
    assert len(paths) > 150
    accepted = []
    for path in paths:
        for value in (*FINITE, *NOT_FINITE):
            try:
                Scenario.load(put(data, path, value))
            except ConfigError as error:
                named = ".".join(str(part) for part in path if part != "value")
                leaf = [part for part in named.split(".") if part not in ("low", "high")][-1]
                assert leaf in str(error)
            else:
                accepted.append((".".join(map(str, path)), value))
    assert accepted == []


def test_the_error_names_key_value_and_range() -> None:
    data = full("burst")
    changed = put(data, ("hardware", "gpu", "gemm", "launch_us", "value"), 1e25)
    with pytest.raises(
        ConfigError, match=r"gemm\.launch_us: must lie in \[1e-30, 1e\+06\], got 1e"
    ):
        Scenario.load(changed)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("workload.load", 1e6, "less than or equal to 100"),
        ("workload.load", 1e-12, "greater than or equal to 0.000000001"),
        ("workload.replay", {"path": "x.csv", "overlay": 10**9}, "overlay: .*10000"),
        ("workload.regime", {"kind": "trend", "speedup": 1e-12}, "speedup: .*0.01"),
        ("workload.regime", {"kind": "burst", "amplitude": 2, "on_s": [5, 1]}, "on_s: .*shorter"),
        ("workload.regime", {"kind": "burst", "amplitude": 2, "on_s": [-1, 1]}, "on_s.0: .*to 0"),
        (
            "workload.regime",
            {"kind": "phases", "phases": [{"duration_s": 1e-9, "mix": {"A": 1}}]},
            "duration_s: .*equal to 1",
        ),
        (
            "workload.regime",
            {"kind": "burst", "amplitude": 2, "cycles": 10_000, "on_s": [1, 1e5]},
            "at most 1e.07 s",
        ),
        ("workload.profile.popularity.interest_groups", 0.5, "interest_groups: .*whole number"),
        ("workload.profile.popularity.shift_items", -1, "shift_items: .*lie in"),
        ("workload.profile.activity_sigma", -1, "activity_sigma: .*lie in"),
        ("workload.profile.hourly", [-1.0] * 24, "hourly.0: .*lie in"),
        ("workload.profile.gap", {"log_mean": 20, "log_sigma": 1e-3, "cut_s": 1}, "no gap of"),
        ("router.staleness_ms", 1e-9, "0 .live signals. or at least 0.1"),
        ("emb.table_gb", "1e25", "table_gb: must lie in"),
    ],
)
def test_numbers_that_once_crashed_are_refused_by_name(path: str, value: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Scenario.load("feasibility").replace({path: value})


def test_integers_beyond_all_bounds_are_refused_too() -> None:
    with pytest.raises(ConfigError, match=r"nodes: .*too long to show"):
        Scenario.load("feasibility").replace({"nodes": 10**5000})
    with pytest.raises(ConfigError, match=r"table_gb: is no number"):
        Scenario.load("feasibility").replace({"emb": {"table_gb": 10**400}})


def test_a_sweep_range_lies_inside_the_physical_one() -> None:
    wild = Quantity(value=60.0, low=1.0, high=1e30)
    with pytest.raises(ConfigError, match=r"heat_half_life_s: must lie in .*1e.30"):
        Scenario.load("feasibility").replace({"emb.heat_half_life_s": wild.model_dump()})


def test_a_scenario_that_no_memory_holds_is_refused() -> None:
    huge = {"nodes": 1024, "workload.load": 100, "workload.capacity_rps_per_node": 1e6}
    with pytest.raises(ConfigError, match=r"needs .* GB of memory, and 64 GB is the limit"):
        lower(Scenario.load("feasibility").replace(huge))
    weights = {"emb.shards": 65536, "workload.profile.popularity.interest_groups": 4096}
    with pytest.raises(ConfigError, match=r"interest_groups 4096 times emb.shards 65536"):
        lower(Scenario.load("feasibility").replace(weights))


def test_a_trend_through_hours_without_requests_is_refused() -> None:
    night = {"workload.profile.hourly": [0.0] * 12 + [1.0] * 12}
    regime = {"workload.regime": {"kind": "trend", "start_hour": 1.0, "span_hours": 4.0}}
    with pytest.raises(ConfigError, match=r"hourly rates are 0 for 4 h from 1 h on"):
        lower(Scenario.load("feasibility").replace({**night, **regime}))
