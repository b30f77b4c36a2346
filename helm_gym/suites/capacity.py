"""How much load a static share carries: the yardstick that every comparison's load refers to.

The capacity of a share is the highest base rate per node at which 99 % of the requests that arrive
are XX
There is one search, :func:`highest_rate`. Rates lie on one geometric grid, capacity is interpolated
between neighbours, and a share's search begins at its neighbour's capacity, so it takes about four
simulations. All shares meet the same requests. The command used to bisect to within 1 % and to give
the lower end; it now differs from that by up to 1 %, and its best share is the middle of the shares
within 2 % of the top, in one piece, as in the suites.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from helm_gym.config.scenario import Scenario
from helm_gym.errors import ConfigError
from helm_gym.runs.figures import tail_ms
from helm_gym.seeding import streams_from_seed
from helm_gym.sim.layout import N_BINS, N_NODE, Node
from helm_gym.sim.simulator import Simulator

SEED = 30_000  # first of the seeds used here; apart from training, tuning and evaluation
SEEDS = (SEED, SEED + 1)
SATISFACTION = 0.99  # of arrivals inside the SLO: the P99 of all arrivals meets it
STEP = 1.03  # ratio of neighbouring rates, between which capacity is interpolated
LOWEST_RPS = 4.0  # per node; a share that carries less counts as carrying nothing
HIGHEST_RPS = 1e5  # per node; a rate that no scenario reaches
WITHIN = 0.02  # shares this close to the best one are as good
SIMULATORS_KEPT = 6


@dataclass(frozen=True)
class Figures:
    """What a static share does at one rate, all seeds together."""

    inside: float  # arrivals served within the SLO / arrivals
    tail_ms: float  # P99 over all arrivals, a shed one counting as the deadline
    shed: float
    kv_hits: float  # of admitted requests
    emb_hits: float  # by bytes
    link: float  # utilisation
    gpu: float
    hot: float  # arrivals of users seen within episode.hot_user_s
    tails: tuple[float, ...] = ()  # of every seed alone


@dataclass
class Probe:
    """Static shares of a scenario at any rate.

    Args:
        scenario: in its own regime; its load and capacity are replaced.
        seeds: clusters, each beginning where the schedule begins.
        measure_s: simulated time per cluster after the warm-up.
        most_requests: per cluster; where more would come the time is shorter, and so is the
            warm-up, to twice as many.
        threads: simulator threads; results do not depend on them.
    """

    scenario: Scenario
    seeds: Sequence[int] = SEEDS
    measure_s: float = 60.0
    most_requests: float = math.inf
    threads: int = 1
    runs: int = field(default=0, init=False)
    _kept: OrderedDict[float, Simulator] = field(default_factory=OrderedDict, init=False)

    def __post_init__(self) -> None:
        if self.scenario.workload.replay is not None:
            raise ConfigError("capacity needs generated requests; this scenario replays a log")

    def figures(self, rate: float, share: float) -> Figures:
        """Simulate a share at ``rate`` requests/s per node (the regime's base rate)."""
        return self.sweep(rate, [share])[0]

    def sweep(self, rate: float, shares: Sequence[float]) -> list[Figures]:
        """Simulate shares at one rate, on the same requests."""
        simulator = self._simulator(rate)
        return [self._run(simulator, share) for share in shares]

    def _simulator(self, rate: float) -> Simulator:
        """A simulator at that rate; neighbouring shares ask for the same rates again."""
        if rate not in self._kept:
            warmup_s = min(
                self.scenario.episode.warmup_s, 2 * self.most_requests / rate / self.scenario.nodes
            )
            changes = {"workload.load": 1.0, "workload.capacity_rps_per_node": rate}
            changes |= {"episode.warm_starts": 1, "episode.warmup_s": warmup_s}
            scenario = self.scenario.replace(changes)
            self._kept[rate] = Simulator(scenario, len(self.seeds), self.threads)
            if len(self._kept) > SIMULATORS_KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(rate)
        return self._kept[rate]

    def _run(self, simulator: Simulator, share: float) -> Figures:
        self.runs += 1
        scenario = simulator.scenario
        for cluster, seed in enumerate(self.seeds):
            simulator.reset(cluster, streams_from_seed(seed), share=share)
        shares = np.full((len(self.seeds), scenario.nodes), share)
        sums = np.zeros((len(self.seeds), N_NODE))
        latency = np.zeros((len(self.seeds), N_BINS), np.int64)
        rate = scenario.workload.capacity_rps_per_node.value * scenario.nodes
        measured = min(self.measure_s, self.most_requests / rate)
        windows = max(1, round(measured / scenario.episode.step_s))
        for _ in range(windows):
            told = simulator.step(shares)
            sums += told.total
            latency += told.latency
        seconds = windows * scenario.episode.step_s * scenario.nodes * len(self.seeds)
        return _figures(sums, latency, seconds, scenario.slo.deadline_ms.value)

    def margin(self, share: float, rate: float) -> float:
        """Part of arrivals within the SLO above the 99 % that a rate has to serve."""
        return self.figures(rate, share).inside - SATISFACTION

    def capacities(
        self, shares: Sequence[float], guess: float, tick: Callable[[], None] | None = None
    ) -> dict[float, float]:
        """Capacity of every share, requests/s per node; 0 if it carries nothing.

        Args:
            shares: rising; the search walks outward from the middle one.
            guess: rate at which the first search begins.
            tick: called after every share.
        """
        middle = len(shares) // 2
        found: dict[float, float] = {}
        for walk in (shares[middle:], shares[:middle][::-1]):
            behind = [found[shares[middle]]] if found else []
            for share in walk:
                start = _extrapolated(behind) or guess
                found[share] = highest_rate(partial(self.margin, share), start)
                behind.append(found[share])
                if tick is not None:
                    tick()
        return {share: found[share] for share in shares}


def _extrapolated(behind: Sequence[float]) -> float:
    """The next share's capacity if the last two go on as they did; 0 if nothing is known."""
    if len(behind) < 2 or not behind[-2]:
        return behind[-1] if behind else 0.0
    return behind[-1] * min(1.2, max(0.8, behind[-1] / behind[-2]))


def _figures(
    sums: np.ndarray, latency: np.ndarray, node_seconds: float, deadline_ms: float
) -> Figures:
    arrived, shed = sums[:, Node.ARRIVED], sums[:, Node.SHED]
    whole = sums.sum(axis=0)
    n = max(float(arrived.sum()), 1.0)
    admitted = max(n - float(shed.sum()), 1.0)
    parts = np.divide(shed, np.maximum(arrived, 1.0))
    lookup = max(float(whole[Node.LOOKUP_BYTES]), 1.0)
    return Figures(
        inside=float(whole[Node.WITHIN_SLO]) / n,
        tail_ms=tail_ms(latency.sum(axis=0), float(shed.sum()) / n, deadline_ms),
        shed=float(shed.sum()) / n,
        kv_hits=float(whole[Node.KV_HITS]) / admitted,
        emb_hits=1.0 - float(whole[Node.MISS_BYTES]) / lookup,
        link=float(whole[Node.LINK_S]) / node_seconds,
        gpu=float(whole[Node.GPU_S]) / node_seconds,
        hot=float(whole[Node.HOT]) / n,
        tails=tuple(
            tail_ms(counts, float(part), deadline_ms)
            for counts, part in zip(latency, parts, strict=True)
        ),
    )


def rate_at(index: int) -> float:
    """Rate of a place on the grid, requests/s per node."""
    return float(STEP**index)


def highest_rate(
    margin: Callable[[float], float],
    guess: float,
    lowest: float = LOWEST_RPS,
    highest: float = HIGHEST_RPS,
) -> float:
    """Rate at which ``margin`` falls through 0, taken to do so once; 0 if it is below 0 everywhere.

    Args:
        margin: of a rate; at least 0 where the rate is carried.
        guess: near which the search begins; strides double until the answer lies between two
            neighbouring rates, and a straight line between their margins says where.
        lowest: no rate below it is tried.
        highest: no rate above it is tried.

    Raises:
        ConfigError: ``highest`` is carried.
    """
    known: dict[int, float] = {}

    def at(place: int) -> float:
        if place not in known:
            known[place] = margin(rate_at(place))
        return known[place]

    floor, ceiling = (round(math.log(x) / math.log(STEP)) for x in (lowest, highest))
    low = max(floor, round(math.log(max(guess, lowest)) / math.log(STEP)))
    high, stride = low + 1, 1
    while at(low) >= 0.0 and at(high) >= 0.0:
        if high >= ceiling:
            raise ConfigError(
                f"{rate_at(high):.0f} requests/s per node still meet the SLO: nothing limits this "
                "scenario; check its service times and its SLO"
            )
        low, stride = high, 2 * stride
        high = min(low + stride, ceiling)
    while at(low) < 0.0:
        if low == floor or (stride > 4 and at(floor) < 0.0):
            return 0.0
        high, stride = low, 2 * stride
        low = max(floor, high - stride)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if at(middle) >= 0.0 else (low, middle)
    part = at(low) / (at(low) - at(high))
    return float(rate_at(low) * STEP**part)


def best_share(figure: Mapping[float, float], highest: bool, within: float = WITHIN) -> float:
    """The middle one of the shares whose figure is within ``within`` of the best.

    Args:
        figure: share -> capacity (``highest``) or P99.
        highest: whether more is better.
        within: relative distance that does not count.
    """
    good = basin(figure, highest, within)
    return good[len(good) // 2]


def basin(figure: Mapping[float, float], highest: bool, within: float = WITHIN) -> list[float]:
    """Shares around the best one, without a gap, whose figure is within ``within`` of its."""
    shares = sorted(figure)
    values = np.array([figure[share] for share in shares])
    top = int(np.argmax(values) if highest else np.argmin(values))
    bound = values[top] * (1.0 - within if highest else 1.0 + within)
    good = values >= bound if highest else values <= bound
    first = last = top
    while first > 0 and good[first - 1]:
        first -= 1
    while last + 1 < len(shares) and good[last + 1]:
        last += 1
    return shares[first : last + 1]
