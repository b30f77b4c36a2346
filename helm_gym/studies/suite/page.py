"""What the paper suite shows: optima that differ, and what one static share for all cells loses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helm_gym._version import __version__
from helm_gym.config.scenario import SCENARIOS, Scenario
from helm_gym.console import make_table
from helm_gym.errors import ConfigError
from helm_gym.pages.templates import render
from helm_gym.suites.capacity import basin, best_share
from helm_gym.suites.paper import (
    CELLS,
    FINE,
    LOADS,
    PROOF_SEEDS,
    Cell,
    mapper,
    pinned,
    probe,
)

if TYPE_CHECKING:
    from rich.table import Table

DIFFER, INSIDE, LOSE = 0.30, 6, 0.20
"""The paper's motivating facts: optima this far apart, so many inside the range, so much lost."""


@dataclass(frozen=True)
class Shown:
    """P99 by share of one cell at one load."""

    cell: Cell
    digest: str
    load: float
    capacity: float  # requests/s per node
    tail_ms: dict[float, float]  # share -> P99 over all arrivals

    @property
    def best(self) -> float:
        """The share with the least P99, the middle one of those alike."""
        return best_share(self.tail_ms, highest=False)

    @property
    def alike(self) -> list[float]:
        """Shares within 2 % of it."""
        return basin(self.tail_ms, highest=False)

    def loss(self, share: float) -> float:
        """How much higher the P99 of a share is than the least."""
        return self.tail_ms[share] / min(self.tail_ms.values()) - 1.0


@dataclass(frozen=True)
class Fact:
    """One of the motivating facts at one load."""

    load: float
    says: str
    holds: bool


def _show(job: tuple[Cell, str, float, tuple[int, ...], tuple[float, ...]]) -> Shown:
    cell, path, load, seeds, shares = job
    scenario = Scenario.load(path)
    rate = scenario.workload.capacity_rps_per_node.value
    swept = probe(scenario, seeds).sweep(load * rate, shares)
    tails = {s: sum(f.tails) / len(f.tails) for s, f in zip(shares, swept, strict=True)}
    return Shown(cell, scenario.digest(), load, rate, tails)


def show(
    folder: Path = SCENARIOS,
    *,
    loads: Sequence[float] = LOADS,
    seeds: Sequence[int] = PROOF_SEEDS,
    shares: Sequence[float] = tuple(FINE),
    jobs: int = 2,
) -> list[Shown]:
    """Measure P99 by share in every cell, on seeds that the freezing did not see.

    Raises:
        ConfigError: a cell is missing, or is not the one that was frozen.
    """
    known = pinned(folder / "paper-v1.sha")
    for cell in CELLS:
        path = folder / f"{cell.name}.yaml"
        if not path.is_file():
            raise ConfigError(f"{path}: does not exist; run helm-gym suite freeze")
        if Scenario.load(str(path)).digest() != known.get(cell.name):
            raise ConfigError(
                f"{path}: is not the cell that was frozen (its digest differs from the pinned "
                "one); undo the change, or freeze a new version"
            )
    work = [
        (cell, str(folder / f"{cell.name}.yaml"), load, tuple(seeds), tuple(shares))
        for cell in CELLS
        for load in loads
    ]
    with mapper(jobs) as pool:
        return list(pool(_show, work))


def single_share(shown: Sequence[Shown]) -> tuple[float, float, float, Shown]:
    """The static share for all cells whose largest loss is least.

    Returns:
        The share, its mean loss, its largest, and the cell of that.
    """
    shares = list(shown[0].tail_ms)
    share = min(shares, key=lambda s: max(one.loss(s) for one in shown))
    losses = [one.loss(share) for one in shown]
    worst = max(shown, key=lambda one: one.loss(share))
    return share, sum(losses) / len(losses), max(losses), worst


def facts(shown: Sequence[Shown]) -> list[Fact]:
    """Which motivating facts hold, load by load."""
    found = []
    for load in sorted({one.load for one in shown}, reverse=True):
        cells = [one for one in shown if one.load == load]
        best = [one.best for one in cells]
        low, high = min(cells[0].tail_ms), max(cells[0].tail_ms)
        apart, inside = max(best) - min(best), sum(low < b < high for b in best)
        share, mean, most, worst = single_share(cells)
        found += [
            Fact(load, f"the P99-optimal shares lie {apart:.2f} apart ({min(best):g} to "
                 f"{max(best):g}; at least {DIFFER:g} wanted)", apart >= DIFFER - 1e-9),
            Fact(load, f"{inside} of {len(best)} lie inside ({low:g}, {high:g}) (at least "
                 f"{INSIDE} wanted)", inside >= INSIDE),
            Fact(load, f"the best single share for all cells, {share:g}, loses up to "
                 f"{100 * most:.0f} % P99 ({worst.cell.name}; {100 * mean:.0f} % on average; at "
                 f"least {100 * LOSE:.0f} % wanted)", most >= LOSE),
        ]  # fmt: skip
    return found


def table(shown: Sequence[Shown]) -> Table:
    """Optimum, basin and P99 of every cell and load."""
    return make_table(HEADINGS, lines(shown), title="P99-optimal static share by cell and load")


HEADINGS = ("cell", "load", "requests/s", "share", "within 2 %", "P99, ms", "one share for all")


def lines(shown: Sequence[Shown]) -> list[list[str]]:
    """The table's cells as text; the last column is what the best single share loses there."""
    single = {
        load: single_share([one for one in shown if one.load == load])[0]
        for load in {one.load for one in shown}
    }
    return [
        [
            f"{one.cell.dataset} {one.cell.regime}",
            f"{one.load:g}",
            f"{one.load * one.capacity:.0f}",
            f"{one.best:g}",
            f"{one.alike[0]:g} to {one.alike[-1]:g}",
            f"{min(one.tail_ms.values()):.1f}",
            f"+{100 * one.loss(single[one.load]):.0f} %",
        ]
        for one in shown
    ]


def page(shown: Sequence[Shown], folder: Path = SCENARIOS) -> str:
    """The suite's page, Markdown."""
    scenarios = [Scenario.load(str(folder / f"{cell.name}.yaml")) for cell in CELLS]
    return render(
        "suite.md.j2",
        version=__version__,
        facts=facts(shown),
        headings=HEADINGS,
        lines=lines(shown),
        cells=[_assumed(scenario) for scenario in scenarios],
        row_bytes=scenarios[0].emb.candidate_row_bytes.value,
        seeds=f"{PROOF_SEEDS[0]} to {PROOF_SEEDS[-1]}",
    )


def _assumed(scenario: Scenario) -> dict[str, Any]:
    """What of a cell the facts rest on."""
    work = scenario.workload
    return {
        "name": scenario.name,
        "digest": scenario.digest(),
        "table": scenario.emb.table_gb.value,
        "pool": scenario.memory.pool_gb.value,
        "candidates": " and ".join(f"{s.candidates.value:g}" for s in work.surfaces),
        "capacity": work.capacity_rps_per_node.value,
        "source": work.capacity_rps_per_node.source,
    }
