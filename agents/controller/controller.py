"""The controller that a serving system calls every period: base, residual and burst recovery.

:class:`HelmController` is the spec ``helm`` (:class:`~helm_gym.agents.layers.helm.HelmPolicy`) as
one object that takes raw telemetry. A decision is one compiled call that allocates nothing and
needs no torch. docs/controller.md says how to wire it to a serving system.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from helm_gym.agents.adapter.config import ResidualConfig
from helm_gym.agents.adapter.learner import ResidualLearner
from helm_gym.agents.adapter.net import ResidualWeights, inputs_of, see
from helm_gym.agents.controller import telemetry as wire
from helm_gym.agents.controller.path import N_PLACES, F, Place, Setting, Work, decide_nodes
from helm_gym.agents.controller.telemetry import Reason, Site
from helm_gym.agents.controller.weights import build, write_residual
from helm_gym.agents.layers.anchored import Anchor
from helm_gym.agents.layers.helm import load_base
from helm_gym.agents.models.layers import layers_of
from helm_gym.agents.models.released import NAME
from helm_gym.agents.models.trained import TrainedPolicy
from helm_gym.agents.models.view import STEPS
from helm_gym.envs.observation import FAST_S, SLOW_S
from helm_gym.envs.recovery_config import RecoveryConfig
from helm_gym.errors import ConfigError, PolicyError

Array = NDArray[Any]
Floats = NDArray[np.float64]
MAX_AGE = 2.0  # periods; assumed: one report may be lost, not two


class HelmController:
    """Decides the EMB share of every node of one cluster.

    Args:
        site: what is to be known of the cluster.
        nodes: M.
        base: ``released``, a model file or run folder, or a policy that was loaded already.
        adapter: settings of the residual; None leaves it out.
        recovery: settings of burst recovery; None leaves it out.
        anchor: planned share, and how far the base is followed; None leaves it out.
        max_age: periods after which a node's telemetry is stale.
        seed: of the residual.

    Raises:
        ConfigError: the base is of a kind that this cannot run, or a number is out of its range.
        CheckpointError: the base's file cannot be used.
    """

    def __init__(
        self,
        site: Site,
        nodes: int,
        *,
        base: str | TrainedPolicy = NAME,
        adapter: ResidualConfig | None = ResidualConfig(),  # noqa: B008 (frozen)
        recovery: RecoveryConfig | None = RecoveryConfig(),  # noqa: B008
        anchor: Anchor | None = None,
        max_age: float = MAX_AGE,
        seed: int = 0,
    ) -> None:
        _check(site, nodes, max_age)
        self.site, self.nodes, self._seed = site, nodes, seed
        self.anchor = anchor if anchor is not None and anchor.ties else None
        self.policy = load_base(base) if isinstance(base, str) else base
        if adapter is not None and adapter.method == "none":
            adapter = None  # it decides as the base
        self._adapter = adapter.reaching(self.policy) if adapter else None
        self.learner: ResidualLearner | None = None
        layers = layers_of(self.policy)
        hidden = adapter.hidden if adapter else 0
        self._nets, begin, self._slots = build(nodes, layers, hidden)
        self._memory: Floats = np.zeros((nodes + 2, N_PLACES))
        self._set(begin, [len(bias) for _, bias in layers[:-1]], max_age, recovery)
        self._decide: Any = decide_nodes
        self.shares: Floats = self._memory[:nodes, Place.SHARE]
        """(M,) EMB shares to put into force; read-only, and written by every decision."""
        self.shares.flags.writeable = False
        self._warm_up()

    def decide(self, telemetry: Floats) -> Floats:
        """Decide for all nodes.

        Args:
            telemetry: (M + 1, N_COLUMNS) C-contiguous, writable float64 of
                :mod:`helm_gym.agents.controller.telemetry`, which is not written to.

        Returns:
            :attr:`shares`, finite and in the site's range: copy it to keep it.

        Raises:
            PolicyError: telemetry is of another shape or type; nothing was decided, and
                :attr:`shares` are still the last ones.
        """
        try:
            if self._decide(telemetry, self._memory, self._nets) >= 0:
                return self.shares
        except TypeError:
            pass
        raise PolicyError(
            f"telemetry must be a C-contiguous, writable float64 array of shape "
            f"{(self.nodes + 1, wire.N_COLUMNS)} "
            f"(helm_gym.agents.controller.telemetry.empty({self.nodes}) makes one); got "
            f"{_described(telemetry)}"
        )

    @property
    def refill_pace(self) -> Floats:
        """(M,) part, 0 to 1, of the link time open to refill that it may use; a copy."""
        return self._memory[: self.nodes, Place.PACE].copy()

    @property
    def stages(self) -> NDArray[np.int64]:
        """(M,) a :class:`~helm_gym.envs.recovery_machine.Stage` each."""
        return self._memory[: self.nodes, Place.STAGE].astype(np.int64)

    @property
    def held(self) -> NDArray[np.int64]:
        """(M,) decisions, since the start, in which a node held its last share."""
        return self._memory[: self.nodes, Place.HELD].astype(np.int64)

    @property
    def reasons(self) -> tuple[Reason, ...]:
        """Per node why it held its share in the last decision; ``Reason.NONE`` if it did not."""
        return tuple(Reason(int(found)) for found in self._memory[: self.nodes, Place.REASON])

    @property
    def observation(self) -> NDArray[np.float32]:
        """(M, F) ``extended`` observation of the last decision, NaN where nothing was known."""
        return self._nets[: self.nodes, :F].copy()

    def learn(self) -> None:
        """Learn from the last decision, and bring what was learned into the next one.

        Call it once after every decision, when the shares have been handed over; it takes some
        hundred microseconds. Without it the controller decides with the residual it was given.
        """
        if self.learner is None:
            return
        observation = self.observation
        self.learner.record(observation, see(observation[None])[0])
        self.learner.update()
        self.load_adapter(self.learner.weights, self.learner.gate, self.learner.offset)

    def load_adapter(
        self, weights: ResidualWeights, gate: Array | float = 1.0, offset: Array | float = 0.0
    ) -> None:
        """Decide with these weights from the next decision on.

        They are copied beside those in use, and then one number says which count, so another thread
        may call this while a decision runs, though not a second time before that has ended.

        Args:
            weights: of a residual of the size that the adapter's settings say.
            gate: see :func:`helm_gym.agents.adapter.net.forward`; (M,) or one for all.
            offset: in share, the same.

        Raises:
            ConfigError: there is no residual, or the weights are of another size.
        """
        if self._adapter is None:
            raise ConfigError("this controller has no residual; make it with adapter=...")
        wanted = (self._adapter.hidden, inputs_of(F))
        if weights.w1.shape != wanted:
            raise ConfigError(
                f"the residual's first layer is {weights.w1.shape}, but this controller's settings "
                f"say (hidden, inputs) = {wanted}; take weights of the same settings"
            )
        if not all(np.isfinite(part).all() for part in (*weights, gate, offset)):
            raise ConfigError("a residual has weights that are not finite; the last ones stay")
        settings = self._memory[-1]
        other = 1 - int(settings[Setting.SLOT])
        write_residual(self._nets, self._slots[other], weights)
        self._memory[: self.nodes, Place.GATE + other] = gate
        self._memory[: self.nodes, Place.OFFSET + other] = offset
        settings[Setting.SLOT] = other

    def reset(self) -> None:
        """Begin anew: averages, burst machine, counts and residual forget all."""
        self._memory[: self.nodes] = 0.0
        self._memory[: self.nodes, Place.SHARE] = self._first_share()
        self._memory[: self.nodes, Place.PACE] = 1.0
        if self._adapter is not None:
            inputs = inputs_of(F)
            self.learner = ResidualLearner(self._adapter, self.nodes, inputs, self._seed)
            self.load_adapter(self.learner.weights, self.learner.gate, self.learner.offset)

    def _first_share(self) -> float:
        """What is given before there is any data."""
        if self.anchor is None:
            return self.site.initial_share
        return min(max(self.anchor.at, self.site.share_min), self.site.share_max)

    def _set(
        self, begin: int, widths: list[int], max_age: float, recovery: RecoveryConfig | None
    ) -> None:
        """Fill the rows of parameters and settings."""
        site, view, row = self.site, self.policy.card.view, self._memory[-1]
        values = {
            Setting.STEP_S: site.step_s,
            Setting.NOMINAL: site.nominal_rps * site.step_s,
            Setting.KEEP_FAST: np.exp(-site.step_s / FAST_S),
            Setting.KEEP_SLOW: np.exp(-site.step_s / SLOW_S),
            Setting.SLO_S: site.slo_s,
            Setting.DEADLINE_S: site.deadline_s,
            Setting.POOL_BYTES: site.pool_bytes,
            Setting.LONGEST: site.longest_history,
            Setting.MOST: site.most_candidates,
            Setting.LOW: site.share_min,
            Setting.HIGH: site.share_max,
            Setting.MAX_AGE_S: max_age * site.step_s,
            Setting.FEATURES: len(view.features),
            Setting.CONTEXT: view.context,
            Setting.INCREMENT: view.action in ("increment", "choice"),
            Setting.CHOICES: len(STEPS) if view.action == "choice" else 0,
            Setting.BOUND: view.bound,
            Setting.BASE_LOW: view.share_min,
            Setting.BASE_HIGH: view.share_max,
            Setting.BASE: begin,
            Setting.LAYERS: len(widths),
            Setting.ADAPTER: self._adapter is not None,
            Setting.RECOVERY: recovery is not None,
            Setting.ANCHOR: self.anchor.at if self.anchor else 0.0,
            Setting.FOLLOW: self.anchor.follow if self.anchor else 1.0,
        }
        for setting, value in values.items():
            row[setting] = value
        row[Setting.WIDTH : Setting.WIDTH + len(widths)] = widths
        row[Setting.RESIDUAL : Setting.RESIDUAL + 2] = self._slots
        if self._adapter is not None:
            row[Setting.RESIDUAL_ROWS] = self._adapter.hidden
            row[Setting.RESIDUAL_BOUND] = self._adapter.reach.bound
        if recovery is not None:
            params = recovery.lower(site.step_s, site.share_min, site.share_max)
            self._memory[-2, : len(params)] = params

    def _warm_up(self) -> None:
        """Compile, or load what was compiled, so that the first decision is no slower."""
        self.reset()
        self.decide(wire.empty(self.nodes))
        # Arrays of another type are refused from here on; compiling for them would take seconds.
        cast(Any, decide_nodes).disable_compile()
        self._nets[: self.nodes + len(Work)] = 0.0
        self.reset()


def _check(site: Site, nodes: int, max_age: float) -> None:
    if nodes < 1:
        raise ConfigError(f"nodes={nodes}: a cluster has at least one node")
    if not 0.0 <= site.share_min <= site.initial_share <= site.share_max <= 1.0:
        raise ConfigError(
            f"shares from {site.share_min} to {site.share_max}, beginning at {site.initial_share}, "
            "are out of order; write 0 <= share_min <= initial_share <= share_max <= 1"
        )
    for name, value in site.model_dump().items():
        if "share" not in name and not 0.0 < value < np.inf:
            raise ConfigError(f"{name}={value}: must be a finite number above 0")
    if not 0.0 < max_age < np.inf:
        raise ConfigError(f"max_age={max_age}: must be a number of periods above 0")


def _described(found: object) -> str:
    if not isinstance(found, np.ndarray):
        return type(found).__name__
    flags = "" if found.flags.c_contiguous and found.flags.writeable else ", of other flags"
    return f"{found.dtype} of shape {found.shape}{flags}"
