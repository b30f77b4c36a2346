"""Tables of the controller's page: targets by cell, allocation and routing apart, ablations."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from helm_gym.benchmark.arrange import REFERENCE
from helm_gym.evaluation.specs import HelmSettings
from helm_gym.pages.table import Cell, Table, number, words
from helm_gym.runs.stats import Interval, mean_interval
from helm_gym.studies.results.plan import AFFINITY, LAYERS, PLAIN, TUNED, System, runs_under
from helm_gym.studies.results.rows import UNKNOWN, Place, Study
from helm_gym.studies.results.targets import (
    MET,
    MISSED,
    NOT_KNOWN,
    Check,
    Target,
    full,
    judged,
)

UNSURE = " (?)"  # behind what is judged by a mean whose interval crosses the bar
MEANS = (
    ("slo_satisfaction", "in SLO, %", 100.0, ".2f"),
    ("throughput_rps", "throughput, 1/s", 1.0, ".0f"),
    ("goodput_rps", "goodput, 1/s", 1.0, ".0f"),
    ("miss_gb", "misses, GB", 1.0, ".0f"),
    ("refill_gb", "refill, GB", 1.0, ".1f"),
)  # fmt: skip
"""Column, heading, factor and form of what stands beside P99."""


def short(cell: str) -> str:
    """A cell's name without the suite's."""
    return cell.removeprefix("paper-v1-")


def summary(targets: Sequence[Target]) -> Table:
    """A line per target: in how many cells it is met, and where it is farthest off."""
    headings = (
        "verdict", "what", "bar", "met", "missed", "not known", "interval crosses the bar",
        "worst cell",
    )  # fmt: skip
    return Table("summary", headings, [_summary_line(target) for target in targets])


def _summary_line(target: Target) -> list[Cell]:
    bars = sorted({f"{check.sign} {check.bar:g}" for check in target.checks})
    known = [check for check in target.checks if check.verdict != NOT_KNOWN]
    worst = target.worst
    return [
        words(target.verdict),
        words(target.name),
        words(" or ".join(bars)),
        words(f"{target.count(MET)} of {len(target.checks)}"),
        number(float(target.count(MISSED)), ".0f"),
        number(float(target.count(NOT_KNOWN)), ".0f"),
        number(float(sum(not check.certain for check in known)), ".0f"),
        words("" if worst is None else _where(worst, target.form)),
    ]


def _where(check: Check, form: str) -> str:
    cell, load = check.place
    return f"{check.found.mean:{form}} ({short(cell)} at {load:g})"


def by_cell(
    study: Study, name: str, targets: Sequence[Target], columns: Sequence[System] = ()
) -> Table:
    """Targets cell by cell, with a verdict over all of them.

    Args:
        study: rows.
        name: of the table.
        targets: one column each.
        columns: systems whose P99 stands in front.
    """
    headings = ["cell", "load", *(f"P99 of {system}, ms" for system in columns)]
    headings += [*(target.heading for target in targets), "verdict"]
    places = [place for place in study.places if any(_at(target, place) for target in targets)]
    rows = []
    for place in places:
        checks = [_at(target, place) for target in targets]
        rows.append(
            [
                *_place(place),
                *(number(mean_interval(study.tail(s, place).tolist()), ".1f") for s in columns),
                *(
                    number(check.found if check else UNKNOWN, target.form)
                    for check, target in zip(checks, targets, strict=True)
                ),
                words(_verdict(checks, targets)),
            ]
        )
    return Table(name, headings, rows)


def _at(target: Target, place: Place) -> Check | None:
    return next((check for check in target.checks if check.place == place), None)


def _verdict(checks: Sequence[Check | None], targets: Sequence[Target]) -> str:
    """``met``, or what is missed and what is not known; a mark where an interval crosses a bar."""
    named = {
        verdict: [
            target.label + (UNSURE if check and verdict == MISSED and not check.certain else "")
            for check, target in zip(checks, targets, strict=True)
            if (NOT_KNOWN if check is None else check.verdict) == verdict
        ]
        for verdict in (MISSED, NOT_KNOWN)
    }
    if len(named[NOT_KNOWN]) == len(targets):
        return NOT_KNOWN
    said = [f"{verdict}: {', '.join(those)}" for verdict, those in named.items() if those]
    if said:
        return "; ".join(said)
    return MET + ("" if all(check and check.certain for check in checks) else UNSURE)


def _place(place: Place) -> list[Cell]:
    return [words(short(place[0])), number(place[1], "g")]


def choices(study: Study) -> Table:
    """Anchor and follow that the search of ``helm:best`` chose, beside the best static share."""
    routers = [r for r in study.routers if runs_under(TUNED, r, study.scheduler)]
    headings = ["cell", "load"]
    for router in routers:
        headings += [f"{REFERENCE} under {router}", f"{TUNED} under {router}: anchor", "follow"]
    rows = [[*_place(place), *_chosen(study, place, routers)] for place in study.places]
    return Table("choices", headings, rows)


def _chosen(study: Study, place: Place, routers: Sequence[str]) -> list[Cell]:
    cells = []
    for router in routers:
        cells.append(words(study.spec(System(REFERENCE, router), place).partition(":")[2]))
        spec = study.spec(System(TUNED, router), place)
        if spec:
            found = _found(spec)
            anchor = "none" if found.anchor is None else f"{found.anchor:g}"
            cells += [words(anchor), number(_follow(found), "g")]
        else:
            cells += [words(""), words("")]
    return cells


def follows(study: Study) -> dict[float, int]:
    """In how many cells and loads the search chose which follow, with the scheduler; 0: a share."""
    specs = [study.spec(System(TUNED, study.scheduler), place) for place in study.places]
    known = [_follow(_found(spec)) for spec in specs if spec]
    return {follow: known.count(follow) for follow in sorted(set(known))}


def _found(spec: str) -> HelmSettings:
    """Settings that a search found; plain ``helm`` where a row names the search itself."""
    return HelmSettings() if spec == TUNED else HelmSettings.of(spec)


def _follow(found: HelmSettings) -> float:
    """How far the base is followed; all the way where nothing ties it."""
    return 1.0 if found.follow is None else found.follow


# Allocation and routing apart


def allocation(study: Study, router: str) -> Table:
    """Policies under one router, over the best static share there."""
    base = System(REFERENCE, router)
    those = [System(policy, router) for policy in study.policies]
    return _scores(study, f"allocation-{router}", "policy", [(s.policy, s, base) for s in those])


def routing(study: Study, policy: str) -> Table:
    """Routers with one share, over affinity routing with that share."""
    base = System(policy, AFFINITY)
    those = [System(policy, router) for router in study.routers]
    return _scores(study, f"routing-{policy}", "router", [(s.router, s, base) for s in those])


def both(study: Study) -> Table:
    """Every system over the best static share with affinity routing, the best ones first."""
    base = System(REFERENCE, AFFINITY)
    lines = [(str(system), system, base) for system in study.systems]
    table = _scores(study, "both", "system", lines)
    order = sorted(table.rows, key=lambda row: _first(row[-1]))
    return Table(table.name, table.headings, order)


def _first(cell: Cell) -> float:
    return math.inf if cell.value is None or math.isnan(cell.value) else cell.value


def _scores(
    study: Study, name: str, what: str, lines: Sequence[tuple[str, System, System]]
) -> Table:
    """Interquartile means at every load, and over all of them."""
    groups = [*([load] for load in study.loads), study.loads]
    headings = [what, *(f"load {load:g}" for load in study.loads), "all loads"]
    rows = [
        [words(label), *(number(study.score(own, base, loads)) for loads in groups)]
        for label, own, base in lines
    ]
    return Table(name, headings, rows)


def ratios_by_cell(study: Study, name: str, lines: Sequence[tuple[str, System, System]]) -> Table:
    """P99 of systems over that of others, cell by cell.

    Args:
        study: rows.
        name: of the table.
        lines: heading, system and what it is compared with, a column each.
    """
    rows = [
        [*_place(place),
         *(number(mean_interval(study.ratio(own, base, place).tolist())) for _, own, base in lines)]
        for place in study.places
    ]  # fmt: skip
    return Table(name, ["cell", "load", *(label for label, _, _ in lines)], rows)


def allocation_by_cell(study: Study, router: str) -> Table:
    """:func:`allocation`, cell by cell."""
    base = System(REFERENCE, router)
    lines = [(policy, System(policy, router), base) for policy in study.policies]
    return ratios_by_cell(study, f"allocation-cells-{router}", lines)


def routing_by_cell(study: Study, policy: str) -> Table:
    """:func:`routing`, cell by cell."""
    base = System(policy, AFFINITY)
    lines = [(router, System(policy, router), base) for router in study.routers]
    return ratios_by_cell(study, f"routing-cells-{policy}", lines)


def both_by_cell(study: Study) -> Table:
    """The reference alone, either part alone and both, over the best static share and affinity."""
    base = System(REFERENCE, AFFINITY)
    lines = [("router alone", System(REFERENCE, study.scheduler), base)]
    for policy in judged(study):
        lines.append((f"split alone, {policy}", System(policy, AFFINITY), base))
        lines.append((f"both, {policy}", full(study, policy), base))
    return ratios_by_cell(study, "both-cells", lines)


# Ablations


def variants(study: Study) -> list[System]:
    """Base, adapter, recovery and both; with plain routers and with the scheduler."""
    routers = dict.fromkeys((*PLAIN, study.scheduler))
    return [System(policy, router) for policy in LAYERS for router in routers]


def ablation(study: Study, load: float) -> Table:
    """Layers with and without the scheduler at one load."""
    headings = [
        "layers", "router", "P99 / static:best, same router", "P99 / static:best, kv_affinity",
        *(heading for _, heading, _, _ in MEANS), "distance", "distances known",
    ]  # fmt: skip
    rows = []
    for own in variants(study):
        bases = (System(REFERENCE, own.router), System(REFERENCE, AFFINITY))
        rows.append(
            [
                words(LAYERS[own.policy]),
                words(own.router + (" (scheduler)" if own.router == study.scheduler else "")),
                *(number(study.score(own, base, [load])) for base in bases),
                *(_mean(study, own, load, *column) for column in MEANS),
                *_distance(study, own, [p for p in study.places if p[1] == load]),
            ]
        )
    return Table(f"ablation-{load:g}", headings, rows)


def _mean(
    study: Study, own: System, load: float, column: str, _: str, factor: float, form: str
) -> Cell:
    mean, low, high = study.mean(own, column, [load])
    return number(Interval(factor * mean, factor * low, factor * high), form)


def _distance(study: Study, own: System, places: Sequence[Place]) -> list[Cell]:
    """Mean over the runs with a schedule, and how many those are."""
    values = np.concatenate([study.values(own, place, "distance") for place in places])
    known = values[np.isfinite(values)]
    found = mean_interval(known.tolist())
    return [number(found), words(f"{known.size} of {values.size}")]


def ablation_by_cell(study: Study) -> Table:
    """P99 of the layers with the scheduler over the best static share's, cell by cell."""
    base = System(REFERENCE, study.scheduler)
    lines = [(name, System(policy, study.scheduler), base) for policy, name in LAYERS.items()]
    return ratios_by_cell(study, "ablation-cells", lines)


def distances(study: Study) -> Table:
    """Mean |share - hindsight optimum| of every policy, where its settings have a schedule."""
    rows = []
    for router in study.routers:
        for place in study.places:
            found = [study.values(System(p, router), place, "distance") for p in study.policies]
            n = max(int(np.isfinite(values).sum()) for values in found)
            if n:
                means = [mean_interval(v[np.isfinite(v)].tolist()) for v in found]
                rows.append(
                    [*_place(place), words(router), words(f"{n} of {len(found[0])}"),
                     *(number(mean) for mean in means)]
                )  # fmt: skip
    return Table("distances", ("cell", "load", "router", "seeds", *study.policies), rows)


def every_system(study: Study) -> list[tuple[str, Table]]:
    """A table per cell and load: all systems, with means over seeds and intervals."""
    found = []
    for place in study.places:
        cell, load = place
        rows = [
            _system_line(study, system, place)
            for system in study.systems
            if np.isfinite(study.tail(system, place)).all()
        ]
        headings = (
            "policy", "router", "run as", "P99, ms", "P99 / static:best, same router",
            *(heading for _, heading, _, _ in MEANS), "distance", "distances known",
        )  # fmt: skip
        table = Table(f"systems-{short(cell)}-{load:g}", headings, rows)
        found.append((f"{short(cell)}, load {load:g}", table))
    return found


def _system_line(study: Study, system: System, place: Place) -> list[Cell]:
    specs = {str(row["spec"]) for row in study.rows(system, place) if row and row["spec"]}
    base = System(REFERENCE, system.router)
    return [
        words(system.policy),
        words(system.router),
        words(", ".join(sorted(specs - {system.policy}))),
        number(mean_interval(study.tail(system, place).tolist()), ".1f"),
        number(mean_interval(study.ratio(system, base, place).tolist())),
        *(
            number(mean_interval((factor * study.values(system, place, column)).tolist()), form)
            for column, _, factor, form in MEANS
        ),
        *_distance(study, system, [place]),
    ]


def absent(study: Study) -> Table | None:
    """Systems without a figure in some run, and why; None if there are none."""
    found = [(system, study.missing(system)) for system in study.systems]
    rows = [[words(str(system)), words(reason)] for system, reason in found if reason]
    return Table("absent", ("system", "runs, and why"), rows) if rows else None
