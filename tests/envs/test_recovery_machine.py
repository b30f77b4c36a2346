"""The burst machine alone: detectors, stages, bounds, and what it does with missing signals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from helm_gym.envs.observation import FEATURES
from helm_gym.envs.recovery_config import RecoveryConfig
from helm_gym.envs.recovery_machine import (
    N_PARAMS,
    N_SIGNALS,
    N_STATE,
    P99_ALARM,
    QUEUE_ALARM,
    RATE_ALARM,
    Column,
    Signal,
    Stage,
    advance,
    advance_rows,
    read_signals,
    replay,
)
from helm_gym.errors import ConfigError

Floats = NDArray[np.float64]
CALM = (0.5, 1.0, 0.01, 0.01, 0.6)  # in the order of Signal
OFF: dict[str, Any] = {"p99_sigmas": None, "rate_sigmas": None, "queue_sum": None}


def config(**changes: Any) -> RecoveryConfig:
    return RecoveryConfig.parse(changes, "test")


def params(**changes: Any) -> Floats:
    """Parameters for signals that are a window's own."""
    return config(**changes).lower(rate_average_s=0.0)


def stream(windows: int, noise: float = 0.02, seed: int = 0) -> Floats:
    rng = np.random.default_rng(seed)
    signals = np.tile(CALM, (windows, 1))
    signals[:, Signal.RATE] = np.exp(rng.normal(0.0, noise, windows))
    signals[:, Signal.P99] += rng.normal(0.0, noise, windows)
    return signals


def run(signals: Floats, **changes: Any) -> tuple[Floats, Floats]:
    stages, causes = np.zeros(len(signals)), np.zeros(len(signals))
    replay(np.zeros(N_STATE), params(**changes), signals, 0.5, stages, causes)
    return stages, causes


@pytest.mark.parametrize(
    ("column", "value", "detector", "alarm"),
    [
        (Signal.P99, 3.0, {"p99_sigmas": 3.0}, P99_ALARM),
        (Signal.RATE, 1.7, {"rate_sigmas": 1.0}, RATE_ALARM),
        (Signal.LINK_DELAY, 0.5, {"queue_sum": 0.1}, QUEUE_ALARM),
        (Signal.GPU_DELAY, 0.5, {"queue_sum": 0.1}, QUEUE_ALARM),
    ],
)
def test_each_detector_sees_its_burst_and_the_others_do_not(
    column: Signal, value: float, detector: dict[str, float], alarm: int
) -> None:
    signals = stream(60)
    signals[40:45, column] = value
    stages, causes = run(signals, **{**OFF, **detector})
    first = int(np.flatnonzero(causes)[0])
    assert 40 <= first <= 42
    assert causes[first] == alarm
    assert stages[first] == Stage.BURST
    # Alone, a longer queue says nothing to a detector of arrivals, and so on.
    others = RecoveryConfig.model_validate({}).model_dump(include=set(OFF) - set(detector))
    for name, threshold in others.items():
        assert not run(signals, **{**OFF, name: threshold})[1].any()


def test_steady_traffic_is_left_alone_and_a_low_threshold_is_not() -> None:
    signals = stream(2000, noise=0.04)
    assert not run(signals)[1].any()
    assert run(signals, **{**OFF, "rate_sigmas": 0.2, "rate_slack": 0.0})[1].any()


def test_stages_come_in_order_and_hand_back() -> None:
    signals = stream(80)
    signals[40:44, Signal.RATE] = 2.0
    stages, _ = run(signals, steps=3, step_windows=2)
    order = [int(s) for n, s in enumerate(stages) if n == 0 or s != stages[n - 1]]
    assert order == [Stage.NORMAL, Stage.BURST, Stage.RECOVER, Stage.NORMAL]
    assert np.sum(stages == Stage.RECOVER) == 6


def test_moves_and_pace_grow_step_by_step() -> None:
    machine, given = np.zeros(N_STATE), params(burst_grow=0.0, burst_pace=0.2, recover_move=0.09)
    signals = stream(60)
    signals[40:44, Signal.RATE] = 2.0
    shares, paces, stages, share = [], [], [], 0.5
    for window in signals:
        before = share
        share, pace, stage = advance(machine, given, window, 0.9 if stages else 0.5, share)
        shares.append(share - before)
        paces.append(pace)
        stages.append(stage)
        share = before if stage == Stage.NORMAL else share  # so that it always wants to grow
    moved, pace, stage = np.array(shares), np.array(paces), np.array(stages)
    np.testing.assert_allclose(moved[stage == Stage.BURST], 0.0)
    np.testing.assert_allclose(pace[stage == Stage.BURST], 0.2)
    np.testing.assert_allclose(moved[stage == Stage.RECOVER], [0.03, 0.06])
    np.testing.assert_allclose(pace[stage == Stage.RECOVER], [0.2 + 0.8 / 3, 0.2 + 1.6 / 3])
    assert moved[stage == Stage.NORMAL][-1] == pytest.approx(0.9 - before)
    assert set(pace[stage == Stage.NORMAL]) == {1.0}


def test_a_burst_leans_to_kv_only_while_hot_users_are_many() -> None:
    changes: dict[str, Any] = {"lean": 0.1, "hot_high": 0.7, "burst_shrink": 0.06}
    for hot, lowest in ((0.6, 0.5), (0.8, 0.4)):
        machine, share, seen = np.zeros(N_STATE), 0.5, []
        signals = stream(50)
        signals[40:, Signal.RATE], signals[:, Signal.HOT] = 2.0, hot
        for window in signals:
            share, _, _ = advance(machine, params(**changes), window, 0.5, share)
            seen.append(share)
        assert min(seen) == pytest.approx(lowest)


def test_what_lasts_is_the_new_normal() -> None:
    signals = stream(200)
    signals[60:, Signal.RATE] *= 1.7
    stages, causes = run(signals, longest_s=50.0)
    assert np.count_nonzero(causes) == 1
    assert np.sum(stages == Stage.BURST) == 10
    assert stages[-1] == Stage.NORMAL


def test_missing_signals_hold_the_share_and_a_burst_still_ends() -> None:
    machine, given = np.zeros(N_STATE), params()
    signals = stream(60)
    signals[40:42, Signal.RATE] = 2.0
    signals[42:, Signal.LINK_DELAY] = np.nan
    stages = []
    for window in signals:
        share, pace, stage = advance(machine, given, window, 0.8, 0.5)
        stages.append(stage)
    assert Stage.BURST in stages
    assert (share, pace, stage) == (0.5, 1.0, Stage.NORMAL)
    assert advance(machine, given, signals[0], 0.8, 0.5)[0] == 0.8


ANY = st.floats(allow_nan=True, allow_infinity=True)


@settings(max_examples=200, deadline=None)
@given(
    signals=arrays.arrays(np.float64, (12, N_SIGNALS), elements=ANY),
    proposed=ANY,
    in_force=ANY,
    share_range=st.tuples(st.floats(0.0, 0.5), st.floats(0.5, 1.0)),
)
def test_whatever_comes_in_a_share_and_a_pace_come_out(
    signals: Floats, proposed: float, in_force: float, share_range: tuple[float, float]
) -> None:
    low, high = share_range
    given = config(lean=0.1, hot_high=0.0).lower(5.0, low, high)
    machine = np.zeros(N_STATE)
    for window in signals:
        share, pace, stage = advance(machine, given, window, proposed, in_force)
        assert low <= share <= high
        assert 0.0 <= pace <= 1.0
        assert stage in tuple(Stage)
    for window in stream(8):  # and it is not deaf for ever
        share, _, _ = advance(machine, given, window, 0.5, 0.5)
    assert np.isfinite(machine).all()


def test_rows_do_what_single_machines_do() -> None:
    rng = np.random.default_rng(3)
    rows, windows = 5, 40
    signals = np.stack([stream(windows, 0.1, seed) for seed in range(rows)], axis=1)
    state, single = np.zeros((rows, N_STATE)), np.zeros((rows, N_STATE))
    shares, paces = np.zeros(rows), np.zeros(rows)
    for window in signals:
        proposed, in_force = rng.random(rows), rng.random(rows)
        advance_rows(state, params(), window, proposed, in_force, shares, paces)
        for row in range(rows):
            share, pace, _ = advance(
                single[row], params(), window[row], proposed[row], in_force[row]
            )
            assert (share, pace) == (shares[row], paces[row])
    np.testing.assert_array_equal(state, single)


def test_the_averaging_of_the_rate_is_undone() -> None:
    own = stream(50, noise=0.2)
    keep = np.exp(-0.5)
    seen = own.copy()
    for n in range(1, len(seen)):
        seen[n, Signal.RATE] = keep * seen[n - 1, Signal.RATE] + (1 - keep) * own[n, Signal.RATE]
    raw, averaged = np.zeros(N_STATE), np.zeros(N_STATE)
    for a, b in zip(own, seen, strict=True):
        advance(raw, params(), a, 0.5, 0.5)
        advance(averaged, config().lower(5.0, rate_average_s=10.0), b, 0.5, 0.5)
    assert averaged[Column.RATE_MEAN] == pytest.approx(raw[Column.RATE_MEAN])
    assert averaged[Column.RATE_OWN] == pytest.approx(np.log(own[-1, Signal.RATE]))


def test_nodes_pool_their_signals_and_a_silent_one_holds() -> None:
    place = {feature.name: n for n, feature in enumerate(FEATURES["extended"])}
    seen = np.zeros((4, len(place)), np.float32)
    seen[:, place["p99"]] = 0.5  # 1 SLO
    seen[:, place["arrival_rate_fast"]] = [0.5, 0.75, 0.5, 0.5]  # 1, 3, 1, 1
    seen[:, place["hot_user_share"]] = [0.2, 0.4, 0.6, 0.6]
    seen[3, place["gpu_queue_delay"]] = np.nan
    signals = np.empty((4, N_SIGNALS))
    read_signals(seen, 2, signals)
    np.testing.assert_allclose(signals[0], [1.0, 2.0, 0.0, 0.0, 0.3], rtol=1e-6)
    np.testing.assert_array_equal(signals[0], signals[1])
    np.testing.assert_allclose(signals[2], [1.0, 1.0, 0.0, 0.0, 0.6], rtol=1e-6)
    assert np.isnan(signals[3]).all()


def test_every_parameter_is_filled_and_wrong_settings_are_refused() -> None:
    given = config().lower()
    assert given.shape == (N_PARAMS,)
    assert not np.isnan(given).any()
    with pytest.raises(ConfigError, match="burst_pace"):
        config(burst_pace=1.5)
    with pytest.raises(ConfigError, match="unknown key; did you mean 'lean'"):
        config(leen=0.1)
