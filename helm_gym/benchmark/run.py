"""Run a benchmark: jobs in parallel, rows kept as they come, nothing finished run twice."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helm_gym.benchmark.copies import copied, first_of_each
from helm_gym.benchmark.jobs import failed_rows, work
from helm_gym.benchmark.plan import Job, is_common
from helm_gym.benchmark.rows import (
    FAILED,
    Row,
    asked_by,
    merge,
    part_name,
    read_parts,
    row_key,
    write_rows,
)
from helm_gym.console import make_table, progress_bar
from helm_gym.errors import ConfigError
from helm_gym.evaluation.common import SCORES, search_common
from helm_gym.evaluation.search import CHEAP
from helm_gym.evaluation.specs import from_file
from helm_gym.processes import worker_pool
from helm_gym.store import locked, open_store

if TYPE_CHECKING:
    from rich.table import Table

BACKENDS = ("loky", "ray")
PARTS = "rows"
SEARCHED = "searches"
Result = tuple[int, list[Row]]


@dataclass(frozen=True)
class Bench:
    """A finished benchmark."""

    rows: list[Row]  # those that were asked for, in the order of cell, load, router, policy, seed
    ran: int  # rows run now; the others were there already
    path: Path  # of rows.parquet, which holds what earlier commands put into the folder as well

    @property
    def failed(self) -> dict[str, list[Row]]:
        """Failed rows by policy."""
        found: dict[str, list[Row]] = {}
        for row in self.rows:
            if row["status"] == FAILED:
                found.setdefault(row["policy"], []).append(row)
        return found


def run_bench(
    jobs: Sequence[Job],
    out: Path,
    *,
    processes: int = 1,
    backend: str = "loky",
    retry: bool = False,
    progress: bool = False,
) -> Bench:
    """Run what the folder does not hold yet, and merge its rows.

    Args:
        jobs: from :func:`~helm_gym.benchmark.plan.make_plan`.
        out: folder; ``rows/`` in it holds a file per finished job, ``searches/`` the scores of
            searches common to many settings.
        processes: at a time; one is this very process, which a policy can then end.
        backend: ``loky``, processes on this machine; ``ray``, a Ray cluster.
        retry: run failed rows again.
        progress: show a progress bar on stderr.

    Raises:
        ConfigError: the folder or the backend cannot be used.
    """
    if backend not in BACKENDS:
        raise ConfigError(f"backend {backend!r} does not exist; write one of {', '.join(BACKENDS)}")
    parts, ran, failed = out / PARTS, 0, 0
    with locked(parts):
        stored = read_parts(parts)
        keys, todo = outstanding(jobs, stored, retry)
        todo = searched(todo, out / SEARCHED, processes, progress)

        def keep(rows: list[Row]) -> None:
            write_rows(rows, parts / part_name(rows))
            for row in rows:
                stored.pop(row["key"], None)  # a retried row is the later one
                stored[row["key"]] = row

        known, todo = copied(todo, stored)
        for rows in known:
            keep(rows)
        todo, repeated = first_of_each(todo)
        left, total = sum(job.weight for job in todo), len(keys)
        done = total - sum(len(job.seeds) for job in (*todo, *repeated))
        # Rollouts of searches count too, so that the bar's speed gives the time that is left.
        with progress_bar(
            "bench", left, wanted=progress, note=f"{done}/{total} rows", transient=False
        ) as bar:
            for place, rows in _results(todo, processes, backend):
                keep(rows)
                ran += len(rows)
                failed += sum(row["status"] == FAILED for row in rows)
                note = f"{done + ran}/{total} rows" + (f", {failed} failed" if failed else "")
                bar.advance(todo[place].weight, note)
        known, failed_too = copied(repeated, stored)
        for rows in known:
            keep(rows)
        for _, rows in _results(failed_too, processes, backend):  # as the job that it repeats
            keep(rows)
        merged = merge(stored.values(), keys, out)
    wanted = set(keys)
    return Bench([row for row in merged if row["key"] in wanted], ran, out / "rows.parquet")


def outstanding(
    jobs: Sequence[Job], stored: dict[str, Row], retry: bool = False
) -> tuple[list[str], list[Job]]:
    """Keys of all rows that are wanted, and the jobs that are left, long ones first."""
    found = {
        (row["scenario_digest"], row["asked_digest"], row["code_digest"]): row["spec"]
        for row in stored.values()
        if row["spec"]
    }
    keys: list[str] = []
    todo: list[Job] = []
    for job in jobs:
        digest = job.setting.scenario.digest()
        asked = asked_by(job)
        own = {seed: row_key(digest, asked, seed) for seed in job.seeds}
        keys += own.values()
        left = tuple(s for s, key in own.items() if _missing(stored.get(key), retry))
        if left:
            known = {spec for (d, a, _), spec in found.items() if (d, a) == (digest, asked)}
            resolved = job.tuned or job.resolved
            if resolved is None and known and job.searches:
                resolved = from_file(min(known), "a stored row", job.allow)
            todo.append(replace(job, seeds=left, resolved=resolved))
    return keys, sorted(todo, key=lambda job: -job.weight)


def searched(
    jobs: Sequence[Job], folder: Path, processes: int = 1, progress: bool = False
) -> list[Job]:
    """Jobs with the results of the searches that are common to many of them.

    Raises:
        ConfigError: the folder cannot be used.
        PolicyError: a candidate failed.
    """
    common = [job for job in jobs if is_common(job.policy) and job.resolved is None]
    if not common:
        return list(jobs)
    best: dict[tuple[str, frozenset[str]], str] = {}
    with open_store(folder, SCORES) as store:
        for job in common:
            if _cells(job) not in best:
                found = search_common(
                    job.among, job.policy, CHEAP, store=store, processes=processes,
                    progress=progress,
                )  # fmt: skip
                best[_cells(job)] = found.best
    return [replace(job, resolved=best.get(_cells(job), job.resolved)) for job in jobs]


def _cells(job: Job) -> tuple[str, frozenset[str]]:
    """A common search and where it is made: jobs that share both share the result."""
    return job.policy, frozenset(scenario.digest() for scenario in job.among)


def _missing(row: Row | None, retry: bool) -> bool:
    return row is None or (retry and row["status"] == FAILED)


def _results(jobs: Sequence[Job], processes: int, backend: str) -> Iterator[Result]:
    """Rows of every job as they come.

    When a worker dies, those jobs that were under way are run again, each in a process of its own;
    the one that kills that too is reported as failed, and the others go on.
    """
    left = dict(enumerate(jobs))
    if processes == 1 and backend == "loky":  # in this process, and without joblib
        for place, job in left.items():
            yield work(place, job, os.getcwd(), os.getpid())
        return
    while left:
        begun: list[int] = []
        try:
            for place, rows in _parallel(left, begun, processes, backend):
                del left[place]
                yield place, rows
        except _worker_died(backend):
            for place in [p for p in begun if p in left]:
                yield _alone(place, left.pop(place))


def _parallel(
    jobs: dict[int, Job], begun: list[int], processes: int, backend: str
) -> Iterator[Result]:
    """Run jobs through joblib; ``begun`` gets the places of those handed out."""
    joblib = _joblib(backend)
    n = max(2, processes)  # joblib would run a single one in this process, which jobs may end
    parent = None if backend == "ray" else os.getpid()

    def tasks() -> Iterator[Any]:
        for place, job in list(jobs.items()):
            begun.append(place)
            yield joblib.delayed(work)(place, job, os.getcwd(), parent)

    with joblib.parallel_config(backend=backend, n_jobs=n):
        run = joblib.Parallel(return_as="generator_unordered", batch_size=1, pre_dispatch=n)
        results = run(tasks())
        try:
            yield from results
        except BaseException:
            results.close()
            _stop_workers(backend)
            raise


def _stop_workers(backend: str) -> None:
    """What runs would take long, and none of it could be kept."""
    if backend == "loky":
        loky: Any = import_module("joblib.externals.loky")
        loky.get_reusable_executor().shutdown(wait=False, kill_workers=True)


def _worker_died(backend: str) -> tuple[type[Exception], ...]:
    """What joblib raises when one of its workers is gone."""
    if backend == "loky":
        return (BrokenProcessPool,)
    errors: Any = import_module("ray.exceptions")
    return (errors.RayError,)


def _joblib(backend: str) -> Any:
    """joblib, with Ray behind it if that is asked for."""
    try:
        joblib: Any = import_module("joblib")
        if backend == "ray":
            base: Any = import_module("ray.util.joblib.ray_backend")
            # Inherited from joblib's multiprocessing, whose pool cannot; Ray's can, and rows have
            # to be kept as they come.
            streaming = type("Streaming", (base.RayBackend,), {"supports_return_generator": True})
            joblib.register_parallel_backend("ray", streaming)
    except ModuleNotFoundError as error:
        extra = "ray" if backend == "ray" else "bench"
        raise ConfigError(
            f"a benchmark with --backend {backend} needs {error.name}: "
            f"pip install 'helm-gym[{extra}]'"
        ) from None
    return joblib


def _alone(place: int, job: Job) -> Result:
    """Run a job in a process that may die."""
    with worker_pool(1) as pool:
        future = pool.submit(work, place, job, os.getcwd(), None)
        try:
            return future.result()
        except BrokenProcessPool:
            return place, failed_rows(job, f"policy {job.policy!r}: its process died")


def summary(bench: Bench) -> Table:
    """Mean P99 by policy over everything that was run, and how many rows failed."""
    import numpy as np

    by_policy: dict[str, list[Row]] = {}
    for row in bench.rows:
        by_policy.setdefault(row["policy"], []).append(row)
    lines = []
    for policy, rows in by_policy.items():
        good = [row for row in rows if row["status"] != FAILED]
        cells = ["", "", ""]
        if good:
            tail, inside, took = (
                float(np.nanmean([row[name] for row in good]))
                for name in ("tail_ms", "slo_satisfaction", "decision_mean_us")
            )
            cells = [f"{tail:.1f}", f"{100 * inside:.2f}", f"{took:.0f}"]
        lines.append([policy, str(len(rows)), str(len(rows) - len(good)), *cells])
    headings = ("policy", "rows", "failed", "P99 ms", "in SLO %", "us per decision")
    caption = "Means over rows; helm-gym bench says nothing of who is better."
    return make_table(headings, lines, caption=caption)
