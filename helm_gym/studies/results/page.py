"""The controller's page: what is asked of it, missed targets first, and where it comes from.

Sections are data (:class:`Section`), so Markdown and HTML say the same. Nothing is run here but
:func:`helm_gym.studies.results.distance.measure`, which repeats rows that have a schedule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helm_gym.benchmark.arrange import (
    REFERENCE,
    SCHEDULES,
    beside,
    load_rows,
    load_schedules,
)
from helm_gym.benchmark.page.cells import policy_rows
from helm_gym.benchmark.replay import setting_of
from helm_gym.pages.table import Table
from helm_gym.pages.templates import render, write_page
from helm_gym.studies.results import distance as controller_distance
from helm_gym.studies.results import tables
from helm_gym.studies.results.plan import (
    AFFINITY,
    FULL,
    PLAIN,
    SCHEDULER,
    STRONGEST,
    TUNED,
    System,
)
from helm_gym.studies.results.rows import Study, facts_of, study_of
from helm_gym.studies.results.targets import (
    DISTANCE,
    MET,
    MISSED,
    NEVER_WORSE,
    PAPER,
    REDUCTION,
    SAME_ROUTER,
    SATISFACTION,
    THROUGHPUT,
    Target,
    full,
    judged,
    misses_first,
    same_routers,
    targets,
)

if TYPE_CHECKING:
    pass

WHAT = {
    FULL: "all layers, one network and nothing tuned in any cell",
    TUNED: "base and recovery, told the site's share: anchor and follow are searched in every "
    "cell, as the opponents' settings are",
}
SHARES = ("static:0.5", REFERENCE)
"""Shares with which routers are compared alone."""


@dataclass(frozen=True)
class Block:
    """A table with a word before it; ``folded`` hides it until it is asked for."""

    title: str
    table: Table
    text: str = ""
    folded: bool = False


@dataclass(frozen=True)
class Section:
    """A heading, paragraphs and tables."""

    title: str
    text: Sequence[str]
    blocks: Sequence[Block]


def read_study(
    where: Path,
    *,
    scheduler: str = SCHEDULER,
    policies: Sequence[str] | None = None,
    schedules: Path | None = None,
    progress: bool = False,
) -> tuple[Study, list[str]]:
    """Rows by system, with distances to the schedules that are there.

    Args:
        where: file or folder of rows.
        scheduler: router of the full system.
        policies: in tables.
        schedules: folder of ``helm-gym hindsight``; ``schedules`` beside the rows by default.
        progress: show a progress bar on stderr.

    Returns:
        The study, and why rows with a schedule have no distance.

    Raises:
        ConfigError: there are no rows, or they contradict each other.
    """
    found = study_of(load_rows(where), scheduler=scheduler, policies=policies)
    file = beside(where, controller_distance.FILE)
    folder = schedules or beside(where, SCHEDULES)
    notes: list[str] = []
    if folder.is_dir():
        rows = [row for row in found.benchmark.runs.values() if row["router"] in found.routers]
        known, notes = controller_distance.measure(rows, load_schedules(folder), file, progress)
    else:
        known = controller_distance.stored(file)
    return Study(found.benchmark, found.policies, found.routers, scheduler, known), notes


def write(study: Study, page: Path, html: Path | None, notes: Sequence[str], command: str) -> None:
    """Write the page.

    Args:
        study: rows by system.
        page: Markdown file.
        html: the same as HTML, with every system in every cell; None for none.
        notes: why rows with a schedule have no distance.
        command: that makes the page.

    Raises:
        ConfigError: a file cannot be written.
    """
    known = _context(study, notes, command)
    write_page(page, markdown(known))
    if html is not None:
        write_page(html, as_html({**known, "sections": [*known["sections"], everything(study)]}))


def verdicts(study: Study) -> list[str]:
    """A line per target, misses first."""
    return [
        f"{target.verdict}: {target.name}, met in {target.count(MET)} of {len(target.checks)}"
        for target in misses_first(targets(study))
    ]


def markdown(context: dict[str, Any]) -> str:
    """The page as Markdown."""
    return render("results.md.j2", **context)


def as_html(context: dict[str, Any]) -> str:
    """The page as one HTML file."""
    return render("results.html.j2", **context)


def _context(study: Study, notes: Sequence[str], command: str) -> dict[str, Any]:
    asked = targets(study)
    return {
        **facts_of(study),
        "command": command,
        "heads": [head(study, asked, policy) for policy in judged(study)],
        "summary": tables.summary(misses_first(asked)),
        "sections": sections(study, asked, notes),
    }


def head(study: Study, asked: Sequence[Target], policy: str) -> dict[str, Any]:
    """How many targets one system meets, and which system it is."""
    mine = [target.verdict for target in asked if target.policy == policy]
    met, missed = mine.count(MET), mine.count(MISSED)
    return {
        "system": str(full(study, policy)),
        "what": WHAT[policy],
        "met": met,
        "missed": missed,
        "unknown": len(mine) - met - missed,
        "of": len(mine),
    }


def sections(study: Study, asked: Sequence[Target], notes: Sequence[str]) -> list[Section]:
    """Everything below the summary."""
    found = [
        _as_the_paper(study, [target for target in asked if target.group == PAPER]),
        _strongest(study, [target for target in asked if target.group == SAME_ROUTER]),
        _distance(study, notes),
        _apart(study),
        _layers(study),
    ]
    absent = tables.absent(study)
    if absent is not None:
        text = "What they would say is *not known* above; it is never counted as met."
        found.append(Section("Not in these rows", [text], [Block("", absent)]))
    digests = Block("What was run as what, and digests", policy_rows(study.benchmark), folded=True)
    return [*found, Section("Policies", [], [digests])]


def _as_the_paper(study: Study, asked: Sequence[Target]) -> Section:
    named = " and ".join(f"`{full(study, policy)}`" for policy in judged(study))
    text = [
        f"{named} as a whole system against `static:best`, `kv-opt:best` and "
        f"`kv-emb-opt:best` with affinity routing (`{AFFINITY}`), as HELM's paper compares. Bars "
        f"in every cell: P99 at least {REDUCTION[0]:g} % lower (the paper: {REDUCTION[0]:g} to "
        f"{REDUCTION[1]:g} %), at least {SATISFACTION[0]:g} % of requests inside the SLO (the "
        f"paper: {SATISFACTION[0]:g} to {SATISFACTION[1]:g} %), throughput not lower (a ratio of "
        f"{THROUGHPUT:g} counts as equal: what is unfinished at an episode's end is cut off).",
    ]
    blocks = []
    for policy in judged(study):
        own, mine = full(study, policy), [t for t in asked if t.policy == policy]
        table = tables.by_cell(study, f"paper-{policy}", mine, [own])
        blocks.append(Block(f"{own}: {WHAT[policy]}", table))
    return Section("As the paper compares", text, blocks)


def _strongest(study: Study, asked: Sequence[Target]) -> Section:
    blocks = []
    best, own = study.best_router(), judged(study)
    for router, policy in product(same_routers(study), own):
        mine = [t for t in asked if (t.router, t.policy) == (router, policy)]
        what = "the best for a static share" if router == best else "the scheduler"
        table = tables.by_cell(
            study, f"strongest-{router}-{policy}", mine, [System(policy, router)]
        )
        blocks.append(Block(f"{policy}, all under {router}, {what}", table))
    named = " and ".join(f"`{policy}` ({WHAT[policy]})" for policy in own)
    text = [
        f"{named} against {', '.join(f'`{policy}`' for policy in STRONGEST)}, all "
        f"under one and the same router. The router is the one under which `{REFERENCE}` has the "
        f"lowest P99 over all cells and loads of these rows, which favours the opponents; where "
        "that is not the scheduler, both are shown. Bars: a ratio below 1 at load 0.95 in every "
        f"trend and burst cell, at most {NEVER_WORSE:g} elsewhere.",
    ]
    if TUNED in own:
        text.append(_followed(study))
        blocks.append(Block(f"What the search of {TUNED} chose", tables.choices(study)))
    return Section("Against the strongest", text, blocks)


def _followed(study: Study) -> str:
    """How often the base was of use to the search."""
    counts = tables.follows(study)
    said = ", ".join(f"{follow:g} in {n}" for follow, n in counts.items()) or "nothing yet"
    return (
        f"`{TUNED}` decides anchor + follow x (share of the base - anchor). A follow of 0 is a "
        "fixed share, that is `static:best` again; 1 is the base alone. With the scheduler the "
        f"search chose a follow of {said} (cells at a load). Part of what a follow above 0 gains "
        "is a share between the steps of 0.05 that `static:best` has."
    )


def _distance(study: Study, notes: Sequence[str]) -> Section:
    table = tables.distances(study)
    found = [_covered(study, policy) for policy in judged(study)]
    text = [
        f"Mean |share - share of the hindsight schedule| over windows and nodes, on the same "
        f"requests; bar {DISTANCE:g}. A schedule belongs to a cell, a load, a router and a seed. "
        + " ".join(said for said, _ in found),
    ]
    if not all(complete for _, complete in found):
        text.append(f"A cell's schedules are found by `{hindsight_command(study)}`.")
    text += [f"Left out: {note}." for note in notes[:3]]
    if len(notes) > 3:
        text.append(f"Left out for such reasons: {len(notes)} settings or runs.")
    return Section(
        "Distance to the hindsight optimum", text, [Block("", table)] if table.rows else []
    )


def _covered(study: Study, policy: str) -> tuple[str, bool]:
    """How many runs of the full system have a schedule, and whether all have."""
    own = full(study, policy)
    known = [study.values(own, place, "distance") for place in study.places]
    n = sum(int((values == values).sum()) for values in known)
    cells = sum(bool((values == values).any()) for values in known)
    of = sum(len(values) for values in known)
    said = f"For `{own}` {cells} of {len(known)} cells and loads have one, {n} of {of} runs."
    return said, n == of


def hindsight_command(study: Study) -> str:
    """How schedules of the first cell are found for the full system's setting."""
    cell, load = study.places[-1]
    seeds = study.benchmark.seeds[cell]
    row = study.benchmark.runs[(cell, load, study.routers[0], REFERENCE, seeds[0])]
    setting = setting_of({**row, "router": study.scheduler})
    changes = {
        "workload.load": load, "router.name": study.scheduler,
        "episode.steps": setting.scenario.episode.steps,
    }  # fmt: skip
    sets = " ".join(f"--set {path}={value}" for path, value in changes.items())
    return f"helm-gym hindsight -s {cell} -p balance --seeds {len(seeds)} {sets} --out SCHEDULES"


def _apart(study: Study) -> Section:
    text = [
        "P99 ratios, interquartile means over all cells at a load, with 95 % intervals (seeds "
        "resampled within cells). Allocation alone: policies under one router, over "
        f"`{REFERENCE}` there. Routing alone: routers with one share, over `{AFFINITY}` with that "
        f"share. Both: systems over `{REFERENCE}` under `{AFFINITY}`, the lowest first. An "
        "interquartile mean does not see the worst quarter of the runs; the tables by cell do.",
    ]
    blocks = []
    plain = [router for router in PLAIN if router in study.routers]
    for router in plain:
        blocks.append(Block(f"Allocation alone, under {router}", tables.allocation(study, router)))
        more = tables.allocation_by_cell(study, router)
        blocks.append(Block(f"Cell by cell, under {router}", more, folded=True))
    for share in SHARES:
        blocks.append(Block(f"Routing alone, with {share}", tables.routing(study, share)))
        more = tables.routing_by_cell(study, share)
        blocks.append(Block(f"Cell by cell, with {share}", more, folded=True))
    blocks.append(Block("Both", tables.both(study)))
    blocks.append(Block("Cell by cell, both", tables.both_by_cell(study), folded=True))
    return Section("Allocation alone, routing alone, both", text, blocks)


def _layers(study: Study) -> Section:
    text = [
        "Base: the released PPO policy, frozen. P99 ratios are interquartile means over cells, "
        "which do not see the worst quarter of the runs; the others are means over cells, whose "
        "intervals resample seeds. Bytes are per run. Distances are means over the runs with a "
        "schedule.",
    ]
    blocks = [Block(f"Load {load:g}", tables.ablation(study, load)) for load in study.loads]
    title = f"P99 over that of {REFERENCE}, cell by cell, all under {study.scheduler}"
    blocks.append(Block(title, tables.ablation_by_cell(study), folded=True))
    return Section("Layers, with and without the scheduler", text, blocks)


def everything(study: Study) -> Section:
    """Every system in every cell, for the HTML page."""
    blocks = [Block(title, table, folded=True) for title, table in tables.every_system(study)]
    return Section("Every system", ["Means over seeds with 95 % intervals."], blocks)
