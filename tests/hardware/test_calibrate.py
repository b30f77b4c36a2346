"""``helm-gym calibrate``: what it reads and refuses, its split, its output, the shipped presets."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from real_data import BESIDE
from typer.testing import CliRunner

from helm_gym import cli
from helm_gym.errors import ConfigError
from helm_gym.hardware.calibrate import (
    SECTIONS,
    calibrate,
    gpu_preset,
    host_preset,
    split_by_shape,
)
from helm_gym.hardware.devices import device, family
from helm_gym.hardware.form import errors_of, predict
from helm_gym.hardware.gemm import Gemm
from helm_gym.hardware.measurements import ATTENTION, GEMM, H2D, KINDS, read_measurements

Rows = list[dict[str, Any]]
Write = Callable[..., Path]
SHIPPED = Path(cli.__file__).parents[1] / "hardware" / "gpus" / "a100-80gb.yaml"
FILES = {
    "gemm": "gemm_a100_aiconfigurator.csv",
    "attention": "attention_prefill_a100.csv",
    "incremental": "attention_incremental_prefill.csv",
    "hstu-block": "hstu_block_l20.csv",
}


def measured(name: str) -> Path:
    """A file of real measurements; the test is skipped where it is absent."""
    path = Path(os.environ.get("HELM_GYM_DATA", BESIDE)) / "calibration" / name
    if not path.is_file():
        pytest.skip(f"{name} is not here; set HELM_GYM_DATA to the folder that holds calibration/")
    return path


def gemm_rows() -> Rows:
    """96 products on an invented A100 that reaches 200 TFLOP/s."""
    return [
        {
            "hardware": "A100-SXM4-80GB",
            "m": m,
            "k": k,
            "n": n,
            "value": 5 + 2 * m * k * n / 200e6,
            "unit": "us",
            "source": "bench-1.0",
        }
        for m in (16, 100, 256, 1000, 2048, 5000)
        for k in (128, 512, 1024, 4096)
        for n in (128, 512, 1024, 4096)
    ]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def to_file(rows: Rows, name: str = "gemm.csv") -> Path:
        path = tmp_path / name
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        return path

    return to_file


def changed(index: int, **cells: Any) -> Rows:
    rows = gemm_rows()
    rows[index] = {**rows[index], **cells}
    return rows


# -- reading -------------------------------------------------------------------------------------
def test_a_file_is_read_into_seconds(write: Write) -> None:
    found = read_measurements(write(gemm_rows()), GEMM)
    assert (found.shapes, found.source, found.hardware) == (96, "bench-1.0", "A100-SXM4-80GB")
    at = (found.table["m"] == 256) & (found.table["k"] == 512) & (found.table["n"] == 1024)
    assert found.table["seconds"][at] == pytest.approx((5 + 2 * 256 * 512 * 1024 / 200e6) * 1e-6)


@pytest.mark.parametrize(("unit", "scale"), [("ms", 1e-3), ("s", 1e-6), ("µs", 1.0)])
def test_units_are_converted(write: Write, unit: str, scale: float) -> None:
    rows = [{**row, "value": row["value"] * scale, "unit": unit} for row in gemm_rows()]
    want = read_measurements(write(gemm_rows(), "a.csv"), GEMM).table["seconds"]
    assert read_measurements(write(rows), GEMM).table["seconds"] == pytest.approx(want)


def test_repeated_shapes_give_their_median(write: Write) -> None:
    first = gemm_rows()[0]
    rows = [*gemm_rows(), *({**first, "value": first["value"] * f} for f in (1.1, 2.5))]
    found = read_measurements(write(rows), GEMM)
    assert found.shapes == 96
    assert found.table["seconds"][0] == pytest.approx(first["value"] * 1.1e-6)


def test_of_two_engines_the_larger_is_fitted_and_the_other_only_compared(write: Write) -> None:
    other = [{**row, "source": "other-2", "value": row["value"] * 4} for row in gemm_rows()[:50]]
    path = write(gemm_rows() + other)
    found = read_measurements(path, GEMM)
    assert found.source == "bench-1.0"
    assert found.others["other-2"]["seconds"].size == 50
    assert read_measurements(path, GEMM, engine="other").source == "other-2"
    with pytest.raises(ConfigError, match=r"0 of bench-1\.0, other-2 contain 'sglang'.*--engine"):
        read_measurements(path, GEMM, engine="sglang")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (changed(5, unit="ms"), "mixed units: row 2 is in us, row 7 in ms; convert"),
        (changed(5, unit="ms total"), "row 7, column unit: 'ms total' is not one of us"),
        (changed(5, value=-3), "row 7, column value: -3 us is not above 0; measure again"),
        (changed(5, value=0), "row 7, column value: 0 us is not above 0"),
        (changed(5, value="nan"), "row 7, column value: 'nan' is not a number; fill it in"),
        (changed(5, value=""), "row 7, column value: '' is not a number"),
        (changed(5, value="inf"), "row 7, column value: 'inf' is not a number"),
        (changed(5, m=0), "row 7, column m: 0 is not a whole number of at least 1"),
        (changed(5, k=12.5), "row 7, column k: 12.5 is not a whole number"),
        (changed(5, hardware="H100 SXM"), "row 7, column hardware: 'H100 SXM' is not A100"),
        (
            [*gemm_rows(), {**gemm_rows()[3], "value": gemm_rows()[3]["value"] * 3}],
            r"rows 5 and 98, column value: the same shape \(m 16, k 128, n 4096\).* 3.0 times",
        ),
        (gemm_rows()[:20], "20 different shapes are too few for the gemm form.*at least 32"),
        (
            [row for row in gemm_rows() if row["k"] == 512] * 2,
            "24 different shapes are too few for the gemm form",
        ),
        (
            [{**row, "k": 512, "n": 128 + i} for i, row in enumerate(gemm_rows())],
            "column k: only 512 in 96 shapes, so the gemm form cannot tell what depends on k",
        ),
        (
            [{**row, "m": 100, "n": 128 + i} for i, row in enumerate(gemm_rows())],
            "column m: only 100 in 96 shapes",
        ),
        (
            [{("M" if name == "m" else name): v for name, v in r.items()} for r in gemm_rows()],
            "no column 'm'.*has the columns m, k, n, value, unit, hardware",
        ),
    ],
)
def test_bad_files_are_refused_with_place_and_remedy(
    write: Write, rows: Rows, message: str
) -> None:
    path = write(rows)
    with pytest.raises(ConfigError, match=f"(?s)^{path}.*{message}"):
        read_measurements(path, GEMM)


def test_a_gpu_that_is_not_the_one_named_is_refused(write: Write) -> None:
    with pytest.raises(ConfigError, match="row 2, column hardware: 'A100-SXM4-80GB' is not H100"):
        read_measurements(write(gemm_rows()), GEMM, gpu="H100-80GB")


def test_no_file_and_no_rows(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_measurements(tmp_path / "none.csv", GEMM)
    empty = tmp_path / "empty.csv"
    empty.write_text("m,k,n,value,unit,hardware\n")
    with pytest.raises(ConfigError, match="header and no rows"):
        read_measurements(empty, GEMM)


@pytest.mark.parametrize(
    ("text", "gpu"),
    [
        ("A100-SXM4-80GB", "A100"),
        ("A100-80GB (vidur a100; form factor unstated)", "A100"),
        ("8x A100-SXM4-80GB dual socket", "A100"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("Quadro RTX 6000 (PCIe Gen3 x16) - NOT A100", "RTX 6000"),
        ("L20", "L20"),
        ("my machine", "MY MACHINE"),
    ],
)
def test_the_gpu_in_a_text(text: str, gpu: str) -> None:
    assert family(text) == gpu


def test_memory_and_multiprocessors() -> None:
    assert device("A100-PCIE-40GB")[1:3] == (108, 40.0)
    assert device("A100")[1:3] == (108, 80.0)
    assert device("some CPU", sms=8, memory_gb=64)[1:3] == (8, 64.0)
    with pytest.raises(ConfigError, match="give --sms and --memory-gb"):
        device("some CPU")


# -- fitting -------------------------------------------------------------------------------------
@pytest.mark.parametrize("count", [6, 7, 97])
def test_the_split_is_by_shape_in_halves_and_covers_the_range(count: int) -> None:
    rng = np.random.default_rng(0)
    table = {"m": rng.permutation(count) + 1.0, "seconds": rng.random(count) + 1}
    chosen = split_by_shape(table, seed=4)
    assert abs(int(chosen.sum()) - count / 2) <= 1
    assert chosen[table["m"].argmin()]
    assert chosen[table["m"].argmax()]
    assert np.array_equal(chosen, split_by_shape(table, seed=4))
    slower = {**table, "seconds": table["seconds"][::-1]}
    assert np.array_equal(chosen, split_by_shape(slower, seed=4)), "times must not matter"


def test_what_is_held_out_does_not_change_the_fit(write: Write) -> None:
    """Times of the held-out half, four times as long, move its error and no coefficient."""
    before = calibrate({"gemm": write(gemm_rows())}).fitted["gemm"]
    table = before.measurements.table
    held = ~split_by_shape(table, 0)
    shapes = set(zip(table["m"][held], table["k"][held], table["n"][held], strict=True))
    rows = [
        {**row, "value": row["value"] * (4 if (row["m"], row["k"], row["n"]) in shapes else 1)}
        for row in gemm_rows()
    ]
    after = calibrate({"gemm": write(rows)}).fitted["gemm"]
    assert after.form == before.form
    assert after.fit == before.fit
    assert after.held_out.mape > 0.6


def test_errors_are_relative_to_what_was_measured() -> None:
    form = Gemm.parse(dict.fromkeys(Gemm.model_fields, 1.0) | {"ranges": {}}, "gemm")
    table = {name: np.array([64.0, 128.0, 256.0]) for name in "mkn"}
    truth = form.seconds(table["m"], table["k"], table["n"])
    errors = errors_of(form, {**table, "seconds": truth / np.array([1.1, 0.8, 1.0])})
    assert errors.points == 3
    assert errors.mape == pytest.approx(0.1)
    assert errors.bias == pytest.approx(-0.1 / 3)
    assert errors.p90 == pytest.approx(0.1 + 0.8 * 0.1)


def copies(host: str, gbps: float = 25.0, latency_us: float = 10.0) -> Rows:
    sizes = [2**exponent for exponent in range(12, 28, 2)]
    rows = []
    for size in sizes:
        time_us = latency_us + size / (gbps * 1e3)
        rate = size / time_us * 1e-3
        cells = {"hardware": host, "direction": "H2D", "host_memory": "pinned", "bytes": size}
        rows.append({**cells, "value": rate, "unit": "GB/s", "source": "bandwidthTest"})
    return rows


def test_copies_are_those_of_one_host_pinned_and_to_the_device(write: Write) -> None:
    rows = copies("A100-PCIE-40GB")
    left_out = [
        {**rows[0], "direction": "D2H"},
        {**rows[0], "host_memory": "pageable"},
        {**rows[0], "bytes": ""},
        {**rows[0], "hardware": "A100 80GB (another host)"},
        {**rows[0], "hardware": "Quadro RTX 6000 - NOT A100"},
    ]
    path = write(left_out + rows, "h2d.csv")
    found = read_measurements(path, H2D, gpu="A100")
    assert found.shapes == len(rows)
    assert found.note.startswith("5 rows left out")
    calibration = calibrate({"h2d": path}, gpu="A100")
    host = host_preset(calibration, "mine", "2026-01-31")
    assert host["bulk_gbps"]["value"] == pytest.approx(25.0, rel=0.01)
    assert host["latency_us"]["value"] == pytest.approx(10.0, rel=0.01)
    assert host["miss_gbps"]["assumed"]
    with pytest.raises(ConfigError, match="no row is a pinned H2D copy of stated size on L20"):
        read_measurements(path, H2D, gpu="L20")


# -- the command ---------------------------------------------------------------------------------
def run(*arguments: Any) -> Any:
    return CliRunner().invoke(cli.app, ["calibrate", *(str(a) for a in arguments)])


def test_the_command_writes_a_preset_with_sources(write: Write, tmp_path: Path) -> None:
    path, out = write(gemm_rows()), tmp_path / "mine.yaml"
    done = run("--gemm", path, "--base", "a100-80gb", "-o", out, "--date", "2026-01-31")
    assert done.exit_code == 0, done.output
    assert "held out" in done.output
    assert "MAPE" in done.output
    preset = yaml.safe_load(out.read_text())
    source = preset["gemm"]["launch_us"]["source"]
    assert "fit to 48 of 96 A100-SXM4-80GB shapes of gemm.csv (bench-1.0)" in source
    assert source.endswith("2026-01-31")
    assert preset["gemm"]["ranges"]["m"] == {"low": 16.0, "high": 5000.0}
    assert preset["memory_gb"]["value"] == 80
    copied = [v for name, v in preset["prefill"].items() if name != "ranges"]
    assert all(number["assumed"] and "a100-80gb" in number["source"] for number in copied)
    first = out.read_text()
    run("--gemm", path, "--base", "a100-80gb", "-o", out, "--date", "2026-01-31")
    assert out.read_text() == first


def test_a_form_that_is_neither_measured_nor_copied_is_asked_for(
    write: Write, tmp_path: Path
) -> None:
    out = tmp_path / "mine.yaml"
    done = run("--gemm", write(gemm_rows()), "-o", out)
    assert done.exit_code == 2
    assert "no attention measurements: give --attention FILE, or --base" in done.output
    assert not out.exists()


def test_options_that_cannot_work(write: Write, tmp_path: Path) -> None:
    path = write(gemm_rows())
    assert "nothing to fit" in run("-o", tmp_path / "x.yaml").output
    assert "a preset is a .yaml file" in run("--gemm", path, "-o", tmp_path / "x.txt").output
    assert "create it first" in run("--gemm", path, "-o", tmp_path / "no" / "x.yaml").output
    assert (
        "does not exist"
        in run("--gemm", path, "--base", "a100-81gb", "-o", tmp_path / "x.yaml").output
    )


# -- real measurements ---------------------------------------------------------------------------
def test_products_on_a_real_a100_are_within_eight_percent() -> None:
    part = calibrate({"gemm": measured(FILES["gemm"])}).fitted["gemm"]
    assert part.held_out.points == 3150
    assert part.held_out.mape <= 0.08
    assert abs(part.held_out.bias) <= 0.02


@pytest.mark.parametrize("dimension", ["m", "k", "n"])
def test_products_larger_than_all_fitted_ones(dimension: str) -> None:
    """Fitted to sizes up to 4,096 (m: 2,049), checked on twice to sixteen times as much."""
    from helm_gym.hardware.gemm import fit_gemm

    table = read_measurements(measured(FILES["gemm"]), GEMM).table
    small = table[dimension] <= (2049 if dimension == "m" else 4096)
    form = fit_gemm({name: column[small] for name, column in table.items()}, 108)
    large = {name: column[~small] for name, column in table.items()}
    assert form.outside(large["m"], large["k"], large["n"]).all()
    assert errors_of(form, large).mape <= 0.08


def test_the_shipped_a100_is_the_output_of_the_command() -> None:
    shipped = yaml.safe_load(SHIPPED.read_text())
    calibration = calibrate({kind: measured(name) for kind, name in FILES.items()})
    date = shipped["gemm"]["launch_us"]["source"].rpartition("; ")[2]
    again = gpu_preset(calibration, shipped["name"], date)
    assert shipped.keys() == again.keys()
    for end in ("low", "high"):
        assert shipped["hstu_factor"][end] == pytest.approx(again["hstu_factor"][end], rel=0.05)
    for kind, section in SECTIONS.items():
        found = again[section]
        assert shipped[section].keys() == found.keys()
        assert shipped[section]["ranges"] == found["ranges"]
        numbers = found.keys() - {"ranges"}
        assert all(shipped[section][name]["unit"] == found[name]["unit"] for name in numbers)
        # Other versions of SciPy may stop at slightly other coefficients of the same times.
        fitted = calibration.fitted[kind]
        form = type(fitted.form).parse(shipped[section], section)
        times = predict(fitted.form, fitted.measurements.table)
        assert predict(form, fitted.measurements.table) == pytest.approx(times, rel=0.01)


def test_hstu_blocks_on_a_real_l20_are_within_five_percent() -> None:
    part = calibrate({"hstu-block": measured(FILES["hstu-block"])}).fitted["hstu-block"]
    assert part.fit.points == part.held_out.points == 14
    assert part.held_out.mape <= 0.05


def test_every_kind_has_its_option() -> None:
    text = run("--help").output
    assert all(f"--{kind}" in text for kind in KINDS)
    assert ATTENTION.name == "attention"
