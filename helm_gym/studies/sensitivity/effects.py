"""What a variant changes: best shares, capacity, P99, and who is ahead of whom."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations, pairwise
from typing import Any

import numpy as np

from helm_gym.evaluation.tables import FEWEST
from helm_gym.runs.stats import Interval, paired
from helm_gym.studies.sensitivity.measure import BEST
from helm_gym.studies.sensitivity.run import Row, Study

NONE = "–"


@dataclass(frozen=True)
class Effect:
    """One figure that numbers are ranked by, for tornado and tables."""

    title: str
    of: Callable[[Row], float]  # NaN where it does not exist
    scale: str = "linear"  # of its axis


def optimum(row: Row, kind: str) -> dict[str, Any] | None:
    """The best static share at ``relative`` load or at ``fixed`` rates; None if there is none."""
    found = row.found.get(kind)
    return found if found is not None and "best" in found else None


def at_share(found: dict[str, Any], share: float, figure: str = "tail_ms") -> float:
    """Mean of a figure over the tuning seeds, at a share of the grid."""
    (row,) = [row for row in found["grid"] if row["share"] == share]
    return float(np.mean(row[figure]))


def mix_name(mix: dict[str, Any]) -> str:
    """A mix by its surfaces, such as ``search`` or ``feed + search``."""
    return " + ".join(name for name, part in mix["mix"].items() if part > 0.0)


def effects(study: Study) -> list[Effect]:
    """The figures of a study, in the order in which they are drawn."""
    mixes = study.base.found.get("mixes", [])
    found = [
        Effect(f"share of most capacity\n{mix_name(mix)}", partial(mix_of, n=n, what="share"))
        for n, mix in enumerate(mixes)
    ]
    found += [
        Effect("share of least P99\nat the load", partial(best_of, kind="relative")),
        Effect("capacity,\nof the stated", partial(capacity_of, base=study.base), "log"),
        Effect("P99 at the fixed\nrates, ms", partial(tail_of, kind="fixed"), "log"),
        Effect("P99 lost by the\nstated share, %", partial(kept, base=study.base), "symlog"),
    ]
    return found + [
        Effect(
            f"P99 of {spec.partition(':')[0]} less\nbest static's, %",
            partial(advantage_of, spec=spec),
            "symlog",
        )
        for spec in study.specs
        if spec != BEST
    ]


def mix_of(row: Row, n: int, what: str) -> float:
    """``capacity`` or ``share`` of one mix."""
    value = row.found["mixes"][n][what] if "mixes" in row.found else None
    return math.nan if value is None else float(value)


def best_of(row: Row, kind: str) -> float:
    """The share of least P99."""
    found = optimum(row, kind)
    return float(found["best"]) if found else math.nan


def tail_of(row: Row, kind: str, figure: str = "tail_ms") -> float:
    """P99, or another figure, at the share of least P99."""
    found = optimum(row, kind)
    return at_share(found, found["best"], figure) if found else math.nan


def capacity_of(row: Row, base: Row) -> float:
    """Geometric mean over mixes of capacity / capacity as stated."""
    pairs = zip(row.found.get("mixes", []), base.found.get("mixes", []), strict=False)
    ratios = [mine["capacity"] / stated["capacity"] for mine, stated in pairs if stated["capacity"]]
    return float(np.exp(np.mean(np.log(ratios)))) if ratios and min(ratios) > 0.0 else math.nan


def kept(row: Row, base: Row) -> float:
    """How much higher P99 is at the share that is best as stated, %."""
    found, stated = optimum(row, "relative"), optimum(base, "relative")
    if not (found and stated):
        return math.nan
    return 100.0 * (at_share(found, stated["best"]) / at_share(found, found["best"]) - 1.0)


def policy_of(row: Row, spec: str) -> dict[str, Any] | None:
    """A policy's figures, one value per held-out episode."""
    found = optimum(row, "relative")
    return next((p for p in found["policies"] if p["asked"] == spec), None) if found else None


def difference(row: Row, spec: str, other: str) -> Interval:
    """P99 of a policy less another's, seed by seed, ms."""
    mine, theirs = policy_of(row, spec), policy_of(row, other)
    if mine is None or theirs is None:
        return Interval(math.nan, math.nan, math.nan)
    return paired(mine["tail_ms"], theirs["tail_ms"])


def advantage_of(row: Row, spec: str) -> float:
    """P99 of a policy less the best static share's, % of it."""
    theirs = policy_of(row, BEST)
    mean = difference(row, spec, BEST).mean
    return 100.0 * mean / float(np.mean(theirs["tail_ms"])) if theirs else math.nan


def order(row: Row, spec: str, other: str) -> int:
    """-1 if a policy's P99 is shown to be lower, 1 if higher, 0 if neither is."""
    policy = policy_of(row, spec)
    if policy is None or len(policy["tail_ms"]) < FEWEST:
        return 0
    interval = difference(row, spec, other)
    return int(np.sign(interval.mean)) if interval.excludes_zero else 0


def ranking(row: Row, specs: Sequence[str]) -> str:
    """Policies by rising P99; ``<`` where the paired interval excludes zero, else ``≈``."""
    found = {spec: policy_of(row, spec) for spec in specs}
    tails = {spec: float(np.mean(p["tail_ms"])) for spec, p in found.items() if p}
    if not tails:
        return NONE
    by_tail = sorted(tails, key=lambda spec: tails[spec])
    signs = [" < " if order(row, a, b) < 0 else " ≈ " for a, b in pairwise(by_tail)]
    return by_tail[0] + "".join(s + spec for s, spec in zip(signs, by_tail[1:], strict=True))


def ranking_change(row: Row, study: Study) -> str:
    """``reversed``, ``new``, ``lost``, or nothing, compared with the scenario as stated."""
    if not optimum(row, "relative") or not optimum(study.base, "relative"):
        return ""
    pairs = list(combinations(study.specs, 2))
    signs = [(order(study.base, a, b), order(row, a, b)) for a, b in pairs]
    if any(stated * now < 0 for stated, now in signs):
        return "reversed"
    if any(stated and not now for stated, now in signs):
        return "lost"
    return "new" if any(now and not stated for stated, now in signs) else ""


def by_influence(study: Study) -> list[str]:
    """Names of the numbers that change anything, the most influential first."""
    scores: dict[str, float] = {}
    for effect in effects(study):
        stated = _scale(effect, effect.of(study.base))
        swings = [abs(_scale(effect, effect.of(row)) - stated) for row in study.rows[1:]]
        widest = max((x for x in swings if math.isfinite(x)), default=0.0) or 1.0
        by_name: dict[str, float] = {}
        for row, swing in zip(study.rows[1:], swings, strict=True):
            # A figure that ceases to exist has changed more than any that moves.
            part = swing / widest if math.isfinite(swing) else float(math.isfinite(stated))
            name = row.variant.number
            by_name[name] = max(by_name.get(name, 0.0), part)
        for name, part in by_name.items():
            scores[name] = scores.get(name, 0.0) + part
    gone = {row.variant.number for row in study.rows[1:] if not row.same}
    return sorted(gone, key=lambda name: (-scores[name], name))


def _scale(effect: Effect, value: float) -> float:
    return math.log(value) if effect.scale == "log" and value > 0.0 else value
