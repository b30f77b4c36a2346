"""How soon burst detectors speak, and how often without a reason.

Streams are simulated once under a static share and their signals recorded; then every threshold is
tried on the recordings by the machine that the wrappers run. A stream without bursts counts false
alarms; one with bursts counts delays, from the instant a burst begins to the end of the window that
raised the alarm. Thresholds are chosen on tuning seeds and reported on evaluation seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from helm_gym.baselines.heldout import replay_cell
from helm_gym.baselines.suite import PREFIX
from helm_gym.baselines.tune import EVALUATION_SEEDS, TUNING_SEEDS
from helm_gym.config import Scenario
from helm_gym.envs.recovery_config import RecoveryConfig
from helm_gym.envs.recovery_machine import N_SIGNALS, N_STATE, read_signals, replay
from helm_gym.envs.vector_env import EmbKvVectorEnv
from helm_gym.sim.layout import Cluster
from helm_gym.workload.replay import load_replay

Floats = NDArray[np.float64]
Tick = Callable[[], None]

BASE = f"{PREFIX}-taobao-steady"
SHARE = 0.5  # in force throughout: near the best static share of the base at high load
LOAD = 0.7  # between bursts; 1.7 times it is more than the cluster carries
LOADS = (0.7, 0.9, 0.95)  # of streams without bursts
SHAPES: Mapping[str, Mapping[str, Any]] = {
    "x1.7, 10-30 min": {"amplitude": 1.7, "on_s": [600, 1800], "off_s": [600, 900], "cycles": 3},
    "x5, 5-15 min": {"amplitude": 5.0, "on_s": [300, 900], "off_s": [600, 900], "cycles": 3},
    "on/off x3.7, 10-30 s": {"amplitude": 3.7, "on_s": [10, 30], "off_s": [30, 30], "cycles": 30},
    "x1.7, 10-30 s (suite)": {"amplitude": 1.7, "on_s": [10, 30], "off_s": [30, 30], "cycles": 30},
}
"""Bursts of the regime ``burst``: ServeGen's of a day, its steepest, and Azure's code completion
(which the paper suite has at the first one's height)."""

REPLAY_NODES = 1  # a small cluster: its load needs little compression of a log's clock
NEAR_WINDOWS = 36  # either side, that a replay's median is taken over
BURST_RATIO = 1.5  # of two windows' starts over that median, from which a replay has a burst
HOUR_S = 3600.0
AFTER_WINDOWS = 2  # after a burst's end, in which an alarm is neither right nor false

P99_THRESHOLDS = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 12.0)
RATE_THRESHOLDS = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 14.0)
QUEUE_THRESHOLDS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.2, 2.0)
MOST_FALSE = 0.5  # alarms per hour and load that a chosen threshold may raise on tuning seeds


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


@dataclass(frozen=True)
class Score:
    """One setting of one detector on one stream."""

    stream: str
    kind: str
    load: float
    detector: str
    threshold: float
    seeds: int
    hours: float  # without a burst, all seeds together
    false_alarms: int
    bursts: int  # all seeds together
    detected: int
    delay_s: float  # mean over all bursts, a missed one counting as its length; NaN without any
    found_delay_s: float  # mean over the detected ones

    @property
    def false_per_hour(self) -> float:
        """False alarms per hour without a burst."""
        return self.false_alarms / self.hours if self.hours > 0.0 else float("nan")

    def row(self) -> dict[str, Any]:
        """For a table."""
        return {**self.__dict__, "false_per_hour": self.false_per_hour}


def detectors() -> dict[str, list[tuple[float, RecoveryConfig]]]:
    """Settings of every detector, by threshold; those of joint ones are multiples of the chosen."""
    chosen = RecoveryConfig().model_dump()
    off = {"p99_sigmas": None, "rate_sigmas": None, "queue_sum": None}

    def made(**changes: Any) -> RecoveryConfig:
        return RecoveryConfig.parse({**chosen, **off, **changes}, "detector")

    def scaled(names: Sequence[str], factor: float) -> RecoveryConfig:
        return made(**{name: factor * _chosen(name) for name in names})

    factors = (0.3, 0.5, 0.7, 1.0, 1.4, 2.0, 3.0)
    early = ("rate_sigmas", "queue_sum")
    return {
        "P99 (paper)": [(x, made(p99_sigmas=x)) for x in P99_THRESHOLDS],
        "arrivals": [(x, made(rate_sigmas=x)) for x in RATE_THRESHOLDS],
        "queues": [(x, made(queue_sum=x)) for x in QUEUE_THRESHOLDS],
        "arrivals or queues": [(x, scaled(early, x)) for x in factors],
        "union with P99": [(x, scaled((*early, "p99_sigmas"), x)) for x in factors],
    }


def _chosen(name: str) -> float:
    """The threshold that is on by default, or the paper's for a detector that is off."""
    value = getattr(RecoveryConfig(), name)
    return 3.0 if value is None else float(value.value)


def steady(load: float) -> Scenario:
    """The base without bursts."""
    return Scenario.load(BASE).replace({"name": f"steady, load {load:g}", "workload.load": load})


def shaped(name: str) -> Scenario:
    """The base with the bursts of a shape."""
    regime = {**Scenario.load(f"{PREFIX}-taobao-burst").to_dict()["workload"]["regime"]}
    return Scenario.load(BASE).replace(
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


def score(stream: Stream, detector: str, threshold: float, config: RecoveryConfig) -> Score:
    """Run the machine over every seed of a stream."""
    windows, seeds = stream.signals.shape[:2]
    params = config.lower(stream.step_s)
    known = stream.ends_s[int(config.warm_up.value)]  # before, no detector may speak
    bursts = [b for b in stream.bursts if b[0] >= known]
    excused = _excused(stream)
    false, delays, found = 0, [], []
    for seed in range(seeds):
        stages, causes = np.zeros(windows), np.zeros(windows)
        own = np.ascontiguousarray(stream.signals[:, seed])
        replay(np.zeros(N_STATE), params, own, SHARE, stages, causes)
        alarms = stream.ends_s[(causes > 0.0) & ~excused]
        false += alarms.size
        active = stream.ends_s[stages == 1.0]
        for start, stop in bursts:
            seen = active[(active > start) & (active <= stop + stream.step_s)]
            if seen.size:
                found.append(float(seen[0] - start))
            delays.append(found[-1] if seen.size else stop - start)
    quiet = float(np.sum(~excused)) * stream.step_s * seeds / HOUR_S
    return Score(
        stream=stream.name,
        kind=stream.kind,
        load=stream.load,
        detector=detector,
        threshold=threshold,
        seeds=seeds,
        hours=quiet,
        false_alarms=int(false),
        bursts=len(delays),
        detected=len(found),
        delay_s=float(np.mean(delays)) if delays else float("nan"),
        found_delay_s=float(np.mean(found)) if found else float("nan"),
    )


def _excused(stream: Stream) -> NDArray[np.bool_]:
    """(T,) windows in which an alarm is not false: any part in a burst, or just after it."""
    excused = np.zeros(stream.ends_s.size, np.bool_)
    for start, stop in stream.bursts:
        late = stop + (AFTER_WINDOWS + 1) * stream.step_s
        excused |= (stream.ends_s > start) & (stream.ends_s <= late)
    return excused


def score_all(streams: Sequence[Stream]) -> list[Score]:
    """Every detector at every threshold on every stream."""
    return [
        score(stream, name, threshold, config)
        for stream in streams
        for name, settings in detectors().items()
        for threshold, config in settings
    ]


def choose(scores: Sequence[Score], most: float = MOST_FALSE) -> dict[str, float]:
    """Lowest threshold of each detector that is quiet enough on every stream without bursts.

    Args:
        scores: of steady streams on tuning seeds.
        most: false alarms per hour.
    """
    found: dict[str, float] = {}
    for name in dict.fromkeys(s.detector for s in scores):
        own = [s for s in scores if s.detector == name and s.kind == "steady"]
        quiet = [
            x
            for x in sorted({s.threshold for s in own})
            if all(s.false_per_hour <= most for s in own if s.threshold >= x)
        ]
        found[name] = quiet[0] if quiet else float("inf")
    return found


@dataclass(frozen=True)
class Study:
    """Scores of both splits, and what the tuning one chooses."""

    tuning: tuple[Score, ...]  # steady streams
    scores: tuple[Score, ...]  # all streams, evaluation seeds
    chosen: Mapping[str, float]
    quick: bool


def plan(quick: bool, logs: Sequence[str]) -> list[tuple[Scenario, str, range, int]]:
    """Scenario, kind, seeds and windows of every stream; tuning seeds first."""
    seeds, hour = (2, 360) if quick else (6, 720)
    tuning, own = TUNING_SEEDS[:seeds], EVALUATION_SEEDS[:seeds]
    loads = (LOADS[0], LOADS[-1]) if quick else LOADS
    jobs = [(steady(load), "steady", tuning, hour) for load in loads]
    jobs += [(steady(load), "steady", own, hour) for load in loads]
    for name in SHAPES:
        long = "min" in name
        windows = (720 if long else 300) if quick else (1080 if long else 720)
        jobs.append((shaped(name), "burst", own[: 1 if long and quick else seeds], windows))
    jobs += [(replayed(log), "replay", own[:seeds], hour) for log in logs]
    return jobs


def run_study(*, quick: bool = False, logs: Sequence[str] = (), progress: bool = False) -> Study:
    """Record every stream once, and score every detector on it.

    Args:
        quick: fewer seeds and windows, in a minute or so.
        logs: ``NAME=PATH`` of arrival traces, as ``helm-gym bench --log`` has them.
        progress: show a bar on stderr.

    Raises:
        ConfigError: a log's reference cannot be read.
        LogError: its file cannot be used.
    """
    from rich.console import Console
    from rich.progress import Progress

    jobs = plan(quick, logs)
    streams: list[Stream] = []
    with Progress(console=Console(stderr=True), disable=not progress, transient=True) as bar:
        task = bar.add_task("recording", total=sum(windows for *_, windows in jobs))
        for scenario, kind, seeds, windows in jobs:
            streams.append(record(scenario, kind, seeds, windows, lambda: bar.advance(task)))
    first = sum(seeds[0] in TUNING_SEEDS for _, _, seeds, _ in jobs)
    tuning = score_all(streams[:first])
    return Study(tuple(tuning), tuple(score_all(streams[first:])), choose(tuning), quick)
