"""The card as a page: Markdown to read in a repository, HTML with figures, and a table."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helm_gym._version import __version__
from helm_gym.config.quantity import Quantity
from helm_gym.config.scenario import SCENARIOS, Scenario
from helm_gym.fidelity.card import Results
from helm_gym.fidelity.finding import Finding
from helm_gym.fidelity.never import NEVER
from helm_gym.pages.templates import check_installed, render, write_page

if TYPE_CHECKING:
    from rich.table import Table

TITLES = {
    "kernels": "Kernel times",
    "links": "Host link and look-ups",
    "emb": "EMB cache",
    "kv": "KV cache",
    "queues": "Queues",
    "workload": "Workload",
    "replays": "Replays of real logs",
}
QUICK = (
    "This is the quick subset (--quick): fewer points and shorter runs. Its errors are not those "
    "of the full card."
)
MARKS = {"met": "met", "missed": "MISSED", "stated": "no target"}


def save(results: Results, out: Path, date: str) -> tuple[Path, Path]:
    """Write ``FIDELITY.md`` and ``fidelity.html``.

    Args:
        results: of the rooms.
        out: folder.
        date: of the run; the only thing that differs between equal runs.

    Returns:
        Both paths.
    """
    check_installed()
    data = contents(results, date)
    markdown, html = out / "FIDELITY.md", out / "fidelity.html"
    write_page(markdown, render("fidelity.md.j2", **data))
    drawn = {**data, "rooms": _with_figures(data["rooms"])}
    write_page(html, render("fidelity.html.j2", **drawn))
    return markdown, html


def contents(results: Results, date: str) -> dict[str, Any]:
    """Everything the page says, as plain data."""
    findings = results.findings
    return {
        "version": __version__,
        "date": date,
        "warning": QUICK if results.effort.quick else "",
        "partial": ", ".join(TITLES[room] for room in TITLES if room not in results.rooms),
        "summary": summary(results),
        "never": NEVER,
        "skipped": results.skipped,
        "missed": [line(f) for f in findings if f.status == "missed"],
        "rooms": [
            {
                "name": room,
                "title": TITLES[room],
                "lines": [line(row) for row in rows if isinstance(row, Finding)],
            }
            for room, rows in results.rooms.items()
        ],
        "assumed": assumed(),
    }


def summary(results: Results) -> str:
    """How many comparisons there are, and how they came out."""
    count = dict.fromkeys(MARKS, 0)
    for finding in results.findings:
        count[finding.status] += 1
    made = f"{len(results.findings)} comparisons: {count['missed']} missed their target, "
    made += f"{count['met']} met it, {count['stated']} have none and state their error."
    left = len(results.skipped)
    return made + (f" {left} could not be made." if left else "")


def line(finding: Finding) -> dict[str, Any]:
    """One finding as text."""
    target = "" if finding.target is None else _number(finding.target, finding.unit)
    return {
        "part": finding.part,
        "compared": finding.compared,
        "points": f"{finding.points:,}",
        "measure": finding.measure,
        "value": _number(finding.value, finding.unit),
        "target": target,
        "status": finding.status,
        "mark": MARKS[finding.status],
        "source": finding.source,
        "note": finding.note,
        "details": finding.details,
    }


def _number(value: float, unit: str) -> str:
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    if text == "1":
        unit = unit.removesuffix("s") if len(unit) > 1 else unit
    return text if unit == "1" else f"{text} {unit}"


def _with_figures(rooms: list[dict[str, Any]]) -> list[dict[str, Any]]:
    from helm_gym.fidelity.figures import figure, plot_of

    drawn = []
    for room in rooms:
        pictures = [
            {
                "svg": figure(f"{room['name']}-{number}", plot),
                "caption": f"{number}. {found['part']}: {found['compared']}",
            }
            for number, found in enumerate(room["lines"], start=1)
            if (plot := plot_of(found["details"]))
        ]
        drawn.append({**room, "figures": pictures})
    return drawn


# -- what is assumed ---------------------------------------------------------------------------


def assumed() -> list[dict[str, str]]:
    """Every assumed number of the shipped scenarios, equal ones once, with who uses it."""
    names = sorted(path.stem for path in SCENARIOS.glob("*.yaml"))
    users: dict[tuple[str, str, str, str], list[str]] = {}
    for name in names:
        for row in _of_scenario(Scenario.load(name).assumptions()):
            users.setdefault(row, []).append(name)
    return [
        {
            "path": path,
            "value": value,
            "range": bounds,
            "source": source,
            "scenarios": "all" if len(having) == len(names) else ", ".join(having),
        }
        for (path, value, bounds, source), having in sorted(users.items())
    ]


def _of_scenario(
    assumptions: Iterable[tuple[str, Quantity]],
) -> Iterable[tuple[str, str, str, str]]:
    """Path, value, range and source; the entries of a list that say the same share a row."""
    groups: dict[tuple[str, str, str, str], list[float]] = {}
    for path, quantity in assumptions:
        bounds = ["" if x is None else f"{x:g}" for x in (quantity.low, quantity.high)]
        between = f"{bounds[0]} to {bounds[1]}" if any(bounds) else "not stated"
        unit = quantity.unit.removeprefix("1")
        # A position in a list goes, except where the list holds different things.
        key = re.sub(r"\.\d+$", "", path), unit, between, quantity.source
        groups.setdefault(key, []).append(quantity.value)
    for (path, unit, between, source), values in groups.items():
        low, high = min(values), max(values)
        text = f"{low:g}" if low == high else f"{low:g} to {high:g} ({len(values)} values)"
        yield path, f"{text} {unit}".strip(), between, source


# -- in a terminal -----------------------------------------------------------------------------


def table(results: Results) -> Table:
    """How many comparisons each room made, and how they came out."""
    from rich.table import Table

    found = Table(title=summary(results), title_justify="left")
    found.add_column("part")
    for heading in ("missed", "met", "no target", "not made"):
        found.add_column(heading, justify="right")
    for room, rows in results.rooms.items():
        outcomes = Counter(row.status if isinstance(row, Finding) else "skipped" for row in rows)
        counts = [outcomes[name] for name in ("missed", "met", "stated", "skipped")]
        found.add_row(TITLES[room], *map(str, counts), style="red" if counts[0] else "")
    return found


def misses(results: Results) -> list[str]:
    """A sentence for each target that was missed."""
    lines = [line(finding) for finding in results.findings if finding.status == "missed"]
    return [
        f"{x['part']}, {x['compared']}: {x['measure']} {x['value']}, target {x['target']}"
        for x in lines
    ]
