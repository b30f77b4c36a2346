"""The decision path: telemetry in, shares out, in one compiled call that allocates nothing.

It is the observation of :mod:`helm_gym.envs.observation` (number for number, float32), the base
network, the residual of :mod:`helm_gym.agents.adapter.net` and the burst machine of
:mod:`helm_gym.envs.recovery_machine`, node by node. Everything that it knows lies in two arrays,
because each argument costs a call from Python some 100 ns:

* ``memory`` (M + 2, W) float64: a row per node (:class:`Place`), the machine's parameters, and the
  settings (:class:`Setting`).
* ``nets`` float32: M rows of observations, rows to work in (:class:`Work`), and the weights, a row
  per input, see :mod:`helm_gym.agents.controller.weights`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import IntEnum
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

from helm_gym.agents.controller.kernels import dot, layer, tanh
from helm_gym.agents.controller.telemetry import N_COLUMNS, ClusterColumn, NodeColumn, Reason
from helm_gym.agents.models.layers import MOST_LAYERS
from helm_gym.agents.models.view import STEPS
from helm_gym.envs.observation import FEATURES, MARGINAL_SCALE
from helm_gym.envs.recovery_machine import N_PARAMS, N_SIGNALS, N_STATE, advance, read_signals
from helm_gym.sim.compiled import inlined, kernel_folder

Array = NDArray[Any]
FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])
F = len(FEATURES["extended"])  # features of a node
_SHARE = [feature.name for feature in FEATURES["extended"]].index("emb_share")
# Windows' arrivals / nominal; assumed, the strongest burst that we measured is x5. Averages would
# remember one wrapped counter for over an hour.
MOST_ARRIVED = 100.0
# Reasons as the memory holds them.
_NONE, _MISSING, _STALE, _ABSURD, _NO_P99, _NO_ANSWER = (float(reason) for reason in Reason)


class Place(IntEnum):
    """Columns of a node's row of ``memory``."""

    SHARE = 0  # last given
    PACE = 1  # of refill, last given
    STAGE = 2  # of the burst machine
    REASON = 3  # a telemetry.Reason
    HELD = 4  # decisions in which the node held its share, ever
    BEGUN = 5  # 1 once its averages have begun
    RATE_FAST = 6  # moving averages of the arrival rate, of nominal
    RATE_SLOW = 7
    TIME_S = 8  # of its last window
    GATE = 9  # two slots each; the one in use is Setting.SLOT
    OFFSET = 11
    STATE = 13  # of the burst machine, N_STATE numbers
    SIGNALS = 13 + N_STATE  # N_SIGNALS numbers


class Setting(IntEnum):
    """Columns of the last row of ``memory``."""

    STEP_S = 0
    NOMINAL = 1  # requests of a window
    KEEP_FAST = 2
    KEEP_SLOW = 3
    SLO_S = 4
    DEADLINE_S = 5
    POOL_BYTES = 6
    LONGEST = 7  # tokens
    MOST = 8  # candidates
    LOW = 9  # shares allowed
    HIGH = 10
    MAX_AGE_S = 11
    FEATURES = 12  # that the base reads
    CONTEXT = 13  # 1 if the base also reads their means
    INCREMENT = 14  # 1 if the base's output is a change of the share
    BOUND = 15  # longest such change
    BASE_LOW = 16
    BASE_HIGH = 17
    BASE = 18  # first row of its weights
    LAYERS = 19  # hidden ones
    WIDTH = 20  # MOST_LAYERS places
    ADAPTER = 24  # 1 if there is a residual
    RESIDUAL = 25  # first row of its weights, two slots
    RESIDUAL_ROWS = 27  # its hidden units
    RESIDUAL_BOUND = 28
    SLOT = 29  # 0 or 1, the residual's in use
    RECOVERY = 30  # 1 if there is a burst machine
    ANCHOR = 31  # planned share
    FOLLOW = 32  # part of the base's deviation from it that counts; 1: the base alone
    CHOICES = 33  # of how many steps the base chooses; 0: its output is a number


class Work(IntEnum):
    """Rows of ``nets`` after the observations."""

    MEAN = 0  # of the observations
    BASE = 1  # what the means contribute to the base's first layer
    RESIDUAL = 2  # and to the residual's
    ONE = 3
    OTHER = 4


N_WORK = len(Work)
_STATE, _SIGNALS = int(Place.STATE), int(Place.SIGNALS)
_END = _SIGNALS + N_SIGNALS
N_PLACES = max(_END, N_PARAMS, len(Setting) + MOST_LAYERS)
LANES = 16  # the residual's widths and the base's are multiples of it, filled up with zeros


@inlined
def _padded(width: int) -> int:
    return (width + LANES - 1) // LANES * LANES


@inlined
def _per(top: float, count: float) -> float:
    return top / max(count, 1.0)


@inlined
def _inside(value: float, high: float) -> np.float32:
    return np.float32(min(max(value, 0.0), high))


@inlined
def _reason(row: Array, now: float, settings: Array) -> float:
    """Why a node's telemetry cannot be used, a Reason."""
    total = now
    absurd = False
    for column in range(N_COLUMNS):
        total += row[column]
        absurd = absurd or row[column] < 0.0
    if math.isnan(total):  # an infinite number less another is none either
        return _MISSING
    if absurd or math.isinf(total):
        return _ABSURD
    if row[NodeColumn.SHED] > row[NodeColumn.ARRIVED] or row[NodeColumn.SHARE] > 1.0:
        return _ABSURD
    if row[NodeColumn.ARRIVED] > MOST_ARRIVED * settings[Setting.NOMINAL]:
        return _ABSURD
    age = now - row[NodeColumn.TIME_S]
    if age > settings[Setting.MAX_AGE_S]:
        return _STALE
    if age < -settings[Setting.STEP_S]:
        return _ABSURD
    return _NONE


@inlined
def _check(telemetry: Array, memory: Array, settings: Array, nodes: int) -> float:
    """Judge every node, and return the P99 in s that all see; NaN if none can decide."""
    now, p99 = telemetry[nodes, ClusterColumn.NOW_S], telemetry[nodes, ClusterColumn.P99_S]
    arrived, admitted = 0.0, 0.0
    for m in range(nodes):
        row = telemetry[m]
        reason = _reason(row, now, settings)
        memory[m, Place.REASON] = reason
        if reason == _NONE:
            arrived += row[NodeColumn.ARRIVED]
            admitted += row[NodeColumn.ARRIVED] - row[NodeColumn.SHED]
    if math.isnan(p99) and admitted == 0.0:
        # None was served: the P99 is the deadline if requests came.
        return float(settings[Setting.DEADLINE_S]) if arrived > 0.0 else 0.0
    if 0.0 <= p99 < math.inf:
        return float(p99)
    for m in range(nodes):
        if memory[m, Place.REASON] == _NONE:
            memory[m, Place.REASON] = _NO_P99
    return math.nan


@inlined
def _follow(own: Array, row: Array, settings: Array) -> None:
    """Continue a node's averages of the arrival rate by a window that is new."""
    rate = row[NodeColumn.ARRIVED] / settings[Setting.NOMINAL]
    if own[Place.BEGUN] == 0.0:
        first = rate if rate > 0.0 else 1.0
        own[Place.RATE_FAST], own[Place.RATE_SLOW], own[Place.BEGUN] = first, first, 1.0
    elif row[NodeColumn.TIME_S] > own[Place.TIME_S]:
        keep_fast, keep_slow = settings[Setting.KEEP_FAST], settings[Setting.KEEP_SLOW]
        own[Place.RATE_FAST] = rate + keep_fast * (own[Place.RATE_FAST] - rate)
        own[Place.RATE_SLOW] = rate + keep_slow * (own[Place.RATE_SLOW] - rate)
    own[Place.TIME_S] = row[NodeColumn.TIME_S]


@inlined
def _observe(
    seen: Array, row: Array, own: Array, settings: Array, p99: float, mean_share: float
) -> None:
    """Fill a node's ``extended`` observation; envs/observation.py says what each number is."""
    arrived, shed = row[NodeColumn.ARRIVED], row[NodeColumn.SHED]
    looked_up, admitted = row[NodeColumn.LOOKUP_BYTES], arrived - shed
    slo, deadline, step = (
        settings[Setting.SLO_S], settings[Setting.DEADLINE_S], settings[Setting.STEP_S]
    )  # fmt: skip
    unserved = deadline if admitted == 0.0 and arrived > 0.0 else 0.0
    latency = _per(row[NodeColumn.LATENCY_S], admitted) + unserved
    wait = _per(row[NodeColumn.WAIT_S], admitted) + unserved
    emb, kv = row[NodeColumn.MARGINAL_EMB_S], row[NodeColumn.GHOST_KV_S] / step
    fast, slow = own[Place.RATE_FAST], own[Place.RATE_SLOW]
    seen[0] = _inside(_per(row[NodeColumn.HOT], arrived), 1.0)
    seen[1] = _inside(_per(row[NodeColumn.KV_HITS], admitted), 1.0)
    seen[2] = _inside(_per(looked_up - row[NodeColumn.MISS_BYTES], looked_up), 1.0)
    tokens = _per(row[NodeColumn.HISTORY_TOKENS], arrived)
    seen[3] = _inside(tokens / settings[Setting.LONGEST], 1.0)
    seen[4] = _inside(_per(arrived - row[NodeColumn.WITHIN_SLO], arrived), 1.0)
    seen[5] = _inside(row[NodeColumn.SHARE], 1.0)
    seen[6] = _inside(p99 / (p99 + slo), 1.0)
    seen[7] = _inside(fast / (fast + 1.0), 1.0)
    seen[8] = _inside(slow / (slow + 1.0), 1.0)
    seen[9] = _inside(row[NodeColumn.LINK_DELAY_S] / deadline, 1.0)
    seen[10] = _inside(row[NodeColumn.GPU_DELAY_S] / deadline, 1.0)
    seen[11] = _inside(row[NodeColumn.LINK_S] / step, 2.0)
    seen[12] = _inside(row[NodeColumn.GPU_S] / step, 2.0)
    seen[13] = _inside(row[NodeColumn.REFILL_BACKLOG] / settings[Setting.POOL_BYTES], 1.0)
    seen[14] = _inside(_per(shed, arrived), 1.0)
    candidates = _per(row[NodeColumn.CANDIDATES], arrived)
    seen[15] = _inside(candidates / settings[Setting.MOST], 1.0)
    seen[16] = _inside(emb / (emb + MARGINAL_SCALE), 1.0)
    seen[17] = _inside(kv / (kv + MARGINAL_SCALE), 1.0)
    seen[18] = _inside(latency / (latency + slo), 1.0)
    seen[19] = _inside(wait / deadline, 1.0)
    seen[20] = _inside(mean_share, 1.0)


@inlined
def _see(telemetry: Array, memory: Array, nets: Array, settings: Array, nodes: int) -> int:
    """Observe all nodes; NaN are those of which nothing is known. Returns how many are known."""
    p99 = _check(telemetry, memory, settings, nodes)
    known, shares = 0, 0.0
    for m in range(nodes):
        if memory[m, Place.REASON] == _NONE:
            known += 1
            shares += telemetry[m, NodeColumn.SHARE]
        else:
            shares += memory[m, Place.SHARE]
    mean = nets[nodes + Work.MEAN]
    mean[:F] = 0.0
    for m in range(nodes):
        seen = nets[m]
        if memory[m, Place.REASON] != _NONE:
            seen[:F] = math.nan
            continue
        _follow(memory[m], telemetry[m], settings)
        _observe(seen, telemetry[m], memory[m], settings, p99, shares / nodes)
    for feature in range(F):
        total = 0.0
        for m in range(nodes):
            if memory[m, Place.REASON] == _NONE:
                total += float(nets[m, feature])
        mean[feature] = np.float32(total / max(known, 1))
    return known


@inlined
def _context(nets: Array, settings: Array, nodes: int) -> None:
    """What is the same for all nodes: the part of the first layers that reads the means."""
    mean = nodes + Work.MEAN
    features, begin = int(settings[Setting.FEATURES]), int(settings[Setting.BASE])
    width = _padded(int(settings[Setting.WIDTH]))
    # Rows: inputs, means of the inputs, bias.
    means = features if settings[Setting.CONTEXT] > 0.0 else 0
    bias = begin + features + means
    layer(nets, begin + features, means, mean, bias, nodes + Work.BASE, width)
    if settings[Setting.ADAPTER] > 0.0:
        begin = int(settings[Setting.RESIDUAL + int(settings[Setting.SLOT])])
        width = _padded(int(settings[Setting.RESIDUAL_ROWS]))
        layer(nets, begin + F, F, mean, begin + 2 * F, nodes + Work.RESIDUAL, width)


@inlined
def _base(nets: Array, settings: Array, nodes: int, m: int) -> float:
    """The base network's output for a node, a number of any size."""
    features, begin = int(settings[Setting.FEATURES]), int(settings[Setting.BASE])
    width = int(settings[Setting.WIDTH])
    one, other = nodes + Work.ONE, nodes + Work.OTHER
    layer(nets, begin, features, m, nodes + Work.BASE, one, _padded(width))
    tanh(nets, one, _padded(width))
    begin += features * (2 if settings[Setting.CONTEXT] > 0.0 else 1) + 1
    for depth in range(1, int(settings[Setting.LAYERS])):
        layer(
            nets, begin, width, one, begin + width, other,
            _padded(int(settings[Setting.WIDTH + depth])),
        )  # fmt: skip
        begin += width + 1
        width = int(settings[Setting.WIDTH + depth])
        tanh(nets, other, _padded(width))
        one, other = other, one
    if settings[Setting.CHOICES] > 0.0:
        layer(nets, begin, width, one, begin + width, other, LANES)
        return _chosen(nets[other], int(settings[Setting.CHOICES]))
    return float(dot(nets, begin, one, _padded(width)) + nets[begin + 1, 0])


@inlined
def _chosen(values: Array, choices: int) -> float:
    """The step of the largest value, the first of equals; NaN if one is not finite."""
    best = 0
    for k in range(choices):
        if not math.isfinite(values[k]):
            return math.nan
        if values[k] > values[best]:
            best = k
    return float(STEPS[best])


@inlined
def _residual(nets: Array, memory: Array, settings: Array, nodes: int, m: int) -> float:
    """The residual of a node, in share; 0 where it is off or not finite."""
    slot = int(settings[Setting.SLOT])
    gate = memory[m, Place.GATE + slot]
    if gate == 0.0:
        return 0.0
    begin = int(settings[Setting.RESIDUAL + slot])
    width = int(settings[Setting.RESIDUAL_ROWS])
    one, other = nodes + Work.ONE, nodes + Work.OTHER
    layer(nets, begin, F, m, nodes + Work.RESIDUAL, one, _padded(width))
    tanh(nets, one, _padded(width))
    begin += 2 * F + 1
    layer(nets, begin, width, one, begin + width, other, _padded(width))
    tanh(nets, other, _padded(width))
    begin += width + 1
    last = float(dot(nets, begin, other, _padded(width)) + nets[begin + 1, 0])
    bound = settings[Setting.RESIDUAL_BOUND]
    value = bound * math.tanh(last) + memory[m, Place.OFFSET + slot]
    return float(gate * min(max(value, -bound), bound)) if math.isfinite(value) else 0.0


@inlined
def _propose(nets: Array, memory: Array, settings: Array, nodes: int, m: int) -> float:
    """Base, anchor and residual for a node; NaN if the base has no answer."""
    output = _base(nets, settings, nodes, m)
    if not math.isfinite(output):
        return math.nan
    low, high = settings[Setting.BASE_LOW], settings[Setting.BASE_HIGH]
    output = min(max(output, -1.0), 1.0)
    if settings[Setting.INCREMENT] > 0.0:
        share = float(nets[m, _SHARE]) + settings[Setting.BOUND] * output
    else:
        share = low + (output + 1.0) / 2.0 * (high - low)
    share = float(np.float32(min(max(share, low), high)))  # as trained policies answer
    if settings[Setting.FOLLOW] < 1.0:
        anchor = settings[Setting.ANCHOR]
        share = min(max(anchor + settings[Setting.FOLLOW] * (share - anchor), low), high)
    if settings[Setting.ADAPTER] > 0.0:
        share = min(max(share + _residual(nets, memory, settings, nodes, m), low), high)
    return float(share)


@inlined
def _settle(nets: Array, memory: Array, settings: Array, m: int, proposed: float) -> None:
    """Put a node's decision into its row: the burst machine's, or the proposal."""
    own = memory[m]
    blind = own[Place.REASON] != _NONE
    in_force = own[Place.SHARE] if blind else float(nets[m, _SHARE])
    share = in_force if blind else proposed
    if not math.isfinite(share):
        own[Place.REASON] = _NO_ANSWER
        share, in_force = own[Place.SHARE], own[Place.SHARE]
    held = own[Place.REASON] != _NONE
    own[Place.HELD] += 1.0 if held else 0.0
    if settings[Setting.RECOVERY] > 0.0:
        given, pace, stage = advance(
            own[_STATE:_SIGNALS],
            memory[len(memory) - 2, :N_PARAMS],
            own[_SIGNALS:_END],
            share,
            in_force,
        )
        own[Place.PACE], own[Place.STAGE] = pace, stage
        share = share if held else given
    own[Place.SHARE] = min(max(share, settings[Setting.LOW]), settings[Setting.HIGH])


def _short(function: FunctionT) -> FunctionT:
    """A kernel that keeps the GIL: giving it up for microseconds may cost milliseconds to get back.

    A thread that learns would take it, and keep it for Python's switch interval, 5 ms.
    """
    settings: Any = numba.config  # its options are set at import and invisible to type checkers
    before, settings.CACHE_DIR = settings.CACHE_DIR, str(kernel_folder(__name__))
    try:
        jit: Any = numba.njit  # its stub does not know _nrt
        compiled = jit(cache=True, error_model="numpy", _nrt=False)(function)
    finally:
        settings.CACHE_DIR = before
    return cast(FunctionT, compiled)


@_short
def decide_nodes(telemetry: Array, memory: Array, nets: Array) -> int:
    """Decide for all nodes; shares and paces are then in ``memory``.

    Args:
        telemetry: (M + 1, N_COLUMNS) float64, see :mod:`helm_gym.agents.controller.telemetry`.
        memory: (M + 2, N_PLACES) float64, written.
        nets: float32, its first rows are written.

    Returns:
        Nodes whose telemetry could be used, or -1 if it is of another shape; nothing is decided
        then.
    """
    nodes = len(memory) - 2
    if telemetry.shape[0] != nodes + 1 or telemetry.shape[1] != N_COLUMNS:
        return -1
    settings = memory[nodes + 1]
    known = _see(telemetry, memory, nets, settings, nodes)
    if known > 0:
        _context(nets, settings, nodes)
    if settings[Setting.RECOVERY] > 0.0:
        read_signals(nets[:nodes], nodes, memory[:nodes, _SIGNALS:_END])
    for m in range(nodes):
        proposed = math.nan
        if memory[m, Place.REASON] == _NONE:
            proposed = _propose(nets, memory, settings, nodes, m)
        _settle(nets, memory, settings, m, proposed)
    return known
