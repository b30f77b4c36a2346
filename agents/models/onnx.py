"""The base as an ONNX graph, for runtimes that are not Python.

One input, ``observations`` (nodes, F) float32: the ``extended`` observations of all nodes of one
cluster, of any number. One output, ``shares`` (nodes,) float32. Whatever the view does around the
network (means over the cluster, scale, clipping) is part of the graph. The residual and burst
recovery are not: they change from decision to decision.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np

from helm_gym.agents.models.layers import Layers, layers_of
from helm_gym.agents.models.trained import TrainedPolicy
from helm_gym.agents.models.view import SHARE, STEPS, View
from helm_gym.errors import ConfigError
from helm_gym.files import replacing

OPSET = 18  # the first in which ReduceMean takes its axes as an input
IR_VERSION = 10  # what onnxruntime 1.18, our floor, reads
INPUT, OUTPUT = "observations", "shares"


def load_onnx() -> Any:
    """The package ``onnx``.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.import_module("onnx")
    except ImportError as error:
        raise ConfigError(f"export needs {error.name}: pip install 'helm-gym[onnx]'") from None


def export(base: TrainedPolicy, path: Path) -> Path:
    """Write a base as ``path``.

    Raises:
        ConfigError: onnx is not installed, or the base is of a kind that has no such graph.
    """
    onnx = load_onnx()
    model = graph(base)
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(model.SerializeToString())
    return path


def graph(base: TrainedPolicy) -> Any:
    """The ``onnx.ModelProto``; its metadata has the card of the base."""
    onnx = load_onnx()
    view, layers = base.card.view, layers_of(base)
    helper, floats = onnx.helper, onnx.TensorProto.FLOAT
    made = _Graph(onnx)
    output = _network(made, view, layers)
    _shares(made, view, output)
    model = helper.make_model(
        helper.make_graph(
            made.nodes,
            "base",
            [helper.make_tensor_value_info(INPUT, floats, ["nodes", len(view.features)])],
            [helper.make_tensor_value_info(OUTPUT, floats, ["nodes"])],
            made.constants,
            doc_string=base.card.label,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="helm-gym",
    )
    helper.set_model_props(model, {"helm_gym.card": base.card.model_dump_json()})
    return model


class _Graph:
    """Nodes in the order in which they are computed."""

    def __init__(self, onnx: Any) -> None:
        self._onnx = onnx
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, name: str, value: Any) -> str:
        array = np.ascontiguousarray(value)
        self.constants.append(self._onnx.numpy_helper.from_array(array, name))
        return name

    def add(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(self._onnx.helper.make_node(operator, inputs, [output], **attributes))
        return output


def _network(made: _Graph, view: View, layers: Layers) -> str:
    """The MLP, (nodes, 1), or (nodes, choices)."""
    value = INPUT
    if view.context:
        mean = made.add("ReduceMean", [INPUT, made.constant("nodes_axis", np.array([0]))], "mean")
        spread = made.add("Expand", [mean, made.add("Shape", [INPUT], "shape")], "means")
        value = made.add("Concat", [INPUT, spread], "seen", axis=1)
    for number, (weight, bias) in enumerate(layers):
        names = [
            made.constant(f"weight{number}", np.asarray(weight, np.float32)),
            made.constant(f"bias{number}", np.asarray(bias, np.float32)),
        ]
        value = made.add("Gemm", [value, *names], f"layer{number}", transB=1)
        if number < len(layers) - 1:
            value = made.add("Tanh", [value], f"tanh{number}")
    return value


def _shares(made: _Graph, view: View, output: str) -> None:
    """What the output means, see :meth:`helm_gym.agents.models.view.View.shares`."""
    low, high = np.float32(view.share_min), np.float32(view.share_max)
    ends = [made.constant("minus_one", np.float32(-1.0)), made.constant("one", np.float32(1.0))]
    if view.action == "choice":
        index = made.add("ArgMax", [output], "index", axis=1)
        output = made.add("Gather", [made.constant("steps", np.float32(STEPS)), index], "step")
    value = made.add("Clip", [output, *ends], "clipped")
    scale, offset = np.float32((view.share_max - view.share_min) / 2.0), "middle"
    if view.action == "target":
        made.constant(offset, np.float32((view.share_max + view.share_min) / 2.0))
    else:
        scale = np.float32(view.bound)
        column = made.constant("share_column", np.array([view.features.index(SHARE)]))
        offset = made.add("Gather", [INPUT, column], "in_force", axis=1)
    value = made.add("Mul", [value, made.constant("scale", scale)], "scaled")
    value = made.add("Add", [value, offset], "wanted")
    bounds = [made.constant("share_min", low), made.constant("share_max", high)]
    value = made.add("Clip", [value, *bounds], "inside")
    made.add("Squeeze", [value, made.constant("last_axis", np.array([1]))], OUTPUT)
