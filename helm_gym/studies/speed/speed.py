"""Time and memory of this installation: ``helm-gym speed``.

Everything is warmed up before it is timed, repeated, and reported as a median. Figures of one run
belong together: on a shared machine they vary by tens of per cent from run to run, and so do the
yardsticks timed beside them.
"""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode

from helm_gym.config.scenario import Scenario
from helm_gym.envs.vector_env import EmbKvVectorEnv
from helm_gym.runs import warmup as starts
from helm_gym.seeding import streams_from_seed
from helm_gym.sim.layout import Node
from helm_gym.sim.simulator import Simulator
from helm_gym.studies.speed import yardsticks

SCENARIO = "feasibility"
ROUTER = "predicted_completion"
SHARE = 0.5


def load_average() -> float:
    """Of the last minute; NaN on Windows, which has none."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else math.nan


@dataclass(frozen=True)
class Measure:
    """One figure."""

    name: str
    value: float  # median over repeats
    unit: str
    low: float  # fastest repeat
    high: float  # slowest
    target: str = ""  # in words
    met: bool | None = None  # None: no target

    @classmethod
    def of(cls, name: str, values: list[float], unit: str, at_most: float | None = None) -> Measure:
        """Median of repeats; ``at_most`` is the target."""
        middle = statistics.median(values)
        target = "" if at_most is None else f"at most {at_most:g}"
        met = None if at_most is None else middle <= at_most
        return cls(name, middle, unit, min(values), max(values), target, met)


@dataclass
class Speed:
    """All figures of a run."""

    measures: list[Measure] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)  # name -> why
    busy: float = field(default_factory=load_average)

    def value(self, name: str) -> float:
        """Median of a figure."""
        return next(m.value for m in self.measures if m.name == name)


@dataclass(frozen=True)
class Effort:
    """How often and how long."""

    repeats: int = 9
    windows: int = 3  # simulated per repeat and cluster
    yardstick_requests: int = 1_000_000
    clusters: int = 16
    starts: int = 5


QUICK = Effort(repeats=3, windows=1, yardstick_requests=100_000, clusters=4, starts=1)


class _Timed(Simulator):
    """A simulator that knows how long its kernel ran."""

    kernel_s = 0.0

    def _step_one(self, cluster: int, shares: Any) -> None:
        began = time.perf_counter()
        super()._step_one(cluster, shares)
        self.kernel_s += time.perf_counter() - began


def feasibility(**changes: Any) -> Scenario:
    """The scenario that figures refer to: 32 nodes, predicted completion."""
    return Scenario.load(SCENARIO).replace({"router.name": ROUTER, **changes})


def started(scenario: Scenario, clusters: int = 1, threads: int = 1) -> Simulator:
    """A simulator on its warm start, one window in."""
    simulator = Simulator(scenario, clusters, threads)
    for cluster in range(clusters):
        simulator.reset(cluster, streams_from_seed(cluster), share=SHARE)
    simulator.step(np.full((clusters, scenario.nodes), SHARE))
    return simulator


def seconds_per_request(simulator: Simulator, effort: Effort) -> list[float]:
    """Wall seconds per request, workload generation included, of every repeat."""
    shares = np.full((simulator.clusters, simulator.scenario.nodes), SHARE)
    found = []
    for _ in range(effort.repeats):
        requests = 0.0
        began = time.perf_counter()
        for _ in range(effort.windows):
            requests += float(simulator.step(shares).node[:, :, Node.ARRIVED].sum())
        found.append((time.perf_counter() - began) / requests)
    return found


def measure_requests(speed: Speed, effort: Effort) -> None:
    """One cluster, several in turn, and two on two threads."""
    one = started(feasibility())
    single = seconds_per_request(one, effort)
    speed.measures.append(
        Measure.of("request, one 32-node cluster", _ns(single), "ns", at_most=250)
    )
    turn = started(feasibility(), effort.clusters)
    speed.measures.append(
        Measure.of(
            f"request, {effort.clusters} clusters in turn",
            _ns(seconds_per_request(turn, effort)),
            "ns",
            at_most=350,
        )
    )
    pair = started(feasibility(), 2, threads=2)
    # One and two in alternation, so that a change of the machine's speed meets both.
    gains = []
    for _ in range(effort.repeats):
        alone = seconds_per_request(one, Effort(1, effort.windows))[0]
        gains.append(alone / seconds_per_request(pair, Effort(1, effort.windows))[0])
    pair.close()
    middle = statistics.median(gains)
    speed.measures.append(
        Measure(
            "two clusters on two threads, throughput of one",
            middle, "x", min(gains), max(gains), "at least 1.8", middle >= 1.8,
        )
    )  # fmt: skip


def measure_growth(speed: Speed, effort: Effort) -> None:
    """Cost per request against the number of nodes and of users."""
    small = statistics.median(seconds_per_request(started(feasibility()), effort))
    large = seconds_per_request(started(feasibility(nodes=256)), effort)
    speed.measures.append(
        Measure.of("request, 256 nodes to 32", [x / small for x in large], "x", at_most=8)
    )
    few = seconds_per_request(started(feasibility(**{"workload.users": 100_000})), effort)
    many = seconds_per_request(started(feasibility(**{"workload.users": 1_000_000})), effort)
    base = statistics.median(few)
    speed.measures.append(
        Measure.of("request, 1e6 users to 1e5", [x / base for x in many], "x", at_most=1.5)
    )


def measure_environment(speed: Speed, effort: Effort) -> None:
    """State size, reset from a snapshot, and what a step costs beyond the kernel."""
    scenario = feasibility(**{"workload.users": 200_000})
    env = EmbKvVectorEnv(1, scenario=scenario, autoreset_mode=AutoresetMode.DISABLED)
    simulator = _Timed(scenario)
    env.simulator = simulator
    speed.measures.append(
        Measure.of(
            "state of one cluster, 2e5 users", [simulator.state_bytes / 1e6], "MB", at_most=64
        )
    )
    env.reset(seed=0)
    resets, beyond = [], []
    for repeat in range(effort.repeats):
        began = time.perf_counter()
        env.reset(seed=repeat)
        resets.append(1e3 * (time.perf_counter() - began))
        simulator.kernel_s = 0.0
        began = time.perf_counter()
        for _ in range(effort.windows):
            env.step(np.full((1, 1), SHARE))
        beyond.append(100.0 * (1.0 - simulator.kernel_s / (time.perf_counter() - began)))
    speed.measures.append(Measure.of("reset from a snapshot", resets, "ms", at_most=5))
    speed.measures.append(Measure.of("step beyond the kernel", beyond, "%", at_most=5))


def measure_starts(speed: Speed, effort: Effort) -> None:
    """Import time, in fresh processes."""
    times = [starts.import_seconds() for _ in range(effort.starts + 1)]
    speed.measures.append(Measure.of("import helm_gym", times[1:], "s", at_most=0.5))  # disk warm


def measure_compilation(speed: Speed) -> None:
    """First compilation of all kernels, and a later start, in fresh processes."""
    cold, warm = starts.compile_seconds()
    speed.measures.append(Measure.of("first compilation of all kernels", [cold], "s", at_most=30))
    speed.measures.append(Measure.of("a later start, up to the first step", [warm], "s", at_most=1))


def measure_yardsticks(speed: Speed, effort: Effort) -> None:
    """Other programs on their own request streams, and our figure beside them."""
    ours = speed.value("request, one 32-node cluster")
    n = effort.yardstick_requests
    known: list[tuple[str, Callable[[int], float], int]] = [
        ("libcachesim LRU", yardsticks.lru_seconds, n),
        ("libcachesim LRU, small table", lambda n: yardsticks.lru_seconds(n, 18), n),
        ("SimPy, 32 servers, shortest queue", yardsticks.simpy_seconds, n // 20),
    ]
    for name, timed, requests in known:
        try:
            times = _ns([timed(requests) for _ in range(min(3, effort.repeats))])
        except yardsticks.Missing as reason:
            speed.skipped[name] = str(reason)
            continue
        speed.measures.append(Measure.of(name, times, "ns"))
        times_ours = [ours / ns for ns in times]
        speed.measures.append(Measure.of(f"ours to {name}", times_ours, "x"))


def _ns(seconds: list[float]) -> list[float]:
    return [1e9 * x for x in seconds]


def measure(quick: bool = False, cold: bool = False, progress: bool = False) -> Speed:
    """Measure everything.

    Args:
        quick: few, short repeats: figures are rough.
        cold: compile all kernels in a fresh cache too (half a minute).
        progress: say on stderr what is being measured.
    """
    effort, speed = (QUICK if quick else Effort()), Speed()
    starts.warm_up()
    rooms: list[tuple[str, Callable[[], None]]] = [
        ("requests", lambda: measure_requests(speed, effort)),
        ("growth", lambda: measure_growth(speed, effort)),
        ("environment", lambda: measure_environment(speed, effort)),
        ("starts", lambda: measure_starts(speed, effort)),
        ("yardsticks", lambda: measure_yardsticks(speed, effort)),
    ]
    if cold:
        rooms.append(("compilation", lambda: measure_compilation(speed)))
    with _status(progress) as say:
        for name, room in rooms:
            say(f"measuring {name}")
            room()
    return speed


@contextmanager
def _status(wanted: bool) -> Iterator[Callable[[str], None]]:
    if not wanted:
        yield lambda text: None
        return
    from rich.console import Console

    with Console(stderr=True).status("warming up") as status:
        yield status.update
