"""The two servers of a node, and the least-loaded router, against queueing theory.

Every session is one request, so sessions that start as a Poisson process are Poisson requests. The
pool is too small for a single page or block, so nothing is ever resident, and a cost proportional
to the history makes service times independent draws: histories lie on the quantiles of the law of
the service time, in units so fine that rounding them does not matter.
"""

from __future__ import annotations

import heapq
import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.signal import residue

from helm_gym.config.scenario import Scenario
from helm_gym.fidelity.finding import Effort, Finding
from helm_gym.seeding import streams_from_seed
from helm_gym.sim.params import Cost
from helm_gym.sim.simulator import Simulator
from helm_gym.sim.token_times import STRIDE, Column
from helm_gym.units import MS

Floats = NDArray[np.float64]
Tail = Callable[[float], float]

PART = "Queues"
RATE = 100.0  # requests/s per node
USERS = 50_000
MEAN_TOKENS = 2.5e5  # of the histories, whatever their law
CANDIDATES = 256  # per request; they cost nothing here
WARM_UP_S = 20.0  # at the beginning of a window, when the queues are still empty
SERVERS = 32
TARGET = 4.0  # standard errors; exceeded by chance once in a thousand times
FIGURES = ("mean latency", "P99 latency")
THEORY = "Kleinrock, Queueing Systems I (1975)"

# Laws of service, as mixtures of exponentials of mean 1: (probability, rate) of each phase.
EXPONENTIAL = ((1.0, 1.0),)
_P = 0.5 * (1.0 + math.sqrt(3.0 / 5.0))
HYPER = ((_P, 2.0 * _P), (1.0 - _P, 2.0 * (1.0 - _P)))  # CV² 4, balanced means
Law = tuple[tuple[float, float], ...]

# One node: name, cost that follows the law of service (fixed if None), and where theory is from.
SINGLE: tuple[tuple[str, str, Law | None, str], ...] = (
    ("M/M/1 on the GPU", "gpu_token", EXPONENTIAL, THEORY),
    ("M/M/1 on the link", "link_byte", EXPONENTIAL, THEORY),
    ("M/D/1", "gpu_fixed", None, f"{THEORY}; P99: Erlang's series (1909)"),
    (
        "M/G/1, hyperexponential service of CV² 4",
        "gpu_token",
        HYPER,
        "Pollaczek-Khinchine: mean formula, and its transform inverted for the P99",
    ),
)


@dataclass(frozen=True)
class Plan:
    """How much is simulated."""

    loads: tuple[float, ...]
    many_loads: tuple[float, ...]
    runs: int
    seconds: float  # per run of one node
    many_seconds: float  # per run of 32 nodes


FULL = Plan((0.3, 0.5, 0.7, 0.85), (0.7, 0.9), 20, 6000.0, 100.0)
QUICK = Plan((0.5, 0.8), (0.8,), 10, 1500.0, 40.0)


@dataclass(frozen=True)
class Case:
    """Latencies of one queue at one load: what they should be, and what runs found."""

    load: float
    expected: tuple[float, float]  # s, mean and P99
    found: Floats  # (runs, 2) s
    requests: int
    expected_error: tuple[float, float] = (0.0, 0.0)  # s, standard errors if it was simulated

    def difference(self, column: int) -> tuple[float, float]:
        """Found less expected, and its standard error, both in % of what is expected."""
        one = 100.0 / self.expected[column]
        runs = self.found[:, column]
        error = math.hypot(
            float(runs.std(ddof=1)) / math.sqrt(runs.size), self.expected_error[column]
        )
        return one * (float(runs.mean()) - self.expected[column]), one * error


def checks(effort: Effort) -> Iterator[Finding]:
    """M/M/1 on either server, M/D/1, M/G/1, and 32 nodes behind the least-loaded router."""
    plan, seed = QUICK if effort.quick else FULL, effort.seed
    for queue_name, cost, law, source in SINGLE:
        cases = [_single(plan, load, cost, law, seed) for load in plan.loads]
        yield from _findings(queue_name, cases, source)
    name = f"M/M/{SERVERS}, {SERVERS} nodes with least_loaded"
    theory, simulated = zip(*(_many(plan, load, seed) for load in plan.many_loads), strict=True)
    yield from _findings(f"{name}, against Erlang C", theory, THEORY)
    source = "event simulation of one queue with 32 servers, a heap of free instants"
    yield from _findings(f"{name}, against a simulation of one queue", simulated, source)


def _findings(queue: str, cases: Sequence[Case], source: str) -> Iterator[Finding]:
    plot = {
        "x_label": f"load of {queue.partition(',')[0]}",
        "y_label": "latency less theory, %",
        "series": [_series(cases, column) for column in range(len(FIGURES))],
    }
    for column, figure in enumerate(FIGURES):
        off = [case.difference(column) for case in cases]
        by_load = ", ".join(
            f"{case.load:g}: {difference:+.2f} ± {error:.2f} %"
            for case, (difference, error) in zip(cases, off, strict=True)
        )
        yield Finding(
            part=PART,
            compared=f"{figure} of {queue}, load {_span(cases)}",
            points=sum(case.requests for case in cases),
            measure="largest difference",
            value=max(abs(difference) / error for difference, error in off),
            unit="standard errors",
            source=source,
            target=TARGET,
            note=f"By load, with the standard error over {len(cases[0].found)} runs: {by_load}.",
            details={} if column else {"plot": plot},
        )


def _series(cases: Sequence[Case], column: int) -> dict[str, Any]:
    """Differences with two standard errors, P99s a little to the right of means."""
    off = [case.difference(column) for case in cases]
    return {
        "label": f"{FIGURES[column]}, ± 2 standard errors",
        "x": [case.load + 0.01 * column for case in cases],
        "y": [difference for difference, _ in off],
        "error": [2.0 * error for _, error in off],
    }


def _span(cases: Sequence[Case]) -> str:
    first, last = cases[0].load, cases[-1].load
    return f"{first:g}" if first == last else f"{first:g} to {last:g}"


# -- the simulator -----------------------------------------------------------------------------


def _scenario(nodes: int, window_s: float) -> Scenario:
    one = {"log_mean": -50, "log_sigma": 0.001}  # rounded up: every session is one request
    surface: dict[str, Any] = {"name": "only", "candidates": CANDIDATES, "session_length": one}
    return Scenario.load("taobao-steady").replace(
        {
            "nodes": nodes,
            "memory.pool_gb": 1e-4,
            "router.name": "least_loaded",
            "emb.tick_s": 1e6,
            "workload.users": USERS,
            "workload.surfaces": [surface],
            "workload.mix": {},
            "workload.load": 1.0,
            "workload.profile.activity_sigma": 0,
            "workload.profile.new_items_per_request": 0,
            "workload.capacity_rps_per_node": RATE,
            "slo.deadline_ms": 1e9 / MS,
            "episode.step_s": window_s,
            "episode.warmup_s": 0,
            "episode.warm_starts": 1,
        }
    )


def queue(
    nodes: int,
    window_s: float,
    law: Law | None,
    *,
    gpu_fixed: float = 0.0,
    gpu_token: float = 0.0,
    link_byte: float = 0.0,
) -> Simulator:
    """Nodes that take so many s per request and token, and the link per byte, and nothing else.

    Args:
        nodes: behind the least-loaded router.
        window_s: length of a run.
        law: that histories follow.
        gpu_fixed: GPU seconds per request.
        gpu_token: GPU seconds per token of the history.
        link_byte: link seconds per byte; a token's row has one.
    """
    simulator = Simulator(_scenario(nodes, window_s))
    lengths = MEAN_TOKENS * quantiles(law or EXPONENTIAL, (np.arange(USERS) + 0.5) / USERS)
    rows = np.maximum(1, np.rint(lengths / STRIDE)).astype(np.int64)  # of the table of GPU times
    table = np.zeros((int(rows.max()) + CANDIDATES // STRIDE + 1, len(Column)))
    table[:, Column.GEMM] = gpu_fixed
    table[:, Column.PREFILL] = gpu_token * STRIDE * np.arange(len(table))
    low = simulator.lowered
    low.users["history"] = STRIDE * rows
    cache = low.params.cache._replace(
        history_row_bytes=1.0, candidate_row_bytes=0.0, max_history=int(STRIDE * rows.max())
    )
    cost = Cost(table, link_latency=0.0, link_byte=link_byte, refill_rate=1.0)
    simulator.lowered = low._replace(params=low.params._replace(cost=cost, cache=cache))
    return simulator


def latencies(simulator: Simulator, seed: int) -> Floats:
    """Latency of every request of one window, less its beginning with empty queues (s)."""
    simulator.reset(0, streams_from_seed(seed))
    scenario = simulator.scenario
    room = int(1.2 * RATE * scenario.nodes * scenario.episode.step_s) + 1000
    rows = simulator.record(np.full(scenario.nodes, 0.5), 0, room)
    return np.asarray(rows[rows[:, 0] > rows[0, 0] + WARM_UP_S, 3])


def _runs(plan: Plan, simulator: Simulator, case: Sequence[Any]) -> tuple[Floats, int]:
    """Mean and P99 of independent runs; no two cases share their random streams."""
    words = [zlib.crc32(str(word).encode()) for word in case]
    seeds = np.random.SeedSequence(words).generate_state(plan.runs)
    found = [latencies(simulator, int(seed)) for seed in seeds]
    figures = np.array([(run.mean(), np.quantile(run, 0.99)) for run in found])
    return figures, sum(run.size for run in found)


def _single(plan: Plan, load: float, cost: str, law: Law | None, seed: int) -> Case:
    """One node whose ``cost`` follows ``law`` (fixed service if None)."""
    service = load / RATE
    simulator = queue(1, plan.seconds, law, **{cost: service / (MEAN_TOKENS if law else 1.0)})
    found, requests = _runs(plan, simulator, (seed, cost, law, load))
    return Case(load, fixed(service) if law is None else mixed(service, law), found, requests)


def _many(plan: Plan, load: float, seed: int) -> tuple[Case, Case]:
    """32 nodes against Erlang C, and the same runs against a simulated queue."""
    service = load / RATE
    simulator = queue(SERVERS, plan.many_seconds, EXPONENTIAL, gpu_token=service / MEAN_TOKENS)
    found, requests = _runs(plan, simulator, (seed, SERVERS, load))
    rng = np.random.default_rng([seed, int(1000 * load)])
    other = np.array([one_queue(rng, service, plan.many_seconds) for _ in range(plan.runs)])
    errors = other.std(axis=0, ddof=1) / math.sqrt(plan.runs)
    mean, p99 = other.mean(axis=0)
    simulated = Case(
        load, (float(mean), float(p99)), found, requests, (float(errors[0]), float(errors[1]))
    )
    return Case(load, erlang_c(service, SERVERS), found, requests), simulated


def one_queue(rng: np.random.Generator, service: float, seconds: float) -> tuple[float, float]:
    """Mean and P99 latency of M/M/32 with one queue, by simulating its requests in order (s)."""
    rate = RATE * SERVERS
    count = rng.poisson(rate * seconds)
    arrival = np.sort(rng.uniform(0.0, seconds, count))
    work = rng.exponential(service, count)
    free = [0.0] * SERVERS
    latency = np.empty(count)
    for n, (now, takes) in enumerate(zip(arrival.tolist(), work.tolist(), strict=True)):
        done = max(now, free[0]) + takes
        heapq.heapreplace(free, done)
        latency[n] = done - now
    settled = latency[arrival > WARM_UP_S]
    return float(settled.mean()), float(np.quantile(settled, 0.99))


# -- theory: mean and P99 of the latency, in s ---------------------------------------------------


def quantiles(law: Law, probability: Floats) -> Floats:
    """Quantiles of a mixture of exponentials."""
    grid = np.linspace(0.0, 60.0 / min(rate for _, rate in law), 2_000_001)
    below = 1.0 - sum(p * np.exp(-rate * grid) for p, rate in law)
    return np.asarray(np.interp(probability, below, grid))


def mixed(service: float, law: Law, rate: float = RATE) -> tuple[float, float]:
    """M/G/1 whose service is a mixture of exponentials.

    The transform of the latency, ``(1 - load) s B(s) / (s - rate + rate B(s))``, is a ratio of
    polynomials, so the latency is a sum of exponentials again.
    """
    load = rate * service
    phases = [(p, each / service) for p, each in law]
    second_moment = sum(2.0 * p / each**2 for p, each in phases)
    below = np.poly1d(np.poly([-each for _, each in phases]))
    above = np.poly1d([0.0])
    for n, (p, each) in enumerate(phases):
        others = [-other for k, (_, other) in enumerate(phases) if k != n]
        above += p * each * np.poly1d(np.poly(others) if others else [1.0])
    # below - above vanishes at 0 (B(0) = 1), so s divides it.
    divided = np.poly1d((below - above).coeffs[:-1])
    weight, pole, _ = residue(((1.0 - load) * above).coeffs, (below - rate * divided).coeffs)
    scale = -weight / pole

    def tail(t: float) -> float:
        return float((scale * np.exp(pole * t)).real.sum())

    return service + rate * second_moment / (2.0 * (1.0 - load)), _p99(tail, service)


def fixed(service: float, rate: float = RATE) -> tuple[float, float]:
    """M/D/1: the waiting time is below t with Erlang's alternating series."""
    load = rate * service

    def tail(t: float) -> float:
        waited = t - service
        if waited < 0.0:
            return 1.0
        terms = []
        for k in range(int(waited / service) + 1):
            x = rate * (waited - k * service)
            terms.append(math.exp(x) * (-x) ** k / math.factorial(k))
        return 1.0 - (1.0 - load) * math.fsum(terms)

    return service * (1.0 + load / (2.0 * (1.0 - load))), _p99(tail, service)


def erlang_c(service: float, servers: int, rate: float = RATE) -> tuple[float, float]:
    """M/M/c in order of arrival; ``rate`` is that of one server."""
    load = rate * service
    offered = servers * load
    below = sum(offered**k / math.factorial(k) for k in range(servers))
    full = offered**servers / math.factorial(servers) / (1.0 - load)
    waits = full / (below + full)
    own, queue_rate = 1.0 / service, servers / service * (1.0 - load)

    def tail(t: float) -> float:
        both = (queue_rate * math.exp(-own * t) - own * math.exp(-queue_rate * t)) / (
            queue_rate - own
        )
        return (1.0 - waits) * math.exp(-own * t) + waits * both

    return service + waits / queue_rate, _p99(tail, service)


def _p99(tail: Tail, service: float) -> float:
    """Where a tail falls to 1 %."""
    high = service
    while tail(high) > 0.01:
        high *= 1.3
    return float(brentq(lambda t: tail(t) - 0.01, 0.0, high, xtol=1e-9 * service))
