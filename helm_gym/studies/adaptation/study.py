"""Does online adaptation help? Long streams that the base never saw, all methods alike.

Drifts: the suite's trends, another model size, and replays of logs that a user brings.
Streams are long and never reset; seeds are those for comparisons, and rules are searched on tuning
seeds. What a policy did on a drift is kept in the folder and not run again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from helm_gym.config.scenario import Scenario
from helm_gym.console import make_table
from helm_gym.errors import ConfigError
from helm_gym.evaluation.search import Budget, search
from helm_gym.evaluation.specs import SEARCHES, make_policy
from helm_gym.pages.table import md_cell, with_interval
from helm_gym.provenance import code_digest, policy_digest
from helm_gym.runs.rollout import run_policy
from helm_gym.runs.stats import Interval, mean_interval, paired
from helm_gym.store import digest_of, json_codec, open_store
from helm_gym.suites import moving
from helm_gym.suites.replays import replay_cells, steady_base
from helm_gym.suites.seeds import EVALUATION_SEEDS, TUNING_SEEDS

if TYPE_CHECKING:
    from rich.table import Table

BASE = "ppo:released"
POLICIES = (
    BASE,
    f"adapted:{BASE}",
    f"adapted(guard=false):{BASE}",
    "balance:best",
    "hysteresis:best",
    "static:best",
)
STEPS = 360  # windows: half an hour
LOAD = 0.95
SEARCH_STEPS = 60  # of rules; searched in a shorter episode of the same drift
SEARCH = Budget(tuple(TUNING_SEEDS[:2]))
REWARD = "paper"  # what the residual learner maximises, but for its slope in mean latency
FIGURES = ("tail_ms", "mean_ms", "slo_satisfaction", "throughput_rps", "reward")
SMOOTH, EVERY = 12, 4  # windows of the moving mean in the figure, and between its points
COLUMNS = (
    "drift", "policy", "P99, ms", "less base's", "in SLO, %", "less base's", "reward by third",
    "trips",
)  # fmt: skip
MODEL = "hstu-8x1024"
# Under 30 ms no share carries any load with this model: one request takes too long. So the target
# is doubled, and the deadline stays five times the target.
MODEL_SLO = {"slo.p99_ms": 60.0, "slo.deadline_ms": 300.0}
MODEL_CAPACITY: Mapping[str, float] = {
    "taobao": 60.1, "amazon-books": 54.2, "amazon-video-games": 57.8,
}  # fmt: skip
"""Requests/s per node of the best static share: ``helm-gym capacity`` of the steady cell, as
:func:`steady_base` has it, with :data:`MODEL` and :data:`MODEL_SLO`."""
Result = dict[str, Any]


def drifts(logs: Sequence[str] = (), steps: int = STEPS, load: float = LOAD) -> dict[str, Scenario]:
    """Scenarios by name; ``logs`` as ``helm-gym bench --log`` takes them.

    Raises:
        ConfigError: a log cannot be read like that.
    """
    router = moving.ROUTERS[0]
    trends = [moving.name_of(dataset, "trend", router) for dataset in moving.DATASETS]
    found = {name: moving.frozen_cell(name, router) for name in trends}
    for dataset, capacity in MODEL_CAPACITY.items():
        name = f"{dataset}-{MODEL}"
        found[name] = steady_base(dataset).replace(
            {
                "name": name,
                "hardware.model": MODEL,
                "workload.capacity_rps_per_node": capacity,
                **MODEL_SLO,
            }
        )
    found |= replay_cells(logs)
    changes = {"workload.load": load, "episode.steps": steps}
    return {name: scenario.replace(changes) for name, scenario in found.items()}


def study(
    scenarios: Mapping[str, Scenario],
    policies: Sequence[str],
    *,
    seeds: int,
    out: Path,
    threads: int = 1,
    progress: bool = False,
) -> list[Result]:
    """Run every policy on every drift.

    Args:
        scenarios: by name.
        policies: specs, the first of which the others are compared with.
        seeds: streams per drift and policy.
        out: folder; ``streams/`` in it keeps a file per drift and policy.
        threads: simulator threads.
        progress: show a progress bar on stderr.

    Raises:
        ConfigError: a policy is named twice or cannot be made.
    """
    if len(set(policies)) < len(policies) or not policies:
        raise ConfigError(f"need policies, each named once; got {', '.join(policies)}")
    for spec in policies:
        if spec not in SEARCHES:
            make_policy(spec)  # so that a typo costs no time
    jobs = {
        f"{name}-{_key(scenario, policy, seeds)}": (scenario, policy, seeds, threads)
        for name, scenario in scenarios.items()
        for policy in policies
    }
    with open_store(out / "streams", json_codec()) as store:
        found = store.complete(jobs, lambda job: _entry(*job), title="adapting", progress=progress)
    entries = iter(found.values())
    return [
        {
            "drift": scenario.name,
            "digest": scenario.digest(),
            "step_s": scenario.episode.step_s,
            "entries": [next(entries) for _ in policies],
        }
        for scenario in scenarios.values()
    ]


def _key(scenario: Scenario, policy: str, seeds: int) -> str:
    digest = "" if policy in SEARCHES else policy_digest(policy, make_policy(policy))
    return digest_of(scenario.digest(), policy, digest, seeds, code_digest(__name__))


def _entry(scenario: Scenario, asked: str, seeds: int, threads: int) -> dict[str, Any]:
    """What one policy does in all streams of one drift."""
    spec = asked
    if asked in SEARCHES:
        short = scenario.replace({"episode.steps": min(SEARCH_STEPS, scenario.episode.steps)})
        spec = search(short, asked, SEARCH, threads=threads).best
    policy = make_policy(spec)
    episodes = run_policy(
        scenario, policy, spec, EVALUATION_SEEDS[:seeds], reward=REWARD, threads=threads
    )
    learners = getattr(policy, "learners", [])
    return {
        "asked": asked,
        "spec": spec,
        "figures": {name: [e.figures[name] for e in episodes] for name in FIGURES},
        "reward": [e.series["reward"].tolist() for e in episodes],
        "share": [e.series["emb_share"].tolist() for e in episodes],
        "trips": [learner.trips for learner in learners],
        "trials": [learner.trials for learner in learners],
        "dropped": [learner.dropped for learner in learners],
    }


def difference(result: Result, entry: Mapping[str, Any], figure: str) -> Interval:
    """Of a figure to the first policy's, seed by seed."""
    return paired(entry["figures"][figure], result["entries"][0]["figures"][figure])


def reward_by_third(entry: Mapping[str, Any]) -> list[float]:
    """Mean reward per window in the first, second and last third of the stream."""
    thirds = np.array_split(np.asarray(entry["reward"]), 3, axis=1)
    return [float(third.mean()) for third in thirds]


def markdown(results: Sequence[Result]) -> str:
    """One table of all drifts and policies."""
    lines = [f"| {' | '.join(COLUMNS)} |", "|---|---" + "|--:" * (len(COLUMNS) - 2) + "|"]
    for result in results:
        for entry in result["entries"]:
            drift, policy, *numbers = _line(result, entry)
            lines.append(f"| {' | '.join([md_cell(drift), f'`{md_cell(policy)}`', *numbers])} |")
    return "\n".join(lines) + "\n"


def _line(result: Result, entry: Mapping[str, Any]) -> list[str]:
    """Cells of :data:`COLUMNS`."""
    own = {name: mean_interval(entry["figures"][name]).mean for name in FIGURES}
    tail, slo = (difference(result, entry, name) for name in ("tail_ms", "slo_satisfaction"))
    first = entry is result["entries"][0]
    found = "" if entry["asked"] == entry["spec"] else f" → {entry['spec']}"
    rewards = " ".join(f"{value:.4f}" for value in reward_by_third(entry))
    return [
        result["drift"],
        f"{entry['asked']}{found}",
        f"{own['tail_ms']:.2f}",
        "" if first else with_interval(tail, "+.2f"),
        f"{100 * own['slo_satisfaction']:.2f}",
        "" if first else with_interval(slo, "+.2f", 100.0),
        rewards,
        f"{sum(entry['trips'])}" if entry["trips"] else "",
    ]


def table(results: Sequence[Result]) -> Table:
    """The same for a terminal."""
    rows = [_line(result, entry) for result in results for entry in result["entries"]]
    title = "Adaptation on drifts; intervals are paired, 95 %"
    return make_table(COLUMNS, rows, title=title, left=2)


def figure(results: Sequence[Result]) -> str:
    """Reward less the base's over time, a panel per drift, as an <svg> element."""
    from helm_gym.pages.plots import as_svg

    adapted = [e["asked"] for e in results[0]["entries"][1:] if e["asked"].startswith("adapted")]
    colours = ("#1b6ca8", "#e7a500", "#d95f02", "#7570b3", "#1b9e77")

    def draw(canvas: Any) -> None:
        rows = -(-len(results) // 2)
        panels = canvas.subplots(rows, 2, sharex=True, squeeze=False).ravel()
        for panel, result in zip(panels, results, strict=False):
            base = np.asarray(result["entries"][0]["reward"])
            for entry in result["entries"][1:]:
                if entry["asked"] not in adapted:
                    continue
                gain = _smoothed(np.asarray(entry["reward"]) - base)
                time = result["step_s"] / 60.0 * (SMOOTH + EVERY * np.arange(gain.shape[1]))
                colour = colours[adapted.index(entry["asked"]) % len(colours)]
                panel.plot(time, gain.mean(axis=0), color=colour, lw=1.4, label=entry["asked"])
                panel.fill_between(
                    time, gain.min(axis=0), gain.max(axis=0), color=colour, alpha=0.1
                )
            panel.axhline(0.0, color="#4d4d4d", lw=0.8)
            panel.set_title(result["drift"], fontsize=8)
        for panel in panels[len(results) :]:
            panel.set_visible(False)
        canvas.supxlabel("minutes")
        canvas.supylabel("reward of a window less the base's (mean and range over seeds)")
        handles, labels = panels[0].get_legend_handles_labels()
        canvas.legend(handles, labels, loc="outside upper left", ncols=2)

    return as_svg("adapt", (8.0, 1.2 + 1.6 * -(-len(results) // 2)), draw)


def _smoothed(values: Any) -> Any:
    window = np.ones(SMOOTH) / SMOOTH
    return np.stack([np.convolve(row, window, mode="valid")[::EVERY] for row in values])


__all__ = ["BASE", "POLICIES", "STEPS", "drifts", "figure", "markdown", "study", "table"]
