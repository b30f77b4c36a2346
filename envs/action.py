"""Actions: who decides for whom, what is refused, and how far a decision moves the boundary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

import numpy as np
from gymnasium.spaces import Box, Discrete, MultiDiscrete, Space
from numpy.typing import NDArray

from helm_gym.config.scenario import Episode
from helm_gym.errors import ConfigError, InvalidAction, nearest

Floats = NDArray[np.float64]
ArrayT = TypeVar("ArrayT", bound=np.generic)
Control = Literal["cluster", "per_node", "node"]

CONTROLS: tuple[str, ...] = get_args(Control)
ACTIONS = ("share", "choice")
"""What an action is: the EMB share itself, or the index of one of :data:`INCREMENTS`."""

INCREMENTS = (-0.06, -0.04, -0.02, 0.0, 0.02, 0.04, 0.06)
"""HELM's seven discrete changes of the EMB share (one secondary reading)."""

ROUNDING = 1e-6
"""A change below this is what rounding an action to float32 does, and moves nothing."""

_INCREMENTS = np.array(INCREMENTS)


def choice_space(shares: int) -> Space[Any]:
    """Indices into :data:`INCREMENTS`: one, or one for each of several shares."""
    return Discrete(len(INCREMENTS)) if shares == 1 else MultiDiscrete([len(INCREMENTS)] * shares)


def chosen_increments(choice: Any, shape: tuple[int, ...]) -> Floats:
    """Changes of the EMB share that indices into :data:`INCREMENTS` stand for.

    Args:
        choice: as many integers as ``shape`` has places.
        shape: shape that the result has.

    Raises:
        InvalidAction: the number of indices is wrong, or one of them names no increment.
    """
    array = np.asarray(choice)
    if array.dtype.kind not in "iu" or array.size != np.prod(shape, dtype=int):
        raise InvalidAction(
            f"action {choice!r:.60} is not an integer index per share; the shape is {shape} and "
            f"0 to {len(INCREMENTS) - 1} stand for {INCREMENTS}"
        )
    if array.size and (array.min() < 0 or array.max() >= len(INCREMENTS)):
        raise InvalidAction(
            f"action {choice!r:.60} names no increment; 0 to {len(INCREMENTS) - 1} stand for "
            f"{INCREMENTS}"
        )
    return np.asarray(_INCREMENTS[array.reshape(shape)])


@dataclass(frozen=True)
class Layout:
    """How rows of a vector environment map to clusters and nodes.

    Args:
        control: ``cluster``, one share for all nodes of a row's cluster; ``per_node``, a row is a
            cluster and its action has one share per node; ``node``, a row is one node.
        clusters: B.
        nodes: M, per cluster.
        action: one of :data:`ACTIONS`.
    """

    control: str
    clusters: int
    nodes: int
    action: str = "share"

    def __post_init__(self) -> None:
        if self.control not in CONTROLS:
            raise ConfigError(f"control={self.control!r}{nearest(str(self.control), CONTROLS)}")
        if self.action not in ACTIONS:
            raise ConfigError(f"action={self.action!r}{nearest(str(self.action), ACTIONS)}")
        counts = isinstance(self.clusters, (int, np.integer)) and not isinstance(
            self.clusters, bool
        )
        if not counts or self.clusters < 1:
            raise ConfigError(
                f"num_envs={self.clusters!r:.60} is no number of clusters; write an integer of at "
                "least 1, and all other arguments by name"
            )

    @property
    def rows_per_cluster(self) -> int:
        """Rows that one cluster fills; row = cluster * rows_per_cluster + node."""
        return self.nodes if self.control == "node" else 1

    @property
    def rows(self) -> int:
        """Rows of the vector environment."""
        return self.clusters * self.rows_per_cluster

    @property
    def shares_per_row(self) -> int:
        """Length of one row's action."""
        return self.nodes if self.control == "per_node" else 1

    @property
    def action_space(self) -> Space[Any]:
        """What one row may do."""
        if self.action == "choice":
            return choice_space(self.shares_per_row)
        return Box(0.0, 1.0, (self.shares_per_row,), np.float32)

    @property
    def sees_nodes(self) -> bool:
        """Whether observations describe nodes rather than the cluster."""
        return self.control != "cluster"

    def per_row(self, values: NDArray[ArrayT]) -> NDArray[ArrayT]:
        """Repeat (B, ...) values of clusters for each of their rows; always a copy."""
        if self.rows_per_cluster == 1:  # repeat takes several times as long
            return values.copy()
        return np.repeat(values, self.rows_per_cluster, axis=0)

    def rows_of(self, values: Mapping[str, Floats]) -> dict[str, Floats]:
        """:meth:`per_row` of many (B,) arrays at once."""
        if self.rows_per_cluster == 1:
            return {name: value.copy() for name, value in values.items()}
        table = np.repeat(np.array(list(values.values())), self.rows_per_cluster, axis=1)
        return dict(zip(values, table, strict=True))

    def per_cluster(self, values: NDArray[ArrayT]) -> NDArray[ArrayT]:
        """View (rows, ...) values as (B, rows per cluster, ...)."""
        return values.reshape(self.clusters, self.rows_per_cluster, *values.shape[1:])

    def asked(self, actions: Any, shares: Floats) -> Floats:
        """(B, M) EMB shares that the actions of all rows ask for, whatever an action is.

        Args:
            actions: (rows, shares per row) EMB shares, or indices of as many increments.
            shares: (B, M) in force.

        Raises:
            InvalidAction: the shape is wrong, or an action is none.
        """
        if self.action == "choice":
            held = self.row_shares(shares)
            return self.targets(held + chosen_increments(actions, held.shape))
        return self.targets(actions)

    def targets(self, actions: Any) -> Floats:
        """Turn one EMB share per row, or per node of a row, into (B, M) EMB shares.

        Raises:
            InvalidAction: the shape is wrong, or a share is not a finite number.
        """
        wanted = (self.rows, self.shares_per_row)
        try:
            array = np.asarray(actions, dtype=np.float64)
        except (TypeError, ValueError):
            raise InvalidAction(
                f"actions of type {type(actions).__name__} are not numbers; pass an array of EMB "
                f"shares of shape {wanted}"
            ) from None
        if array.shape != wanted:
            raise InvalidAction(
                f"actions have shape {array.shape}, but control={self.control!r} takes one EMB "
                f"share per {'cluster' if self.control == 'cluster' else 'node'}; write "
                f"np.full({wanted}, 0.5)"
            )
        if not np.isfinite(array).all():
            row, column = np.argwhere(~np.isfinite(array))[0]
            raise InvalidAction(
                f"action {array[row, column]} in row {row}, column {column} is not a finite "
                "number; an EMB share lies in [0, 1]. Nothing was simulated"
            )
        shares = array.reshape(self.clusters, -1)
        return np.repeat(shares, self.nodes // shares.shape[1], axis=1)

    def row_shares(self, shares: Floats) -> Floats:
        """(rows, shares per row) of (B, M) shares in force: the actions that change nothing."""
        if self.control == "cluster":
            return shares[:, :1].copy()
        return shares.reshape(self.rows, self.shares_per_row).copy()


def move(episode: Episode, shares: Floats, targets: Floats) -> Floats:
    """Shares that a decision puts into force.

    Args:
        episode: the allowed range, and the longest move if it is limited.
        shares: (B, M) in force.
        targets: (B, M) asked for.

    Returns:
        (B, M) targets, clipped to the range and at most ``max_step`` away from ``shares``.
    """
    reached = np.minimum(np.maximum(targets, episode.share_min), episode.share_max)
    if episode.max_step is not None:
        lowest, highest = shares - episode.max_step, shares + episode.max_step
        reached = np.minimum(np.maximum(reached, lowest), highest)
    return np.where(np.abs(reached - shares) < ROUNDING, shares, reached)
