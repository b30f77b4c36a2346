"""Where the atlas looks: its factors, the base point, and a fixed list of points around it.

Every point is a steady scenario with one surface. Four designs share the base point: one factor at
a time, grids over pairs that matter together, and a Sobol sequence over all factors in which each
draw is a cluster with two surfaces that it would serve in turn.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from helm_gym.config.scenario import Scenario
from helm_gym.errors import ConfigError, nearest

BASE = "taobao-steady"
NODES = 4
USERS = 100_000  # as many per node as the shipped eight-node scenarios have
THINNED = 10.0
"""Items of the base's catalogue stand for so many of Taobao's: shards are runs of ranks, so a law
with a tenth of items and shift has the same shards, and is lowered ten times faster."""
POOL_GB = 60.0
MODELS = ((3, 256), (4, 512), (5, 512), (8, 512), (6, 1024), (8, 1024))  # (layers, width)


@dataclass(frozen=True)
class Factor:
    """One thing that the atlas varies.

    Args:
        name: of the factor, as in ``helm-gym atlas --at``.
        meaning: in words, with its unit.
        base: value at the base point.
        levels: values of one-at-a-time and grid designs, rising.
        log: whether ratios matter rather than differences.
        per_surface: whether surfaces of one cluster may differ in it.
    """

    name: str
    meaning: str
    base: float
    levels: tuple[float, ...]
    log: bool = True
    per_surface: bool = False

    def at(self, quantile: float) -> float:
        """Value at a place between the lowest and the highest level."""
        if self.name == "kv_bytes":
            return self.levels[min(int(quantile * len(self.levels)), len(self.levels) - 1)]
        low, high = self.levels[0], self.levels[-1]
        value = low * (high / low) ** quantile if self.log else low + (high - low) * quantile
        return float(f"{value:.4g}")


def kv_bytes(layers: int, width: int) -> float:
    """Bytes of KV per token in bf16."""
    return 4.0 * layers * width


FACTORS: Mapping[str, Factor] = {
    factor.name: factor
    for factor in (
        Factor("candidates", "items scored per request", 1024.0,
               (64.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0), per_surface=True),
        Factor("row_bytes", "EMB bytes per candidate", 16384.0,
               (512.0, 2048.0, 8192.0, 16384.0, 24576.0, 32768.0)),
        Factor("kv_bytes", "KV bytes per token (sets layers and width)", 10240.0,
               tuple(kv_bytes(*model) for model in MODELS)),
        Factor("history", "median tokens of a user's history", 10_000.0,
               (1000.0, 2500.0, 5000.0, 8000.0, 10_000.0, 14_000.0)),
        Factor("history_row", "EMB bytes per history token", 2048.0,
               (128.0, 512.0, 2048.0, 4096.0, 8192.0)),
        Factor("session", "median requests of a session", 3.2,
               (1.5, 2.2, 3.2, 5.0, 8.0), per_surface=True),
        Factor("gap", "median seconds between requests of a session", 1.9,
               (0.6, 1.0, 1.9, 4.0, 8.0), per_surface=True),
        Factor("exponent", "popularity exponent (Zipf-Mandelbrot)", 0.98,
               (0.5, 0.75, 0.98, 1.25, 1.55), log=False),
        Factor("table", "table bytes / pool bytes", 200.0 / POOL_GB,
               (0.5, 1.0, 5.0 / 3.0, 200.0 / POOL_GB, 7.0, 16.0)),
        Factor("miss_gbps", "effective bandwidth of EMB misses, GB/s", 3.0,
               (2.0, 3.0, 5.0, 8.0, 14.0)),
    )
}  # fmt: skip
"""What is varied; ranges lie inside those that the shipped scenarios and hosts call assumed."""

GRIDS = (
    ("candidates", "row_bytes"),
    ("candidates", "gap"),
    ("candidates", "miss_gbps"),
    ("candidates", "table"),
    ("history", "kv_bytes"),
    ("table", "exponent"),
    ("gap", "session"),
)
"""Pairs of factors that are crossed, (y, x) of their heat maps."""
SOBOL_CLUSTERS = 64
SOBOL_SEED = 20_261_122


@dataclass(frozen=True)
class Point:
    """One place in the atlas.

    Args:
        design: which of the designs asked for it first.
        cluster: points of one cluster differ only in what surfaces may differ in.
        values: factor -> value, all factors.
    """

    design: str
    cluster: str
    values: Mapping[str, float]

    @property
    def key(self) -> str:
        """Name of its file: a digest of the values."""
        text = json.dumps(dict(sorted(self.values.items())))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def base_values() -> dict[str, float]:
    """The base point."""
    return {name: factor.base for name, factor in FACTORS.items()}


def _cluster(values: Mapping[str, float]) -> str:
    shared = {n: v for n, v in sorted(values.items()) if not FACTORS[n].per_surface}
    return hashlib.sha256(json.dumps(shared).encode()).hexdigest()[:8]


def points(quick: bool = False) -> list[Point]:
    """The atlas's list of points, each once; ``quick`` is a thin part of it."""
    found: dict[str, Point] = {}

    def add(design: str, changes: Mapping[str, float]) -> None:
        values = base_values() | dict(changes)
        point = Point(design, _cluster(values), values)
        found.setdefault(point.key, point)

    add("base", {})
    for name, factor in FACTORS.items():
        for level in factor.levels[-1:] if quick else factor.levels:
            add(f"one: {name}", {name: level})
    for y, x in () if quick else GRIDS:
        for first in FACTORS[y].levels:
            for second in FACTORS[x].levels:
                add(f"grid: {y}, {x}", {y: first, x: second})
    for changes in _sobol(2 if quick else SOBOL_CLUSTERS):
        add("sobol", changes)
    return list(found.values())


def _sobol(clusters: int) -> list[dict[str, float]]:
    """Two surfaces of each of ``clusters`` random clusters."""
    from scipy.stats import qmc

    shared = [f for f in FACTORS.values() if not f.per_surface]
    own = [f for f in FACTORS.values() if f.per_surface]
    sampler = qmc.Sobol(len(shared) + 2 * len(own), seed=SOBOL_SEED)
    rows = []
    for draw in sampler.random(clusters):
        hardware = {f.name: f.at(q) for f, q in zip(shared, draw, strict=False)}
        for surface in range(2):
            begin = len(shared) + surface * len(own)
            mine = {
                f.name: f.at(q) for f, q in zip(own, draw[begin : begin + len(own)], strict=True)
            }
            rows.append(hardware | mine)
    return rows


@cache
def _base() -> Scenario:
    shipped = Scenario.load(BASE)
    law = shipped.workload.profile.popularity
    surface = shipped.workload.surfaces[0].model_dump(mode="json") | {"name": "surface"}
    return shipped.replace(
        {
            "name": "atlas",
            "description": "",
            "nodes": NODES,
            "workload.users": USERS,
            "workload.surfaces": [surface],
            "workload.mix": {},
            "workload.regime": {"kind": "steady"},
            "workload.profile.popularity.catalogue_items": law.catalogue_items.value // THINNED,
            "workload.profile.popularity.shift_items": law.shift_items.value / THINNED,
            "workload.profile.history.shortest": 256,
            "memory.pool_gb": POOL_GB,
            "episode.warm_starts": 1,
        }
    )


def scenario_at(values: Mapping[str, float]) -> Scenario:
    """The scenario of a point.

    Raises:
        ConfigError: a factor is missing, unknown, or has a value that no scenario can have.
    """
    for name in values:
        if name not in FACTORS:
            raise ConfigError(f"the atlas has no factor {name!r}{nearest(name, FACTORS)}")
    value = base_values() | dict(values)
    base = _base()
    gap = base.workload.profile.gap
    layers, width = model_of(value["kv_bytes"])
    scenario = base.replace(
        {
            "workload.surfaces.0.candidates": value["candidates"],
            "workload.surfaces.0.gap_scale": value["gap"] / math.exp(gap.log_mean.value),
            "workload.profile.session_length.log_mean": math.log(value["session"]),
            "workload.profile.history.log_mean": math.log(value["history"]),
            "workload.profile.popularity.exponent": value["exponent"],
            "emb.candidate_row_bytes": value["row_bytes"],
            "emb.history_row_bytes": value["history_row"],
            "emb.table_gb": value["table"] * POOL_GB,
            "hardware.model.layers": layers,
            "hardware.model.width": width,
            "hardware.host.miss_gbps": value["miss_gbps"],
            "hardware.host.bulk_gbps": max(value["miss_gbps"], base.hardware.host.bulk_gbps.value),
        }
    )
    # The atlas goes to the ends on purpose; its rows and its page say where times are extrapolated.
    named = {text.split()[0] for text in scenario.extrapolations()}
    return scenario.replace({"extrapolates": sorted({*scenario.extrapolates, *named})})


def model_of(per_token: float) -> tuple[int, int]:
    """Layers and width of the model with that many KV bytes per token, or the nearest."""
    return min(MODELS, key=lambda model: abs(math.log(kv_bytes(*model) / per_token)))


def settings_text(values: Mapping[str, float]) -> str:
    """Values as a command takes them."""
    return ",".join(f"{name}={value:g}" for name, value in values.items())


def parse_at(text: str) -> dict[str, float]:
    """``"history=8000,candidates=512"`` as numbers.

    Raises:
        ConfigError: an unknown factor, or no positive number.
    """
    found: dict[str, float] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, equals, value = part.partition("=")
        name = name.strip()
        if name not in FACTORS or not equals:
            raise ConfigError(
                f"--at {part}: write FACTOR=VALUE{nearest(name, FACTORS)}; the factors are "
                f"{', '.join(FACTORS)}"
            )
        try:
            found[name] = float(value)
        except ValueError:
            raise ConfigError(f"--at {part}: {value!r} is no number") from None
        if not (math.isfinite(found[name]) and found[name] > 0):
            raise ConfigError(f"--at {part}: must be a number above 0")
    return found


def outside(values: Mapping[str, float]) -> list[str]:
    """Which values lie outside the atlas, in words."""
    return [
        f"{name} = {value:g} lies outside {FACTORS[name].levels[0]:g} to "
        f"{FACTORS[name].levels[-1]:g}"
        for name, value in values.items()
        if not FACTORS[name].levels[0] <= value <= FACTORS[name].levels[-1]
    ]
