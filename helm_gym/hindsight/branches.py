"""One cluster on one request stream, played on from any state that it was in.

A state holds the random streams too, so every branch meets the same requests. States lie in
buffers that are used again: a fresh one would cost a page fault per page. A branch copies its
parent's state once, plays on in the copy, and leaves there what the next decision begins with. The
last branch of a parent copies nothing, because it may play on in the parent's own buffer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from helm_gym.config.scenario import Scenario
from helm_gym.envs.action import Layout, move
from helm_gym.envs.reward import Reward, total
from helm_gym.envs.vector_env import EmbKvVectorEnv
from helm_gym.hindsight.objective import TAIL, Objective, Window
from helm_gym.metrics import window_metrics
from helm_gym.runs.figures import uncounted_windows
from helm_gym.sim.layout import State, view
from helm_gym.sim.simulator import Telemetry

Floats = NDArray[np.float64]
Buffer = NDArray[np.uint8]


class Slot(NamedTuple):
    """Memory of one state."""

    buffer: Buffer  # (bytes,)
    state: State  # views into it


@dataclass(eq=False)
class Stand:
    """Where a branch stands: the cluster's state before a decision, and the shares in force."""

    slot: Slot
    shares: Floats  # (1, M)
    played: int = 0  # windows before it

    @property
    def share(self) -> float:
        """The share in force, the same on all nodes."""
        return float(self.shares[0, 0])


class Plan(NamedTuple):
    """A schedule: what to ask for in every window."""

    initial_share: float  # of the warm start
    shares: tuple[float, ...]  # (T,)


class Branches:
    """One cluster on one request stream, which can go on from any state that it was in.

    Args:
        objective: its scenario is simulated, and its reward is what windows report; see
            :attr:`Objective.reward`. Windows of ``tail`` report a reward of 0.
        seed: seed of the episode, as in :func:`helm_gym.runs.rollout.run_policy`.
        begin: where every schedule begins, in the place of the beginning of the episode; a state of
            another scenario whose past is the same.
    """

    def __init__(self, objective: Objective, seed: int, begin: Stand | None = None) -> None:
        self.scenario: Scenario = objective.scenario
        self.seed = seed
        self._uncounted = uncounted_windows(self.scenario)
        self.steps = 0  # windows simulated so far
        self.most = 0  # states held at a time, at most
        self._env = EmbKvVectorEnv(1, scenario=self.scenario, autoreset_mode=AutoresetMode.DISABLED)
        layout = Layout("cluster", 1, self.scenario.nodes)
        self._rewarded = objective.name != TAIL
        self._reward = Reward(objective.reward, self.scenario, layout)
        self._starts: dict[float, Stand] = {}
        self._begin = begin
        self._free: list[Slot] = []

    @property
    def fixed_start(self) -> float | None:
        """The share that every schedule begins at; None where each may choose its own.

        It is fixed where the beginning of an episode is not counted, as it is for policies; see
        :func:`helm_gym.runs.rollout.starting_share`.
        """
        if self._begin is not None:
            return self._begin.share
        return self.scenario.episode.initial_share if self._uncounted else None

    def start(self, share: float) -> Stand:
        """The beginning of the episode, warmed up with ``share``; never play on in it itself."""
        if self._begin is not None:
            return self._begin
        if self.fixed_start is not None:
            share = self.fixed_start
        if share not in self._starts:
            self._env.reset(seed=[self.seed], options={"share": share})
            slot = self._slot()
            np.copyto(slot.buffer, self._env.simulator.snapshot()[0])
            self._starts[share] = Stand(slot, self._env.shares)
        return self._starts[share]

    def fork(self, stand: Stand) -> Stand:
        """A copy to play on in; give it back with :meth:`release`."""
        slot = self._slot()
        np.copyto(slot.buffer, stand.slot.buffer)
        return Stand(slot, stand.shares, stand.played)

    def release(self, stand: Stand) -> None:
        """Let another branch have the memory of a copy."""
        self._free.append(stand.slot)

    def go(self, stand: Stand, target: float) -> Window:
        """Simulate a window with one share on all nodes; ``stand`` is then where it ends."""
        before = stand.shares
        stand.shares = move(self.scenario.episode, before, np.full_like(before, target))
        self._env.simulator.advance(stand.slot.state, stand.shares[0])
        self.steps += 1
        counts = stand.played >= self._uncounted
        stand.played += 1
        out = stand.slot.state.out
        told = Telemetry(out.node[None], out.cluster[None], out.latency[None], out.warm[None])
        if not self._rewarded:  # formulas and reward would take as long as a copy of the state
            return Window.of(told, 0.0, counts)
        figures = window_metrics(self.scenario, told, before)
        reward = float(total(self._reward.terms(told, figures))[0])
        return Window.of(told, reward, counts)

    def follow(self, plan: Plan) -> list[Window]:
        """Simulate a whole schedule from its beginning."""
        stand = self.fork(self.start(plan.initial_share))
        windows = [self.go(stand, target) for target in plan.shares]
        self.release(stand)
        return windows

    def tried(self, stand: Stand, targets: Sequence[float]) -> list[Window]:
        """One window from ``stand`` for every target; ``stand`` stays as it is."""
        windows = []
        for target in targets:
            branch = self.fork(stand)
            windows.append(self.go(branch, target))
            self.release(branch)
        return windows

    def close(self) -> None:
        """Stop the simulator's threads."""
        self._env.close()

    def _slot(self) -> Slot:
        """Memory that nobody uses."""
        if self._free:
            return self._free.pop()
        self.most += 1
        buffer = np.empty(self._env.simulator.state_bytes, np.uint8)
        return Slot(buffer, view(buffer, self._env.simulator.lowered.sizes))
