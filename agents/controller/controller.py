"""The controller that a serving system calls every period: base, residual and burst recovery.

:class:`HelmController` is the spec ``helm`` (:class:`~helm_gym.agents.layers.helm.HelmPolicy`) as
one object that takes raw telemetry. A decision is one compiled call that allocates nothing and
needs no torch. docs/controller.md says how to wire it to a serving system.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from helm_gym.agents.adapter.config import ResidualConfig
from helm_gym.agents.adapter.learner import ResidualLearner
from helm_gym.agents.adapter.net import ResidualWeights, see
from helm_gym.agents.controller import networks, path
from helm_gym.agents.controller import telemetry as wire
from helm_gym.agents.controller.networks import INPUTS, F
from helm_gym.agents.controller.telemetry import Reason, Site
from helm_gym.agents.layers.anchored import Anchor
from helm_gym.agents.layers.helm import load_base
from helm_gym.agents.models.layers import Layers, layers_of
from helm_gym.agents.models.released import NAME
from helm_gym.agents.models.trained import TrainedPolicy
from helm_gym.envs.observation import SCALES, scales_of
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
        allow: classes, as ``module:Class``, that the base's file may name.

    Raises:
        ConfigError: the base is of a kind that this cannot run, it names code that is not
            allowed, or a number is out of its range.
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
        allow: Collection[str] = (),
    ) -> None:
        _check(site, nodes, max_age)
        self.site, self.nodes, self._seed = site, nodes, seed
        self.anchor = anchor if anchor is not None and anchor.ties else None
        self.policy = load_base(base, allow) if isinstance(base, str) else base
        if adapter is not None and adapter.method == "none":
            adapter = None  # it decides as the base
        self._adapter = adapter.reaching(self.policy) if adapter else None
        self.learner: ResidualLearner | None = None
        self._nodes: Array = np.zeros(nodes, path.NODE)
        self._settings: Array = np.zeros(1, path.SETTINGS)
        self._set_site(max_age)
        self._set_layers(recovery)
        self._set_networks(layers_of(self.policy))
        self.shares: Floats = self._nodes["share"]
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
        if not self._can_read(telemetry):
            raise PolicyError(
                f"telemetry must be a C-contiguous, writable float64 array of shape "
                f"{(self.nodes + 1, wire.N_COLUMNS)} "
                f"(helm_gym.agents.controller.telemetry.empty({self.nodes}) makes one); got "
                f"{_described(telemetry)}"
            )
        path.decide_nodes(telemetry, self._nodes, self._settings, self._networks, self._work)
        return self.shares

    def _can_read(self, telemetry: object) -> bool:
        """Whether the compiled path reads this; for another kind it would be compiled anew."""
        return (
            type(telemetry) is np.ndarray
            and telemetry.dtype == np.float64
            and telemetry.shape == (self.nodes + 1, wire.N_COLUMNS)
            and telemetry.flags.carray
        )

    @property
    def refill_pace(self) -> Floats:
        """(M,) part, 0 to 1, of the link time open to refill that it may use; a copy."""
        return np.array(self._nodes["pace"])

    @property
    def stages(self) -> NDArray[np.int64]:
        """(M,) a :class:`~helm_gym.envs.recovery_machine.Stage` each."""
        return np.array(self._nodes["stage"])

    @property
    def held(self) -> NDArray[np.int64]:
        """(M,) decisions, since the start, in which a node held its last share."""
        return np.array(self._nodes["held"])

    @property
    def reasons(self) -> tuple[Reason, ...]:
        """Per node why it held its share in the last decision; ``Reason.NONE`` if it did not."""
        return tuple(Reason(reason) for reason in self._nodes["reason"])

    @property
    def observation(self) -> NDArray[np.float32]:
        """(M, F) ``extended`` observation of the last decision, NaN where nothing was known."""
        return np.array(self._nodes["inputs"][:, :F])

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
        self.load_adapter(self.learner.weights, self.learner.gate)

    def load_adapter(self, weights: ResidualWeights, gate: Array | float = 1.0) -> None:
        """Decide with these weights from the next decision on.

        They are copied beside those in use, and then one number says which count, so another thread
        may call this while a decision runs, though not a second time before that has ended.

        Args:
            weights: of a residual of the size that the adapter's settings say.
            gate: see :func:`helm_gym.agents.adapter.net.forward`; (M,) or one for all.

        Raises:
            ConfigError: there is no residual, or the weights are of another size.
        """
        if self._adapter is None:
            raise ConfigError("this controller has no residual; make it with adapter=...")
        wanted = (self._adapter.hidden, INPUTS)
        if weights.w1.shape != wanted:
            raise ConfigError(
                f"the residual's first layer is {weights.w1.shape}, but this controller's settings "
                f"say (hidden, inputs) = {wanted}; take weights of the same settings"
            )
        if not all(np.isfinite(part).all() for part in (*weights, gate)):
            raise ConfigError("a residual has weights that are not finite; the last ones stay")
        other = 1 - int(self._settings["slot"][0])
        networks.write(self._networks[path.RESIDUAL + other], networks.residual_layers(weights))
        self._nodes["gate"][:, other] = gate
        self._settings["slot"] = other

    def reset(self) -> None:
        """Begin anew: averages, burst machine, counts and residual forget all."""
        self._nodes[:] = np.zeros((), path.NODE)
        self._nodes["share"], self._nodes["pace"] = self._first_share(), 1.0
        if self._adapter is not None:
            self.learner = ResidualLearner(self._adapter, self.nodes, INPUTS, self._seed)
            self.load_adapter(self.learner.weights, self.learner.gate)

    def _first_share(self) -> float:
        """What is given before there is any data."""
        if self.anchor is None:
            return self.site.initial_share
        return min(max(self.anchor.at, self.site.share_min), self.site.share_max)

    def _set_site(self, max_age: float) -> None:
        """Settings that the site decides."""
        site, settings = self.site, self._settings
        numbers = site.model_dump(include=set(SCALES.names or ()))
        settings["scales"] = scales_of(1, site.nominal_rps * site.step_s, **numbers)
        settings["max_age_s"] = max_age * site.step_s
        settings["share_min"], settings["share_max"] = site.share_min, site.share_max

    def _set_layers(self, recovery: RecoveryConfig | None) -> None:
        """Settings of base, anchor, residual and burst machine."""
        site, view, settings = self.site, self.policy.card.view, self._settings
        settings["base_moves"] = view.action in ("increment", "choice")
        settings["base_chooses"] = view.action == "choice"
        settings["base_bound"] = view.bound
        settings["base_min"], settings["base_max"] = view.share_min, view.share_max
        settings["anchor"] = self.anchor.at if self.anchor else 0.0
        settings["follow"] = self.anchor.follow if self.anchor else 1.0
        settings["adapts"], settings["recovers"] = self._adapter is not None, recovery is not None
        if self._adapter is not None:
            settings["residual_bound"] = self._adapter.reach.bound
        if recovery is not None:
            settings["machine"] = recovery.lower(site.step_s, site.share_min, site.share_max)

    def _set_networks(self, layers: Layers) -> None:
        """The base's weights, and room for those of a residual."""
        hidden = self._adapter.hidden if self._adapter else 0
        layers = networks.seeing_all(layers, self.policy.card.view)
        self._settings["base_widths"] = networks.widths_of(layers)
        self._settings["residual_widths"][0, :4] = INPUTS, hidden, hidden, 1
        widest = max(*(len(bias) for _, bias in layers), hidden)
        self._networks = networks.empty(path.RESIDUAL + path.SLOTS, widest)
        self._work = np.zeros((2, self._networks.shape[-1]), np.float32)
        networks.write(self._networks[path.BASE], layers)

    def _warm_up(self) -> None:
        """Compile, or load what was compiled, so that the first decision is no slower."""
        self.reset()
        self.decide(wire.empty(self.nodes))
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
    flags = "" if found.flags.carray else ", of other flags"
    return f"{found.dtype} of shape {found.shape}{flags}"
