"""Distance to the hindsight optimum of a benchmark's rows, which keep no shares of single nodes.

Rows with a schedule for the same scenario and seed are run again, side by side, and their shares
compared with the schedule's as ``helm-gym hindsight`` does. What does not come out again as the
row says is left out. Results lie in a file beside the rows, so that nothing is run twice.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from helm_gym.benchmark.arrange import Row
from helm_gym.benchmark.distance import distance
from helm_gym.benchmark.replay import setting_of
from helm_gym.benchmark.rows import OK
from helm_gym.console import progress_bar
from helm_gym.errors import ConfigError, HelmGymError
from helm_gym.evaluation.specs import from_file, make_policy
from helm_gym.files import write_text
from helm_gym.provenance import policy_digest
from helm_gym.runs.bank import Bank, Timed
from helm_gym.runs.rollout import run_policy
from helm_gym.store import writing
from helm_gym.studies.results.plan import System

Floats = NDArray[np.float64]
Schedules = Mapping[tuple[str, int], Floats]
"""Shares (T,) by scenario digest and seed."""

FILE = "distances.json"
GENEROUS_S = 1.0  # per decision: the row was judged by its time already


def stored(file: Path) -> dict[str, float]:
    """Distances by key of a row; empty if there is no such file.

    Raises:
        ConfigError: it cannot be read.
    """
    return {key: float(entry["distance"]) for key, entry in _read(file).items()}


def _read(file: Path) -> dict[str, dict[str, Any]]:
    if not file.is_file():
        return {}
    try:
        found: dict[str, dict[str, Any]] = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file}: is no file of distances ({error}); delete it") from None
    return found


def measure(
    rows: Iterable[Row], schedules: Schedules, file: Path, progress: bool = False
) -> tuple[dict[str, float], list[str]]:
    """Distances of the rows that have a schedule, from a file or by running them again.

    Args:
        rows: of a benchmark.
        schedules: optimal shares.
        file: of what was measured before; completed group by group.
        progress: show a progress bar on stderr.

    Returns:
        Distances by key of a row, and why others were left out.
    """
    entries = _read(file)
    wanted = [r for r in rows if r["status"] == OK and _schedule(r, schedules) is not None]
    keys = {str(row["key"]) for row in wanted}
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in wanted:
        known = entries.get(str(row["key"]), {}).get("schedule")
        if known != _digest(_known(row, schedules)):
            groups.setdefault((row["scenario_digest"], row["policy"], row["spec"]), []).append(row)
    notes: list[str] = []
    title = "distance to the hindsight optimum"
    with progress_bar(title, len(groups), wanted=progress) as bar:
        for those in groups.values():
            entries |= _measured(those, schedules, notes)
            with writing(file):
                write_text(file, json.dumps(entries, indent=1) + "\n")
            bar.advance()
    return {k: float(e["distance"]) for k, e in entries.items() if k in keys}, notes


def _measured(
    rows: Sequence[Row], schedules: Schedules, notes: list[str]
) -> dict[str, dict[str, Any]]:
    """Run all seeds of one policy in one setting again."""
    first = rows[0]
    where = f"{System(first['policy'], first['router'])}, {first['cell']}, load {first['load']:g}"
    scenario = setting_of(dict(first)).scenario
    if scenario.digest() != first["scenario_digest"]:
        notes.append(f"{where}: the scenario is not the row's any more")
        return {}
    seeds = [int(row["seed"]) for row in rows]
    try:
        spec = from_file(first["spec"], "a row")
        policies = [make_policy(spec) for _ in seeds]
        if policy_digest(first["spec"], policies[0]) != first["policy_digest"]:
            notes.append(f"{where}: the policy has changed since the rows were made")
            return {}
        bank = Bank(
            first["spec"], [Timed(p, GENEROUS_S, scenario.episode.steps) for p in policies], seeds
        )
        episodes = run_policy(scenario, bank, first["spec"], seeds)
    except HelmGymError as error:
        notes.append(f"{where}: {error}")
        return {}
    found = {}
    for row, episode in zip(rows, episodes, strict=True):
        if episode.figures["tail_ms"] != row["tail_ms"]:
            notes.append(f"{where}, seed {row['seed']}: P99 is not the row's when run again")
            continue
        optimum = _known(row, schedules)
        found[str(row["key"])] = {
            "schedule": _digest(optimum),
            "distance": distance(episode.shares, optimum.tolist()),
        }
    return found


def _schedule(row: Row, schedules: Schedules) -> Floats | None:
    return schedules.get((row["scenario_digest"], int(row["seed"])))


def _known(row: Row, schedules: Schedules) -> Floats:
    return schedules[(row["scenario_digest"], int(row["seed"]))]


def _digest(shares: Floats) -> str:
    return hashlib.sha256(np.asarray(shares, np.float64).tobytes()).hexdigest()[:16]
