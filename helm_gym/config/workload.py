"""The workload part of a scenario: profile, surfaces, regime, or a real log to replay."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from helm_gym.config.quantity import (
    Count,
    Factor,
    Fraction,
    Frozen,
    Logarithm,
    Number,
    Positive,
    Quantity,
    Seconds,
    Spread,
    Tokens,
    load_preset,
    within,
)

Share = Annotated[float, Field(ge=0, le=1e9)]  # of a mix, which is scaled to a sum of 1
RatePerNode = Annotated[Positive, within(0.01, 1e6)]  # requests/s
RAREST_GAP = -8.0  # sd: a part of 6e-16 of all gaps is shorter
PROFILES = Path(__file__).parents[1] / "workload" / "profiles"


def assumed(value: float, low: float, high: float, unit: str = "1", why: str = "") -> Quantity:
    """A number that nobody published, with the range it is swept over."""
    source = f"assumed: {why}" if why else "assumed"
    return Quantity(value=value, unit=unit, source=source, assumed=True, low=low, high=high)


class Popularity(Frozen):
    """Zipf-Mandelbrot law of item look-ups: ``p(rank) ~ (rank + shift_items) ** -exponent``."""

    catalogue_items: Annotated[Positive, within(2, 2e8)]
    exponent: Annotated[Positive, within(1e-3, 20)]
    shift_items: Annotated[Number, within(0, 1e12)]
    own_interest_share: Fraction  # part of a group's look-ups that follow its own ranking
    interest_spread: Annotated[
        Number, within(0, 100)
    ]  # sd of the log of an item's rank between groups
    interest_groups: Annotated[Count, within(1, 4096)]


class LogNormal(Frozen):
    """A lognormal law by the mean and standard deviation of the logarithm."""

    log_mean: Logarithm
    log_sigma: Spread


class History(LogNormal):
    """Length of a user's history in tokens, clipped to [shortest, the model's longest]."""

    shortest: Tokens


class Gap(LogNormal):
    """Seconds between requests of a session, cut at ``cut_s`` (a longer gap ends the session)."""

    cut_s: Annotated[Seconds, within(1e-3, 1e8)]

    @model_validator(mode="after")
    def _some_are_shorter(self) -> Gap:
        if (math.log(self.cut_s.value) - self.log_mean.value) / self.log_sigma.value < RAREST_GAP:
            raise ValueError(
                f"no gap of log_mean {self.log_mean.value:g} and log_sigma "
                f"{self.log_sigma.value:g} is shorter than cut_s {self.cut_s.value:g}"
            )
        return self


class Profile(Frozen):
    """What a data set says about its users and items."""

    name: str
    popularity: Popularity
    history: History
    activity_sigma: Annotated[
        Number, within(0, 10)
    ]  # sd of the log of users' activity; Gini = erf(sigma / 2)
    session_length: LogNormal  # requests, rounded up
    gap: Gap
    between_sessions: LogNormal  # s; recorded, the generator draws users by activity alone
    new_items_per_request: Annotated[Number, within(0, 1e6)]
    interest_half_life_s: Seconds
    hourly: tuple[Annotated[Number, within(0, 1e6)], ...] = Field(
        min_length=24, max_length=24
    )  # rate by hour / mean


class Surface(Frozen):
    """Where a session happens (home feed, search ...): its candidates, and its pace."""

    name: str
    candidates: Tokens  # items scored per request
    gap_scale: Annotated[Factor, within(1e-6, 1e3)] = Field(
        default_factory=lambda: Quantity(value=1.0)
    )
    gap: Gap | None = None  # in place of the profile's
    session_length: LogNormal | None = None  # in place of the profile's


class Crowd(Frozen):
    """Who comes in bursts beyond the regular users, and for what; assumed, so sweep it."""

    # The shards that a burst's hot items live in, and the part of its look-ups that go there.
    hot_shards: Annotated[Number, within(0, 0.75)] = Field(
        default_factory=lambda: assumed(0.02, 0.002, 0.1)
    )
    hot_focus: Fraction = Field(default_factory=lambda: assumed(0.9, 0.5, 1.0))
    newcomers: Annotated[Factor, within(1e-6, 1e3)] = Field(
        default_factory=lambda: assumed(0.5, 0.1, 2.0, why="users beyond the regular ones, per one")
    )


class Rush(Frozen):
    """Sessions that a phase brings on one surface beyond those that come anyway."""

    surface: str
    part: float = Field(gt=0, lt=1)  # of the phase's requests
    who: Literal["regular", "newcomers", "hot_items"]


class Phase(Frozen):
    """A stretch of time with one surface mix and one load."""

    duration_s: float = Field(ge=1, le=1e6)
    mix: dict[str, Share]
    # Of the best static share in this mix alone; phases are loaded in proportion to it.
    capacity_rps_per_node: RatePerNode | None = None


class Stretch(Phase):
    """A phase of a course; ``mix`` is of those who come anyway, the capacity of all."""

    load: float = Field(default=1.0, ge=1e-6, le=100)  # of the workload's load
    ramp_s: float = Field(default=0.0, ge=0, le=1e6)  # to the next stretch, at this one's end
    rush: Rush | None = None


class Steady(Frozen):
    """Constant rate."""

    kind: Literal["steady"] = "steady"


MOST_SECONDS = 1e7  # of a schedule: four months, a cell per second


def _short_enough(seconds: float) -> None:
    if seconds > MOST_SECONDS:
        raise ValueError(
            f"the schedule repeats after {seconds:g} s; it may take at most {MOST_SECONDS:g} s"
        )


class Phases(Frozen):
    """Surface mixes in turn, with linear ramps between them, repeated for ever."""

    kind: Literal["phases"] = "phases"
    phases: tuple[Phase, ...] = Field(min_length=1, max_length=1000)
    ramp_s: float = Field(default=20.0, ge=0, le=1e6)

    @model_validator(mode="after")
    def _period(self) -> Phases:
        _short_enough(sum(phase.duration_s for phase in self.phases))
        return self


class Course(Frozen):
    """Stretches in turn, repeated for ever: the one mechanism for streams whose optimum moves.

    A drift is a ramp as long as its stretch, a flip has none, a burst is a stretch with a rush.
    """

    kind: Literal["course"] = "course"
    stretches: tuple[Stretch, ...] = Field(min_length=1, max_length=1000)
    crowd: Crowd = Field(default_factory=Crowd)  # of all rushes
    # What a user's history does: it is what the profile drew for the user again whenever a session
    # begins, as where a service keeps so many items of everyone, or it grows with every item.
    histories: Literal["kept", "grow"] = "kept"

    @model_validator(mode="after")
    def _period(self) -> Course:
        _short_enough(sum(stretch.duration_s for stretch in self.stretches))
        return self


class Trend(Frozen):
    """The profile's hourly table, ``speedup`` times faster than the clock."""

    kind: Literal["trend"] = "trend"
    start_hour: float = Field(default=7.0, ge=0, lt=24)
    span_hours: float = Field(default=16.0, gt=0, le=24)
    speedup: float = Field(default=60.0, ge=0.01, le=1e5)
    mix_end: dict[str, Share] | None = None  # surface mix at the end of the span
    drift_half_life_s: float | None = Field(default=None, ge=1e-3, le=1e9)  # else the profile's


def _ordered(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError(f"need the shorter duration first, got {pair[0]:g} and {pair[1]:g}")
    return pair


Duration = Annotated[float, Field(ge=0, le=1e5)]
Between = Annotated[tuple[Duration, Duration], AfterValidator(_ordered)]
"""Shortest and longest duration (s), drawn uniformly; a second at the least."""


class Burst(Crowd):
    """Stretches of ``amplitude`` times the base rate; what they bring is assumed, so sweep it."""

    kind: Literal["burst"] = "burst"
    amplitude: Annotated[Factor, within(1e-3, 1e4)]
    on_s: Between = (10.0, 30.0)
    off_s: Between = (30.0, 30.0)
    cycles: int = Field(default=8, gt=0, le=10_000)
    new_user_share: Fraction = Field(default_factory=lambda: assumed(0.5, 0.0, 1.0))
    hot_item_share: Fraction = Field(default_factory=lambda: assumed(0.5, 0.0, 1.0))

    @model_validator(mode="after")
    def _period(self) -> Burst:
        _short_enough(self.cycles * (self.on_s[1] + self.off_s[1]))
        return self


class Replay(Frozen):
    """A real log in place of the generator."""

    path: str
    kind: Literal["interactions", "arrivals"] = "interactions"
    time_unit: Literal["s", "ms", "us"] = "s"
    time_column: str = "timestamp"
    compression: float | None = Field(
        default=None, ge=1e-9, le=1e12
    )  # None: whatever reaches the load
    history: Literal["profile", "log"] = "profile"
    items: Literal["log", "profile"] = "log"  # whose popularity look-ups follow
    overlay: int = Field(default=1, gt=0, le=10_000)  # copies of every user, each shifted in time
    overlay_shift: Literal["log", "days"] = "log"  # by any time within the log, or whole days

    @model_validator(mode="after")
    def _copies_have_users(self) -> Replay:
        if self.kind == "arrivals":
            if self.overlay > 1:
                raise ValueError(
                    "overlay copies users, and a trace of kind 'arrivals' has none; leave it out"
                )
            if self.items == "profile":
                raise ValueError("items of a trace of kind 'arrivals' are the profile's anyway")
        if self.overlay_shift == "days" and self.overlay == 1:
            raise ValueError("overlay_shift shifts copies; set overlay to at least 2")
        return self


Regime = Annotated[Steady | Phases | Trend | Burst | Course, Field(discriminator="kind")]


def _load_profile(reference: Any) -> Profile:
    return load_preset(Profile, reference, PROFILES, "profile")


class Workload(Frozen):
    """Who asks, for what, how often."""

    profile: Annotated[Profile, BeforeValidator(_load_profile)]
    surfaces: tuple[Surface, ...] = Field(min_length=1, max_length=1000)
    mix: dict[str, Share] = Field(default_factory=dict)  # surface -> share of requests
    users: Annotated[Count, within(1, 1e8)] = Field(
        default_factory=lambda: assumed(
            200_000, 50_000, 1_000_000, "users", "sets how soon a user returns"
        )
    )
    session_start_cv: Annotated[Factor, within(0.01, 100)] = Field(  # 1 is Poisson, else Gamma
        default_factory=lambda: assumed(
            1.0, 0.8, 2.0, why="Poisson; ServeGen's median clients have 1.0 to 2.0"
        )
    )
    load: float = Field(
        default=0.7, ge=1e-9, le=100
    )  # fraction of the best static share's capacity
    # Highest steady rate that the best static share of the busiest mix carries within the SLO.
    capacity_rps_per_node: RatePerNode
    regime: Regime = Field(default_factory=Steady)
    replay: Replay | None = None

    @model_validator(mode="after")
    def _mixes_name_surfaces(self) -> Workload:
        names = [surface.name for surface in self.surfaces]
        if len(set(names)) != len(names):
            raise ValueError(f"two surfaces share a name: {names}")
        mixes = [self.mix] if self.mix else []
        if isinstance(self.regime, Phases):
            mixes += [phase.mix for phase in self.regime.phases]
        if isinstance(self.regime, Course):
            mixes += [stretch.mix for stretch in self.regime.stretches]
            rushes = (stretch.rush for stretch in self.regime.stretches)
            mixes += [{rush.surface: 1.0} for rush in rushes if rush is not None]
        if isinstance(self.regime, Trend) and self.regime.mix_end is not None:
            mixes.append(self.regime.mix_end)
        for mix in mixes:
            _check_mix(mix, names)
        return self

    def base_mix(self) -> dict[str, float]:
        """Share of requests on each surface, in the order of ``surfaces``; sums to 1."""
        return self.normalised(self.mix or {surface.name: 1.0 for surface in self.surfaces})

    def crowd(self) -> Crowd | None:
        """Who comes beyond the regular users; None if nobody ever does."""
        regime = self.regime
        if isinstance(regime, Burst):
            return regime
        if isinstance(regime, Course) and any(stretch.rush for stretch in regime.stretches):
            return regime.crowd
        return None

    def keeps_histories(self) -> bool:
        """Whether a session begins with the history that the profile drew for its user."""
        return isinstance(self.regime, Course) and self.regime.histories == "kept"

    def normalised(self, mix: dict[str, float]) -> dict[str, float]:
        """Complete a mix with zeros and scale it to a sum of 1."""
        total = sum(mix.values())
        return {surface.name: mix.get(surface.name, 0.0) / total for surface in self.surfaces}


def _check_mix(mix: dict[str, float], names: list[str]) -> None:
    unknown = sorted(set(mix) - set(names))
    if unknown:
        raise ValueError(f"mix names unknown surface {unknown[0]!r}; known: {', '.join(names)}")
    if min(mix.values(), default=0.0) < 0 or not sum(mix.values()) > 0:
        raise ValueError(f"mix needs shares of at least 0 with a positive sum, got {mix}")
