"""The best that could have been done: schedules found with the whole request stream known.

For one scenario and one seed: the best static share; the best share of every window among the
statics, as if moving were free and caches followed at once; and the best schedule of moves of at
most 0.06, by dynamic programming over branches of the simulator. The last one is replayed from the
start, and what the replay costs is what counts. It has one share for all nodes. Where the whole
episode counts it chooses the share that its cluster is warmed up with, as statics do; where the
beginning is not counted it begins at the scenario's own share, as everybody does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pydantic import Field

from helm_gym.baselines.schedule import Schedule
from helm_gym.baselines.static import share_grid
from helm_gym.config.quantity import Frozen
from helm_gym.config.scenario import Scenario
from helm_gym.envs.action import INCREMENTS, ROUNDING
from helm_gym.errors import ConfigError
from helm_gym.hindsight.branches import Branches, Plan
from helm_gym.hindsight.dp import Choices, Unreachable, corridor, reachable, solve
from helm_gym.hindsight.objective import TAIL, Objective, Window, counted, tail_of
from helm_gym.provenance import code_digest
from helm_gym.store import digest_of
from helm_gym.units import MS

Progress = Callable[[str, int, int], None]  # stage, done, of how many

GOOD = 0.01  # shares that cost at most this part more than the schedule's count as optimal, too


class Search(Frozen):
    """How hard to look."""

    step: float = Field(default=0.02, gt=0, le=0.5)  # of the share grid
    longest_move: float = Field(default=max(INCREMENTS), gt=0, le=1)  # per decision
    width: int = Field(default=3, ge=1)  # states kept per window and share
    tries: int | None = Field(default=None, ge=1)  # ways tried to each share, cheapest first
    static_step: float | None = Field(default=None, gt=0, le=0.5)  # of what is held; else `step`
    coarse_step: float = Field(default=max(INCREMENTS), gt=0, le=0.5)  # of the first grid
    hold: int = Field(default=1, ge=1)  # windows that a decision lasts on the first grid
    coarse_rounds: int = Field(default=2, ge=1)  # at most, on the first grid
    radius: float = Field(default=0.08, gt=0, le=1)  # of the corridor around what that found
    rounds: int = Field(default=2, ge=1)  # at most, in corridors
    gain: float = Field(default=1e-3, ge=0, le=1)  # relative; a round that gains less is the last


FULL = Search()
FAST = Search(
    width=2,
    tries=3,
    static_step=0.1,
    coarse_step=0.12,
    hold=2,
    coarse_rounds=1,
    radius=0.06,
    rounds=3,
    gain=1e-4,
)
"""For hundreds of decisions; docs/performance.md has what it saves and loses."""


class Outcome(Frozen):
    """What a schedule did in the simulator."""

    cost: float  # by the objective
    tail_ms: float  # P99 over all arrivals
    mean_ms: float
    slo_satisfaction: float

    @classmethod
    def of(cls, objective: Objective, windows: Sequence[Window]) -> Outcome:
        """Figures of an episode from its windows, those that count."""
        windows = counted(windows)
        arrived, shed, inside, latency_s = (
            sum(getattr(window, name) for window in windows)
            for name in ("arrived", "shed", "inside", "latency_s")
        )
        return cls(
            cost=objective.of_windows(windows),
            tail_ms=tail_of(objective.scenario, windows),
            mean_ms=latency_s / max(arrived - shed, 1.0) / MS,
            slo_satisfaction=inside / max(arrived, 1.0),
        )


class Round(Frozen):
    """One run of dynamic programming."""

    stage: str
    threshold_ms: float  # of the objective `tail`, else 0
    expected: float  # sum over windows, as the lattice had it
    replayed: float  # the same sum in the replay
    cost: float  # of the replayed episode


class Hindsight(Frozen):
    """What was found for one seed."""

    key: str  # digest of everything that the result depends on
    schedule: Schedule
    unit: str  # of costs
    best: Outcome  # of the schedule
    source: str  # what found it
    static_share: float
    static: Outcome  # of the best static share
    free_shares: tuple[float, ...]  # best static share of every window
    free: Outcome  # if every window were taken from the static that is best in it
    jumped: Outcome  # when those shares are played, with moves of any length
    good: tuple[tuple[float, ...], ...]  # by window: shares as good as the schedule's
    grid: tuple[float, ...]  # shares that were held, and tried for `good`
    rounds: tuple[Round, ...]
    simulated: int  # windows


def hindsight(
    scenario: Scenario,
    seed: int,
    objective: str = TAIL,
    search: Search = FULL,
    progress: Progress = lambda stage, done, of: None,
) -> Hindsight:
    """Find the best schedule for one request stream.

    Args:
        scenario: where.
        seed: fixes the request stream, as for policies.
        objective: ``tail`` (P99) or a reward preset.
        search: how hard to look.
        progress: told of every window.
    """
    hunt = Hunt(Objective(objective, scenario), seed, search, progress)
    try:
        hunt.statics()
        hunt.coarse()
        hunt.refine(hunt.plan)
        return hunt.result()
    finally:
        hunt.branches.close()


def improve(
    found: Hindsight,
    scenario: Scenario,
    shares: Sequence[float],
    search: Search = FULL,
    progress: Progress = lambda stage, done, of: None,
) -> Hindsight:
    """Search once more, around the shares of a policy that cost less.

    Args:
        found: what was found so far.
        scenario: where.
        shares: the policy's, (T,) means over nodes.
        search: how hard to look.
        progress: told of every window.
    """
    schedule = found.schedule
    hunt = Hunt(Objective(schedule.objective, scenario), schedule.seed, search, progress)
    try:
        hunt.statics()
        hunt.consider(Plan(schedule.initial_share, schedule.shares), found.source)
        try:
            hunt.refine(Plan(shares[0], tuple(shares)), "around a policy")
        except Unreachable:  # it moves further at a time than a schedule may
            return found
        return hunt.result()
    finally:
        hunt.branches.close()


class Hunt:
    """A search for one seed's schedule; the best one so far is kept."""

    def __init__(self, objective: Objective, seed: int, search: Search, progress: Progress) -> None:
        widest = max(search.step, search.coarse_step / search.hold)
        if widest > search.longest_move + ROUNDING:
            raise ConfigError(
                f"moves of at most {search.longest_move:g} cannot leave a grid whose next share is "
                f"{widest:g} per window away; make the step finer"
            )
        self.objective, self.seed, self.search, self.progress = objective, seed, search, progress
        self.scenario = objective.scenario
        self.branches = Branches(objective, seed)
        episode = self.scenario.episode
        self.grid = share_grid(episode.share_min, episode.share_max, search.step)
        held = search.static_step or search.step
        self.held = share_grid(episode.share_min, episode.share_max, held)
        self.rounds: list[Round] = []
        self.still: dict[float, list[Window]] = {}  # windows of every static share
        self.plan, self.cost, self.source = Plan(0.0, ()), float("inf"), ""
        self.expected = float("inf")  # of the plan: sum over windows, by which ties are broken

    def consider(self, plan: Plan, source: str) -> list[Window]:
        """Replay a schedule, and keep it if it is the best so far."""
        windows = self.branches.follow(plan)
        cost = self.objective.of_windows(windows)
        level = cost == self.cost and summed(self.objective, windows) < self.expected
        if cost < self.cost or level:
            self.plan, self.cost, self.source = plan, cost, source
            if self.objective.name == TAIL:
                self.objective = self.objective.at(cost)
            self.expected = summed(self.objective, windows)
        return windows

    def statics(self) -> None:
        """Try every static share of a grid, and, if it is not the finest, go on near the best."""
        for done, share in enumerate(self.held):
            self._hold(share)
            self.progress("static shares", done + 1, len(self.held))
        stride = round((self.search.static_step or self.search.step) / self.search.step)
        while stride > 1:
            stride = (stride + 1) // 2
            best = self.static_share()
            place = min(range(len(self.grid)), key=lambda at: abs(self.grid[at] - best))
            for at in (place - stride, place + stride):
                if 0 <= at < len(self.grid):
                    self._hold(self.grid[at])

    def static_share(self) -> float:
        """The best share that was held for the whole episode, by the objective of now."""
        return min(self.still, key=lambda share: self.objective.of_windows(self.still[share]))

    def _hold(self, share: float) -> None:
        if share not in self.still:
            begin = share if self.branches.fixed_start is None else self.branches.fixed_start
            plan = Plan(begin, (share,) * self.scenario.episode.steps)
            self.still[share] = self.consider(plan, "static")

    def coarse(self) -> None:
        """Dynamic programming on the whole coarse grid."""
        episode, hold = self.scenario.episode, self.search.hold
        grid = share_grid(episode.share_min, episode.share_max, self.search.coarse_step)
        lengths = [min(hold, episode.steps - at) for at in range(0, episode.steps, hold)]
        for _ in range(self.search.coarse_rounds if self.objective.name == TAIL else 1):
            if not self._round("whole range", [grid] * len(lengths), width=1, lengths=lengths):
                break

    def refine(self, plan: Plan, stage: str = "corridor") -> None:
        """Dynamic programming on the fine grid near a schedule, then near what that finds."""
        for _ in range(self.search.rounds):
            if self.branches.fixed_start is not None:  # statics jump, schedules may not
                plan = reachable(plan, self.branches.fixed_start, self.search.longest_move)
            choices = corridor(plan, self.grid, self.search.radius)
            if not self._round(stage, choices, self.search.width):
                break
            plan = self.plan

    def _round(
        self, stage: str, choices: Choices, width: int, lengths: Sequence[int] | None = None
    ) -> bool:
        """One run of dynamic programming; says whether it gained something."""
        objective, before = self.objective, self.cost
        plan, expected = solve(
            self.branches,
            objective,
            choices,
            longest_move=self.search.longest_move,
            width=width,
            tries=self.search.tries,
            lengths=lengths,
            tick=lambda done, of: self.progress(f"{stage} {len(self.rounds) + 1}", done, of),
        )
        windows = self.consider(plan, stage)
        self.rounds.append(
            Round(
                stage=stage,
                threshold_ms=objective.threshold_ms,
                expected=expected,
                replayed=summed(objective, windows),
                cost=self.objective.of_windows(windows),
            )
        )
        return before - self.cost > self.search.gain * abs(before)

    def result(self) -> Hindsight:
        """Everything about the best schedule."""
        objective, scenario = self.objective, self.scenario
        static = self.static_share()
        steps = range(scenario.episode.steps)
        free = [
            min(
                sorted(self.still),
                key=lambda share: objective.of_window(self.still[share][window].alone),
            )
            for window in steps
        ]
        taken = [self.still[share][window] for window, share in zip(steps, free, strict=True)]
        jumped = self.branches.follow(Plan(free[0], tuple(free)))
        return Hindsight(
            key=key_of(scenario, self.seed, objective.name, self.search),
            schedule=Schedule(
                scenario=scenario.name,
                scenario_digest=scenario.digest(),
                seed=self.seed,
                objective=objective.name,
                initial_share=self.plan.initial_share,
                shares=self.plan.shares,
            ),
            unit=objective.unit,
            best=Outcome.of(objective, self.branches.follow(self.plan)),
            source=self.source,
            static_share=static,
            static=Outcome.of(objective, self.still[static]),
            free_shares=tuple(free),
            free=Outcome.of(objective, taken),
            jumped=Outcome.of(objective, jumped),
            good=self._good(),
            grid=tuple(self.held),
            rounds=tuple(self.rounds),
            simulated=self.branches.steps,
        )

    def _good(self) -> tuple[tuple[float, ...], ...]:
        """Shares that are as good as the schedule's, from the state that it is in by then.

        Each is tried for one window. What it costs later is left out.
        """
        branches, found = self.branches, []
        at = branches.fork(branches.start(self.plan.initial_share))
        for window, own in enumerate(self.plan.shares):
            others = [share for share in self.held if share != own]
            tried = dict(zip(others, branches.tried(at, others), strict=True))
            tried[own] = branches.go(at, own)
            cost = {share: self.objective.of_windows([did.alone]) for share, did in tried.items()}
            bound = cost[own] + GOOD * abs(cost[own])
            found.append(tuple(sorted(share for share in cost if cost[share] <= bound)))
            self.progress("flatness", window + 1, len(self.plan.shares))
        branches.release(at)
        return tuple(found)


def summed(objective: Objective, windows: Sequence[Window]) -> float:
    """Sum of the windows' costs, in the order in which dynamic programming adds them."""
    cost = 0.0
    for window in windows:
        cost += objective.of_window(window)
    return cost


def key_of(scenario: Scenario, seed: int, objective: str, search: Search) -> str:
    """Digest of everything that a result depends on."""
    return digest_of(scenario.digest(), seed, objective, search.digest(), code_digest(__name__))


__all__ = [
    "FAST",
    "FULL",
    "Hindsight",
    "Outcome",
    "Search",
    "hindsight",
    "improve",
]
