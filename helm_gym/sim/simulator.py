"""The simulator that every shell drives: B clusters, one kernel call per cluster and window."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from helm_gym.config.scenario import Scenario
from helm_gym.errors import CalibrationWarning, ConfigError, SimulationError
from helm_gym.seeding import streams_from_seed
from helm_gym.sim import kernel
from helm_gym.sim.crew import Crew
from helm_gym.sim.layout import (
    Clock,
    Count,
    State,
    Status,
    buffer_bytes,
    report_bytes,
    report_fields,
    view,
)
from helm_gym.sim.lowering import lower

Floats = NDArray[np.float64]
Buffer = NDArray[np.uint8]
NO_RECORD = np.zeros((0, kernel.RECORD_FIELDS))
POOLS_KEPT = 3  # sets of warm starts kept, one per initial share
SETTLE_SESSIONS = 24.0  # mean session durations after which the source counts as settled
SETTLE_AT_MOST_S = 7200.0
REMEDY = {
    Status.SESSIONS_FULL: "more sessions are active than the scenario's rates let expect",
    Status.BUCKET_FULL: "one calendar bucket overflowed",
}


@dataclass(frozen=True)
class Telemetry:
    """What one window reported, for every cluster; arrays are copies."""

    node: Floats  # (B, M, N_NODE) see layout.Node
    cluster: Floats  # (B, N_CLUSTER) see layout.Cluster
    latency: NDArray[np.uint32]  # (B, L) histogram of admitted requests
    warm: NDArray[np.uint32]  # (B, L) of them, warm ones

    @cached_property
    def total(self) -> Floats:
        """(B, N_NODE) sums of ``node`` over the nodes of each cluster."""
        return self.node.sum(axis=1)


class Simulator:
    """``clusters`` independent clusters of one scenario.

    Args:
        scenario: what to simulate.
        clusters: how many, B.
        threads: that simulate, the caller's included; results do not depend on it.
    """

    def __init__(self, scenario: Scenario, clusters: int = 1, threads: int = 1) -> None:
        if clusters < 1 or threads < 1:
            raise ConfigError(f"need clusters and threads of at least 1, got {clusters}, {threads}")
        self.scenario = scenario
        warn_of_extrapolation(scenario)
        self.lowered = lower(scenario)
        self.clusters = clusters
        self.threads = min(threads, clusters)
        self._buffers = np.zeros((clusters, buffer_bytes(self.lowered.sizes)), np.uint8)
        self._states = [view(row, self.lowered.sizes) for row in self._buffers]
        fields = report_fields(self.lowered.sizes)
        self._report_fields = [fields[name] for name in ("node", "cluster", "latency", "warm")]
        self._reports = self._buffers[:, -report_bytes(self.lowered.sizes) :]
        self._ready = np.zeros(clusters, np.bool_)  # clusters that have been put on a warm start
        self._warm: OrderedDict[float, list[Buffer]] = OrderedDict()
        self._cold: Buffer | None = None  # settled source and empty caches, whatever the share
        self._crew = Crew(self.threads)

    @property
    def state_bytes(self) -> int:
        """Bytes of one cluster's state."""
        return int(self._buffers.shape[1])

    @property
    def states(self) -> list[State]:
        """Views of the live state, one per cluster (for tests and tools; write at own risk)."""
        return self._states

    def warm_starts(self, share: float | None = None) -> list[Buffer]:
        """Snapshots of a warmed-up cluster, spread over the regime's period.

        Args:
            share: the EMB share that the cluster was warmed up with; the scenario's by default.
        """
        share = self.scenario.episode.initial_share if share is None else float(share)
        if share not in self._warm:
            self._warm[share] = self._warm_up(share)
            if len(self._warm) > POOLS_KEPT:
                self._warm.popitem(last=False)
        self._warm.move_to_end(share)
        return self._warm[share]

    def reset(
        self,
        cluster: int,
        streams: NDArray[np.uint64],
        start: int = 0,
        share: float | None = None,
    ) -> None:
        """Put a cluster on a warm start and give it fresh random streams.

        Args:
            cluster: which one.
            streams: (N_STREAMS,) counter states, see :mod:`helm_gym.seeding`.
            start: index into :meth:`warm_starts`, modulo their number.
            share: the EMB share of the warm start.
        """
        snapshots = self.warm_starts(share)
        np.copyto(self._buffers[cluster], snapshots[start % len(snapshots)])
        self._ready[cluster] = True
        self._states[cluster].arrivals.rng[:] = streams

    def step(self, shares: Floats, rows: NDArray[np.bool_] | None = None) -> Telemetry:
        """Simulate one window.

        Args:
            shares: (B, M) EMB share per cluster and node.
            rows: (B,) clusters to step, all by default; the others report zeros.
        """
        shares = self._checked(shares, (self.clusters, self.scenario.nodes))
        chosen = list(range(self.clusters)) if rows is None else np.flatnonzero(rows).tolist()
        if not self._ready[chosen].all():
            raise ConfigError("a cluster has no state yet; call reset() or restore() before step()")
        if self.threads == 1 or len(chosen) == 1:
            for cluster in chosen:
                self._step_one(cluster, shares[cluster])
        else:
            self._crew.run(chosen, lambda cluster: self._step_one(cluster, shares[cluster]))
        return self._report(chosen)

    def advance(self, state: State, shares: Floats) -> None:
        """Simulate one window of a state that the caller keeps in a buffer of his own.

        Args:
            state: :func:`helm_gym.sim.layout.view` of a copied :meth:`snapshot` of one cluster.
            shares: (M,) EMB share per node.
        """
        self._window(state, self._checked(shares, (self.scenario.nodes,)), NO_RECORD)

    def record(self, shares: Floats, cluster: int, capacity: int = 1_000_000) -> Floats:
        """Simulate one window of one cluster and return every request of it.

        Returns:
            (R, 6): arrival (s), user, node, latency (s, -1 if shed), KV hit, missing bytes.
        """
        rows = np.zeros((capacity, kernel.RECORD_FIELDS))
        state = self._states[cluster]
        served = self._window(state, self._checked(shares, (self.scenario.nodes,)), rows)
        if served > capacity:
            raise SimulationError(f"{served} requests do not fit a record of {capacity}")
        return rows[:served]

    def set_refill_pace(self, pace: Floats) -> None:
        """Slow refill down from now on; a reset sets every node back to 1.

        Args:
            pace: (B, M) part, from 0 (paused) to 1, of the link time open to refill that it may
                use. Copies of ``naive`` refill are booked when a page is given, whatever the pace.

        Raises:
            ConfigError: another shape, or not within [0, 1].
        """
        shape = (self.clusters, self.scenario.nodes)
        pace = np.asarray(pace, np.float64)
        if pace.shape != shape or not ((pace >= 0.0) & (pace <= 1.0)).all():
            raise ConfigError(
                f"a refill pace is a number from 0 to 1 for each of {shape} clusters and nodes; "
                f"got shape {pace.shape}, values {np.unique(pace)[:4]}; write np.ones({shape})"
            )
        for state, own in zip(self._states, pace, strict=True):
            state.stages.pace[:] = own

    def snapshot(self) -> Buffer:
        """Copy of the state of all clusters, (B, bytes)."""
        return self._buffers.copy()

    def restore(self, snapshot: Buffer) -> None:
        """Continue from a :meth:`snapshot` of an equal simulator."""
        if snapshot.shape != self._buffers.shape:
            raise ConfigError(
                f"snapshot has shape {snapshot.shape}, this simulator {self._buffers.shape}; "
                "it belongs to another scenario or number of clusters"
            )
        np.copyto(self._buffers, snapshot)
        self._ready[:] = True

    def time(self, cluster: int) -> float:
        """Simulated instant of a cluster (s); the schedule began at 0."""
        return float(self._states[cluster].arrivals.clock[Clock.NOW])

    def close(self) -> None:
        """Stop worker threads."""
        self._crew.close()

    @staticmethod
    def _checked(shares: Floats, shape: tuple[int, ...]) -> Floats:
        """The shares as the kernel takes them; it would write beyond the nodes for too many."""
        shares = np.ascontiguousarray(shares, dtype=np.float64)
        if shares.shape != shape or not (shares.min() >= 0.0 and shares.max() <= 1.0):
            raise ConfigError(
                f"EMB shares are numbers from 0 to 1 in the shape {shape}; got shape "
                f"{shares.shape}, values {np.unique(shares)[:4]}"
            )
        return shares

    def _step_one(self, cluster: int, shares: Floats) -> None:
        self._window(self._states[cluster], shares, NO_RECORD)

    def _window(self, state: State, shares: Floats, record: Floats) -> int:
        """Run the kernel for one window; return the number of requests."""
        served = kernel.step(state, self.lowered.params, shares, record)
        if served < 0:
            status = state.arrivals.tally[Count.STATUS]
            raise SimulationError(
                f"scenario {self.scenario.name!r}: {REMEDY[Status(status)]}; lower "
                "workload.load, shorten the sessions, or report the scenario as a defect"
            )
        return served

    def _report(self, chosen: list[int]) -> Telemetry:
        copies = self._reports.copy()  # one copy, of which the arrays are views
        node, cluster, latency, warm = (
            copies[:, where].view(dtype).reshape(self.clusters, *shape)
            for where, dtype, shape in self._report_fields
        )
        if len(chosen) < self.clusters:
            others = np.setdiff1d(np.arange(self.clusters), chosen)
            node[others], cluster[others], latency[others], warm[others] = 0.0, np.nan, 0, 0
        return Telemetry(node, cluster, latency, warm)

    def _warm_up(self, share: float) -> list[Buffer]:
        """Simulate from cold caches until they are warm, then through one period."""
        episode, low = self.scenario.episode, self.lowered
        window = episode.step_s
        warm_windows = int(np.ceil(episode.warmup_s / window))
        begin = -warm_windows * window
        buffer = np.zeros(self.state_bytes, np.uint8)
        state = view(buffer, low.sizes)
        if low.params.source.log_kind:
            begin = 0.0  # a log begins where it begins
        self._begin_cold(buffer, state, share, begin)
        shares = np.full(self.scenario.nodes, share)
        for _ in range(warm_windows):
            self._window(state, shares, NO_RECORD)
        spacing = max(1, round(low.schedule.period_s / episode.warm_starts / window))
        snapshots = [buffer.copy()]
        for _ in range(episode.warm_starts - 1):
            for _ in range(spacing):
                self._window(state, shares, NO_RECORD)
            snapshots.append(buffer.copy())
        return snapshots

    def _begin_cold(self, buffer: Buffer, state: State, share: float, begin: float) -> None:
        """Sessions in their steady state, empty KV, the EMB pages of the commonest shards full."""
        if self._cold is None:
            self._settle(state, begin)
            self._cold = buffer.copy()
        else:
            np.copyto(buffer, self._cold)
        kernel.begin_cold(state, self.lowered.params, share, begin)

    def _settle(self, state: State, begin: float) -> None:
        """Let sessions come and go until ``begin``, and empty the caches."""
        low = self.lowered
        params, source = low.params, low.params.source
        settle = min(SETTLE_SESSIONS * low.session_s, SETTLE_AT_MOST_S)
        if source.log_kind:
            settle = 0.0
        state.arrivals.rng[:] = streams_from_seed(self.scenario.structure_seed)
        state.users[:] = low.users
        kernel.settle(state, params, begin - settle, begin)
        state.arrivals.clock[Clock.NEXT_TICK] = begin + params.cache.tick_s
        stale = params.routing.staleness_s > 0.0
        state.arrivals.clock[Clock.NEXT_REPORT] = begin if stale else np.inf


_warned: set[str] = set()  # in this process


def warn_of_extrapolation(scenario: Scenario) -> None:
    """Warn once of every kernel time that leaves the measured range unannounced."""
    for text in scenario.extrapolations():
        if text not in _warned:
            _warned.add(text)
            dimension = text.partition(" ")[0]
            warnings.warn(
                f"scenario {scenario.name!r}: {text}; times outside are extrapolated. Calibrate "
                f"{scenario.hardware.gpu.name!r} further, or write extrapolates: [{dimension}] "
                "into the scenario if you know",
                CalibrationWarning,
                stacklevel=3,
            )
