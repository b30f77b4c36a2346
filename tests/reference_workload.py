"""The request source of the slow twin: docs/model.md section 2 in plain Python, for tests only.

From the library it takes the schedule table and the users' groups, which are drawn with NumPy; no
formula and no kernel.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable
from statistics import NormalDist
from typing import NamedTuple

from helm_gym.config.scenario import Scenario
from helm_gym.seeding import Stream
from helm_gym.sim.lowering import Lowered

MASK = (1 << 64) - 1
NORMAL = NormalDist()


def scramble(z: int) -> int:
    """Finaliser of SplitMix64."""
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


class Draws:
    """SplitMix64 counters by stream, in Python's big integers."""

    def __init__(self, states: Iterable[int]) -> None:
        self.states = [int(state) for state in states]

    def uniform(self, stream: int) -> float:
        self.states[stream] = (self.states[stream] + 0x9E3779B97F4A7C15) & MASK
        return ((scramble(self.states[stream]) >> 11) + 0.5) / 2.0**53

    def normal(self, stream: int, below: float = 1.0) -> float:
        """Standard normal, cut to its lowest part of probability ``below``."""
        return NORMAL.inv_cdf(self.uniform(stream) * below)

    def positive(self, stream: int, cv: float) -> float:
        """Mean 1: exponential, or Gamma after Marsaglia and Tsang."""
        if cv == 1.0:
            return -math.log(self.uniform(stream))
        shape = cv**-2
        d = (shape if shape >= 1.0 else shape + 1.0) - 1.0 / 3.0
        while True:
            z = self.normal(stream)
            v = (1.0 + z / math.sqrt(9.0 * d)) ** 3
            if v > 0.0 and math.log(self.uniform(stream)) < z * z / 2 + d * (1 - v + math.log(v)):
                break
        if shape < 1.0:
            v *= self.uniform(stream) ** (1.0 / shape)
        return d * v / shape


class Asked(NamedTuple):
    """One request as the workload makes it."""

    time: float
    user: int
    group: int
    surface: int
    first: bool


class Source:
    """Section 2: sessions in a heap."""

    def __init__(self, scenario: Scenario, low: Lowered, draws: Draws, now: float) -> None:
        work, self.draws = scenario.workload, draws
        profile, self.schedule = work.profile, low.schedule
        self.gaps = [surface.gap or profile.gap for surface in work.surfaces]
        self.lengths = [s.session_length or profile.session_length for s in work.surfaces]
        self.scales = [surface.gap_scale.value for surface in work.surfaces]
        per_session = [self._mean_requests(law) for law in self.lengths]
        base = work.load * work.capacity_rps_per_node.value * scenario.nodes
        self.starts_by_surface = [
            [base * rate / n for rate, n in zip(rates, per_session, strict=True)]
            for rates in self.schedule.rate.tolist()
        ]
        self.starts = [sum(starts) for starts in self.starts_by_surface]
        self.cv, self.sigma = work.session_start_cv.value, profile.activity_sigma.value
        self.regular, self.groups = int(work.users.value), low.users["group"].tolist()
        self.burst_group = int(profile.popularity.interest_groups.value)
        self.heap: list[tuple[float, int, int, int, int, int]] = []
        self.made = 0
        self.next_start = now
        self._draw_start()

    @staticmethod
    def _mean_requests(law) -> float:
        mu, sigma = law.log_mean.value, law.log_sigma.value
        tails = (NORMAL.cdf((mu - math.log(k)) / sigma) for k in range(1, 5000))
        return 1.0 + sum(tails)

    def _cell(self, time: float) -> int:
        return math.floor(time / self.schedule.cell_s) % len(self.starts)

    def _draw_start(self) -> None:
        """Walk through the cells until the expected number of starts reaches the draw."""
        wanted, time = self.draws.positive(Stream.START, self.cv), self.next_start
        cell, width = math.floor(time / self.schedule.cell_s), self.schedule.cell_s
        while True:
            rate, end = self.starts[cell % len(self.starts)], (cell + 1) * width
            if rate * (end - time) >= wanted:
                self.next_start = time + wanted / rate
                return
            wanted -= rate * (end - time)
            cell, time = cell + 1, end

    def _surface(self, time: float) -> int:
        starts = self.starts_by_surface[self._cell(time)]
        if len(starts) == 1:
            return 0
        left, surface = self.draws.uniform(Stream.SURFACE) * sum(starts), 0
        while surface < len(starts) - 1 and left >= starts[surface]:
            left -= starts[surface]
            surface += 1
        return surface

    def _user(self, time: float, surface: int) -> tuple[int, int]:
        quantile = NORMAL.cdf(self.draws.normal(Stream.USER) + self.sigma)
        user = min(int(quantile * self.regular), self.regular - 1)
        group = self.groups[user]
        cell = self._cell(time)
        excess = self.schedule.excess[cell][surface]
        if excess > 0.0 and self.draws.uniform(Stream.BURST) < excess:
            if self.draws.uniform(Stream.BURST) < self.schedule.newcomers[cell]:
                newcomers = len(self.groups) - self.regular
                user = self.regular + int(self.draws.uniform(Stream.BURST) * newcomers)
                group = self.groups[user]
            if self.draws.uniform(Stream.BURST) < self.schedule.hot_items[cell]:
                group = self.burst_group
        return user, group

    def _file(self, time: float, user: int, group: int, surface: int, left: int) -> None:
        law = self.gaps[surface]
        mu, sigma = law.log_mean.value, law.log_sigma.value
        below = NORMAL.cdf((math.log(law.cut_s.value) - mu) / sigma)
        gap = math.exp(mu + sigma * self.draws.normal(Stream.GAP, below)) * self.scales[surface]
        self.made += 1
        heapq.heappush(self.heap, (time + gap, self.made, user, group, surface, left))

    def next_before(self, until: float) -> Asked | None:
        """Take the next request if it comes before ``until``."""
        time = min(self.next_start, self.heap[0][0] if self.heap else math.inf)
        if time >= until:
            return None
        if time < self.next_start:
            time, _, user, group, surface, left = heapq.heappop(self.heap)
            if left > 1:
                self._file(time, user, group, surface, left - 1)
            return Asked(time, user, group, surface, False)
        surface = self._surface(time)
        user, group = self._user(time, surface)
        law = self.lengths[surface]
        draw = law.log_mean.value + law.log_sigma.value * self.draws.normal(Stream.LENGTH)
        left = math.ceil(math.exp(draw))
        self._draw_start()
        if left > 1:
            self._file(time, user, group, surface, left - 1)
        return Asked(time, user, group, surface, True)
