"""One self-contained HTML page about a comparison: no file beside it, no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from helm_gym.config.scenario import Scenario
from helm_gym.evaluation.evaluate import Entry, Evaluation
from helm_gym.evaluation.tables import COLUMNS, caption, cell, difference_cell, verdict
from helm_gym.pages import templates
from helm_gym.sim.layout import N_BINS
from helm_gym.sim.stages import bin_edge
from helm_gym.units import MS

SERIES = (
    "offered_rps", "emb_share", "p99_ms", "kv_hit_rate", "emb_hit_rate", "link_utilisation",
    "gpu_utilisation",
)  # fmt: skip
RARE = 1e-5  # smallest part of requests that a latency curve shows


def load_section(
    evaluation: Evaluation, meaning: str, pairs: Sequence[tuple[Entry, Entry]]
) -> dict[str, Any]:
    """What a report says about one load, as plain data.

    Args:
        evaluation: the comparison at that load.
        meaning: what the load is, in words.
        pairs: who is compared with whom in a sentence.
    """
    return {
        "load": evaluation.scenario.workload.load,
        "meaning": meaning,
        "seeds": list(evaluation.seeds),
        "verdicts": [verdict(evaluation, entry, other) for entry, other in pairs],
        "headings": ["policy", *(c.heading for c in COLUMNS), "P99 less\nreference's"],
        "rows": [
            [
                [entry.label],
                *(cell(entry, column) for column in COLUMNS),
                difference_cell(evaluation, entry),
            ]
            for entry in evaluation.entries
        ],
        "caption": caption(evaluation),
        "policies": [_policy(entry) for entry in evaluation.entries],
        "basin": [
            {
                "share": [float(spec.split(":")[1]) for spec in search.figures],
                "tail_ms": [figures["tail_ms"] for figures in search.figures.values()],
                "load": evaluation.scenario.workload.load,
            }
            for search in evaluation.searches
            if search.asked == "static:best"
        ],
    }


def _policy(entry: Entry) -> dict[str, Any]:
    """What the figures need: the first seed over time, and the latencies of all seeds."""
    first = entry.episodes[0]
    latency = longer_than(np.sum([episode.latency for episode in entry.episodes], axis=0))
    return {
        "label": entry.label,
        "series": {name: first.series[name].tolist() for name in SERIES},
        "band": [first.shares.min(axis=1).tolist(), first.shares.max(axis=1).tolist()],
        "latency": {name: values.tolist() for name, values in latency.items()},
    }


def longer_than(histogram: NDArray[np.integer[Any]]) -> dict[str, NDArray[np.float64]]:
    """Part of the requests that took longer than the end of each bin.

    Args:
        histogram: (N_BINS,) counts of latencies.

    Returns:
        ``ms``, the ends of the bins that hold something, and ``longer``, equally long.
    """
    counted = np.cumsum(histogram)
    longer = 1.0 - counted / max(1, int(counted[-1]))
    edges_ms = np.array([bin_edge(i + 1) for i in range(N_BINS)]) / MS
    shown = (longer > RARE) & (counted > 0)
    return {"ms": edges_ms[shown], "longer": longer[shown]}


def scenario_section(scenario: Scenario) -> dict[str, Any]:
    """The scenario, as plain data."""
    return {
        "name": scenario.name,
        "digest": scenario.digest(),
        "description": scenario.description.strip(),
        "step_s": scenario.episode.step_s,
        "slo_ms": scenario.slo.p99_ms.value,
        "yaml": scenario.to_yaml(),
    }


def assumption_rows(scenario: Scenario) -> list[dict[str, str]]:
    """Every assumed number with its range, as text."""
    rows = []
    for path, quantity in scenario.assumptions():
        bounds = ["" if x is None else f"{x:g}" for x in (quantity.low, quantity.high)]
        rows.append(
            {
                "path": path,
                "value": f"{quantity.value:g} {quantity.unit.removeprefix('1')}".strip(),
                "range": f"{bounds[0]} to {bounds[1]}" if any(bounds) else "not stated",
                "source": quantity.source,
            }
        )
    return rows


def render(data: Mapping[str, Any]) -> str:
    """Make the page.

    Args:
        data: ``title``, ``warning``, ``scenario``, ``loads``, ``curve``, ``curve_caption``,
            ``about`` and ``assumptions``; plain values, as JSON has them.
    """
    from helm_gym.pages import plots

    scenario = data["scenario"]
    curves = [curve for load in data["loads"] for curve in load["basin"]]
    return templates.render(
        "report.html.j2",
        title=data["title"],
        warning=data["warning"],
        scenario=scenario,
        loads=[{**load, "figures": _figures(load, scenario)} for load in data["loads"]],
        basin={
            "svg": plots.basin("basin", curves, scenario["slo_ms"]),
            "caption": "P99 of every static share that the grid search tried, mean over the tuning "
            "seeds. Near capacity it is a basin between two walls; far from it, flat.",
        },
        learning={
            "svg": plots.learning("learning", data["curve"]),
            "caption": data["curve_caption"],
        },
        about=data["about"],
        assumptions=data["assumptions"],
    )


def _figures(load: Mapping[str, Any], scenario: Mapping[str, Any]) -> list[dict[str, str]]:
    from helm_gym.pages import plots

    name, policies = f"load{load['load']}", load["policies"]
    step_s, slo_ms = scenario["step_s"], scenario["slo_ms"]
    one = f"Seed {load['seeds'][0]}, one episode."
    return [
        {
            "svg": plots.timeline(f"{name}-time", policies, step_s, slo_ms),
            "caption": f"{one} All policies meet the same requests (top). Shaded: the range over "
            "nodes. P99 of every window of admitted requests.",
        },
        {"svg": plots.hit_rates(f"{name}-hits", policies, step_s), "caption": one},
        {
            "svg": plots.latency(f"{name}-latency", policies, slo_ms),
            "caption": "Latencies of all admitted requests of all seeds. A curve crosses the "
            "horizontal line at its P99.",
        },
    ]
