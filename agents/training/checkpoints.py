"""Checkpoints that continue a training run bit for bit, and survive a kill at any instant.

A checkpoint is written between two rounds, when there is no rollout that would have to be kept: the
weights, the optimizers, every random generator, the environment with its simulator, SB3's counters
and, of algorithms that learn from one, the replay buffer. The file appears under its name only when
it is complete, and the one before it stays.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from helm_gym.errors import CheckpointError
from helm_gym.files import remove_leftovers
from helm_gym.state_file import read_state, write_state

if TYPE_CHECKING:
    from helm_gym.agents.training.sb3.agent_env import AgentVecEnv
    from helm_gym.agents.training.sb3.algorithms import Algorithm

FORMAT = 1
KEPT = 2
SUFFIX = ".ckpt"


@dataclass(frozen=True)
class Loaded:
    """The newest checkpoint that could be used."""

    path: Path
    state: dict[str, Any]
    skipped: tuple[str, ...]  # why newer ones were not


def save_checkpoint(folder: Path, run: str, state: Mapping[str, Any]) -> Path:
    """Write a checkpoint and remove all but the newest two.

    Args:
        folder: created if missing.
        run: digest of everything that decides the run's results.
        state: from :func:`capture`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{state['decisions']:012d}{SUFFIX}"
    write_state(path, {"format": FORMAT, "run": run, **state})
    for old in _newest_first(folder)[KEPT:]:
        old.unlink()
    remove_leftovers(folder)
    return path


def load_checkpoint(path: Path, run: str) -> dict[str, Any]:
    """Read one checkpoint.

    Raises:
        CheckpointError: it is missing, truncated, damaged, of another format or of another run.
    """
    state = read_state(path)
    if state.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: format {state.get('format')!r}, but this version reads format {FORMAT}; "
            "continue it with the version that wrote it"
        )
    if state.get("run") != run:
        raise CheckpointError(
            f"{path}: belongs to run {state.get('run')!r}, not to this one ({run}); scenario, "
            "settings and seed have to be the same"
        )
    return state


def load_latest(folder: Path, run: str) -> Loaded | None:
    """Read the newest usable checkpoint.

    Returns:
        None if there is none at all: the run was stopped before its first.

    Raises:
        CheckpointError: there are some, but none can be used.
    """
    skipped: list[str] = []
    for path in _newest_first(folder):
        try:
            return Loaded(path, load_checkpoint(path, run), tuple(skipped))
        except CheckpointError as error:
            skipped.append(str(error))
    if skipped:
        raise CheckpointError("no checkpoint can be used:\n" + "\n".join(skipped))
    return None


def newest_decisions(folder: Path) -> int:
    """Decisions that the newest checkpoint holds, by its name; 0 if there is none."""
    newest = _newest_first(folder)
    return int(newest[0].stem) if newest else 0


def remove_checkpoints(folder: Path) -> None:
    """Remove all checkpoints, when a run has its final model."""
    for path in _newest_first(folder):
        path.unlink()
    remove_leftovers(folder)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def capture(model: Any, env: AgentVecEnv, algorithm: Algorithm) -> dict[str, Any]:
    """Everything that decides how the run goes on, between two updates."""
    return {
        "decisions": model.num_timesteps,
        "updates": model._n_updates,
        "progress_remaining": model._current_progress_remaining,
        "policy": model.policy.state_dict(),
        "last_obs": model._last_obs,
        "last_episode_starts": model._last_episode_starts,
        # Without the wall-clock of the episodes, which would make equal runs look different.
        "episodes": [[info["r"], info["l"]] for info in model.ep_info_buffer or ()],
        "env": env.get_state(),
        **algorithm.get_state(model),
        "rng": {
            "torch": torch.get_rng_state(),
            # SB3 shuffles mini-batches with the global generator.
            "numpy": np.random.get_state(),  # noqa: NPY002
            "python": random.getstate(),
        },
    }


def restore(model: Any, env: AgentVecEnv, algorithm: Algorithm, state: Mapping[str, Any]) -> None:
    """Continue from what :func:`capture` returned.

    Args:
        model: built as for a fresh run, after SB3's ``_setup_learn``.
        env: the model's environment.
        algorithm: the one whose model this is.
        state: from :func:`load_checkpoint`.

    Raises:
        CheckpointError: the state does not fit this model or environment.
    """
    try:
        model.policy.load_state_dict(state["policy"])
        algorithm.set_state(model, state)
        env.set_state(state["env"])
        model.num_timesteps = model._num_timesteps_at_start = state["decisions"]
        model._n_updates = state["updates"]
        model._current_progress_remaining = state["progress_remaining"]
        model._last_obs = state["last_obs"]
        model._last_episode_starts = state["last_episode_starts"]
        episodes = [{"r": r, "l": length, "t": 0.0} for r, length in state["episodes"]]
        model.ep_info_buffer = deque(episodes, maxlen=model._stats_window_size)
        torch.set_rng_state(state["rng"]["torch"])
        np.random.set_state(state["rng"]["numpy"])  # noqa: NPY002
        random.setstate(state["rng"]["python"])
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        raise CheckpointError(
            f"the checkpoint does not fit this run ({type(error).__name__}: {error})"
        ) from None


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*{SUFFIX}"), reverse=True)
