"""Streams that burst detectors are tried on: their scenarios, and one recording of each.

A stream is simulated under a static share; its signals are kept, and where its bursts are.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from helm_gym.config.scenario import Scenario
from helm_gym.envs.recovery_machine import N_SIGNALS, read_signals
from helm_gym.envs.vector_env import EmbKvVectorEnv
from helm_gym.sim.layout import Cluster
from helm_gym.store import Codec
from helm_gym.suites.replays import replay_cell, steady_base
from helm_gym.workload.replay import load_replay

Floats = NDArray[np.float64]
Tick = Callable[[], None]

DATASET = "taobao"
BURSTS = "taobao-burst"  # whose bursts are shaped
SHARE = 0.5  # in force throughout: near the best static share of the base at high load
LOAD = 0.7  # between bursts; 1.7 times it is more than the cluster carries
LOADS = (0.7, 0.9, 0.95)  # of streams without bursts
SHAPES: Mapping[str, Mapping[str, Any]] = {
    "x1.7, 10-30 min": {"amplitude": 1.7, "on_s": [600, 1800], "off_s": [600, 900], "cycles": 3},
    "x5, 5-15 min": {"amplitude": 5.0, "on_s": [300, 900], "off_s": [600, 900], "cycles": 3},
    "on/off x3.7, 10-30 s": {"amplitude": 3.7, "on_s": [10, 30], "off_s": [30, 30], "cycles": 30},
    "x1.7, 10-30 s": {"amplitude": 1.7, "on_s": [10, 30], "off_s": [30, 30], "cycles": 30},
}
"""Bursts of the regime ``burst``: ServeGen's of a day, its steepest, and Azure's code completion,
at its own height and at that of the first."""

REPLAY_NODES = 1  # a small cluster: its load needs little compression of a log's clock
NEAR_WINDOWS = 36  # either side, that a replay's median is taken over
BURST_RATIO = 1.5  # of two windows' starts over that median, from which a replay has a burst
HOUR_S = 3600.0


@dataclass(frozen=True)
class Stream:
    """One recorded stream; T windows, C seeds."""

    name: str
    kind: str  # "steady", "burst" or "replay"
    load: float
    step_s: float
    signals: Floats  # (T, C, N_SIGNALS)
    ends_s: Floats  # (T,) instant at which a window ends
    bursts: tuple[tuple[float, float], ...]  # (from, to) in s, on the same clock

    @property
    def hours(self) -> float:
        """Of one seed."""
        return len(self.ends_s) * self.step_s / HOUR_S


def _write(file: BinaryIO, stream: Stream) -> None:
    about = {name: getattr(stream, name) for name in ("name", "kind", "load", "step_s")}
    np.savez(
        file,
        about=np.array(json.dumps(about)),
        signals=stream.signals,
        ends_s=stream.ends_s,
        bursts=np.array(stream.bursts, np.float64).reshape(-1, 2),
    )


def _read(file: BinaryIO) -> Stream:
    with np.load(file, allow_pickle=False) as found:
        about = json.loads(str(found["about"]))
        bursts = tuple((float(start), float(stop)) for start, stop in found["bursts"])
        return Stream(**about, signals=found["signals"], ends_s=found["ends_s"], bursts=bursts)


STREAMS = Codec("npz", _write, _read)
"""Streams in files; they are read back to the bit."""


def steady(load: float) -> Scenario:
    """The base without bursts."""
    return steady_base(DATASET).replace({"name": f"steady, load {load:g}", "workload.load": load})


def shaped(name: str) -> Scenario:
    """The base with the bursts of a shape."""
    regime = {**Scenario.load(BURSTS).to_dict()["workload"]["regime"]}
    return steady_base(DATASET).replace(
        {"name": name, "workload.load": LOAD, "workload.regime": {**regime, **SHAPES[name]}}
    )


def replayed(reference: str) -> Scenario:
    """The base with session starts from a log, ``NAME=PATH``, of kind ``arrivals``."""
    extra = "" if ",kind=" in reference.replace(" ", "") else ",kind=arrivals"
    cell = replay_cell(reference + extra)
    return cell.replace(
        {
            "name": reference.partition("=")[0].strip(),
            "nodes": REPLAY_NODES,
            "workload.load": LOAD,
        }
    )


def record(
    scenario: Scenario, kind: str, seeds: Sequence[int], windows: int, tick: Tick | None = None
) -> Stream:
    """Simulate a stream and keep its signals.

    Args:
        scenario: what; its episode is as long as ``windows`` says.
        kind: see :class:`Stream`.
        seeds: one cluster each.
        windows: T.
        tick: called after every window.
    """
    scenario = scenario.replace({"episode.steps": windows, "episode.warm_starts": 1})
    env = EmbKvVectorEnv(
        len(seeds),
        scenario=scenario,
        observation="extended",
        autoreset_mode=AutoresetMode.DISABLED,
        threads=2,
    )
    signals = np.empty((windows, len(seeds), N_SIGNALS))
    ends = np.empty(windows)
    share = np.full((len(seeds), 1), SHARE)
    try:
        env.reset(seed=list(seeds), options={"share": SHARE})
        for window in range(windows):
            obs, _, _, _, _ = env.step(share)
            assert env.telemetry is not None
            read_signals(obs, 1, signals[window])
            ends[window] = env.telemetry.cluster[0, Cluster.TIME_S]
            if tick is not None:
                tick()
        bursts = _bursts(scenario, kind, env, ends)
    finally:
        env.close()
    load, step_s = scenario.workload.load, scenario.episode.step_s
    return Stream(scenario.name, kind, load, step_s, signals, ends, tuple(bursts))


def _bursts(
    scenario: Scenario, kind: str, env: EmbKvVectorEnv, ends: Floats
) -> Iterator[tuple[float, float]]:
    if kind == "steady":
        return
    begin, end = ends[0] - scenario.episode.step_s, ends[-1]
    if kind == "burst":
        schedule = env.simulator.lowered.schedule
        cells = int(np.ceil(end / schedule.cell_s)) + 1
        rate = np.resize(schedule.rate.sum(axis=1), cells)
        yield from _stretches(rate > rate.min() * 1.0001, schedule.cell_s, begin, end)
        return
    log = load_replay(scenario, np.random.default_rng(scenario.structure_seed))
    step = scenario.episode.step_s
    laps = int(np.ceil(end / log.period_s))
    instants = np.concatenate([log.time + lap * log.period_s for lap in range(laps)])
    counts = np.bincount((instants / step).astype(np.intp)).astype(np.float64)
    yield from _stretches(surges(counts), step, begin, end)


def surges(counts: Floats) -> NDArray[np.bool_]:
    """Windows of a replay that count as a burst: with a neighbour, well above what is near.

    Args:
        counts: (W,) session starts per window.
    """
    padded = np.pad(counts, NEAR_WINDOWS, mode="reflect" if counts.size > NEAR_WINDOWS else "edge")
    near = np.lib.stride_tricks.sliding_window_view(padded, 2 * NEAR_WINDOWS + 1)
    limit = BURST_RATIO * np.maximum(np.median(near, axis=1), 1.0)
    pair = (counts[:-1] + counts[1:]) / 2.0 >= limit[:-1]
    high = np.zeros(counts.size, np.bool_)
    high[:-1] |= pair
    high[1:] |= pair
    return high & (counts >= limit * (1.0 + BURST_RATIO) / (2.0 * BURST_RATIO))


def _stretches(
    high: NDArray[np.bool_], cell_s: float, begin: float, end: float
) -> Iterator[tuple[float, float]]:
    """Runs of ``high`` cells that begin after ``begin`` and before ``end``."""
    edges = np.diff(np.concatenate([[0], high.astype(np.int8), [0]]))
    starts, stops = np.flatnonzero(edges == 1) * cell_s, np.flatnonzero(edges == -1) * cell_s
    for start, stop in zip(starts, stops, strict=True):
        if start < end and stop > begin:
            yield float(start), float(min(stop, end))  # a recording may cut the last
