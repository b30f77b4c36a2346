"""The leaderboard: policies in the order of their P99, as data, Markdown and a check of the file.

The score of a run is the policy's P99 over the reference's on the same requests; the reference is
the best static share unless another is named. A policy's score is the interquartile mean over all
runs. A policy that failed anywhere is not ranked: leaving out the runs that it failed in would
reward failing where it is hard.
"""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helm_gym.benchmark.arrange import REFERENCE, Benchmark, LeftOut, arrange
from helm_gym.benchmark.rows import OK, Row
from helm_gym.errors import ConfigError
from helm_gym.evaluation.tables import span
from helm_gym.pages.templates import render
from helm_gym.runs.stats import Interval, chance, improvement, iqm

HINDSIGHT = ("hindsight", "schedule")
"""Kinds of specs that know the requests to come: bounds, which have no rank."""
FIGURES = {"tail_ms": "P99 over all arrivals", "p99_ms": "P99 over admitted requests"}
SHOWN_SPECS = 3  # that a search found; if there are more, they are only counted


@dataclass(frozen=True)
class Line:
    """One policy."""

    rank: int  # 0 for a bound
    policy: str
    specs: tuple[str, ...]  # what it was run as
    score: Interval  # P99 over the reference's, interquartile mean
    held_out: Interval  # of the cells that training never saw; NaN if there are none
    better: Interval  # probability that its P99 is lower than the reference's
    next_one: float  # and lower than the next line's; NaN for the last
    slo: float  # requests inside the SLO / arrived
    moved_gb: float  # per run: fetched on misses, and refilled
    decision_us: float  # mean over runs of the median

    @property
    def found(self) -> str:
        """What a search found; empty for a policy that is what it is called."""
        if self.specs == (self.policy,):
            return ""
        if len(self.specs) > SHOWN_SPECS:
            return f"{len(self.specs)} settings"
        return ", ".join(self.specs)


def is_bound(policy: str) -> bool:
    """Whether a policy knows what no policy can know."""
    return policy.partition(":")[0] in HINDSIGHT


def lines(benchmark: Benchmark) -> list[Line]:
    """Ranked policies and bounds, the lowest score first."""
    scores = {policy: iqm(cells) for policy, cells in benchmark.scores.items()}
    order = sorted(scores, key=lambda policy: (scores[policy].mean, policy))
    found = []
    for place, policy in enumerate(order):
        ranked = [other for other in order[: place + 1] if not is_bound(other)]
        after = order[place + 1] if place + 1 < len(order) else None
        found.append(_line(benchmark, policy, scores[policy], len(ranked), after))
    return found


def _line(benchmark: Benchmark, policy: str, score: Interval, rank: int, after: str | None) -> Line:
    cells, base = benchmark.scores[policy], benchmark.scores[benchmark.reference]
    held_out = [c for c, out in zip(cells, benchmark.held_out, strict=True) if out]
    unknown = Interval(math.nan, math.nan, math.nan)
    return Line(
        rank=0 if is_bound(policy) else rank,
        policy=policy,
        specs=tuple(benchmark.specs(policy)),
        score=score,
        held_out=iqm(held_out) if held_out else unknown,
        better=unknown if policy == benchmark.reference else improvement(cells, base),
        next_one=chance(cells, benchmark.scores[after]) if after else math.nan,
        slo=benchmark.mean(policy, "slo_satisfaction"),
        moved_gb=benchmark.mean(policy, "miss_gb") + benchmark.mean(policy, "refill_gb"),
        decision_us=benchmark.mean(policy, "decision_p50_us"),
    )


def failures(left_out: LeftOut) -> str:
    """What kept a policy from being ranked, in words."""
    shown = "; ".join(" ".join(reason.split()) for reason in left_out.reasons[:SHOWN_SPECS])
    more = len(left_out.reasons) - SHOWN_SPECS
    return f"{left_out.runs} of {left_out.of} runs: {shown}" + (
        f" (and {more} other reasons)" if more > 0 else ""
    )


def facts(benchmark: Benchmark) -> dict[str, Any]:
    """What a benchmark was: settings, seeds, versions."""
    settings = [setting for those in benchmark.settings.values() for setting in those]
    seeds = sorted({seed for those in benchmark.seeds.values() for seed in those})
    rows = list(benchmark.runs.values())
    return {
        "suites": benchmark.distinct("suite"),
        "cells": list(benchmark.settings),
        "loads": sorted({setting.load for setting in settings}),
        "routers": sorted({setting.router for setting in settings}),
        "seeds": span(seeds),
        "n_seeds": len(seeds),
        "runs": benchmark.n_runs,
        "steps": benchmark.distinct("steps"),
        "versions": {
            name: benchmark.distinct(name)
            for name in ("helm_gym", "numpy", "numba", "python", "code_digest")
        },
        "figure": FIGURES[benchmark.figure],
        "reference": benchmark.reference,
        "requests": sum(int(row.get("requests") or 0) for row in rows if row["status"] == OK),
    }


def warnings(benchmark: Benchmark) -> list[str]:
    """What a reader has to know before believing the table."""
    found = []
    known = facts(benchmark)["versions"]
    for name, meaning in (("helm_gym", "versions"), ("code_digest", "states of the simulator")):
        if len(known[name]) > 1:
            found.append(
                f"The rows come from several {meaning} ({', '.join(known[name])}): differences "
                "between policies may be differences between those."
            )
    n = min(len(seeds) for seeds in benchmark.seeds.values())
    if n < 2:
        found.append("With a single seed there are no intervals.")
    elif n < 5:
        found.append(f"With {n} seeds the intervals are much too narrow.")
    return found


def markdown(rows: list[Row] | list[dict[str, Any]], reference: str = REFERENCE) -> str:
    """The page, from rows."""
    benchmark = arrange(rows, reference)
    return render(
        "leaderboard.md.j2",
        lines=lines(benchmark),
        left_out=[(one.policy, failures(one)) for one in benchmark.left_out],
        warnings=warnings(benchmark),
        **facts(benchmark),
    )


def check(wanted: str, page: Path, command: str) -> None:
    """Compare a page with the one that the rows give.

    Args:
        wanted: the page that the rows give.
        page: the file that should be the same.
        command: writes it again.

    Raises:
        ConfigError: it is missing or differs; the message shows the first lines that do.
    """
    if not page.is_file():
        raise ConfigError(f"{page}: does not exist; write it with {command}")
    there = page.read_text("utf-8").splitlines()
    changes = difflib.unified_diff(
        there, wanted.splitlines(), str(page), "the rows", n=0, lineterm=""
    )
    shown = list(changes)[:8]
    if shown:
        told = "\n".join(shown)
        raise ConfigError(f"{page}: is not what its rows say; write it with {command}\n{told}")
