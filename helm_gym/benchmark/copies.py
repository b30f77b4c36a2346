"""Runs that are already known under another name: a search found a spec that was played before.

``mpc:best`` and ``mpc:suite`` often stand for the same settings, and ``static:best`` for one of
the 17 shares. The same spec on the same requests does the same, bit for bit, so its row is copied
and gets the other name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from helm_gym._version import __version__
from helm_gym.benchmark.plan import Job
from helm_gym.benchmark.rows import OK, Row, asked_by, identity, row_key
from helm_gym.evaluation.specs import make_policy
from helm_gym.provenance import code_digest, policy_digest

Run = tuple[str, str, int]  # scenario digest, spec as run, seed


def spec_of(job: Job) -> str | None:
    """What a job plays; None if a search has yet to say so."""
    return job.resolved or (None if job.searches else job.policy)


def first_of_each(jobs: Sequence[Job]) -> tuple[list[Job], list[Job]]:
    """Jobs that differ in what they play, and those that repeat one of them."""
    known: set[tuple[object, ...]] = set()
    first, again = [], []
    for job in jobs:
        spec = spec_of(job)
        what = (job.setting.scenario.digest(), spec, job.seeds, job.budget_ms)
        if spec is None or what not in known:
            first.append(job)
        else:
            again.append(job)
        known.add(what)
    return first, again


def copied(jobs: Sequence[Job], rows: Mapping[str, Row]) -> tuple[list[list[Row]], list[Job]]:
    """Rows of jobs whose runs are known, and the jobs that are left.

    Args:
        jobs: to run.
        rows: all that are stored, by key.
    """
    known: dict[Run, Row] = {
        (row["scenario_digest"], row["spec"], row["seed"]): row
        for row in rows.values()
        if row["status"] == OK
        and (row["helm_gym"], row["code_digest"]) == (__version__, code_digest())
    }
    made, left = [], []
    for job in jobs:
        own = _copied(job, known)
        if own is None:
            left.append(job)
        else:
            made.append(own)
    return made, left


def _copied(job: Job, known: Mapping[Run, Row]) -> list[Row] | None:
    """Rows of one job under its own name; None if a run is not known, or not by today's code."""
    spec, digest = spec_of(job), job.setting.scenario.digest()
    if spec is None:
        return None
    found = [known.get((digest, spec, seed)) for seed in job.seeds]
    good = [row for row in found if row is not None and row["budget_ms"] == job.budget_ms]
    if len(good) < len(job.seeds):
        return None
    now = policy_digest(spec, make_policy(spec, job.allow))
    if any(row["policy_digest"] != now for row in good):
        return None
    asked = asked_by(job)
    about = identity(job, asked)
    return [{**row, **about, "key": row_key(digest, asked, row["seed"])} for row in good]
