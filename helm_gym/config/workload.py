"""The workload part of a scenario: profile, surfaces, regime, or a real log to replay."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from helm_gym.config.quantity import Frozen, Number, Positive, Quantity, load_preset

PROFILES = Path(__file__).parents[1] / "workload" / "profiles"


def assumed(value: float, low: float, high: float, unit: str = "1", why: str = "") -> Quantity:
    """A number that nobody published, with the range it is swept over."""
    source = f"assumed: {why}" if why else "assumed"
    return Quantity(value=value, unit=unit, source=source, assumed=True, low=low, high=high)


def within(low: float, high: float = math.inf) -> AfterValidator:
    """Refuse a :class:`Quantity` outside ``[low, high]``."""

    def check(quantity: Quantity) -> Quantity:
        if not low <= quantity.value <= high:
            allowed = f"be at least {low:g}" if high == math.inf else f"lie in [{low:g}, {high:g}]"
            raise ValueError(f"must {allowed}, got {quantity.value:g}")
        return quantity

    return AfterValidator(check)


def _whole(quantity: Quantity) -> Quantity:
    if not quantity.value.is_integer():
        raise ValueError(f"must be a whole number, got {quantity.value:g}")
    return quantity


Count = Annotated[Number, AfterValidator(_whole), within(0)]
"""A :class:`Quantity` that counts something."""


class Popularity(Frozen):
    """Zipf-Mandelbrot law of item look-ups: ``p(rank) ~ (rank + shift_items) ** -exponent``."""

    catalogue_items: Positive
    exponent: Positive
    shift_items: Number
    own_interest_share: Number  # part of a group's look-ups that follow its own ranking
    interest_spread: Number  # sd of the log of an item's rank between groups
    interest_groups: Positive


class LogNormal(Frozen):
    """A lognormal law by the mean and standard deviation of the logarithm."""

    log_mean: Number
    log_sigma: Positive


class History(LogNormal):
    """Length of a user's history in tokens, clipped to [shortest, the model's longest]."""

    shortest: Positive


class Gap(LogNormal):
    """Seconds between requests of a session, cut at ``cut_s`` (a longer gap ends the session)."""

    cut_s: Positive


class Profile(Frozen):
    """What a data set says about its users and items."""

    name: str
    popularity: Popularity
    history: History
    activity_sigma: Number  # sd of the log of users' activity; Gini = erf(sigma / 2)
    session_length: LogNormal  # requests, rounded up
    gap: Gap
    between_sessions: LogNormal  # s; recorded, the generator draws users by activity alone
    new_items_per_request: Number
    interest_half_life_s: Positive
    hourly: tuple[Number, ...] = Field(min_length=24, max_length=24)  # rate by hour / mean

    @model_validator(mode="after")
    def _shares(self) -> Profile:
        if not 0.0 <= self.popularity.own_interest_share.value <= 1.0:
            raise ValueError("popularity.own_interest_share must lie in [0, 1]")
        return self


class Surface(Frozen):
    """Where a session happens (home feed, search ...): its candidates, and its pace."""

    name: str
    candidates: Positive  # items scored per request
    gap_scale: Positive = Field(default_factory=lambda: Quantity(value=1.0))
    gap: Gap | None = None  # in place of the profile's
    session_length: LogNormal | None = None  # in place of the profile's


class Phase(Frozen):
    """A stretch of time with one surface mix and one load."""

    duration_s: float = Field(gt=0)
    mix: dict[str, float]
    # Of the best static share in this mix alone; phases are loaded in proportion to it.
    capacity_rps_per_node: Positive | None = None


class Steady(Frozen):
    """Constant rate."""

    kind: Literal["steady"] = "steady"


class Phases(Frozen):
    """Surface mixes in turn, with linear ramps between them, repeated for ever."""

    kind: Literal["phases"] = "phases"
    phases: tuple[Phase, ...] = Field(min_length=1)
    ramp_s: float = Field(default=20.0, ge=0)


class Trend(Frozen):
    """The profile's hourly table, ``speedup`` times faster than the clock."""

    kind: Literal["trend"] = "trend"
    start_hour: float = Field(default=7.0, ge=0, lt=24)
    span_hours: float = Field(default=16.0, gt=0, le=24)
    speedup: float = Field(default=60.0, gt=0)
    mix_end: dict[str, float] | None = None  # surface mix at the end of the span
    drift_half_life_s: float | None = Field(default=None, gt=0)  # else the profile's


class Burst(Frozen):
    """Stretches of ``amplitude`` times the base rate; what they bring is assumed, so sweep it."""

    kind: Literal["burst"] = "burst"
    amplitude: Positive
    on_s: tuple[float, float] = (10.0, 30.0)
    off_s: tuple[float, float] = (30.0, 30.0)
    cycles: int = Field(default=8, gt=0)
    new_user_share: Number = Field(default_factory=lambda: assumed(0.5, 0.0, 1.0))
    hot_item_share: Number = Field(default_factory=lambda: assumed(0.5, 0.0, 1.0))
    # The shards that a burst's hot items live in, and the part of its look-ups that go there.
    hot_shards: Annotated[Number, within(0, 0.75)] = Field(
        default_factory=lambda: assumed(0.02, 0.002, 0.1)
    )
    hot_focus: Annotated[Number, within(0, 1)] = Field(
        default_factory=lambda: assumed(0.9, 0.5, 1.0)
    )
    newcomers: Positive = Field(
        default_factory=lambda: assumed(0.5, 0.1, 2.0, why="users beyond the regular ones, per one")
    )


class Replay(Frozen):
    """A real log in place of the generator."""

    path: str
    kind: Literal["interactions", "arrivals"] = "interactions"
    time_unit: Literal["s", "ms", "us"] = "s"
    time_column: str = "timestamp"
    compression: float | None = Field(default=None, gt=0)  # None: whatever reaches the load
    history: Literal["profile", "log"] = "profile"
    items: Literal["log", "profile"] = "log"  # whose popularity look-ups follow
    overlay: int = Field(default=1, gt=0)  # copies of every user, each shifted in time
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


Regime = Annotated[Steady | Phases | Trend | Burst, Field(discriminator="kind")]


def _load_profile(reference: Any) -> Profile:
    return load_preset(Profile, reference, PROFILES, "profile")


class Workload(Frozen):
    """Who asks, for what, how often."""

    profile: Annotated[Profile, BeforeValidator(_load_profile)]
    surfaces: tuple[Surface, ...] = Field(min_length=1)
    mix: dict[str, float] = Field(default_factory=dict)  # surface -> share of requests
    users: Annotated[Count, within(1)] = Field(
        default_factory=lambda: assumed(
            200_000, 50_000, 1_000_000, "users", "sets how soon a user returns"
        )
    )
    session_start_cv: Positive = Field(  # 1 is Poisson, else Gamma
        default_factory=lambda: assumed(
            1.0, 0.8, 2.0, why="Poisson; ServeGen's median clients have 1.0 to 2.0"
        )
    )
    load: float = Field(default=0.7, gt=0)  # fraction of the best static share's capacity
    # Highest steady rate that the best static share of the busiest mix carries within the SLO.
    capacity_rps_per_node: Positive
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
        if isinstance(self.regime, Trend) and self.regime.mix_end is not None:
            mixes.append(self.regime.mix_end)
        for mix in mixes:
            _check_mix(mix, names)
        return self

    def base_mix(self) -> dict[str, float]:
        """Share of requests on each surface, in the order of ``surfaces``; sums to 1."""
        return self.normalised(self.mix or {surface.name: 1.0 for surface in self.surfaces})

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
