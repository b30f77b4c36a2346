"""The two servers against queueing theory: M/M/1, M/D/1, GI/M/1, M/M/c, a tandem, Little's law.

Every session is one request, so sessions that start as a Poisson process are Poisson requests. The
pool is too small for a single page or block: nothing is ever resident, and a cost proportional to
the history makes service times independent draws from the users' history lengths. These lie on
the quantiles of an exponential law, in units so fine that rounding them does not matter.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from small import small_scenario, with_params

from helm_gym.seeding import streams_from_seed
from helm_gym.sim.layout import Cluster, Node
from helm_gym.sim.params import Cost
from helm_gym.sim.simulator import Simulator
from helm_gym.sim.token_times import STRIDE, Column

RATE = 100.0  # requests/s per node
USERS = 50_000
MEAN_TOKENS = 1e6  # of the exponential histories
SEEDS = 8
WARM_UP_S, WINDOW_S = 20.0, 500.0
STANDARD_ERRORS = 4.0


def queue(
    nodes: int = 1,
    cv: float = 1.0,
    deadline_s: float = 1e9,
    gpu_fixed: float = 0.0,
    gpu_token: float = 0.0,
    link_byte: float = 0.0,
) -> Simulator:
    """Nodes whose GPU takes so many s per request and history token, and the link per byte."""
    one = {"log_mean": -50, "log_sigma": 0.001}  # rounded up: every session is one request
    scenario = small_scenario(
        **{
            "nodes": nodes,
            "memory.pool_gb": 1e-4,
            "router.name": "least_loaded",
            "emb.tick_s": 1e6,
            "workload.users": USERS,
            "workload.surfaces": [{"name": "only", "candidates": 1, "session_length": one}],
            "workload.mix": {},
            "workload.session_start_cv": cv,
            "workload.profile.activity_sigma": 0,
            "workload.profile.new_items_per_request": 0,
            "workload.capacity_rps_per_node": RATE,
            "slo.deadline_ms": deadline_s * 1e3,
            "episode.step_s": WINDOW_S,
        }
    )
    simulator = Simulator(scenario)
    quantiles = (np.arange(USERS) + 0.5) / USERS
    history = np.ceil((1 - MEAN_TOKENS * np.log1p(-quantiles)) / STRIDE) * STRIDE
    simulator.lowered.users["history"] = history
    tokens = np.zeros((int(history.max()) // STRIDE + 2, len(Column)))
    tokens[:, Column.GEMM] = gpu_fixed
    tokens[:, Column.PREFILL] = gpu_token * STRIDE * np.arange(len(tokens))
    cost = Cost(tokens, link_latency=0.0, link_byte=link_byte, refill_rate=1.0)
    with_params(
        simulator,
        cost=cost._asdict(),
        cache={"history_row_bytes": 1.0, "candidate_row_bytes": 0.0},
    )
    with_params(simulator, cache={"max_history": int(history.max())})
    return simulator


def exponential(mean_s: float) -> float:
    """Seconds per token, or per byte, of service times with this mean."""
    return mean_s / MEAN_TOKENS


def window(simulator: Simulator, seed: int) -> np.ndarray:
    """(R, 6) record of one long window, less its beginning with empty queues."""
    simulator.reset(0, streams_from_seed(seed))
    nodes = simulator.scenario.nodes
    capacity = int(1.2 * RATE * nodes * WINDOW_S)
    rows = simulator.record(np.full(nodes, 0.5), 0, capacity)
    assert not rows[:, 4].any(), "no request may find its KV here"
    return rows[rows[:, 0] > WARM_UP_S]


def check(simulator: Simulator, statistic: Callable[[np.ndarray], float], theory: float) -> None:
    """Independent runs agree with theory inside their own standard error, and that is small."""
    runs = [statistic(window(simulator, seed)) for seed in range(SEEDS)]
    error = np.std(runs, ddof=1) / math.sqrt(SEEDS)
    assert error < 0.03 * theory, f"too noisy to prove anything: {error:.2g} of {theory:.4g}"
    found = f"{np.mean(runs):.5g} +- {error:.2g}, theory says {theory:.5g}"
    assert abs(np.mean(runs) - theory) < STANDARD_ERRORS * error, found


def mean_latency(rows: np.ndarray) -> float:
    return float(rows[:, 3].mean())


def p99(rows: np.ndarray) -> float:
    return float(np.quantile(rows[:, 3], 0.99))


# Where exponential service can happen: GPU seconds per token of a history without KV, or link
# seconds per byte of its rows.
STAGES = pytest.mark.parametrize("stage", ["gpu_token", "link_byte"])


@STAGES
@pytest.mark.parametrize("load", [0.5, 0.8])
def test_mean_latency_of_mm1(stage: str, load: float) -> None:
    mean = load / RATE
    check(queue(**{stage: exponential(mean)}), mean_latency, mean / (1 - load))


@STAGES
def test_p99_of_mm1(stage: str) -> None:
    mean = 0.7 / RATE  # latency is exponential too
    check(queue(**{stage: exponential(mean)}), p99, math.log(100) * mean / 0.3)


@pytest.mark.parametrize("load", [0.5, 0.8])
def test_mean_latency_of_md1(load: float) -> None:
    service = load / RATE
    simulator = queue(gpu_fixed=service)
    check(simulator, mean_latency, service * (1 + load / (2 * (1 - load))))


def test_gamma_arrivals_wait_as_in_gm1() -> None:
    cv, service = 1.5, 0.6 / RATE
    shape, root = cv**-2, 0.5
    for _ in range(200):  # the part that waits: sigma = A*(mu (1 - sigma))
        root = (1 + (1 - root) / (service * RATE * shape)) ** -shape
    assert abs(root - 0.6) > 0.05, "as good as Poisson, so nothing about Gamma would be proven"
    simulator = queue(cv=cv, gpu_token=exponential(service))
    check(simulator, mean_latency, service / (1 - root))


def test_least_loaded_nodes_are_one_queue_with_four_servers() -> None:
    servers, load = 4, 0.85
    offered, mean = servers * load, load / RATE
    below = sum(offered**k / math.factorial(k) for k in range(servers))
    full = offered**servers / math.factorial(servers) / (1 - load)
    erlang_c = full / (below + full)
    wait = erlang_c * mean / (servers * (1 - load))
    simulator = queue(nodes=servers, gpu_token=exponential(mean))
    check(simulator, mean_latency, wait + mean)


def test_link_and_gpu_are_a_tandem() -> None:
    """What leaves an M/M/1 is Poisson (Burke), so the GPU behind such a link is an M/D/1."""
    link, gpu = 0.7 / RATE, 0.6 / RATE
    theory = link / 0.3 + gpu * (1 + 0.6 / (2 * 0.4))
    check(queue(link_byte=exponential(link), gpu_fixed=gpu), mean_latency, theory)


@pytest.mark.parametrize("load", [0.8, 1.4])
def test_shed_part_of_mm1_with_a_deadline(load: float) -> None:
    """Requests that would wait longer than the deadline do not enter: a bounded workload."""
    mean = load / RATE
    deadline, decay = 4 * mean, (1 - load) / mean
    waiting = RATE * -math.expm1(-decay * deadline) / decay
    over = load * math.exp(-decay * deadline)
    simulator = queue(deadline_s=deadline, gpu_token=exponential(mean))
    check(simulator, lambda rows: float((rows[:, 3] < 0).mean()), over / (1 + waiting + over))


def test_histogram_p99_is_the_records() -> None:
    simulator = queue(gpu_token=exponential(0.7 / RATE))
    simulator.reset(0, streams_from_seed(5))
    rows = simulator.record(np.array([0.5]), 0)
    reported = simulator.states[0].out.cluster
    for column, q in ((Cluster.P50_S, 0.5), (Cluster.P99_S, 0.99)):
        assert reported[column] == pytest.approx(np.quantile(rows[:, 3], q), rel=1 / 64)


def test_littles_law() -> None:
    """Mean number in the system, seen at window ends, is rate times mean latency."""
    load, steps = 0.75, 40_000
    simulator = queue(link_byte=exponential(load / RATE), gpu_fixed=0.5 / RATE)
    with_params(simulator, routing={"window_s": 0.25})
    simulator.reset(0, streams_from_seed(11))
    seen, latency, arrived = np.zeros(steps), np.zeros(steps), np.zeros(steps)
    for step in range(steps):
        report = simulator.step(np.full((1, 1), 0.5))
        seen[step] = report.cluster[0, Cluster.IN_FLIGHT]
        latency[step] = report.node[0, 0, Node.LATENCY_S]
        arrived[step] = report.node[0, 0, Node.ARRIVED]
    # Sum of latencies per second is rate times mean latency; batches make the errors comparable.
    gaps = (seen - latency / 0.25).reshape(40, -1).mean(axis=1)
    error = gaps.std(ddof=1) / math.sqrt(gaps.size)
    assert error < 0.02 * seen.mean()
    assert abs(gaps.mean()) < STANDARD_ERRORS * error
    assert arrived.mean() / 0.25 == pytest.approx(RATE, abs=STANDARD_ERRORS * math.sqrt(RATE / 1e4))


@STAGES
def test_utilisation_law(stage: str) -> None:
    """Work admitted per second is rate times mean service, and as many find the server busy."""
    load = 0.6
    simulator = queue(**{stage: exponential(load / RATE)})
    rows = window(simulator, 3)
    column = Node.GPU_S if stage == "gpu_token" else Node.LINK_S
    work = simulator.states[0].out.node[0, column] / WINDOW_S
    assert work == pytest.approx(load, abs=STANDARD_ERRORS * load * math.sqrt(2 / RATE / WINDOW_S))
    service = simulator.lowered.users["history"][rows[:, 1].astype(int)] * exponential(load / RATE)
    waited = float((rows[:, 3] > service * (1 + 1e-9)).mean())
    assert waited == pytest.approx(load, abs=0.01)
