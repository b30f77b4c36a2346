"""The ``helm-gym`` command: reads arguments, calls the library, prints what it returns.

Every command imports what it needs inside its function, so that ``--help`` loads nothing. A module
here holds the commands of one kind; importing it adds them to the app.
"""

from __future__ import annotations

from helm_gym.cli import (
    adapt,
    bench,
    bursts,
    calibration,
    controller,
    golden,
    hindsight,
    leaderboard,
    machine,
    policies,
    publish,
    refill,
    routers,
    scenarios,
    score,
    searches,
    studies,
    suite,
    tune,
)
from helm_gym.cli.shared import app

__all__ = [
    "adapt", "app", "bench", "bursts", "calibration", "controller", "golden", "hindsight",
    "leaderboard", "machine", "main", "policies", "publish", "refill", "routers",
    "scenarios", "score", "searches", "studies", "suite", "tune",
]  # fmt: skip


def main() -> None:
    """Run the command line and exit: 0, 2 on errors that say what to do, 130 after Ctrl-C."""
    app(prog_name="helm-gym")
