"""Whether two training runs ended alike, and how to interrupt one."""

from __future__ import annotations

import io
import os
import signal
import zipfile
from pathlib import Path

import pytest
import torch

from helm_gym.agents.training import monitor


def weights(run: Path) -> dict[str, torch.Tensor]:
    """Policy and optimizer of a run's model, flat."""
    found = {}
    with zipfile.ZipFile(run / "model.zip") as archive:
        for name in ("policy.pth", "policy.optimizer.pth"):
            blob = io.BytesIO(archive.read(name))
            found.update(flat(torch.load(blob, weights_only=True), name))
    return found


def flat(tree, path: str) -> dict[str, torch.Tensor]:
    if isinstance(tree, dict):
        return {k: v for key, sub in tree.items() for k, v in flat(sub, f"{path}.{key}").items()}
    return {path: tree} if isinstance(tree, torch.Tensor) else {}


def assert_same_run(one: Path, other: Path) -> None:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    assert [k for k in first if not torch.equal(first[k], second[k])] == []
    assert (one / "curve.csv").read_text() == (other / "curve.csv").read_text()


def interrupt_at_step(
    monkeypatch: pytest.MonkeyPatch, step: int, number: int = signal.SIGINT
) -> None:
    """Press Ctrl-C in the rollout's ``step``-th window."""
    steps, on_step = [0], monitor.Watch._on_step

    def counted(watch: monitor.Watch) -> bool:
        steps[0] += 1
        if steps[0] == step:
            os.kill(os.getpid(), number)
        return on_step(watch)

    monkeypatch.setattr(monitor.Watch, "_on_step", counted)
