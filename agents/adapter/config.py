"""Settings of the residual adapter; what each value rests on stands beside it.

"Tuned" values were chosen on cells of an earlier suite and on variants of them (another host link,
smaller rows, half the pool), tuning seeds only; docs/adapter.md says what was compared. "Untuned"
ones were written down once and left alone.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from pydantic import Field

from helm_gym.agents.adapter.net import HIDDEN
from helm_gym.config.quantity import Frozen
from helm_gym.errors import ConfigError
from helm_gym.policy import names_share

Method = Literal["marginal", "none"]


class Reach(NamedTuple):
    """How far and how fast a residual goes, in share; both tuned."""

    bound: float
    step: float


# A base that names shares is corrected by the residual itself. One that moves the share in force
# meets it again in every decision: it adds up, until the base takes as much back. So it shifts
# where the base rests, must stay well below the base's longest move (0.06), and has to grow slower
# than the base follows: with the reach of the first kind two integrators chase each other.
NAMED = Reach(bound=0.2, step=0.01)
MOVED = Reach(bound=0.015, step=0.0005)


class ResidualConfig(Frozen):
    """How a residual is bounded, learned and guarded; windows are decisions, 5 s as a rule.

    ``marginal`` follows what the caches' ghosts say a larger share would save, ``none`` learns
    nothing and decides as the base.
    """

    method: Method = "marginal"
    bound: float | None = Field(default=None, gt=0, le=1)  # share; None: see Reach
    hidden: int = Field(default=HIDDEN, ge=1, le=256)  # untuned
    # Share that one window of full agreement moves the output by; None: see Reach.
    step: float | None = Field(default=None, gt=0, le=1)
    # The step grows with P99's deviation from its average: HELM's rule (one secondary reading),
    # step * (1 + p99_gain * min(|P99 - EMA| / EMA, p99_cap)); the formula is ours, all untuned.
    p99_gain: float = Field(default=1.0, ge=0)
    p99_cap: float = Field(default=3.0, ge=0)
    p99_keep: float = Field(default=0.95, ge=0, lt=1)  # of the EMA per window: 100 s

    # marginal
    # Of a second that the KV ghost promises; tuned, of 0.35, 0.5, 0.7 and 1.
    kv_discount: float = Field(default=0.7, gt=0)
    smoothing: float = Field(default=0.7, ge=0, lt=1)  # of signals per window: 17 s; untuned

    # guard
    guard: bool = True
    block: int = Field(default=6, ge=2)  # windows that a trial compares on each side; untuned
    ramp: int = Field(default=4, ge=1)  # windows in which a residual fades out or in; untuned
    settle: int = Field(default=2, ge=0)  # windows left out after fading: caches lag; untuned
    period: int = Field(default=24, ge=1)  # windows to the first trial; untuned
    longest_period: int = Field(default=360, ge=1)  # half an hour; untuned
    horizon: int = Field(default=8, ge=1)  # trials that a test looks back on; untuned
    level: float = Field(default=0.001, gt=0, lt=0.5)  # of one test; some ten in half an hour
    margin: float = Field(default=0.0, ge=0)  # reward; what counts as no worse
    inflation: float = Field(default=1.5, ge=1)  # of the standard error: windows are alike
    rest: int = Field(default=60, ge=1)  # windows of base alone after it was worse; untuned

    def reaching(self, base: Any) -> ResidualConfig:
        """The same with ``bound`` and ``step`` filled in, as they suit a base.

        Args:
            base: a policy; ``names_share`` says which of the two kinds it is.
        """
        reach = NAMED if names_share(base) else MOVED
        filled = {"bound": self.bound or reach.bound, "step": self.step or reach.step}
        return self.model_copy(update=filled)

    @property
    def reach(self) -> Reach:
        """Bound and step that are in force.

        Raises:
            ConfigError: they were left to the base, and no base has filled them in.
        """
        if self.bound is None or self.step is None:
            raise ConfigError(
                "bound and step of a residual depend on its base; use config.reaching(base), or "
                "give both"
            )
        return Reach(self.bound, self.step)
