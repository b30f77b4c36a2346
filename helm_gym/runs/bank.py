"""Many policies as one, each deciding for a cluster of its own, with a clock and a time limit.

A policy of its own per cluster, reset with the cluster's seed, makes a row depend on its seed only
and not on what ran beside it. It also makes the clock honest: a decision is one call for one
cluster. A policy that fails on a cluster fails there, and the others go on.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from helm_gym.errors import PolicyError
from helm_gym.policy import (
    Policy,
    Wrapper,
    checked_act,
    checked_reset,
    is_batched,
    refill_pace_of,
)
from helm_gym.units import MS

Array = NDArray[Any]

FIRST_S = 60.0  # for reset and the first decision, which may load or compile
GRACE_S = 1.0  # beyond the budget until a call that does not return is interrupted
HELD = 0.5  # share of a cluster whose policy failed, until the others are done


class _OutOfTime(BaseException):
    """Raised by the alarm inside a policy; no ``except Exception`` there keeps it."""


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """Interrupt the block after so long, where the system can: in a main thread, not on Windows."""
    possible = hasattr(signal, "setitimer")
    if not possible or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        raise _OutOfTime

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


class Timed(Wrapper):
    """The policy of one cluster, with a clock.

    Args:
        base: who decides. One with ``batched = False`` gets one observation (F,) at a time, or
            (M, F) with ``control="per_node"``, and returns one share, or M.
        budget_s: mean time that a decision may take, the first one apart.
        decisions: of an episode.
    """

    batched = True

    def __init__(self, base: Policy, budget_s: float, decisions: int) -> None:
        super().__init__(base)
        self.budget_s = budget_s
        self.allowed_s = budget_s * max(1, decisions - 1)
        self.seconds: list[float] = []

    @property
    def left_s(self) -> float:
        """Until an episode's budget is spent; the first decision is not counted."""
        return self.allowed_s - sum(self.seconds[1:])

    def reset(self, seed: int) -> None:
        """Begin an episode."""
        with _alarm(FIRST_S):
            self.base.reset(seed)

    def act(self, obs: Array) -> Array:
        """Choose shares, and keep how long it took."""
        limit = self.left_s + GRACE_S if self.seconds else FIRST_S
        with _alarm(max(limit, GRACE_S)):
            began = time.perf_counter()
            if is_batched(self.base):
                answer: Any = self.base.act(obs)
            else:
                answer = [np.atleast_1d(self.base.act(row)) for row in obs]
            self.seconds.append(time.perf_counter() - began)
        found: Array = answer
        return found


class Bank:
    """Many policies as one: each decides for its own cluster.

    Args:
        name: of the policy, for messages.
        policies: one per cluster, all with the same view of the environment.
        seeds: one per cluster.
    """

    def __init__(self, name: str, policies: Sequence[Timed], seeds: Sequence[int]) -> None:
        self.name, self.policies, self.seeds = name, policies, seeds
        self.control, self.observation = policies[0].control, policies[0].observation
        self.initial_share, self.router = policies[0].initial_share, policies[0].router
        self.failures: dict[int, str] = {}  # cluster -> why

    def reset(self, seed: int) -> None:
        """Reset every policy with its own cluster's seed."""
        for cluster, own in enumerate(self.seeds):
            self._guard(cluster, lambda p, s=own: checked_reset(p, self.name, s))

    def act(self, obs: Array) -> Array:
        """Choose shares for all clusters.

        Raises:
            PolicyError: no policy is left.
        """
        width = obs.shape[1] if obs.ndim == 3 else 1
        blocks = np.split(obs, len(self.policies))
        shares = np.full((len(self.policies), len(blocks[0]), width), HELD)
        for cluster, block in enumerate(blocks):
            shape = (len(block), width)
            answer = self._guard(
                cluster, lambda p, b=block, s=shape: checked_act(p, self.name, b, s)
            )
            if answer is not None:
                shares[cluster] = answer
        if len(self.failures) == len(self.policies):
            raise PolicyError(next(iter(self.failures.values())))
        return shares.reshape(len(obs), width)

    @property
    def refill_pace(self) -> Array | None:
        """(clusters, M or 1) paces that the policies ask for; None if none of them does."""
        asked = [refill_pace_of(policy) for policy in self.policies]
        known = [pace for pace in asked if pace is not None]
        if not known:
            return None
        width = max(pace.size for pace in known)
        rows = [np.ones(1) if pace is None else pace.reshape(-1) for pace in asked]
        return np.stack([np.broadcast_to(row, width) for row in rows])

    def _guard(self, cluster: int, call: Callable[..., Any]) -> Any:
        """Call with a cluster's policy, unless it failed before; note it if it fails now."""
        policy = self.policies[cluster]
        if cluster in self.failures:
            return None
        late = (
            f"policy {self.name!r}: its decisions take longer than {policy.budget_s / MS:g} ms in "
            "the mean, the budget of this benchmark; --budget-ms sets another"
        )
        try:
            answer = call(policy)
        except PolicyError as error:
            self.failures[cluster] = str(error)
        except _OutOfTime:
            self.failures[cluster] = f"{late}; a call that did not return was interrupted"
        except SystemExit:
            self.failures[cluster] = f"policy {self.name!r}: it ended the program"
        else:
            if policy.left_s >= 0.0:
                return answer
            self.failures[cluster] = late
        return None
