"""What happened in every row of a vector environment, however it resets; checkers compare that."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray

Array = NDArray[Any]
Chooser = Callable[[int, int], Array]  # (row, decisions it has taken) -> its action
Hook = Callable[..., None]  # called with the arrays that reset() or step() returned
NOTHING = float("nan")  # a start has no reward


@dataclass(frozen=True)
class Event:
    """The start of an episode in a row, or one decision of it."""

    observation: Array
    reward: float
    ended: bool
    info: Mapping[str, float]

    def difference(self, other: Event) -> str:
        """What differs, bit by bit; empty if nothing does."""
        if _bits(self.observation) != _bits(other.observation):
            return f"observation {self.observation} against {other.observation}"
        if _bits(self.reward) != _bits(other.reward) or self.ended != other.ended:
            ends = f"ended {self.ended} against {other.ended}"
            return f"reward {self.reward!r} against {other.reward!r}, {ends}"
        for name in {**self.info, **other.info}:
            mine, others = self.info.get(name), other.info.get(name)
            if (mine is None) != (others is None) or _bits(mine) != _bits(others):
                return f"info {name} {mine!r} against {others!r}"
        return ""


def _bits(value: Any) -> bytes:
    # Adding 0 makes -0.0 and 0.0 one number, which they are to everybody else.
    return np.asarray(np.nan if value is None else value + 0).tobytes()


def digest(history: Sequence[Sequence[Event]]) -> str:
    """64 hex digits that change with any number in a history."""
    total = hashlib.sha256()
    for row in history:
        for event in row:
            total.update(_bits(event.observation) + _bits(event.reward))
            for name in sorted(event.info):
                total.update(name.encode() + _bits(event.info[name]))
    return total.hexdigest()


def random_choices(space: gym.Space[Any], rows: int, steps: int, seed: int) -> Chooser:
    """Actions by row and decision, the same whatever a step's other rows do."""
    choices = []
    for row in range(rows):
        space.seed(seed + row)
        choices.append([space.sample() for _ in range(steps)])
    return lambda row, decision: np.asarray(choices[row][decision])


def vector_history(
    env: VectorEnv[Any, Any, Any],
    choose: Chooser,
    steps: int,
    hook: Hook | None = None,
    **reset: Any,
) -> list[list[Event]]:
    """Play ``steps`` decisions in every row, resets apart, and note what each row saw.

    Args:
        env: in any autoreset mode.
        choose: what a row does.
        steps: decisions per row.
        hook: sees what was returned, after it has been noted.
        reset: passed to the first reset.
    """
    mode = env.metadata["autoreset_mode"]
    rows = range(env.num_envs)
    observations, infos = env.reset(**reset)
    history = [
        [Event(observations[row].copy(), NOTHING, False, row_info(infos, row))] for row in rows
    ]
    taken = np.zeros(env.num_envs, np.int64)
    resting = np.zeros(env.num_envs, np.bool_)
    if hook:
        hook(observations)
    while (taken < steps).any():
        if mode is AutoresetMode.DISABLED and resting.any():
            observations, infos = env.reset(options={"reset_mask": resting})
            for row in np.flatnonzero(resting).tolist():
                start = Event(observations[row].copy(), NOTHING, False, row_info(infos, row))
                history[row].append(start)
            resting = np.zeros_like(resting)
        actions = np.stack([choose(row, min(int(taken[row]), steps - 1)) for row in rows])
        observations, rewards, terminated, truncated, infos = env.step(actions)
        ended = terminated | truncated
        for row in rows:
            history[row] += _row_events(
                mode, row, bool(resting[row]), observations, rewards, ended, infos
            )
        taken += ~resting
        resting = ended.copy() if mode is not AutoresetMode.SAME_STEP else resting
        if hook:
            hook(observations, rewards, terminated, truncated)
    return [_first_decisions(row, steps) for row in history]


def _row_events(
    mode: AutoresetMode,
    row: int,
    rested: bool,
    observations: Array,
    rewards: Array,
    ended: Array,
    infos: Mapping[str, Any],
) -> list[Event]:
    now = observations[row].copy()
    if rested:  # NEXT_STEP: this step only began the row's next episode
        return [Event(now, NOTHING, bool(ended[row]) or rewards[row] != 0, row_info(infos, row))]
    reward = float(rewards[row])
    if not (ended[row] and mode is AutoresetMode.SAME_STEP):
        return [Event(now, reward, bool(ended[row]), row_info(infos, row))]
    last = np.array(infos["final_obs"][row])
    return [
        Event(last, reward, True, row_info(infos["final_info"], row)),
        Event(now, NOTHING, False, row_info(infos, row)),
    ]


def _first_decisions(events: list[Event], steps: int) -> list[Event]:
    """Cut a row's history after ``steps`` decisions; rows may be ahead by some."""
    seen = 0
    for index, event in enumerate(events):
        seen += not np.isnan(event.reward)
        if seen == steps:
            return events[: index + 1]
    return events


def single_history(
    env: gym.Env[Any, Any], choose: Chooser, steps: int, **reset: Any
) -> list[Event]:
    """The same for a single environment, which is reset whenever its episode ends."""
    observation, info = env.reset(**reset)
    events = [Event(np.array(observation), NOTHING, False, _numbers(info))]
    for decision in range(steps):
        observation, reward, terminated, truncated, info = env.step(choose(0, decision))
        ended = terminated or truncated
        events.append(Event(np.array(observation), float(reward), ended, _numbers(info)))
        if ended and decision < steps - 1:
            observation, info = env.reset()
            events.append(Event(np.array(observation), NOTHING, False, _numbers(info)))
    return events


def row_info(infos: Mapping[str, Any], row: int) -> dict[str, float]:
    """Numbers that the masks of vector infos give to a row; nested names are joined by dots."""
    found: dict[str, float] = {}
    for key, value in infos.items():
        if (
            f"_{key}" not in infos
            or key in {"final_obs", "final_info"}
            or not infos[f"_{key}"][row]
        ):
            continue
        if isinstance(value, Mapping):
            found.update({f"{key}.{k}": v for k, v in row_info(value, row).items()})
        elif np.asarray(value).dtype.kind in "biuf" and np.ndim(value) == 1:
            found[key] = float(value[row])
    return found


def _numbers(info: Mapping[str, Any]) -> dict[str, float]:
    found: dict[str, float] = {}
    for key, value in info.items():
        if isinstance(value, Mapping):
            found.update({f"{key}.{k}": v for k, v in _numbers(value).items()})
        elif np.ndim(value) == 0 and np.asarray(value).dtype.kind in "biuf":
            found[key] = float(value)
    return found
