"""The atlas: which static share is best where, how flat the basin is, and what one share loses.

Every point is measured alone, in a process of its own, and written to a file of its own at once, so
that a run that was stopped or killed goes on where it was. The page, the figures and the Parquet
file are made from those files.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helm_gym.errors import ConfigError
from helm_gym.provenance import code_digest
from helm_gym.store import digest_of, json_codec, open_store, save_rows
from helm_gym.studies.atlas.points import NODES, Point, points, scenario_at
from helm_gym.suites.capacity import SEEDS, Figures, Probe, basin, best_share

if TYPE_CHECKING:
    from helm_gym.config.scenario import Scenario

SHARES = tuple(round(0.1 * n, 1) for n in range(1, 10))
LOADS = (0.7, 0.9, 0.95)
SLO_MS = (30.0, 60.0, 120.0)
"""A point that no share serves within the first takes the next; its deadline is five times that."""
Row = dict[str, Any]

MOST_REQUESTS = 100_000.0  # per cluster and run: a P99 of them has 1,000 requests above it


@dataclass(frozen=True)
class Effort:
    """How long a point is measured (s of simulated time per seed)."""

    capacity_s: float = 60.0
    tail_s: float = 120.0
    shares: tuple[float, ...] = SHARES
    finer: bool = True  # try the shares beside the best one too


FULL = Effort()
QUICK = Effort(20.0, 30.0, SHARES[::2], False)


@dataclass(frozen=True)
class Needs:
    """What one request takes at the median history, from the cost model, ms."""

    candidates_link: float  # every candidate row missing
    history_link: float  # every history row missing, as a KV miss has to look them up
    gpu_miss: float
    gpu_hit: float

    @property
    def ratio(self) -> float:
        """Link time that EMB can save over the time that KV can save."""
        return self.candidates_link / (self.gpu_miss - self.gpu_hit + self.history_link)


def needs(scenario: Scenario) -> Needs:
    """Link and GPU time of one request of a scenario's first surface."""
    from helm_gym.sim.lowering import lower_cost
    from helm_gym.sim.stages import gpu_seconds

    cost, profile = lower_cost(scenario), scenario.workload.profile
    history = math.exp(profile.history.log_mean.value)
    candidates = scenario.workload.surfaces[0].candidates.value
    fresh = round(profile.new_items_per_request.value)
    tokens, items = round(history), round(candidates)
    emb = scenario.emb
    return Needs(
        1e3 * candidates * emb.candidate_row_bytes.value * cost.link_byte,
        1e3 * history * emb.history_row_bytes.value * cost.link_byte,
        1e3 * gpu_seconds(cost, tokens, 0, items),
        1e3 * gpu_seconds(cost, fresh, tokens, items),
    )


def measure(point: Point, effort: Effort = FULL) -> Row:
    """Measure one point: capacity by share, then P99 by share at every load."""
    scenario = scenario_at(point.values)
    row = identity(point, effort)
    guess = first_guess(needs(scenario))
    for slo in SLO_MS:
        scenario = scenario.replace({"slo.p99_ms": slo, "slo.deadline_ms": 5.0 * slo})
        probe = Probe(scenario, SEEDS, effort.capacity_s, MOST_REQUESTS)
        capacity = probe.capacities(effort.shares, guess)
        row["slo_ms"] = slo
        if max(capacity.values()) > 0.0:
            break
    else:
        return row | {"feasible": False}
    top = max(capacity, key=lambda share: capacity[share])
    finer = [round(top + d, 2) for d in (-0.05, 0.05) if effort.finer and 0.1 <= top + d <= 0.9]
    capacity |= {share: probe.capacities([share], capacity[top])[share] for share in finer}
    capacity = dict(sorted(capacity.items()))
    within = basin(capacity, highest=True)
    row |= {
        "feasible": True,
        "shares": list(capacity),
        "capacity": list(capacity.values()),
        "best_share": best_share(capacity, highest=True),
        "basin_low": within[0],
        "basin_high": within[-1],
        "best_capacity": max(capacity.values()),
    }
    tails = Probe(scenario, SEEDS, effort.tail_s, MOST_REQUESTS)
    for load in LOADS:
        swept = tails.sweep(load * row["best_capacity"], list(capacity))
        row |= _at_load(load, list(capacity), swept)
    return row | {"hot_share": _at(row["best_share"], list(capacity), swept).hot}


def first_guess(need: Needs) -> float:
    """Requests/s per node if 7 of 10 requests hit KV and 6 of 10 bytes hit EMB, at 80 % load."""
    gpu = 0.3 * need.gpu_miss + 0.7 * need.gpu_hit
    link = 0.4 * (need.candidates_link + 0.3 * need.history_link)
    return 0.8 * 1e3 / max(gpu, link)


def _at(share: float, shares: Sequence[float], swept: Sequence[Figures]) -> Figures:
    return swept[list(shares).index(share)]


def _at_load(load: float, shares: Sequence[float], swept: Sequence[Figures]) -> Row:
    """P99 by share at one load, and where it is lowest."""
    tail = {share: figures.tail_ms for share, figures in zip(shares, swept, strict=True)}
    within, mark = basin(tail, highest=False), column(load)
    row: Row = {
        f"p99_{mark}": list(tail.values()),
        f"p99_best_{mark}": min(tail.values()),
        f"p99_share_{mark}": best_share(tail, highest=False),
        f"p99_low_{mark}": within[0],
        f"p99_high_{mark}": within[-1],
    }
    if load == LOADS[-1]:
        for name in ("kv_hits", "emb_hits", "link", "gpu", "shed"):
            row[f"{name}_{mark}"] = [getattr(figures, name) for figures in swept]
    return row


def column(load: float) -> str:
    """A load as part of a column's name: 0.95 is ``95``."""
    return f"{100 * load:.0f}"


def identity(point: Point, effort: Effort) -> Row:
    """What a row is a measurement of; a stored row is found by a digest of it."""
    scenario = scenario_at(point.values)
    need = needs(scenario)
    return {
        "key": point.key,
        "design": point.design,
        "cluster": point.cluster,
        **point.values,
        **{f"{name}_ms": float(f"{value:.6g}") for name, value in asdict(need).items()},
        "ratio": float(f"{need.ratio:.6g}"),
        "extrapolates": list(scenario.extrapolates),
        "nodes": NODES,
        "digest": scenario.digest(),
        "code": code_digest(__name__),
        "seeds": list(SEEDS),
        "capacity_s": effort.capacity_s,
        "tail_s": effort.tail_s,
    }


def run_atlas(out: Path, *, quick: bool = False, jobs: int = 2, progress: bool = True) -> list[Row]:
    """Measure every point that the folder does not hold yet, and write ``atlas.parquet``.

    Args:
        out: folder; ``points/`` in it holds a file per finished point.
        quick: a thin list of points, each measured briefly: shows that everything runs.
        jobs: processes.
        progress: show a progress bar on stderr.

    Returns:
        A row per point, in the order of the list.

    Raises:
        ConfigError: the folder cannot be written.
    """
    effort = QUICK if quick else FULL
    wanted = {digest_of(identity(point, effort)): point for point in points(quick)}
    with open_store(out / "points", json_codec()) as store:
        found = store.complete(
            wanted,
            partial(measure, effort=effort),
            processes=jobs,
            title="atlas",
            progress=progress,
            transient=False,
        )
    save_rows(list(found.values()), out / "atlas.parquet")
    return list(found.values())


def load(path: str | os.PathLike[str]) -> list[Row]:
    """Read an atlas.

    Raises:
        ConfigError: there is none, or it is no atlas.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(path)
    file = path / "atlas.parquet" if path.is_dir() else path
    if not file.is_file():
        raise ConfigError(f"{file}: there is no atlas yet; run helm-gym atlas --out {path}")
    try:
        rows: list[Row] = pq.read_table(file).to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise ConfigError(f"{file}: cannot be read as an atlas ({error})") from None
    if not rows or "best_share" not in rows[0]:
        raise ConfigError(f"{file}: is no atlas; helm-gym atlas writes atlas.parquet")
    return rows
