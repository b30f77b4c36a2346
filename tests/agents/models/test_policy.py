"""A trained policy decides as SB3 would, needs no torch, and refuses what is not one."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("stable_baselines3")

from agents_small import train_small
from small import SMALL
from stable_baselines3 import PPO

from helm_gym.agents.models.files import CARD
from helm_gym.agents.models.trained import TrainedPolicy
from helm_gym.envs.observation import FEATURES
from helm_gym.envs.vector_env import EmbKvVectorEnv
from helm_gym.errors import CheckpointError, PolicyError
from helm_gym.policy import Policy

NODES = SMALL["nodes"]
N_FEATURES = len(FEATURES["extended"])
KINDS = {
    "cluster": {},
    "gsde": {"settings": {"use_sde": True, "net_arch": [16]}},
    "increment": {"settings": {"action": "increment"}},
    "choice": {"settings": {"action": "choice", "bound": 0.06}},
    "residual": {"settings": {"action": "residual"}},
    "together": {
        "control": "node",
        "settings": {"action": "choice", "context": True, "batch_size": None, "coherence": 0.5},
    },
    "node": {
        "control": "node",
        "settings": {"action": "residual", "context": True, "batch_size": None},
    },
    "per_node": {"control": "per_node"},
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {
        kind: Path(train_small(folder / kind, **{"decisions": 32, **changes}).model)
        for kind, changes in KINDS.items()
    }


@pytest.mark.parametrize("kind", KINDS)
def test_it_decides_as_sb3s_deterministic_policy_would(kind: str, models: dict[str, Path]) -> None:
    policy = TrainedPolicy(models[kind])
    assert isinstance(policy, Policy)
    view = policy.card.view
    by_node = policy.control == "per_node"
    shape = (5, NODES, N_FEATURES) if by_node else (5, N_FEATURES)
    obs = np.random.default_rng(0).uniform(0, 1, shape).astype(np.float32)
    rows = obs.reshape(-1, N_FEATURES) if view.control == "node" else obs
    output, _ = PPO.load(models[kind], device="cpu").predict(view.see(rows), deterministic=True)
    expected = view.shares(output, rows, view.load_base())
    policy.reset(0)
    shares = policy.act(obs)
    assert shares.shape == ((5, NODES) if by_node else (5, 1))
    np.testing.assert_allclose(shares, expected.reshape(shares.shape), atol=1e-6)
    assert ((shares >= 0.1) & (shares <= 0.9)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_it_runs_in_the_environment_it_asks_for(kind: str, models: dict[str, Path]) -> None:
    policy = TrainedPolicy(models[kind].parent)  # the run folder will do
    env = EmbKvVectorEnv(2, scenario=SMALL, control=policy.control, observation=policy.observation)
    obs, _ = env.reset(seed=0)
    for _ in range(3):
        obs, rewards, *_ = env.step(policy.act(obs))
    assert np.isfinite(rewards).all()


def test_a_node_policy_serves_clusters_of_any_size(models: dict[str, Path]) -> None:
    policy = TrainedPolicy(models["node"])
    obs = np.random.default_rng(0).uniform(0, 1, (2, 7, N_FEATURES)).astype(np.float32)
    shares = policy.act(obs)
    assert shares.shape == (2, 7)
    # Clusters do not mix: each is decided as if it were alone.
    np.testing.assert_allclose(shares[1:], policy.act(obs[1:]), rtol=1e-6)


def test_what_is_saved_says_what_it_is(models: dict[str, Path]) -> None:
    card = TrainedPolicy(models["node"]).card
    assert card.label == "PPO per node, correcting balance:gain=0.6,bias=0.05"
    assert TrainedPolicy(models["cluster"]).card.label == "PPO"
    assert card.scenario == "small"
    assert card.decisions >= 32


def test_neither_torch_nor_sb3_is_needed_to_use_it(models: dict[str, Path]) -> None:
    code = (
        "import sys, numpy as np\n"
        "from helm_gym.agents.models.trained import TrainedPolicy\n"
        f"policy = TrainedPolicy({str(models['residual'])!r})\n"
        f"policy.act(np.zeros((2, {N_FEATURES}), np.float32))\n"
        "loaded = {'torch', 'stable_baselines3'} & set(sys.modules)\n"
        "sys.exit(f'loaded {loaded}' if loaded else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        ("cluster", (4, N_FEATURES - 1)),
        ("cluster", (4, NODES, N_FEATURES)),
        ("node", (4, N_FEATURES)),
        ("per_node", (4, NODES + 1, N_FEATURES)),
    ],
)
def test_observations_of_another_shape_are_refused(
    kind: str, shape: tuple[int, ...], models: dict[str, Path]
) -> None:
    with pytest.raises(PolicyError, match="needs observations"):
        TrainedPolicy(models[kind]).act(np.zeros(shape, np.float32))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="helm-gym train"):
        TrainedPolicy(tmp_path / "model.zip")


@pytest.mark.parametrize("part", [0.0, 0.1, 0.6, 0.95])
def test_a_truncated_file_is_refused(part: float, models: dict[str, Path], tmp_path: Path) -> None:
    whole = models["cluster"].read_bytes()
    (tmp_path / "model.zip").write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(CheckpointError):
        TrainedPolicy(tmp_path / "model.zip")


def test_a_model_of_plain_sb3_is_refused_with_the_reason(tmp_path: Path) -> None:
    PPO("MlpPolicy", "CartPole-v1", device="cpu").save(tmp_path / "model.zip")
    with pytest.raises(CheckpointError, match="plain SB3"):
        TrainedPolicy(tmp_path / "model.zip")


def test_an_unreadable_card_is_refused(models: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "model.zip"
    with zipfile.ZipFile(models["cluster"]) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            text = old.read(name)
            new.writestr(name, text.replace(b'"view"', b'"veiw"') if name == CARD else text)
    with pytest.raises(CheckpointError, match="veiw"):
        TrainedPolicy(path)


def test_a_policy_file_can_be_moved(models: dict[str, Path], tmp_path: Path) -> None:
    moved = shutil.copy(models["cluster"], tmp_path / "released.zip")
    obs = np.full((1, N_FEATURES), 0.3, np.float32)
    np.testing.assert_array_equal(
        TrainedPolicy(moved).act(obs), TrainedPolicy(models["cluster"]).act(obs)
    )
