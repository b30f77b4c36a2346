"""The exported graph decides as the policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helm_gym.agents.layers.helm import load_base
from helm_gym.agents.models import onnx as onnx_export
from helm_gym.agents.models.actor import Actor
from helm_gym.agents.models.card import Card
from helm_gym.agents.models.trained import TrainedPolicy
from helm_gym.errors import ConfigError


@pytest.fixture(scope="module")
def base() -> TrainedPolicy:
    return load_base("released-continuous")


def needed(*names: str) -> list[Any]:
    return [pytest.importorskip(name, reason=f"{name} is not installed") for name in names]


@pytest.mark.parametrize("nodes", [1, 8, 32])
@pytest.mark.parametrize(
    "changed",
    [{}, {"context": False}, *({"action": a, "bound": 0.06} for a in ("increment", "choice"))],
)
def test_the_graph_decides_as_the_policy(
    base: TrainedPolicy, tmp_path: Path, nodes: int, changed: dict[str, Any]
) -> None:
    _, runtime = needed("onnx", "onnxruntime")
    view = base.card.view.model_copy(update=changed)
    chooses = view.action == "choice"
    if chooses:
        base = load_base("released")
    other = load_base("released-continuous")
    arrays = {}
    for n, (weight, bias) in enumerate(base.actor.layers):
        arrays[f"weight{n}"], arrays[f"bias{n}"] = weight, bias
    arrays["weight0"] = arrays["weight0"][:, : view.inputs]
    other.card = base.card.model_copy(update={"view": view})
    other.actor = Actor("ppo", arrays, chooses=chooses)
    path = onnx_export.export(other, tmp_path / "folder" / "base.onnx")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(nodes)
    for _ in range(10):
        observations = rng.uniform(0.0, 1.0, (nodes, len(view.features))).astype(np.float32)
        (given,) = session.run([onnx_export.OUTPUT], {onnx_export.INPUT: observations})
        wanted = other.act(observations[None])[0]
        assert given.shape == wanted.shape
        np.testing.assert_allclose(given, wanted, atol=1e-6, rtol=0)


def test_the_graph_carries_the_card(base: TrainedPolicy) -> None:
    needed("onnx")
    (found,) = [p.value for p in onnx_export.graph(base).metadata_props]
    assert Card.model_validate_json(found) == base.card


def test_what_has_no_graph_is_refused() -> None:
    needed("onnx")
    with pytest.raises(ConfigError, match="dqn with action"):
        onnx_export.graph(load_base("dqn:released"))


def test_without_onnx_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr("importlib.import_module", absent)
    with pytest.raises(ConfigError, match=r"export needs onnx: pip install 'helm-gym\[onnx\]'"):
        onnx_export.load_onnx()
