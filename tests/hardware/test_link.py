"""The miss path: its forms, what shares the link, its fits and the shipped hosts."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
from real_data import BESIDE

from helm_gym.config.quantity import load_preset, walk
from helm_gym.config.scenario import Scenario
from helm_gym.errors import ConfigError
from helm_gym.fidelity.finding import Effort, Finding, Skipped
from helm_gym.fidelity.links import checks
from helm_gym.hardware import link
from helm_gym.hardware.presets import FOLDER, Host
from helm_gym.sim.lowering import lower_cost

HOSTS = sorted(path.stem for path in (FOLDER / "hosts").glob("*.yaml"))
SIZES = 2.0 ** np.arange(10, 31)


def host(name: str) -> Host:
    return load_preset(Host, name, FOLDER / "hosts", "host")


def copies(latency_us: float, gbps: float, size: np.ndarray = SIZES) -> dict[str, np.ndarray]:
    return {"bytes": size, "seconds": latency_us * 1e-6 + size / (gbps * 1e9)}


# -- forms ---------------------------------------------------------------------------------------
def test_a_copy_takes_its_latency_and_its_bytes() -> None:
    form = link.Transfer(latency_us=10, gbps=20)
    assert form.seconds([0, 20e6]) == pytest.approx([10e-6, 1010e-6])


def test_a_look_up_waits_for_the_slower_of_gather_and_copy() -> None:
    form = link.Lookup(latency_us=10, gbps=10, keys_per_s=1e6)
    assert form.seconds(1e6, 1) == pytest.approx(110e-6)
    assert form.seconds(1, 1000) == pytest.approx(1010e-6)


@pytest.mark.parametrize("name", HOSTS)
def test_the_simulator_times_misses_and_refill_by_these_forms(name: str, tiny: Scenario) -> None:
    scenario = tiny.replace({"hardware.host": name})
    cost, preset = lower_cost(scenario), scenario.hardware.host
    size, shard = 3e6, scenario.emb.shard_bytes
    keys = size / scenario.emb.bytes_per_key.value
    assert cost.link_latency + size * cost.link_byte == pytest.approx(
        float(link.miss_path(preset).seconds(size, keys))
    )
    assert shard / cost.refill_rate == pytest.approx(float(link.bulk_path(preset).seconds(shard)))


# -- sharing -------------------------------------------------------------------------------------
def test_contention_scales_the_bandwidth_and_says_whether_it_was_measured() -> None:
    alone = link.Transfer(latency_us=10, gbps=25.5)
    beside = link.beside(alone, link.REPORTED.h2d_beside_d2h)
    assert 11 <= beside.gbps.value <= 13, "what users reported"
    assert not beside.gbps.assumed
    assert link.beside(alone, link.REPORTED.misses_and_refill).gbps.assumed


def test_reported_factors_hold_what_was_reported() -> None:
    for factor, low, high in (("h2d_beside_d2h", 11, 13), ("d2h_beside_h2d", 24, 25)):
        found = getattr(link.REPORTED, factor)
        assert found.low == pytest.approx(low / 25.5, abs=0.01)
        assert found.high == pytest.approx(high / 25.5, abs=0.01)
    assert link.REPORTED.all_gpus.value * 25.5 == pytest.approx(5.5, abs=0.2)


def test_contention_is_read_from_the_largest_copy_of_both() -> None:
    alone, busy = copies(10, 24), copies(40, 12, SIZES[:-2])
    assert link.contention_of(alone, busy) == pytest.approx(0.5, rel=0.01)
    with pytest.raises(ConfigError, match="same sizes"):
        link.contention_of(copies(10, 24, SIZES[:3]), copies(10, 12, SIZES[5:]))


# -- fits ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(("latency", "gbps"), [(16.4, 25.5), (121.0, 3.0), (0.5, 400.0)])
def test_a_fit_gives_back_what_the_copies_were_made_from(latency: float, gbps: float) -> None:
    form = link.fit_link(copies(latency, gbps))
    assert (form.latency_us.value, form.gbps.value) == pytest.approx((latency, gbps), rel=1e-4)
    assert not form.outside(SIZES).any()
    assert form.outside([1.0, 1e12]).all()


def test_one_wild_run_does_not_pull_the_line() -> None:
    table = copies(16.4, 25.5)
    table["seconds"][12] *= 2.5
    form = link.fit_link(table)
    assert form.latency_us.value == pytest.approx(16.4, rel=0.03)
    assert form.gbps.value == pytest.approx(25.5, rel=0.03)


def test_noise_moves_coefficients_as_far_as_it_should() -> None:
    rng = np.random.default_rng(0)
    table = copies(16.4, 25.5)
    table["seconds"] = table["seconds"] * np.exp(rng.normal(0, 0.05, SIZES.size))
    form = link.fit_link(table)
    assert form.latency_us.value == pytest.approx(16.4, rel=0.1)
    assert form.gbps.value == pytest.approx(25.5, rel=0.1)


@pytest.mark.parametrize(
    ("size", "says"),
    [
        (np.array([1e6, 1e6, 2e7]), "at least 3 different copy sizes, got 2"),
        (np.array([1e6, 2e6, 3e6]), "cannot tell latency from bandwidth"),
        (np.array([1e8, 5e8, 2e9]), "cannot tell latency from bandwidth"),
        (np.array([0.0, 1e6, 1e8]), "greater than 0"),
    ],
)
def test_copies_that_determine_nothing_are_refused(size: np.ndarray, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        link.fit_link(copies(10, 20, size))


def test_copies_that_stalled_are_refused() -> None:
    """Medians of 20 ms from 64 KB on, as a busy machine gives them."""
    table = copies(0.8, 30, 4.0 ** np.arange(5, 13))
    table["seconds"][3:] += 20e-3
    with pytest.raises(ConfigError, match="idle machine"):
        link.fit_link(table)


def test_a_look_up_rate_leaves_its_fixed_part_out() -> None:
    keys = np.array([256.0, 1024.0, 4096.0, 65536.0])
    rate = link.fit_keys({"keys": keys, "seconds": 20e-6 + keys / 30e6})
    assert rate == pytest.approx(30e6, rel=1e-3)
    with pytest.raises(ConfigError, match="different numbers of keys"):
        link.fit_keys({"keys": keys[:1], "seconds": keys[:1]})


def test_a_measured_host_assumes_only_what_was_not_measured() -> None:
    bulk = link.Transfer(latency_us=8, gbps=25)
    partly = link.measured_host("mine", bulk)
    assert {path for path, q in walk(partly) if q.assumed} == {"miss_gbps"}
    assert partly.miss_gbps.low is not None and partly.miss_gbps.high is not None
    whole = link.measured_host("mine", bulk, link.Transfer(latency_us=9, gbps=11))
    assert not any(q.assumed for _, q in walk(whole))
    assert (whole.latency_us.value, whole.miss_gbps.value, whole.bulk_gbps.value) == (9, 11, 25)
    by_cpu = link.looking_up_host("mine", bulk, 4e7)
    assert (by_cpu.miss_gbps.value, by_cpu.keys_per_s.value) == (25, 4e7)


# -- what is shipped -----------------------------------------------------------------------------
@pytest.mark.parametrize("name", HOSTS)
def test_every_assumed_number_of_a_host_has_a_range(name: str) -> None:
    for path, quantity in walk(host(name)):
        if quantity.assumed:
            assert quantity.low is not None and quantity.high is not None, path
            assert quantity.low < quantity.high, path


def test_scenarios_were_calibrated_on_these_links() -> None:
    """Capacities in the shipped scenarios hold for these values only."""
    shared, dedicated = host("shared-link"), host("dedicated-link")
    assert (shared.latency_us.value, shared.miss_gbps.value, shared.bulk_gbps.value) == (
        16.4,
        3,
        12,
    )
    assert (dedicated.miss_gbps.value, dedicated.bulk_gbps.value) == (14, 25.5)


# -- the card ------------------------------------------------------------------------------------
def test_without_data_the_card_still_says_what_was_never_validated() -> None:
    rows = list(checks(Effort(None)))
    assert all(isinstance(row, Skipped) for row in rows)
    assert {"random rows over the link", "CPU look-up", "link under contention"} <= {
        row.part for row in rows
    }


def test_the_card_finds_a_link_that_a_line_does_not_describe(tmp_path: Path) -> None:
    """A file whose copies jump between two speeds gets the error it deserves."""
    folder = tmp_path / "calibration"
    folder.mkdir()
    lines = ["hardware,direction,host_memory,bytes,value,unit,time_us,source,note"]
    for i in range(12):
        size, gbps = 2**10 * 4**i, 25 if i % 2 else 10
        us = 10 + size / (gbps * 1e3)
        lines.append(f"A100-PCIE-40GB,H2D,pinned,{size},{gbps},GB/s,{us},x,")
        lines.append(f"other A100,H2D,pinned,{size},{gbps},GB/s,{us},x,")
    (folder / "pcie_h2d.csv").write_text("\n".join(lines))
    found = [row for row in checks(Effort(tmp_path)) if isinstance(row, Finding)]
    assert found[0].value > 30


def test_forms_on_the_published_measurements() -> None:
    data = Path(os.environ.get("HELM_GYM_DATA", BESIDE))
    if not (data / "calibration" / "pcie_h2d.csv").is_file():
        pytest.skip(
            "calibration/pcie_h2d.csv is not here; set HELM_GYM_DATA to its folder's parent"
        )
    rows = list(checks(Effort(data)))
    found = {(row.part, row.measure): row for row in rows if isinstance(row, Finding)}
    assert found["bulk copy, D2H", "MAPE"].value < 3
    assert found["rows in HBM", "MAPE"].value < 7
    assert found["small copy, H2D, pinned", "MAPE"].value < 8
    assert all(math.isfinite(row.value) and row.points for row in found.values())
