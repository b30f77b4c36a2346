"""One cell, load and router: what each policy did there, and what there was to be won.

Everything is made from rows of a benchmark and from what replays of schedules cost, by seed. A row
that is missing or failed is a NaN, and what rests on it is absent with a reason.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from helm_gym.baselines.static import share_grid
from helm_gym.benchmark.arrange import Row, Setting
from helm_gym.benchmark.gap import Absent, Figure, Gap, Why, cheapest, per_ms
from helm_gym.benchmark.interpolated import Capacity, capacity
from helm_gym.benchmark.rows import OK
from helm_gym.errors import ConfigError
from helm_gym.runs.stats import Interval, ratio

Floats = NDArray[np.float64]

TAIL, WINDOW_TAIL = "tail_ms", "window_tail_ms"
JUDGED = (TAIL, WINDOW_TAIL)
"""Figures for which the gap is given: the second has no cliff at the edge."""
SHARES = tuple(share_grid(0.1, 0.9))
STATIC = "static:"


@dataclass(frozen=True)
class Contest:
    """One figure of everybody in one setting; less is better."""

    setting: Setting
    figure: str
    seeds: tuple[int, ...]  # that anybody was played on, rising
    values: Mapping[str, Floats]  # policy -> (n,) by seed; NaN where it was not played or failed
    elsewhere: frozenset[str] = frozenset()  # policies that bring a router of their own

    def of(self, policy: str) -> Floats:
        """A policy's figure by seed.

        Raises:
            ConfigError: it has no row here.
        """
        if policy not in self.values:
            raise ConfigError(
                f"no row is of {policy!r} in {self.setting.cell} at load {self.setting.load:g} "
                f"under {self.setting.router}; run helm-gym bench with it as well"
            )
        return self.values[policy]

    def ratio(self, policy: str, reference: str) -> Interval:
        """Ratio of two policies' seed means: of P99s, or of SLO satisfactions."""
        return ratio(self.of(policy).tolist(), self.of(reference).tolist())

    def best_static(self, shares: Sequence[float] = SHARES) -> str | Absent:
        """The static share with the least mean over the evaluation seeds; the lowest of several.

        It is chosen on the very seeds that it is judged on, which flatters it, as it should.

        Args:
            shares: all that have to be played; a share that was left out could be the best.
        """
        played = {share: self._static(share) for share in sorted(shares)}
        missing = [share for share, own in played.items() if not np.isfinite(own).all()]
        if missing:
            named = ", ".join(f"{share:g}" for share in missing)
            return Absent(Why.NOT_PLAYED, f"static shares {named}")
        return name_of(min(played, key=lambda share: float(played[share].mean())))

    def _static(self, share: float) -> Floats:
        return self.values.get(name_of(share), np.full(len(self.seeds), math.nan))


def name_of(share: float) -> str:
    """Policy that holds a share."""
    return f"{STATIC}{share:g}"


def contests(rows: Sequence[Row], figure: str) -> dict[Setting, Contest]:
    """Arrange one figure of all rows by setting.

    Args:
        rows: what a benchmark wrote, such as :func:`~helm_gym.benchmark.arrange.load_rows` gives.
        figure: a column.

    Raises:
        ConfigError: the rows do not have it, or one run is there twice with two values.
    """
    found: dict[Setting, dict[tuple[str, int], float]] = {}
    elsewhere: dict[Setting, set[str]] = {}
    for row in rows:
        if figure not in row:
            raise ConfigError(f"rows have no column {figure!r}; run them again with helm-gym bench")
        setting = Setting(row["cell"], float(row["load"]), row["router"])
        value = row[figure] if row["status"] == OK and row[figure] is not None else math.nan
        key, runs = (str(row["policy"]), int(row["seed"])), found.setdefault(setting, {})
        known = runs.setdefault(key, float(value))
        if not (known == value or (math.isnan(known) and math.isnan(value))):
            raise ConfigError(
                f"two rows of {key[0]} on seed {key[1]} in {setting.cell} have {figure} {known} "
                f"and {value}; keep the rows of one of the two benchmarks"
            )
        if row.get("own_router") not in (None, setting.router):
            elsewhere.setdefault(setting, set()).add(key[0])
    return {
        setting: _contest(setting, figure, found[setting], elsewhere.get(setting, set()))
        for setting in sorted(found)
    }


def _contest(
    setting: Setting, figure: str, runs: Mapping[tuple[str, int], float], elsewhere: set[str]
) -> Contest:
    seeds = tuple(sorted({seed for _, seed in runs}))
    values = {
        policy: np.array([runs.get((policy, seed), math.nan) for seed in seeds])
        for policy in sorted({policy for policy, _ in runs})
    }
    return Contest(setting, figure, seeds, values, frozenset(elsewhere))


@dataclass(frozen=True)
class Prize:
    """What there is to be won in a contest, on the seeds whose schedule is known."""

    contest: Contest
    static: str  # what stands for doing nothing
    seeds: tuple[int, ...]  # with a schedule
    gap: Gap

    def closed(self, policy: str) -> Figure:
        """The part of the gap that a policy closes."""
        return self.gap.closed(_on(self.contest, policy, self.seeds))


def prize(
    contest: Contest, replays: Mapping[int, float], loss: float, static: str | None = None
) -> Prize | Absent:
    """Put the static share and the schedule beside each other.

    The schedule of a seed is the cheapest known replay: the search's, or that of a policy which
    did better under the same router, the one that is judged included.

    Args:
        contest: what one figure is compared in.
        replays: by seed, the same figure of the search's schedule when it is played.
        loss: see :class:`~helm_gym.benchmark.gap.Gap`.
        static: policy that stands for doing nothing; the best of 17 static shares by default.
    """
    chosen = contest.best_static() if static is None else static
    if isinstance(chosen, Absent):
        return chosen
    seeds = tuple(seed for seed in contest.seeds if math.isfinite(replays.get(seed, math.nan)))
    still = _on(contest, chosen, seeds)
    if not np.isfinite(still).all():
        return Absent(Why.NOT_PLAYED, f"{chosen} has no figure on every seed")
    rivals = [
        _on(contest, policy, seeds) for policy in contest.values if policy not in contest.elsewhere
    ]
    searched = np.array([replays[seed] for seed in seeds], np.float64)
    return Prize(contest, chosen, seeds, Gap(still, cheapest([searched, *rivals]), loss))


def _on(contest: Contest, policy: str, seeds: Sequence[int]) -> Floats:
    """A policy's figure on some of the seeds."""
    by_seed = dict(zip(contest.seeds, contest.of(policy).tolist(), strict=True))
    return np.array([by_seed[seed] for seed in seeds], np.float64)


def price(tails: Contest, paid: Contest, policy: str, static: str) -> Figure:
    """What a policy spends beyond a static share, per ms of P99 that it is below it.

    Args:
        tails: what P99 is compared in.
        paid: what ``refill_gb``, ``moved_gb`` or ``moves``, is compared in, in the same setting.
        policy: who is asked about.
        static: the best static share.
    """
    if (tails.setting, tails.seeds) != (paid.setting, paid.seeds):
        raise ConfigError("a price needs both figures of the same setting and seeds")
    spent, won = paid.of(policy) - paid.of(static), tails.of(static) - tails.of(policy)
    if not (np.isfinite(spent) & np.isfinite(won)).all():
        return Absent(Why.NOT_PLAYED, f"{policy} or {static} has no figure on every seed")
    return per_ms(spent.tolist(), won.tolist())


def capacity_of(
    found: Mapping[Setting, Contest], cell: str, router: str, policy: str, slo_ms: float
) -> Capacity | Absent:
    """The highest load that a policy carries in a cell, from the loads that were played.

    Args:
        found: contests of ``tail_ms``.
        cell: name.
        router: name.
        policy: spec as asked for.
        slo_ms: column of the rows.

    Raises:
        ConfigError: nothing was played there.
    """
    here = [
        one for one in found.values() if (one.setting.cell, one.setting.router) == (cell, router)
    ]
    if not here:
        raise ConfigError(f"no row is of cell {cell!r} under router {router!r}")
    seeds = sorted({seed for one in here for seed in one.seeds})
    tails = [
        [dict(zip(one.seeds, one.of(policy), strict=True)).get(seed, math.nan) for seed in seeds]
        for one in here
    ]
    return capacity(np.array([one.setting.load for one in here]), np.array(tails), slo_ms)
