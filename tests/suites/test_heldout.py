"""Held-out cells: they are those frozen, differ in one thing, and nothing may learn from them."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from helm_gym.benchmark.plan import make_plan, settings, shipped_cell
from helm_gym.config.scenario import SCENARIOS, Scenario
from helm_gym.config.workload import Course, Stretch
from helm_gym.errors import ConfigError
from helm_gym.suites import heldout, moving
from helm_gym.suites import splits as bench_splits
from helm_gym.suites.courses import EPISODE_S
from helm_gym.suites.heldout import ARRIVALS, CELL_NAMES, CELLS, KINDS
from helm_gym.suites.measuring import Alone, climbed
from helm_gym.suites.moving import DATASETS, LOADS, ROUTERS
from tests.real_data import trace


def stretches_of(scenario: Scenario) -> tuple[Stretch, ...]:
    assert isinstance(scenario.workload.regime, Course)
    return scenario.workload.regime.stretches


def cell(kind: str, router: str = ROUTERS[0], dataset: str = "taobao") -> Scenario:
    return Scenario.load(heldout.name_of(dataset, kind, router))


@pytest.mark.parametrize("parts", CELLS, ids=lambda parts: str(parts))
def test_a_cell_is_the_one_that_was_frozen(parts: tuple[str, str, str]) -> None:
    name = heldout.name_of(*parts)
    scenario = Scenario.load(name)
    drafted = Scenario.parse(heldout.draft(*parts), "suite")
    assert scenario.digest() == heldout.frozen()[name] == drafted.digest()
    assert scenario.router.name == parts[2]
    own, base = scenario.episode, moving.cell("taobao", "day").episode
    assert own == base
    assert own.steps * own.step_s == EPISODE_S + own.uncounted_s
    assert sum(s.duration_s for s in stretches_of(scenario)) == pytest.approx(EPISODE_S, abs=0.5)
    assert not scenario.extrapolations()


def test_the_files_are_what_the_table_gives(tmp_path: Path) -> None:
    written = heldout.freeze(tmp_path)
    assert {path.stem for path in written} == set(heldout.frozen())
    assert {p.stem for p in SCENARIOS.glob("heldout-*.yaml")} == set(heldout.frozen())
    for path in written:
        assert path.read_text() == (SCENARIOS / path.name).read_text()


@pytest.mark.parametrize("dataset", DATASETS)
def test_flips_go_from_one_end_to_the_other_at_once(dataset: str) -> None:
    found = stretches_of(cell("flips", dataset=dataset))
    assert [s.mix["feed"] for s in found] == [*moving.ends(dataset, ROUTERS[0])] * 5
    assert {(s.duration_s, s.ramp_s, s.load) for s in found} == {(150.0, 0.0, 1.0)}
    first = moving.carried()[f"{dataset} / {ROUTERS[0]} / feed 0.9"].rps_per_node
    assert found[0].capacity_rps_per_node is not None
    assert found[0].capacity_rps_per_node.value == first


@pytest.mark.parametrize("kind", [kind for kind, about in KINDS.items() if about.regime])
@pytest.mark.parametrize("router", ROUTERS)
def test_other_hardware_is_all_that_differs(kind: str, router: str) -> None:
    about = KINDS[kind]
    other, base = cell(kind, router), moving.cell("taobao", about.regime, router)
    assert (
        other.replace(
            {
                "workload": base.to_dict()["workload"],
                "name": base.name,
                "description": base.description,
                "nodes": base.nodes,
                "slo": base.to_dict()["slo"],
                "hardware": base.to_dict()["hardware"],
            }
        ).digest()
        == base.digest()
    )
    assert (other.nodes, other.hardware) != (base.nodes, base.hardware)
    pairs = list(zip(stretches_of(other), stretches_of(base), strict=True))
    for a, b in pairs:
        rates = {"capacity_rps_per_node"}
        assert a.model_dump(exclude=rates) == b.model_dump(exclude=rates)
    assert any(a.capacity_rps_per_node != b.capacity_rps_per_node for a, b in pairs)


def test_what_differs_was_measured_to_where_shares_carry_clearly_less() -> None:
    found = moving.carried(moving.HELD_OUT)
    assert set(found) == set(heldout.to_measure())
    for one in found.values():
        assert one.rps_per_node == max(one.by_share.values()) > 0.0
        tried = sorted(map(float, one.by_share))
        for edge, end in ((tried[0], moving.GRID[0]), (tried[-1], moving.GRID[-1])):
            assert edge == end or one.by_share[f"{edge:g}"] < 0.98 * one.rps_per_node


class Hill:
    """A probe whose capacity is known."""

    def __init__(self, top: float) -> None:
        self.top, self.tried = top, 0

    def capacities(self, shares: list[float], guess: float) -> dict[float, float]:
        self.tried += 1
        return {share: 100.0 - 100.0 * abs(share - self.top) for share in shares}


@pytest.mark.parametrize("top", [0.1, 0.4, 0.9])
@pytest.mark.parametrize("first", [0.2, 0.5])
def test_climbing_finds_the_top_in_fewer_shares(top: float, first: float) -> None:
    hill = Hill(top)
    found = climbed(hill, first)  # type: ignore[arg-type]
    assert max(found, key=lambda share: found[share]) == top
    assert list(found) == sorted(found)
    assert hill.tried <= len(moving.GRID)


@pytest.mark.parametrize("kind", ARRIVALS)
def test_a_real_rate_is_relative_and_says_where_it_is_from(kind: str) -> None:
    rates = heldout.rates(kind)
    assert max(rates) == 1.0 and min(rates) > 0.0
    assert all(rate == float(f"{rate:.3g}") for rate in rates)
    about = json.loads(heldout.RATES.read_text())[kind]
    assert all(about[key] for key in ("source", "licence", "part", "derived"))
    found = stretches_of(cell(kind))
    assert [s.load for s in found] == list(rates)
    assert all(s.ramp_s == s.duration_s == EPISODE_S / len(rates) for s in found)
    feeds = [s.mix["feed"] for s in found]
    first, last = moving.ends("taobao", ROUTERS[0])
    half = len(feeds) // 2
    assert feeds[0] == first and feeds[half] == last
    assert np.diff(feeds[: half + 1]) == pytest.approx((last - first) / half, abs=2e-4)


def test_capacities_of_a_drift_lie_between_those_measured() -> None:
    for stretch in stretches_of(cell("azure")):
        assert stretch.capacity_rps_per_node is not None
        rate, feed = stretch.capacity_rps_per_node.value, stretch.mix["feed"]
        around = [
            moving.carried()[f"taobao / {ROUTERS[0]} / feed {part:g}"].rps_per_node
            for part in (0.1, 0.3, 0.5, 0.7, 0.9)
            if abs(part - feed) <= 0.2
        ]
        assert min(around) - 0.1 <= rate <= max(around) + 0.1


def test_azures_rate_is_that_of_its_log() -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    log = parquet.read_table(trace("arr_azure_llm2023_conv.parquet"))["timestamp_us"].to_numpy()
    counts = np.histogram(log, len(heldout.rates("azure")))[0]
    assert heldout.rates("azure") == pytest.approx(counts / counts.max(), abs=5e-4)


def test_servegens_rate_is_that_of_its_first_day() -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    log = parquet.read_table(trace("arr_servegen_clients_10min.parquet"))
    model = np.array(log["model"].to_pylist())
    at, rate = log["timestamp"].to_numpy(), log["rate"].to_numpy()
    day = (model == "m-large") & (at < 86_400)
    sums = np.bincount((at[day] // 1800).astype(int), weights=rate[day])
    assert heldout.rates("servegen") == pytest.approx(sums / sums.max(), abs=5e-4)


def test_nothing_may_learn_from_them() -> None:
    bench_splits.check_splits()
    for name in map(str, heldout.frozen()):
        assert bench_splits.held_out(Scenario.load(name))
        with pytest.raises(ConfigError, match="which is for test"):
            bench_splits.check_training(name, [0])
    card = SimpleNamespace(scenario="mine", seed=0, scenario_digest=cell("flips").digest())
    planned = {s.scenario.digest(): s.cell for s in settings("heldout", loads=[moving.LOAD])}
    with pytest.raises(ConfigError, match="it is held out"):
        bench_splits.check_policy("ppo:x", SimpleNamespace(card=card), planned)


def test_a_changed_cell_is_refused() -> None:
    changed = cell("flips").replace({"nodes": 4})
    with pytest.raises(ConfigError, match="its suite was frozen with"):
        bench_splits.check_frozen({changed.name: changed})


def test_the_suite_of_them_is_cells_by_loads_by_routers() -> None:
    found = settings("heldout")
    assert found == settings(heldout.PREFIX)
    assert len(found) == len(CELL_NAMES) * len(LOADS) * len(ROUTERS)
    assert {one.suite for one in found} == {heldout.PREFIX}
    assert all(one.held_out and one.shipped for one in found)
    for one in found:
        frozen = shipped_cell(one.cell, one.router)
        assert frozen.name == moving.under(one.cell, one.router)
        assert frozen.router.name == one.router
        assert one.scenario == frozen.replace({"workload.load": one.load})


def test_nothing_is_tuned_on_them_together() -> None:
    assert len(make_plan("heldout", ["static:0.5"], loads=[1.05])) == len(CELL_NAMES) * 2
    with pytest.raises(ConfigError, match="all cells are held out"):
        make_plan("heldout", ["mpc:suite"])


@pytest.mark.parametrize("parts", [("taobao", "flip"), ("amazon-books", "link")])
def test_no_such_cell(parts: tuple[str, str]) -> None:
    with pytest.raises(ConfigError, match="suite heldout-v2"):
        heldout.draft(*parts)


def test_a_stretch_of_the_suite_changes_nothing() -> None:
    assert not Alone("taobao", ROUTERS[0], "feed 0.5").changes
