"""Each classical policy moves where its paper says, on made-up windows and on made-up plants."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from rules_seen import calm, observed, squeezed

from helm_gym.baselines.kv_opt import KvEmbOpt, knee
from helm_gym.baselines.miss_ratio_curves import lower_hull
from helm_gym.baselines.mpc import LeastSquares, slope_terms, terms
from helm_gym.envs.reading import GHOST, INDEX
from helm_gym.evaluation.specs import make_policy

OVER, UNDER = squeezed(1.5), squeezed(0.4)  # P99 in SLOs
Plant = Callable[[float], np.ndarray]


def plant(best: float, demand: float = 0.75) -> Plant:
    """Windows of two queues whose work is equal, and total delay least, at the share ``best``.

    Link work falls and GPU work rises exponentially with the share; ghosts tell the slopes.
    """

    def window(share: float) -> np.ndarray:
        link, gpu = (demand * np.exp(sign * (share - best)) for sign in (-1.0, 1.0))
        spare = [max(1.0 - u, 0.02) for u in (link, gpu)]
        latency = 0.02 * (link / spare[0] + gpu / spare[1])
        marginal = [squeezed(u * GHOST / 0.01) for u in (link, gpu)]
        return observed(
            emb_share=share,
            link_utilisation=min(link, 2.0),
            gpu_utilisation=min(gpu, 2.0),
            marginal_emb=marginal[0],
            marginal_kv=marginal[1],
            mean_latency=squeezed(latency),
            p99=squeezed(4.0 * latency),
            kv_hit_rate=np.clip(0.6 - (share - best), 0, 1),
            emb_hit_rate=np.clip(0.6 + (share - best), 0, 1),
        )

    return window


def driven(spec: str, window: Plant, share: float, decisions: int) -> np.ndarray:
    """(decisions,) shares of a policy that closes the loop with a plant."""
    policy = make_policy(spec)
    policy.reset(0)
    path = []
    for _ in range(decisions):
        share = float(policy.act(window(share))[0, 0])
        path.append(share)
    return np.array(path)


@pytest.mark.parametrize(
    "spec",
    [
        "balance",
        "aimd:calm=0.01",
        "pid:objective=0.1",
        "hysteresis:start=0.05,bias=0",
        "cliffhanger",
        "marginal-hits",
        "hill:period=1",
        "mrc",
        "mpc",
        "robinhood:tax=0.06",
        "wisp",
    ],
)
@pytest.mark.parametrize("best", [0.35, 0.65])
def test_a_policy_finds_the_share_where_both_stages_are_alike(spec: str, best: float) -> None:
    window = plant(best, demand=0.85)
    for start in (0.5, best - 0.2, best + 0.2):
        end = driven(spec, window, start, 120)[-20:]
        near = 0.15 if spec.startswith("robinhood") else 0.1
        assert abs(end.mean() - best) < near, (start, end)


@pytest.mark.parametrize("spec", ["ucb:explore=0.01,play=1", "thompson:explore=0.01,play=1"])
@pytest.mark.parametrize("best", [0.3, 0.7])
def test_bandits_play_the_good_arms_more(spec: str, best: float) -> None:
    path = driven(f"{spec},max_move=0.12,window=30", plant(best, demand=0.85), 0.5, 300)[100:]
    assert abs(path.mean() - best) < 0.15
    assert np.abs(path - best).mean() < 0.2


def test_aimd_increases_by_a_step_and_decreases_by_a_fraction() -> None:
    policy = make_policy("aimd:up=0.02,down=0.1")
    busy_link = {"link_utilisation": 0.9, "emb_share": 0.4}
    assert policy.act(observed(p99=UNDER, **busy_link))[0, 0] == pytest.approx(0.42)
    assert policy.act(observed(p99=OVER, **busy_link))[0, 0] == pytest.approx(0.46)  # 0.1 of KV
    busy_gpu = {"gpu_utilisation": 0.9, "emb_share": 0.4}
    assert policy.act(observed(p99=UNDER, **busy_gpu))[0, 0] == pytest.approx(0.38)
    assert policy.act(observed(p99=OVER, **busy_gpu))[0, 0] == pytest.approx(0.36)  # 0.1 of EMB
    assert policy.act(calm(0.4))[0, 0] == pytest.approx(0.4)


def test_pid_rests_below_its_objective_and_integrates_above() -> None:
    busy_link = {"link_utilisation": 0.9, "gpu_utilisation": 0.3}
    policy = make_policy("pid:kp=0,kd=0,ki=0.2,objective=1")
    assert policy.act(observed(p99=UNDER, **busy_link))[0, 0] == pytest.approx(0.5)
    error = 0.5 * (OVER - 0.5)  # blame times excess
    for _ in range(2):  # the share in force is the sum: no memory of its own
        chosen = policy.act(observed(p99=OVER, **busy_link))[0, 0]
        assert chosen == pytest.approx(0.5 + 0.2 * error, abs=1e-6)


def test_the_derivative_and_proportional_terms_answer_changes_only() -> None:
    policy = make_policy("pid:kp=0.3,kd=0.1,ki=1e-9,objective=1")
    calm_then = [UNDER, OVER, OVER, OVER]
    moves = [
        policy.act(observed(p99=p, link_utilisation=0.9, gpu_utilisation=0.3))[0, 0] - 0.5
        for p in calm_then
    ]
    error = 0.5 * (OVER - 0.5)
    assert moves == pytest.approx([0.0, 0.4 * error, -0.1 * error, 0.0], abs=1e-6)


def test_hysteresis_starts_late_and_stops_late() -> None:
    policy = make_policy("hysteresis:start=0.2,stop=0.05,step=0.04,bias=0")
    gaps = [0.1, 0.3, 0.1, 0.02, 0.1, -0.3, -0.1, 0.1]
    moves = [
        policy.act(observed(kv_hit_rate=0.5 + gap, emb_hit_rate=0.5))[0, 0] - 0.5 for gap in gaps
    ]
    want = [0.0, 0.04, 0.04, 0.0, 0.0, -0.04, -0.04, 0.0]
    assert moves == pytest.approx(want, abs=1e-6)


def test_the_climber_goes_on_turns_round_and_starts_anew() -> None:
    policy = make_policy("hill:step=0.05,decay=0.5,restart=0.5,period=1")
    latencies = [1.0, 0.9, 1.0, 0.9, 0.2]  # better, worse, better, a jump
    moves = [
        policy.act(observed(mean_latency=squeezed(x), link_utilisation=0.9))[0, 0] - 0.5
        for x in latencies
    ]
    assert moves == pytest.approx([0.05, 0.025, -0.0125, -0.00625, -0.05], abs=1e-6)


def test_shadow_credits_are_paid_in_proportion() -> None:
    emb, kv = squeezed(3.0), squeezed(1.0)  # 0.03 and 0.01 s/s
    seen = observed(marginal_emb=emb, marginal_kv=kv)
    assert make_policy("cliffhanger:credit=2").act(seen)[0, 0] == pytest.approx(0.54, abs=1e-6)
    assert make_policy("cliffhanger:credit=0.5").act(seen)[0, 0] == pytest.approx(0.51, abs=1e-6)
    mirrored = observed(marginal_emb=kv, marginal_kv=emb)
    assert make_policy("cliffhanger:credit=2").act(mirrored)[0, 0] == pytest.approx(0.46, abs=1e-6)


def test_marginal_hits_moves_whole_slabs_and_smooths_ranks() -> None:
    policy = make_policy("marginal-hits:slab=0.02,keep=0.6,rest=0.1")
    firsts = [1, 1, 0, 0, 1]  # who gains more: EMB, EMB, KV, KV, EMB
    moves = [
        policy.act(observed(marginal_emb=0.3 + 0.4 * emb, marginal_kv=0.5))[0, 0] - 0.5
        for emb in firsts
    ]
    # ranks 0.4, 0.64, -0.016 (rests), -0.41, 0.154
    assert moves == pytest.approx([0.02, 0.02, 0.0, -0.02, 0.02], abs=1e-6)


def test_hits_per_slab_feeds_the_better_average_beyond_both_gaps() -> None:
    policy = make_policy("hits-per-slab:weight=1,gap=0.1,ratio=0.1,slab=0.02")
    cases = {0.6: 0.5, 0.62: 0.5, 0.7: 0.52, 0.5: 0.48}  # EMB hit rate -> share; KV's is 0.6
    for emb, share in cases.items():
        chosen = policy.act(observed(emb_hit_rate=emb))[0, 0]
        assert chosen == pytest.approx(share, abs=1e-6), emb


def test_tail_age_feeds_the_side_that_evicts_younger_content() -> None:
    policy = make_policy("tail-age:exchange=0.2,slab=0.02,ratio=0.25")
    # EMB is 0.5 / 0.6 = 0.83 old; KV 0.2 * 0.5 / (1 * 0.4 * 0.6) = 0.42.
    assert policy.act(calm(0.5))[0, 0] == pytest.approx(0.48)
    assert policy.act(observed(link_utilisation=1.9))[0, 0] == pytest.approx(0.52)  # EMB 0.26
    assert policy.act(observed(link_utilisation=1.1))[0, 0] == pytest.approx(0.5)  # 0.45: alike


def test_robinhood_pays_its_tax_to_the_stage_that_blocks() -> None:
    policy = make_policy("robinhood:tax=0.01,sharp=8")
    for share in (0.2, 0.6):
        blocked = observed(emb_share=share, link_utilisation=0.9, gpu_utilisation=0.3)
        want = share + 0.01 * (1.0 - share)
        assert policy.act(blocked)[0, 0] == pytest.approx(want, abs=1e-5)
        free = observed(emb_share=share, link_utilisation=0.3, gpu_utilisation=0.9)
        assert policy.act(free)[0, 0] == pytest.approx(0.99 * share, abs=1e-5)


def test_the_hull_is_below_convex_and_touches() -> None:
    rng = np.random.default_rng(0)
    curves = np.sort(rng.uniform(size=(20, 2, 17)), axis=-1)[..., ::-1]
    hull = lower_hull(curves)
    assert (hull <= curves + 1e-12).all()
    assert np.diff(hull, 2).min() > -1e-12
    np.testing.assert_allclose(hull[..., [0, -1]], curves[..., [0, -1]])
    np.testing.assert_allclose(lower_hull(hull), hull)  # nothing convex lies between
    cliff = np.where(np.arange(9) < 6, 1.0, 0.0)
    np.testing.assert_allclose(lower_hull(cliff)[:7], 1.0 - np.arange(7) / 6.0)


def test_least_squares_learns_a_surface_from_values_and_slopes() -> None:
    rng = np.random.default_rng(0)
    true = rng.normal(size=(3, 5, 2))
    model = LeastSquares(3)
    for _ in range(200):
        share, candidates = rng.uniform(size=3), rng.uniform(size=3)
        for x in (terms(share, candidates), slope_terms(share, candidates)):
            model.forget(0.99)
            model.learn(x, np.einsum("rt,rto->ro", x, true))
    np.testing.assert_allclose(model.coefficients, true, atol=1e-3)


def test_least_squares_stays_calm_where_nothing_changes() -> None:
    model, x = LeastSquares(1), terms(np.array([0.5]), np.array([0.3]))
    rng = np.random.default_rng(0)
    for _ in range(5000):
        model.forget(0.8)
        model.learn(x, 0.7 + 0.01 * rng.normal(size=(1, 2)))
    np.testing.assert_allclose(model.predict(x), 0.7, atol=0.05)
    assert np.abs(model.coefficients).max() < 10.0


def test_slope_terms_are_the_derivative_of_terms() -> None:
    share, candidates, h = np.linspace(0.1, 0.9, 5), np.linspace(0.0, 1.0, 5), 1e-6
    difference = (terms(share + h, candidates) - terms(share - h, candidates)) / (2 * h)
    np.testing.assert_allclose(slope_terms(share, candidates), difference, atol=1e-8)


def test_a_toll_keeps_the_forecaster_where_it_is() -> None:
    window = plant(0.65, demand=0.6)
    assert driven("mpc:toll=0.01", window, 0.4, 30)[-1] > 0.55
    assert driven("mpc:toll=100", window, 0.4, 30)[-1] == pytest.approx(0.4, abs=0.03)


def test_the_forecaster_hedges_against_what_was_usual() -> None:
    """After a long time of many candidates, few of them move a hedger less."""

    def ends(hedge: float) -> float:
        policy = make_policy(f"mpc:toll=0.01,hedge={hedge},max_move=1")
        policy.reset(0)
        rng = np.random.default_rng(0)
        for n in range(120):  # shares are drawn: the same windows for every hedge
            many = 0.8 if n < 80 or n % 2 else 0.1
            window = plant(0.2 + 0.6 * many, demand=0.8)(float(rng.uniform(0.2, 0.8)))
            window[:, INDEX["mean_candidates"]] = many
            policy.act(window)
        window = plant(0.26, demand=0.8)(0.5)
        window[:, INDEX["mean_candidates"]] = 0.1
        return float([policy.act(window)[0, 0] for _ in range(4)][-1])

    sure, hedging = ends(0.0), ends(1.0)
    assert hedging > sure + 0.1
    assert sure < 0.4


def test_bandits_play_neighbours_only_and_remember_a_window() -> None:
    policy = make_policy("ucb:play=1,reach=1,step=0.1,max_move=1,window=5,explore=0.3")
    policy.reset(0)
    share, arms = 0.5, []
    for n in range(60):
        share = float(policy.act(observed(emb_share=share, mean_latency=0.1 + 0.4 * (n % 3)))[0, 0])
        arms.append(round((share - 0.1) / 0.1))
    assert np.abs(np.diff(arms)).max() == 1
    assert len(set(arms)) >= 3
    assert len(policy._plays) == 5


def test_thompson_draws_by_seed() -> None:
    window = plant(0.5)
    one, same, other = (
        driven(f"thompson:explore=0.3,play=1,seed={seed}", window, 0.5, 40) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_the_knee_is_where_the_curve_leaves_its_chord_most() -> None:
    x = np.linspace(0.1, 0.9, 9)
    saturating = np.minimum(x, 0.3)
    assert x[knee(x, saturating)] == pytest.approx(0.3)
    assert knee(x, np.ones(9)) == 0
    assert knee(x[:1], x[:1]) == 0
    figures = {
        f"kv-emb-opt:share={share:g}": {"emb_hit_rate": hit, "tail_ms": 100.0 - share}
        for share, hit in zip(x, saturating, strict=True)
    }
    assert KvEmbOpt.choose(figures) == "kv-emb-opt:share=0.3"  # the tail has no say
