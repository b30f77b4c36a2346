"""The Policy protocol: what an agent must offer to be evaluated, and checks that say what is wrong.

A policy sees observations and returns EMB shares. It says as class attributes which view of the
environment it wants, and knows nothing else about it::

    class Half:
        control = "cluster"  # one share for all nodes; see helm_gym.envs.action.Layout
        observation = "extended"  # a key of helm_gym.envs.observation.FEATURES

        def reset(self, seed):
            pass

        def act(self, obs):
            return np.full((len(obs), 1), 0.5)
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from helm_gym.errors import PolicyError

Array = NDArray[Any]

DEFAULT_CONTROL = "cluster"
DEFAULT_OBSERVATION = "extended"


@runtime_checkable
class Policy(Protocol):
    """Decides EMB shares from observations, for many rows at once.

    A policy may also have these; whoever asks uses the functions below, which know the defaults:

    * ``initial_share`` (float): the share its clusters are warmed up with. The default is the
      scenario's ``episode.initial_share``.
    * ``router`` (a name of ``config.ROUTERS``): for systems that are a split and a router together.
      It replaces the scenario's.
    * ``names_share = True``: its shares do not depend on the share in force.
    * ``refill_pace`` (from 0 to 1, broadcasting to (B, M)), read after every decision: the part of
      the link time open to refill that it may use.
    * ``batched = False`` (``helm-gym bench`` only): it takes one row at a time, (F,) or (M, F), and
      answers with a number or (M,).
    * ``card``: what a trained policy was trained on
      (:class:`helm_gym.agents.models.card.Card`). The held-out check reads it.
    * ``state()`` and ``restore(state)``: what it remembers between decisions, as dictionaries,
      lists, tuples, numbers and arrays, and how it goes on from there bit for bit. A policy without
      them is taken to remember nothing.

    A policy around another one derives from :class:`Wrapper`, which forwards all of them.
    """

    @property
    def control(self) -> str:
        """One of ``cluster``, ``per_node`` and ``node``."""

    @property
    def observation(self) -> str:
        """One of ``paper7`` and ``extended``."""

    def reset(self, seed: int) -> None:
        """Begin an episode on every row; forget what the last one left behind."""

    def act(self, obs: Array) -> Array:
        """Choose shares.

        Args:
            obs: (rows, F) float32; (rows, M, F) with ``control="per_node"``. Rows are clusters,
                or clusters times nodes with ``control="node"``.

        Returns:
            (rows, 1) shares in [0, 1]; (rows, M) with ``control="per_node"``.
        """
        ...


def view_of(policy: Policy) -> tuple[str, str]:
    """Control and observation that a policy asks for, or the defaults where it is silent."""
    control = getattr(policy, "control", DEFAULT_CONTROL)
    return str(control), str(getattr(policy, "observation", DEFAULT_OBSERVATION))


def initial_share_of(policy: Policy) -> float | None:
    """Share that a policy's clusters are warmed up with; None for the scenario's."""
    share = getattr(policy, "initial_share", None)
    return None if share is None else float(share)


def router_of(policy: Policy) -> str | None:
    """Router that a policy brings along; None for the scenario's."""
    router = getattr(policy, "router", None)
    return None if router is None else str(router)


def names_share(policy: Policy) -> bool:
    """Whether a policy says where the share should be; False where it moves the one in force.

    A rule that goes toward its target by limited moves counts as the second kind.
    """
    return bool(getattr(policy, "names_share", False))


def is_batched(policy: Policy) -> bool:
    """Whether a policy takes many rows at once; False where it takes one at a time."""
    return bool(getattr(policy, "batched", True))


def card_of(policy: Any) -> Any:
    """What a trained policy says of its training; None for a policy that was not trained."""
    return getattr(policy, "card", None)


def refill_pace_of(policy: Policy) -> Array | None:
    """Pace that a policy's last decision set for refill; None where it leaves refill alone."""
    pace = getattr(policy, "refill_pace", None)
    return None if pace is None else np.asarray(pace, np.float64)


def state_of(policy: Policy) -> Any:
    """What a policy remembers between decisions; None where it has no ``state()``."""
    give = getattr(policy, "state", None)
    return give() if callable(give) else None


def restore_state(policy: Policy, state: Any) -> None:
    """Let a policy go on from what :func:`state_of` gave."""
    take = getattr(policy, "restore", None)
    if callable(take):
        take(state)


class Wrapper:
    """A policy around another one: what a subclass does not override is the inner policy's.

    Args:
        base: the policy inside.
    """

    def __init__(self, base: Policy) -> None:
        self.base = base

    @property
    def control(self) -> str:
        """The inner policy's control, or the default."""
        return view_of(self.base)[0]

    @property
    def observation(self) -> str:
        """The inner policy's observation, or the default."""
        return view_of(self.base)[1]

    @property
    def initial_share(self) -> float | None:
        """Share that clusters are warmed up with; None for the scenario's."""
        return initial_share_of(self.base)

    @property
    def router(self) -> str | None:
        """Router that the inner policy brings along; None for the scenario's."""
        return router_of(self.base)

    @property
    def names_share(self) -> bool:
        """Whether the inner policy says where the share should be."""
        return names_share(self.base)

    @property
    def batched(self) -> bool:
        """Whether the inner policy takes many rows at once."""
        return is_batched(self.base)

    @property
    def card(self) -> Any:
        """What the inner policy was trained on; None if it was not trained."""
        return card_of(self.base)

    @property
    def refill_pace(self) -> Array | None:
        """Pace that the last decision set for refill; None where it leaves refill alone."""
        return refill_pace_of(self.base)

    def reset(self, seed: int) -> None:
        """Begin an episode on every row."""
        self.base.reset(seed)

    def act(self, obs: Array) -> Array:
        """Choose shares, see :meth:`Policy.act`."""
        return self.base.act(obs)

    def state(self) -> Any:
        """What the inner policy remembers."""
        return state_of(self.base)

    def restore(self, state: Any) -> None:
        """Go on from what :meth:`state` gave."""
        restore_state(self.base, state)


def checked_reset(policy: Policy, name: str, seed: int) -> None:
    """Reset a policy.

    Raises:
        PolicyError: it raised; the message names it.
    """
    try:
        policy.reset(seed)
    except Exception as error:
        raise PolicyError(
            f"policy {name!r}: reset(seed={seed}) raised {type(error).__name__}: {error}"
        ) from error


def checked_act(policy: Policy, name: str, obs: Array, shape: tuple[int, int]) -> Array:
    """Ask a policy for shares, and check them.

    Args:
        policy: who is asked.
        name: what it is called in errors, its spec for instance.
        obs: what it sees; it gets a copy, so that it cannot change what others see.
        shape: (rows, shares per row) that its answer must have.

    Returns:
        Float64 array of that shape.

    Raises:
        PolicyError: it raised, or its answer is no number, not finite, outside [0, 1], or of
            another shape.
    """
    try:
        answer = policy.act(obs.copy())
    except Exception as error:
        raise PolicyError(
            f"policy {name!r}: act(obs) raised {type(error).__name__}: {error} on observations of "
            f"shape {obs.shape}"
        ) from error
    try:
        shares = np.asarray(answer, dtype=np.float64)
    except (TypeError, ValueError):
        raise PolicyError(
            f"policy {name!r}: act(obs) returned {type(answer).__name__}, which is no array of "
            f"numbers; return EMB shares of shape {shape}"
        ) from None
    if shares.shape != shape:
        raise PolicyError(
            f"policy {name!r}: act(obs) returned shape {shares.shape}, but observations of shape "
            f"{obs.shape} ask for shares of shape {shape}"
        )
    wrong = ~((shares >= 0.0) & (shares <= 1.0))
    if wrong.any():
        row, column = (int(i) for i in np.argwhere(wrong)[0])
        raise PolicyError(
            f"policy {name!r}: act(obs) returned {shares[row, column]:g} in row {row}, column "
            f"{column}; an EMB share is a number in [0, 1]"
        )
    return shares
