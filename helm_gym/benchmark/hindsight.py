"""Policies against the hindsight schedule: what they cost more, and how far off their shares are.

``regret`` is the cost of a policy's episode less that of the schedule's, on the same requests.
``distance`` and ``distance_good`` are of :mod:`helm_gym.benchmark.distance`. HELM
reports 0.024 to 0.029 to an offline optimum (arXiv 2605.04450), without saying how that optimum was
found.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from helm_gym._version import __version__
from helm_gym.benchmark.distance import distance, distance_good
from helm_gym.config.scenario import Scenario
from helm_gym.console import Bar, progress_bar
from helm_gym.evaluation.search import resolve
from helm_gym.evaluation.specs import make_policy
from helm_gym.hindsight import search as room
from helm_gym.hindsight.objective import TAIL, Objective
from helm_gym.hindsight.search import FULL, Hindsight, Outcome, Search
from helm_gym.policy import router_of
from helm_gym.runs.figures import uncounted_windows
from helm_gym.runs.rollout import Episode, run_policy
from helm_gym.runs.stats import Interval, mean_interval
from helm_gym.store import Store, json_codec, open_store
from helm_gym.suites.seeds import EVALUATION_SEEDS

Floats = NDArray[np.float64]
YARDSTICK = (0.024, 0.029)  # |share - optimum| that HELM reports

STATIC, FREE, JUMPED, BEST = (
    "best static in hindsight",
    "best static of every window",
    "these shares, played",
    "schedule (hindsight optimum)",
)
POINTS = (STATIC, FREE, JUMPED, BEST)
"""Reference points that stand beside policies in the rows."""


@dataclass(frozen=True)
class Row:
    """A policy, or one of the reference points, on one seed."""

    policy: str
    spec: str
    seed: int
    outcome: Outcome
    regret: float
    distance: float
    distance_good: float


@dataclass(frozen=True)
class Comparison:
    """A finished comparison; ``found`` and ``seeds`` are in one order."""

    scenario: Scenario
    objective: str
    seeds: tuple[int, ...]
    found: tuple[Hindsight, ...]
    rows: tuple[Row, ...]

    def names(self) -> list[str]:
        """Policies in the order of the rows."""
        return list(dict.fromkeys(row.policy for row in self.rows))

    def interval(self, policy: str, figure: str) -> Interval:
        """Mean of one figure of :class:`Row` or :class:`Outcome` over seeds, and its interval."""
        return mean_interval(
            [
                float(getattr(row if hasattr(row, figure) else row.outcome, figure))
                for row in self.rows
                if row.policy == policy
            ]
        )

    def records(self) -> list[dict[str, Any]]:
        """One flat row per policy and seed."""
        about = {
            "scenario": self.scenario.name,
            "scenario_digest": self.scenario.digest(),
            "load": self.scenario.workload.load,
            "objective": self.objective,
            "helm_gym": __version__,
        }
        return [
            {**about, **{k: v for k, v in vars(row).items() if k != "outcome"}, **dict(row.outcome)}
            for row in self.rows
        ]


def compare(
    scenario: Scenario,
    specs: Sequence[str],
    *,
    seeds: Sequence[int] = EVALUATION_SEEDS[:1],
    objective: str = TAIL,
    search: Search = FULL,
    out: Path = Path("runs/hindsight"),
    progress: bool = False,
    allow: Collection[str] = (),
) -> Comparison:
    """Find the schedule of every seed, and compare policies with it.

    Args:
        scenario: where.
        specs: policies.
        seeds: request streams.
        objective: what the schedules minimise.
        search: how hard to look.
        out: folder of one file per seed, which a later call does not search for again.
        progress: show a progress bar on stderr.
        allow: see :func:`~helm_gym.evaluation.specs.make_policy`.

    Raises:
        ConfigError: something cannot be used as asked.
    """
    Objective(objective, scenario)
    resolved = {spec: resolve(scenario, spec) for spec in dict.fromkeys(specs)}
    made = {spec: make_policy(name, allow) for spec, name in resolved.items()}
    reward = Objective(objective, scenario).reward
    with (
        open_store(out, json_codec(Hindsight), wait=True) as store,
        progress_bar("hindsight", None, wanted=progress, note="policies") as bar,
    ):
        played = {
            spec: run_policy(scenario, policy, resolved[spec], seeds, reward=reward)
            for spec, policy in made.items()
        }
        found = []
        for place, seed in enumerate(seeds):
            rivals = [
                episodes[place]
                for spec, episodes in played.items()
                if router_of(made[spec]) in (None, scenario.router.name)
            ]
            found.append(_find(scenario, seed, objective, search, store, rivals, bar))
    rows = [row for own in found for row in _points(own, uncounted_windows(scenario))]
    for spec, episodes in played.items():
        rows += [
            _row(spec, scenario, episode, own) for episode, own in zip(episodes, found, strict=True)
        ]
    return Comparison(scenario, objective, tuple(seeds), tuple(found), tuple(rows))


def _find(
    scenario: Scenario,
    seed: int,
    objective: str,
    search: Search,
    store: Store[Hindsight],
    rivals: Sequence[Episode],
    bar: Bar,
) -> Hindsight:
    """The schedule of one seed: from its file, or searched for; no rival with one share beats it.

    A rival that costs less shows that the search missed something, so it goes on around that.
    """

    def tell(stage: str, done: int, of: int) -> None:
        bar.show(done, of, f"seed {seed}: {stage}")

    digest = room.key_of(scenario, seed, objective, search)
    key = file_key(scenario, objective, seed, digest)
    found = store.piece(key, lambda: room.hindsight(scenario, seed, objective, search, tell))
    cost = Objective(objective, scenario).of_episode
    for rival in sorted(rivals, key=cost):
        if cost(rival) < found.best.cost and _one_share(rival):
            found = room.improve(found, scenario, rival.shares[:, 0].tolist(), search, tell)
            store.put(key, found)
    return found


def file_key(scenario: Scenario, objective: str, seed: int, digest: str) -> str:
    """Name, without its ending, of the file of one seed's result; it is a schedule too."""
    return f"{scenario.name}-{objective}-{seed}-{digest}"


def _one_share(episode: Episode) -> bool:
    """Whether all nodes had the same share, as they have under a schedule."""
    return bool((episode.shares == episode.shares[:, :1]).all())


def _row(spec: str, scenario: Scenario, episode: Episode, found: Hindsight) -> Row:
    cost = Objective(found.schedule.objective, scenario).of_episode(episode)
    outcome = Outcome(
        cost=cost, **{k: episode.figures[k] for k in Outcome.model_fields if k != "cost"}
    )
    return _against(spec, episode.spec, found, outcome, episode.shares, episode.uncounted)


def _points(found: Hindsight, uncounted: int) -> Iterator[Row]:
    """The reference points of one seed."""
    schedule = found.schedule
    still = np.full((len(schedule.shares), 1), found.static_share)
    free = np.array(found.free_shares)[:, None]
    own = np.array(schedule.shares)[:, None]
    static = f"static:{found.static_share:g}"
    yield _against(STATIC, static, found, found.static, still, uncounted)
    yield _against(FREE, "", found, found.free, free, uncounted)
    yield _against(JUMPED, "", found, found.jumped, free, uncounted)
    yield _against(BEST, "", found, found.best, own, uncounted)


def _against(
    policy: str, spec: str, found: Hindsight, outcome: Outcome, shares: Floats, uncounted: int
) -> Row:
    return Row(
        policy=policy,
        spec=spec,
        seed=found.schedule.seed,
        outcome=outcome,
        regret=outcome.cost - found.best.cost,
        distance=distance(shares, found.schedule.shares, uncounted),
        distance_good=distance_good(shares, found.good, found.grid, uncounted),
    )
