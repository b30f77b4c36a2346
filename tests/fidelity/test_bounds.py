"""Kernels with bounds checks over random extreme scenarios: a sample of the thousand."""

from __future__ import annotations

from typing import Any

import pytest

from helm_gym.errors import ConfigError
from helm_gym.fidelity import bounds


def test_no_index_leaves_its_array_in_a_sample() -> None:
    found = bounds.check_bounds(scenarios=15, seed=1, minutes=10)
    assert found.faults == {}
    assert found.played == 15
    assert found.requests > 1000


def test_kernels_as_shipped_do_not_check() -> None:
    """So the child's own proof, that its kernels do, can fail."""
    assert not bounds.checks_work()


def _child(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Let a check start this code in place of its child process."""
    real = bounds.subprocess.Popen

    def popen(command: list[str], **settings: Any) -> Any:
        return real([command[0], "-c", code, *command[3:]], **settings)

    monkeypatch.setattr(bounds.subprocess, "Popen", popen)


def test_a_build_that_does_not_check_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    _child(monkeypatch, """print('{"unchecked": true}')""")
    with pytest.raises(ConfigError, match="does not check bounds"):
        bounds.check_bounds(scenarios=2)


def test_a_process_that_dies_is_a_fault_and_the_next_scenario_is_played(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    code = (
        "import os, sys; first = int(sys.argv[2])\n"
        """print('{"begin": %d}' % first, flush=True)\n"""
        "os.abort() if first == 0 else sys.exit(1)"
    )
    _child(monkeypatch, code)
    found = bounds.check_bounds(scenarios=2)
    assert list(found.faults) == [0]
    assert found.slow == [1]
    assert found.next == 2
