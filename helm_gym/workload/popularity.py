"""Which shards a group of users looks up, and how often."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from helm_gym.config.workload import Crowd, Popularity
from helm_gym.errors import ConfigError

HOTTEST = 20  # shards that HELM's score looks at


def shard_mass(law: Popularity, shards: int) -> NDArray[np.float64]:
    """Look-up probability of each shard when rows lie in the table in order of popularity.

    Args:
        law: Zipf-Mandelbrot law over ``catalogue_items`` ranks.
        shards: equal runs of ranks.

    Returns:
        (shards,) probabilities, falling, summing to 1.
    """
    items = int(law.catalogue_items.value)
    if items < shards:
        raise ConfigError(
            f"popularity.catalogue_items is {items}, fewer than emb.shards {shards}; "
            f"set emb.shards to at most {items}"
        )
    return _mass(items, law.shift_items.value, law.exponent.value, shards)


@lru_cache(maxsize=8)  # millions of powers, asked for twice by every simulator
def _mass(items: int, shift: float, exponent: float, shards: int) -> NDArray[np.float64]:
    ranks = np.arange(1, items + 1, dtype=np.float64)
    starts = np.linspace(0, items, shards, endpoint=False).astype(np.int64)
    totals = np.add.reduceat((ranks + shift) ** -exponent, starts)
    mass = np.asarray(totals / totals.sum())
    mass.setflags(write=False)  # every caller gets this one
    return mass


def _ranking(
    mass: NDArray[np.float64], spread: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Reorder ``mass`` by jittering the log of the ranks: tastes differ, the law stays."""
    jitter = np.log(np.arange(1, mass.size + 1)) + spread * rng.standard_normal(mass.size)
    reordered = np.empty_like(mass)
    reordered[np.argsort(jitter)] = mass
    return reordered


def group_weights(
    law: Popularity, shards: int, rng: np.random.Generator, crowd: Crowd
) -> NDArray[np.float64]:
    """Look-up probabilities of every interest group, the last row being the burst's.

    Args:
        law: how popular items are.
        shards: equal runs of ranks.
        rng: draws the groups' rankings and the burst's hot shards.
        crowd: how narrow the interest in hot items is.

    Returns:
        (groups + 1, shards); every row sums to 1.
    """
    mass = shard_mass(law, shards)
    own, spread = law.own_interest_share.value, law.interest_spread.value
    rows = [
        own * _ranking(mass, spread, rng) + (1.0 - own) * mass
        for _ in range(int(law.interest_groups.value))
    ]
    hot, focus = np.zeros(shards), crowd.hot_focus.value
    n_hot = max(1, int(crowd.hot_shards.value * shards))
    chosen = rng.choice(np.arange(shards // 4, shards), n_hot, False)
    hot[chosen] = 1.0 / chosen.size
    rows.append(focus * hot + (1.0 - focus) * mass)
    return np.stack(rows)


def readout_weights(
    now: NDArray[np.float64], later: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Lay group weights out for the kernels.

    Args:
        now: (G, S) probabilities at time 0.
        later: (G, S) probabilities that drift leads to.

    Returns:
        (3, S, G) weights now, later and of the hottest shards; (2, G, S) the first two again.
    """
    hottest = np.zeros_like(now)
    top = min(HOTTEST, now.shape[1])
    order = np.argsort(-now, axis=1, kind="stable")[:, :top]
    np.put_along_axis(hottest, order, 1.0 / top, axis=1)
    by_group = np.stack([now, later])
    # float32 halves what the tick reads; the hit rates use the same rounded numbers
    by_group = by_group.astype(np.float32)
    weights = np.stack([by_group[0].T, by_group[1].T, hottest.T]).astype(np.float64)
    return np.ascontiguousarray(weights), np.ascontiguousarray(by_group)
