"""Compare policies on held-out seeds, and keep rows that can be repeated."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from helm_gym import store
from helm_gym._version import __version__
from helm_gym.config.scenario import Scenario
from helm_gym.console import progress_bar
from helm_gym.envs.reward import DEFAULT
from helm_gym.errors import ConfigError
from helm_gym.evaluation.search import Search, most_tried, search
from helm_gym.evaluation.specs import SEARCHES, make_policy
from helm_gym.files import write_text
from helm_gym.policy import Policy
from helm_gym.runs.rollout import Episode, run_policy
from helm_gym.runs.stats import Interval, Sign, mean_interval, paired, sign
from helm_gym.suites.seeds import EVALUATION_SEEDS

N_SEEDS = 5


@dataclass(frozen=True)
class Entry:
    """One policy's episodes, in the order of the seeds."""

    asked: str  # the spec as asked for
    spec: str  # what it resolved to
    label: str  # for tables and plots
    episodes: tuple[Episode, ...]

    def values(self, figure: str) -> list[float]:
        """One figure over the seeds."""
        return [episode.figures[figure] for episode in self.episodes]

    def interval(self, figure: str) -> Interval:
        """Its mean with the interval."""
        return mean_interval(self.values(figure))


@dataclass(frozen=True)
class Evaluation:
    """A finished comparison of policies on one scenario."""

    scenario: Scenario
    seeds: tuple[int, ...]
    entries: tuple[Entry, ...]
    searches: tuple[Search, ...]

    @property
    def reference(self) -> Entry:
        """Whom the others are compared with: the best static share, else the first policy."""
        best = [entry for entry in self.entries if entry.asked == "static:best"]
        return best[0] if best else self.entries[0]

    def entry(self, asked: str) -> Entry:
        """The policy that was asked for by this spec or label."""
        for entry in self.entries:
            if asked in (entry.asked, entry.label):
                return entry
        raise KeyError(asked)

    def difference(self, entry: Entry, figure: str, other: Entry | None = None) -> Interval:
        """Difference of a figure to another policy's, the reference's by default, seed by seed."""
        return paired(entry.values(figure), (other or self.reference).values(figure))

    def lower(self, entry: Entry, figure: str, other: Entry | None = None) -> Sign:
        """On how many seeds a figure is lower than another policy's."""
        return sign(entry.values(figure), (other or self.reference).values(figure))

    def rows(self) -> list[dict[str, Any]]:
        """One row per policy and seed, with all that is needed to repeat it."""
        about = {
            "scenario": self.scenario.name,
            "scenario_digest": self.scenario.digest(),
            "load": self.scenario.workload.load,
            "helm_gym": __version__,
            "numpy": metadata.version("numpy"),
            "numba": metadata.version("numba"),
        }
        return [
            {
                **about,
                "asked": entry.asked,
                "spec": entry.spec,
                "label": entry.label,
                "seed": episode.seed,
                **episode.figures,
            }
            for entry in self.entries
            for episode in entry.episodes
        ]


def evaluate(
    scenario: Scenario,
    specs: Sequence[str],
    *,
    seeds: Sequence[int] | None = None,
    policies: Mapping[str, Policy] | None = None,
    labels: Mapping[str, str] | None = None,
    reward: str | Mapping[str, Any] = DEFAULT,
    threads: int = 1,
    progress: bool = False,
    allow: Collection[str] = (),
) -> Evaluation:
    """Run every policy on the same held-out request streams.

    Args:
        scenario: where.
        specs: policy specs; ``static:best`` and the like are searched for on tuning seeds.
        seeds: episodes per policy, out of ``EVALUATION_SEEDS``; its first five by default.
        policies: policies made already, by the spec that names them in ``specs``.
        labels: what to call a spec in tables; the resolved spec by default.
        reward: preset or weights of the reward column.
        threads: simulator threads; results do not depend on it.
        progress: show a progress bar on stderr.
        allow: see :func:`~helm_gym.evaluation.specs.make_policy`.

    Raises:
        ConfigError: a spec or a seed cannot be used.
        PolicyError: a policy failed; the message names it.
    """
    seeds = tuple(EVALUATION_SEEDS[:N_SEEDS] if seeds is None else seeds)
    _check(specs, seeds)
    given = policies or {}
    # Made before anything runs, so that a typo in the last spec does not cost the first ones' time.
    asked_for = [spec for spec in specs if spec not in SEARCHES]
    made = {spec: given.get(spec) or make_policy(spec, allow) for spec in asked_for}
    searches: list[Search] = []
    entries: list[Entry] = []
    runs = sum(1 + (most_tried(scenario, spec) if spec in SEARCHES else 0) for spec in specs)
    total = runs * scenario.episode.steps
    with progress_bar("evaluating", total, wanted=progress) as bar:
        for asked in specs:
            spec, policy = asked, made.get(asked)
            if policy is None:
                searches.append(search(scenario, asked, threads=threads, tick=bar.advance))
                spec = searches[-1].best
                policy = make_policy(spec)
            episodes = run_policy(
                scenario, policy, spec, seeds, reward=reward, threads=threads, tick=bar.advance
            )
            label = (labels or {}).get(asked) or _label(asked, spec)
            entries.append(Entry(asked, spec, label, tuple(episodes)))
    return Evaluation(scenario, seeds, tuple(entries), tuple(searches))


def _check(specs: Sequence[str], seeds: Sequence[int]) -> None:
    if not specs:
        raise ConfigError("nothing to evaluate: name at least one policy, such as static:best")
    twice = sorted({spec for spec in specs if list(specs).count(spec) > 1})
    if twice:
        raise ConfigError(f"policy {twice[0]!r} is named twice")
    if not seeds or len(set(seeds)) < len(seeds):
        raise ConfigError(f"need at least one seed, and each only once; got {list(seeds)}")
    wrong = [seed for seed in seeds if seed not in EVALUATION_SEEDS]
    if wrong:
        raise ConfigError(
            f"seed {wrong[0]} is not held out: comparisons use {EVALUATION_SEEDS.start} to "
            f"{EVALUATION_SEEDS.stop - 1}, because lower ones are for training and searches"
        )


def _label(asked: str, spec: str) -> str:
    name, _, rest = asked.partition(":")
    if asked == "static:best":
        return f"best static ({spec.partition(':')[2]})"
    return f"tuned {name}" if rest == "best" else spec


def check_rows_file(path: Path) -> None:
    """Refuse an ending that :func:`save_rows` cannot write, before any time is spent."""
    if path.suffix not in (".parquet", ".json"):
        raise ConfigError(f"{path}: rows are written as .parquet or .json")


def save_rows(evaluations: Sequence[Evaluation], path: Path) -> None:
    """Write the rows of comparisons as Parquet or JSON, by the file's ending.

    Raises:
        ConfigError: another ending, or the file cannot be written.
    """
    check_rows_file(path)
    rows = [row for evaluation in evaluations for row in evaluation.rows()]
    if path.suffix == ".parquet":
        store.save_rows(rows, path)
        return
    with store.writing(path):
        write_text(path, json.dumps(rows, indent=1) + "\n")
