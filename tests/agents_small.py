"""A training run of a few seconds, for the tests of agents/; run as a script it trains or resumes.

python agents_small.py RUN_DIR [--resume] [--kill-at WHERE]
"""

from __future__ import annotations

import argparse
import os
import signal
from typing import Any

from small import SMALL

from helm_gym.agents.training.train import TrainConfig, TrainResult, resume, train

KILL_POINTS = ("rollout", "checkpoint")
SETTINGS = {"clusters": 4, "n_steps": 8, "n_epochs": 2, "batch_size": 32, "action": "target"}
UPDATES = 5


def small_config(run_dir: Any, **changes: Any) -> TrainConfig:
    """Five updates of 32 decisions on four clusters of three nodes."""
    values = {
        "scenario": SMALL,
        "settings": {**SETTINGS, **changes.pop("settings", {})},
        "decisions": UPDATES * 32,
        "run_dir": str(run_dir),
        "checkpoint_s": 0.0,
        "threads": 1,
        **changes,
    }
    return TrainConfig.parse(values, "test")


def train_small(run_dir: Any, **changes: Any) -> TrainResult:
    """Train it from scratch, quietly."""
    return train(small_config(run_dir, **changes), progress=False)


def kill_at(where: str) -> None:
    """Make this process kill itself, as kill -9 does, in a rollout or while it writes."""
    from helm_gym.agents.training import checkpoints, monitor

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    if where == "rollout":  # in the middle of the third one
        steps, on_step = [0], monitor.Watch._on_step

        def counted(watch: monitor.Watch) -> bool:
            steps[0] += 1
            return die() or True if steps[0] == 20 else on_step(watch)

        monitor.Watch._on_step = counted
    else:  # while the second checkpoint is half written
        writes, write_state = [0], checkpoints.write_state

        def cut_off(path: Any, tree: Any) -> str:
            writes[0] += 1
            if writes[0] == 2:
                path.with_name(f".{path.name}.1.tmp").write_bytes(b"PK half of it")
                die()
            return write_state(path, tree)

        checkpoints.write_state = cut_off


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("run_dir")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--kill-at", choices=KILL_POINTS)
    args = parser.parse_args()
    if args.kill_at:
        kill_at(args.kill_at)
    if args.resume:
        resume(args.run_dir, progress=False)
    else:
        train_small(args.run_dir)
