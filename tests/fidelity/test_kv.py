"""The KV comparison: two exact caches agree, the kernels equal them, and a fault is counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from real_data import trace

from helm_gym.fidelity import kv
from helm_gym.fidelity.finding import Effort, Finding, Skipped


def requests(seed: int, block_tokens: int = 16, users: int = 50, length: int = 5000) -> kv.Requests:
    rng = np.random.default_rng(seed)
    user = (users * rng.random(length) ** 2).astype(np.int64)
    user[:users] = rng.permutation(users)
    grows = kv.place_among_own(user)
    return kv.Requests(user, 1 + rng.integers(0, 300, users)[user] + grows, block_tokens)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("blocks", [1, 17, 120, 10_000])
def test_the_kernels_are_an_exact_lru_of_growing_users(seed: int, blocks: int) -> None:
    """At 17 blocks some histories are larger than the cache."""
    stream = requests(seed)
    assert kv.model(stream, blocks) == kv.exact(stream, blocks)


@pytest.mark.parametrize("blocks", [1, 5, 30, 50])
def test_both_yardsticks_agree_where_both_apply(blocks: int) -> None:
    pytest.importorskip("libcachesim", exc_type=ImportError)
    user = requests(1).user
    single = kv.Requests(user, np.ones_like(user), 1)
    assert kv.libcachesim_lru(single, blocks) == kv.exact(single, blocks)
    assert kv.model(single, blocks) == kv.exact(single, blocks)


def test_capacity_off_by_one_is_a_miss() -> None:
    stream = requests(2)
    rows = [(n, kv.model(stream, n), kv.exact(stream, n + 1)) for n in (40, 400)]
    finding = kv._finding("a planted fault", stream, rows, "")
    assert finding.value > 0 and finding.status == "missed"


def test_histories_count_a_users_own_requests() -> None:
    user = np.array([2, 0, 2, 2, 1, 0])
    assert kv.place_among_own(user).tolist() == [0, 0, 1, 2, 0, 1]
    assert kv.Requests(user, kv.place_among_own(user) + 1, 2).blocks == 1 + 1 + 2


def test_real_streams_give_equal_counts() -> None:
    data = trace(Path(kv.TAOBAO).name).parents[1]
    trace(Path(kv.MOONCAKE).name)
    rows = list(kv.checks(Effort(data, quick=True)))
    found = [row for row in rows if isinstance(row, Finding)]
    assert len(found) >= 3
    assert [row.value for row in found] == [0.0] * len(found)
    # hits and misses both happen at every capacity, or equality would say nothing
    assert all(" 0.0% hits" not in row.note and "100.0% hits" not in row.note for row in found)
    assert not any("DISAGREE" in row.note for row in found)


def test_without_data_it_says_what_is_absent() -> None:
    rows = list(kv.checks(Effort(None, quick=True)))
    assert len(rows) == 2 and all(isinstance(row, Skipped) for row in rows)
