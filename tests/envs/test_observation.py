"""Features against their formulas, and inside their ranges whatever the load."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helm_gym.config.scenario import Scenario
from helm_gym.envs.action import Layout
from helm_gym.envs.observation import FAST_S, FEATURES, SLOW_S, Observer
from helm_gym.envs.single_env import EmbKvEnv
from helm_gym.envs.vector_env import EmbKvVectorEnv
from helm_gym.errors import ConfigError
from helm_gym.sim.layout import N_BINS, N_CLUSTER, N_NODE, N_NODE_SUMS, Node
from helm_gym.sim.simulator import Telemetry

NAMES = [feature.name for feature in FEATURES["extended"]]
NODES = 4


def window(node: np.ndarray, p99_s: Any = np.nan) -> Telemetry:
    figures = np.full((len(node), N_CLUSTER), np.nan)
    figures[:, :] = np.reshape(p99_s, (-1, 1))
    counts = np.zeros((len(node), N_BINS), np.uint32)
    return Telemetry(node, figures, counts, counts)


def node_sums(**columns: Any) -> np.ndarray:
    """(1, 4, N_NODE) sums, one value for all nodes or one per node."""
    sums = np.zeros((1, NODES, N_NODE))
    for name, value in columns.items():
        sums[0, :, Node[name]] = value
    return sums


SUMS = node_sums(
    ARRIVED=[100, 200, 300, 400],
    SHED=[0, 20, 0, 100],
    WITHIN_SLO=[100, 150, 270, 200],
    LATENCY_S=[1.0, 1.8, 6.0, 9.0],
    WAIT_S=[0.1, 0.9, 3.0, 6.0],
    KV_HITS=[50, 45, 150, 30],
    LOOKUP_BYTES=[4e9, 8e9, 8e9, 20e9],
    MISS_BYTES=[1e9, 1e9, 4e9, 2e9],
    LINK_S=[0.5, 1.0, 2.0, 4.5],
    GPU_S=[1.0, 2.0, 3.0, 4.0],
    HISTORY_TOKENS=[3e5, 6e5, 3e5, 8e5],
    CANDIDATES=[1024e2, 2048e2, 4096e2, 1e6],
    HOT=[40, 60, 150, 400],
    GHOST_KV_S=[0.05, 0.0, 0.1, 0.05],
    LINK_DELAY_S=[0.0, 0.01, 0.02, 0.15],
    GPU_DELAY_S=[0.0, 0.03, 0.06, 0.09],
    REFILL_BACKLOG=[0.0, 1e9, 2e9, 1e9],
    MARGINAL_EMB_S=[0.01, 0.02, 0.0, 0.01],
)
SHARES = np.array([[0.1, 0.3, 0.5, 0.7]])
P99_S = 0.06
# Per node, then over the cluster; SLO 30 ms, deadline 150 ms, pool 4 GB, window 5 s.
BY_HAND: dict[str, tuple[list[float], float]] = {
    "hot_user_share": ([0.4, 0.3, 0.5, 1.0], 0.65),
    "kv_hit_rate": ([0.5, 0.25, 0.5, 0.1], 275 / 880),
    "emb_hit_rate": ([0.75, 0.875, 0.5, 0.9], 0.8),
    "mean_sequence_length": (
        [3000 / 16384, 3000 / 16384, 1000 / 16384, 2000 / 16384],
        2000 / 16384,
    ),
    "slo_violation_rate": ([0.0, 0.25, 0.1, 0.5], 0.28),
    "emb_share": ([0.1, 0.3, 0.5, 0.7], 0.4),
    "p99": ([60 / 90] * 4, 60 / 90),
    "link_queue_delay": ([0.0, 1 / 15, 2 / 15, 1.0], 0.3),
    "gpu_queue_delay": ([0.0, 0.2, 0.4, 0.6], 0.3),
    "link_utilisation": ([0.1, 0.2, 0.4, 0.9], 0.4),
    "gpu_utilisation": ([0.2, 0.4, 0.6, 0.8], 0.5),
    "refill_backlog": ([0.0, 0.25, 0.5, 0.25], 0.25),
    "shed_rate": ([0.0, 0.1, 0.0, 0.25], 0.12),
    "mean_candidates": (
        [1024 / 4096, 1024 / 4096, 1365.333 / 4096, 2500 / 4096],
        (1024e2 + 2048e2 + 4096e2 + 1e6) / 1000 / 4096,
    ),
    "marginal_emb": ([0.5, 2 / 3, 0.0, 0.5], 0.5),
    "marginal_kv": ([0.5, 0.0, 2 / 3, 0.5], 0.5),
    "mean_latency": ([10 / 40, 10 / 40, 20 / 50, 30 / 60], (17.8 / 880) / (17.8 / 880 + 0.03)),
    "mean_wait": ([1 / 150, 5 / 150, 10 / 150, 20 / 150], 10 / 880 / 0.15),
    "cluster_share": ([0.4] * 4, 0.4),
}
# These have a memory: test_arrival_rates_are_exponential_averages.
RATES = {"arrival_rate_fast", "arrival_rate_slow"}


def observer(tiny: Scenario, control: str, preset: str = "extended") -> Observer:
    return Observer(tiny, Layout(control, 1, NODES), preset)


@pytest.mark.parametrize("name", BY_HAND)
def test_every_feature_is_its_formula(tiny: Scenario, name: str) -> None:
    per_node, whole = BY_HAND[name]
    seen = {
        control: observer(tiny, control).observe(window(SUMS, P99_S), SHARES)
        for control in ("cluster", "per_node", "node")
    }
    column = NAMES.index(name)
    np.testing.assert_allclose(seen["cluster"][0, :, column], [whole], rtol=1e-5)
    for control in ("per_node", "node"):
        np.testing.assert_allclose(seen[control][0, :, column], per_node, rtol=1e-5)


def test_every_feature_is_checked_by_hand() -> None:
    assert {*BY_HAND, *RATES} == set(NAMES)


def test_paper7_is_the_beginning_of_extended(tiny: Scenario) -> None:
    assert FEATURES["extended"][:7] == FEATURES["paper7"]
    for control in ("cluster", "per_node"):
        short, long = (
            observer(tiny, control, preset).observe(window(SUMS, P99_S), SHARES)
            for preset in ("paper7", "extended")
        )
        np.testing.assert_array_equal(short, long[..., :7])


@pytest.mark.parametrize("control", ["cluster", "node"])
def test_arrival_rates_are_exponential_averages(tiny: Scenario, control: str) -> None:
    watching = observer(tiny, control)
    all_clusters = np.ones(1, np.bool_)
    nominal = 0.9 * 100 * 5  # requests per node and window
    counts = np.array([[300, 450, 600, 450], [900, 0, 600, 450], [100, 450, 600, 1350]])
    loads = (
        counts / nominal if control == "node" else counts.sum(axis=1, keepdims=True) / nominal / 4
    )
    expected = np.stack([loads[0], loads[0]], axis=-1)
    watching.start(window(node_sums(ARRIVED=counts[0])), all_clusters)
    for count, load in zip(counts[1:], loads[1:], strict=True):
        watching.follow(window(node_sums(ARRIVED=count)), all_clusters)
        keep = np.exp(-5 / np.array([FAST_S, SLOW_S]))
        expected = keep * expected + (1 - keep) * load[:, None]
    seen = watching.observe(window(node_sums(ARRIVED=counts[-1])), SHARES)
    for column, name in enumerate(("arrival_rate_fast", "arrival_rate_slow")):
        wanted = expected[:, column] / (1 + expected[:, column])
        np.testing.assert_allclose(seen[0, :, NAMES.index(name)], wanted, rtol=1e-5)


def test_only_the_chosen_clusters_are_followed(tiny: Scenario) -> None:
    watching = Observer(tiny, Layout("cluster", 2, NODES), "extended")
    both = np.repeat(node_sums(ARRIVED=900), 2, axis=0)
    watching.start(window(both), np.array([True, False]))
    np.testing.assert_allclose(watching.rates[:, 0, 0], [2.0, 1.0])
    watching.follow(window(both * 0), np.array([False, True]))
    np.testing.assert_allclose(watching.rates[:, 0, 0], [2.0, np.exp(-5 / FAST_S)])


@pytest.mark.parametrize("control", ["cluster", "node"])
def test_nothing_arrived(tiny: Scenario, control: str) -> None:
    seen = observer(tiny, control).observe(window(node_sums()), SHARES)
    values = dict(zip(NAMES, seen[0, 0], strict=True))
    busy = {name: value for name, value in values.items() if value != 0}
    assert set(busy) == {"emb_share", "cluster_share", *RATES}


@pytest.mark.parametrize("control", ["cluster", "node"])
def test_everything_was_shed(tiny: Scenario, control: str) -> None:
    seen = observer(tiny, control).observe(window(node_sums(ARRIVED=10, SHED=10)), SHARES)
    values = dict(zip(NAMES, seen[0, 0].astype(float), strict=True))
    assert values["p99"] == values["mean_latency"] == pytest.approx(150 / 180)
    assert values["mean_wait"] == values["shed_rate"] == values["slo_violation_rate"] == 1.0


@settings(max_examples=60, deadline=None)
@given(data=st.data(), control=st.sampled_from(["cluster", "per_node", "node"]))
def test_observations_stay_in_the_space(data: st.DataObject, control: str) -> None:
    from conftest import TINY

    tiny = Scenario.load(TINY)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    size = 10.0 ** data.draw(st.integers(-3, 18))
    sums = rng.uniform(0, size, (2, NODES, N_NODE)) * (rng.random((2, NODES, N_NODE)) < 0.6)
    arrived = np.floor(sums[..., Node.ARRIVED])
    sums[..., Node.ARRIVED] = arrived
    sums[..., Node.SHED] = np.floor(arrived * rng.choice([0, 0.5, 1], arrived.shape))
    for part, whole in (
        (Node.WITHIN_SLO, Node.ARRIVED), (Node.KV_HITS, Node.ARRIVED),
        (Node.HOT, Node.ARRIVED), (Node.MISS_BYTES, Node.LOOKUP_BYTES),
    ):  # fmt: skip
        sums[..., part] = np.floor(sums[..., whole] * rng.random(arrived.shape))
    p99 = np.array([np.nan if rng.random() < 0.3 else size * rng.random() for _ in range(2)])
    watching = Observer(tiny, Layout(control, 2, NODES), "extended")
    shares = rng.uniform(0, 1, (2, NODES))
    watching.start(window(sums, p99), np.array([True, False]))
    watching.follow(window(sums, p99), np.array([True, True]))
    seen = watching.observe(window(sums, p99), shares)
    assert seen.dtype == np.float32
    assert np.isfinite(seen).all()
    assert (seen >= watching.low).all()
    assert (seen <= watching.high).all()


@pytest.mark.parametrize("load", [1e-9, 0.02, 30.0])
@pytest.mark.parametrize("control", ["cluster", "per_node", "node"])
def test_observations_stay_in_the_space_at_any_load(
    tiny: Scenario, load: float, control: str
) -> None:
    env = EmbKvVectorEnv(
        2,
        scenario=tiny,
        overrides={"workload.load": load, "episode.warmup_s": 5},
        control=control,
        observation="extended",
    )
    observations, _ = env.reset(seed=1)
    for share in (0.9, 0.1, 0.5, 0.9):
        assert observations in env.observation_space
        observations, rewards, _, _, _ = env.step(np.full(env.action_space.shape, share))
        assert np.isfinite(rewards).all()
    assert observations in env.observation_space


def test_without_a_warm_up_the_first_observation_is_neutral(tiny: Scenario) -> None:
    env = EmbKvEnv(tiny, overrides={"episode.warmup_s": 0}, observation="extended")
    observation, info = env.reset(seed=1, options={"start": 0})
    assert observation in env.observation_space
    values = dict(zip(NAMES, observation.astype(float), strict=True))
    assert values["arrival_rate_fast"] == values["arrival_rate_slow"] == 0.5
    assert values["emb_share"] == info["emb_share"] == 0.5
    assert np.isnan(info["p99_ms"])


def test_an_unknown_preset_is_named_with_the_nearest(tiny: Scenario) -> None:
    with pytest.raises(ConfigError, match="observation='extendet'; did you mean 'extended'"):
        EmbKvEnv(tiny, observation="extendet")


def test_the_card_lists_the_observation_space(tiny: Scenario) -> None:
    """The docstring's table, parsed, is the space."""
    card = EmbKvEnv.__doc__ or ""
    section = card.split("## Observation Space")[1].split("## Rewards")[0]
    rows = [line.strip().strip("|").split("|") for line in section.splitlines() if "|" in line]
    table = [[cell.strip() for cell in row] for row in rows]
    assert table[0] == ["Num", "Observation", "Min", "Max", "Unit"]
    assert set(table[1]) == {"---"}
    listed = table[2:]
    assert [int(row[0]) for row in listed] == list(range(len(listed)))
    for preset, features in FEATURES.items():
        part = listed[: len(features)]
        assert [(r[1], float(r[2]), float(r[3]), r[4]) for r in part] == [
            (feature.name, feature.low, feature.high, feature.unit) for feature in features
        ]
        space = EmbKvEnv(tiny, observation=preset).observation_space
        assert space.shape == (len(part),)
        np.testing.assert_array_equal(space.low, [float(row[2]) for row in part])
        np.testing.assert_array_equal(space.high, [float(row[3]) for row in part])
    assert len(listed) == len(FEATURES["extended"])


def test_levels_come_after_the_sums() -> None:
    """The clusters' features divide sums by the window and levels by the nodes."""
    levels = {Node.LINK_DELAY_S, Node.GPU_DELAY_S, Node.REFILL_BACKLOG, Node.MARGINAL_EMB_S}
    assert all(level >= N_NODE_SUMS for level in levels)
    assert Node.GHOST_KV_S < N_NODE_SUMS
