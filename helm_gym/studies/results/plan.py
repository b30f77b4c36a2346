"""What is run to judge the three-layer controller: pairs of policy and router, and their jobs.

It is no full cross product: the systems that the paper compares with come with one router, the
others meet all of them. All share seeds, so everything is compared on the same requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from helm_gym.benchmark.arrange import REFERENCE
from helm_gym.benchmark.plan import Job, make_plan
from helm_gym.benchmark.rows import asked_digest, part_name, read_rows, write_rows
from helm_gym.benchmark.run import PARTS
from helm_gym.config.routers import ROUTERS as KNOWN_ROUTERS
from helm_gym.errors import ConfigError, nearest
from helm_gym.evaluation.specs import HELM_SEARCH

FULL = "helm"
"""Spec of the whole controller: base, adapter and recovery."""
TUNED = HELM_SEARCH
"""HELM with the site's setting, searched as the opponents' are: share, and how far to follow."""
OWN = (FULL, TUNED)
"""What targets are about: one network that nobody tuned, and the same told about its site."""
BASE, ADAPTER, RECOVERY = "ppo:released", "adapted:ppo:released", "recovery:ppo:released"
LAYERS = {
    BASE: "base", ADAPTER: "+ adapter", RECOVERY: "+ recovery", FULL: "+ both",
}  # fmt: skip
"""The ablation: which layers a spec has."""
POLICIES = ("static:0.5", REFERENCE, "balance:best", "hysteresis:best", *LAYERS, TUNED)
"""What is run under every router, :data:`TUNED` where targets and tables need it."""

AFFINITY = "kv_affinity"
"""Requests go where their user's KV is: the router that the paper's baselines have."""
PLAIN = (AFFINITY, "predicted_completion")
"""One that knows of KV alone and one that predicts; shares alone are compared under these."""
FORESIGHT = "foresight"
"""Our own: predicted completion, and what a request leaves behind."""
ROUTERS = (*PLAIN, "helm_score", *(name for name in (FORESIGHT,) if name in KNOWN_ROUTERS))
SCHEDULER = ROUTERS[-1]
"""The EMB-KV-aware scheduler of the full system: our own if this version has it, else HELM's."""

PAPERS = ("kv-opt:best", "kv-emb-opt:best")
"""The paper's baselines, run with affinity routing only."""
OPPONENTS = (REFERENCE, *PAPERS)
"""Whom the paper compares with; all with affinity routing."""
STRONGEST = (REFERENCE, "balance:best", "hysteresis:best")
"""Opponents that get whatever router serves them best."""
SEEDS, QUICK_SEEDS = 5, 2


class System(NamedTuple):
    """A policy under a router."""

    policy: str
    router: str

    def __str__(self) -> str:
        return f"{self.policy} under {self.router}"


def known_router(name: str) -> str:
    """Check a router's name.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in KNOWN_ROUTERS:
        raise ConfigError(f"router {name!r} does not exist{nearest(name, KNOWN_ROUTERS)}")
    return name


def runs_under(policy: str, router: str, scheduler: str) -> bool:
    """Whether a policy is run under a router."""
    if policy in PAPERS:
        return router == AFFINITY
    return policy != TUNED or router in (*PLAIN, scheduler)


def systems(
    policies: Sequence[str] | None = None,
    scheduler: str = SCHEDULER,
    quick: bool = False,
) -> list[System]:
    """Every pair that is run.

    Args:
        policies: specs; :data:`POLICIES` and :data:`PAPERS` by default.
        scheduler: router of the full system, added if it is not among :data:`ROUTERS`.
        quick: with the plain routers and the scheduler only.

    Raises:
        ConfigError: the reference is missing, or there is no such router.
    """
    known_router(scheduler)
    wanted = list(dict.fromkeys((*POLICIES, *PAPERS) if policies is None else policies))
    if REFERENCE not in wanted:
        raise ConfigError(
            f"the page refers everything to {REFERENCE}, which is not among the policies "
            f"({', '.join(wanted) or 'none'}): add -p {REFERENCE}"
        )
    routers = dict.fromkeys((*(PLAIN if quick else ROUTERS), scheduler))
    return [
        System(policy, router)
        for router in routers
        for policy in wanted
        if runs_under(policy, router, scheduler)
    ]


def make_jobs(
    those: Sequence[System], n_seeds: int, *, quick: bool = False, steps: int | None = None
) -> list[Job]:
    """Every system in every cell of the paper suite, at its three loads.

    Args:
        those: pairs of policy and router.
        n_seeds: the first so many test seeds.
        quick: episodes of one minute at the highest load.
        steps: windows per episode; ten simulated minutes by default.

    Raises:
        ConfigError: a policy cannot be run, or was trained on what it would be judged by.
    """
    by_router: dict[str, list[str]] = {}
    for policy, router in those:
        by_router.setdefault(router, []).append(policy)
    jobs = [
        make_plan("paper", specs, n_seeds, routers=(router,), steps=steps, quick=quick)
        for router, specs in by_router.items()
    ]
    return [job for found in jobs for job in found]


class Found(NamedTuple):
    """How many of the planned searches earlier rows answer."""

    known: int
    of: int


def use_searches(jobs: Sequence[Job], file: Path, out: Path) -> Found:
    """Put earlier rows of the same searches into a folder, where a benchmark takes specs from.

    A row answers a search if its scenario, candidates and rule of choice are the same by digest;
    the simulator may have changed since, then only what was found counts, not the row's figures.

    Args:
        jobs: the plan.
        file: rows of an earlier benchmark.
        out: folder that the benchmark will write to.

    Raises:
        ConfigError: the file holds no rows, or the folder cannot be written.
    """
    searches = [job for job in jobs if job.searches]
    wanted = {
        (scenario.digest(), asked_digest(scenario, job.policy, among=job.among))
        for job in searches
        for scenario in [job.setting.scenario]
    }
    rows = [
        row
        for row in read_rows(file)
        if row["spec"] and (row["scenario_digest"], row["asked_digest"]) in wanted
    ]
    if rows and not (out / PARTS / part_name(rows)).exists():
        write_rows(rows, out / PARTS / part_name(rows))
    return Found(len({(r["scenario_digest"], r["asked_digest"]) for r in rows}), len(searches))
