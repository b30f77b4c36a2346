"""How much load a static share carries: the yardstick that every comparison's load refers to.

The capacity of a share in a surface mix is the highest steady request rate per node at which 99 %
of the requests that arrive are served within the SLO (a shed request is not), which is to say that
the P99 of all arrivals, shed ones at infinity, meets it. It is found by bisection on fixed seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from helm_gym.config.scenario import Scenario
from helm_gym.config.workload import Phases
from helm_gym.console import progress_bar
from helm_gym.errors import ConfigError
from helm_gym.seeding import streams_from_seed
from helm_gym.sim.layout import Node
from helm_gym.sim.simulator import Simulator

if TYPE_CHECKING:
    from rich.table import Table

SEED = 30_000  # first of the seeds used here; apart from training, tuning and evaluation
MEASURE_S = 120.0  # simulated time per seed, after the scenario's warm-up
SATISFACTION = 0.99  # of arrivals inside the SLO: the P99 of all arrivals meets it
TOLERANCE = 0.01  # relative width at which bisection stops
HIGHEST_RPS = 1e5  # per node; a rate that no scenario reaches

Report = Callable[[], None]


@dataclass(frozen=True)
class MixCapacity:
    """Capacity of every share of a grid in one surface mix."""

    name: str
    mix: Mapping[str, float]
    rps_per_node: Mapping[float, float]  # share -> highest rate; 0 if no rate meets the SLO

    @property
    def best_share(self) -> float:
        """Share with the highest capacity; the middle one of those within the tolerance of it."""
        enough = self.capacity * (1.0 - TOLERANCE)
        top = [share for share, rate in self.rps_per_node.items() if rate >= enough]
        return top[len(top) // 2]

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


def satisfaction(
    scenario: Scenario,
    mix: Mapping[str, float],
    share: float,
    rps_per_node: float,
    seeds: Sequence[int],
    measure_s: float = MEASURE_S,
) -> float:
    """Share of arrivals inside the SLO at a steady rate, all seeds together.

    Args:
        scenario: hardware, caches, router and sessions; its regime and load are replaced.
        mix: share of sessions on each surface.
        share: static EMB share.
        rps_per_node: requests/s per node.
        seeds: one cluster each.
        measure_s: simulated time after the warm-up.
    """
    steady = scenario.replace(
        {
            "workload.regime": {"kind": "steady"},
            "workload.mix": dict(mix),
            "workload.load": 1.0,
            "workload.capacity_rps_per_node": rps_per_node,
            "workload.replay": None,
            "episode.warm_starts": 1,
        }
    )
    simulator = Simulator(steady, clusters=len(seeds))
    shares = np.full((len(seeds), steady.nodes), share)
    for cluster, seed in enumerate(seeds):
        simulator.reset(cluster, streams_from_seed(seed), share=share)
    inside = arrived = 0.0
    for _ in range(max(1, round(measure_s / steady.episode.step_s))):
        node = simulator.step(shares).node
        inside += float(node[:, :, Node.WITHIN_SLO].sum())
        arrived += float(node[:, :, Node.ARRIVED].sum())
    return inside / arrived if arrived else 1.0


def highest_rate(met: Callable[[float], bool], guess: float, tolerance: float) -> float:
    """Largest rate at which ``met`` holds, to a relative ``tolerance``; 0 if at none.

    Args:
        met: whether a rate is carried; taken to be monotone.
        guess: where the search begins.
        tolerance: (high - low) / low at which it ends.
    """
    low, high = 0.0, guess
    while met(high):
        low, high = high, 2.0 * high
        if high > HIGHEST_RPS:
            raise ConfigError(
                f"{low:g} requests/s per node still meet the SLO: nothing limits this scenario; "
                "check its service times and its SLO"
            )
    if low == 0.0:
        low = high
        while not met(low):
            high, low = low, low / 2.0
            if low < guess / 64.0:
                return 0.0
    while high - low > tolerance * low:
        middle = (low + high) / 2.0
        low, high = (middle, high) if met(middle) else (low, middle)
    return low


def measure_capacity(
    scenario: Scenario,
    shares: Sequence[float],
    *,
    seeds: Sequence[int] = (SEED, SEED + 1),
    measure_s: float = MEASURE_S,
    tolerance: float = TOLERANCE,
    threads: int = 1,
    progress: bool = False,
) -> list[MixCapacity]:
    """Measure the capacity of every share in every mix of a scenario.

    Args:
        scenario: what to measure; of a ``phases`` regime each phase alone, steady.
        shares: static EMB shares.
        seeds: clusters per measurement, pooled.
        measure_s: simulated time per cluster and rate, after the warm-up.
        tolerance: relative accuracy of a capacity.
        threads: measurements at the same time; results do not depend on it.
        progress: show a progress bar on stderr.

    Raises:
        ConfigError: the scenario replays a log, whose rate is not ours to set.
    """
    if scenario.workload.replay is not None:
        raise ConfigError("capacity needs generated requests; this scenario replays a log")
    if not shares or not seeds:
        raise ConfigError("capacity needs at least one share and one seed")
    mixes = mixes_of(scenario)
    guess = scenario.workload.capacity_rps_per_node.value

    def search(mix: Mapping[str, float], share: float) -> float:
        def met(rate: float) -> bool:
            inside = satisfaction(scenario, mix, share, rate, seeds, measure_s)
            return inside >= SATISFACTION

        return highest_rate(met, guess, tolerance)

    jobs = {
        (name, share): partial(search, mix, share)
        for name, mix in mixes.items()
        for share in shares
    }
    found = _run(jobs, threads, progress)
    return [
        MixCapacity(name, mix, {share: found[name, share] for share in shares})
        for name, mix in mixes.items()
    ]


def _run(
    jobs: Mapping[tuple[str, float], Callable[[], float]], threads: int, progress: bool
) -> dict[tuple[str, float], float]:
    found: dict[tuple[str, float], float] = {}
    with (
        progress_bar("capacity", len(jobs), wanted=progress, transient=False) as bar,
        ThreadPoolExecutor(threads) as pool,
    ):
        waiting: dict[Future[float], tuple[str, float]] = {
            pool.submit(job): key for key, job in jobs.items()
        }
        try:
            while waiting:
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    found[waiting.pop(future)] = future.result()
                    bar.advance()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
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
