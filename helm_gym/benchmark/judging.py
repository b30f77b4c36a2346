"""Rows beside the schedule of their stream: how far off the shares were, how soon they followed.

That needs what a policy did window by window, which published rows do not have. So it is worked out
from the rows of a run and kept as columns of the published ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from helm_gym.baselines.schedule import SchedulePolicy
from helm_gym.benchmark.distance import distance, distance_good, shares_of
from helm_gym.benchmark.replay import setting_of
from helm_gym.benchmark.rows import COLUMNS, OK, Row, place, read_parts, write_rows
from helm_gym.benchmark.searches import Searched
from helm_gym.errors import ConfigError
from helm_gym.provenance import code_digest
from helm_gym.runs.rollout import run_policy
from helm_gym.runs.time_to_adapt import adapted, bounds, mean_seconds
from helm_gym.suites.courses import jumps

Floats = NDArray[np.float64]
Stream = tuple[str, int]  # scenario digest, seed


def publish(runs: Path, searches: Sequence[Searched], out: Path) -> list[Row]:
    """Write the rows of a run for publication: those of today's code, judged by the schedules.

    Args:
        runs: folder of helm-gym bench; its ``rows`` are read, window by window.
        searches: schedules of some of the streams.
        out: the Parquet file.

    Returns:
        The rows, sorted.

    Raises:
        ConfigError: there is no good row of today's code.
    """
    rows = [
        row
        for row in read_parts(runs / "rows").values()
        if row["status"] == OK and row["code_digest"] == code_digest()
    ]
    if not rows:
        raise ConfigError(f"{runs}: holds no finished rows of this code; run helm-gym bench first")
    rows.sort(key=place)
    judged = judge(rows, searches)
    write_rows(judged, out, COLUMNS)
    return judged


def judge(rows: Iterable[Row], searches: Sequence[Searched]) -> list[Row]:
    """Rows with the columns that compare them with the schedule.

    Args:
        rows: with series, as the parts of a run have them.
        searches: schedules of some of the streams.
    """
    known = {(s.found.schedule.scenario_digest, s.seed): s for s in searches}
    tails: dict[Stream, Floats] = {}
    judged = []
    for row in rows:
        stream = (row["scenario_digest"], row["seed"])
        found = known.get(stream)
        if found is None:
            judged.append(row)
            continue
        if stream not in tails:
            tails[stream] = schedule_tails(row, found)
        judged.append({**row, **compared(row, found, tails[stream])})
    return judged


def schedule_tails(row: Row, found: Searched) -> Floats:
    """P99 of every window when the schedule of a row's stream is played, (T,) in ms."""
    policy = SchedulePolicy(found.found.schedule)
    (episode,) = run_policy(setting_of(row).scenario, policy, "schedule", [found.seed])
    return episode.series["tail_ms"]


def compared(row: Mapping[str, Any], found: Searched, tails: Floats) -> dict[str, float]:
    """The columns of one row.

    Args:
        row: with series.
        found: the schedule of its stream.
        tails: (T,) P99 of the schedule's windows, ms.
    """
    shares, uncounted = shares_of(row), int(row["uncounted"])
    hindsight = found.found
    scenario = setting_of(dict(row)).scenario
    own = np.array(row["tail_by_window"], np.float64)
    good = bounds(float(row["slo_ms"]), tails)
    seconds, missed = mean_seconds(
        adapted(own, good, jumps(scenario), float(row["step_s"]), uncounted)
    )
    return {
        "distance": distance(shares, hindsight.schedule.shares, uncounted),
        "distance_good": distance_good(shares, hindsight.good, hindsight.grid, uncounted),
        "adapt_s": seconds,
        "unsettled": float(missed),
    }
