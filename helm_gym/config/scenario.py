"""The scenario: everything that decides what the simulator does, validated and frozen."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import yaml
from pydantic import (
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from helm_gym.config.quantity import (
    Count,
    Fraction,
    Frozen,
    Gigabytes,
    Milliseconds,
    Number,
    Positive,
    Quantity,
    RowBytes,
    Seconds,
    Weight,
    load_preset,
    walk,
    within,
)
from helm_gym.config.routers import BOOKING_ROUTERS, ROUTERS
from helm_gym.config.workload import Workload, assumed
from helm_gym.errors import ConfigError, nearest
from helm_gym.hardware import extrapolation, presets

SCENARIOS = Path(__file__).parents[1] / "scenarios"

LEAST_STALENESS_MS = 0.1  # ten thousand reports a second
PRICES = ("router.price_half_life_s", "router.price_utilisation")
"""Assumed numbers that only ``foresight`` reads."""


class Hardware(Frozen):
    """GPU, host link and model of every node."""

    gpu: Annotated[
        presets.Gpu,
        BeforeValidator(lambda x: load_preset(presets.Gpu, x, presets.FOLDER / "gpus", "gpu")),
    ]
    host: Annotated[
        presets.Host,
        BeforeValidator(lambda x: load_preset(presets.Host, x, presets.FOLDER / "hosts", "host")),
    ]
    model: Annotated[
        presets.ModelSpec,
        BeforeValidator(
            lambda x: load_preset(presets.ModelSpec, x, presets.FOLDER / "models", "model")
        ),
    ]


class Memory(Frozen):
    """Where a GPU's memory goes; ``pool_gb`` is what the EMB share splits."""

    weights_gb: Gigabytes
    workspace_gb: Gigabytes
    reserve_gb: Gigabytes
    pool_gb: Gigabytes

    @property
    def total_gb(self) -> float:
        """Sum of all terms in GB."""
        return sum(q.value for _, q in walk(self))


class Emb(Frozen):
    """The embedding table in host DRAM and its hot cache in HBM."""

    table_gb: Gigabytes
    shards: int = Field(default=1024, gt=1, le=65536)
    candidate_row_bytes: RowBytes
    history_row_bytes: RowBytes
    bytes_per_key: RowBytes
    policy: Literal["heat", "lru"] = "heat"
    heat_half_life_s: Seconds = Field(default_factory=lambda: assumed(60.0, 10.0, 600.0, "s"))
    swap_hysteresis: Annotated[Number, within(1, 1e6)] = Field(
        default_factory=lambda: assumed(1.25, 1.0, 2.0)
    )
    swaps_per_tick: Count = Field(default_factory=lambda: assumed(20, 2, 100, "shards"))
    tick_s: Annotated[Seconds, within(0.01, 1e6)] = Field(
        default_factory=lambda: assumed(
            2.5, 0.5, 5.0, "s", "0.5, 1 and 2.5 s give the same P99 and hit rates within 1 %"
        )
    )

    @property
    def shard_bytes(self) -> float:
        """Bytes of one shard, the page in which the boundary moves."""
        return self.table_gb.value * 1e9 / self.shards


class Kv(Frozen):
    """The paged KV cache."""

    block_tokens: Annotated[Count, within(1, 1 << 20)] = Field(
        default_factory=lambda: assumed(64, 16, 256, "tokens")
    )
    ghost_gb: float = Field(default=2.0, gt=0, le=1e6)  # how far behind the LRU end the ghost looks


class Refill(Frozen):
    """How shards are copied into new EMB pages. Settings of a mode have no value in the others."""

    PACED: ClassVar[Mapping[str, Quantity]] = {
        "floor": assumed(0.15, 0.05, 0.5, why="chosen on tuning seeds, docs/refill.md"),
        "patience_s": assumed(2.0, 0.5, 8.0, "s", "chosen on tuning seeds, docs/refill.md"),
        "rush": assumed(1.0, 0.2, 1.0, why="chosen on tuning seeds, docs/refill.md"),
        "chunk_mb": assumed(2.0, 0.5, 8.0, "MB", "a stall of 0.2 ms at 12 GB/s"),
    }

    mode: Literal["naive", "throttled", "paced"] = "throttled"
    # Of paced: the part of the link time below which refill starves, how long it bears that, the
    # part that it takes from then on, and the size of a chunk that a request may wait for.
    floor: Fraction | None = None
    patience_s: Annotated[Number, within(0, 1e6)] | None = None
    rush: Fraction | None = None
    chunk_mb: Annotated[Positive, within(1e-3, 1e6)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, data: Any) -> Any:
        if not isinstance(data, Mapping) or data.get("mode") != "paced":
            return data
        given = {name: value for name, value in data.items() if value is not None}
        return {**cls.PACED, **given}


class Router(Frozen):
    """Which node serves a request. Weights of ``helm_score`` are profiled unless given."""

    name: str = "predicted_completion"
    kv_weight: float | None = Field(default=None, ge=0, le=1e6)
    emb_weight: float | None = Field(default=None, ge=0, le=1e6)
    load_weight: float | None = Field(default=None, ge=0, le=1e6)
    affinity_bonus: Weight = Field(
        default_factory=lambda: assumed(0.05, 0.0, 0.5, why="HELM names a bonus, not its size")
    )
    overload: Weight = Field(
        default_factory=lambda: Quantity(value=0.85, source="HELM, one secondary reading")
    )
    # Time between two reports of the nodes; the router sees the last one. 0: it sees them live.
    staleness_ms: float = Field(default=0.0, ge=0, le=500)
    # Whether it adds what it has sent since the last report; by default as its original does.
    books_own: bool | None = None
    # Whether an overloaded node gives way only to one that is not overloaded itself.
    spare_only: bool = False
    balance_requests: Annotated[Number, within(0, 1e9)] = Field(  # sglang_like
        default_factory=lambda: Quantity(
            value=64.0, unit="requests", source="SGLang, default of --balance-abs-threshold"
        )
    )
    balance_ratio: Annotated[Number, within(1, 1e6)] = Field(
        default_factory=lambda: Quantity(
            value=1.5, source="SGLang, default of --balance-rel-threshold"
        )
    )
    match_threshold: Fraction = Field(
        default_factory=lambda: Quantity(value=0.3, source="SGLang, default of --cache-threshold")
    )
    overlap_weight: Weight = Field(  # dynamo_like
        default_factory=lambda: Quantity(
            value=1.0, source="Dynamo, default of --router-kv-overlap-score-weight"
        )
    )
    price_half_life_s: Seconds = Field(  # foresight
        default_factory=lambda: assumed(
            10.0, 5.0, 60.0, "s", "10 and 60 s gave the same P99 within 0.3 %"
        )
    )
    price_utilisation: Annotated[Number, within(0, 0.999)] = Field(
        default_factory=lambda: assumed(
            0.95, 0.5, 0.99, why="beyond it a queue's formulas for a steady state mean nothing"
        )
    )

    @property
    def books(self) -> bool:
        """Whether the router keeps books of what it has sent."""
        habit = self.name in BOOKING_ROUTERS
        return self.staleness_ms > 0.0 and (habit if self.books_own is None else self.books_own)

    @model_validator(mode="after")
    def _known(self) -> Router:
        if 0.0 < self.staleness_ms < LEAST_STALENESS_MS:
            raise ValueError(
                f"staleness_ms must be 0 (live signals) or at least {LEAST_STALENESS_MS:g}, got "
                f"{self.staleness_ms:g}"
            )
        if self.name not in ROUTERS:
            raise ValueError(f"router {self.name!r} does not exist{nearest(self.name, ROUTERS)}")
        return self


class Slo(Frozen):
    """Latency target, and the wait beyond which a request is shed."""

    p99_ms: Milliseconds
    deadline_ms: Milliseconds


class Episode(Frozen):
    """Decisions, warm-up and the range of actions."""

    step_s: float = Field(default=5.0, ge=1e-3, le=1e5)
    steps: int = Field(default=60, gt=0, le=10**8)
    warmup_s: float = Field(default=60.0, ge=0, le=1e6)
    warm_starts: int = Field(
        default=8, gt=0, le=10_000
    )  # snapshots spread over the regime's period
    initial_share: float = Field(default=0.5, ge=0, le=1)
    # Windows that begin earlier are played, and no figure of the episode counts them.
    uncounted_s: float = Field(default=0.0, ge=0, le=1e6)
    share_min: float = Field(default=0.1, ge=0, le=1)
    share_max: float = Field(default=0.9, ge=0, le=1)
    max_step: float | None = Field(default=None, gt=0, le=1)
    hot_user_s: Seconds = Field(  # a user seen this recently is hot
        default_factory=lambda: assumed(
            30.0, 5.0, 300.0, "s", "HELM names the signal, not the rule"
        )
    )

    @model_validator(mode="after")
    def _range(self) -> Episode:
        if not self.share_min <= self.initial_share <= self.share_max:
            raise ValueError(
                f"need share_min <= initial_share <= share_max, got {self.share_min} <= "
                f"{self.initial_share} <= {self.share_max}"
            )
        return self

    @property
    def uncounted(self) -> int:
        """Windows at the beginning that no figure counts; they may be all of a short episode."""
        return math.ceil(self.uncounted_s / self.step_s - 1e-9)

    @model_serializer(mode="wrap")
    def _said(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Every setting, but for 0 s uncounted: cells that were frozen before keep their digest."""
        data: dict[str, Any] = dump(self)
        if not self.uncounted_s:
            del data["uncounted_s"]
        return data


class Scenario(Frozen):
    """A complete, digestible description of one cluster and its workload."""

    name: str
    version: int = Field(default=1, ge=0, le=10**6)
    description: str = ""
    nodes: int = Field(gt=0, le=1024)
    hardware: Hardware
    memory: Memory
    emb: Emb
    kv: Kv = Field(default_factory=Kv)
    refill: Refill = Field(default_factory=Refill)
    router: Router = Field(default_factory=Router)
    slo: Slo
    workload: Workload
    episode: Episode = Field(default_factory=Episode)
    structure_seed: int = Field(default=0, ge=0, lt=2**64)  # interest groups and burst instants
    # Dimensions of kernel times that leave the measured range on purpose, as incremental.n_cached.
    extrapolates: tuple[str, ...] = ()

    @field_validator("extrapolates")
    @classmethod
    def _dimensions(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in extrapolation.DIMENSIONS:
                raise ValueError(f"no such size {name!r}{nearest(name, extrapolation.DIMENSIONS)}")
        return names

    @model_validator(mode="after")
    def _memory_fits(self) -> Scenario:
        have, need = self.hardware.gpu.memory_gb.value, self.memory.total_gb
        if need > have + 1e-9:
            terms = " + ".join(f"{name} {q.value:g}" for name, q in walk(self.memory))
            raise ValueError(f"memory: {terms} = {need:g} GB does not fit the {have:g} GB GPU")
        shortest = self.workload.profile.history.shortest.value
        if shortest > self.hardware.model.max_history.value:
            raise ValueError("workload.profile.history.shortest exceeds hardware.model.max_history")
        return self

    @classmethod
    def load(cls, reference: str | Mapping[str, Any] | Scenario) -> Scenario:
        """Load a shipped scenario by name, a YAML file by path, or a mapping.

        Raises:
            ConfigError: naming the key, what was given, and the nearest valid name.
        """
        if isinstance(reference, str):
            return load_preset(cls, reference, SCENARIOS, "scenario")
        return reference if isinstance(reference, Scenario) else cls.parse(reference, "scenario")

    def replace(self, changes: Mapping[str, Any]) -> Scenario:
        """Return a copy with dotted paths replaced, such as ``{"workload.load": 0.9}``."""
        data = self.to_dict()
        for path, value in changes.items():
            _assign(data, path, copy.deepcopy(value))  # a later path may reach into it
        return Scenario.parse(data, "scenario")

    def to_dict(self) -> dict[str, Any]:
        """Plain values that :meth:`load` turns back into an equal scenario."""
        return self.model_dump(mode="json")

    def to_yaml(self) -> str:
        """YAML text that :meth:`load` reads back from a file."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)

    def assumptions(self) -> list[tuple[str, Quantity]]:
        """Every number that is assumed rather than measured, with its path.

        Prices are numbers of one router and are left out with any other.
        """
        unused = () if self.router.name == "foresight" else PRICES
        return [(path, q) for path, q in walk(self) if q.assumed and path not in unused]

    def extrapolations(self) -> list[str]:
        """Say which kernel times leave the measured range without being in ``extrapolates``."""
        model, counts = (
            self.hardware.model,
            [surface.candidates.value for surface in self.workload.surfaces],
        )
        history = (self.workload.profile.history.shortest.value, model.max_history.value)
        used = extrapolation.sizes_used(model, history, (min(counts), max(counts)))
        found = extrapolation.outside(self.hardware.gpu, used)
        return [text for dimension, text in found if dimension not in self.extrapolates]

    @staticmethod
    def names() -> list[str]:
        """Names of the shipped scenarios."""
        return sorted(path.stem for path in SCENARIOS.glob("*.yaml"))


def _assign(data: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    node: Any = data
    for depth, part in enumerate(parents):
        node = _child(node, part, ".".join(parents[: depth + 1]))
        if not isinstance(node, (dict, list)):
            raise ConfigError(f"{path}: {'.'.join(parents[: depth + 1])} has no settings below it")
    if isinstance(node, list):
        _child(node, last, path)
        node[int(last)] = value
    elif (
        isinstance(node.get(last), dict)
        and "value" in node[last]
        and isinstance(value, (int, float))
        and not isinstance(value, bool)
    ):
        node[last] = {**node[last], "value": value, "low": None, "high": None}
    else:
        node[last] = value


def _child(node: Any, part: str, path: str) -> Any:
    if isinstance(node, list):
        if not part.isdigit() or int(part) >= len(node):
            raise ConfigError(f"{path}: no such entry; there are {len(node)}, counted from 0")
        return node[int(part)]
    if part not in node:
        raise ConfigError(f"{path}: unknown key{nearest(part, node)}")
    return node[part]
