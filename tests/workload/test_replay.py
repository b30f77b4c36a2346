"""A replayed log reaches the simulator as it was: instants, order, users; and starts again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from real_data import trace
from small import small_scenario, started

from helm_gym.config.scenario import Scenario
from helm_gym.errors import ConfigError, LogError
from helm_gym.sim.layout import Node
from helm_gym.workload.logs import read_arrivals, read_interactions
from helm_gym.workload.replay import (
    interest_groups,
    item_shards,
    load_replay,
    lookup_weights,
    session_starts,
)
from helm_gym.workload.session_laws import mean_length

RNG = np.random.default_rng(0)


def write(folder: Path, **columns: Any) -> str:
    path = folder / "log.parquet"
    pq.write_table(pa.table(columns), path)
    return str(path)


def random_log(folder: Path, rows: int = 600, users: int = 40, items: int = 90) -> str:
    """Every item occurs; users come back after minutes and hours."""
    rng = np.random.default_rng(5)
    return write(
        folder,
        user_id=rng.integers(100, 100 + users, rows),
        item_id=np.concatenate([np.arange(items), rng.zipf(1.5, rows - items) % items]),
        timestamp=1_511_540_000 + np.sort(rng.integers(0, 40_000, rows)),
    )


def replaying(path: str, replay: dict[str, Any] | None = None, **changes: Any) -> Scenario:
    return small_scenario(**{"workload.replay": {"path": path, **(replay or {})}, **changes})


def requests(scenario: Scenario, windows: int) -> np.ndarray:
    """(R, 6) every request of the first windows, see Simulator.record."""
    simulator = started(scenario)
    shares = np.full(scenario.nodes, 0.5)
    return np.concatenate([simulator.record(shares, 0) for _ in range(windows)])


def test_the_simulator_sees_the_log_and_starts_it_again(tmp_path: Path) -> None:
    path = random_log(tmp_path)
    scenario = replaying(path)
    log, original = load_replay(scenario, RNG), read_interactions(path)
    windows = int(2.6 * log.period_s / scenario.episode.step_s) + 1
    seen = requests(scenario, windows)
    laps = np.arange(4)[:, None] * log.period_s + log.time
    expected = laps[laps < windows * scenario.episode.step_s]
    assert expected.size > 2 * original.user.size
    np.testing.assert_array_equal(seen[:, 0], expected)
    np.testing.assert_array_equal(seen[:, 1], np.tile(original.user, 4)[: len(seen)])


def test_compression_reaches_the_load_over_whole_laps(tmp_path: Path) -> None:
    path = random_log(tmp_path)
    for load in (0.4, 1.0):
        log = load_replay(replaying(path, None, **{"workload.load": load}), RNG)
        assert log.time.size / log.period_s == pytest.approx(load * 150 * 3)
    original = read_interactions(path).time_s
    np.testing.assert_allclose(log.time * log.compression, original - original[0], atol=1e-6)


def test_a_stated_compression_is_used(tmp_path: Path) -> None:
    path = write(tmp_path, user_id=[1, 2, 1], item_id=[1, 2, 3], timestamp=[10, 20, 50])
    log = load_replay(replaying(path, {"compression": 5.0}, **{"emb.shards": 3}), RNG)
    assert log.compression == 5.0
    assert log.time.tolist() == [0, 2, 8]
    assert log.period_s == 12  # one mean gap after the last


def test_sessions_are_told_on_the_logs_own_clock(tmp_path: Path) -> None:
    user = np.array([0, 1, 0, 0, 1, 0], np.int32)
    time = np.array([0.0, 0.0, 1800.0, 3601.0, 3700.0, 3601.0 + 1800.0])
    assert session_starts(user, time).tolist() == [1, 1, 0, 1, 1, 0]
    path = write(tmp_path, user_id=user, item_id=[1, 2, 3, 4, 5, 6], timestamp=time)
    log = load_replay(replaying(path, {"compression": 1e6}, **{"emb.shards": 6}), RNG)
    assert log.first is not None
    assert log.first.tolist() == [1, 1, 0, 1, 1, 0]


def test_warm_requests_are_those_inside_sessions(tmp_path: Path) -> None:
    path = random_log(tmp_path)
    scenario = replaying(path)
    log = load_replay(scenario, RNG)
    assert log.first is not None
    simulator = started(scenario)
    window = scenario.episode.step_s
    warm = simulator.step(np.full((1, 3), 0.5)).node[0, :, Node.WARM].sum()
    inside = log.time < window
    assert 0 < warm == (inside & (log.first == 0)).sum() < inside.sum()


def test_items_become_equal_runs_of_the_logs_popularity_order() -> None:
    item = np.repeat([0, 1, 2, 3, 4], [1, 5, 3, 1, 2]).astype(np.int32)
    # Order of popularity: 1, 2, 4, then 0 and 3 by number; runs of 2 and 3 items.
    assert item_shards(item, 5, 2).tolist() == [1] + [0] * 5 + [0] * 3 + [1] + [1] * 2


def test_users_who_look_the_same_shards_up_share_a_group() -> None:
    rng = np.random.default_rng(1)
    users, shards, groups = 120, 40, 3
    kind = rng.integers(0, groups, users)
    user = rng.integers(0, users, 20_000).astype(np.int32)
    own = kind[user] * 10 + rng.integers(0, 10, user.size)  # shards 30-39 are everybody's
    shard = np.where(rng.random(user.size) < 0.6, own, rng.integers(30, 40, user.size))
    group = interest_groups(user, shard, users, shards, groups)
    assert len(set(zip(kind.tolist(), group.tolist(), strict=True))) == groups  # a bijection
    assert np.array_equal(group, interest_groups(user, shard, users, shards, groups))


@pytest.mark.parametrize("users", [1, 2, 3, 5])
def test_few_users_get_groups_too(users: int) -> None:
    rng = np.random.default_rng(2)
    user = np.concatenate([np.arange(users), rng.integers(0, users, 50)]).astype(np.int32)
    group = interest_groups(user, rng.integers(0, 8, user.size), users, 8, 4)
    assert group.shape == (users,)
    assert 0 <= group.min() <= group.max() < 4


def test_weights_are_laws_between_the_groups_counts_and_everybodys() -> None:
    rng = np.random.default_rng(3)
    group = np.repeat([0, 1], [30_000, 300]).astype(np.int16)
    shard = np.where(group == 0, rng.integers(0, 4, group.size), rng.integers(4, 8, group.size))
    weights = lookup_weights(group, shard, 3, 8)
    assert weights.shape == (4, 8)
    np.testing.assert_allclose(weights.sum(axis=1), 1.0)
    everybody = np.bincount(shard, minlength=8) / shard.size
    np.testing.assert_allclose(weights[2], everybody)  # a group without users
    np.testing.assert_allclose(weights[3], everybody)  # the burst's row
    own = np.bincount(shard[group == 1], minlength=8) / 300
    # 300 look-ups against 8,000 pseudo look-ups; 30,000 against the same.
    np.testing.assert_allclose(weights[1], (300 * own + 8000 * everybody) / 8300)
    assert weights[0, :4].sum() > weights[1, :4].sum()


def test_histories_come_from_the_profile_or_grow_with_the_log(tmp_path: Path) -> None:
    path = random_log(tmp_path)
    scenario = replaying(path)
    profile = started(scenario).lowered.users["history"]
    assert profile.min() >= scenario.workload.profile.history.shortest.value
    scenario = replaying(path, {"history": "log"})
    simulator = started(scenario)
    assert set(simulator.lowered.users["history"].tolist()) == {1}
    count = np.zeros(40, int)
    for _ in range(2):
        seen = simulator.record(np.full(3, 0.5), 0)
        np.add.at(count, seen[:, 1].astype(int), 1)
    history = simulator.states[0].users["history"]
    # One token, and 1 or 2 new items with each request.
    assert np.all((history >= 1 + count) & (history <= 1 + 2 * count))


def test_a_history_longer_than_the_model_allows_is_refused(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        user_id=["a", "b", "b", "a", "b", "b"],
        item_id=[1, 2, 3, 4, 5, 6],
        timestamp=[0, 1, 2, 3, 4, 5],
    )
    small = {"emb.shards": 3, "hardware.model.max_history": 3}
    small |= {"workload.profile.history.shortest": 1}
    with pytest.raises(LogError, match=r"column 'user_id', row 6: user b has 4 items, and model"):
        load_replay(replaying(path, {"history": "log"}, **small), RNG)
    assert load_replay(replaying(path, None, **small), RNG).history is None


@pytest.mark.parametrize(
    ("replay", "changes", "problem"),
    [
        ({}, {"emb.shards": 91}, "has 90 items, fewer than emb.shards 91; set emb.shards to at"),
        (
            {},
            {"workload.regime": {"kind": "burst", "amplitude": 3}},
            "burst or a rush adds requests of its own",
        ),
        ({"kind": "arrivals", "history": "log"}, {}, "history 'log' needs users"),
        ({"kind": "arrivals", "compression": 1e6}, {}, "set workload.load to .*, or compression"),
    ],
)
def test_settings_that_do_not_fit_the_log_are_refused(
    tmp_path: Path, replay: dict[str, Any], changes: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        load_replay(replaying(random_log(tmp_path), replay, **changes), RNG)


def test_the_advice_on_compression_works(tmp_path: Path) -> None:
    path = random_log(tmp_path)
    automatic = load_replay(replaying(path, {"kind": "arrivals"}), RNG).compression
    arrivals = {"kind": "arrivals", "compression": 4 * automatic}
    with pytest.raises(ConfigError, match=r"set workload\.load to 4,"):
        load_replay(replaying(path, arrivals), RNG)
    load_replay(replaying(path, arrivals, **{"workload.load": 4.0}), RNG)


def test_a_log_without_pace_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, user_id=[1, 2], item_id=[1, 2], timestamp=[7, 7])
    with pytest.raises(LogError, match="row 2: all 2 rows have the same instant"):
        load_replay(replaying(path, None, **{"emb.shards": 2}), RNG)


def test_a_malformed_log_is_refused_before_any_simulation(tmp_path: Path) -> None:
    path = write(tmp_path, user_id=[1, 2], item_id=[1, None], timestamp=[7, 8])
    with pytest.raises(LogError, match="column 'item_id', row 2: the value is missing"):
        started(replaying(path, None, **{"emb.shards": 2}))


def test_arrivals_start_sessions_and_reach_the_load(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    path = write(tmp_path, timestamp_ms=np.cumsum(rng.exponential(50, 3000)))
    arrivals = {"kind": "arrivals", "time_unit": "ms", "time_column": "timestamp_ms"}
    scenario = replaying(path, arrivals, **{"episode.step_s": 2.0})
    log = load_replay(scenario, RNG)
    assert log.user is None and log.first is None and log.weights is None and log.n_users == 0
    seen = requests(scenario, windows=int(2 * log.period_s / 2.0))
    starts = np.unique(np.concatenate([log.time, log.time + log.period_s]))
    starts = starts[starts < 2.0 * int(2 * log.period_s / 2.0)]
    assert np.isin(starts, seen[:, 0]).all()
    # Of the surfaces' lengths, each session counts once: requests are 2 to 1, sessions are not.
    profile, other = scenario.workload.profile, scenario.workload.surfaces[1].session_length
    assert other is not None
    lengths = np.array([mean_length(profile.session_length), mean_length(other)])
    per_session = 3 / (np.array([2, 1]) / lengths).sum()
    assert log.time.size / log.period_s * per_session == pytest.approx(150 * 3)
    assert len(seen) / (2.0 * int(2 * log.period_s / 2.0)) == pytest.approx(450, rel=0.05)


def gaps_of_users(user: np.ndarray, time: np.ndarray, period: float) -> list[np.ndarray]:
    """Sorted gaps of every user around the lap, of users in the order of their codes."""
    found = []
    for code in range(user.max() + 1):
        own = np.sort(time[user == code])
        found.append(np.sort(np.diff(np.append(own, own[0] + period))))
    return found


@pytest.mark.parametrize("shift", ["log", "days"])
def test_an_overlay_copies_users_and_keeps_their_gaps(tmp_path: Path, shift: str) -> None:
    rng = np.random.default_rng(7)
    path = write(
        tmp_path,
        user_id=rng.integers(0, 30, 500),
        item_id=rng.integers(0, 90, 500),
        timestamp=np.sort(rng.integers(0, 5 * 86_400, 500)),
    )
    plain = load_replay(replaying(path, None, **{"emb.shards": 20}), RNG)
    settings = {"overlay": 3, "overlay_shift": shift, "compression": plain.compression}
    log = load_replay(replaying(path, settings, **{"emb.shards": 20}), np.random.default_rng(1))
    assert plain.user is not None and log.user is not None
    assert plain.first is not None and log.first is not None
    assert plain.group is not None and log.group is not None
    assert log.n_users == 3 * plain.n_users == 90
    assert log.period_s == plain.period_s
    assert np.all(np.diff(log.time) >= 0)
    assert 0 <= log.time[0] <= log.time[-1] < log.period_s
    expected = gaps_of_users(plain.user, plain.time, plain.period_s)
    for code, gaps in enumerate(gaps_of_users(log.user, log.time, log.period_s)):
        np.testing.assert_allclose(gaps, expected[code % 30], atol=1e-6)
    np.testing.assert_array_equal(log.group, np.tile(plain.group, 3))
    assert log.first.sum() == 3 * plain.first.sum()
    np.testing.assert_array_equal(log.weights, plain.weights)
    moved = log.time[log.user == 31][0] - plain.time[plain.user == 1]
    steps = np.append(moved, moved + log.period_s) * log.compression / 86_400
    whole = np.abs(steps - np.round(steps)).min() < 1e-6
    assert whole == (shift == "days")


def test_an_overlay_reaches_the_load_with_its_copies(tmp_path: Path) -> None:
    path = random_log(tmp_path)
    alone, four = (load_replay(replaying(path, {"overlay": n}), RNG) for n in (1, 4))
    assert four.compression == pytest.approx(alone.compression / 4)
    assert four.time.size / four.period_s == pytest.approx(150 * 3)
    seen = requests(replaying(path, {"overlay": 4}), 3)
    assert len(set(seen[:, 1])) > 40


def test_copies_are_spread_by_the_structures_seed(tmp_path: Path) -> None:
    path = random_log(tmp_path)

    def instants(seed: int) -> np.ndarray:
        scenario = replaying(path, {"overlay": 2}, structure_seed=seed)
        return np.asarray(started(scenario).lowered.params.source.log_time)

    np.testing.assert_array_equal(instants(1), instants(1))
    assert not np.array_equal(instants(1), instants(2))


def test_items_may_be_the_profiles(tmp_path: Path) -> None:
    path = random_log(tmp_path)
    # More shards than the log has items: it need not have any.
    scenario = replaying(path, {"items": "profile"}, **{"emb.shards": 200})
    simulator, generated = started(scenario), started(small_scenario(**{"emb.shards": 200}))
    weights = simulator.lowered.params.cache.weights
    assert weights.shape == generated.lowered.params.cache.weights.shape
    # The law is the profile's; only which shards a group prefers is drawn anew.
    mass = [
        np.sort(sim.lowered.params.cache.weights[0, :, 0])[-20:].sum()
        for sim in (simulator, generated)
    ]
    assert mass[0] == pytest.approx(mass[1], rel=0.1)
    assert set(simulator.lowered.users["group"].tolist()) == {0, 1, 2, 3}
    assert 0 < simulator.step(np.full((1, 3), 0.5)).node[0, :, Node.ARRIVED].sum()


@pytest.mark.parametrize(
    ("replay", "problem"),
    [
        ({"overlay": 0}, "overlay"),
        ({"overlay": 2, "kind": "arrivals"}, "overlay copies users, and a trace"),
        ({"items": "profile", "kind": "arrivals"}, "are the profile's anyway"),
        ({"overlay_shift": "days"}, "set overlay to at least 2"),
        ({"overlay": 2, "overlay_shift": "days"}, "spans 0.46 days, too few for copies shifted"),
    ],
)
def test_an_overlay_that_cannot_be_is_refused(
    tmp_path: Path, replay: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        load_replay(replaying(random_log(tmp_path), replay), RNG)


def test_ties_keep_the_order_of_the_log(tmp_path: Path) -> None:
    user = np.random.default_rng(6).permutation(np.repeat(np.arange(20), 6))
    path = write(tmp_path, user_id=user, item_id=np.arange(120), timestamp=[0] * 60 + [86400] * 60)
    scenario = replaying(path)
    log = load_replay(scenario, RNG)
    seen = requests(scenario, int(log.period_s / scenario.episode.step_s) + 1)
    assert len(seen) >= 120
    np.testing.assert_array_equal(seen[:120, 1], user)


@pytest.mark.parametrize(
    ("name", "rows", "users"),
    [
        ("taobao_userbehavior_users1095.parquet", 109_808, 1_095),
        ("amazon_video_games_5core_ts.parquet", 183_174, 24_303),  # a daily clock: many ties
    ],
)
def test_real_logs_are_replayed_whole_and_again(name: str, rows: int, users: int) -> None:
    path = trace(name)
    lap_s = 5.0
    load = rows / lap_s / (3 * 150)  # far too much to serve, but every request is offered
    scenario = replaying(str(path), None, **{"workload.load": load, "episode.step_s": 0.75 * lap_s})
    original = read_interactions(path)
    simulator = started(scenario)
    seen = np.concatenate([simulator.record(np.full(3, 0.5), 0) for _ in range(2)])
    assert original.user_ids.size == users
    assert len(seen) > rows
    assert simulator.lowered.params.source.log_period == pytest.approx(lap_s)
    np.testing.assert_array_equal(seen[:rows, 1], original.user)
    np.testing.assert_array_equal(seen[rows:, 1], original.user[: len(seen) - rows])
    assert np.all(np.diff(seen[:, 0]) >= 0)


def test_a_real_arrival_trace_is_replayed() -> None:
    path = trace("arr_azure_llm2023_conv.parquet")
    arrivals = {"kind": "arrivals", "time_unit": "us", "time_column": "timestamp_us"}
    scenario = replaying(str(path), arrivals, **{"episode.step_s": 10.0})
    log = load_replay(scenario, RNG)
    original = read_arrivals(path, "us", "timestamp_us")
    np.testing.assert_allclose(
        log.time * log.compression, original - original[0], rtol=1e-9, atol=1e-5
    )
    windows = int(1.1 * log.period_s / 10.0)
    seen = requests(scenario, windows)
    assert len(seen) / (10.0 * windows) == pytest.approx(450, rel=0.05)
    assert np.isin(log.time, seen[:, 0]).all()
