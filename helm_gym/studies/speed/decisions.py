"""How long a decision takes: the controller beside the usual ways to run the same network.

The controller is timed from raw telemetry to shares. The others are handed a finished input, so
what they would need to build it is not in their figures. Every call is timed on its own, the
timer's some 50 ns included. A loop of calls has warm caches; a call every few seconds has not.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from helm_gym.agents.controller.controller import HelmController
from helm_gym.agents.controller.telemetry import ClusterColumn, NodeColumn, Site, empty
from helm_gym.agents.models.layers import layers_of
from helm_gym.agents.models.trained import TrainedPolicy
from helm_gym.console import make_table

Array = NDArray[Any]
Floats = NDArray[np.float64]
ONE, MANY = 1, 32
COLD_CALLS = 50
SWEPT = 8 << 20  # float64s that empty the caches: 64 MB
SITE = Site(
    step_s=5.0, slo_s=0.1, deadline_s=0.2, pool_bytes=32e9, nominal_rps=200.0,
    longest_history=8192.0, most_candidates=512.0,
)  # fmt: skip
"""A cluster to time on; no figure depends on its sizes."""


class Timing(NamedTuple):
    """One way to decide; times in us, or why there are none."""

    name: str
    nodes: int
    begins: str  # what a call begins with
    median: float  # of a round; the median of all rounds
    p99: float  # the same
    fastest: float  # call of all
    cold: float  # median after other work has emptied the processor's caches
    skipped: str = ""


def example(nodes: int, seed: int = 0, site: Site = SITE) -> Floats:
    """Telemetry that could be: (M + 1, N_COLUMNS), random around an ordinary day."""
    rng = np.random.default_rng(seed)
    found = empty(nodes)
    arrived = rng.poisson(site.nominal_rps * site.step_s, nodes).astype(np.float64)
    shed = np.floor(arrived * rng.uniform(0.0, 0.05, nodes))
    looked_up = arrived * rng.uniform(1e6, 1e7, nodes)
    per_request = {
        NodeColumn.LATENCY_S: site.slo_s, NodeColumn.WAIT_S: site.slo_s / 4.0,
        NodeColumn.HISTORY_TOKENS: site.longest_history, NodeColumn.CANDIDATES: 256.0,
        NodeColumn.HOT: 1.0,
    }  # fmt: skip
    levels = {
        NodeColumn.LINK_S: site.step_s, NodeColumn.GPU_S: site.step_s,
        NodeColumn.GHOST_KV_S: 0.1, NodeColumn.MARGINAL_EMB_S: 0.02,
        NodeColumn.LINK_DELAY_S: site.deadline_s / 4.0, NodeColumn.SHARE: 0.9,
        NodeColumn.GPU_DELAY_S: site.deadline_s / 4.0, NodeColumn.REFILL_BACKLOG: 1e9,
    }  # fmt: skip
    columns = {
        NodeColumn.ARRIVED: arrived,
        NodeColumn.SHED: shed,
        NodeColumn.WITHIN_SLO: (arrived - shed) * rng.uniform(0.8, 1.0, nodes),
        NodeColumn.KV_HITS: (arrived - shed) * rng.uniform(0.0, 1.0, nodes),
        NodeColumn.LOOKUP_BYTES: looked_up,
        NodeColumn.MISS_BYTES: looked_up * rng.uniform(0.0, 1.0, nodes),
        NodeColumn.TIME_S: np.zeros(nodes),
        **{place: arrived * rng.uniform(0.0, most, nodes) for place, most in per_request.items()},
        **{place: rng.uniform(0.1 * most, most, nodes) for place, most in levels.items()},
    }
    for column, values in columns.items():
        found[:-1, column] = values
    found[-1, ClusterColumn.P99_S] = site.slo_s * rng.uniform(0.3, 1.5)
    found[-1, ClusterColumn.NOW_S] = 0.0
    return found


def torch_network(base: TrainedPolicy) -> Any:
    """The base's MLP in torch."""
    import torch

    parts: list[Any] = []
    for weight, bias in layers_of(base):
        linear = torch.nn.Linear(weight.shape[1], weight.shape[0])
        linear.load_state_dict(
            {"weight": torch.tensor(np.array(weight)), "bias": torch.tensor(np.array(bias))}
        )
        parts += [linear, torch.nn.Tanh()]
    return torch.nn.Sequential(*parts[:-1])


def sb3_policy(base: TrainedPolicy) -> Any:
    """An SB3 policy with the base's weights, whose ``predict`` is what users call."""
    import torch
    from gymnasium.spaces import Box, Discrete
    from stable_baselines3.common.policies import ActorCriticPolicy

    layers = layers_of(base)
    widths = [len(bias) for _, bias in layers[:-1]]
    choices = len(layers[-1][1])
    seen = Box(0.0, 2.0, (layers[0][0].shape[1],), np.float32)
    decides = Discrete(choices) if choices > 1 else Box(-1.0, 1.0, (1,), np.float32)
    made = ActorCriticPolicy(seen, decides, lambda _: 0.0, net_arch={"pi": widths, "vf": [8]})
    linear = [p for p in made.mlp_extractor.policy_net if isinstance(p, torch.nn.Linear)]
    for part, (weight, bias) in zip([*linear, made.action_net], layers, strict=True):
        part.load_state_dict(
            {"weight": torch.tensor(np.array(weight)), "bias": torch.tensor(np.array(bias))}
        )
    return made


def timed(
    name: str, nodes: int, begins: str, call: Callable[[], object], calls: int, rounds: int
) -> Timing:
    """Time a call, over and over.

    Args:
        name: in the table.
        nodes: that it decides for.
        begins: what it begins with.
        call: the decision.
        calls: of a round, timed one by one.
        rounds: whose medians and P99s are taken the median of: other processes disturb some.
    """
    clock = time.perf_counter_ns
    for _ in range(min(calls, 100)):
        call()
    taken = np.empty((rounds, calls))
    for row in taken:
        for index in range(calls):
            begin = clock()
            call()
            row[index] = clock() - begin
    other_work, cold = np.zeros(SWEPT), np.empty(min(calls, COLD_CALLS))
    for index in range(len(cold)):
        other_work += 1.0
        begin = clock()
        call()
        cold[index] = clock() - begin
    taken, cold = taken / 1e3, cold / 1e3
    return Timing(
        name,
        nodes,
        begins,
        float(np.median(np.median(taken, axis=1))),
        float(np.median(np.percentile(taken, 99, axis=1))),
        float(taken.min()),
        float(np.median(cold)),
    )


def ways(base: TrainedPolicy, many: int = MANY) -> Iterator[tuple[str, int, str, Any]]:
    """Name, nodes, what a call begins with, and the call, or the package that it lacks."""
    layers_of(base)  # refuses what the controller cannot run
    alone: dict[str, Any] = {"adapter": None, "recovery": None}
    for nodes in (ONE, many):
        for name, off in (("HelmController, all layers", {}), ("HelmController, base only", alone)):
            yield name, nodes, "telemetry", _controller(base, nodes, off)
    for nodes in (ONE, many):
        observations = _observations(base, nodes)
        yield "NumPy, TrainedPolicy.act", nodes, "observation", _call(base.act, observations)
        seen = base.card.view.model_copy(update={"nodes": nodes}).see(observations[0])
        for name, package, make in (
            ("torch, inference_mode", "torch", _torch),
            ("SB3, predict", "stable_baselines3", _sb3),
        ):
            found = importlib.util.find_spec(package) is not None
            yield name, nodes, "network input", make(base, seen) if found else package
        lacks = [p for p in ("onnx", "onnxruntime") if importlib.util.find_spec(p) is None]
        call = lacks[0] if lacks else _onnx(base, observations[0])
        yield "ONNX Runtime", nodes, "observation", call


def measure(
    base: TrainedPolicy, many: int = MANY, calls: int = 2000, rounds: int = 5
) -> Iterator[Timing]:
    """Time every way to decide that is installed; the others say what they lack."""
    for name, nodes, begins, call in ways(base, many):
        if isinstance(call, str):
            nan = float("nan")
            yield Timing(name, nodes, begins, nan, nan, nan, nan, f"{call} is not installed")
        else:
            yield timed(name, nodes, begins, call, calls, rounds)


def table(timings: list[Timing]) -> Any:
    """One row per timing."""
    rows = []
    for row in timings:
        figures = [f"{value:.2f}" for value in (row.median, row.p99, row.fastest, row.cold)]
        shown = [f"skipped: {row.skipped}", "", "", ""] if row.skipped else figures
        rows.append((row.name, str(row.nodes), row.begins, *shown))
    headings = ("", "nodes", "from", "median (us)", "P99 (us)", "fastest (us)", "cold (us)")
    return make_table(headings, rows, left=7)


def _controller(base: TrainedPolicy, nodes: int, off: dict[str, Any]) -> Callable[[], object]:
    controller = HelmController(SITE, nodes, base=base, **off)
    if controller.learner is not None:  # one that has learned something
        weights = controller.learner.weights
        last = np.random.default_rng(0).normal(size=weights.w3.shape)
        controller.load_adapter(weights._replace(w3=last))
    return _call(controller.decide, example(nodes))


def _observations(base: TrainedPolicy, nodes: int) -> Array:
    """(1, M, F) of :func:`example`."""
    controller = HelmController(SITE, nodes, base=base, adapter=None, recovery=None)
    controller.decide(example(nodes))
    return controller.observation[None, :, : len(base.card.view.features)]


def _call(function: Callable[[Any], object], argument: Any) -> Callable[[], object]:
    return lambda: function(argument)


def _torch(base: TrainedPolicy, seen: Array) -> Callable[[], object]:
    import torch

    network, given = torch_network(base), torch.tensor(np.array(seen))

    def call() -> object:
        with torch.inference_mode():
            return network(given).numpy()

    return call


def _sb3(base: TrainedPolicy, seen: Array) -> Callable[[], object]:
    policy = sb3_policy(base)
    return lambda: policy.predict(seen, deterministic=True)


def _onnx(base: TrainedPolicy, observations: Array) -> Callable[[], object]:
    from helm_gym.agents.models.onnx import INPUT, OUTPUT, graph

    runtime: Any = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = runtime.InferenceSession(
        graph(base).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    feed = {INPUT: np.ascontiguousarray(observations)}
    return lambda: session.run([OUTPUT], feed)
