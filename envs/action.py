"""Actions: who decides for whom, what is refused, and how far a decision moves the boundary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from helm_gym.config.scenario import Episode
from helm_gym.errors import ConfigError, InvalidAction, nearest

Floats = NDArray[np.float64]
ArrayT = TypeVar("ArrayT", bound=np.generic)
Control = Literal["cluster", "per_node", "node"]

CONTROLS: tuple[str, ...] = get_args(Control)
INCREMENTS = (-0.06, -0.04, -0.02, 0.0, 0.02, 0.04, 0.06)
"""HELM's seven discrete changes of the EMB share (one secondary reading)."""

ROUNDING = 1e-6
"""A change below this is what rounding an action to float32 does, and moves nothing."""


@dataclass(frozen=True)
class Layout:
    """How rows of a vector environment map to clusters and nodes.

    Args:
        control: ``cluster``, one share for all nodes of a row's cluster; ``per_node``, a row is a
            cluster and its action has one share per node; ``node``, a row is one node.
        clusters: B.
        nodes: M, per cluster.
    """

    control: str
    clusters: int
    nodes: int

    def __post_init__(self) -> None:
        if self.control not in CONTROLS:
            raise ConfigError(f"control={self.control!r}{nearest(str(self.control), CONTROLS)}")

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

    def targets(self, actions: Any) -> Floats:
        """Turn the actions of all rows into (B, M) EMB shares that they ask for.

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
