"""Why heat-managed shards miss Perfect-LFU on real streams: one cause taken away after another.

From the shipped rule to Perfect-LFU: a row per shard and free swaps; then no hysteresis and heat
that counts for ever; then ticks so fine that a row comes in almost at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from helm_gym.fidelity import emb_rows
from helm_gym.fidelity.emb_gaps import LFU_SOURCE, MEASURE, POINTS, TARGET, by_size, plot, worst
from helm_gym.fidelity.emb_rows import HYSTERESIS, SWAPS, TICKS, Rule
from helm_gym.fidelity.emb_streams import LEARNT, ORDERS, PART, Stream
from helm_gym.fidelity.finding import Finding

Floats = NDArray[np.float64]

FINER = 1000  # ticks for one of the shipped rule, on the last rung
FINENESS = (1, 10, 100, FINER)
TICK_S, HALF_LIFE_S = 2.5, 60.0  # defaults of emb.tick_s and emb.heat_half_life_s
HALF_S = TICKS * TICK_S  # what half of a stream stands for
SETTABLE_SHARDS = (1024, 4096, 16384, 65536)  # up to the most that emb.shards takes
DEFAULTS = (TICK_S, SWAPS, HYSTERESIS, HALF_LIFE_S)


@dataclass(frozen=True, eq=False)
class Rung:
    """The hit rates of one rule, in points less Perfect-LFU's, by the order of the rows."""

    name: str
    gaps: dict[str, Floats]
    note: str

    def finding(self, stream: Stream, sizes: tuple[float, ...], **details: object) -> Finding:
        """The rung as a row of the card."""
        by_order = "; ".join(
            f"in {order} {by_size(sizes, gap)}" for order, gap in self.gaps.items()
        )
        return Finding(
            part=PART,
            compared=f"{self.name}, against exact Perfect-LFU of rows: {stream.name}",
            points=sum(gap.size for gap in self.gaps.values()),
            measure=MEASURE,
            value=max(float(np.abs(gap).max()) for gap in self.gaps.values()),
            unit="points",
            source=f"{stream.source}; {LFU_SOURCE}",
            target=TARGET,
            note=f"By cache size: {by_order}. {self.note}",
            details=details,
        )


def findings(
    stream: Stream, sizes: tuple[float, ...], lfu: Floats, shipped: Floats, quick: bool
) -> Iterator[Finding]:
    """Every rung on a real stream, and the closest that settings of a scenario come.

    Args:
        stream: what is looked up.
        sizes: of the cache, as fractions of the table.
        lfu: (sizes,) hit rates of Perfect-LFU, in points.
        shipped: (sizes,) those of the shipped rule, in the order of the first half.
        quick: without the search over settings.
    """
    fine, *counting = (_fine_grain(stream, sizes, lfu), *_counting(stream, sizes, lfu))
    curves = {
        "Perfect-LFU of rows": lfu,
        f"{emb_rows.SHARDS:,} shards": shipped,
        "a row per shard, free swaps": lfu + fine.gaps[LEARNT],
        "and for ever, no hysteresis": lfu + counting[0].gaps[LEARNT],
        f"and {FINER:,} times the ticks": lfu + counting[1].gaps[LEARNT],
    }
    yield fine.finding(stream, sizes, plot=plot(sizes, curves))
    for rung in counting:
        yield rung.finding(stream, sizes)
    if not quick:
        yield _closest(stream, sizes, lfu)


def _fine_grain(stream: Stream, sizes: tuple[float, ...], lfu: Floats) -> Rung:
    keep = 0.5 ** (1.0 / TICKS)
    free = Rule(TICKS, keep, HYSTERESIS, stream.rows)
    gaps = {
        words: POINTS * emb_rows.hit_rates(stream, order(stream), stream.rows, sizes, free) - lfu
        for words, order in ORDERS.items()
    }
    learnt = ORDERS[LEARNT](stream)
    coarse = Rule(10 * TICKS, 1.0, 1.0, stream.rows)
    grain = POINTS * emb_rows.hit_rates(stream, learnt, emb_rows.SHARDS, sizes, coarse) - lfu
    few = Rule(TICKS, keep, HYSTERESIS, SWAPS)
    scarce = POINTS * emb_rows.hit_rates(stream, learnt, stream.rows, sizes, few) - lfu
    return Rung(
        "heat with a row per shard and free swaps",
        gaps,
        f"With {SWAPS} swaps a tick up to {worst(scarce)}: rows come in one by one. The grain "
        f"alone, {emb_rows.SHARDS:,} shards with free swaps, no hysteresis, heat for ever and ten "
        f"times the ticks, in {LEARNT}: {by_size(sizes, grain)}.",
    )


def _counting(stream: Stream, sizes: tuple[float, ...], lfu: Floats) -> Iterator[Rung]:
    orders = {words: order(stream) for words, order in ORDERS.items()}

    def gaps(ticks: int) -> dict[str, Floats]:
        return {
            words: POINTS * emb_rows.counting_hit_rates(stream, order, sizes, ticks) - lfu
            for words, order in orders.items()
        }

    found = {finer: gaps(finer * TICKS) for finer in FINENESS}
    yield Rung(
        "heat that counts for ever, with a row per shard, free swaps and no hysteresis",
        found[1],
        "That is Perfect-LFU but for one thing: what is looked up comes in at the next tick, "
        f"{stream.half / TICKS:,.0f} look-ups later at most. Heat that fades puts first what was "
        "asked for lately, which a count does not.",
    )
    largest = ", ".join(
        f"{finer * TICKS:,}: {max(float(np.abs(g).max()) for g in found[finer].values()):.2f}"
        for finer in FINENESS
    )
    each = emb_rows.counting_hit_rates(stream, orders[LEARNT], sizes, stream.row.size - stream.half)
    yield Rung(
        "heat that counts for ever, with a row per shard, free swaps, no hysteresis and "
        f"{FINER:,} times the ticks",
        found[FINER],
        f"Largest difference by ticks per half: {largest}; with a tick per look-up, in {LEARNT}: "
        f"{float(np.abs(POINTS * each - lfu).max()):.2f}. {FINER * TICKS:,} ticks are one every "
        f"{stream.half / (FINER * TICKS):.2g} look-ups, or {1000 * HALF_S / (FINER * TICKS):.2g} "
        f"ms where a half stands for {HALF_S:g} s.",
    )


# -- what a scenario may set -----------------------------------------------------------------------


class Setting(NamedTuple):
    """Keys of a scenario's ``emb``."""

    shards: int
    tick_s: float
    swaps_per_tick: int
    swap_hysteresis: float
    heat_half_life_s: float

    @property
    def rule(self) -> Rule:
        """With half of a stream for ``HALF_S`` seconds."""
        keep = 0.5 ** (self.tick_s / self.heat_half_life_s)
        ticks = round(HALF_S / self.tick_s)
        return Rule(ticks, keep, self.swap_hysteresis, self.swaps_per_tick)


def settings(rows: int) -> list[Setting]:
    """Numbers of shards; of the rest the default and one end of its range, and free swaps."""
    found = []
    for shards in sorted({min(n, rows) for n in SETTABLE_SHARDS}):
        swaps = (SWAPS, 100, shards)
        rest = ((TICK_S, 0.5), swaps, (HYSTERESIS, 1.0), (HALF_LIFE_S, 600.0))
        found += [Setting(shards, *values) for values in product(*rest)]
    return found


def _closest(stream: Stream, sizes: tuple[float, ...], lfu: Floats) -> Finding:
    order = ORDERS[LEARNT](stream)
    gaps = {
        chosen: POINTS * emb_rows.hit_rates(stream, order, chosen.shards, sizes, chosen.rule) - lfu
        for chosen in settings(stream.rows)
    }
    largest = {chosen: float(np.abs(gap).max()) for chosen, gap in gaps.items()}
    best = min(largest, key=largest.__getitem__)
    near = sum(value <= TARGET for value in largest.values())
    words = ", ".join(f"{key} {value:,g}" for key, value in best._asdict().items())
    plain = {c.shards: gap for c, gap in gaps.items() if c[1:] == DEFAULTS}
    by_shards = ", ".join(f"{shards:,}: {worst(gap)}" for shards, gap in plain.items())
    return Finding(
        part=PART,
        compared="heat-managed shards with the settings of a scenario that come closest, in "
        f"{LEARNT}, against exact Perfect-LFU of rows: {stream.name}",
        points=gaps[best].size,
        measure=MEASURE,
        value=largest[best],
        unit="points",
        source=f"{stream.source}; {LFU_SOURCE}",
        note=f"Of {len(gaps)} settings, {near} within {TARGET:g} point, this one is the closest: "
        f"{words}. By cache size: {by_size(sizes, gaps[best])}. It was chosen with the answer at "
        "hand, and copies take no time here. The largest difference by shards, with the other "
        f"defaults: {by_shards}.",
    )
