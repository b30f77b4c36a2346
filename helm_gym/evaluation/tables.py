"""A comparison in words: its table, and who is better than whom."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from helm_gym.console import make_table
from helm_gym.evaluation.evaluate import Entry, Evaluation
from helm_gym.runs.stats import Interval

if TYPE_CHECKING:
    from rich.table import Table


class Column(NamedTuple):
    """One figure in a table."""

    figure: str
    heading: str  # with the unit in its second line
    scale: float
    form: str
    interval: bool  # whether the interval is shown too
    width: int  # narrowest window, in characters, that still shows it


COLUMNS = (
    Column("tail_ms", "P99\nms", 1.0, ".1f", True, 0),
    Column("warm_p99_ms", "warm P99\nms", 1.0, ".1f", False, 150),
    Column("mean_ms", "mean\nms", 1.0, ".1f", True, 118),
    Column("slo_satisfaction", "in SLO\n%", 100.0, ".2f", True, 0),
    Column("goodput_rps", "goodput\n1/s", 1.0, ".0f", False, 150),
    Column("shed_rate", "shed\n%", 100.0, ".2f", False, 150),
    Column("kv_hit_rate", "KV hits\n%", 100.0, ".1f", False, 100),
    Column("emb_hit_rate", "EMB hits\n%", 100.0, ".1f", False, 100),
    Column("refill_gb", "refill\nGB", 1.0, ".0f", False, 150),
    Column("emb_share", "EMB\nshare", 1.0, ".2f", False, 0),
    Column("reward", "reward", 1.0, ".1f", True, 165),
)
WIDEST = max(column.width for column in COLUMNS)
FEWEST = 5
"""Seeds below which no verdict is given: with four, equal policies agree in sign on all of them
every eighth time, and a bootstrap interval would call that a difference."""
NOTE = (
    "P99 over all arrivals of an episode, a shed one counting as the deadline; warm P99 without "
    "the first request of each session. Mean over seeds, [95 % bootstrap interval]."
)


def result_table(evaluation: Evaluation, width: int = WIDEST) -> Table:
    """The comparison, with the paired difference of P99 to the reference.

    Args:
        evaluation: what to show.
        width: of the window; a narrow one gets fewer columns.
    """
    scenario = evaluation.scenario
    shown = [column for column in COLUMNS if width >= column.width]
    rows = [
        (
            entry.label,
            *("\n".join(cell(entry, column)) for column in shown),
            "\n".join(difference_cell(evaluation, entry)),
        )
        for entry in evaluation.entries
    ]
    return make_table(
        ("policy", *(column.heading for column in shown), "P99 less\nreference's"),
        rows,
        title=f"{scenario.name}, load {scenario.workload.load:g}, seeds {span(evaluation.seeds)}",
        caption=caption(evaluation),
        plain=True,
    )


def cell(entry: Entry, column: Column) -> list[str]:
    """A mean, and its interval if there is one, as lines of text."""
    interval = entry.interval(column.figure)
    mean, low, high = (format(column.scale * x, column.form) for x in interval)
    return [mean, f"[{low}, {high}]"] if column.interval and low != high else [mean]


def difference_cell(evaluation: Evaluation, entry: Entry, figure: str = "tail_ms") -> list[str]:
    """Paired difference to the reference, and on how many seeds it is lower, as lines."""
    if entry is evaluation.reference:
        return ["reference"]
    mean, low, high = evaluation.difference(entry, figure)
    seeds = evaluation.lower(entry, figure)
    return [f"{mean:+.2f}", f"[{low:+.2f}, {high:+.2f}]", f"lower on {seeds.lower}/{seeds.of}"]


def caption(evaluation: Evaluation) -> str:
    """What the figures mean, and what searches found."""
    found = [
        f"{s.asked} is {s.best}, the best of {len(s.figures)} on seeds {span(s.seeds)}."
        for s in evaluation.searches
    ]
    return " ".join([NOTE, *found])


def span(seeds: Sequence[int]) -> str:
    """Seeds as ``20000-20004``, or one by one if they do not follow each other."""
    if len(seeds) > 1 and list(range(seeds[0], seeds[0] + len(seeds))) == list(seeds):
        return f"{seeds[0]}-{seeds[-1]}"
    return ", ".join(str(seed) for seed in seeds)


def verdict(evaluation: Evaluation, entry: Entry, other: Entry) -> str:
    """One sentence on whether a policy's P99 differs from another's, by the paired interval.

    Where both meet the SLO on every seed and the difference is small, "better" would be true and
    beside the point, so the sentence says that too.
    """
    mean, low, high = evaluation.difference(entry, "tail_ms", other)
    seeds = evaluation.lower(entry, "tail_ms", other)
    load = evaluation.scenario.workload.load
    a, b = entry.interval("tail_ms").mean, other.interval("tail_ms").mean
    figures = (
        f"P99 {a:.1f} against {b:.1f} ms, {100 * mean / b:+.1f} %; difference {mean:+.2f} ms, "
        f"interval {low:+.2f} to {high:+.2f}, lower on {seeds.lower} of {seeds.of} seeds"
    )
    name, rival = entry.label, other.label
    if math.isnan(mean):
        return f"At load {load:g}, {name} and {rival} cannot be compared: one served nothing."
    if seeds.of < FEWEST:
        return f"At load {load:g}, {seeds.of} seeds cannot tell {name} from {rival} ({figures})."
    if not Interval(mean, low, high).excludes_zero:
        return f"At load {load:g}, no difference between {name} and {rival} is shown ({figures})."
    word = "better" if mean < 0 else "worse"
    slo = evaluation.scenario.slo.p99_ms.value
    met = max(*entry.values("tail_ms"), *other.values("tail_ms")) <= slo
    beside = f" Both meet the SLO of {slo:g} ms on every seed." if met else ""
    return f"At load {load:g}, {name} is {word} than {rival} ({figures}).{beside}"
