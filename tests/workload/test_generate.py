"""A log drawn from a profile has the profile's laws, and a fit finds them again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.special import ndtr, ndtri
from typer.testing import CliRunner

from helm_gym.cli import app
from helm_gym.config.quantity import Quantity, load_preset, walk
from helm_gym.config.workload import PROFILES, Profile
from helm_gym.errors import ConfigError
from helm_gym.workload.fit import fit_profile
from helm_gym.workload.generate import balanced, generate_log, write_log
from helm_gym.workload.logs import InteractionLog, read_interactions
from helm_gym.workload.returns import hour_tilt, return_laws

TAOBAO = load_preset(Profile, "taobao", PROFILES, "profile")


@pytest.fixture(scope="module")
def log() -> InteractionLog:
    return generate_log(TAOBAO, users=1000, days=9, seed=3)


def test_the_same_seed_draws_the_same_log(log: InteractionLog) -> None:
    small = [generate_log(TAOBAO, users=30, days=2, seed=seed) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(small[0].time_s, small[1].time_s)
    np.testing.assert_array_equal(small[0].item, small[1].item)
    assert not np.array_equal(small[0].time_s, small[2].time_s[: small[0].time_s.size])
    assert np.all(np.diff(log.time_s) >= 0)
    assert np.all(log.time_s % 1.0 == 0.0)


def test_a_fit_gives_the_profile_back_within_its_errors(tmp_path: Path) -> None:
    """Hours are flat here: they move session starts, and with them the returns (docs/logs.md)."""
    flat = TAOBAO.model_copy(update={"hourly": [Quantity(value=1.0)] * 24})
    path = tmp_path / "log.parquet"
    write_log(generate_log(flat, users=1000, days=9, seed=3), path)
    fitted = fit_profile(path, name="again", catalogue_items=4_162_024)
    true, found = dict(walk(TAOBAO)), dict(walk(fitted.profile))
    checked = 0
    for row in fitted.findings:
        if row.se:
            error = float(row.se)
            assert abs(found[row.setting].value - true[row.setting].value) < 3.5 * error, row
            assert error < 0.1 * abs(true[row.setting].value), row
            checked += 1
    assert checked == 10


def test_a_fit_gives_the_hours_back(log: InteractionLog, tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    write_log(log, path)
    fitted = fit_profile(path, name="again", catalogue_items=4_162_024)
    hours = np.array([q.value for q in fitted.profile.hourly])
    given = np.array([q.value for q in TAOBAO.hourly])
    assert np.abs(hours / hours.sum() - given / given.sum()).sum() / 2 < 0.06


def test_a_written_log_is_read_as_it_was(log: InteractionLog, tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    write_log(log, path)
    again = read_interactions(path)
    np.testing.assert_array_equal(again.time_s, log.time_s)
    np.testing.assert_array_equal(again.user_ids[again.user], log.user_ids[log.user])
    np.testing.assert_array_equal(again.item_ids[again.item], log.item_ids[log.item])


def test_no_session_of_a_user_begins_before_the_last_one_ended(log: InteractionLog) -> None:
    order = np.argsort(log.user, kind="stable")
    same = np.diff(log.user[order]) == 0
    gaps = np.diff(log.time_s[order])[same]
    cut = TAOBAO.gap.cut_s.value
    mu, sigma = TAOBAO.gap.log_mean.value, TAOBAO.gap.log_sigma.value
    inside = gaps[gaps <= cut]
    # Sessions on top of each other would make short gaps more common than the law has them.
    for quantile in (10.0, 60.0, 600.0):
        law = ndtr((np.log(quantile) - mu) / sigma) / ndtr((np.log(cut) - mu) / sigma)
        assert (inside <= quantile).mean() == pytest.approx(law, abs=0.01)


def test_laws_of_users_pool_to_the_profiles() -> None:
    laws = return_laws(TAOBAO, 1801.0, 550.0)
    assert np.all(np.diff(laws.log_mean) < 0)
    rng = np.random.default_rng(0)
    x = TAOBAO.activity_sigma.value * rng.standard_normal(400_000)
    sessions = np.exp(-np.interp(x, laws.activity, np.log(laws.mean)))
    who = rng.choice(x.size, 400_000, p=sessions / sessions.sum())
    centre = np.interp(x[who], laws.activity, laws.log_mean)
    below = ndtr((np.log(laws.cut) - centre) / laws.log_sigma)
    logs = centre + laws.log_sigma * ndtri(below + (1.0 - below) * rng.random(who.size))
    between = TAOBAO.between_sessions
    pooled = between.log_mean.value + between.log_sigma.value * rng.standard_normal(400_000)
    pooled = pooled[pooled > np.log(1801.0)]
    assert logs.mean() == pytest.approx(pooled.mean(), abs=0.03)
    assert logs.std() == pytest.approx(pooled.std(), abs=0.03)
    assert np.log(sessions).std() == pytest.approx(TAOBAO.activity_sigma.value, rel=0.02)


def test_equal_users_share_the_pooled_law() -> None:
    equal = TAOBAO.model_copy(update={"activity_sigma": Quantity(value=0.0)})
    laws = return_laws(equal, 1801.0, 550.0)
    assert laws.log_sigma == pytest.approx(TAOBAO.between_sessions.log_sigma.value, abs=0.01)
    np.testing.assert_allclose(laws.log_mean, TAOBAO.between_sessions.log_mean.value, atol=0.02)


def test_hours_without_shape_need_no_tilt() -> None:
    tilt = hour_tilt(np.ones(24), return_laws(TAOBAO, 1801.0, 550.0))
    np.testing.assert_allclose(tilt.hour / tilt.hour.mean(), 1.0, rtol=1e-6)


def test_balanced_groups_have_the_law_of_all_as_their_mean() -> None:
    rng = np.random.default_rng(1)
    mass = np.sort(rng.random(40))[::-1]
    mass /= mass.sum()
    groups = mass * np.exp(rng.normal(0, 1.0, (8, 40)))
    groups /= groups.sum(axis=1, keepdims=True)
    bent = balanced(groups, mass)
    np.testing.assert_allclose(bent.mean(axis=0), mass, rtol=1e-3)
    np.testing.assert_allclose(bent.sum(axis=1), 1.0)
    assert np.corrcoef(np.log(bent[0]), np.log(groups[0]))[0, 1] > 0.8


@pytest.mark.parametrize(
    ("sizes", "problem"),
    [
        ({"users": 0, "days": 1}, "users 0 must be positive"),
        ({"users": 5, "days": -1}, "days -1 must be positive"),
        ({"users": 5, "days": 1, "clock_s": 0}, "clock_s 0 must be positive"),
        ({"users": 1, "days": 1e-6}, "give more of either"),
    ],
)
def test_sizes_that_cannot_be_are_refused(sizes: dict[str, float], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        generate_log(TAOBAO, **sizes)  # type: ignore[arg-type]


def test_the_command_writes_a_log_that_the_fit_reads(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    sizes = ["--users", "60", "--days", "4", "--seed", "2"]
    done = CliRunner().invoke(app, ["profile", "generate", "taobao", "--out", str(path), *sizes])
    assert done.exit_code == 0, done.output
    assert f"written to {path}" in done.output
    events = read_interactions(path)
    assert events.user_ids.size <= 60
    same = generate_log(TAOBAO, users=60, days=4, seed=2)
    np.testing.assert_array_equal(events.time_s, same.time_s)
    wrong = CliRunner().invoke(app, ["profile", "generate", "taobo", "--out", str(path)])
    assert wrong.exit_code == 2
    csv = CliRunner().invoke(
        app, ["profile", "generate", "taobao", "--out", str(tmp_path / "log.csv"), *sizes]
    )
    assert csv.exit_code == 2
    assert "ends in .parquet" in csv.output


def test_a_small_catalogue_has_fewer_shards() -> None:
    small = TAOBAO.popularity.model_copy(update={"catalogue_items": Quantity(value=50.0)})
    profile = TAOBAO.model_copy(update={"popularity": small})
    log = generate_log(profile, users=20, days=5, seed=1)
    assert set(log.item_ids.tolist()) <= set(range(50))
