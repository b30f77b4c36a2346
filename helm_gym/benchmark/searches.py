"""Hindsight schedules of a suite's moving cells: searched for one by one, and kept.

A search takes minutes, so each is a file of its own as soon as it is done, and a stopped command
goes on. A file stays a schedule for its request stream whatever becomes of the search's code; what
counts is what it does when it is played, and that is played again when the simulator has changed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from helm_gym.baselines.schedule import Schedule, SchedulePolicy
from helm_gym.benchmark.arrange import Setting
from helm_gym.benchmark.plan import changes_of
from helm_gym.config.quantity import Frozen
from helm_gym.config.scenario import Scenario
from helm_gym.hindsight.delayed import delayed
from helm_gym.hindsight.objective import TAIL
from helm_gym.hindsight.search import FAST, Hindsight, Search, hindsight
from helm_gym.provenance import code_digest
from helm_gym.runs.rollout import run_policy
from helm_gym.store import Codec, Store, json_codec, open_store
from helm_gym.suites import moving
from helm_gym.suites.seeds import EVALUATION_SEEDS

SUITE_SEARCH = FAST.model_copy(update={"rounds": 2, "gain": 5e-3})
"""``FAST`` with at most two corridors, and only one where that gains less than 0.5 %."""
LOADS = moving.LOADS[1:]  # where there is something to win
SEEDS: Mapping[str, int] = {"foresight": 3, "kv_affinity": 1}
"""Evaluation seeds whose schedule is searched for, by router."""
LOSS: Mapping[str, float] = {"trend": 0.0, "burst": 0.0, "day": 0.0}
"""Part of the gap that ``SUITE_SEARCH`` is known to lose against ``FULL``, by regime.

0 stands for "not measured": on other, shorter streams ``FAST`` lost 2 % of the gap of a drift and
13.5 % of that of bursts (docs/performance.md). A schedule that loses makes gaps look smaller and
the parts that policies close look larger.
"""
FOLDER = Path(__file__).parent / "published" / "searches"
LATE_FOLDER = FOLDER.with_name("late")
DELAYS = (1, 3)  # windows


class Job(NamedTuple):
    """One search."""

    cell: str
    load: float
    router: str
    seed: int

    @property
    def scenario(self) -> Scenario:
        """The request stream is this scenario's with the seed."""
        cell = moving.frozen_cell(self.cell, self.router)
        return cell.replace(changes_of(cell, self.load, self.router, cell.episode.steps))

    @property
    def key(self) -> str:
        """Name of the file, which changes with the scenario."""
        parts = (self.cell, self.router, f"{self.load:g}", self.seed, self.scenario.digest()[:8])
        return "-".join(map(str, parts))


class Searched(Frozen):
    """What one search found, and what its schedule does."""

    cell: str
    load: float
    router: str
    seed: int
    found: Hindsight
    code_digest: str  # of the simulator that played the schedule
    figures: dict[str, float]  # of that episode, as a row of a benchmark has them


CODEC: Codec[Searched] = json_codec(Searched)


def all_jobs() -> list[Job]:
    """Every search of the suite, the first seed of all cells before the second of any."""
    found = [
        Job(cell, load, router, EVALUATION_SEEDS[n])
        for n in range(max(SEEDS.values()))
        for router, load, cell in product(SEEDS, LOADS[::-1], moving.MOVING)
        if n < SEEDS[router]
    ]
    return found


def search(job: Job, how: Search = SUITE_SEARCH) -> Searched:
    """Search for a schedule and play it."""
    found = hindsight(job.scenario, job.seed, TAIL, how)
    return Searched(**job._asdict(), found=found, **_played(job, found.schedule))


def play_again(old: Searched) -> Searched:
    """The same schedule, played by the simulator of now."""
    return old.model_copy(update=_played(_job(old), old.found.schedule))


def _played(job: Job, schedule: Schedule) -> dict[str, Any]:
    policy = SchedulePolicy(schedule)
    (episode,) = run_policy(job.scenario, policy, "schedule", [job.seed])
    return {"code_digest": code_digest(), "figures": episode.figures}


def search_all(
    jobs: Sequence[Job], folder: Path = FOLDER, *, processes: int = 1, progress: bool = False
) -> list[Searched]:
    """Make the searches that the folder does not have; play those again that other code played.

    Args:
        jobs: such as :func:`all_jobs`.
        folder: holds one file per search.
        processes: at a time.
        progress: show a progress bar on stderr.

    Raises:
        ConfigError: another process writes there, or nobody can.
    """
    with open_store(folder, CODEC) as store:
        found = store.complete(
            {job.key: job for job in jobs}, search, processes=processes, title="searches",
            progress=progress,
        )  # fmt: skip
        for key, one in found.items():
            if one.code_digest != code_digest():
                found[key] = play_again(one)
                store.put(key, found[key])
    return list(found.values())


def load_searches(folder: Path = FOLDER) -> list[Searched]:
    """All searches of a folder."""
    return Store(folder, CODEC).pieces()  # no lock: an installed package cannot be written


class Late(Frozen):
    """What the schedule does that learns of every change late."""

    cell: str
    load: float
    router: str
    seed: int
    delay: int  # whole windows
    shares: tuple[float, ...]
    code_digest: str  # of the simulator that played it
    figures: dict[str, float]


LATE: Codec[Late] = json_codec(Late)


def late_all(
    searches: Sequence[Searched],
    folder: Path = LATE_FOLDER,
    *,
    delays: Sequence[int] = DELAYS,
    processes: int = 1,
    progress: bool = False,
) -> list[Late]:
    """Plan the delayed schedule of every search that has none yet.

    Args:
        searches: those whose P99 the plans aim at.
        folder: holds one file per search and delay.
        delays: whole windows between a change and the first decision that knows of it.
        processes: at a time.
        progress: show a progress bar on stderr.

    Raises:
        ConfigError: another process writes there, or nobody can.
    """
    jobs = {f"{_job(one).key}-late-{delay}": (one, delay) for delay in delays for one in searches}
    with open_store(folder, LATE) as store:
        made = store.complete(jobs, late, processes=processes, title="late", progress=progress)
    return list(made.values())


def late(job: tuple[Searched, int]) -> Late:
    """Plan one delayed schedule and play it."""
    one, delay = job
    asked = _job(one)
    shares = delayed(asked.scenario, one.seed, delay, one.figures["tail_ms"])
    schedule = one.found.schedule.model_copy(update={"shares": shares})
    return Late(**asked._asdict(), delay=delay, shares=shares, **_played(asked, schedule))


def load_late(folder: Path = LATE_FOLDER) -> list[Late]:
    """All delayed schedules of a folder."""
    return Store(folder, LATE).pieces()


def _job(one: Searched) -> Job:
    return Job(one.cell, one.load, one.router, one.seed)


def replays(searches: Sequence[Searched], figure: str) -> dict[Setting, dict[int, float]]:
    """What the schedules cost, by setting and seed.

    Args:
        searches: any, of any settings.
        figure: such as ``tail_ms``.
    """
    found: dict[Setting, dict[int, float]] = {}
    for one in searches:
        own = found.setdefault(Setting(one.cell, one.load, one.router), {})
        own[one.seed] = one.figures.get(figure, math.nan)
    return found
