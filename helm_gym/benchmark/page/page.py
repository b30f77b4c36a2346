"""One self-contained HTML page about a benchmark: no file beside it, no network.

It reads rows, and where they lie beside them the series of ``helm-gym bench`` (shares over time and
latencies) and the rows of ``helm-gym goodput``. What is not there is said, not left out in silence.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from helm_gym.benchmark.arrange import (
    REFERENCE,
    SCHEDULES,
    Benchmark,
    arrange,
    beside,
    load_rows,
    load_schedules,
    load_series,
)
from helm_gym.benchmark.leaderboard import Line, facts, failures, is_bound, lines, warnings
from helm_gym.benchmark.page import ablations, plots
from helm_gym.benchmark.page.cells import (
    cell_section,
    digest_rows,
    goodput_panels,
    policy_rows,
    sustained_rows,
)
from helm_gym.pages import templates
from helm_gym.pages.table import Cell, Table, number, words
from helm_gym.runs.stats import chance, profile
from helm_gym.suites.moving import PREFIX

DRAWN = 5  # policies in a figure beside the reference and the bounds
TAUS = 81
Floats = NDArray[np.float64]


def render(where: Path, reference: str = REFERENCE, schedules: Path | None = None) -> str:
    """Make the page.

    Args:
        where: file or folder of rows.
        reference: policy that scores refer to.
        schedules: folder of what ``helm-gym hindsight`` found; ``schedules`` beside the rows by
            default.
    """
    benchmark = arrange(load_rows(where), reference)
    ranked = lines(benchmark)
    looks = _looks(benchmark, ranked)
    series = load_series(where, _keys(benchmark, list(looks)))
    optima = load_schedules(schedules or beside(where, SCHEDULES))
    return templates.render(
        "benchmark.html.j2",
        facts=facts(benchmark),
        warnings=warnings(benchmark),
        leaderboard=leaderboard(ranked),
        overview=_overview(benchmark, ranked, looks),
        pairs=pairs(benchmark, ranked),
        conditions=ablations.by_condition(benchmark, [line.policy for line in ranked]),
        routers=ablations.router_and_split(benchmark, [line.policy for line in ranked]),
        searches=ablations.search_gains(benchmark),
        cells=[
            cell_section(benchmark, cell, [line.policy for line in ranked], looks, series, optima)
            for cell in benchmark.settings
        ],
        has_series=bool(series),
        has_optimum=bool(optima) or any(is_bound(line.policy) for line in ranked),
        goodput=_goodput(benchmark, looks),
        sustained=sustained_rows(where),
        moved=_moved(benchmark, ranked),
        failed=_failed(benchmark),
        policies=policy_rows(benchmark),
        digests=digest_rows(benchmark),
        command=command(benchmark),
    )


def _looks(benchmark: Benchmark, ranked: Sequence[Line]) -> dict[str, Any]:
    """The policies that figures show, best first, and how each looks."""
    names = [line.policy for line in ranked]
    others = [name for name in names if name != benchmark.reference and not is_bound(name)]
    shown = {benchmark.reference, *others[:DRAWN], *(name for name in names if is_bound(name))}
    drawn = [name for name in names if name in shown]
    return plots.styles(drawn, benchmark.reference, [name for name in drawn if is_bound(name)])


def _keys(benchmark: Benchmark, drawn: Sequence[str]) -> list[str]:
    """Of the rows whose series are drawn: those at the highest load of a cell."""
    return [
        str(benchmark.row(those[-1], policy, seed).get("key"))
        for cell, those in benchmark.settings.items()
        for policy in drawn
        for seed in benchmark.seeds[cell]
    ]


def leaderboard(ranked: Sequence[Line]) -> Table:
    """Of the page, to be sorted."""
    headings = (
        "rank", "policy", "run as", "P99 / reference's", "held-out cells", "P(better)",
        "P(better than next)", "in SLO, %", "moved, GB", "decision, µs",
    )  # fmt: skip
    return Table(
        "leaderboard",
        headings,
        [
            [
                Cell(str(line.rank) if line.rank else "bound", float(line.rank)),
                words(line.policy),
                words(line.found),
                number(line.score),
                number(line.held_out),
                number(line.better, ".2f"),
                number(line.next_one, ".2f"),
                number(100.0 * line.slo, ".2f"),
                number(line.moved_gb, ".0f"),
                number(line.decision_us, ".0f"),
            ]
            for line in ranked
        ],
    )


def pairs(benchmark: Benchmark, ranked: Sequence[Line]) -> Table:
    """Probability that the row's policy has a lower P99 than the column's."""
    names = [line.policy for line in ranked]
    scores = benchmark.scores
    rows = []
    for one in names:
        won = [chance(scores[one], scores[two]) for two in names]
        cells = [number(p, ".2f", tint=p) for p in won]
        rows.append([words(one), *cells])
    return Table("pairs", ("policy", *names), rows)


def _overview(
    benchmark: Benchmark, ranked: Sequence[Line], looks: Mapping[str, Any]
) -> list[dict[str, str]]:
    bars = [
        {
            "label": line.policy, "mean": line.score.mean, "low": line.score.low,
            "high": line.score.high, "bound": line.rank == 0,
        }
        for line in ranked
    ]  # fmt: skip
    everything = np.concatenate([c.ravel() for p in looks for c in benchmark.scores[p]])
    low, high = np.quantile(everything, [0.01, 0.95])
    taus = np.linspace(min(0.95, low), max(1.05, high), TAUS)
    curves = []
    for policy, look in looks.items():
        part, below, above = profile(benchmark.scores[policy], taus)
        curves.append({"label": policy, "look": look, "part": part, "low": below, "high": above})
    return [
        {
            "svg": plots.scores("scores", bars),
            "caption": "Interquartile means with 95 % bootstrap intervals; hollow: a bound.",
        },
        {
            "svg": plots.profiles("profiles", curves, taus),
            "caption": "Performance profiles: the higher, the better; shaded, 95 % intervals.",
        },
    ]


def _goodput(benchmark: Benchmark, looks: Mapping[str, Any]) -> str:
    panels = goodput_panels(benchmark, looks)
    return plots.over_loads("goodput", panels) if panels else ""


def _moved(benchmark: Benchmark, ranked: Sequence[Line]) -> str:
    return plots.moved(
        "moved",
        [
            {
                "label": line.policy,
                "miss_gb": benchmark.mean(line.policy, "miss_gb"),
                "refill_gb": benchmark.mean(line.policy, "refill_gb"),
            }
            for line in ranked
        ],
    )


def _failed(benchmark: Benchmark) -> Table | None:
    rows = [[words(one.policy), words(failures(one))] for one in benchmark.left_out]
    return Table("failed", ("policy", "runs, and why"), rows) if rows else None


def command(benchmark: Benchmark) -> str:
    """The command line that runs such a benchmark again."""
    known = facts(benchmark)
    suite = known["cells"][0] if len(known["cells"]) == 1 else "FOLDER"
    if known["suites"] == [PREFIX]:
        suite = "paper"
    policies = dict.fromkeys(str(key[3]) for key in benchmark.runs)
    settings = [
        f"--loads {','.join(f'{load:g}' for load in known['loads'])}",
        f"--routers {','.join(known['routers'])}",
        *(f"--steps {steps}" for steps in known["steps"][:1]),
    ]
    asked = " ".join(f"-p {shlex.quote(policy)}" for policy in policies)
    return f"helm-gym bench --suite {suite} --seeds {known['n_seeds']} {' '.join(settings)} {asked}"
