"""Scenarios: what is refused and how, what survives a round trip, and where numbers come from."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from small import REGIMES, SMALL, small_scenario

from helm_gym.config.quantity import Frozen, Quantity, load_preset, walk
from helm_gym.config.routers import ROUTERS
from helm_gym.config.scenario import SCENARIOS, Scenario
from helm_gym.config.workload import PROFILES, Profile
from helm_gym.errors import ConfigError, HelmGymError
from helm_gym.hardware import presets
from helm_gym.sim.lowering import lower

SHIPPED: dict[str, tuple[type[Frozen], Path]] = {
    "gpu": (presets.Gpu, presets.FOLDER / "gpus"),
    "host": (presets.Host, presets.FOLDER / "hosts"),
    "model": (presets.ModelSpec, presets.FOLDER / "models"),
    "profile": (Profile, PROFILES),
    "scenario": (Scenario, SCENARIOS),
}
PRESETS = [
    pytest.param(kind, path.stem, id=f"{kind}-{path.stem}")
    for kind, (_, folder) in SHIPPED.items()
    for path in sorted(folder.glob("*.yaml"))
]


def small_dict() -> dict[str, Any]:
    return copy.deepcopy(SMALL)


def put(data: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """Set a value deep inside a mapping of settings."""
    *parents, last = path.split(".")
    node: Any = data
    for part in parents:
        node = node[int(part)] if isinstance(node, list) else node.setdefault(part, {})
    node[last] = value
    return data


# -- refusals ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("nodse", "nodes"),
        ("memory.pool_gbs", "pool_gb"),
        ("emb.table_gib", "table_gb"),
        ("kv.block_token", "block_tokens"),
        ("refill.mod", "mode"),
        ("router.affinity_bonos", "affinity_bonus"),
        ("slo.p99", "p99_ms"),
        ("episode.warm_up_s", "warmup_s"),
        ("workload.user", "users"),
        ("workload.surfaces.0.candidate", "candidates"),
        ("workload.surfaces.1.gap.cut", "cut_s"),
        ("workload.surfaces.1.session_length.log_sigmas", "log_sigma"),
        ("workload.profile.histroy", "history"),
        ("workload.profile.popularity.exponents", "exponent"),
        ("workload.profile.gap.log_maen", "log_mean"),
        ("workload.regime.amplitud", "amplitude"),
        ("workload.replay.compresion", "compression"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_name(path: str, hint: str) -> None:
    data = small_dict()
    data["workload"]["regime"] = copy.deepcopy(REGIMES["burst"])
    if "replay" in path:
        data["workload"]["replay"] = {"path": "log.csv"}
    with pytest.raises(ConfigError) as caught:
        Scenario.load(put(data, path, 1))
    message = str(caught.value)
    assert path.split(".")[-1] in message
    assert "unknown key" in message
    assert f"did you mean {hint!r}" in message


def test_an_unknown_key_of_a_phase_is_refused_with_the_nearest_name() -> None:
    data = small_dict()
    data["workload"]["regime"] = copy.deepcopy(REGIMES["phases"])
    data["workload"]["regime"]["phases"][1]["durations"] = 3
    with pytest.raises(ConfigError, match=r"phases\.1\.durations: unknown key.*'duration_s'"):
        Scenario.load(data)


def test_an_unknown_key_of_inline_hardware_is_refused_with_the_nearest_name() -> None:
    scenario = small_scenario()
    for part, key, hint in (("gpu", "gemm_", "gemm"), ("host", "miss_gbp", "miss_gbps")):
        data = scenario.to_dict()
        data["hardware"][part][key] = 1
        with pytest.raises(ConfigError, match=f"{key}: unknown key; did you mean '{hint}'"):
            Scenario.load(data)


def test_an_unknown_key_of_a_quantity_is_refused_with_the_nearest_name() -> None:
    data = put(small_dict(), "slo.p99_ms", {"value": 30, "sources": "a guess"})
    with pytest.raises(ConfigError, match="sources: unknown key; did you mean 'source'"):
        Scenario.load(data)


@pytest.mark.parametrize(
    ("path", "name", "hint"),
    [
        ("hardware.gpu", "a100-80", "a100-80gb"),
        ("hardware.host", "shared_link", "shared-link"),
        ("hardware.model", "hstu-5x521", "hstu-5x512"),
        ("workload.profile", "taobo", "taobao"),
        ("router.name", "least_load", "least_loaded"),
    ],
)
def test_an_unknown_preset_is_refused_with_the_nearest_name(
    path: str, name: str, hint: str
) -> None:
    with pytest.raises(ConfigError, match=f"{name}.*did you mean '{hint}'"):
        Scenario.load(put(small_dict(), path, name))


def test_an_unknown_scenario_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="did you mean 'feasibility'"):
        Scenario.load("feasability")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("nodes", 0, "greater than 0"),
        ("nodes", "many", "nodes"),
        ("emb.policy", "lfu", "lru"),
        ("refill.mode", "polite", "throttled"),
        ("memory.pool_gb", -1, "greater than 0"),
        ("memory.pool_gb", math.nan, "got nan"),
        ("slo.p99_ms", math.inf, "finite"),
        ("workload.load", math.inf, "finite"),
        ("workload.mix", {"A": 1, "C": 1}, "unknown surface 'C'; known: A, B"),
        ("workload.mix", {"A": 0, "B": 0}, "positive sum"),
        ("workload.mix", {"A": -1, "B": 2}, "mix.A: .*equal to 0"),
        ("workload.surfaces", [], "at least 1 item"),
        ("workload.regime", {"kind": "storm"}, "steady"),
        ("workload.profile.popularity.own_interest_share", 1.5, r"\[0, 1\]"),
        ("workload.profile.hourly", [1.0] * 23, "24 items"),
        ("workload.profile.history.shortest", 20000, "max_history"),
        ("episode.initial_share", 0.95, "share_min <= initial_share <= share_max"),
        ("slo.p99_ms", {"value": 30, "low": 40, "high": 50}, "outside its own range"),
    ],
)
def test_a_value_that_cannot_work_is_refused(path: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Scenario.load(put(small_dict(), path, value))


def test_two_surfaces_of_one_name_are_refused() -> None:
    data = put(small_dict(), "workload.surfaces.1.name", "A")
    with pytest.raises(ConfigError, match="two surfaces share a name"):
        Scenario.load(data)


def test_every_mistake_is_named_at_once() -> None:
    data = put(put(small_dict(), "nodse", 3), "slo.p99_ms", -1)
    with pytest.raises(ConfigError) as caught:
        Scenario.load(data)
    assert "nodse" in str(caught.value) and "slo.p99_ms" in str(caught.value)


def test_memory_that_does_not_fit_is_refused_with_the_sum() -> None:
    with pytest.raises(ConfigError) as caught:
        small_scenario(**{"memory.pool_gb": 60.5})
    message = str(caught.value)
    for term in ("weights_gb 2", "workspace_gb 12", "reserve_gb 6", "pool_gb 60.5"):
        assert term in message
    assert "80.5 GB does not fit the 80 GB GPU" in message
    assert small_scenario(**{"memory.pool_gb": 60}).memory.total_gb == 80


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    missing, broken, empty = (tmp_path / f"{name}.yaml" for name in ("missing", "broken", "empty"))
    broken.write_text("nodes: [1,\n")
    empty.write_text("")
    for path, message in ((missing, "cannot be read"), (broken, "YAML"), (empty, "mapping")):
        with pytest.raises(ConfigError, match=message) as caught:
            Scenario.load(str(path))
        assert path.name in str(caught.value)


def test_a_scenario_does_not_change() -> None:
    scenario = small_scenario()
    with pytest.raises(ValidationError):
        scenario.nodes = 4  # type: ignore[misc]
    with pytest.raises(ValidationError):
        scenario.workload.load = 4.0  # type: ignore[misc]


def test_config_errors_are_value_errors_of_this_library() -> None:
    assert issubclass(ConfigError, HelmGymError)
    assert issubclass(ConfigError, ValueError)


# -- round trips ---------------------------------------------------------------------------------
def scenarios() -> Iterator[Scenario]:
    yield from (Scenario.load(name) for name in Scenario.names())
    for regime in REGIMES.values():
        yield small_scenario(**{"workload.regime": regime})


def test_dict_round_trip() -> None:
    for scenario in scenarios():
        again = Scenario.load(scenario.to_dict())
        assert again == scenario
        assert again.digest() == scenario.digest()


def test_yaml_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "scenario.yaml"
    for scenario in scenarios():
        path.write_text(scenario.to_yaml(), encoding="utf-8")
        again = Scenario.load(str(path))
        assert again == scenario
        assert again.digest() == scenario.digest()


def test_loading_a_scenario_returns_it() -> None:
    scenario = small_scenario()
    assert Scenario.load(scenario) is scenario


def test_the_digest_follows_every_value() -> None:
    scenario = small_scenario()
    changes: list[dict[str, Any]] = [
        {"nodes": 4},
        {"workload.load": 1.0000001},
        {"emb.shards": 47},
        {"structure_seed": 1},
        {"workload.surfaces.1.candidates": 1025},
        {"workload.profile.popularity.exponent": 0.91},
        {"slo.p99_ms": {"value": 30, "source": "another"}},
        {"description": "words count too"},
    ]
    digests = {scenario.replace(change).digest() for change in changes}
    assert len(digests | {scenario.digest()}) == len(changes) + 1
    assert small_scenario().digest() == scenario.digest()
    assert len(scenario.digest()) == 16


def test_replace_reaches_every_level() -> None:
    scenario = Scenario.load("feasibility")
    changed = scenario.replace(
        {
            "nodes": 2,
            "workload.load": 0.5,
            "workload.surfaces.0.candidates": 100,
            "workload.profile.popularity.exponent": 0.7,
            "hardware.host": "dedicated-link",
            "router.name": "helm_score",
            "workload.regime": REGIMES["trend"],
        }
    )
    assert changed.nodes == 2
    assert changed.workload.load == 0.5
    assert changed.workload.surfaces[0].candidates.value == 100
    assert changed.workload.profile.popularity.exponent.value == 0.7
    assert changed.hardware.host.name == "dedicated-link"
    assert changed.router.name == "helm_score"
    assert changed.workload.regime.kind == "trend"
    assert scenario == Scenario.load("feasibility"), "the original stays"


def test_replace_keeps_where_a_number_comes_from() -> None:
    before = Scenario.load("feasibility").memory.weights_gb
    after = Scenario.load("feasibility").replace({"memory.weights_gb": 1.5}).memory.weights_gb
    assert (after.value, after.unit, after.assumed) == (1.5, before.unit, before.assumed)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("workload.laod", "did you mean 'load'"),
        ("wrkload.load", "did you mean 'workload'"),
        ("workload.surfaces.7.candidates", "there are 2, counted from 0"),
        ("workload.surfaces.7", "there are 2, counted from 0"),
        ("workload.surfaces.first", "there are 2, counted from 0"),
        ("nodes.count", "no settings below it"),
    ],
)
def test_replace_refuses_paths_that_lead_nowhere(path: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        small_scenario().replace({path: 1})


# -- what is shipped -----------------------------------------------------------------------------
def load_shipped(kind: str, name: str) -> Frozen:
    cls, folder = SHIPPED[kind]
    return load_preset(cls, name, folder, kind)


@pytest.mark.parametrize(("kind", "name"), PRESETS)
def test_shipped_files_load_and_are_named_as_they_say(kind: str, name: str) -> None:
    assert getattr(load_shipped(kind, name), "name", None) == name


def test_everything_the_issue_names_is_shipped() -> None:
    shipped = {(param.values[0], param.values[1]) for param in PRESETS}
    assert {
        ("model", "hstu-5x512"),
        ("model", "hstu-8x1024"),
        ("host", "dedicated-link"),
        ("host", "shared-link"),
        ("host", "cpu-lookup"),
        ("profile", "taobao"),
        ("profile", "amazon-books"),
        ("profile", "amazon-video-games"),
    } <= shipped
    assert Scenario.names(), "a scenario to start with"


@pytest.mark.parametrize(("kind", "name"), PRESETS)
def test_every_number_has_a_source_and_assumed_ones_say_so(kind: str, name: str) -> None:
    unsourced = Quantity(value=1.0).source
    for path, quantity in walk(load_shipped(kind, name)):
        if path.startswith("hourly") or ".hourly" in path:
            continue  # one table of 24 numbers, with its source in a comment above it
        if path.endswith("gap_scale") and quantity.value == 1.0:
            continue  # no scaling at all
        assert quantity.source.strip() not in ("", unsourced), f"{path} has no source"
        says_so = re.search("assum|inferred", quantity.source.lower()) is not None
        assert quantity.assumed == says_so, f"{path}: flag and source disagree: {quantity.source}"


@pytest.mark.parametrize("name", [p.stem for p in sorted(PROFILES.glob("*.yaml"))])
def test_hourly_tables_say_where_they_come_from(name: str) -> None:
    text = (PROFILES / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    (row,) = (i for i, line in enumerate(text) if line.startswith("hourly"))
    assert text[row - 1].startswith("#") and len(text[row - 1]) > 30
    hourly = [q.value for q in load_shipped("profile", name).hourly]  # type: ignore[attr-defined]
    assert sum(hourly) / 24 == pytest.approx(1.0, abs=0.01), "relative to its mean"


@pytest.mark.parametrize("name", Scenario.names())
def test_shipped_scenarios_can_be_simulated(name: str) -> None:
    scenario = Scenario.load(name)
    assert scenario.assumptions(), "no scenario is free of assumptions"
    lowered = lower(scenario)
    assert lowered.sizes.nodes == scenario.nodes
    assert scenario.router.name in ROUTERS


def test_assumptions_are_listed_with_their_paths() -> None:
    scenario = small_scenario(
        **{"slo.p99_ms": {"value": 30, "assumed": True, "source": "assumed: a guess"}}
    )
    listed = dict(scenario.assumptions())
    assert listed["slo.p99_ms"].source == "assumed: a guess"
    assert "slo.deadline_ms" not in listed


DEFAULTS = (
    "emb.heat_half_life_s",
    "emb.swap_hysteresis",
    "emb.swaps_per_tick",
    "emb.tick_s",
    "kv.block_tokens",
    "router.affinity_bonus",
    "workload.users",
    "workload.session_start_cv",
    "workload.regime.new_user_share",
    "workload.regime.hot_item_share",
    "workload.regime.hot_shards",
    "workload.regime.hot_focus",
    "workload.regime.newcomers",
    "episode.hot_user_s",
)


@pytest.mark.parametrize("path", DEFAULTS)
def test_an_assumed_setting_is_listed_with_its_range_until_it_is_set(path: str) -> None:
    data = Scenario.load("taobao-burst").to_dict()
    group, last = data, path.split(".")[-1]
    for part in path.split(".")[:-1]:
        group = group[part]
    del group[last]
    default = dict(Scenario.load(data).assumptions())[path]
    assert default.low is not None and default.high is not None
    assert default.low < default.high
    group[last] = default.high  # a bare number, as in YAML
    changed = Scenario.load(data)
    assert path not in dict(changed.assumptions())
    assert dict(walk(changed))[path].value == default.high
    assert changed.digest() != Scenario.load("taobao-burst").digest()
    assert dict(walk(Scenario.load("taobao-burst").replace({path: default.low})))[path].low is None


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("emb.swaps_per_tick", 2.5, "whole number"),
        ("emb.swaps_per_tick", -1, r"lie in \[0, 1e\+08\]"),
        ("kv.block_tokens", 0, r"lie in \[1, "),
        ("kv.block_tokens", 64.5, "whole number"),
        ("workload.users", 0, r"lie in \[1, "),
        ("workload.users", True, "users"),
        ("emb.swap_hysteresis", 0.9, r"lie in \[1, "),
        ("emb.tick_s", 0, "greater than 0"),
        ("workload.session_start_cv", 0, "greater than 0"),
        ("workload.regime.hot_focus", 1.1, r"lie in \[0, 1\]"),
        ("workload.regime.hot_shards", 0.8, r"lie in \[0, 0\.75\]"),
        ("workload.regime.newcomers", 0, "greater than 0"),
    ],
)
def test_an_assumed_setting_keeps_its_bounds(path: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Scenario.load("taobao-burst").replace({path: value})


@pytest.mark.parametrize(("kind", "name"), PRESETS)
def test_shipped_files_use_no_key_twice(kind: str, name: str) -> None:
    """YAML keeps the last of two equal keys in silence."""
    path = SHIPPED[kind][1] / f"{name}.yaml"
    node = yaml.compose(path.read_text(encoding="utf-8"))
    pending = [node]
    while pending:
        node = pending.pop()
        if isinstance(node, yaml.MappingNode):
            keys = [key.value for key, _ in node.value]
            assert len(keys) == len(set(keys)), f"{path.name}: {keys}"
            pending += [value for _, value in node.value]
        elif isinstance(node, yaml.SequenceNode):
            pending += node.value


def test_a_refill_mode_brings_its_own_assumptions_and_leaves_the_others_alone() -> None:
    throttled = small_scenario()
    assert not any(path.startswith("refill.") for path, _ in throttled.assumptions())
    paced = throttled.replace({"refill.mode": "paced"})
    listed = {path for path, _ in paced.assumptions() if path.startswith("refill.")}
    assert listed == {"refill.floor", "refill.patience_s", "refill.rush", "refill.chunk_mb"}
    assert Scenario.load(paced.to_dict()).digest() == paced.digest() != throttled.digest()
    other = throttled.replace({"refill.mode": "paced", "refill.floor": 0.3})
    assert other.refill.floor is not None and other.refill.floor.value == 0.3
    assert len({paced.digest(), other.digest(), throttled.digest()}) == 3
    with pytest.raises(ConfigError, match=r"refill.floor: must lie in \[0, 1\]"):
        throttled.replace({"refill.mode": "paced", "refill.floor": 1.3})
