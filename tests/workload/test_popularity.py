"""Which shards are looked up: the Zipf-Mandelbrot law, interest groups, what drift leads to."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from small import small_scenario

from helm_gym.config.workload import Burst, Popularity
from helm_gym.errors import ConfigError
from helm_gym.sim.lowering import lower
from helm_gym.workload.popularity import (
    HOTTEST,
    group_weights,
    readout_weights,
    shard_mass,
)


def law(**changes: float) -> Popularity:
    numbers = {
        "catalogue_items": 1200,
        "exponent": 0.9,
        "shift_items": 15,
        "own_interest_share": 0.5,
        "interest_spread": 1.0,
        "interest_groups": 6,
    }
    return Popularity.parse({**numbers, **changes}, "popularity")


@pytest.mark.parametrize("shards", [2, 40, 97, 1200])
@pytest.mark.parametrize(("exponent", "shift"), [(0.9, 15), (1.55, 1217), (0.65, 0), (1.0, 0)])
def test_shard_mass_is_the_sum_over_its_items(shards: int, exponent: float, shift: float) -> None:
    items = [(rank + shift) ** -exponent for rank in range(1, 1201)]
    edges = [int(1200 * k / shards) for k in range(shards + 1)]
    runs = [sum(items[a:b]) for a, b in pairwise(edges)]
    expected = np.array(runs) / sum(items)
    mass = shard_mass(law(exponent=exponent, shift_items=shift), shards)
    np.testing.assert_allclose(mass, expected, rtol=1e-9)
    assert mass.sum() == pytest.approx(1)
    if 1200 % shards == 0:
        assert (np.diff(mass) < 0).all()


def test_fewer_items_than_shards_are_refused_with_the_remedy() -> None:
    with pytest.raises(ConfigError, match=r"set emb\.shards to at most 1200"):
        shard_mass(law(), 1201)


def weights(
    seed: int = 0, shards: int = 120, burst: dict[str, float] | None = None, **changes: float
) -> np.ndarray:
    bursts = Burst.parse({"amplitude": 2, **(burst or {})}, "burst")
    return group_weights(law(**changes), shards, np.random.default_rng(seed), bursts)


def test_every_group_looks_up_something() -> None:
    found = weights()
    assert found.shape == (7, 120), "six groups and the burst's"
    assert (found > 0).all()
    np.testing.assert_allclose(found.sum(axis=1), 1)


def test_own_and_common_interests_are_mixed() -> None:
    """The own part is the same law with its shards in another order."""
    mass = shard_mass(law(), 120)
    for row in weights(own_interest_share=0.3)[:-1]:
        own = (row - 0.7 * mass) / 0.3
        np.testing.assert_allclose(np.sort(own)[::-1], mass, rtol=1e-9)
        assert not np.allclose(own, mass)


@pytest.mark.parametrize("alike", [{"own_interest_share": 0.0}, {"interest_spread": 0.0}])
def test_groups_without_own_taste_are_alike(alike: dict[str, float]) -> None:
    mass = shard_mass(law(), 120)
    np.testing.assert_allclose(weights(**alike)[:-1], np.tile(mass, (6, 1)))


def mean_correlation(spread: float) -> float:
    """How much the rankings of different groups agree."""
    rows = np.log(weights(own_interest_share=1.0, interest_spread=spread)[:-1])
    return float(np.corrcoef(rows)[np.triu_indices(6, 1)].mean())


def test_spread_sets_how_much_groups_disagree() -> None:
    agreement = [mean_correlation(spread) for spread in (0.0, 0.3, 1.0, 3.0)]
    assert agreement == sorted(agreement, reverse=True)
    assert agreement[0] == pytest.approx(1)
    assert agreement[-1] < 0.5


@pytest.mark.parametrize(("wide", "focus"), [(0.02, 0.9), (0.1, 0.5), (0.75, 1.0)])
def test_bursts_want_a_few_shards_that_are_not_the_common_ones(wide: float, focus: float) -> None:
    shards = 400
    burst = weights(shards=shards, burst={"hot_shards": wide, "hot_focus": focus})[-1]
    common = (1 - focus) * shard_mass(law(), shards)
    extra = burst - common
    hot = np.flatnonzero(extra > 1e-12)
    assert hot.size == round(wide * shards)
    assert hot.min() >= shards // 4
    np.testing.assert_allclose(extra[hot], focus / hot.size)


def test_rankings_follow_the_generator() -> None:
    assert np.array_equal(weights(seed=1), weights(seed=1))
    assert not np.array_equal(weights(seed=1), weights(seed=2))


@pytest.mark.parametrize("shards", [12, 120])
def test_readout_weights(shards: int) -> None:
    now, later = weights(1, shards), weights(2, shards)
    by_shard, by_group = readout_weights(now, later)
    assert by_shard.shape == (3, shards, 7)
    assert by_group.shape == (2, 7, shards)
    np.testing.assert_allclose(by_group, np.stack([now, later]), rtol=1e-6)
    # What the tick adds up and what the hit rate is made of are the same numbers.
    assert np.array_equal(by_shard[:2], by_group.transpose(0, 2, 1).astype(float))
    top = min(HOTTEST, shards)
    for group in range(7):
        hottest = np.argsort(-now[group])[:top]
        expected = np.isin(np.arange(shards), hottest) / top
        np.testing.assert_allclose(by_shard[2, :, group], expected)


def changed(weights_of: Callable[[int], np.ndarray]) -> bool:
    return not np.array_equal(weights_of(0), weights_of(1))


def test_scenario_draws_two_rankings_from_its_structure_seed() -> None:
    def by_group(seed: int) -> np.ndarray:
        return lower(small_scenario(structure_seed=seed)).params.cache.by_group

    now, later = by_group(0)
    assert not np.array_equal(now, later), "drift would lead nowhere"
    assert changed(by_group)
    assert np.array_equal(by_group(0), by_group(0))
