"""Which clusters a reset begins anew, from which seeds, and what they show before a decision."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from helm_gym.config.scenario import Scenario
from helm_gym.envs.action import Layout
from helm_gym.errors import ConfigError, nearest
from helm_gym.sim.layout import N_BINS, N_CLUSTER, N_NODE, Cluster, Node
from helm_gym.sim.simulator import Simulator, Telemetry

Mask = NDArray[np.bool_]
OPTIONS = ("share", "start", "reset_mask")
QUANTILES = (Cluster.P50_S, Cluster.P99_S, Cluster.WARM_P50_S, Cluster.WARM_P99_S)


@dataclass(frozen=True)
class Chosen:
    """What a reset does; None leaves a choice to the scenario or to the generators."""

    clusters: Mask  # (B,)
    share: float | None = None  # EMB share of the warm start
    start: int | None = None  # which warm start


def read_options(options: Mapping[str, Any] | None, layout: Layout, scenario: Scenario) -> Chosen:
    """Read the options of a reset.

    Raises:
        ConfigError: an unknown option, or a value that cannot work.
    """
    options = {} if options is None else options
    for key in options:
        if key not in OPTIONS:
            raise ConfigError(f"reset option {key!r} does not exist{nearest(str(key), OPTIONS)}")
    return Chosen(
        clusters=_read_mask(options.get("reset_mask"), layout),
        share=_read_share(options.get("share"), scenario),
        start=_read_start(options.get("start"), scenario),
    )


def _read_mask(mask: Any, layout: Layout) -> Mask:
    if mask is None:
        return np.ones(layout.clusters, np.bool_)
    rows = (layout.rows,)
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.shape != rows:
        shape = getattr(mask, "shape", type(mask).__name__)
        raise ConfigError(
            f"options['reset_mask'] is {shape}, but it says for each of the {layout.rows} rows "
            "whether it begins anew; pass a NumPy array of bool, such as `truncated`"
        )
    by_cluster = layout.per_cluster(mask)
    if (by_cluster.any(axis=1) != by_cluster.all(axis=1)).any():
        raise ConfigError(
            "options['reset_mask'] resets some nodes of a cluster and not others, but they are "
            f"one simulation; give all {layout.nodes} rows of a cluster the same value"
        )
    if not mask.any():
        raise ConfigError("options['reset_mask'] names no row; leave reset() out instead")
    return np.asarray(by_cluster[:, 0])


def _read_share(share: Any, scenario: Scenario) -> float | None:
    if share is None:
        return None
    low, high = scenario.episode.share_min, scenario.episode.share_max
    if not isinstance(share, (int, float, np.number)) or not low <= share <= high:
        raise ConfigError(
            f"options['share'] = {share!r} is no EMB share in the scenario's range [{low:g}, "
            f"{high:g}]; all nodes start from the same number"
        )
    return float(share)


def _read_start(start: Any, scenario: Scenario) -> int | None:
    if start is None:
        return None
    count = scenario.episode.warm_starts
    if not isinstance(start, (int, np.integer)) or not 0 <= start < count:
        raise ConfigError(
            f"options['start'] = {start!r} names no warm start; episode.warm_starts is {count}, "
            f"so write an int from 0 to {count - 1}"
        )
    return int(start)


def read_seeds(seed: int | Sequence[int | None] | None, clusters: int) -> list[int | None]:
    """One seed, or None, per cluster.

    Raises:
        ConfigError: a seed is no integer of at least 0, or their number is wrong.
    """
    if seed is None:
        return [None] * clusters
    if isinstance(seed, (Sequence, np.ndarray)):
        if len(seed) != clusters:
            raise ConfigError(
                f"{len(seed)} seeds for {clusters} clusters; give one per cluster, or a single "
                "int s for s, s + 1, ..."
            )
        return [None if own is None else _as_seed(own) for own in seed]
    first = _as_seed(seed)
    return [first + cluster for cluster in range(clusters)]


def _as_seed(seed: Any) -> int:
    try:
        value = operator.index(seed)
    except TypeError:
        value = -1
    if value < 0:
        raise ConfigError(f"seed {seed!r} is not an integer of at least 0")
    return value


def as_mode(mode: AutoresetMode | str) -> AutoresetMode:
    """Gymnasium's autoreset mode, by member, value or name.

    Raises:
        ConfigError: there is no such mode.
    """
    known = {name: m for m in AutoresetMode for name in (m.value, m.name)}
    found = mode if isinstance(mode, AutoresetMode) else known.get(mode)
    if found is None:
        raise ConfigError(f"autoreset_mode={mode!r}{nearest(str(mode), known)}")
    return found


def with_warm_up(simulator: Simulator, window: Telemetry | None, fresh: Mask) -> Telemetry:
    """Show the last warm-up window of ``fresh`` clusters, and ``window`` for the others.

    Args:
        simulator: whose ``fresh`` clusters were just reset.
        window: last window of every cluster, None if none was simulated yet.
        fresh: (B,) clusters that were reset.
    """
    B, M = simulator.clusters, simulator.scenario.nodes
    if window is None:
        counts = np.zeros((2, B, N_BINS), np.uint32)
        nodes, figures = np.zeros((B, M, N_NODE)), np.zeros((B, N_CLUSTER))
        window = Telemetry(nodes, figures, counts[0], counts[1])
    node, cluster = window.node.copy(), window.cluster.copy()
    latency, warm = window.latency.copy(), window.warm.copy()
    for c in np.flatnonzero(fresh).tolist():
        state = simulator.states[c]
        node[c], cluster[c] = state.out.node, state.out.cluster
        latency[c], warm[c] = state.out.latency, state.out.warm
        node[c, :, Node.SHARE] = state.stages.share
        if not latency[c].any():  # there was no warm-up, so there are no quantiles
            cluster[c, QUANTILES] = np.nan
    return Telemetry(node, cluster, latency, warm)
