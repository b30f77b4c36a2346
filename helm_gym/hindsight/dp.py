"""Dynamic programming over EMB shares, with the cost of every step simulated from a state.

What a window costs depends on more than the share in force: caches fill for some windows after a
move, and queues carry over. So this is a lattice rather than a table: for every decision and share
it keeps the ``width`` best ways to get there, each with its own simulated state, at first the best
one from each share of the decision before and then whatever else is cheapest. With ``width=1`` it
is dynamic programming on the share alone; with no limit it is exhaustive.

Three things save simulation. A full fine grid is wasteful, since a coarse one already tells where
the schedule runs: choices are given decision by decision, and :func:`corridor` makes them from an
earlier schedule (discrete differential dynamic programming: Heidari, Chow, Kokotovic and Meredith,
Water Resources Research 7(2), 1971). A coarse decision may last several windows. And a branch ends
as soon as it costs so much that it would not be kept (branch and bound: Land and Doig, Econometrica
28(3), 1960), which changes no result; so the cheapest ways go first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import copysign, inf

from helm_gym.envs.action import ROUNDING
from helm_gym.errors import ConfigError
from helm_gym.hindsight.branches import Branches, Plan, Stand
from helm_gym.hindsight.objective import Objective

Choices = Sequence[Sequence[float]]
Tick = Callable[[int, int], None]  # decisions done, of how many
DIGITS = 4  # to which shares are rounded, as those of a grid are


class Unreachable(ConfigError):
    """No allowed move leads from the shares of one decision to those of the next."""


@dataclass(frozen=True)
class Way:
    """The cheapest known way to some share and state: the last of its decisions, and the rest."""

    cost: float  # so far
    shares: tuple[float, ...]  # asked for since `before`; of the warm start at the beginning
    before: Way | None


@dataclass(frozen=True)
class Arrival:
    """A way, and the state that it leads to."""

    way: Way
    stand: Stand
    origin: float  # share in force before its last decision


def solve(
    branches: Branches,
    objective: Objective,
    choices: Choices,
    *,
    longest_move: float,
    width: int = 1,
    lengths: Sequence[int] | None = None,
    starts: Sequence[float] | None = None,
    tries: int | None = None,
    tick: Tick = lambda done, of: None,
) -> tuple[Plan, float]:
    """Find the schedule with the lowest cost.

    Args:
        branches: the request stream.
        objective: what a window costs.
        choices: shares that each decision chooses from.
        longest_move: between two windows.
        width: ways kept for every decision and share.
        lengths: windows that each decision lasts, one by default. The share moves as far as it may
            in each of them until it is where the decision wants it.
        starts: shares that the cluster may be warmed up with; the first decision's by default. It
            does not count where the episode says at which share everybody begins.
        tries: ways that each share is tried from, the cheapest first; by default all.
        tick: called after every decision.

    Returns:
        The schedule, and what its windows cost together.

    Raises:
        Unreachable: no choice of some decision can be reached from those of the one before.
    """
    begin = choices[0] if starts is None else starts
    if branches.fixed_start is not None:
        begin = [branches.fixed_start]
    front = [Arrival(Way(0.0, (share,), None), branches.start(share), share) for share in begin]
    for place, shares in enumerate(choices):
        windows = 1 if lengths is None else lengths[place]
        decision = Decision(branches, objective, windows, longest_move, width, tries)
        front = decision.take(front, shares, owned=place > 0)
        if not front:
            raise Unreachable(
                f"no share of window {place} lies within {windows * longest_move:g} of one "
                "before; allow longer moves, or a finer step"
            )
        tick(place + 1, len(choices))
    best = min((each.way for each in front), key=lambda way: way.cost)
    for each in front:
        branches.release(each.stand)
    return _plan(best), best.cost


class Decision:
    """One column of the lattice: all that may be decided at one time.

    Args:
        branches: the request stream.
        objective: what a window costs.
        windows: how many it lasts.
        longest_move: between two windows.
        width: ways kept for every share.
        tries: ways that each share is tried from; all if None.
    """

    def __init__(
        self,
        branches: Branches,
        objective: Objective,
        windows: int,
        longest_move: float,
        width: int,
        tries: int | None,
    ) -> None:
        self.branches, self.objective, self.width, self.tries = branches, objective, width, tries
        self.windows, self.longest_move = windows, longest_move

    def take(
        self, front: Sequence[Arrival], shares: Sequence[float], *, owned: bool = True
    ) -> list[Arrival]:
        """The ways to keep for every share.

        Args:
            front: ways that were kept before.
            shares: what may be asked for.
            owned: whether the states of ``front`` may be played on in, and given back; else they
                stay as they are.
        """
        front = sorted(front, key=lambda each: each.way.cost)
        # Which branch is the last of its parent is known only if all are.
        ahead: list[list[float]] = [[] for _ in front]
        for share in shares:
            near = [place for place, each in enumerate(front) if self._reaches(each, share)]
            for place in near[: self.tries]:
                ahead[place].append(share)
        for each, targets in zip(front, ahead, strict=True):
            if owned and not targets:
                self.branches.release(each.stand)
        found: list[Arrival] = []
        for share in shares:
            kept: list[Arrival] = []
            for each, targets in zip(front, ahead, strict=True):
                if share in targets:
                    last = owned and share == targets[-1]
                    kept = self._extend(kept, each, share, last=last)
            found += kept
        return found

    def _reaches(self, start: Arrival, share: float) -> bool:
        return abs(start.stand.share - share) <= self.windows * self.longest_move + ROUNDING

    def _extend(
        self, kept: list[Arrival], start: Arrival, share: float, *, last: bool
    ) -> list[Arrival]:
        """Go on to a share, and keep that if it is among the best ways to get there."""
        bound = self._bound(kept)
        if self._at_least(start.way.cost, self.windows) >= bound:
            if last:
                self.branches.release(start.stand)
            return kept
        origin = start.stand.share
        stand = start.stand if last else self.branches.fork(start.stand)
        cost, path = start.way.cost, approach(origin, share, self.windows, self.longest_move)
        for done, target in enumerate(path, start=1):
            cost += self.objective.of_window(self.branches.go(stand, target))
            if self._at_least(cost, self.windows - done) >= bound:
                self.branches.release(stand)
                return kept
        arrivals = choose([*kept, Arrival(Way(cost, path, start.way), stand, origin)])
        for each in arrivals[self.width :]:
            self.branches.release(each.stand)
        return arrivals[: self.width]

    def _at_least(self, cost: float, windows: int) -> float:
        """What a way has cost by the time when it has gone on for some windows."""
        return cost + windows * self.objective.least if windows else cost

    def _bound(self, kept: Sequence[Arrival]) -> float:
        """What costs no less is not kept, if each of ``kept`` is the best of its origin."""
        full = len({each.origin for each in kept}) == self.width
        return kept[-1].way.cost if full else inf


def approach(share: float, target: float, windows: int, longest_move: float) -> tuple[float, ...]:
    """What to ask for, window by window, to be at ``target`` as soon as moves allow."""
    path = []
    for _ in range(windows):
        gap = target - share
        far = abs(gap) > longest_move + ROUNDING
        share = round(share + copysign(longest_move, gap), DIGITS) if far else target
        path.append(share)
    return tuple(path)


def choose(arrived: Sequence[Arrival]) -> list[Arrival]:
    """The best way from each share, cheapest first, then the others, cheapest first."""
    leaders: list[Arrival] = []
    others: list[Arrival] = []
    known: set[float] = set()
    for each in sorted(arrived, key=lambda each: each.way.cost):
        (others if each.origin in known else leaders).append(each)
        known.add(each.origin)
    return [*leaders, *others]


def _plan(way: Way) -> Plan:
    """Go back to the beginning."""
    shares: list[float] = []
    while way.before is not None:
        shares[:0] = way.shares
        way = way.before
    return Plan(way.shares[0], tuple(shares))


def reachable(plan: Plan, start: float, longest_move: float) -> Plan:
    """The schedule that follows another one as closely as moves from ``start`` on allow."""
    share, shares = start, []
    for wanted in plan.shares:
        (share,) = approach(share, wanted, 1, longest_move)
        shares.append(share)
    return Plan(start, tuple(shares))


def corridor(plan: Plan, grid: Sequence[float], radius: float) -> Choices:
    """Shares of a grid that lie within ``radius`` of a schedule, window by window."""
    return [
        [share for share in grid if abs(share - middle) <= radius + ROUNDING]
        for middle in plan.shares
    ]
