"""How soon burst detectors speak, and how often without a reason.

Streams are simulated once under a static share and their signals recorded; then every threshold is
tried on the recordings by the machine that the wrappers run. A stream without bursts counts false
alarms; one with bursts counts delays, from the instant a burst begins to the end of the window that
raised the alarm. Thresholds are chosen on tuning seeds and reported on evaluation seeds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from helm_gym.config.scenario import Scenario
from helm_gym.console import progress_bar
from helm_gym.envs.recovery_config import RecoveryConfig
from helm_gym.envs.recovery_machine import N_STATE, replay
from helm_gym.provenance import code_digest
from helm_gym.store import digest_of, open_store
from helm_gym.studies.bursts.streams import (
    HOUR_S,
    LOADS,
    SHAPES,
    SHARE,
    STREAMS,
    Stream,
    record,
    replayed,
    shaped,
    steady,
)
from helm_gym.suites.seeds import EVALUATION_SEEDS, TUNING_SEEDS

STREAM_CODE = "helm_gym.studies.bursts.streams"
AFTER_WINDOWS = 2  # after a burst's end, in which an alarm is neither right nor false

P99_THRESHOLDS = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 12.0)
RATE_THRESHOLDS = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 14.0)
QUEUE_THRESHOLDS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.2, 2.0)
MOST_FALSE = 0.5  # alarms per hour and load that a chosen threshold may raise on tuning seeds


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


def run_study(
    out: Path | None, *, quick: bool = False, logs: Sequence[str] = (), progress: bool = False
) -> Study:
    """Record every stream once, and score every detector on it.

    Args:
        out: folder of the study; ``streams/`` in it keeps what was recorded. None keeps nothing.
        quick: fewer seeds and windows, in a minute or so.
        logs: ``NAME=PATH`` of arrival traces, as ``helm-gym bench --log`` has them.
        progress: show a bar on stderr.

    Raises:
        ConfigError: a log's reference cannot be read, or the folder cannot be written.
        LogError: its file cannot be used.
    """
    jobs = plan(quick, logs)
    total, done = sum(windows for *_, windows in jobs), 0
    streams: list[Stream] = []
    with (
        open_store(None if out is None else out / "streams", STREAMS) as store,
        progress_bar("recording", total, wanted=progress) as bar,
    ):
        for job in jobs:
            streams.append(store.piece(_key(*job), partial(record, *job, bar.advance)))
            done += job[-1]
            bar.show(done, note=f"{store.reused} kept from before" if store.reused else "")
    first = sum(seeds[0] in TUNING_SEEDS for _, _, seeds, _ in jobs)
    tuning = score_all(streams[:first])
    return Study(tuple(tuning), tuple(score_all(streams[first:])), choose(tuning), quick)


def _key(scenario: Scenario, kind: str, seeds: Sequence[int], windows: int) -> str:
    """Digest of what a recording depends on, the log that it replays included."""
    replay = scenario.workload.replay
    log = "" if replay is None else hashlib.sha256(Path(replay.path).read_bytes()).hexdigest()
    return digest_of(scenario.digest(), kind, list(seeds), windows, log, code_digest(STREAM_CODE))
