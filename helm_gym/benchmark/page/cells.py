"""What a benchmark's page says about single cells, loads and policies."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from helm_gym.benchmark.arrange import GOODPUT, Benchmark, Row, Setting, beside
from helm_gym.benchmark.page import plots
from helm_gym.config.scenario import Scenario
from helm_gym.errors import ConfigError
from helm_gym.evaluation.report import longer_than
from helm_gym.pages.table import Cell, Table, number, words
from helm_gym.runs.stats import mean_interval
from helm_gym.suites.moving import PREFIX

Floats = NDArray[np.float64]
Series = Mapping[str, Row]
Schedules = Mapping[tuple[str, int], Floats]
HEADINGS = (
    "policy", "run as", "load", "router", "P99, ms", "/ reference's", "mean, ms", "in SLO, %",
    "goodput, 1/s", "misses, GB", "refill, GB", "EMB share", "share moved", "decision P99, µs",
)  # fmt: skip
COLUMNS = (
    ("slo_satisfaction", 100.0, ".2f"),
    ("goodput_rps", 1.0, ".0f"),
    ("miss_gb", 1.0, ".0f"),
    ("refill_gb", 1.0, ".0f"),
    ("emb_share", 1.0, ".2f"),
    ("share_moved", 1.0, ".2f"),
    ("decision_p99_us", 1.0, ".0f"),
)


def cell_section(
    benchmark: Benchmark,
    cell: str,
    policies: Sequence[str],
    looks: Mapping[str, Any],
    series: Series,
    schedules: Schedules,
) -> dict[str, Any]:
    """Table and figures of one cell.

    Args:
        benchmark: its rows.
        cell: which.
        policies: in the table.
        looks: policies in the figures, and how they look.
        series: of ``helm-gym bench``, by key; may lack any.
        schedules: optimal shares by scenario digest and seed; may lack any.
    """
    number_of = list(benchmark.settings).index(cell)
    rows = [
        _line(benchmark, policy, setting)
        for setting in benchmark.settings[cell]
        for policy in policies
    ]
    return {
        "name": cell,
        "table": Table(f"cell{number_of}", HEADINGS, rows),
        "figures": _figures(benchmark, cell, looks, series, schedules, number_of),
    }


def _line(benchmark: Benchmark, policy: str, setting: Setting) -> list[Cell]:
    seeds = benchmark.seeds[setting.cell]
    rows = [benchmark.row(setting, policy, seed) for seed in seeds]
    base = [benchmark.row(setting, benchmark.reference, seed) for seed in seeds]
    tail = [float(row[benchmark.figure]) for row in rows]
    ratio = [a / float(b[benchmark.figure]) for a, b in zip(tail, base, strict=True)]
    found = sorted({str(row["spec"]) for row in rows} - {policy})
    return [
        words(policy),
        words(", ".join(found)),
        number(setting.load, "g"),
        words(setting.router),
        number(mean_interval(tail), ".1f"),
        number(mean_interval(ratio)),
        number(_mean(rows, "mean_ms"), ".1f"),
        *(number(scale * _mean(rows, name), form) for name, scale, form in COLUMNS),
    ]


def _mean(rows: Sequence[Row], column: str) -> float:
    values = [row.get(column) for row in rows]
    return float(np.mean([np.nan if value is None else value for value in values]))


def scenario_of(row: Row) -> Scenario | None:
    """The cell's scenario: shipped, or as the row keeps it; None where it is neither."""
    try:
        return Scenario.load(json.loads(row["scenario"]) if row.get("scenario") else row["cell"])
    except ConfigError:
        return None


def _figures(
    benchmark: Benchmark,
    cell: str,
    looks: Mapping[str, Any],
    series: Series,
    schedules: Schedules,
    number_of: int,
) -> list[dict[str, str]]:
    """At the highest load: shares and P99 of the first seed over time, latencies of all seeds."""
    setting, seeds = benchmark.settings[cell][-1], benchmark.seeds[cell]
    scenario = scenario_of(benchmark.row(setting, benchmark.reference, seeds[0]))
    if scenario is None:
        return []
    slo_ms, time, latency = scenario.slo.p99_ms.value, [], []
    for policy, look in looks.items():
        keys = [str(benchmark.row(setting, policy, seed).get("key")) for seed in seeds]
        kept = [series[key] for key in keys if key in series]
        look = {"label": policy, "look": look}
        if kept and kept[0].get("share_by_window") and keys[0] in series:
            share = np.asarray(kept[0]["share_by_window"], np.float64)
            p99_ms = np.asarray(kept[0]["p99_by_window"], np.float64)
            time.append({**look, "share": share, "p99_ms": p99_ms})
        histograms = [row["latency"] for row in kept if row.get("latency")]
        if histograms:
            latency.append({**look, **longer_than(np.sum(histograms, axis=0))})
    where = f"Load {setting.load:g}, router {setting.router}"
    first = benchmark.row(setting, benchmark.reference, seeds[0])
    optimum = schedules.get((first["scenario_digest"], seeds[0]))
    if optimum is not None:
        look = {"color": plots.BOUND, "ls": "--"}
        time.append({"label": "optimum in hindsight", "look": look, "share": optimum})
    found, name = [], f"cell{number_of}"
    if time:
        svg = plots.over_time(f"{name}-time", time, scenario.episode.step_s, slo_ms)
        caption = f"{where}, seed {seeds[0]}, one episode; dashed: knows the requests to come."
        found.append({"svg": svg, "caption": caption})
    if latency:
        svg = plots.latencies(f"{name}-latency", latency, slo_ms)
        found.append({"svg": svg, "caption": f"{where}; admitted requests of all seeds."})
    return found


def goodput_panels(benchmark: Benchmark, looks: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Goodput over load of every cell with several loads, with its first router."""
    panels = []
    for cell, settings in benchmark.settings.items():
        mine = [setting for setting in settings if setting.router == settings[0].router]
        if len(mine) < 2:
            continue

        def over(policy: str, column: str, those: Sequence[Setting] = tuple(mine)) -> list[float]:
            return [
                _mean([benchmark.row(s, policy, seed) for seed in benchmark.seeds[s.cell]], column)
                for s in those
            ]

        loads = [setting.load for setting in mine]
        panels.append(
            {
                "title": cell.removeprefix(f"{PREFIX}-"),
                "offered": (loads, over(benchmark.reference, "offered_rps")),
                "policies": [
                    {"label": p, "look": look, "load": loads, "goodput": over(p, "goodput_rps")}
                    for p, look in looks.items()
                ],
            }
        )
    return panels


def sustained_rows(where: Path) -> Table | None:
    """Highest loads by ``helm-gym goodput``, if its rows lie beside those of the benchmark."""
    import pyarrow.parquet as pq

    file = beside(where, GOODPUT)
    if not file.is_file():
        return None
    by_policy: dict[tuple[str, str], dict[int, float]] = {}
    for row in pq.read_table(file).to_pylist():
        by_policy.setdefault((row["cell"], row["spec"]), {})[row["seed"]] = row["sustained"]
    rows = [
        [words(cell), words(spec), number(mean_interval(list(loads.values()))),
         number(float(len(loads)), ".0f")]
        for (cell, spec), loads in sorted(by_policy.items())
    ]  # fmt: skip
    return Table("sustained", ("cell", "policy", "highest load", "seeds"), rows)


def digest_rows(benchmark: Benchmark) -> Table:
    """Digest of every scenario."""
    rows = []
    for settings in benchmark.settings.values():
        for setting in settings:
            seed = benchmark.seeds[setting.cell][0]
            row = benchmark.row(setting, benchmark.reference, seed)
            named = (setting.cell, f"{setting.load:g}", setting.router, row["scenario_digest"])
            rows.append([words(str(text)) for text in named])
    return Table("digests", ("cell", "load", "router", "scenario digest"), rows)


def policy_rows(benchmark: Benchmark) -> Table:
    """Digests of every policy, and what it was run as."""
    digests: dict[str, set[str]] = {}
    for row in benchmark.runs.values():
        digests.setdefault(row["policy"], set()).add(str(row["policy_digest"] or "none"))
    rows = [
        [words(policy), words(", ".join(benchmark.specs(policy))), words(", ".join(sorted(those)))]
        for policy, those in sorted(digests.items())
    ]
    return Table("policies", ("policy", "run as", "policy digests"), rows)
