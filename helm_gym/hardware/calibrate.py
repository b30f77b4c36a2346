"""Fits kernel-time forms to measurements, half of which no fit ever sees, and writes the YAML."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from numpy.typing import NDArray

from helm_gym.config.quantity import Quantity
from helm_gym.config.safe_yaml import read_yaml
from helm_gym.console import make_table
from helm_gym.errors import ConfigError, nearest
from helm_gym.files import write_text
from helm_gym.hardware.attention import Incremental, Prefill, fit_incremental, fit_prefill
from helm_gym.hardware.devices import Device, device, family
from helm_gym.hardware.form import MEASURED, Array, Errors, Form, errors_of
from helm_gym.hardware.gemm import fit_gemm
from helm_gym.hardware.hstu_block import HstuBlock, Peak, fit_hstu_block, hstu_factor, scaled
from helm_gym.hardware.link import Transfer, fit_link, measured_host
from helm_gym.hardware.measurements import KINDS, Kind, Measurements, read_measurements

if TYPE_CHECKING:
    from rich.table import Table

Fit = Callable[[dict[str, Array], Device], Form]
FITS: dict[str, Fit] = {
    "gemm": lambda table, gpu: fit_gemm(table, gpu.sms),
    "attention": lambda table, gpu: fit_prefill(table, gpu.sms),
    "incremental": lambda table, gpu: fit_incremental(table, gpu.sms),
    "hstu-block": lambda table, gpu: fit_hstu_block(table, gpu.sms),
    "h2d": lambda table, gpu: fit_link(table),
}
SECTIONS = {"gemm": "gemm", "attention": "prefill", "incremental": "incremental"}
"""Kind of measurements -> section of a GPU's YAML that its form fills."""
HEAD = "{what}: written by helm-gym calibrate. Forms and file formats: docs/calibration.md."
FOLDER = Path(__file__).parent
DIGITS = 5  # significant digits of a coefficient in a file
HSTU_RANGE = (0.7, 1.6)  # of the HSTU factor where no HSTU block was measured
GUESS_RANGE = 2.0  # a form that was not measured may be this much slower or faster


@dataclass(frozen=True)
class Fitted:
    """A form, what it was fitted to, and its errors there and elsewhere.

    Args:
        measurements: all shapes of the file.
        form: fitted to the fit half only.
        fit: errors on that half.
        held_out: errors on the other half.
        others: source -> errors on the file's other engines.
    """

    measurements: Measurements
    form: Form
    fit: Errors
    held_out: Errors
    others: dict[str, Errors] = field(default_factory=dict)

    @property
    def kind(self) -> Kind:
        """What was measured."""
        return self.measurements.kind


@dataclass(frozen=True)
class Calibration:
    """All forms that were fitted for one GPU."""

    gpu: Device
    seed: int
    fitted: dict[str, Fitted]

    @property
    def notes(self) -> list[str]:
        """What was left out of the files."""
        every = (part.measurements for part in self.fitted.values())
        return [f"{measured.path.name}: {measured.note}" for measured in every if measured.note]


def split_by_shape(table: Mapping[str, NDArray[Any]], seed: int) -> NDArray[np.bool_]:
    """Choose the shapes to fit, (R,) true; the rest is held out.

    Shapes are sorted and one of each two neighbours is drawn, so that both halves cover the whole
    range even of a small file. The first and the last are fitted: held out, they would show
    extrapolation.
    """
    names = [name for name in table if name != MEASURED]
    order = np.lexsort([table[name] for name in reversed(names)])
    drawn = np.random.default_rng(seed).integers(0, 2, size=(order.size + 1) // 2)
    drawn[0], drawn[-1] = 0, 1
    chosen = np.zeros(order.size, bool)
    picked = np.minimum(2 * np.arange(drawn.size) + drawn, order.size - 1)
    chosen[order[picked]] = True
    return chosen


def calibrate(
    files: Mapping[str, Path],
    *,
    gpu: str | None = None,
    sms: int | None = None,
    memory_gb: float | None = None,
    engine: str | None = None,
    seed: int = 0,
) -> Calibration:
    """Fit every form whose measurements are given.

    Args:
        files: kind of measurements, a key of ``KINDS``, -> CSV.
        gpu: whose measurements they have to be; by default the first file's commonest.
        sms: multiprocessors, if the GPU is not a known one.
        memory_gb: memory, if the GPU is not a known one, GB.
        engine: part of the ``source`` text of the rows to fit, in files that hold several.
        seed: of the split into a fitted and a held-out half.
    """
    if not files:
        raise ConfigError(f"nothing to fit: give at least one of --{', --'.join(KINDS)}")
    measured: dict[str, Measurements] = {}
    for name, path in files.items():
        # The HSTU block is measured on whatever GPU has one; it is scaled by peak rates.
        whose = None if name == "hstu-block" else gpu
        measured[name] = read_measurements(path, KINDS[name], whose, engine)
        gpu = gpu or (measured[name].hardware if name != "hstu-block" else None)
    hardware = next(iter(measured.values())).hardware
    known = device(
        hardware if gpu is None or family(gpu) == family(hardware) else gpu, sms, memory_gb
    )
    fitted = {
        name: fit_one(part, device(part.hardware) if name == "hstu-block" else known, seed)
        for name, part in measured.items()
    }
    return Calibration(known, seed, fitted)


def fit_one(measured: Measurements, gpu: Device, seed: int) -> Fitted:
    """Fit one form to half of its shapes, and see how wrong it is on the other half."""
    table = measured.table
    chosen = split_by_shape(table, seed)
    half = {name: column[chosen] for name, column in table.items()}
    rest = {name: column[~chosen] for name, column in table.items()}
    try:
        form = FITS[measured.kind.name](half, gpu)
    except ConfigError as error:
        raise ConfigError(f"{measured.path}: {error}") from None
    others = {source: errors_of(form, other) for source, other in measured.others.items()}
    return Fitted(measured, form, errors_of(form, half), errors_of(form, rest), others)


def report(calibration: Calibration) -> Table:
    """Errors of every form: on the fitted half, on the held-out half and on other engines."""
    rows: list[list[str]] = []
    for name, part in calibration.fitted.items():
        rows.append([name, f"fitted, {part.measurements.source}", *_cells(part.fit)])
        rows.append(["", "held out", *_cells(part.held_out)])
        for other, errors in part.others.items():
            rows.append(["", f"not fitted, {other}", *_cells(errors)])
    title = f"{calibration.gpu.family}: errors of the fitted forms"
    return make_table(
        ("form", "shapes", "points", "MAPE", "P90", "bias"), rows, title=title, left=2
    )


def _cells(errors: Errors) -> Iterator[str]:
    yield f"{errors.points:,}"
    yield f"{errors.mape:.1%}"
    yield f"{errors.p90:.1%}"
    yield f"{errors.bias:+.1%}"


# -- the files -----------------------------------------------------------------------------------
def gpu_preset(
    calibration: Calibration, name: str, date: str, base: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """A GPU's settings as plain data, with a source for every number.

    Args:
        calibration: what was fitted.
        name: of the preset.
        date: of the fit, as it is to stand in the sources.
        base: another GPU's settings; forms that were not measured are copied from it and marked
            as assumed.
    """
    gpu = calibration.gpu
    memory = {"value": gpu.memory_gb, "unit": "GB", "source": gpu.source}
    preset: dict[str, Any] = {"name": name, "memory_gb": memory}
    for kind, section in SECTIONS.items():
        if kind in calibration.fitted:
            preset[section] = form_settings(calibration, kind, date)
        elif base is not None:
            preset[section] = _guessed(base[section], str(base["name"]))
        else:
            raise ConfigError(
                f"no {kind} measurements: give --{kind} FILE, or --base GPU to copy that form from "
                "another GPU's preset, marked as assumed"
            )
    preset["hstu_factor"] = _hstu_settings(calibration)
    return preset


def _hstu_settings(calibration: Calibration) -> dict[str, Any]:
    """How HSTU attention relates to softmax attention: assumed, but its range may be inferred."""
    low, high = HSTU_RANGE
    source = "assumed: HSTU (SiLU) attention takes as long as softmax attention; not measured here"
    inferred = _hstu_range(calibration)
    if inferred is not None:
        low, high, where = inferred
        source = f"{source}; range: HSTU blocks on {where}, moved here by peak rates, by shape"
    return {"value": 1.0, "unit": "1", "source": source, "assumed": True, "low": low, "high": high}


def _hstu_range(calibration: Calibration) -> tuple[float, float, str] | None:
    """Range over shapes and the GPU it was seen on; None unless all of its forms were fitted."""
    parts = calibration.fitted
    if not {"attention", "incremental", "hstu-block"} <= parts.keys():
        return None
    block, prefill, incremental = (
        parts[name].form for name in ("hstu-block", "attention", "incremental")
    )
    there = device(parts["hstu-block"].measurements.hardware)
    if calibration.gpu.peak_tflops is None or there.peak_tflops is None:
        return None
    assert isinstance(block, HstuBlock)
    assert isinstance(prefill, Prefill)
    assert isinstance(incremental, Incremental)
    here = Peak(calibration.gpu.peak_tflops, calibration.gpu.sms)
    moved = scaled(block, Peak(there.peak_tflops, there.sms), here)
    factor = hstu_factor(moved, prefill, incremental)
    return min(1.0, round(factor.low, 2)), max(1.0, round(factor.high, 2)), there.family


def form_settings(calibration: Calibration, kind: str, date: str) -> dict[str, Any]:
    """Coefficients and ranges of one fitted form; the first coefficient has the whole source."""
    part = calibration.fitted[kind]
    where, held = part.measurements, part.held_out
    source = (
        f"fit to {part.fit.points:,} of {where.shapes:,} {where.hardware} shapes of "
        f"{where.path.name} ({where.source}), split seed {calibration.seed}; held-out MAPE "
        f"{held.mape:.1%}, P90 {held.p90:.1%}, bias {held.bias:+.1%}; {date}"
    )
    settings: dict[str, Any] = {}
    for name in type(part.form).model_fields:  # type: ignore[attr-defined]
        value = getattr(part.form, name)
        if isinstance(value, Quantity):
            fitted = value.source.startswith("fit")
            text = source if fitted else value.source
            source = "same fit" if fitted else source
            settings[name] = {
                "value": float(f"{value.value:.{DIGITS}g}"),
                "unit": value.unit,
                "source": text,
            }
        elif name == "ranges":
            settings[name] = {axis: limits.model_dump() for axis, limits in value.items()}
    return settings


def host_preset(calibration: Calibration, name: str, date: str) -> dict[str, Any]:
    """A host link's settings; only the bulk path is measured, rows are assumed from it."""
    fitted = form_settings(calibration, "h2d", date)
    host = measured_host(name, Transfer.parse(fitted, "h2d"))
    return host.model_dump(mode="json", exclude_none=True, exclude_defaults=True)


def _guessed(section: Mapping[str, Any], base: str) -> dict[str, Any]:
    """A form of another GPU, every number flagged as assumed with a wide range."""
    guessed: dict[str, Any] = {}
    for name, given in section.items():
        if name == "ranges":
            guessed[name] = given
            continue
        guessed[name] = {
            "value": given["value"],
            "unit": given["unit"],
            "source": f"assumed: copied from {base}, not measured on this GPU",
            "assumed": True,
            "low": given["value"] / GUESS_RANGE,
            "high": given["value"] * GUESS_RANGE,
        }
    return guessed


def write_preset(path: Path, preset: Mapping[str, Any], head: str) -> None:
    """Write settings as YAML, a line per number, below a comment."""
    comment = "".join(f"# {line}\n" for line in head.splitlines())
    # default_flow_style=None: a mapping of plain values goes on one line
    body = yaml.safe_dump(dict(preset), sort_keys=False, default_flow_style=None, width=10_000)
    write_text(path, comment + body)


def write_presets(
    calibration: Calibration, out: Path, date: str, base: str | None = None
) -> list[Path]:
    """Write the GPU's preset and, if copies were measured, a host's beside it.

    Args:
        calibration: what was fitted.
        out: YAML file of the GPU; its stem is the preset's name.
        date: of the fit, as it is to stand in the sources.
        base: name or path of the preset to copy forms from that were not measured.
    """
    if out.suffix not in {".yaml", ".yml"}:
        raise ConfigError(f"--out {out}: a preset is a .yaml file, such as {out.stem}.yaml")
    if not out.parent.is_dir():
        raise ConfigError(f"--out {out}: there is no folder {out.parent}; create it first")
    settings = None if base is None else read_yaml(_preset_path(base))
    written = []
    if calibration.fitted.keys() & SECTIONS.keys():
        preset = gpu_preset(calibration, out.stem, date, settings)
        write_preset(out, preset, HEAD.format(what=f"GPU {calibration.gpu.family}"))
        written.append(out)
    if "h2d" in calibration.fitted:
        host = out.with_name(f"{out.stem}-host{out.suffix}")
        preset = host_preset(calibration, host.stem, date)
        write_preset(host, preset, HEAD.format(what=f"Host of a {calibration.gpu.family}"))
        written.append(host)
    return written


def _preset_path(name: str) -> Path:
    shipped = FOLDER / "gpus" / f"{name}.yaml"
    if shipped.is_file() or Path(name).suffix in {".yaml", ".yml"}:
        return shipped if shipped.is_file() else Path(name)
    known = [path.stem for path in shipped.parent.glob("*.yaml")]
    raise ConfigError(f"--base {name!r} does not exist{nearest(name, known)}")
