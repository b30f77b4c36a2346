"""Notebooks run from the first to the last cell."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("matplotlib")

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))

# A shell command that fails does not stop a notebook, so what it prints is looked at.
SAID = {
    "01_first_episode": ["GB of refill"],
    "02_bring_your_own_policy": [
        "figures are the same, bit for bit",
        "not as it was: policy_digest",
        "failed: broken:Nan, 2 rows, the first because: policy 'broken:Nan': act(obs) returned nan",
        "act(obs) raised KeyError",
        "its decisions take longer than 50 ms",
        "(8 asked for, 8 run now)",
    ],
    "03_read_the_results": ["(60 asked for, 60 run now)", "5 seeds: "],
}


def test_there_are_notebooks():
    assert [path.stem for path in NOTEBOOKS] == list(SAID)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs(path, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    client.execute()
    printed = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    assert any("image/png" in out.get("data", {}) for out in printed), "a plot is shown"
    text = "".join(out.get("text", "") for out in printed)
    assert [words for words in SAID[path.stem] if words not in text] == []
    if path.stem == "02_bring_your_own_policy" and importlib.util.find_spec("stable_baselines3"):
        assert "(2 asked for, 2 run now)" in text, "the model was played"
        assert "failed: sb3_policy" not in text


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_is_committed_without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells if cell.cell_type == "code")
