"""The request source: draws against their laws, the stream against its schedule.

Statistical checks run on fixed seeds; their tolerances are standard errors, four of them unless
said otherwise, or p-values far below any that a sound generator would show by chance.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from reference_workload import Draws, Source
from scipy import integrate, stats
from scipy.special import erf, ndtr, ndtri
from small import REGIMES, small_scenario, started, wandering_shares, with_params

from helm_gym.config.scenario import Scenario
from helm_gym.errors import SimulationError
from helm_gym.seeding import N_STREAMS, Stream, draw_streams, streams_from_seed
from helm_gym.sim import arrivals, kernel, lowering, rng
from helm_gym.sim.layout import Node
from helm_gym.sim.simulator import SETTLE_AT_MOST_S, SETTLE_SESSIONS, Simulator
from helm_gym.workload import session_laws
from helm_gym.workload.regimes import build_schedule

STANDARD_ERRORS = 4.0
SMALLEST_P = 1e-4
ONE_REQUEST = {"log_mean": -50, "log_sigma": 0.001}  # rounded up to a session of one


def within(sample: np.ndarray, expected: float) -> None:
    """The mean of independent draws is the expected one."""
    error = sample.std(ddof=1) / math.sqrt(sample.size)
    assert abs(sample.mean() - expected) < STANDARD_ERRORS * error, (sample.mean(), expected, error)


def law(sample: np.ndarray, cdf: Any) -> None:
    assert stats.kstest(sample, cdf).pvalue > SMALLEST_P


# -- draws -----------------------------------------------------------------------------------------


def test_splitmix64_is_the_published_one() -> None:
    """First outputs for seed 1234567, from the generator's reference code."""
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    states = np.array([0, 1234567], np.uint64)
    for number in published:
        assert rng.uniform(states, 1) == ((number >> 11) + 0.5) / 2**53
    assert states[0] == 0, "streams must not touch each other"


def test_uniforms_are_uniform_and_uncorrelated() -> None:
    states = streams_from_seed(3)
    for stream in range(N_STREAMS):
        sample = np.array([rng.uniform(states, stream) for _ in range(5000)])
        law(sample, "uniform")
        assert abs(np.corrcoef(sample[1:], sample[:-1])[0, 1]) < STANDARD_ERRORS / math.sqrt(5000)


def test_streams_of_neighbouring_seeds_are_unrelated() -> None:
    draws = []
    for seed in (7, 8):
        states = streams_from_seed(seed)
        draws.append([rng.uniform(states, Stream.GAP) for _ in range(4000)])
    assert abs(np.corrcoef(*draws)[0, 1]) < STANDARD_ERRORS / math.sqrt(4000)
    assert len(set(streams_from_seed(7).tolist())) == N_STREAMS
    drawn = draw_streams(np.random.default_rng(1))
    assert drawn.dtype == np.uint64
    assert drawn.shape == (N_STREAMS,)


def test_normal_quantile_is_exact() -> None:
    tails = 10.0 ** -np.arange(2, 17)
    p = np.concatenate([np.linspace(0.001, 0.999, 999), tails, 1 - tails[:12]])
    found = np.array([rng.normal_quantile(x) for x in p])
    np.testing.assert_allclose(found, ndtri(p), rtol=5e-15, atol=1e-16)


def test_normal_cdf_is_exact() -> None:
    z = np.linspace(-8, 8, 321)
    np.testing.assert_allclose([rng.normal_cdf(x) for x in z], ndtr(z), rtol=1e-13)


@pytest.mark.parametrize("cv", [0.3, 1.0, 1.8])
def test_intervals_have_mean_one_and_the_stated_variation(cv: float) -> None:
    states = streams_from_seed(4)
    sample = np.array([rng.unit_interval(states, Stream.START, cv) for _ in range(8000)])
    law(sample, stats.gamma(cv**-2, scale=cv**2).cdf)


@pytest.mark.parametrize("mean", [0.0, 0.3, 1.0, 2.6])
def test_new_items_per_request(mean: float) -> None:
    states = streams_from_seed(5)
    sample = np.array([kernel.new_items(states, mean) for _ in range(4000)], float)
    assert set(np.unique(sample)) <= {math.floor(mean), math.ceil(mean)}
    if mean % 1:
        within(sample, mean)


class Drawing:
    """Single draws from a scenario's source."""

    def __init__(self, seed: int = 1, **changes: Any) -> None:
        self.simulator = started(small_scenario(**changes), seed)
        self.source = self.simulator.lowered.params.source
        self.users = self.simulator.lowered.users
        self.arrivals = self.simulator.states[0].arrivals

    def lengths(self, surface: int, n: int) -> np.ndarray:
        draw = arrivals.draw_length
        return np.array([draw(self.arrivals, self.source, surface) for _ in range(n)])

    def gaps(self, surface: int, n: int) -> np.ndarray:
        draw = arrivals.draw_gap
        return np.array([draw(self.arrivals, self.source, surface) for _ in range(n)])

    def users_at(self, time: float, n: int, surface: int = 0) -> np.ndarray:
        """(n, 2) user and interest group of sessions that start at ``time``."""
        draw, given = arrivals.draw_user, (self.arrivals, self.users, self.source)
        return np.array([draw(*given, time, surface) for _ in range(n)])


@pytest.mark.parametrize(("surface", "mu", "sigma"), [(0, 1.2, 0.6), (1, 0.9, 0.5)])
def test_session_lengths(surface: int, mu: float, sigma: float) -> None:
    sample = Drawing().lengths(surface, 8000)
    top = 12  # the rest is rare
    edges = np.append(np.log(np.arange(1, top)), np.inf)
    expected = np.diff(ndtr((edges - mu) / sigma), prepend=0.0) * sample.size
    counted = np.bincount(np.minimum(sample, top), minlength=top + 1)[1:]
    assert stats.chisquare(counted, expected).pvalue > SMALLEST_P
    scenario = small_scenario()
    laws = scenario.workload.surfaces[1].session_length, scenario.workload.profile.session_length
    within(sample.astype(float), session_laws.mean_length(laws[0] if surface else laws[1]))


def test_gaps_are_cut_and_scaled() -> None:
    sample = Drawing(**{"workload.surfaces.0.gap_scale": 3.0}).gaps(0, 8000)
    mu, sigma, cut = -1.0, 1.0, 5.0
    below = ndtr((math.log(cut) - mu) / sigma)
    assert sample.max() <= 3.0 * cut
    law(sample, lambda x: np.minimum(1, ndtr((np.log(x / 3.0) - mu) / sigma) / below))
    profile = small_scenario().workload.profile
    within(sample, session_laws.mean_gap(profile.gap, 3.0))


def test_mean_gap_and_length_are_the_integrals() -> None:
    profile = small_scenario().workload.profile
    mu, sigma, cut = -1.0, 1.0, 5.0
    density = stats.lognorm(sigma, scale=math.exp(mu)).pdf
    top, _ = integrate.quad(lambda x: x * density(x), 0, cut)
    below, _ = integrate.quad(density, 0, cut)
    assert session_laws.mean_gap(profile.gap, 2.0) == pytest.approx(2.0 * top / below, rel=1e-7)
    lengths = np.ceil(np.exp(1.2 + 0.6 * ndtri((np.arange(1e6) + 0.5) / 1e6)))
    assert session_laws.mean_length(profile.session_length) == pytest.approx(
        lengths.mean(), rel=1e-4
    )


def test_activity_of_users_has_the_stated_gini() -> None:
    """Users in order of activity: a session's user has quantile ``Phi(Z + sigma)``."""
    sigma, users = 0.8, 3000
    drawing = Drawing(**{"workload.users": users})
    found = drawing.users_at(0.0, 8000)
    quantile = (found[:, 0] + 0.5) / users
    law(quantile, lambda q: ndtr(ndtri(np.clip(q, 1e-9, 1 - 1e-9)) - sigma))
    within(2 * quantile - 1, float(erf(sigma / 2)))  # Gini: twice the area under the Lorenz curve
    assert np.array_equal(found[:, 1], drawing.users["group"][found[:, 0]])


BURST = {**REGIMES["burst"], "amplitude": 4, "new_user_share": 0.3, "hot_item_share": 0.6}


def test_what_a_burst_brings() -> None:
    drawing = Drawing(**{"workload.regime": BURST, "workload.users": 1000})
    schedule = drawing.simulator.lowered.schedule
    quiet, busy = (float(np.flatnonzero(schedule.excess[:, 0] == e)[0]) + 0.5 for e in (0, 0.75))
    hot_group = drawing.source.burst_group
    before = drawing.users_at(quiet, 4000)
    assert (before[:, 0] < 1000).all()
    assert (before[:, 1] < hot_group).all()
    during = drawing.users_at(busy, 8000)
    newcomer, hot = during[:, 0] >= 1000, during[:, 1] == hot_group
    within(newcomer.astype(float), 0.75 * 0.3)
    within(hot.astype(float), 0.75 * 0.6)
    within((newcomer & hot).astype(float), 0.75 * 0.3 * 0.6)
    newcomers = during[newcomer, 0] - 1000
    n_new = drawing.users.size - 1000
    assert stats.kstest((newcomers + 0.5) / n_new, "uniform").pvalue > SMALLEST_P


def test_users_have_the_histories_and_groups_of_the_profile() -> None:
    history = {"log_mean": 8.0, "log_sigma": 0.6, "shortest": 1500}
    changes = {"workload.profile.history": history, "hardware.model.max_history": 9000}
    users = lowering.lower(small_scenario(**changes, **{"workload.users": 20_000})).users
    sample = users["history"]
    assert (sample.min(), sample.max()) == (1500, 9000)
    inside = sample[(sample > 1500) & (sample < 9000)] + 0.5  # draws are rounded down
    low, high = (ndtr((math.log(edge) - 8.0) / 0.6) for edge in (1501, 9000))
    law(inside, lambda x: (ndtr((np.log(x) - 8.0) / 0.6) - low) / (high - low))
    assert stats.chisquare(np.bincount(users["group"], minlength=4)).pvalue > SMALLEST_P


# -- the stream ----------------------------------------------------------------------------------


def stream(simulator: Simulator, seconds: float) -> np.ndarray:
    """(R, 2) instant and user of all requests."""
    step = simulator.scenario.episode.step_s
    nodes = simulator.scenario.nodes
    rows = [simulator.record(np.full(nodes, 0.5), 0)[:, :2] for _ in range(round(seconds / step))]
    return np.concatenate(rows)


def single_requests(**changes: Any) -> Scenario:
    """Sessions of one request, so that requests are what starts are."""
    surfaces = [
        {"name": n, "candidates": c, "session_length": ONE_REQUEST}
        for n, c in (("A", 256), ("B", 1024))
    ]
    return small_scenario(
        **{"nodes": 1, "workload.surfaces": surfaces, "episode.step_s": 20.0, **changes}
    )


def test_poisson_starts() -> None:
    simulator = started(single_requests(**{"workload.load": 2.0}))
    times = stream(simulator, 60)[:, 0]
    rate, seconds = 300.0, 60
    assert abs(times.size - rate * seconds) < STANDARD_ERRORS * math.sqrt(rate * seconds)
    law(np.diff(times), stats.expon(scale=1 / rate).cdf)
    counts = np.bincount(times.astype(int), minlength=seconds)
    dispersion = counts.var(ddof=1) / counts.mean()
    assert abs(dispersion - 1) < STANDARD_ERRORS * math.sqrt(2 / (seconds - 1))


@pytest.mark.parametrize("cv", [0.5, 1.6])
def test_gamma_starts(cv: float) -> None:
    simulator = started(single_requests(**{"workload.session_start_cv": cv}))
    gaps = np.diff(stream(simulator, 100)[:, 0])
    law(gaps, stats.gamma(cv**-2, scale=cv**2 / 150.0).cdf)
    counts = np.bincount(np.cumsum(gaps).astype(int))[:-1]
    dispersion = counts.var(ddof=1) / counts.mean()  # of a renewal process: cv², for long windows
    assert dispersion == pytest.approx(cv**2, rel=STANDARD_ERRORS * math.sqrt(2 / counts.size))


@pytest.mark.parametrize("regime", ["phases", "trend", "burst"])
def test_starts_follow_the_schedule(regime: str) -> None:
    simulator = started(single_requests(**{"workload.regime": REGIMES[regime]}))
    schedule = simulator.lowered.schedule
    laps = round(100 / schedule.period_s)
    times = stream(simulator, 20 * math.ceil(laps * schedule.period_s / 20))[:, 0]
    times = times[times < laps * schedule.period_s]
    counts = np.bincount((times % schedule.period_s).astype(int))
    expected = 150.0 * schedule.rate.sum(axis=1) * laps
    z = (counts - expected) / np.sqrt(expected)
    assert np.sum(z**2) < stats.chi2(counts.size).isf(SMALLEST_P)
    assert expected.max() > 1.2 * expected.min(), "a schedule that does not change proves little"


@pytest.mark.parametrize(("mix", "share"), [({"A": 2, "B": 1}, 1 / 3), ({"A": 1, "B": 9}, 0.9)])
def test_a_mix_is_a_share_of_requests(mix: dict[str, float], share: float) -> None:
    """Sessions on A are longer than on B, so shares of sessions would differ."""
    simulator = started(small_scenario(**{"workload.mix": mix, "episode.step_s": 10.0}))
    batches = []
    for _ in range(40):
        sums = simulator.step(np.full((1, 3), 0.5)).node[0].sum(axis=0)
        mean = sums[Node.CANDIDATES] / sums[Node.ARRIVED]
        batches.append((mean - 256) / (1024 - 256))
    within(np.array(batches), share)


def test_mix_of_phases_reaches_the_requests() -> None:
    regime = {
        "kind": "phases",
        "ramp_s": 0,
        "phases": [{"duration_s": 4, "mix": {"A": 1}}, {"duration_s": 6, "mix": {"A": 1, "B": 3}}],
    }
    simulator = started(single_requests(**{"workload.regime": regime, "episode.step_s": 2.0}))
    shares = []
    for _ in range(50):
        sums = simulator.step(np.full((1, 1), 0.5)).node[0, 0]
        shares.append((sums[Node.CANDIDATES] / sums[Node.ARRIVED] - 256) / 768)
    folded = np.array(shares).reshape(-1, 5)
    assert not folded[:, :2].any()
    within(folded[:, 2:].ravel(), 0.75)


def test_requests_come_at_the_stated_rate_from_the_start() -> None:
    """Sessions under way when the clock starts: as many as later, however long their tail.

    The session lengths are Taobao's; a tenth of their requests come later than four mean session
    durations after the session's start.
    """
    length = {"log_mean": 1.17, "log_sigma": 1.05}
    ratios = []
    for seed in range(10):
        scenario = small_scenario(
            **{
                "structure_seed": seed,  # it decides which sessions are under way
                "workload.load": 4.0,
                "workload.surfaces": [{"name": "A", "candidates": 64, "gap_scale": 0.3}],
                "workload.mix": {},
                "workload.profile.session_length": length,
                "episode.step_s": 4.0,
            }
        )
        ratios.append(len(stream(started(scenario, seed), 4)) / (4 * 4.0 * 150 * 3))
    ratio = np.array(ratios)
    error = ratio.std(ddof=1) / math.sqrt(ratio.size)
    assert error < 0.015
    assert abs(ratio.mean() - 1) < max(STANDARD_ERRORS * error, 0.01), f"{ratio.mean()} +- {error}"


def test_the_rate_stays_what_it_is() -> None:
    simulator = started(small_scenario(**{"episode.step_s": 10.0}))
    counts = [len(stream(simulator, 10)) / 10 for _ in range(40)]
    within(np.array(counts), 450.0)


def heap_stream(scenario: Scenario, seed: int, seconds: float) -> np.ndarray:
    """The same requests from a heap: nothing can be lost in it, or come out of order."""
    low = lowering.lower(scenario)
    draws = Draws(streams_from_seed(scenario.structure_seed).tolist())
    source = Source(scenario, low, draws, -min(SETTLE_SESSIONS * low.session_s, SETTLE_AT_MOST_S))
    while source.next_before(0.0):
        pass
    draws.states = streams_from_seed(seed).tolist()
    rows = []
    while asked := source.next_before(seconds):
        rows.append((asked.time, asked.user))
    return np.array(rows)


# Buckets that hold one request in a hundred, a few, or many. The first two do not reach as far as
# the longest gap, so sessions wait in the last bucket and are filed again.
@pytest.mark.parametrize("bucket_s", [2e-5, 1e-4, 0.02, 0.4])
def test_the_calendar_queue_is_a_heap(bucket_s: float) -> None:
    scenario = small_scenario(**{"workload.load": 3.0, "workload.session_start_cv": 1.5})
    simulator = Simulator(scenario)
    with_params(simulator, source={"bucket_s": bucket_s})
    reach = simulator.lowered.sizes.buckets * bucket_s
    assert (reach < 2) == (bucket_s < 1e-3)
    simulator.reset(0, streams_from_seed(2))
    found = stream(simulator, 4)
    assert (np.diff(found[:, 0]) >= 0).all()
    np.testing.assert_allclose(found, heap_stream(scenario, 2, 4), rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize(
    ("source", "message"),
    [({"bucket_s": 1e4}, "bucket overflowed"), ({"starts": 1e5}, "more sessions are active")],
)
def test_a_source_that_overflows_says_so(source: dict[str, float], message: str) -> None:
    simulator = Simulator(small_scenario(**{"workload.load": 50.0}))
    if "starts" in source:
        source = {"starts": np.full(60, source["starts"]), "bucket_s": 1e-5}
    with_params(simulator, source=source)
    with pytest.raises(SimulationError, match=message):
        simulator.reset(0, streams_from_seed(1))
        for shares in wandering_shares(1, 20, 3):
            simulator.step(shares[None])


# -- schedules -----------------------------------------------------------------------------------


def schedule_of(regime: dict[str, Any], seed: int = 0, **changes: Any):
    scenario = small_scenario(**{"workload.regime": regime, **changes})
    return build_schedule(scenario.workload, np.random.default_rng(seed))


def test_steady_schedule() -> None:
    schedule = schedule_of(REGIMES["steady"])
    np.testing.assert_allclose(schedule.rate, np.tile([2 / 3, 1 / 3], (len(schedule.rate), 1)))
    assert not schedule.excess.any()


def test_phases_ramp_into_each_other() -> None:
    regime = {
        "kind": "phases",
        "ramp_s": 4,
        "phases": [
            {"duration_s": 10, "mix": {"A": 1}, "capacity_rps_per_node": 300},
            {"duration_s": 20, "mix": {"A": 1, "B": 1}, "capacity_rps_per_node": 75},
        ],
    }
    schedule = schedule_of(regime)  # relative to the busiest phase
    first, second = np.array([1.0, 0.0]), np.array([0.125, 0.125])
    assert schedule.period_s == 30
    np.testing.assert_allclose(schedule.rate[:6], np.tile(first, (6, 1)))
    np.testing.assert_allclose(schedule.rate[10:26], np.tile(second, (16, 1)))
    for second_of_ramp, part in enumerate((0.125, 0.375, 0.625, 0.875)):  # middles of cells
        there, back = schedule.rate[6 + second_of_ramp], schedule.rate[26 + second_of_ramp]
        np.testing.assert_allclose(there, (1 - part) * first + part * second)
        np.testing.assert_allclose(back, (1 - part) * second + part * first)


def test_trend_reads_the_hourly_table() -> None:
    hourly = [1.0 + 0.1 * hour for hour in range(24)]
    regime = {"kind": "trend", "start_hour": 22, "span_hours": 4, "speedup": 36}
    regime["mix_end"] = {"B": 1}
    schedule = schedule_of(regime, **{"workload.profile.hourly": hourly})
    assert schedule.period_s == 400
    hours = 22 + (np.arange(400) + 0.5) * 36 / 3600
    table = np.interp(hours, [22, 23, 24, 25, 26], [3.2, 3.3, 1.0, 1.1, 1.2])
    np.testing.assert_allclose(schedule.rate.sum(axis=1), table / table.max())
    share_b = schedule.rate[:, 1] / schedule.rate.sum(axis=1)
    np.testing.assert_allclose(share_b, np.interp(np.arange(400) + 0.5, [0, 400], [1 / 3, 1]))


def test_drift_follows_the_speedup_unless_told() -> None:
    def rate(**changes: Any) -> float:
        regime = {"kind": "trend", "speedup": 60, **changes}
        scenario = small_scenario(**{"workload.regime": regime})
        return lowering.lower(scenario).params.source.drift_rate

    assert rate() == pytest.approx(math.log(2) / (3600 / 60))
    assert rate(drift_half_life_s=500.0) == pytest.approx(math.log(2) / 500)
    assert lowering.lower(small_scenario()).params.source.drift_rate == 0


def test_bursts_come_and_go() -> None:
    regime = {**BURST, "on_s": [5, 9], "off_s": [20, 40], "cycles": 50}
    schedule = schedule_of(regime, seed=3)
    on = schedule.excess[:, 0] > 0
    total = schedule.rate.sum(axis=1)
    np.testing.assert_allclose(total, np.where(on, 4.0, 1.0))
    np.testing.assert_allclose(schedule.excess, np.where(on, 0.75, 0.0)[:, None] * np.ones(2))
    assert not on[0]
    changes = np.flatnonzero(np.diff(on)) + 1
    stretches = np.diff(np.concatenate([[0], changes, [on.size]]))
    assert stretches.size == 100
    assert set(stretches[::2]) <= set(range(20, 41))
    assert set(stretches[1::2]) <= set(range(5, 10))
    assert len(set(stretches[1::2])) > 2, "lengths are drawn"
    other = schedule_of(regime, seed=4)
    assert other.rate.shape != schedule.rate.shape or (other.rate != schedule.rate).any()
