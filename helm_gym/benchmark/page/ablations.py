"""Which part of a result comes from where: by condition, by router against split, by search.

Nothing is run for these tables: the runs of a benchmark are grouped anew. Scores are ratios of P99
on the same requests, as everywhere on the page; below 1 is better.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

from helm_gym.benchmark.arrange import Benchmark, Setting
from helm_gym.benchmark.plan import SEARCH
from helm_gym.pages.table import Table, number, words
from helm_gym.runs.stats import iqm
from helm_gym.suites.courses import REGIMES
from helm_gym.suites.moving import DATASETS, ROUTERS, name_of

Floats = NDArray[np.float64]
_SUITE = {name_of(d, r, ROUTERS[0]): (d, r) for d, r in product(DATASETS, REGIMES)}


def by_condition(benchmark: Benchmark, policies: Sequence[str]) -> Table | None:
    """Scores inside every regime, data set, load and router; None if there is only one of each.

    Args:
        benchmark: its runs.
        policies: in the order of the table.
    """
    conditions = list(_conditions(benchmark))
    if not conditions:
        return None
    rows = []
    for policy in policies:
        kept = [_kept(benchmark, benchmark.scores[policy], holds) for _, holds in conditions]
        rows.append([words(policy), *(number(iqm(cells)) for cells in kept)])
    return Table("conditions", ("policy", *(name for name, _ in conditions)), rows)


def router_and_split(benchmark: Benchmark, policies: Sequence[str]) -> Table | None:
    """The router alone, the split alone, and both; None unless every cell has two routers.

    Everything is compared with the reference's split under the first router. "Router alone" is
    the reference's split under the second one, "split alone" the policy under the first.

    Args:
        benchmark: its runs.
        policies: in the order of the table.
    """
    routers = sorted({setting.router for those in benchmark.settings.values() for setting in those})
    if len(routers) != 2 or any(len(those) % 2 for those in benchmark.settings.values()):
        return None
    first, second = _better_first(benchmark, routers)
    base = _under(benchmark, benchmark.reference, second)
    rows = []
    for policy in policies:
        alone, both = (_under(benchmark, policy, router) for router in (second, first))
        rows.append(
            [
                words(policy),
                *(number(iqm(_over(those, base))) for those in (alone, both)),
                number(iqm(_over(both, alone))),
            ]
        )
    headings = (
        "policy", f"split alone, {second}", f"split and {first}", f"{first} / {second}, same split",
    )  # fmt: skip
    return Table("routers", headings, rows)


def search_gains(benchmark: Benchmark) -> Table | None:
    """What a search adds: ``NAME:best`` over ``NAME``; None if no policy was run both ways.

    Args:
        benchmark: its runs.
    """
    rows = []
    for policy in benchmark.policies:
        searched = f"{policy}{SEARCH}"
        if searched in benchmark.policies:
            found, plain = benchmark.scores[searched], benchmark.scores[policy]
            gain = iqm([a / b for a, b in zip(found, plain, strict=True)])
            rows.append([words(policy), number(iqm(plain)), number(iqm(found)), number(gain)])
    headings = ("policy", "as it is", "after its search", "search / as it is")
    return Table("searches", headings, rows) if rows else None


def _conditions(benchmark: Benchmark) -> Iterator[tuple[str, Callable[[Setting], bool]]]:
    """Name of every condition and the test for it, of those in which runs differ."""
    settings = [setting for those in benchmark.settings.values() for setting in those]
    asked: tuple[Callable[[Setting], str], ...] = (
        lambda setting: _SUITE.get(setting.cell, ("", ""))[1],
        lambda setting: _SUITE.get(setting.cell, ("", ""))[0],
        lambda setting: f"load {setting.load:g}",
        lambda setting: setting.router,
    )
    for ask in asked:
        levels = list(dict.fromkeys(filter(None, map(ask, settings))))
        for level in levels if len(levels) > 1 else ():
            yield level, lambda setting, ask=ask, level=level: ask(setting) == level  # type: ignore[misc]


def _kept(
    benchmark: Benchmark, scores: Sequence[Floats], holds: Callable[[Setting], bool]
) -> list[Floats]:
    """Scores of the settings for which a condition holds, cell by cell."""
    kept = []
    for cell, those in zip(benchmark.settings.values(), scores, strict=True):
        chosen = [place for place, setting in enumerate(cell) if holds(setting)]
        if chosen:
            kept.append(those[chosen])
    return kept


def _better_first(benchmark: Benchmark, routers: Sequence[str]) -> tuple[str, str]:
    """The two routers, first the one under which the reference's P99 is lower."""
    one, two = (_under(benchmark, benchmark.reference, router) for router in routers)
    if iqm(_over(one, two)).mean <= 1.0:
        return routers[0], routers[1]
    return routers[1], routers[0]


def _under(benchmark: Benchmark, policy: str, router: str) -> list[Floats]:
    """P99 of a policy under one router, cell by cell."""
    values = benchmark.values(policy, benchmark.figure)
    return _kept(benchmark, values, lambda setting: setting.router == router)


def _over(top: Sequence[Floats], base: Sequence[Floats]) -> list[Floats]:
    return [a / b for a, b in zip(top, base, strict=True)]
