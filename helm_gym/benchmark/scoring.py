"""Score one policy in under a minute: what ``helm-gym score`` does, for people and for programs.

The policy plays every draw of :mod:`helm_gym.suites.score_draws` that has a yardstick, and
:func:`helm_gym.benchmark.score.score` makes one number of it. Equal policies get equal scores,
whatever the number of processes::

    from helm_gym.benchmark.scoring import score_policy

    scored = score_policy("my_module:MyPolicy")
    print(scored.value, scored.worst)

Each call with several processes imports the policy's module afresh in them. With one process the
module stays as it was first imported, as always in Python.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from helm_gym.benchmark import yardsticks
from helm_gym.benchmark.arrange import Setting
from helm_gym.benchmark.contest import WINDOW_TAIL, Contest, Prize, prize
from helm_gym.benchmark.gap import Absent
from helm_gym.benchmark.moment import Moment, Outcome, worst_moment
from helm_gym.benchmark.plan import BUDGET_MS
from helm_gym.benchmark.score import REFERENCE, Score, score
from helm_gym.benchmark.yardsticks import Played, Yardstick
from helm_gym.errors import ConfigError, HelmGymError
from helm_gym.evaluation.specs import make_policy
from helm_gym.policy import Policy, card_of, router_of
from helm_gym.runs.bank import Bank, Timed
from helm_gym.runs.rollout import run_policy
from helm_gym.store import Store, json_codec
from helm_gym.suites.score_draws import Draw, draws
from helm_gym.suites.seeds import SCORE_SEEDS
from helm_gym.units import MS

Floats = NDArray[np.float64]

LOSS_MS = 0.0
"""What the searches lose is not subtracted here: a search that lost much makes scores too high, in
some settings more than in others."""


@dataclass(frozen=True)
class Scored:
    """A policy's score, and what it rests on."""

    spec: str
    score: Score
    outcomes: Mapping[Setting, tuple[Outcome, ...]]  # by setting, one per seed
    worst: Moment | None  # None if the policy failed everywhere
    not_searched: tuple[Draw, ...] = ()  # which count for nobody
    played_again: int = 0  # yardsticks that were played again, because the simulator has changed
    failures: Mapping[Draw, str] = field(default_factory=dict)  # why the policy has 0 there

    @property
    def value(self) -> float:
        """The score, 0 to 1."""
        return self.score.value


class Task(NamedTuple):
    """One episode of the policy."""

    draw: Draw
    spec: str
    allow: tuple[str, ...]
    budget_ms: float


class Attempt(NamedTuple):
    """What came of a task."""

    played: Played | None  # None if the policy failed
    series: Mapping[str, Floats]  # of the episode, (T,) each
    reason: str  # why it failed


def score_policy(
    spec: str,
    *,
    jobs: int = 1,
    allow: Collection[str] = (),
    budget_ms: float = BUDGET_MS,
    among: Sequence[Draw] | None = None,
    folder: Path = yardsticks.FOLDER,
    progress: bool = False,
) -> Scored:
    """Score a policy.

    Args:
        spec: such as ``my_module:MyPolicy`` or ``balance:gain=0.6``.
        jobs: processes; the result does not depend on it.
        allow: see :func:`~helm_gym.evaluation.specs.make_policy`.
        budget_ms: mean time that a decision may take.
        among: draws that the score rests on; all that the package has by default.
        folder: holds their yardsticks.
        progress: show a progress bar on stderr.

    Raises:
        ConfigError: there is no such policy, it was trained on a draw, a yardstick is damaged,
            or no setting counts.
    """
    asked = draws() if among is None else list(among)
    policy = _checked(spec, asked, allow)
    known = yardsticks.load(asked, folder)
    stale = [draw for draw, one in known.items() if not one.current]
    known |= _played_again({draw: known[draw] for draw in stale}, jobs, progress)
    tasks = [Task(draw, spec, tuple(allow), budget_ms) for draw in known]
    attempts = _attempts(tasks, jobs, progress)
    every = [
        Outcome(draw, yardstick, *made)
        for (draw, yardstick), made in zip(known.items(), attempts, strict=True)
    ]
    outcomes = _by_setting(every)
    return Scored(
        spec=spec,
        score=_score(spec, outcomes, router_of(policy)),
        outcomes=outcomes,
        worst=worst_moment(every),
        not_searched=tuple(draw for draw in asked if draw not in known),
        played_again=len(stale),
        failures={one.draw: one.reason for one in every if one.played is None},
    )


def _checked(spec: str, asked: Sequence[Draw], allow: Collection[str]) -> Policy:
    """The policy, unless its model file says that it has seen what the score rests on."""
    policy = make_policy(spec, allow)
    card = card_of(policy)
    if card is None:
        return policy
    names = {draw.scenario.digest(): draw.cell for draw in asked}
    seen = names.get(str(card.scenario_digest), "")
    if int(card.seed) in SCORE_SEEDS:
        seen = f"seed {card.seed}"
    if seen:
        raise ConfigError(
            f"{spec}: trained on {seen}, which the score rests on; score a policy that was trained "
            "on other scenarios, with seeds below 10000"
        )
    return policy


def _played_again(
    old: Mapping[Draw, Yardstick], jobs: int, progress: bool
) -> dict[Draw, Yardstick]:
    store: Store[Yardstick] = Store(None, yardsticks.CODEC)
    pairs = {draw.key: (draw, yardstick.searched) for draw, yardstick in old.items()}
    found = store.complete(
        pairs, yardsticks.play_pair, processes=jobs, title="yardsticks", progress=progress
    )
    return {draw: found[draw.key] for draw in old}


def attempt(task: Task) -> Attempt:
    """Play the policy in one draw; a failure is a result, too."""
    scenario, seed = task.draw.scenario, task.draw.seed
    try:
        policy = make_policy(task.spec, task.allow)
        timed = Timed(policy, task.budget_ms * MS, scenario.episode.steps)
        bank = Bank(task.spec, [timed], [seed])
        (episode,) = run_policy(scenario, bank, task.spec, [seed])
    except HelmGymError as error:
        return Attempt(None, {}, str(error))
    return Attempt(Played.of(episode), episode.series, "")


def _attempts(tasks: Sequence[Task], jobs: int, progress: bool) -> list[Attempt]:
    # A store without a folder keeps nothing: its processes and its progress bar are wanted.
    store: Store[Attempt] = Store(None, json_codec())
    asked = {task.draw.key: task for task in tasks}
    made = store.complete(asked, attempt, processes=jobs, title="playing", progress=progress)
    return list(made.values())


def _by_setting(outcomes: Sequence[Outcome]) -> dict[Setting, tuple[Outcome, ...]]:
    found: dict[Setting, tuple[Outcome, ...]] = {}
    for one in outcomes:
        setting = Setting(one.draw.cell, one.draw.load, one.draw.router)
        found[setting] = (*found.get(setting, ()), one)
    return found


def _score(spec: str, outcomes: Mapping[Setting, Sequence[Outcome]], router: str | None) -> Score:
    prizes = {setting: _prize(spec, setting, those, router) for setting, those in outcomes.items()}
    found = score(prizes, spec, {setting.cell for setting in outcomes})
    if isinstance(found, Absent):
        raise ConfigError(
            f"there is no score: {found.detail}. The schedules that it is measured against belong "
            "to other scenarios than those of now; helm-gym score --search makes them"
        )
    return found


def _prize(
    spec: str, setting: Setting, those: Sequence[Outcome], router: str | None
) -> Prize | Absent:
    """What there is to be won in a setting; the policy's failures are NaNs."""
    seeds = tuple(one.draw.seed for one in those)
    values = {
        REFERENCE: _figures(one.yardstick.static for one in those),
        spec: _figures(one.played for one in those),
    }
    elsewhere = frozenset() if router in (None, setting.router) else frozenset({spec})
    replays = dict(zip(seeds, _figures(o.yardstick.schedule for o in those).tolist(), strict=True))
    contest = Contest(setting, WINDOW_TAIL, seeds, values, elsewhere)
    return prize(contest, replays, LOSS_MS, REFERENCE)


def _figures(played: Iterable[Played | None]) -> Floats:
    found = [math.nan if one is None else one.figures[WINDOW_TAIL] for one in played]
    return np.array(found, np.float64)
