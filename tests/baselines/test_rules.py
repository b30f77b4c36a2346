"""What all classical policies share: rows, limits, memory, settings, searches and a short run."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
from rules_seen import calm, observed, wandering

from helm_gym.baselines.feedback import Aimd
from helm_gym.baselines.registry import RULES
from helm_gym.baselines.rule import Rule
from helm_gym.config.scenario import Scenario
from helm_gym.envs.observation import FEATURES
from helm_gym.envs.reading import INDEX, read
from helm_gym.errors import ConfigError
from helm_gym.evaluation.search import N_CANDIDATES, Budget, candidates, search
from helm_gym.evaluation.specs import FORMS, SEARCHES, make_policy
from helm_gym.policy import Policy, initial_share_of
from helm_gym.runs.rollout import run_policy, with_router
from helm_gym.suites import seeds as seeds_of

SPECS = {name: "kv-emb-opt:share=0.4" if name == "kv-emb-opt" else name for name in RULES}
FIXED = ("kv-opt", "kv-emb-opt")
MOVING = [name for name in RULES if name not in FIXED]


def shares(spec: str, series: np.ndarray, seed: int = 0) -> np.ndarray:
    """(T, rows) of a fresh policy's answers to (T, rows, F) observations."""
    policy = make_policy(spec)
    policy.reset(seed)
    return np.stack([policy.act(obs)[:, 0] for obs in series])


@pytest.mark.parametrize("name", RULES)
def test_a_row_is_decided_alike_alone_and_among_others(name: str) -> None:
    series = wandering(rows=5, windows=25)
    together = shares(SPECS[name], series)
    for row in range(5):
        alone = shares(SPECS[name], series[:, row : row + 1], seed=row)
        np.testing.assert_allclose(alone[:, 0], together[:, row], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", RULES)
def test_nodes_of_a_cluster_are_rows(name: str) -> None:
    series = wandering(rows=6, windows=8)
    flat = shares(SPECS[name], series)
    policy = make_policy(SPECS[name])
    policy.reset(0)
    for window, want in zip(series, flat, strict=True):
        chosen = policy.act(window.reshape(2, 3, -1))
        assert chosen.shape == (2, 3)
        np.testing.assert_allclose(chosen.reshape(-1), want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", MOVING)
def test_moves_are_limited_and_stay_in_the_unit_interval(name: str) -> None:
    series = wandering(rows=4, windows=40)
    at = read(series.reshape(-1, series.shape[-1])).share.reshape(40, 4)
    for limit in (0.01, 0.06):
        chosen = shares(f"{name}:max_move={limit}", series)
        assert np.abs(chosen - at).max() <= limit + 1e-9
        assert chosen.min() >= 0.0 and chosen.max() <= 1.0
    assert np.abs(chosen - at).max() > 0.0  # it is not that it never moves


@pytest.mark.parametrize("name", RULES)
def test_reset_forgets(name: str) -> None:
    series, other = wandering(rows=2, windows=20, seed=1), wandering(rows=2, windows=20, seed=2)
    policy = make_policy(SPECS[name])
    policy.reset(0)
    first = np.stack([policy.act(obs) for obs in series])
    for obs in other:
        policy.act(obs)
    policy.reset(0)
    np.testing.assert_array_equal(np.stack([policy.act(obs) for obs in series]), first)


@pytest.mark.parametrize("name", RULES)
def test_nothing_breaks_where_nothing_was_seen(name: str) -> None:
    """Without a warm-up the first window is all zeros; a dead stage makes the opposite extremes."""
    features = FEATURES["extended"]
    lowest, highest = (
        np.array([[getattr(feature, end) for feature in features]], np.float32)
        for end in ("low", "high")
    )
    chosen = shares(SPECS[name], np.stack([lowest, highest, lowest, highest, highest]))
    assert np.isfinite(chosen).all()


@pytest.mark.parametrize("name", RULES)
def test_a_rule_meets_the_protocol_and_runs(name: str, tiny: Scenario) -> None:
    policy = make_policy(SPECS[name])
    assert isinstance(policy, Policy) and isinstance(policy, Rule)
    seeds = seeds_of.EVALUATION_SEEDS[:2]
    together = run_policy(tiny, policy, name, seeds)
    alone = run_policy(tiny, make_policy(SPECS[name]), name, seeds[1:])
    assert together[1].figures == alone[0].figures
    np.testing.assert_array_equal(together[1].shares, alone[0].shares)
    moved = sum(episode.figures["share_moved"] for episode in together)
    assert (moved == 0.0) == (name in FIXED) or name in ("aimd", "pid")  # they may find no fault


@pytest.mark.parametrize("name", RULES)
def test_every_candidate_is_a_policy_with_the_settings_that_it_names(name: str) -> None:
    rule = RULES[name]
    if not rule.SEARCH:
        assert name == "kv-emb-opt"
        return
    specs = candidates(rule)
    assert len(set(specs)) == len(specs) <= N_CANDIDATES
    assert specs == candidates(rule)
    for spec in specs:
        made = make_policy(spec)
        written = dict(pair.split("=") for pair in spec.partition(":")[2].split(","))
        assert {key: str(getattr(made, key)) for key in written} == {
            key: str(type(getattr(made, key))(value)) for key, value in written.items()
        }


def test_a_search_larger_than_allowed_is_a_random_part_of_itself() -> None:
    class Wide(Aimd):
        SEARCH: ClassVar = {
            "up": (0.01, 0.02, 0.03, 0.04, 0.05, 0.06),
            "down": tuple(n / 50 for n in range(9)),
        }

    specs = candidates(Wide)
    assert len(specs) == N_CANDIDATES < 54
    assert len({make_policy(spec).up for spec in specs}) > 3
    assert len({make_policy(spec).down for spec in specs}) > 5


def test_every_rule_has_a_search_and_a_form() -> None:
    assert {f"{name}:best" for name in ("static", *RULES, "helm")} == set(SEARCHES)
    assert set(RULES) < set(FORMS)
    assert all(len(rule.__doc__ or "") > 100 for rule in RULES.values())


def test_a_search_finds_the_settings_with_the_lowest_tail(tiny: Scenario) -> None:
    found = search(tiny, "kv-opt:best", Budget(tuple(seeds_of.TUNING_SEEDS[:2])))
    tails = {spec: figures["tail_ms"] for spec, figures in found.figures.items()}
    assert list(tails) == ["kv-opt:share=0.1", "kv-opt:share=0.15", "kv-opt:share=0.2"]
    assert found.best == min(tails, key=lambda spec: tails[spec])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("aimd:up=-0.1", r"aimd: up='-0\.1': .*greater than or equal to 0"),
        ("aimd:control=nodes", r"aimd: control='nodes': .*'cluster' or 'node'"),
        ("aimd:upp=0.1", "did you mean 'up'"),
        ("aimd:up=fast", "up='fast': .*valid number"),
        ("aimd:NAME=x", "is no setting"),
        ("pid:objective=inf", "pid: objective='inf'"),
        ("hill:period=1.5", r"hill: period='1\.5': .*integer"),
        ("hill:figure=p95", "hill: figure='p95'"),
        ("mrc:reach=0", r"mrc: reach='0': .*greater than 0"),
        ("mpc:keep=0", "mpc: keep"),
        ("ucb:window=0", "ucb: window"),
        ("thompson:max_move=2", "thompson: max_move"),
        ("kv-emb-opt", "kv-emb-opt:best"),
        ("kv-opt:share=1.2", "kv-opt: share"),
        ("aimd:best", "grid search"),
        ("robin-hood", "did you mean 'robinhood'"),
        ("adim:up=0.1", "did you mean 'aimd'"),
    ],
)
def test_a_wrong_spec_says_what_is_wrong(spec: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_policy(spec)


def test_settings_become_what_their_annotations_say() -> None:
    made = make_policy("hill:period=3,figure=p99,control=node")
    assert (made.period, made.figure, made.control) == (3, "p99", "node")


def test_a_policys_router_replaces_the_scenarios(tiny: Scenario) -> None:
    kv_opt = make_policy("kv-opt")
    assert with_router(tiny, kv_opt).router.name == "kv_affinity" != tiny.router.name
    assert with_router(tiny, make_policy("aimd")) is tiny
    by_hand = tiny.replace({"router.name": "kv_affinity"})
    seeds = seeds_of.EVALUATION_SEEDS[:1]
    (got,) = run_policy(tiny, kv_opt, "x", seeds)
    (want,) = run_policy(by_hand, make_policy("static:0.1"), "x", seeds)
    (other,) = run_policy(tiny, make_policy("static:0.1"), "x", seeds)
    assert got.figures == want.figures != other.figures


def test_static_systems_begin_where_they_stay() -> None:
    assert initial_share_of(make_policy("kv-opt:share=0.15")) == 0.15
    assert initial_share_of(make_policy("kv-emb-opt:share=0.3")) == 0.3
    for spec, share in (("kv-opt", 0.1), ("kv-emb-opt:share=0.3", 0.3)):
        np.testing.assert_allclose(make_policy(spec).act(calm(share)), share)


def test_signals_are_the_observation_in_units() -> None:
    obs = observed(
        p99=0.75, mean_latency=0.2, arrival_rate_fast=0.5, marginal_emb=0.5, emb_share=0.3
    )
    seen = read(obs)
    assert seen.p99[0] == pytest.approx(3.0)
    assert seen.latency[0] == pytest.approx(0.25)
    assert seen.rate[0] == pytest.approx(1.0)
    assert seen.marginal_emb[0] == pytest.approx(0.01)
    assert seen.share[0] == pytest.approx(0.3)
    assert list(INDEX) == [feature.name for feature in FEATURES["extended"]]
