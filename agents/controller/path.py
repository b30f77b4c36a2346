"""The decision path: telemetry in, shares out, in one compiled call that allocates nothing.

For every node it runs the formulas of :mod:`helm_gym.envs.observation`, the base network, the
anchor, the residual and the burst machine of :mod:`helm_gym.envs.recovery_machine`. A node whose
telemetry cannot be used holds its last share.

What it knows lies in arrays of records with named fields: :data:`NODE`, one per node, and
:data:`SETTINGS`, one in all. Named tuples would read as well, but handing one over from Python
costs some 250 ns per field, and an array of records 400 ns in all.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

from helm_gym.agents.controller.networks import INPUTS, N_WIDTHS, F, run
from helm_gym.agents.controller.telemetry import N_COLUMNS, ClusterColumn, NodeColumn, Reason
from helm_gym.agents.models.view import STEPS
from helm_gym.envs.observation import (
    SCALES,
    Feature,
    cut_to_ranges,
    follow_rates,
    known_p99,
    observe_more,
    observe_paper7,
)
from helm_gym.envs.recovery_machine import N_PARAMS, N_SIGNALS, N_STATE, advance, read_signals
from helm_gym.sim.compiled import inlined, kernel_folder
from helm_gym.sim.layout import N_NODE, Node

Array = NDArray[Any]
FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])
# Windows' arrivals / nominal; assumed, the strongest burst that we measured is x5. Averages would
# remember one wrapped counter for over an hour.
MOST_ARRIVED = 100.0
SLOTS = 2  # residuals: one in use, one to load the next weights into
BASE, RESIDUAL = 0, 1  # where the base and the first slot lie in the array of weights

NODE = np.dtype(
    [
        ("share", "f8"),  # EMB share last given
        ("pace", "f8"),  # pace of refill last given
        ("stage", "i8"),  # of the burst machine, a Stage
        ("reason", "i8"),  # why it held its share in the last decision, a Reason
        ("held", "i8"),  # decisions in which it held its share, ever
        ("begun", "?"),  # whether its averages have begun
        ("time_s", "f8"),  # end of the last window that its averages took in
        ("rates", "f8", (2,)),  # fast and slow average of the arrival rate, of nominal
        ("gate", "f8", (SLOTS,)),  # part of the residual that counts, 0: none
        ("machine", "f8", (N_STATE,)),  # state of the burst machine
        ("signals", "f8", (N_SIGNALS,)),  # that the burst machine reads
        ("sums", "f8", (N_NODE,)),  # telemetry in the simulator's columns
        ("inputs", "f4", (INPUTS,)),  # its observation, then the mean over the cluster
    ],
    align=True,
)
SETTINGS = np.dtype(
    [
        ("scales", SCALES),  # what the formulas of the observation divide by
        ("max_age_s", "f8"),  # beyond which telemetry is stale
        ("share_min", "f8"),  # lowest share that the site allows
        ("share_max", "f8"),  # highest
        ("base_widths", "i8", (N_WIDTHS,)),  # numbers in every layer of the base
        ("base_moves", "?"),  # whether the base's output is a change of the share in force
        ("base_chooses", "?"),  # whether it is one of STEPS
        ("base_bound", "f8"),  # longest change
        ("base_min", "f8"),  # lowest share that the base was trained with
        ("base_max", "f8"),  # highest
        ("anchor", "f8"),  # planned share
        ("follow", "f8"),  # part of the base's deviation from it that counts; 1: the base alone
        ("adapts", "?"),  # whether there is a residual
        ("residual_widths", "i8", (N_WIDTHS,)),  # numbers in every layer of the residual
        ("residual_bound", "f8"),  # longest residual, in share
        ("slot", "i8"),  # which of the residual's weights are in use
        ("recovers", "?"),  # whether there is a burst machine
        ("machine", "f8", (N_PARAMS,)),  # parameters of the burst machine
    ],
    align=True,
)
_SUMS = np.array([Node[c.name] for c in NodeColumn if c is not NodeColumn.TIME_S])


@inlined
def _reason(row: Array, now: float, site: Any) -> Reason:
    """Why a node's telemetry cannot be used."""
    total = now
    absurd = row[NodeColumn.SHED] > row[NodeColumn.ARRIVED] or row[NodeColumn.SHARE] > 1.0
    absurd = absurd or row[NodeColumn.ARRIVED] > MOST_ARRIVED * site.scales.nominal
    for column in range(N_COLUMNS):
        total += row[column]
        absurd = absurd or row[column] < 0.0
    age = now - row[NodeColumn.TIME_S]
    if math.isnan(total):  # an infinite number less another is none either
        return Reason.MISSING
    if absurd or math.isinf(total) or age < -site.scales.step_s:
        return Reason.ABSURD
    return Reason.STALE if age > site.max_age_s else Reason.NONE


@inlined
def _judge(telemetry: Array, nodes: Array, site: Any) -> float:
    """Judge every node, and return the P99 in s that all see; NaN if none can decide."""
    now, p99 = telemetry[-1, ClusterColumn.NOW_S], telemetry[-1, ClusterColumn.P99_S]
    arrived, admitted = 0.0, 0.0
    for m in range(len(nodes)):
        row = telemetry[m]
        nodes[m].reason = _reason(row, now, site)
        if nodes[m].reason == Reason.NONE:
            arrived += row[NodeColumn.ARRIVED]
            admitted += row[NodeColumn.ARRIVED] - row[NodeColumn.SHED]
    if admitted == 0.0:
        p99 = known_p99(p99, arrived, site.scales.deadline_s)
    if 0.0 <= p99 < math.inf:
        return float(p99)
    for m in range(len(nodes)):
        if nodes[m].reason == Reason.NONE:
            nodes[m].reason = Reason.NO_P99
    return math.nan


@inlined
def _observe(telemetry: Array, nodes: Array, site: Any) -> int:
    """Fill every node's inputs, and return the number of nodes that can decide."""
    p99_s = _judge(telemetry, nodes, site)
    known, shares = 0, 0.0
    for m in range(len(nodes)):
        if nodes[m].reason == Reason.NONE:
            known += 1
            shares += telemetry[m, NodeColumn.SHARE]
    for m in range(len(nodes)):
        own = nodes[m]
        if own.reason != Reason.NONE:
            own.inputs[:] = math.nan
            continue
        _follow(own, telemetry[m], site)
        observe_paper7(own.inputs, own.sums, p99_s, telemetry[m, NodeColumn.SHARE], site.scales)
        observe_more(own.inputs, own.sums, own.rates, shares / known, site.scales)
        cut_to_ranges(own.inputs[:F])
    return known


@inlined
def _follow(own: Any, row: Array, site: Any) -> None:
    """Take a node's telemetry in, and continue its averages if the window is new."""
    for column in range(len(_SUMS)):
        own.sums[_SUMS[column]] = row[column]
    if not own.begun or row[NodeColumn.TIME_S] > own.time_s:
        follow_rates(own.rates, row[NodeColumn.ARRIVED], site.scales, not own.begun)
    own.begun, own.time_s = True, row[NodeColumn.TIME_S]


@inlined
def _append_means(nodes: Array, known: int) -> None:
    """Append the mean over the nodes that can decide to their observations."""
    for feature in range(F):
        total = 0.0
        for m in range(len(nodes)):
            if nodes[m].reason == Reason.NONE:
                total += nodes[m].inputs[feature]
        for m in range(len(nodes)):
            nodes[m].inputs[F + feature] = total / known


@inlined
def _base(own: Any, site: Any, networks: Array, work: Array) -> float:
    """The base's share; NaN if its network has no finite answer."""
    outputs = work[run(networks[BASE], site.base_widths, own.inputs, work)]
    output = float(outputs[0])
    if site.base_chooses:
        output = _chosen(outputs)
    if not math.isfinite(output):
        return math.nan
    output = min(max(output, -1.0), 1.0)
    low, high = site.base_min, site.base_max
    if site.base_moves:
        share = own.inputs[Feature.emb_share] + site.base_bound * output
    else:
        share = low + (output + 1.0) / 2.0 * (high - low)
    return float(np.float32(min(max(share, low), high)))  # as trained policies answer


@inlined
def _chosen(values: Array) -> float:
    """The step of the largest value, the first of equals; NaN if one is not finite."""
    best = 0
    for k in range(len(STEPS)):
        if not math.isfinite(values[k]):
            return math.nan
        if values[k] > values[best]:
            best = k
    return float(STEPS[best])


@inlined
def _residual(own: Any, site: Any, networks: Array, work: Array) -> float:
    """The residual of a node, in share; 0 where it is off or not finite."""
    slot = site.slot
    if own.gate[slot] == 0.0:
        return 0.0
    row = run(networks[RESIDUAL + slot], site.residual_widths, own.inputs, work)
    value = site.residual_bound * math.tanh(float(work[row, 0]))
    return own.gate[slot] * value if math.isfinite(value) else 0.0


@inlined
def _propose(own: Any, site: Any, networks: Array, work: Array) -> float:
    """Base, anchor and residual for a node; NaN if the base has no answer."""
    share, low, high = _base(own, site, networks, work), site.base_min, site.base_max
    if math.isfinite(share) and site.follow < 1.0:
        share = min(max(site.anchor + site.follow * (share - site.anchor), low), high)
    if math.isfinite(share) and site.adapts:
        share = min(max(share + _residual(own, site, networks, work), low), high)
    return share


@inlined
def _settle(own: Any, site: Any, proposed: float) -> None:
    """Put a node's decision into force: the burst machine's, or the proposal."""
    if own.reason == Reason.NONE and not math.isfinite(proposed):
        own.reason = Reason.NO_ANSWER
    holds = own.reason != Reason.NONE
    own.held += 1 if holds else 0
    share = own.share if holds else proposed
    if site.recovers:
        in_force = own.share if holds else own.inputs[Feature.emb_share]
        given, pace, stage = advance(own.machine, site.machine, own.signals, share, in_force)
        own.pace, own.stage = pace, stage
        share = share if holds else given
    own.share = min(max(share, site.share_min), site.share_max)


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
def decide_nodes(
    telemetry: Array, nodes: Array, settings: Array, networks: Array, work: Array
) -> None:
    """Decide for all nodes; shares and paces are then in ``nodes``.

    Args:
        telemetry: (M + 1, N_COLUMNS) float64, see :mod:`helm_gym.agents.controller.telemetry`.
        nodes: (M,) :data:`NODE`, written.
        settings: (1,) :data:`SETTINGS`.
        networks: weights of the base and, in SLOTS places, of the residual; see
            :mod:`helm_gym.agents.controller.networks`.
        work: (2, W) float32 that the networks work in.
    """
    site = settings[0]
    known = _observe(telemetry, nodes, site)
    if known > 0:
        _append_means(nodes, known)
    if site.recovers:
        read_signals(nodes["inputs"][:, :F], len(nodes), nodes["signals"])
    for m in range(len(nodes)):
        proposed = math.nan
        if nodes[m].reason == Reason.NONE:
            proposed = _propose(nodes[m], site, networks, work)
        _settle(nodes[m], site, proposed)
