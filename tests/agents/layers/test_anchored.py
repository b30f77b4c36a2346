"""A policy tied to a planned share, alone and inside the controller, and the search for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from controller_pair import CLOSE, NERVOUS, RESTLESS, Pair
from numpy.typing import NDArray
from small import small_scenario

from helm_gym.agents.controller.controller import HelmController
from helm_gym.agents.controller.telemetry import Reason, empty
from helm_gym.agents.layers import helm as helm_policy
from helm_gym.agents.layers.adapted import AdaptedPolicy
from helm_gym.agents.layers.anchored import Anchor, AnchoredPolicy
from helm_gym.agents.layers.helm import HelmPolicy
from helm_gym.baselines.rule import MAX_MOVE
from helm_gym.baselines.static import StaticPolicy
from helm_gym.benchmark.rows import asked_digest, policy_digest
from helm_gym.config.scenario import Scenario
from helm_gym.envs.observation import FEATURES
from helm_gym.envs.recovery_config import RecoveryConfig
from helm_gym.errors import ConfigError
from helm_gym.evaluation import helm_candidates
from helm_gym.evaluation import search as searching
from helm_gym.evaluation.helm_candidates import Candidate
from helm_gym.evaluation.search import CHEAP, N_CANDIDATES, Budget, grid, search
from helm_gym.evaluation.specs import HELM_SEARCH, HelmSettings, make_policy
from helm_gym.policy import initial_share_of
from helm_gym.runs.rollout import run_policy
from helm_gym.studies.speed.decisions import SITE, example
from helm_gym.suites import seeds as seeds_of

Array = NDArray[Any]
SHARE = [feature.name for feature in FEATURES["extended"]].index("emb_share")


class Up:
    """Asks for more EMB for ever, as a base with a constant error does."""

    control = "cluster"
    observation = "extended"

    def reset(self, seed: int) -> None:
        pass

    def act(self, obs: Array) -> Array:
        return np.clip(obs[:, SHARE : SHARE + 1] + MAX_MOVE, 0.0, 1.0)


def shares_of(scenario: Scenario, policy: Any, seed: int = 5) -> Array:
    return run_policy(scenario, policy, "x", [seed])[0].shares


# The policy


@pytest.mark.parametrize(
    "base", ["ppo:released", "ppo:released-continuous", "balance", "static:0.7"]
)
def test_the_ends_are_a_fixed_share_and_the_base(base: str) -> None:
    scenario = small_scenario(**{"episode.steps": 12})
    fixed = shares_of(scenario, make_policy(f"anchored(at=0.35,follow=0):{base}"))
    np.testing.assert_array_equal(fixed, 0.35)
    free = shares_of(scenario, make_policy(f"anchored(at=0.35,follow=1):{base}"))
    np.testing.assert_array_equal(free, shares_of(scenario, make_policy(base)))


def test_a_share_that_the_base_names_is_followed_in_part() -> None:
    policy = AnchoredPolicy(StaticPolicy(0.8), Anchor(at=0.4, follow=0.25))
    np.testing.assert_allclose(policy.act(np.zeros((3, 7))), 0.5)
    assert initial_share_of(policy) == 0.4


@pytest.mark.parametrize(("follow", "moves"), [(0.25, 1 / 3), (0.5, 1.0), (0.75, 3.0)])
def test_a_base_that_asks_the_same_for_ever_stays_near_the_plan(
    follow: float, moves: float
) -> None:
    scenario = small_scenario(**{"episode.steps": 40})
    free = shares_of(scenario, Up())
    assert free[-1].min() == scenario.episode.share_max  # it runs to the end of the range
    tied = shares_of(scenario, AnchoredPolicy(Up(), Anchor(at=0.35, follow=follow)))
    np.testing.assert_allclose(tied[-1], 0.35 + moves * MAX_MOVE, atol=1e-4)
    assert (np.diff(tied, axis=0) >= -1e-9).all()  # and does not overshoot


def test_a_passing_signal_is_followed_and_forgotten() -> None:
    class Once(Up):
        def __init__(self) -> None:
            self.window = 0

        def act(self, obs: Array) -> Array:
            self.window += 1
            move = MAX_MOVE if 3 <= self.window <= 5 else 0.0
            return np.asarray(obs[:, SHARE : SHARE + 1] + move)

    scenario = small_scenario(**{"episode.steps": 20})
    shares = shares_of(scenario, AnchoredPolicy(Once(), Anchor(at=0.4, follow=0.5)))[:, 0]
    assert shares.max() - 0.4 == pytest.approx(MAX_MOVE * (0.5 + 0.25 + 0.125), abs=1e-4)
    assert abs(shares[-1] - 0.4) < 1e-3


def test_what_a_base_says_of_itself_is_handed_on() -> None:
    inner = make_policy("recovery:ppo:released")
    policy = AnchoredPolicy(inner, Anchor(at=0.4))
    assert (policy.control, policy.observation) == ("per_node", "extended")
    obs = np.full((2, 3, len(FEATURES["extended"])), 0.4, np.float32)
    policy.reset(0)
    assert policy.act(obs).shape == (2, 3)
    np.testing.assert_array_equal(policy.refill_pace, inner.refill_pace)  # type: ignore[attr-defined]
    assert getattr(make_policy("anchored(at=0.4):kv-opt"), "router", None) == "kv_affinity"


def test_an_adapter_around_it_is_saved_and_goes_on(tmp_path: Path) -> None:
    spec = "anchored(at=0.4,follow=0.5):ppo:released"
    obs = np.random.default_rng(0).uniform(0, 1, (4, 1, 3, len(FEATURES["extended"])))
    one, other = (AdaptedPolicy(make_policy(spec), RESTLESS) for _ in range(2))
    one.reset(0)
    for seen in obs[:2]:
        one.act(seen)
    one.save(tmp_path / "state")
    other.load(tmp_path / "state")
    for seen in obs[2:]:
        np.testing.assert_array_equal(one.act(seen), other.act(seen))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("anchored:ppo:released", r"write anchored\(at=0.35"),
        ("anchored(at=0.4", "a bracket is not closed"),
        ("anchored(at=0.4):", "has no base"),
        ("anchored():static:0.5", "has no planned share"),
        ("anchored(follow=0.5):static:0.5", "has no planned share"),
        ("anchored(at=1.4):static:0.5", "less than or equal to 1"),
        ("anchored(at=0.4,follow=2):static:0.5", "less than or equal to 1"),
        ("anchored(at=0.4,folow=1):static:0.5", "did you mean 'follow'"),
        ("anchored(at=nan):static:0.5", "at"),
        ("helm:follow=0.5", "there is none"),
        ("helm:anchor=2", "less than or equal to 1"),
        ("helm:anchor=x", "anchor"),
    ],
)
def test_what_cannot_be_read_says_how_to_write_it(spec: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_policy(spec)


# The controller


@pytest.mark.parametrize("follow", [0.0, 0.25, 0.9, 1.0])
def test_the_controller_decides_as_the_policy(follow: float) -> None:
    layers: dict[str, Any] = {"adapter": RESTLESS, "anchor": Anchor(at=0.35, follow=follow),
                              "recovery": RecoveryConfig.parse(NERVOUS, "x")}  # fmt: skip
    pair = Pair(4, 12, **layers)
    assert pair.policy.adapted is not None
    for _ in range(12):
        wanted, given = pair.decide()
        np.testing.assert_allclose(given, wanted, atol=CLOSE, rtol=0)
        pair.policy.adapted.learn()
        pair.controller.learn()
    assert pair.controller.held.sum() == 0


@pytest.mark.parametrize("anchor", [None, Anchor(at=0.4), Anchor(at=0.97, follow=0.1)])
def test_the_base_alone_decides_as_the_policy(anchor: Anchor | None) -> None:
    policy = HelmPolicy(adapter=None, recovery=None, anchor=anchor)
    controller = HelmController(SITE, 5, adapter=None, recovery=None, anchor=anchor)
    seen: list[float] = []
    for seed in range(30):
        given = controller.decide(example(5, seed)).copy()
        wanted = policy.act(controller.observation[None])[0]
        np.testing.assert_allclose(given, wanted, atol=CLOSE, rtol=0)
        seen.extend(given.tolist())
    assert np.std(seen) > 1e-3 and max(seen) <= 0.9


def test_a_controller_begins_at_the_planned_share_and_holds_as_ever() -> None:
    controller = HelmController(SITE, 3, anchor=Anchor(at=0.35))
    np.testing.assert_array_equal(controller.decide(empty(3)), 0.35)
    assert controller.reasons == (Reason.MISSING,) * 3
    last = controller.decide(example(3)).copy()
    bad = example(3, 1)
    bad[1, 0] = np.nan
    given = controller.decide(bad)
    assert given[1] == last[1] and (given[[0, 2]] != last[[0, 2]]).all()
    controller.reset()
    np.testing.assert_array_equal(controller.shares, 0.35)
    free = HelmController(SITE, 3, anchor=Anchor(at=0.35, follow=1.0))
    np.testing.assert_array_equal(free.shares, SITE.initial_share)
    far = HelmController(SITE, 3, anchor=Anchor(at=0.97))
    np.testing.assert_array_equal(far.shares, SITE.share_max)


def test_the_spec_is_the_composition() -> None:
    scenario = small_scenario(**{"episode.steps": 8})
    long = "recovery:adapted:anchored(at=0.3,follow=0.75):ppo:released"
    short = "helm:anchor=0.3,follow=0.75"
    np.testing.assert_array_equal(
        shares_of(scenario, make_policy(short)), shares_of(scenario, make_policy(long))
    )
    assert initial_share_of(make_policy(short)) == 0.3
    assert make_policy("helm:anchor=0.3").anchor.follow == 0.5  # type: ignore[attr-defined]


# The search


TWO = Budget(tuple(seeds_of.TUNING_SEEDS[:2]))


def test_a_search_has_as_many_settings_as_any_other(tiny: Scenario) -> None:
    wide = tiny.replace({"episode.share_min": 0.1, "episode.share_max": 0.9})
    first = helm_candidates.anchors(0.1, 0.9)
    specs = [candidate.spec for candidate in first]
    assert specs == grid(wide, HELM_SEARCH)
    assert [f"static:{c.anchor:g}" for c in first] == grid(wide, "static:best")
    assert {candidate.follow for candidate in first} == {0.0}
    for best in first:
        tails = {spec: float(spec != best.spec) for spec in specs}
        then = helm_candidates.around(tails, 0.1, 0.9)
        assert len(set(first) | set(then)) == len(first) + len(then) <= N_CANDIDATES
        anchors = [candidate.anchor for candidate in then]
        assert best.anchor in anchors and max(anchors) <= 0.9 and min(anchors) >= 0.1
        assert {candidate.follow for candidate in then} >= set(helm_candidates.FOLLOWS)


def test_a_candidate_is_written_as_it_is_read() -> None:
    said = HelmSettings.of(Candidate(0.35, 0.9).spec)
    assert (said.anchor, said.follow, said.adapter, said.recovery) == (0.35, 0.9, "off", "on")


def test_a_search_takes_the_best_of_both_stages(tiny: Scenario) -> None:
    found = search(tiny, HELM_SEARCH, TWO)
    tails = {spec: figures["tail_ms"] for spec, figures in found.figures.items()}
    assert found.best == min(tails, key=lambda spec: tails[spec])
    planned = {spec: tails[spec] for spec in grid(tiny, HELM_SEARCH)}
    second = helm_candidates.around(planned, tiny.episode.share_min, tiny.episode.share_max)
    assert set(tails) == set(planned) | {candidate.spec for candidate in second}
    assert search(tiny, HELM_SEARCH, TWO) == found
    statics = search(tiny, "static:best", TWO).figures
    share = HelmSettings.of(next(iter(planned))).anchor
    assert planned[Candidate(share or 0.0, 0.0).spec] == statics[f"static:{share:g}"]["tail_ms"]


@pytest.mark.parametrize(("gain", "wanted"), [(0.02, (0.6, 0.75)), (-0.02, (0.6, 0.0))])
def test_the_cheap_search_tries_the_second_stage_around_the_best(
    gain: float, wanted: tuple[float, float], tiny: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: dict[str, int] = {}

    def together(
        scenario: Scenario, specs: Sequence[str], seeds: Sequence[int]
    ) -> Mapping[str, list[Any]]:
        assert scenario.episode.steps * scenario.episode.step_s == CHEAP.seconds
        for spec in specs:
            tried[spec] = tried.get(spec, 0) + len(seeds)
        return {
            spec: [SimpleNamespace(figures={"tail_ms": tail(spec)}) for _ in seeds]
            for spec in specs
        }

    def tail(spec: str) -> float:
        said = HelmSettings.of(spec)
        off = ((said.anchor or 0.0) - 0.61) ** 2
        return off - gain * (0.5 - abs(said.follow - 0.7) if said.follow else 0.0)

    monkeypatch.setattr(searching, "episodes_of", together)
    long = {"episode.step_s": 5.0, "episode.steps": 96, "episode.share_min": 0.1,
            "episode.share_max": 0.9}  # fmt: skip
    found = HelmSettings.of(search(tiny.replace(long), HELM_SEARCH, CHEAP).best)
    assert (found.anchor, found.follow) == wanted
    assert len(tried) == N_CANDIDATES
    assert sum(tried.values()) == N_CANDIDATES + 2 * 6  # as a rule's search


def test_the_cheap_search_stops_after_one_seed_in_a_smoke_test(tiny: Scenario) -> None:
    found = search(tiny, "static:best", CHEAP)
    assert found.best in grid(tiny, "static:best") and set(found.figures) > {found.best}
    assert len({asked_digest(tiny, spec) for spec in ("static:best", HELM_SEARCH)}) == 2


WRAPPED = (
    "adapted:{}",
    "recovery:{}",
    "anchored(at=0.4):{}",
    "recovery:adapted:{}",
    "helm:base={}",
)


@pytest.mark.parametrize("spec", WRAPPED)
def test_a_digest_covers_the_network_inside(spec: str) -> None:
    """Else rows and searches of another base are taken for those of this one."""
    names = ("ppo:released", "ppo:released-continuous")
    made = [make_policy(spec.format(name)) for name in names]
    assert policy_digest(spec, made[0]) != policy_digest(spec, made[1])
    assert policy_digest(spec, made[0]) == policy_digest(spec, make_policy(spec.format(names[0])))


def test_a_search_of_helm_covers_its_base(tiny: Scenario, monkeypatch: pytest.MonkeyPatch) -> None:
    before = asked_digest(tiny, HELM_SEARCH)
    other = helm_policy.load_base("released-continuous")
    monkeypatch.setattr(helm_policy, "load_base", lambda name, allow: other)
    assert asked_digest(tiny, HELM_SEARCH) != before
