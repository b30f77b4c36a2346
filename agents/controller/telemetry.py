"""Telemetry: the array of numbers that a serving system hands the controller every period.

One float64 array of (M + 1, N_COLUMNS): a row for each of M nodes, as :class:`NodeColumn` says, and
a last row for the cluster, as :class:`ClusterColumn` says. "Over the window" means summed over the
period that has just ended; the levels are taken at its end. What is not known is NaN.
"""

from __future__ import annotations

import math
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from helm_gym.config.quantity import Frozen, explain
from helm_gym.config.scenario import Scenario
from helm_gym.envs.observation import numbers_of
from helm_gym.errors import ConfigError

Floats = NDArray[np.float64]


class NodeColumn(IntEnum):
    """Columns of a node's row."""

    ARRIVED = 0  # requests routed here, over the window
    SHED = 1  # of them refused
    WITHIN_SLO = 2  # of them answered inside the SLO
    LATENCY_S = 3  # s; summed over admitted requests
    WAIT_S = 4  # s; queueing for link and GPU, summed over admitted requests
    KV_HITS = 5  # admitted requests whose user's KV was resident
    LOOKUP_BYTES = 6  # bytes; embeddings looked up
    MISS_BYTES = 7  # bytes; of them fetched from host memory
    LINK_S = 8  # s; the link was at work, misses and refill
    GPU_S = 9  # s; GPU work admitted
    HISTORY_TOKENS = 10  # tokens; summed over arrived requests
    CANDIDATES = 11  # items to rank; summed over arrived requests
    HOT = 12  # arrived requests of users seen shortly before (30 s in the released policy)
    GHOST_KV_S = 13  # s; link and GPU work that a little more KV would have saved
    LINK_DELAY_S = 14  # s; level: until the link is free
    GPU_DELAY_S = 15  # s; level: until the GPU is free
    REFILL_BACKLOG = 16  # bytes; level: waiting to be copied into EMB
    MARGINAL_EMB_S = 17  # s/s; level: link work that a little more EMB would save
    SHARE = 18  # 0..1; level: EMB share in force
    TIME_S = 19  # s; end of the window that this row describes, on the cluster's clock


class ClusterColumn(IntEnum):
    """Columns of the cluster's row; the others are not read."""

    P99_S = 0  # s; latency of admitted requests on all nodes, NaN if there were none
    NOW_S = 1  # s; time of this decision, on the clock of TIME_S


class Reason(IntEnum):
    """Why a node was given its last share again."""

    NONE = 0  # it was not
    MISSING = 1  # a number of it, or the time, is NaN
    STALE = 2  # its window ended longer ago than allowed
    ABSURD = 3  # a number is negative, infinite or at odds with another, or is of the future
    NO_P99 = 4  # requests were admitted, but the cluster's P99 is missing or absurd
    NO_ANSWER = 5  # the base gave no finite share


N_COLUMNS = len(NodeColumn)


class Site(Frozen):
    """What the controller has to know of a cluster; all nodes are alike.

    Raises:
        ConfigError: a field is missing, unknown or no finite number.
    """

    step_s: float  # s between decisions
    slo_s: float  # P99 promised
    deadline_s: float  # longest wait before a request is shed
    pool_bytes: float  # memory that EMB and KV share, per node
    nominal_rps: float  # requests per second and node on an ordinary day
    longest_history: float  # tokens
    most_candidates: float  # of any surface
    share_min: float = 0.1
    share_max: float = 0.9
    initial_share: float = 0.5

    def __init__(self, **fields: float) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise ConfigError(explain(type(self), error, "Site")) from None

    @classmethod
    def of(cls, scenario: Scenario) -> Site:
        """A simulated cluster's."""
        episode, workload = scenario.episode, scenario.workload
        return cls(
            **numbers_of(scenario),
            nominal_rps=workload.load * workload.capacity_rps_per_node.value,
            share_min=episode.share_min,
            share_max=episode.share_max,
            initial_share=episode.initial_share,
        )


def empty(nodes: int) -> Floats:
    """(M + 1, N_COLUMNS) telemetry that knows nothing; fill it and use it again."""
    return np.full((nodes + 1, N_COLUMNS), math.nan)
