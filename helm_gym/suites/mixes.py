"""Capacity of every surface mix of a scenario at a steady rate: the command ``helm-gym capacity``.

The search is that of :mod:`helm_gym.suites.capacity`. Until it was, the command bisected to within
1 % and gave the lower end. Now it interpolates, so capacities are up to 1 % higher, and the best
share is the middle of those within 2 % of the top, without a gap, as in the suites.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from helm_gym.config.scenario import Scenario
from helm_gym.config.workload import Phases
from helm_gym.console import progress_bar
from helm_gym.errors import ConfigError
from helm_gym.suites.capacity import SEEDS, Probe, best_share

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class MixCapacity:
    """Capacity of every share of a grid in one surface mix."""

    name: str
    mix: Mapping[str, float]
    rps_per_node: Mapping[float, float]  # share -> highest rate; 0 if no rate meets the SLO

    @property
    def best_share(self) -> float:
        """Share with the highest capacity; the middle one of those as good as that."""
        return best_share(self.rps_per_node, highest=True)

    @property
    def capacity(self) -> float:
        """Capacity of the best share, requests/s per node."""
        return max(self.rps_per_node.values())


def mixes_of(scenario: Scenario) -> dict[str, dict[str, float]]:
    """Surface mixes whose capacity a scenario's load refers to: one per phase, or its only one."""
    workload = scenario.workload
    if isinstance(workload.regime, Phases):
        phases = workload.regime.phases
        return {f"phase {n}": workload.normalised(p.mix) for n, p in enumerate(phases)}
    return {"mix": workload.base_mix()}


def steady(scenario: Scenario, mix: Mapping[str, float]) -> Scenario:
    """The scenario with an unchanging surface mix in place of its regime."""
    return scenario.replace({"workload.regime": {"kind": "steady"}, "workload.mix": dict(mix)})


def measure_capacity(
    scenario: Scenario,
    shares: Sequence[float],
    *,
    seeds: Sequence[int] = SEEDS,
    measure_s: float = 120.0,
    threads: int = 1,
    progress: bool = False,
) -> list[MixCapacity]:
    """Measure the capacity of every share in every mix of a scenario.

    Args:
        scenario: what to measure; of a ``phases`` regime each phase alone, steady.
        shares: static EMB shares, rising.
        seeds: clusters per measurement, pooled.
        measure_s: simulated time per cluster and rate, after the warm-up.
        threads: simulator threads; results do not depend on them.
        progress: show a progress bar on stderr.

    Raises:
        ConfigError: the scenario replays a log, whose rate is not ours to set.
    """
    if not shares or not seeds:
        raise ConfigError("capacity needs at least one share and one seed")
    guess = scenario.workload.capacity_rps_per_node.value
    mixes, found = mixes_of(scenario), []
    total = len(mixes) * len(shares)
    with progress_bar("capacity", total, wanted=progress, transient=False) as bar:
        for name, mix in mixes.items():
            probe = Probe(steady(scenario, mix), seeds, measure_s, threads=threads)
            carried = probe.capacities(shares, guess, bar.advance)
            found.append(MixCapacity(name, mix, carried))
    return found


def capacity_table(results: Sequence[MixCapacity]) -> Table:
    """Capacity by mix and share, the best of each mix marked."""
    from rich.table import Table

    shares = list(results[0].rps_per_node)
    table = Table(title="Capacity, requests/s per node, by static EMB share (* best)")
    table.add_column("mix")
    for share in shares:
        table.add_column(f"{share:g}", justify="right")
    for result in results:
        mix = ", ".join(f"{name} {part:.2g}" for name, part in result.mix.items() if part > 0.0)
        cells = [
            f"[bold]{rate:.0f}*[/bold]" if share == result.best_share else f"{rate:.0f}"
            for share, rate in result.rps_per_node.items()
        ]
        table.add_row(f"{result.name}: {mix}", *cells)
    return table


def capacity_yaml(scenario: Scenario, results: Sequence[MixCapacity]) -> str:
    """YAML lines to paste into the scenario's file, its own first if it has phases."""
    lines = []
    if isinstance(scenario.workload.regime, Phases):
        busiest = max(result.capacity for result in results)
        lines += ["# workload: the busiest phase's", _yaml_line(busiest, "the busiest phase's")]
    for result in results:
        mix = ", ".join(f"{name}: {part:g}" for name, part in result.mix.items())
        source = (
            f"helm-gym capacity {scenario.name}; best static share {result.best_share:g}, "
            f"{scenario.nodes} nodes, router {scenario.router.name}"
        )
        lines += [f"# {result.name}: {{{mix}}}", _yaml_line(result.capacity, source)]
    return "\n".join(lines)


def _yaml_line(value: float, source: str) -> str:
    return (
        f"capacity_rps_per_node: {{value: {float(f'{value:.3g}'):g}, unit: requests/s, "
        f'source: "{source}"}}'
    )
