"""The burst machine: one pure, compiled step that watches a stream and overrides in a burst.

It works around any policy: after every window it takes the window's signals and the share that the
policy proposes, and says which share to put into force and at what pace refill may go. It allocates
nothing, draws no random numbers and keeps all that it knows in a row of :class:`Column`, so that a
copy of that array is a checkpoint. A row of zeros has seen nothing yet. A caller with observations
fills the signals by :func:`read_signals`, one with telemetry of its own as :class:`Signal` says.

Stages:

* ``NORMAL``: the policy decides, refill is free. Detectors watch (:func:`_detect`).
* ``BURST``: moves are bounded (growth of EMB, which brings refill, apart from its shrinking),
  refill goes at ``BURST_PACE``, and while hot users make up at least ``HOT_HIGH`` of the requests
  the share leans to KV by ``LEAN`` below where the burst met it. It ends when arrivals and queues
  have been calm for ``CALM_WINDOWS``, or after ``LONGEST``: what lasts that long is the new normal,
  to which the statistics are then moved.
* ``RECOVER``: ``STEPS`` steps of ``STEP_WINDOWS`` windows, over which the pace and the longest move
  grow in equal parts; a step does not end while a queue is long. Then the policy has it all back.

Detectors, each switched off by an infinite threshold:

* P99 above its moving average by ``P99_SIGMAS`` standard deviations (HELM's);
* a one-sided CUSUM (Page, "Continuous inspection schemes", Biometrika 1954) on the logarithm of the
  arrival rate less its base level, in deviations that are usual below that level. The level learns
  ``RATE_RISE`` times as fast from windows above it, so that it follows the traffic between bursts
  and not the mean of both, which bursts that come and go every half minute would raise;
* the same on the longer of the two queues (link, GPU) less its average, in deadlines.
"""

from __future__ import annotations

import math
from enum import IntEnum
from typing import Any

from numpy.typing import NDArray

from helm_gym.envs.observation import Feature
from helm_gym.sim.compiled import inlined, kernel

Array = NDArray[Any]

P99_ALARM, RATE_ALARM, QUEUE_ALARM = 1, 2, 4
_NORMAL, _BURST, _RECOVER = 0.0, 1.0, 2.0  # a Stage as the state holds it
LOWEST_RATE = 1e-3  # of the nominal rate: an empty window's rate, whose logarithm is finite
HIGHEST = 1e6  # of any signal; beyond it is no measurement, and would overflow a variance
FULL = 0.999  # a squeezed value x / (x + 1) is cut here, so that undoing it stays finite
_P99, _RATE, _HOT = Feature.p99, Feature.arrival_rate_fast, Feature.hot_user_share
_LINK, _GPU = Feature.link_queue_delay, Feature.gpu_queue_delay
FURTHEST = 4.0  # sd; a window farther from its average teaches the average no more than this


class Stage(IntEnum):
    """Who decides."""

    NORMAL = 0
    BURST = 1
    RECOVER = 2


class Signal(IntEnum):
    """Columns of the signals, all of the last window."""

    P99 = 0  # P99 / SLO
    RATE = 1  # arrivals / nominal (any constant will do), an average as RATE_KEEP says
    LINK_DELAY = 2  # s until the link is free / deadline
    GPU_DELAY = 3  # s until the GPU is free / deadline
    HOT = 4  # requests of hot users / arrived


class Column(IntEnum):
    """Columns of the state."""

    STAGE = 0  # a Stage
    AGE = 1  # windows in it
    SEEN = 2  # windows whose signals were all finite
    P99_MEAN = 3  # moving average of P99, SLOs
    P99_VAR = 4  # and variance about it
    RATE_LAST = 5  # RATE of the last window, as given
    RATE_MEAN = 6  # base level of ln(window's rate)
    RATE_VAR = 7  # mean square of what windows fall short of it
    RATE_OWN = 8  # ln of the last window's own rate
    RATE_SUM = 9  # CUSUM, sd
    QUEUE_MEAN = 10  # slow average of the longer queue, deadlines
    QUEUE_SUM = 11  # CUSUM, deadlines
    CALM = 12  # calm windows in a row, in BURST
    STEP = 13  # of RECOVER, from 0
    HOME = 14  # share in force when the burst was noticed
    SHARE = 15  # share last given
    PACE = 16  # pace last given
    GIVEN = 17  # 1 once a share was given
    CAUSE = 18  # P99_ALARM + RATE_ALARM + QUEUE_ALARM of the last alarm
    BURSTS = 19  # alarms that began a burst, or began it anew in RECOVER


class Param(IntEnum):
    """Places of the parameters, which :meth:`RecoveryConfig.lower` fills."""

    SHARE_MIN = 0  # lowest share allowed
    SHARE_MAX = 1  # highest
    RATE_KEEP = 2  # RATE is an average that keeps this part per window; 0: the window's own rate
    P99_KEEP = 3  # part of the P99 statistics that a window leaves
    RATE_MEAN_KEEP = 4  # part of the rate's and the queue's averages that a window leaves
    BURST_LEARNING = 5  # speed of all averages in BURST and RECOVER, of that in NORMAL
    WARM_UP = 6  # windows before the first alarm
    P99_SIGMAS = 7  # threshold, sd
    P99_LEAST = 8  # no P99 alarm below this, SLOs
    RATE_RISE = 9  # speed of the rate's level upward, of that downward
    RATE_START_SD = 10  # sd of ln rate assumed at first
    RATE_LEAST_SD = 11  # and at least
    RATE_SLACK = 12  # allowance of the CUSUM, sd
    RATE_THRESHOLD = 13  # sd
    QUEUE_SLACK = 14  # deadlines
    QUEUE_THRESHOLD = 15  # deadlines
    BURST_GROW = 16  # most that the EMB share may grow in a burst, per decision
    BURST_SHRINK = 17  # and shrink
    BURST_PACE = 18  # pace of refill in a burst
    HOT_HIGH = 19  # hot-user share from which a burst leans to KV
    LEAN = 20  # how far below HOME
    CALM_SIGMAS = 21  # a window is calm if ln rate is above its average by less than this (sd) ...
    CALM_QUEUE = 22  # ... and no queue is longer than this, deadlines
    CALM_WINDOWS = 23
    LONGEST = 24  # windows of a burst
    STEPS = 25  # of RECOVER
    STEP_WINDOWS = 26  # windows of each
    LONGEST_STEP = 27  # windows after which a step ends even if a queue is long
    RECOVER_MOVE = 28  # longest move at the last step, per decision


N_STATE = len(Column)
N_SIGNALS = len(Signal)
N_PARAMS = len(Param)


@inlined
def _unsqueezed(value: float) -> float:
    return value / (1.0 - value) if value < FULL else FULL / (1.0 - FULL)


@kernel
def read_signals(seen: Array, nodes: int, signals: Array) -> None:
    """Fill signals from ``extended`` observations; a burst is a cluster's, so nodes pool theirs.

    Args:
        seen: (R, F) features as :class:`helm_gym.envs.observation.Feature` orders them; rows of one
            cluster lie together.
        nodes: rows of a cluster: M where rows are nodes, else 1.
        signals: (R, N_SIGNALS), written: means over those rows of the cluster whose signals are all
            finite, and NaN in the rows whose own are not.
    """
    for begin in range(0, len(seen), nodes):
        finite = 0
        p99, rate, link, gpu, hot = 0.0, 0.0, 0.0, 0.0, 0.0
        for row in range(begin, begin + nodes):
            own = seen[row]
            # A sum is finite only if everything in it is.
            whole = float(own[_P99]) + own[_RATE] + own[_LINK] + own[_GPU] + own[_HOT]
            signals[row, Signal.P99] = whole
            if math.isfinite(whole):
                finite += 1
                p99 += _unsqueezed(float(own[_P99]))
                rate += _unsqueezed(float(own[_RATE]))
                link, gpu, hot = link + own[_LINK], gpu + own[_GPU], hot + own[_HOT]
        for row in range(begin, begin + nodes):
            if math.isfinite(signals[row, Signal.P99]):
                signals[row, Signal.P99] = p99 / finite
                signals[row, Signal.RATE] = rate / finite
                signals[row, Signal.LINK_DELAY] = link / finite
                signals[row, Signal.GPU_DELAY] = gpu / finite
                signals[row, Signal.HOT] = hot / finite
            else:
                signals[row, :] = math.nan


@inlined
def _near(share: float, in_force: float, shrink: float, grow: float) -> float:
    """The share, at most ``shrink`` below and ``grow`` above the one in force."""
    return min(max(share, in_force - shrink), in_force + grow)


@inlined
def _queue(signals: Array) -> float:
    """The longer queue, in deadlines."""
    return float(max(signals[Signal.LINK_DELAY], signals[Signal.GPU_DELAY]))


@inlined
def _rate_sd(state: Array, params: Array) -> float:
    return float(max(math.sqrt(state[Column.RATE_VAR]), params[Param.RATE_LEAST_SD]))


@inlined
def _calm(state: Array, params: Array, signals: Array) -> bool:
    """Whether arrivals and queues are as before the burst."""
    excess = state[Column.RATE_OWN] - state[Column.RATE_MEAN]
    if excess >= params[Param.CALM_SIGMAS] * _rate_sd(state, params):
        return False
    return bool(_queue(signals) <= params[Param.CALM_QUEUE])


@inlined
def _enter(state: Array, stage: float) -> None:
    """Begin a stage; what the sums held belongs to the last one."""
    state[Column.STAGE], state[Column.AGE] = stage, 0.0
    state[Column.CALM], state[Column.STEP] = 0.0, 0.0
    state[Column.RATE_SUM], state[Column.QUEUE_SUM] = 0.0, 0.0


@inlined
def _detect(state: Array, params: Array, signals: Array) -> int:
    """Update averages and sums with a finite window, and return the alarms that it raises."""
    p99, given, queue = signals[Signal.P99], signals[Signal.RATE], _queue(signals)
    first = state[Column.SEEN] == 0.0
    keep = 0.0 if first else params[Param.RATE_KEEP]
    # Undo the averaging: what this window alone had.
    own = (given - keep * state[Column.RATE_LAST]) / (1.0 - keep)
    rate = math.log(max(own, LOWEST_RATE))
    state[Column.RATE_LAST], state[Column.RATE_OWN] = given, rate
    state[Column.SEEN] += 1.0
    if first:
        state[Column.P99_MEAN], state[Column.P99_VAR] = p99, 0.0
        state[Column.RATE_MEAN] = rate
        state[Column.RATE_VAR] = params[Param.RATE_START_SD] ** 2
        state[Column.QUEUE_MEAN] = queue
        return 0
    learning = 1.0 if int(state[Column.STAGE]) == Stage.NORMAL else params[Param.BURST_LEARNING]
    alarm = 0
    away = p99 - state[Column.P99_MEAN]
    limit = params[Param.P99_SIGMAS] * math.sqrt(state[Column.P99_VAR])
    if away > limit and p99 >= params[Param.P99_LEAST]:
        alarm += P99_ALARM
    new = learning * (1.0 - params[Param.P99_KEEP])
    state[Column.P99_MEAN] += new * away
    state[Column.P99_VAR] = (1.0 - new) * (state[Column.P99_VAR] + new * away * away)

    sd = _rate_sd(state, params)
    z = (rate - state[Column.RATE_MEAN]) / sd
    state[Column.RATE_SUM] = max(state[Column.RATE_SUM] + z - params[Param.RATE_SLACK], 0.0)
    if state[Column.RATE_SUM] > params[Param.RATE_THRESHOLD]:
        alarm += RATE_ALARM
    new = learning * (1.0 - params[Param.RATE_MEAN_KEEP])
    taught = min(max(z, -FURTHEST), FURTHEST) * sd
    if taught > 0.0:
        state[Column.RATE_MEAN] += new * params[Param.RATE_RISE] * taught
    else:
        state[Column.RATE_MEAN] += new * taught
        state[Column.RATE_VAR] += new * (taught * taught - state[Column.RATE_VAR])

    longer = queue - state[Column.QUEUE_MEAN]
    grown = state[Column.QUEUE_SUM] + longer - params[Param.QUEUE_SLACK]
    state[Column.QUEUE_SUM] = max(grown, 0.0)
    if state[Column.QUEUE_SUM] > params[Param.QUEUE_THRESHOLD]:
        alarm += QUEUE_ALARM
    state[Column.QUEUE_MEAN] += new * longer
    return alarm if state[Column.SEEN] > params[Param.WARM_UP] else 0


@inlined
def _stage(
    state: Array, params: Array, signals: Array, alarm: int, known: bool, in_force: float
) -> int:
    """Change stages, and return the one that this decision is in."""
    stage = int(state[Column.STAGE])
    state[Column.AGE] += 1.0
    if alarm > 0 and stage != Stage.BURST:
        if stage == Stage.NORMAL:
            state[Column.HOME] = in_force
        state[Column.CAUSE] = alarm
        state[Column.BURSTS] += 1.0
        _enter(state, _BURST)
    elif stage == Stage.BURST:
        calm = known and _calm(state, params, signals)
        state[Column.CALM] = state[Column.CALM] + 1.0 if calm else 0.0
        too_long = state[Column.AGE] >= params[Param.LONGEST]
        if too_long:  # the new normal
            state[Column.RATE_MEAN] = state[Column.RATE_OWN]
            if known:
                state[Column.QUEUE_MEAN] = _queue(signals)
        if too_long or state[Column.CALM] >= params[Param.CALM_WINDOWS]:
            _enter(state, _RECOVER)
    elif stage == Stage.RECOVER and state[Column.AGE] >= params[Param.STEP_WINDOWS]:
        free = known and _queue(signals) <= params[Param.CALM_QUEUE]
        if free or state[Column.AGE] >= params[Param.LONGEST_STEP]:
            state[Column.AGE] = 0.0
            state[Column.STEP] += 1.0
            if state[Column.STEP] >= params[Param.STEPS]:
                _enter(state, _NORMAL)
    return int(state[Column.STAGE])


@kernel
def advance(
    state: Array, params: Array, signals: Array, proposed: float, in_force: float
) -> tuple[float, float, int]:
    """Take one window in, and say what to do.

    Args:
        state: (N_STATE,) float64, columns of :class:`Column`; zeros at the start of an episode.
            Written in place.
        params: (N_PARAMS,) float64, see :class:`Param`.
        signals: (N_SIGNALS,) float64, see :class:`Signal`. If one is not finite, or beyond
            ``HIGHEST``, the last share is given again, the detectors see nothing, and time goes on,
            so that a burst still ends.
        proposed: EMB share that the policy wants, from 0 to 1; not finite: the one in force.
        in_force: EMB share in force; not finite: the one given last.

    Returns:
        The share to put into force, finite and from ``SHARE_MIN`` to ``SHARE_MAX``; the part, from
        0 to 1, of the link time open to refill that it may use; the stage, a :class:`Stage`.
    """
    low, high = params[Param.SHARE_MIN], params[Param.SHARE_MAX]
    if not math.isfinite(in_force):
        in_force = state[Column.SHARE] if state[Column.GIVEN] > 0.0 else 0.5 * (low + high)
    if not math.isfinite(proposed):
        proposed = in_force
    known = True
    for index in range(N_SIGNALS):
        known = known and abs(signals[index]) <= HIGHEST  # which NaN is not
    alarm = _detect(state, params, signals) if known else 0
    stage = _stage(state, params, signals, alarm, known, in_force)
    share, pace = proposed, 1.0
    if not known:
        share = in_force
    if stage == Stage.BURST:
        pace = params[Param.BURST_PACE]
        if known and params[Param.LEAN] > 0.0 and signals[Signal.HOT] >= params[Param.HOT_HIGH]:
            share = min(share, state[Column.HOME] - params[Param.LEAN])
        share = _near(share, in_force, params[Param.BURST_SHRINK], params[Param.BURST_GROW])
    elif stage == Stage.RECOVER:
        part = (state[Column.STEP] + 1.0) / (params[Param.STEPS] + 1.0)
        pace = params[Param.BURST_PACE] + part * (1.0 - params[Param.BURST_PACE])
        move = part * params[Param.RECOVER_MOVE]
        share = _near(share, in_force, move, move)
    share = min(max(share, low), high)
    state[Column.SHARE], state[Column.PACE], state[Column.GIVEN] = share, pace, 1.0
    return share, pace, stage


@kernel
def advance_rows(
    state: Array,
    params: Array,
    signals: Array,
    proposed: Array,
    in_force: Array,
    shares: Array,
    paces: Array,
) -> None:
    """:func:`advance` of R rows.

    Args:
        state: (R, N_STATE), written.
        params: (N_PARAMS,), the same for all.
        signals: (R, N_SIGNALS).
        proposed: (R,) shares that the policy wants.
        in_force: (R,) shares in force.
        shares: (R,) shares to put into force, written; may be ``proposed`` itself.
        paces: (R,) paces of refill, written.
    """
    for row in range(len(state)):
        shares[row], paces[row], _ = advance(
            state[row], params, signals[row], proposed[row], in_force[row]
        )


@kernel
def replay(
    state: Array, params: Array, signals: Array, share: float, stages: Array, causes: Array
) -> None:
    """Run one row over recorded windows with a policy that never moves.

    Args:
        state: (N_STATE,), written.
        params: (N_PARAMS,).
        signals: (T, N_SIGNALS).
        share: proposed and in force throughout.
        stages: (T,) the stage after each window, written.
        causes: (T,) the alarms that each window raised, 0 for none, written.
    """
    for window in range(len(signals)):
        before = state[Column.BURSTS]
        _, _, stages[window] = advance(state, params, signals[window], share, share)
        causes[window] = state[Column.CAUSE] if state[Column.BURSTS] > before else 0.0
