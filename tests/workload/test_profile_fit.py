"""Fits find the laws that logs were drawn from, and say what a log cannot tell."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from real_data import trace
from rich.console import Console
from scipy.special import erf, erfinv, ndtr, ndtri

from helm_gym.config.quantity import walk
from helm_gym.config.scenario import Scenario
from helm_gym.config.workload import Profile
from helm_gym.errors import ConfigError, LogError
from helm_gym.workload import fit_laws, item_laws
from helm_gym.workload.fit import FittedProfile, fit_profile
from helm_gym.workload.fit_laws import Estimate

MONDAY = 1_511_740_800  # 2017-11-27 00:00 UTC


def within(found: Estimate, truth: float, errors: float = 4.0) -> None:
    """Fail if the truth lies outside, or if the interval is too wide to say anything."""
    assert found.se is not None
    assert abs(found.value - truth) < errors * found.se
    assert found.se < 0.2 * abs(truth)


def catalogue(rng: np.random.Generator, items: int, views: int, s: float, q: float) -> np.ndarray:
    """(V,) views of the items that were seen, drawn from a Zipf-Mandelbrot law."""
    mass = (np.arange(1, items + 1) + q) ** -s
    views_of = rng.multinomial(views, mass / mass.sum())
    return rng.permutation(views_of[views_of > 0])


@pytest.mark.parametrize(
    ("items", "views", "s", "q"),
    [(20_000, 60_000, 1.0, 200), (100_000, 110_000, 0.98, 1800), (3_000, 90_000, 0.8, 5)],
)
def test_a_sample_of_a_catalogue_tells_its_law(items: int, views: int, s: float, q: float) -> None:
    seen = catalogue(np.random.default_rng(1), items, views, s, q)
    for given in (items, None):
        law = item_laws.sampled_law(seen, given)
        within(law.exponent, s)
        within(law.shift, q, 4.0)
        if given:
            assert law.items == Estimate(items, None)
        else:
            assert law.items.value == pytest.approx(items, rel=0.04)


def test_standard_errors_of_a_sampled_law_are_those_of_repeated_samples() -> None:
    rng = np.random.default_rng(2)
    laws = [item_laws.sampled_law(catalogue(rng, 2000, 8000, 1.0, 50), 2000) for _ in range(25)]
    exponents = [law.exponent.value for law in laws]
    claimed = np.mean([law.exponent.se for law in laws])
    assert np.std(exponents) == pytest.approx(claimed, rel=0.4)


def test_ranks_tell_the_law_of_a_catalogue_that_was_seen_whole() -> None:
    for views in (40_000, 1_000_000):
        seen = catalogue(np.random.default_rng(3), 2000, views, 0.9, 30)
        law = item_laws.ranked_law(seen)
        within(law.exponent, 0.9)
        within(law.shift, 30)
        assert law.items.value == pytest.approx(2000, rel=0.01)
    # A pure power law has no shift to find, and no error of one.
    law = item_laws.ranked_law(np.round(1e9 / np.arange(1, 301)).astype(np.int64))
    assert law.exponent.value == pytest.approx(1.0, abs=2e-3)
    assert law.shift.value == pytest.approx(0.0, abs=0.02)


def test_coverage_is_the_part_of_views_that_goes_to_known_items() -> None:
    rng = np.random.default_rng(4)
    mass = (np.arange(1, 5001) + 20.0) ** -1.0
    mass /= mass.sum()
    views = rng.multinomial(4000, mass)
    assert item_laws.coverage(views[views > 0]) == pytest.approx(mass[views > 0].sum(), abs=0.03)


def test_a_cut_and_rounded_lognormal_is_recovered() -> None:
    rng = np.random.default_rng(5)
    mu, sigma, cut = 5.5, 1.6, 1800.0
    inside = ndtr((math.log(cut) - mu) / sigma)  # 10 % of the gaps lie beyond the cut
    gaps = np.rint(np.exp(mu + sigma * ndtri(rng.random(20_000) * inside)))
    found = fit_laws.cut_lognormal(gaps, 1.0, cut)
    within(found[0], mu)
    within(found[1], sigma)
    plain = fit_laws.log_moments(gaps[gaps > 0])
    assert plain[0].value < mu - 0.2  # what ignoring the cut would give


def test_a_rounded_up_lognormal_is_recovered() -> None:
    rng = np.random.default_rng(6)
    lengths = np.ceil(rng.lognormal(1.1, 1.05, 20_000)).astype(np.int64)
    found = fit_laws.rounded_up_lognormal(lengths)
    assert found is not None
    within(found[0], 1.1)
    within(found[1], 1.05)
    assert fit_laws.rounded_up_lognormal(np.ones(500, np.int64)) is None


def test_the_gini_index_of_a_lognormal_is_known() -> None:
    amounts = np.ceil(1e6 * np.random.default_rng(7).lognormal(0, 0.85, 5000)).astype(np.int64)
    within(fit_laws.gini(amounts), float(erf(0.85 / 2)))
    assert fit_laws.gini(np.full(10, 3)).value == pytest.approx(0.0, abs=1e-12)
    assert fit_laws.gini(np.array([1, 3])).value == pytest.approx(0.25)


def test_activity_is_told_from_the_chance_of_few_sessions() -> None:
    rng = np.random.default_rng(11)
    sessions = rng.poisson(8 * rng.lognormal(-0.32, 0.8, 3000))
    lengths = np.ceil(rng.lognormal(1.1, 1.0, sessions.sum())).astype(np.int64)
    totals = np.bincount(np.repeat(np.arange(3000), sessions), lengths).astype(np.int64)
    totals = totals[totals > 0]
    within(fit_laws.activity(totals, lengths), 0.8)
    plain = 2 * erfinv(fit_laws.gini(totals).value)
    assert plain > 0.9  # what the Gini index alone would give
    equal = rng.poisson(50, 500).astype(np.int64)
    assert fit_laws.activity(equal, np.full(100, 5)).value == 0.0


def test_returns_that_the_logs_end_cuts_off_count() -> None:
    rng = np.random.default_rng(12)
    cut, mu, sigma = 1800.0, 10.5, 1.4
    user = np.repeat(np.arange(600), 20)
    logs = rng.normal(mu, sigma, user.size)
    ends = np.log(rng.uniform(0, 9 * 86_400, user.size))  # silence left until the log ends
    ended = logs < ends
    keep = np.minimum(logs, ends) > math.log(cut)
    silences = fit_laws.Silences(np.minimum(logs, ends)[keep], ended[keep], user[keep])
    found = fit_laws.returns(silences, cut)
    within(found[0], mu)
    within(found[1], sigma)
    seen = silences.logs[silences.ended]
    assert seen.mean() < mu - 0.1  # what the gaps seen alone would give
    assert seen.std() < sigma - 0.2


def test_errors_of_popularity_know_that_users_share_tastes() -> None:
    rng = np.random.default_rng(13)
    mass = (np.arange(1, 3001) + 100.0) ** -1.0
    mass /= mass.sum()
    # 50 users, each seeing 300 items of a third of the catalogue, chosen anew for each.
    rows = []
    for _ in range(50):
        own = mass * (rng.random(mass.size) < 1 / 3)
        rows.append(rng.multinomial(300, own / own.sum()))
    views = np.array(rows)
    seen = views.sum(axis=0) > 0
    total, parts = views.sum(axis=0)[seen], views.reshape(25, 2, -1).sum(axis=1)[:, seen]
    alone, shared = item_laws.sampled_law(total, 3000), item_laws.sampled_law(total, 3000, parts)
    assert shared.exponent.value == alone.exponent.value
    assert alone.exponent.se is not None and shared.exponent.se is not None
    assert shared.exponent.se > 1.1 * alone.exponent.se
    within(shared.exponent, 1.0)


def test_log_moments_are_recovered() -> None:
    found = fit_laws.log_moments(np.random.default_rng(8).lognormal(9.9, 1.28, 5000))
    within(found[0], 9.9)
    within(found[1], 1.28)


@pytest.mark.parametrize(
    ("times", "step"),
    [
        (MONDAY + 86_400.0 * np.arange(9), 86_400.0),
        (MONDAY + 3600.0 * np.arange(90), 3600.0),
        (MONDAY + 17 + 60.0 * np.arange(90), 60.0),
        (MONDAY + np.arange(90) ** 2.0, 1.0),
        (MONDAY + np.arange(90) ** 2 / 1000, 0.001),
        # One odd row does not hide that a clock is daily.
        (np.append(MONDAY + 86_400.0 * np.arange(400), MONDAY + 4e7 + 1), 86_400.0),
    ],
)
def test_the_clocks_step_is_found(times: np.ndarray, step: float) -> None:
    assert fit_laws.clock_step(times) == step


HOURS = 1.0 + 0.8 * np.sin(np.arange(24) / 24 * 2 * np.pi)


def known_log(folder: Path, **kwargs: Any) -> Path:
    """Whole users over 40 days, from laws that the tests name."""
    rng = np.random.default_rng(9)
    rows = []
    for user in range(400):
        time = float(MONDAY)
        for _ in range(1 + round(rng.lognormal(2.8, 0.7))):
            last = time
            while time == last or rng.random() > HOURS[int(time // 3600) % 24] / 1.8:
                time = last + rng.uniform(7200, 7200 + 2 * 86_400)
            inside = 0.0
            for _ in range(math.ceil(rng.lognormal(1.0, 0.8))):
                rows.append((user, time + inside))
                gap = math.inf
                while gap > 1800:
                    gap = rng.lognormal(4.0, 1.2)
                inside += gap
            time += inside
    users, times = (np.array(column) for column in zip(*rows, strict=True))
    order = np.argsort(times, kind="stable")
    mass = (np.arange(1, 4001) + 50.0) ** -1.0
    items = rng.choice(4000, users.size, p=mass / mass.sum())
    path = folder / "known.parquet"
    columns = {"user_id": users[order], "item_id": items, "timestamp": times[order] // 1}
    pq.write_table(pa.table(columns | kwargs), path)
    return path


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> FittedProfile:
    return fit_profile(known_log(tmp_path_factory.mktemp("fit")), name="known")


def finding(fitted: FittedProfile, setting: str) -> Estimate:
    """Value and standard error of a fitted setting, and that the profile has the same value."""
    (row,) = [row for row in fitted.findings if row.setting == setting]
    assert row.fitted
    quantity = dict(walk(fitted.profile))[setting]
    assert not quantity.assumed
    assert f"n = {row.n:,}" in quantity.source
    return Estimate(quantity.value, float(row.se) if row.se else None)


def test_a_log_of_known_laws_is_fitted_within_its_errors(known: FittedProfile) -> None:
    within(finding(known, "gap.log_mean"), 4.0)
    within(finding(known, "gap.log_sigma"), 1.2)
    within(finding(known, "session_length.log_mean"), 1.0)
    within(finding(known, "session_length.log_sigma"), 0.8)
    within(finding(known, "popularity.exponent"), 1.0)
    within(finding(known, "popularity.shift_items"), 50)
    assert finding(known, "activity_sigma").value == pytest.approx(0.7, abs=0.1)
    near = float(ndtr((math.log(10) - 4.0) / 1.2) / ndtr((math.log(1800) - 4.0) / 1.2))
    inside = 1 - 1 / known.facts["session_mean"]  # part of the events that follow a gap
    expected = 1 / (1 - near * inside)
    assert finding(known, "new_items_per_request").value == pytest.approx(expected, rel=0.01)


def test_the_table_of_hours_follows_the_clock_of_the_users(
    known: FittedProfile, tmp_path: Path
) -> None:
    here = np.array([q.value for q in known.profile.hourly])
    assert here.mean() == pytest.approx(1.0, abs=1e-3)
    assert np.corrcoef(here, HOURS)[0, 1] > 0.9
    path = known_log(tmp_path)
    there = fit_profile(path, name="x", utc_offset_h=-3).profile.hourly
    np.testing.assert_allclose([q.value for q in there], np.roll(here, -3), rtol=0.02)


def test_hours_are_weighted_by_how_long_the_log_covers_them(tmp_path: Path) -> None:
    # One event a minute for a day and a half: half of the hours are there twice.
    times = MONDAY + 60 * np.arange(36 * 60)
    path = known_log(tmp_path)
    columns = {"user_id": times % 50, "item_id": times % 130, "timestamp": times}
    pq.write_table(pa.table(columns), path)
    hourly = fit_profile(path, name="x").profile.hourly
    np.testing.assert_allclose([q.value for q in hourly], 1.0, atol=0.01)


def test_the_yaml_is_a_profile_that_scenarios_take(known: FittedProfile, tmp_path: Path) -> None:
    path = tmp_path / "known.yaml"
    path.write_text(known.to_yaml(), encoding="utf-8")
    assert Profile.parse(yaml.safe_load(path.read_text(encoding="utf-8")), "x") == known.profile
    scenario = Scenario.load("feasibility").replace({"workload.profile": str(path)})
    assert scenario.workload.profile == known.profile
    assert ("workload.profile.gap.log_mean" in dict(scenario.assumptions())) is False
    assert "workload.profile.history.log_mean" in dict(scenario.assumptions())
    assert str(tmp_path) not in path.read_text(encoding="utf-8")  # no machine's paths


def test_what_a_log_cannot_tell_is_the_bases_and_flagged(known: FittedProfile) -> None:
    base = dict(walk(Scenario.load("feasibility").workload.profile))  # taobao
    kept = {path: q for path, q in walk(known.profile) if q.assumed}
    assert {path.split(".")[0] for path in kept} == {
        "popularity",
        "history",
        "interest_half_life_s",
    }
    for path, quantity in kept.items():
        assert quantity.value == base[path].value
        assert quantity.source.startswith("assumed: that of taobao; ")


def printed(fitted: FittedProfile) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(fitted.report())
    return console.export_text()


def test_the_report_lists_every_setting_once(known: FittedProfile) -> None:
    text = printed(known)
    for path, _ in walk(known.profile):
        names = {path, path.split(".")[0]}
        assert sum(row.setting in names for row in known.findings) == 1, path
    assert "assumed: a log starts cold; its users had" in text
    assert "a lower bound" in text
    assert "± is one standard error" in text


def unfitted(fitted: FittedProfile) -> dict[str, str]:
    return {row.setting: row.how for row in fitted.findings if not row.fitted}


def test_a_daily_clock_tells_neither_sessions_nor_hours(tmp_path: Path) -> None:
    path = known_log(tmp_path)
    table = pq.read_table(path).to_pydict()
    table["timestamp"] = [t // 86_400 * 86_400 for t in table["timestamp"]]
    pq.write_table(pa.table(table), path)
    missing = unfitted(fit_profile(path, name="x"))
    for setting in ("session_length", "gap", "between_sessions", "new_items_per_request"):
        assert "the clock steps by 86,400 s" in missing[setting]
    assert "hides the hour" in missing["hourly"]
    assert "activity_sigma" not in missing


def test_a_log_read_without_clock_tells_popularity_and_activity(tmp_path: Path) -> None:
    path = known_log(tmp_path)
    pq.write_table(pq.read_table(path, columns=["user_id", "item_id"]), path)
    with pytest.raises(LogError, match="no column 'timestamp'"):
        fit_profile(path, name="x")
    fitted = fit_profile(path, name="x", time_column=None)
    assert {row.setting for row in fitted.findings if row.fitted} == {
        "popularity.catalogue_items",
        "popularity.exponent",
        "popularity.shift_items",
        "activity_sigma",
    }
    assert unfitted(fitted)["hourly"] == "the log was read without its clock"


def test_a_short_or_small_log_tells_little(tmp_path: Path) -> None:
    path = known_log(tmp_path)
    table = pq.read_table(path)
    pq.write_table(table.slice(0, 40), path)
    small = unfitted(fit_profile(path, name="x"))
    assert small["popularity.exponent"].startswith("only ")
    times = table["timestamp"].to_numpy()
    pq.write_table(table.filter(pa.array(times < times[0] + 5 * 3600)), path)
    short = unfitted(fit_profile(path, name="x"))
    assert "hours, which cuts sessions short" in short["session_length"]
    assert "less than a day" in short["hourly"]
    pq.write_table(table.filter(pa.array(times < times[0] + 2 * 86_400)), path)
    returns = unfitted(fit_profile(path, name="x"))
    assert "too few for returns" in returns["between_sessions"]
    assert "session_length" not in returns


def test_a_log_of_equal_users_on_a_strict_timetable_is_fitted_as_far_as_it_goes(
    tmp_path: Path,
) -> None:
    # Each of 40 users sees 5 items of their own every day, all at once.
    user, day, place = (axis.ravel() for axis in np.indices((40, 8, 5)))
    columns = {"user_id": user, "item_id": user * 5 + place, "timestamp": MONDAY + 86_401 * day}
    order = np.argsort(columns["timestamp"], kind="stable")
    path = tmp_path / "log.parquet"
    pq.write_table(pa.table({name: column[order] for name, column in columns.items()}), path)
    fitted = fit_profile(path, name="x")
    missing = unfitted(fitted)
    assert "seen by two users" in missing["popularity.exponent"]
    assert "or all alike" in missing["gap"]
    assert "or all alike" in missing["between_sessions"]
    length = fitted.profile.session_length
    assert math.exp(length.log_mean.value + 3 * length.log_sigma.value) < 5
    assert math.exp(length.log_mean.value - 3 * length.log_sigma.value) > 4  # rounded up: 5
    assert fitted.profile.activity_sigma.value == pytest.approx(0.0, abs=1e-9)
    assert fitted.profile.new_items_per_request.value == pytest.approx(5.0)


def test_the_catalogue_may_be_given(tmp_path: Path) -> None:
    path = known_log(tmp_path)
    fitted = fit_profile(path, name="x", catalogue_items=9000)
    assert fitted.profile.popularity.catalogue_items.value == 9000
    with pytest.raises(ConfigError, match="catalogue_items 50 is fewer than the"):
        fit_profile(path, name="x", catalogue_items=50)
    with pytest.raises(ConfigError, match="utc_offset_h 30"):
        fit_profile(path, name="x", utc_offset_h=30)
    with pytest.raises(ConfigError, match="did you mean 'taobao'"):
        fit_profile(path, name="x", base="taobo")


TAOBAO_HOURS = [
    0.81, 0.35, 0.20, 0.10, 0.14, 0.19, 0.40, 0.63, 0.75, 0.93, 1.10, 1.06,
    1.00, 1.23, 1.23, 1.32, 1.26, 1.09, 1.13, 1.51, 1.89, 2.18, 2.05, 1.46,
]  # fmt: skip


def test_taobao_gives_the_published_statistics() -> None:
    path = trace("taobao_userbehavior_users1095.parquet")
    fitted = fit_profile(path, name="x", utc_offset_h=8, catalogue_items=4_162_024)
    facts, profile = fitted.facts, fitted.profile
    expected = {
        "events": 109_808,
        "users": 1_095,
        "items": 70_145,
        "events_per_user_p50": 72,
        "events_per_user_p90": 219,
        "gap_log_mean": 4.03,
        "gap_log_sd": 1.36,
        "session_log_mean": 1.17,
        "session_log_sd": 1.05,
        "session_mean": 5.97,
        "between_log_mean": 9.90,
        "between_log_sd": 1.28,
        "single_event_sessions": 0.31,
        "gini": 0.45,
        "repeated_share": 0.24,
        "clock_step_s": 1,
    }
    for name, value in expected.items():
        assert facts[name] == pytest.approx(value, abs=0.006), name
    np.testing.assert_allclose([q.value for q in profile.hourly], TAOBAO_HOURS, atol=0.006)
    assert profile.new_items_per_request.value == pytest.approx(1.10, abs=0.005)
    # Gaps that the log's end cut off make the law wider than the gaps seen, and chance makes users
    # look more unequal (0.845 from the Gini index alone).
    assert profile.between_sessions.log_mean.value == pytest.approx(9.79, abs=0.01)
    assert profile.between_sessions.log_sigma.value == pytest.approx(1.446, abs=0.01)
    assert profile.activity_sigma.value == pytest.approx(0.739, abs=0.01)
    # The published correction for sampling found 0.96 and 2,090; both laws put 36 % of the
    # look-ups on the top 1 % of the items, and 66 % on the top 10 %.
    law = profile.popularity
    assert law.exponent.value == pytest.approx(0.96, abs=0.03)
    assert law.shift_items.value == pytest.approx(2090, rel=0.2)
    ranks = np.arange(1, 4_162_025)
    mass = (ranks + law.shift_items.value) ** -law.exponent.value
    top = np.cumsum(mass) / mass.sum()
    assert top[41_620] == pytest.approx(0.36, abs=0.01)
    assert top[416_202] == pytest.approx(0.66, abs=0.01)


def test_taobaos_sessions_come_back_out_of_the_fitted_laws() -> None:
    fitted = fit_profile(trace("taobao_userbehavior_users1095.parquet"), name="x")
    rng = np.random.default_rng(10)
    length, gap = fitted.profile.session_length, fitted.profile.gap
    drawn = np.ceil(rng.lognormal(length.log_mean.value, length.log_sigma.value, 400_000))
    assert drawn.mean() == pytest.approx(5.97, rel=0.02)
    assert np.quantile(drawn, [0.5, 0.9]) == pytest.approx([3, 15], abs=2)
    gaps = rng.lognormal(gap.log_mean.value, gap.log_sigma.value, 400_000)
    found = np.quantile(gaps[gaps <= 1800], [0.5, 0.9])
    assert found == pytest.approx([55, 336], rel=0.05)


def test_a_filtered_review_log_with_a_daily_clock() -> None:
    fitted = fit_profile(trace("amazon_video_games_5core_ts.parquet"), name="x")
    assert {row.setting for row in fitted.findings if row.fitted} == {
        "popularity.catalogue_items",
        "popularity.exponent",
        "popularity.shift_items",
        "activity_sigma",
    }
    law = fitted.profile.popularity
    mass = (np.arange(1, 10_640) + law.shift_items.value) ** -law.exponent.value
    top = np.cumsum(mass) / mass.sum()
    assert top[105] == pytest.approx(0.118, abs=0.015)  # of the log
    assert top[1063] == pytest.approx(0.445, abs=0.02)
