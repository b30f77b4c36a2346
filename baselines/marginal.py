"""Marginal-utility rules: give the next byte to the cache that would gain most from it.

The papers watch a shadow queue (keys of what was evicted last) behind every cache. The simulator
reports what such queues tell, already in seconds of work: ``marginal_kv`` from a ghost of
``kv.ghost_gb`` behind each node's KV LRU, ``marginal_emb`` from the heat of the hottest shards
without a page. docs/baselines.md says what memory the two take.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from helm_gym.baselines.rule import CONTROLS, Finite, Fraction, Grid, Positive, Rule
from helm_gym.envs.reading import SMALL, Floats, Signals


@dataclass(kw_only=True)
class Cliffhanger(Rule):
    """Shadow credits: what is gained behind one cache is taken from the other.

    Cidon et al., "Cliffhanger: Scaling Performance Cliffs in Web Memory Caches", NSDI 2016: a hit
    in a cache's shadow queue credits that cache and debits another one, so that sizes drift until
    marginal hits are equal. Adapted: a hit counts with the seconds it would have saved, credits of
    a window are paid out at once, and the paper's second mechanism (splitting a queue to get past
    a cliff) is left out, because our caches cannot be split.

    Args:
        credit: share per second saved per second.
        bias: s/s at which EMB may gain less and still keep its memory.
    """

    NAME: ClassVar[str] = "cliffhanger"
    SEARCH: ClassVar[Grid] = {
        "credit": (2.0, 4.0, 8.0, 16.0),
        "bias": (-0.005, 0.0, 0.005),
        "control": CONTROLS,
    }

    credit: Positive = 8.0
    bias: Finite = 0.0

    def target(self, seen: Signals) -> Floats:
        """Pay the difference of the marginal values out as memory."""
        return np.asarray(
            seen.share + self.credit * (seen.marginal_emb - seen.marginal_kv + self.bias)
        )


@dataclass(kw_only=True)
class MarginalHits(Rule):
    """CacheLib's MarginalHits: one slab from the lowest smoothed rank to the highest.

    CacheLib (Berg et al., OSDI 2020; ``MarginalHitsStrategy``) ranks pools by the hits in the tail
    of their LRU, smooths the *ranks* (0.3 of the old one stays) and moves a slab from the lowest to
    the highest. Adapted: the ghosts stand for tail hits. A ghost tells what more memory would gain,
    a tail what less would lose, which is the same only where the curve is smooth.

    Args:
        slab: share per decision.
        keep: what stays of the smoothed rank; CacheLib's 0.3.
        rest: smoothed ranks closer than this are equal.
    """

    NAME: ClassVar[str] = "marginal-hits"
    SEARCH: ClassVar[Grid] = {
        "slab": (0.01, 0.02, 0.04, 0.06),
        "keep": (0.3, 0.6, 0.8),
        "control": CONTROLS,
    }

    slab: Fraction = 0.04
    keep: Fraction = 0.3
    rest: Fraction = 0.1
    _rank: Floats = field(init=False, repr=False)  # (R,) smoothed: 1 EMB first, -1 KV first

    def begin(self, seen: Signals) -> None:
        """Both rank alike."""
        self._rank = np.zeros(self._rows)

    def target(self, seen: Signals) -> Floats:
        """Move one slab."""
        first = np.sign(seen.marginal_emb - seen.marginal_kv)
        self._rank = self.keep * self._rank + (1.0 - self.keep) * first
        return np.asarray(
            seen.share + self.slab * np.sign(self._rank) * (np.abs(self._rank) > self.rest)
        )


@dataclass(kw_only=True)
class HitsPerSlab(Rule):
    """CacheLib's HitsPerSlab: memory to the cache whose memory hits more, on average.

    CacheLib (``HitsPerSlabStrategy``): the victim has the fewest hits per slab, the receiver the
    most; a slab moves if the gap exceeds 100 hits and 10 % of the victim's. Adapted: hits are rates
    (of bytes for EMB, of requests for KV) over the share that earns them, so the absolute gap is
    one of rates, and ``weight`` says what an EMB hit is worth in KV hits. An average is not a
    marginal: the rule starves a cache whose first half does all the work, here as there.

    Args:
        slab: share per decision.
        weight: worth of EMB's hit rate in KV's.
        gap: smallest difference in weighted hit rate per unit of share.
        ratio: smallest difference relative to the poorer side's.
    """

    NAME: ClassVar[str] = "hits-per-slab"
    SEARCH: ClassVar[Grid] = {
        "slab": (0.02, 0.06),
        "weight": (0.05, 0.1, 0.15, 0.25, 0.5),
        "control": CONTROLS,
    }

    slab: Fraction = 0.02
    weight: Positive = 0.25
    gap: Fraction = 0.1
    ratio: Fraction = 0.1

    def target(self, seen: Signals) -> Floats:
        """Move one slab to the side that hits more per slab."""
        emb = self.weight * seen.emb_hit / np.maximum(seen.share, SMALL)
        kv = seen.kv_hit / np.maximum(1.0 - seen.share, SMALL)
        enough = np.abs(emb - kv) > np.maximum(self.gap, self.ratio * np.minimum(emb, kv))
        return np.asarray(seen.share + self.slab * np.sign(emb - kv) * enough)


@dataclass(kw_only=True)
class TailAge(Rule):
    """CacheLib's LruTailAge: equal ages at the two LRU ends.

    CacheLib (``LruTailAgeStrategy``): memory goes from the pool whose evicted items are oldest to
    the one whose are youngest, if they differ by a quarter. No observation has an age. By Little's
    law what is evicted has been inside for occupancy / insertion rate, which observations give up
    to a factor per cache: share / link utilisation for EMB (the link carries what is inserted), and
    (1 - share) / (rate * KV miss rate * history) for KV. ``exchange`` is the ratio of the two
    factors. Residence is not idle age, and EMB leaves by heat, not by age. For the real rule the
    simulator would have to report the time since last use of the KV entry at each LRU's end.

    Args:
        slab: share per decision.
        exchange: ratio of the factors, KV's over EMB's: miss bandwidth over KV bytes of nominal
            requests/s of the longest history, 0.07 on ``taobao-shift``. The default is what served
            best there: equal residence is not equal worth.
        ratio: difference, relative to the older, below which nothing moves; CacheLib's 0.25.
    """

    NAME: ClassVar[str] = "tail-age"
    SEARCH: ClassVar[Grid] = {
        "slab": (0.02, 0.06),
        "exchange": (0.07, 0.14, 0.2, 0.28, 0.4),
        "control": CONTROLS,
    }

    slab: Fraction = 0.06
    exchange: Positive = 0.28
    ratio: Fraction = 0.25

    def target(self, seen: Signals) -> Floats:
        """Move one slab to the side that evicts younger content."""
        emb = seen.share / np.maximum(seen.link, SMALL)
        inserted = seen.rate * (1.0 - seen.kv_hit) * seen.tokens
        kv = self.exchange * (1.0 - seen.share) / np.maximum(inserted, SMALL)
        enough = np.abs(kv - emb) > self.ratio * np.maximum(kv, emb)
        return np.asarray(seen.share + self.slab * np.sign(kv - emb) * enough)


@dataclass(kw_only=True)
class RobinHood(Rule):
    """Tax both caches, and give the pot to the one that blocks the tail.

    Berger et al., "RobinHood: Tail Latency-Aware Caching", OSDI 2018: every 5 s each cache pays 1 %
    of its memory, and the pot is shared out by how often a backend was the slowest part of a
    request near the P99. Adapted: observations name no single requests. A stage's part in a tail
    request is estimated as its service and wait, u + u^2 / (2 (1 - u)) per unit of rate
    (Pollaczek-Khinchine with constant service), plus the queue it is left with; the count of
    slowest parts becomes a soft one, the parts to the power ``sharp``. EMB misses block on the
    link, KV misses on the GPU.

    Args:
        tax: fraction that each cache pays per decision.
        sharp: 1 shares the pot in proportion, more gives it to the slower stage.
    """

    NAME: ClassVar[str] = "robinhood"
    SEARCH: ClassVar[Grid] = {
        "tax": (0.01, 0.06, 0.12, 0.24),
        "sharp": (1.0, 2.0, 4.0),
        "control": CONTROLS,
    }

    tax: Fraction = 0.01
    sharp: Positive = 4.0

    def target(self, seen: Signals) -> Floats:
        """Pay the tax and get the part of the pot."""
        link = self._part(seen.link, seen.link_delay) ** self.sharp
        gpu = self._part(seen.gpu, seen.gpu_delay) ** self.sharp
        blocks = link / np.maximum(link + gpu, np.finfo(np.float64).tiny)
        blocks = np.where(link + gpu > 0.0, blocks, seen.share)  # nothing ran: nothing changes
        return np.asarray(seen.share + self.tax * (blocks - seen.share))

    def _part(self, utilisation: Floats, delay: Floats) -> Floats:
        spare = np.maximum(1.0 - utilisation, 0.05)  # a saturated stage waits longest, not for ever
        return np.asarray(utilisation * (1.0 + utilisation / (2.0 * spare)) + delay)
