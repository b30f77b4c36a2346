"""A finished sensitivity study in words and tables; :mod:`sensitivity_plots` draws it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helm_gym._version import __version__
from helm_gym.console import make_table
from helm_gym.pages.templates import render, write_page
from helm_gym.store import save_rows
from helm_gym.studies.sensitivity.effects import (
    NONE,
    Effect,
    best_of,
    by_influence,
    capacity_of,
    difference,
    effects,
    kept,
    mix_name,
    mix_of,
    optimum,
    ranking,
    ranking_change,
    tail_of,
)
from helm_gym.studies.sensitivity.measure import ALIKE, BEST
from helm_gym.studies.sensitivity.run import SAME, Row, Study

if TYPE_CHECKING:
    from rich.table import Table

WIDE = 180  # characters that the whole table needs
MOVED = 0.15  # change of an optimal share that is listed: more than one step of the grid
QUICK_WARNING = (
    "This is a smoke test (--quick): a smaller cluster, seconds of everything. It shows that all "
    "parts run; its numbers mean nothing."
)


def flat_rows(study: Study) -> list[dict[str, Any]]:
    """One plain row per variant, for Parquet and tables."""
    rows = []
    for row in study.rows:
        flat: dict[str, Any] = {
            "number": row.variant.number,
            "value": row.variant.value,
            "note": "; ".join(x for x in (row.variant.note, SAME if row.same else "") if x),
            "failed": row.found.get("failed", ""),
        }
        for n, mix in enumerate(study.base.found.get("mixes", [])):
            flat[f"capacity_rps_per_node[{mix_name(mix)}]"] = mix_of(row, n, "capacity")
            flat[f"capacity_share[{mix_name(mix)}]"] = mix_of(row, n, "share")
        for kind in ("relative", "fixed"):
            found = optimum(row, kind)
            flat[f"{kind}_share"] = best_of(row, kind)
            flat[f"{kind}_alike"] = found["alike"] if found else []
            for figure in ("tail_ms", "mean_ms", "shed_rate"):
                flat[f"{kind}_{figure}"] = tail_of(row, kind, figure)
        flat["kept_share_loss_percent"] = kept(row, study.base)
        flat["ranking"] = ranking(row, study.specs)
        flat["ranking_change"] = ranking_change(row, study)
        for spec in study.specs[1:]:
            interval = difference(row, spec, BEST)
            flat[f"tail_ms_less_best[{spec}]"] = list(interval)
        rows.append(flat)
    return rows


HEADINGS = ("number", "value", "share of most capacity", "capacity", "share of least P99",
            "ranking", "P99 ms", "mean ms", "stated share loses", "at fixed rates")  # fmt: skip
NARROW = 6  # columns for a window that is not wide


def headings(study: Study) -> list[str]:
    """Of the columns of :func:`cells`."""
    return [*HEADINGS, *(f"{spec} less {BEST}, ms" for spec in study.specs[1:])]


def cells(study: Study) -> list[tuple[str, ...]]:
    """The table: a line per variant, numbers by influence, what has no effect left out."""
    names = by_influence(study)
    rows = sorted(
        (row for row in study.rows[1:] if not row.same),
        key=lambda row: (names.index(row.variant.number), row.variant.value),
    )
    return [_line(study, row) for row in (study.base, *rows)]


def _line(study: Study, row: Row) -> tuple[str, ...]:
    variant, relative = row.variant, optimum(row, "relative")
    if "failed" in row.found:
        empty = [""] * (len(headings(study)) - 3)
        return (variant.number, _number(variant.value), row.found["failed"], *empty)
    count = range(len(row.found["mixes"]))
    alike = relative["alike"] if relative else [math.nan, math.nan]
    percent = 100.0 * (capacity_of(row, study.base) - 1.0)
    change = ranking_change(row, study)
    return (
        variant.number,
        _number(variant.value) + ("*" if variant.note else ""),
        " / ".join(_number(mix_of(row, n, "share")) for n in count),
        " / ".join(f"{mix_of(row, n, 'capacity'):.0f}" for n in count)
        + ("" if row is study.base or math.isnan(percent) else f" ({percent:+.0f} %)"),
        f"{_number(best_of(row, 'relative'))} ({_number(alike[0])} to {_number(alike[1])})"
        if relative
        else NONE,
        ranking(row, study.specs) + (f" ({change})" if change else ""),
        _number(tail_of(row, "relative"), ".1f"),
        _number(tail_of(row, "relative", "mean_ms"), ".1f"),
        NONE if row is study.base else _number(kept(row, study.base), ".0f", " %"),
        fixed_cell(row),
        *(_interval(row, spec) for spec in study.specs[1:]),
    )


def _interval(row: Row, spec: str) -> str:
    mean, low, high = difference(row, spec, BEST)
    return NONE if math.isnan(mean) else f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"


def fixed_cell(row: Row) -> str:
    """Best share and P99 at the stated rates."""
    found = optimum(row, "fixed")
    if not found:
        return "far beyond capacity"
    shed = tail_of(row, "fixed", "shed_rate")
    over = f", {100 * shed:.0f} % shed" if shed > 0.01 else ""
    return f"{_number(best_of(row, 'fixed'))}: {tail_of(row, 'fixed'):.1f} ms{over}"


def _number(value: float, form: str = "g", unit: str = "") -> str:
    return NONE if math.isnan(value) else format(value, form) + unit


def findings(study: Study) -> list[str]:
    """What the study says, in sentences."""
    moved = [row for row in study.rows[1:] if not row.same]
    names = {row.variant.number for row in study.rows[1:]}
    unmoved = sorted(names - {row.variant.number for row in moved})
    said = [
        f"{len(names)} assumed numbers were varied, one at a time, in {len(study.rows) - 1} "
        f"variants; {len(unmoved)} of them have no effect in this scenario"
        + (f" ({', '.join(f'`{name}`' for name in unmoved)})." if unmoved else ".")
    ]
    for effect in (e for e in effects(study) if e.title.startswith("share of")):
        said.append(_share_sentence(study, effect, moved))
    said += _ranking_sentences(study, moved)
    none = [row for row in moved if any(m["capacity"] == 0.0 for m in row.found.get("mixes", []))]
    if none:
        said.append(f"No share meets the SLO at any rate with {_named(none)}.")
    over = [
        row for row in moved if (shed := tail_of(row, "fixed", "shed_rate")) > 0.01 or shed != shed
    ]
    if over:
        said.append(f"At the stated request rates every share is overloaded with {_named(over)}.")
    return said


def _share_sentence(study: Study, effect: Effect, moved: Sequence[Row]) -> str:
    stated = effect.of(study.base)
    title = effect.title.replace("\n", ", ").replace("share", "Share", 1)
    if math.isnan(stated):
        return f"{title}: there is none as stated."
    values = [x for x in map(effect.of, moved) if math.isfinite(x)]
    far = [row for row in moved if abs(effect.of(row) - stated) >= MOVED]
    spread = f"{min([stated, *values]):g} to {max([stated, *values]):g} over all variants"
    by = f"; moved by at least {MOVED:g}: {_named(far, effect)}" if far else ""
    return f"{title}: {stated:g} as stated, {spread}{by}."


def _ranking_sentences(study: Study, moved: Sequence[Row]) -> list[str]:
    said = [f"Policies by P99 as stated: {ranking(study.base, study.specs)}."]
    kinds = {
        "reversed": "This order is reversed with {}.",
        "lost": "A difference that is shown as stated is not shown with {}.",
        "new": "A difference that is not shown as stated is shown with {}.",
    }
    for kind, sentence in kinds.items():
        rows = [row for row in moved if ranking_change(row, study) == kind]
        if rows:
            said.append(sentence.format(_named(rows)))
    if len(said) == 1:
        said.append("No variant changes it.")
    return said


def _named(rows: Sequence[Row], effect: Effect | None = None) -> str:
    return ", ".join(
        f"`{row.variant.number}` {row.variant.value:g}"
        + (f" ({effect.of(row):g})" if effect else "")
        for row in rows
    )


def table(study: Study, width: int = WIDE) -> Table:
    """The variants, to print; a narrow window gets fewer columns."""
    title = f"{study.scenario.name}: assumed numbers, one at a time"
    shown = len(headings(study)) if width >= WIDE else NARROW
    rows = [line[:shown] for line in cells(study)]
    return make_table(headings(study)[:shown], rows, title=title, left=shown, plain=True)


def save(study: Study, out: Path, page: Path | None = None) -> Path:
    """Write ``sensitivity.parquet``, the page and its picture.

    Args:
        study: what to write.
        out: folder.
        page: the Markdown page, ``out/sensitivity.md`` by default; its pictures, SVG and PNG, lie
            beside it and have its name.

    Returns:
        The page's path.
    """
    from helm_gym.studies.sensitivity.plots import tornado

    page = page or out / "sensitivity.md"
    save_rows(flat_rows(study), out / "sensitivity.parquet")
    for kind in ("svg", "png"):
        write_page(page.with_suffix(f".{kind}"), tornado(study, kind))
    write_page(page, markdown(study, page.with_suffix(".svg").name))
    return page


def markdown(study: Study, picture: str) -> str:
    """The page, with a reference to its picture."""
    notes = {(r.variant.number, r.variant.note) for r in study.rows if r.variant.note}
    return render(
        "sensitivity.md.j2",
        scenario=study.scenario,
        warning=QUICK_WARNING if study.quick else "",
        budget=study.budget,
        alike=round(100 * ALIKE),
        version=__version__,
        digest=study.scenario.digest(),
        picture=picture,
        findings=findings(study),
        headings=headings(study),
        lines=cells(study),
        notes=sorted({note.split(" ")[0] + " moves with " + name for name, note in notes}),
        left=study.left,
    )
