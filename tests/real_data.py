"""Where tests find real logs: the folder HELM_GYM_DATA, or one beside the checkout."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data"


def trace(name: str) -> Path:
    """A real log; the test is skipped where it is absent."""
    path = Path(os.environ.get("HELM_GYM_DATA", BESIDE)) / "traces" / name
    if not path.is_file():
        pytest.skip(f"{name} is not here; set HELM_GYM_DATA to the folder that holds traces/")
    return path
