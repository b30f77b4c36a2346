"""What a comparison of routers says: its table and its page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from helm_gym._version import __version__
from helm_gym.benchmark.rows import Row
from helm_gym.pages.templates import render, write_page
from helm_gym.runs.stats import Interval, mean_interval
from helm_gym.studies.routers.plan import BLIND, RATES, REFERENCE, VARIANTS, Study
from helm_gym.suites.moving import PREFIX

if TYPE_CHECKING:
    from rich.table import Table

QUICK_WARNING = "A smoke test: few cells, two seeds, one minute. Not for conclusions."
LIVE = "live"
HEADINGS = (
    "router", "signals", "P99 / reference's", "95 % interval", "best cell", "worst cell",
    "P99 / reference's live", "in SLO %", "KV hits %", "missed GB",
)  # fmt: skip
NARROW = ("router", "signals", "P99 / reference's", "in SLO %", "KV hits %")
WIDE = 130  # characters that all columns take


@dataclass(frozen=True)
class Line:
    """One router under signals of one age, over all cells and loads."""

    router: str
    age: str
    ratio: Interval  # of P99 to the reference's under the same signals, geometric mean
    best: float  # the same ratio in the cell where it is lowest
    worst: float
    against_live: float  # geometric mean of P99 over the reference's under live signals
    slo: float  # part of arrivals within the SLO
    kv: float  # hit rate
    missed_gb: float  # bytes per episode that misses fetched

    def cells(self) -> list[str]:
        """As text, in the order of :data:`HEADINGS`."""
        interval = f"{self.ratio.low:.3f} to {self.ratio.high:.3f}"
        return [
            self.router,
            self.age,
            f"{self.ratio.mean:.3f}",
            interval if math.isfinite(self.ratio.low) and self.router != REFERENCE else "",
            f"{self.best:.2f}",
            f"{self.worst:.2f}",
            f"{self.against_live:.3f}",
            f"{100 * self.slo:.2f}",
            f"{100 * self.kv:.1f}",
            f"{self.missed_gb:,.0f}",
        ]


Where = tuple[str, float, int]


def _by_place(rows: Sequence[Row], router: str, age: str) -> dict[Where, Row]:
    return {
        (row["cell"], row["load"], row["seed"]): row
        for row in rows
        if (row["router_label"], row["age"]) == (router, age)
    }


def lines(study: Study) -> list[Line]:
    """Every router under every age of signals, in the order they were run.

    Ratios are taken on the same requests (cell, load and seed). For the interval, logarithms are
    averaged over cells first, so that it is over seeds.
    """
    runs = list(dict.fromkeys((row["router_label"], row["age"]) for row in study.rows))
    return [_line(study.rows, router, age) for router, age in runs]


def _line(rows: Sequence[Row], router: str, age: str) -> Line:
    own = _by_place(rows, router, age)
    same = _by_place(rows, REFERENCE, age)
    live = _by_place(rows, REFERENCE, LIVE) or same
    seeds = sorted({seed for _, _, seed in own})
    cells = sorted({(cell, load) for cell, load, _ in own})
    logs = {at: math.log(row["tail_ms"] / same[at]["tail_ms"]) for at, row in own.items()}
    by_seed = [float(np.mean([logs[c, x, seed] for c, x in cells])) for seed in seeds]
    by_cell = [float(np.mean([logs[c, x, seed] for seed in seeds])) for c, x in cells]
    interval = Interval(*(math.exp(x) for x in mean_interval(by_seed)))
    late = [math.log(row["tail_ms"] / live[at]["tail_ms"]) for at, row in own.items()]
    return Line(
        router,
        age,
        interval,
        math.exp(min(by_cell)),
        math.exp(max(by_cell)),
        math.exp(float(np.mean(late))),
        *(
            float(np.mean([row[name] for row in own.values()]))
            for name in ("slo_satisfaction", "kv_hit_rate", "miss_gb")
        ),
    )


def table(study: Study, width: int) -> Table:
    """For a terminal of that many characters; a narrow one gets fewer columns."""
    from rich.table import Table

    shown = Table(caption=f"Reference: {REFERENCE}, on the same requests and the same shares.")
    kept = [i for i, name in enumerate(HEADINGS) if width >= WIDE or name in NARROW]
    for i in kept:
        left = HEADINGS[i] in HEADINGS[:2]
        shown.add_column(HEADINGS[i], justify="left" if left else "right", no_wrap=left)
    for line in lines(study):
        cells = line.cells()
        shown.add_row(*(cells[i] for i in kept))
    return shown


def by_cell(study: Study) -> tuple[list[str], list[list[str]]]:
    """P99 of every router in every cell, live signals (ms, mean over seeds)."""
    routers = list(dict.fromkeys(row["router_label"] for row in study.rows))
    places = sorted({(row["cell"], row["load"]) for row in study.rows})
    found = []
    for cell, load in places:
        tails = []
        for router in routers:
            own = _by_place(study.rows, router, LIVE)
            here = [r["tail_ms"] for (c, x, _), r in own.items() if (c, x) == (cell, load)]
            tails.append(f"{np.mean(here):.1f}" if here else "")
        spec = study.shares[f"{cell} at {load:g}"]
        found.append([cell.removeprefix(f"{PREFIX}-"), f"{load:g}", spec, *tails])
    return ["cell", "load", "shares", *routers], found


def findings(study: Study) -> list[str]:
    """The table in sentences."""
    found = lines(study)
    said = []
    for age in dict.fromkeys(line.age for line in found):
        ranked = sorted((x for x in found if x.age == age), key=lambda line: line.ratio.mean)
        first, second = ranked[0], ranked[min(1, len(ranked) - 1)]
        said.append(
            f"Signals {age}: lowest P99 with `{first.router}` ({first.ratio.mean:.3f} of the "
            f"reference's, {first.ratio.low:.3f} to {first.ratio.high:.3f}), then "
            f"`{second.router}` ({second.ratio.mean:.3f})."
        )
    late = [x for x in found if x.router == REFERENCE and x.age != LIVE]
    if len(late) < len({x.age for x in found}):  # there were live signals
        said += [
            f"Signals {x.age}: P99 of `{REFERENCE}` is {x.against_live:.2f} times that with live "
            f"signals, with {100 * x.slo:.1f} % of arrivals in the SLO."
            for x in late
        ]
    return said


def save(study: Study, page: Path) -> None:
    """Write the page.

    Raises:
        ConfigError: it cannot be written.
    """
    headings, cells = by_cell(study)
    seeds = sorted({row["seed"] for row in study.rows})
    text = render(
        "routers.md.j2",
        version=__version__,
        warning=QUICK_WARNING if study.quick else "",
        findings=findings(study),
        headings=HEADINGS,
        lines=[line.cells() for line in lines(study)],
        cell_headings=headings,
        cells=cells,
        seeds=f"{seeds[0]} to {seeds[-1]}",
        n_seeds=len(seeds),
        loads=", ".join(f"{x:g}" for x in sorted({row["load"] for row in study.rows})),
        steps=study.rows[0]["steps"],
        asked=study.asked,
        reference=REFERENCE,
        rates=RATES,
        variants={
            name: ", ".join(f"`{k}: {v}`" for k, v in settings.items())
            for name, settings in VARIANTS.items()
        },
        blind=BLIND,
    )
    write_page(page, text)
