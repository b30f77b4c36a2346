"""The compiled decision path equals the policies that it is made of, and fails safe."""

from __future__ import annotations

import subprocess
import sys
import threading
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from controller_pair import CLOSE, NERVOUS, RESTLESS, Pair, scenario_of
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from helm_gym.agents.adapter.net import initial_weights
from helm_gym.agents.controller.controller import HelmController
from helm_gym.agents.controller.telemetry import (
    N_COLUMNS,
    ClusterColumn,
    NodeColumn,
    Reason,
    Site,
    empty,
)
from helm_gym.agents.layers.helm import load_base
from helm_gym.agents.models.actor import Actor
from helm_gym.agents.models.layers import layers_of
from helm_gym.agents.models.trained import TrainedPolicy
from helm_gym.agents.models.view import STEPS
from helm_gym.envs.recovery_config import RecoveryConfig
from helm_gym.envs.recovery_machine import Stage
from helm_gym.errors import ConfigError, PolicyError
from helm_gym.evaluation.specs import make_policy
from helm_gym.runs.rollout import run_policy
from helm_gym.studies.speed.decisions import SITE, example, measure, table, torch_network


@pytest.fixture(scope="module")
def base() -> TrainedPolicy:
    return load_base("released")


def restless_weights(seed: int = 0) -> Any:
    """Of a residual that says something."""
    weights = initial_weights(42, seed)
    return weights._replace(w3=np.random.default_rng(seed).normal(size=weights.w3.shape))


@pytest.mark.parametrize("nodes", [1, 8, 32])
def test_it_decides_as_the_policy_with_the_learners_weights_copied_in(nodes: int) -> None:
    pair = Pair(nodes, 16, adapter=RESTLESS, recovery=RecoveryConfig.parse(NERVOUS, "x"))
    adapted = pair.policy.adapted
    assert adapted is not None
    stages, moved = set(), 0.0
    for _ in range(16):
        wanted, given = pair.decide()
        np.testing.assert_allclose(given, wanted, atol=CLOSE, rtol=0)
        stages.update(pair.controller.stages.tolist())
        adapted.learn()
        learner = adapted.learners[0]
        moved = max(moved, float(np.abs(learner.weights.w3).max()))
        pair.controller.load_adapter(learner.weights, learner.gate)
    assert moved > 0.0 and Stage.BURST in stages  # all three layers had a say
    assert pair.controller.held.sum() == 0


def test_it_learns_as_the_policy_does() -> None:
    pair = Pair(4, 16, adapter=RESTLESS)
    assert pair.policy.adapted is not None
    for _ in range(16):
        wanted, given = pair.decide()
        np.testing.assert_allclose(given, wanted, atol=CLOSE, rtol=0)
        pair.policy.adapted.learn()
        pair.controller.learn()
    learner = pair.controller.learner
    assert learner is not None and learner.updates > 0
    assert learner.updates == pair.policy.adapted.learners[0].updates


@pytest.mark.parametrize("layers", [{"adapter": None}, {"adapter": None, "recovery": None}])
def test_it_decides_as_the_policy_without_some_layers(layers: dict[str, Any]) -> None:
    pair = Pair(3, 8, **layers)
    for _ in range(8):
        wanted, given = pair.decide()
        np.testing.assert_allclose(given, wanted, atol=CLOSE, rtol=0)


@pytest.mark.parametrize("name", ["released", "released-continuous"])
def test_the_base_equals_torch(name: str) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    base = load_base(name)
    network = torch_network(base)
    nodes = 8
    controller = HelmController(SITE, nodes, base=base, adapter=None, recovery=None)
    view, seen_shares = base.card.view, []
    for seed in range(200):
        given = controller.decide(example(nodes, seed)).copy()
        observation = controller.observation
        with torch.inference_mode():
            output = network(torch.tensor(view.see(observation))).numpy()
        if view.action == "choice":
            output = output.argmax(axis=1)
        wanted = view.shares(output, observation, None)[:, 0]
        np.testing.assert_allclose(given, wanted, atol=CLOSE, rtol=0)
        seen_shares.extend(wanted.tolist())
    assert np.std(seen_shares) > 0.05  # it answered differently


@pytest.mark.parametrize("widths", [(7,), (64, 64), (96, 20, 33), (16, 16, 16, 80)])
@pytest.mark.parametrize(
    "changed",
    [{}, {"context": False}, *({"action": a, "bound": 0.06} for a in ("increment", "choice"))],
)
def test_networks_of_other_sizes_and_views(
    base: TrainedPolicy, widths: tuple[int, ...], changed: dict[str, Any]
) -> None:
    view = base.card.view.model_copy(update=changed)
    rng = np.random.default_rng(len(widths))
    chooses = view.action == "choice"
    sizes, made = (view.inputs, *widths, len(STEPS) if chooses else 1), {}
    for n, (inputs, outputs) in enumerate(pairwise(sizes)):
        scale = 2.0 * inputs**-0.5
        made[f"weight{n}"] = rng.normal(0.0, scale, (outputs, inputs)).astype(np.float32)
        made[f"bias{n}"] = rng.normal(0.0, 0.1, outputs).astype(np.float32)
    other = load_base("released")
    other.card = base.card.model_copy(update={"view": view})
    other.actor = Actor("ppo", made, chooses=chooses)
    controller = HelmController(SITE, 5, base=other, adapter=None, recovery=None)
    for seed in range(5):
        given = controller.decide(example(5, seed))
        wanted = other.act(controller.observation[None])[0]
        np.testing.assert_allclose(given, wanted, atol=2e-6, rtol=0)


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        (NodeColumn.KV_HITS, np.nan, Reason.MISSING),
        (NodeColumn.TIME_S, np.nan, Reason.MISSING),
        (NodeColumn.TIME_S, -11.0, Reason.ABSURD),  # times are not negative
        (NodeColumn.ARRIVED, -1.0, Reason.ABSURD),
        (NodeColumn.LINK_S, np.inf, Reason.ABSURD),
        (NodeColumn.SHED, 1e9, Reason.ABSURD),
        (NodeColumn.ARRIVED, 2.0**64, Reason.ABSURD),  # a counter that began anew
        (NodeColumn.SHARE, 1.5, Reason.ABSURD),
        (NodeColumn.TIME_S, 980.0, Reason.STALE),
        (NodeColumn.TIME_S, 2000.0, Reason.ABSURD),
    ],
)
def test_a_bad_node_holds_its_share_and_the_others_go_on(
    column: int, value: float, reason: Reason
) -> None:
    controller = HelmController(SITE, 4)
    controller.load_adapter(restless_weights())
    telemetry = example(4)
    telemetry[:-1, NodeColumn.TIME_S] = telemetry[-1, ClusterColumn.NOW_S] = 995.0
    last = controller.decide(telemetry).copy()
    bad = example(4, seed=1)
    bad[:-1, NodeColumn.TIME_S] = bad[-1, ClusterColumn.NOW_S] = 1000.0
    bad[2, column] = value
    given = controller.decide(bad).copy()
    assert given[2] == last[2]
    assert (given[[0, 1, 3]] != last[[0, 1, 3]]).all()
    assert controller.reasons == (Reason.NONE, Reason.NONE, reason, Reason.NONE)
    assert controller.held.tolist() == [0, 0, 1, 0]
    bad[2] = example(4, seed=1)[2]
    bad[2, NodeColumn.TIME_S] = 1000.0
    assert controller.decide(bad)[2] != last[2]  # and it comes back
    assert controller.held.tolist() == [0, 0, 1, 0]


def test_a_window_that_cannot_be_leaves_no_trace() -> None:
    hit, spared = (HelmController(SITE, 2, adapter=None, recovery=None) for _ in range(2))
    for window in range(12):
        telemetry = example(2, seed=window)
        telemetry[:-1, NodeColumn.TIME_S] = telemetry[-1, ClusterColumn.NOW_S] = window * 5.0
        if window == 3:
            lost = telemetry.copy()
            lost[0, NodeColumn.ARRIVED], telemetry[0] = 2.0**64, np.nan
            hit.decide(lost)
        else:
            hit.decide(telemetry)
        spared.decide(telemetry)
        np.testing.assert_array_equal(hit.shares, spared.shares)
    assert hit.held.tolist() == spared.held.tolist() == [1, 0]


def test_how_old_telemetry_may_be_is_a_setting() -> None:
    telemetry = example(2)
    telemetry[-1, ClusterColumn.NOW_S] = 100.0
    telemetry[:-1, NodeColumn.TIME_S] = [100.0, 84.0]  # three periods and a bit
    for max_age, held in ((2.0, 1), (4.0, 0)):
        controller = HelmController(SITE, 2, max_age=max_age)
        controller.decide(telemetry)
        assert controller.held.sum() == held


def test_the_first_decision_without_data_is_the_initial_share() -> None:
    site = SITE.model_copy(update={"initial_share": 0.37})
    controller = HelmController(site, 3)
    assert (controller.decide(empty(3)) == 0.37).all()
    assert controller.held.tolist() == [1, 1, 1]
    telemetry = example(3)
    telemetry[-1, ClusterColumn.NOW_S] = np.nan
    assert (controller.decide(telemetry) == 0.37).all()


def test_a_lost_p99_holds_all_but_an_idle_cluster_has_none() -> None:
    controller = HelmController(SITE, 2)
    telemetry = example(2)
    telemetry[-1, ClusterColumn.P99_S] = np.nan
    controller.decide(telemetry)
    assert controller.reasons == (Reason.NO_P99, Reason.NO_P99)
    idle = [NodeColumn.ARRIVED, NodeColumn.SHED, NodeColumn.WITHIN_SLO, NodeColumn.HOT]
    telemetry[:-1, idle] = 0.0
    controller.decide(telemetry)
    assert controller.reasons == (Reason.NONE, Reason.NONE)


ANYTHING = st.floats(allow_nan=True, allow_infinity=True, width=64)


@settings(max_examples=150, deadline=None)
@given(
    changes=arrays(np.float64, (4, N_COLUMNS), elements=ANYTHING),
    where=arrays(np.bool_, (4, N_COLUMNS)),
)
def test_shares_stay_in_range_whatever_comes(changes: Any, where: Any) -> None:
    controller = HelmController(SITE, 3)
    controller.load_adapter(restless_weights())
    for telemetry in (example(3), np.where(where, changes, example(3)), example(3, 1), changes):
        given = controller.decide(np.ascontiguousarray(telemetry))
        assert np.isfinite(given).all() and (given >= 0.1).all() and (given <= 0.9).all()
        pace = controller.refill_pace
        assert np.isfinite(pace).all() and (pace >= 0.0).all() and (pace <= 1.0).all()


@pytest.mark.parametrize(
    "telemetry",
    [
        np.zeros((3, N_COLUMNS)), np.zeros((5, N_COLUMNS - 1)), np.zeros(7), None,
        np.zeros((5, N_COLUMNS), np.float32), np.zeros((N_COLUMNS, 5)).T, [], [[0.0]], "telemetry",
        np.zeros((5, N_COLUMNS), ">f8"), np.zeros((5, N_COLUMNS)).view(np.recarray), set(),
        np.broadcast_to(0.0, (5, N_COLUMNS)), np.array([["a"]]),
    ],
)  # fmt: skip
def test_telemetry_of_another_kind_is_refused_and_changes_nothing(telemetry: Any) -> None:
    controller = HelmController(SITE, 4)
    before = controller.decide(example(4)).copy()
    with pytest.raises(PolicyError, match=r"float64 array of shape \(5, 20\)"):
        controller.decide(telemetry)
    np.testing.assert_array_equal(controller.shares, before)


def test_telemetry_is_not_written_to_and_shares_cannot_be() -> None:
    controller = HelmController(SITE, 4)
    telemetry = example(4)
    kept = telemetry.copy()
    shares = controller.decide(telemetry)
    np.testing.assert_array_equal(telemetry, kept)
    with pytest.raises(ValueError, match="read-only"):
        shares[0] = 0.5


def test_a_window_seen_twice_moves_the_averages_once() -> None:
    controller = HelmController(SITE, 2, recovery=None, adapter=None)
    first, second = example(2, 0), example(2, 1)
    second[:-1, NodeColumn.TIME_S] = second[-1, ClusterColumn.NOW_S] = SITE.step_s
    controller.decide(first)
    once = controller.decide(second).copy()
    np.testing.assert_array_equal(controller.decide(second), once)


def test_weights_come_in_between_decisions_while_another_thread_loads_them() -> None:
    controller = HelmController(SITE, 8)
    telemetry, known = example(8), [restless_weights(seed) for seed in (1, 2)]
    answers = []
    for weights in known:
        controller.load_adapter(weights)
        controller.decide(telemetry)  # twice: averages and the machine stand still then
        answers.append(controller.decide(telemetry).copy())
    assert not np.array_equal(*answers)
    over = threading.Event()

    def load() -> None:
        while not over.is_set():
            for weights in known:
                controller.load_adapter(weights)

    loader = threading.Thread(target=load)
    loader.start()
    try:
        for _ in range(2000):
            given = controller.decide(telemetry)
            assert any(np.array_equal(given, answer) for answer in answers)
    finally:
        over.set()
        loader.join()


def test_reset_forgets_everything() -> None:
    controller = HelmController(SITE, 3)
    first = [controller.decide(example(3, seed)).copy() for seed in range(4)]
    controller.decide(empty(3))
    controller.reset()
    assert (controller.shares == SITE.initial_share).all() and controller.held.sum() == 0
    again = [controller.decide(example(3, seed)).copy() for seed in range(4)]
    np.testing.assert_array_equal(again, first)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Site(step_s=5.0), "Site: slo_s: Field required"),
        (lambda: Site(**{**SITE.model_dump(), "slo_s": "soon"}), "Site: slo_s: .*'soon'"),
        (lambda: Site(**{**SITE.model_dump(), "slo_s": np.nan}), "Site: slo_s: .*finite"),
        (lambda: Site(**SITE.model_dump(), slo=0.1), "slo: unknown key; did you mean 'slo_s'"),
        (lambda: HelmController(SITE, 0), "at least one node"),
        (lambda: HelmController(SITE.model_copy(update={"slo_s": 0.0}), 1), "slo_s=0"),
        (lambda: HelmController(SITE.model_copy(update={"initial_share": 2.0}), 1), "order"),
        (lambda: HelmController(SITE, 1, max_age=0.0), "max_age"),
        (lambda: HelmController(SITE, 1, base="dqn:released"), "dqn with action"),
        (lambda: HelmController(SITE, 1, adapter=None).load_adapter(restless_weights()), "no resi"),
        (lambda: HelmController(SITE, 1).load_adapter(initial_weights(7, 0)), "hidden, inputs"),
        (
            lambda: HelmController(SITE, 1).load_adapter(restless_weights(), gate=np.nan),
            "not finite",
        ),
    ],
)
def test_what_cannot_work_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_the_spec_is_the_composition() -> None:
    scenario = scenario_of(3, 6)
    specs = {
        "helm": "recovery:adapted:ppo:released",
        "helm:adapter=off": "recovery:ppo:released",
        "helm:recovery=off,adapter=on": "adapted:ppo:released",
        "helm:adapter=off,recovery=off": "ppo:released",
        "helm:base=released": "recovery:adapted:ppo:released",
    }
    for short, long in specs.items():
        runs = [run_policy(scenario, make_policy(spec), spec, [5])[0] for spec in (short, long)]
        np.testing.assert_array_equal(runs[0].shares, runs[1].shares)


@pytest.mark.parametrize("written", ["adapter=maybe", "gain=1", "base=", "adapter"])
def test_a_spec_that_cannot_be_read_says_how_to_write_it(written: str) -> None:
    with pytest.raises(ConfigError, match=r"helm:adapter=off,recovery=off|be 'on' or 'off'"):
        make_policy(f"helm:{written}")


def test_deciding_loads_no_torch() -> None:
    code = (
        "import sys; from helm_gym.agents.controller.controller import HelmController; "
        "from helm_gym.studies.speed.decisions import SITE, example; "
        "HelmController(SITE, 2).decide(example(2)); "
        "print([m for m in ('torch', 'stable_baselines3', 'onnx') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300
    )
    assert done.stdout.strip() == "[]"


def test_the_timings_name_every_way(base: TrainedPolicy) -> None:
    found = list(measure(base, many=2, calls=10, rounds=1))
    assert len({(row.name, row.nodes) for row in found}) == 12
    for row in found:
        assert row.skipped or (0.0 < row.fastest <= row.median <= row.p99 and row.cold > 0.0)
    assert table(found).row_count == 12
    assert len(layers_of(base)) == 3
