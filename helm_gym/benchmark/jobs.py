"""One job of a benchmark: resolve the policy, run its seeds side by side, make their rows."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from helm_gym.benchmark.plan import REWARD, Job
from helm_gym.benchmark.rows import (
    COLUMNS,
    FAILED,
    OK,
    SERIES,
    Row,
    asked_by,
    identity,
    row_key,
)
from helm_gym.errors import HelmGymError
from helm_gym.evaluation.search import CHEAP, resolve
from helm_gym.evaluation.specs import make_policy
from helm_gym.processes import begin_worker
from helm_gym.provenance import policy_digest
from helm_gym.runs.bank import Bank, Timed
from helm_gym.runs.rollout import Episode, run_policy
from helm_gym.units import MS

Array = NDArray[Any]

US = 1e-6


def run_job(job: Job) -> list[Row]:
    """Run all seeds of a job.

    Returns:
        A row per seed, in their order; failed ones have a reason and no figures.
    """
    scenario = job.setting.scenario
    asked = asked_by(job)
    about = identity(job, asked)
    keys = {s: row_key(about["scenario_digest"], asked, s) for s in job.seeds}
    rows = {seed: {**about, "seed": seed, "key": keys[seed]} for seed in job.seeds}
    spec = job.resolved
    try:
        spec = spec or resolve(scenario, job.policy, CHEAP)
        made = [make_policy(spec, job.allow) for _ in job.seeds]
        digest = policy_digest(spec, made[0])
        timed = [Timed(p, job.budget_ms * MS, scenario.episode.steps) for p in made]
        bank = Bank(spec, timed, job.seeds)
    except HelmGymError as error:
        return [_complete(_failed(row, str(error), spec)) for row in rows.values()]
    began = time.perf_counter()
    try:
        episodes = run_policy(scenario, bank, spec, job.seeds, reward=REWARD)
        reasons = {job.seeds[cluster]: why for cluster, why in bank.failures.items()}
    except HelmGymError as error:
        episodes = []
        reasons = {s: bank.failures.get(c, str(error)) for c, s in enumerate(job.seeds)}
    wall_s = (time.perf_counter() - began) / len(job.seeds)
    for seed, one in zip(job.seeds, timed, strict=True):
        rows[seed] |= {"spec": spec, "policy_digest": digest, "own_router": bank.router}
        rows[seed] |= {"wall_s": wall_s, **_latency(one)}
        if seed in reasons:
            _failed(rows[seed], reasons[seed], spec)
    for episode in episodes:
        if episode.seed not in reasons:
            rows[episode.seed] |= _figures(job, episode)
    return [_complete(row) for row in rows.values()]


def _complete(row: Row) -> Row:
    """Every column, as a file has them."""
    return {name: row.get(name) for name in (*COLUMNS, *SERIES)}


def _failed(row: Row, reason: str, spec: str | None) -> Row:
    row |= {"status": FAILED, "reason": reason, "spec": spec}
    return row


def failed_rows(job: Job, reason: str) -> list[Row]:
    """Rows of a job that could not be run to an end."""
    asked = asked_by(job)
    about = identity(job, asked)
    keys = {seed: row_key(about["scenario_digest"], asked, seed) for seed in job.seeds}
    return [
        _complete(_failed({**about, "seed": seed, "key": key}, reason, job.resolved))
        for seed, key in keys.items()
    ]


def _latency(policy: Timed) -> Row:
    if not policy.seconds:
        return {}
    taken = np.array(policy.seconds) / US
    p50, p99 = np.quantile(taken, (0.5, 0.99))
    return {
        "decision_mean_us": float(taken.mean()),
        "decision_p50_us": float(p50),
        "decision_p99_us": float(p99),
    }


def _figures(job: Job, episode: Episode) -> Row:
    settings = job.setting.scenario.episode
    seconds = (settings.steps - episode.uncounted) * settings.step_s
    agreed = bool((episode.shares == episode.shares[:, :1]).all())
    return {
        **episode.figures,
        "status": OK,
        "reason": "",
        "requests": round(episode.figures["offered_rps"] * seconds),
        "share_by_window": episode.shares.mean(axis=1).tolist(),
        "shares_by_node": None if agreed else episode.shares.ravel().tolist(),
        "p99_by_window": episode.series["p99_ms"].tolist(),
        "tail_by_window": episode.series["tail_ms"].tolist(),
        "latency": episode.latency.tolist(),
    }


def work(place: int, job: Job, folder: str, parent: int | None) -> tuple[int, list[Row]]:
    """Run a job in a worker process, from the folder where the command was given.

    Args:
        place: of the job in its plan; handed back.
        job: what to run.
        folder: the parent's working folder, where a stranger's module lies.
        parent: process that ends this one when it ends; None where somebody else sees to that.
    """
    if parent != os.getpid():
        begin_worker(parent)
        if Path(folder).is_dir():
            os.chdir(folder)
    return place, run_job(job)
