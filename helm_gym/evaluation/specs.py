"""Policies by name: ``static:0.45``, ``aimd:up=0.02``, ``ppo:runs/x/model.zip``, ``my_module:My``.

All are written ``KIND[(name=value,...)][:ARGUMENT]``; :mod:`helm_gym.spec_grammar` takes them
apart. Specs that end in ``:best``, such as ``static:best`` or ``aimd:best``, name a search rather
than a policy; :mod:`helm_gym.evaluation.search` resolves them on a scenario. Those that end in
``:dataset`` or ``:suite`` name one search for many scenarios, see
:mod:`helm_gym.evaluation.common`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from helm_gym.baselines import registry
from helm_gym.baselines.own import FORM, check_allowed, is_own, make_own
from helm_gym.baselines.registry import BEST, DATASET, RULES, STATIC, SUITE, WORDS
from helm_gym.config.quantity import Frozen
from helm_gym.errors import ConfigError, nearest
from helm_gym.policy import Policy
from helm_gym.spec_grammar import Spec, parse_settings, parse_spec

TRAINED = ("ppo", "recurrent-ppo", "sac", "dqn")
"""Learning algorithms; the spec of a policy that one trained begins with its name."""
MOST_WRAPPERS = 8  # around one policy; no use is known for more than three
WRAPPERS = ("adapted", "recovery", "anchored")
"""Kinds whose argument is the spec of another policy."""
HELM = "helm"

HELM_SEARCH = f"{HELM}:{BEST}"
SEARCHES = (*(f"{name}:{BEST}" for name in (STATIC, *RULES)), HELM_SEARCH)
"""Specs that a search on tuning seeds resolves."""
COMMON_SEARCHES = tuple(
    f"{search.removesuffix(BEST)}{word}" for search in SEARCHES for word in (DATASET, SUITE)
)
"""The same searches made once for many scenarios."""

KNOWN = (*registry.NAMES, *TRAINED, *WRAPPERS, HELM, *SEARCHES)
"""What a spec may begin with, and the searches: what a mistyped one is offered."""

FORMS: Mapping[str, str] = {
    **registry.FORMS,
    "ppo": "ppo:PATH (a model.zip of helm-gym train, or its run folder), ppo:released[-VARIANT]",
    "recurrent-ppo": "recurrent-ppo:PATH",
    "sac": "sac:PATH",
    "dqn": "dqn:PATH (as ppo:PATH, of these algorithms)",
    "adapted": "adapted:BASE or adapted(bound=0.1,step=0.002):BASE (BASE is any other spec)",
    "recovery": "recovery:BASE, recovery(strict):BASE or recovery(burst_pace=0.5,...):BASE",
    "anchored": "anchored(at=0.35,follow=0.5):BASE (between that share and what BASE says)",
    HELM: "helm, helm:adapter=off,recovery=off, helm:anchor=0.35,follow=0.5, helm:base=PATH (all "
    "three layers, or some) or helm:best",
    "module": FORM,
}
"""How each kind of spec is written."""


class HelmSettings(Frozen):
    """What the spec ``helm:name=value,...`` may say."""

    base: str = "released"  # or a model file, a run folder, or the spec of a trained policy
    anchor: float | None = Field(default=None, ge=0, le=1)  # planned share; None: tied to nothing
    follow: float | None = Field(default=None, ge=0, le=1)  # how far the base may leave it
    adapter: Literal["on", "off"] = "on"
    recovery: Literal["on", "off"] = "on"

    @model_validator(mode="after")
    def _follow_needs_an_anchor(self) -> HelmSettings:
        if self.follow is not None and self.anchor is None:
            raise ValueError(
                f"follow={self.follow:g} says how far to go from a planned share, and there is "
                "none; write anchor=SHARE too"
            )
        return self

    @classmethod
    def of(cls, spec: str) -> HelmSettings:
        """Settings that a spec of this kind has.

        Raises:
            ConfigError: one does not exist or has no such value.
        """
        return cls.parse(_settings(parse_spec(spec, FORMS[HELM]), cls), f"policy {spec!r}")


def make_policy(spec: str, allow: Collection[str] = ()) -> Policy:
    """Make the policy that a spec names.

    The spec counts as typed by a person: ``module:Class`` in it is imported. Give specs out of a
    file to :func:`from_file` first.

    Args:
        spec: one of :data:`FORMS`.
        allow: classes, as ``module:Class``, that files which the spec names may name in turn, such
            as the rule that a model was trained around.

    Raises:
        ConfigError: the spec names nothing; the message has the nearest name.
        CheckpointError: the file of a trained policy cannot be used.
    """
    return _make(spec, allow, ())


def from_file(spec: Any, where: str, allow: Collection[str] = ()) -> str:
    """Check a spec that a file holds: it may name what is built in, and classes that are allowed.

    Args:
        spec: as the file has it.
        where: the file, for errors.
        allow: classes, as ``module:Class``, that a person allows.

    Returns:
        ``spec``, for :func:`make_policy`.

    Raises:
        ConfigError: it names other code, or is no text.
    """
    if not isinstance(spec, str):
        raise ConfigError(f"{where}: {spec!r:.80} is no policy; a spec is a text")
    inner = parse_spec(spec)
    while inner.kind in WRAPPERS:
        inner = parse_spec(inner.argument)
    if inner.kind not in KNOWN and is_own(inner.text):
        check_allowed(inner.text, where, allow)
    return spec


def _make(text: str, allow: Collection[str], around: tuple[str, ...]) -> Policy:
    """Make a policy that stands inside the wrappers ``around``, the outermost first."""
    kind = text.strip().partition(":")[0].partition("(")[0].strip()
    spec = parse_spec(text, FORMS.get(kind, FORMS["adapted"]))
    if spec.text in SEARCHES:
        raise ConfigError(
            f"policy {spec.text!r} is found by a grid search on a scenario; use it in helm-gym "
            "evaluate, or resolve it with helm_gym.evaluation.search.resolve(scenario, spec)"
        )
    if spec.text in COMMON_SEARCHES:
        raise ConfigError(
            f"policy {spec.text!r} is searched once for many scenarios; name it in helm-gym bench, "
            f"or write {spec.kind}:{BEST}, which is searched in one"
        )
    if spec.kind in WRAPPERS:
        return _wrapped(spec, allow, around)
    if spec.kind in TRAINED:
        return _trained(spec, allow)
    if spec.kind == HELM:
        return _helm(spec, allow)
    if spec.kind in registry.NAMES:
        return registry.make_rule(spec.text)
    if is_own(spec.text):
        return make_own(spec.text, KNOWN)
    raise ConfigError(f"policy {spec.text!r} does not exist{_offer(spec.text)}")


def _offer(text: str) -> str:
    """The nearest known name; of a text that is like none, all names and forms."""
    for tried in (text, text.partition(":")[0].partition("(")[0]):
        hint = nearest(tried, KNOWN)
        if hint.startswith("; did you mean"):
            return hint
    return f"; known: {', '.join(KNOWN)}. Policies are written as: {'; '.join(FORMS.values())}"


def _trained(spec: Spec, allow: Collection[str]) -> Policy:
    if not spec.argument or spec.inside is not None:
        raise ConfigError(f"policy {spec.text!r} needs a file; write {FORMS[spec.kind]}")
    from helm_gym.agents.models.trained import load_trained

    return load_trained(spec.kind, spec.argument, allow)


def _wrapped(spec: Spec, allow: Collection[str], around: tuple[str, ...]) -> Policy:
    """A policy around another one."""
    if not spec.argument:
        raise ConfigError(f"policy {spec.text!r} has no base; write {FORMS[spec.kind]}")
    if len(around) == MOST_WRAPPERS:
        raise ConfigError(
            f"policy {spec.text!r:.80} stands inside {MOST_WRAPPERS} other policies ({around[0]}, "
            f"...); write at most as many around one"
        )
    wrap = _WRAP[spec.kind](spec)
    policy: Policy = wrap(_make(spec.argument, allow, (*around, spec.kind)))
    return policy


def _adapted(spec: Spec) -> Any:
    from helm_gym.agents.adapter.config import ResidualConfig
    from helm_gym.agents.layers.adapted import AdaptedPolicy

    config = ResidualConfig.parse(_settings(spec, ResidualConfig), f"policy {spec.text!r}")
    return lambda base: AdaptedPolicy(base, config)


def _anchored(spec: Spec) -> Any:
    from helm_gym.agents.layers.anchored import Anchor, AnchoredPolicy

    settings = _settings(spec, Anchor)
    if "at" not in settings:
        raise ConfigError(
            f"policy {spec.text!r}: has no planned share, at=; write {FORMS['anchored']}"
        )
    anchor = Anchor.parse(settings, f"policy {spec.text!r}")
    return lambda base: AnchoredPolicy(base, anchor)


def _recovered(spec: Spec) -> Any:
    from helm_gym.agents.layers.recovered import RecoveredPolicy
    from helm_gym.envs.recovery_config import RecoveryConfig

    if spec.inside == "strict":
        return lambda base: RecoveredPolicy(base, RecoveryConfig.strict())
    settings = _settings(spec, RecoveryConfig, ("strict",))
    values = {name: _number_or_off(value) for name, value in settings.items()}
    config = RecoveryConfig.parse(values, f"policy {spec.text!r}")
    return lambda base: RecoveredPolicy(base, config)


_WRAP: Mapping[str, Any] = {"adapted": _adapted, "anchored": _anchored, "recovery": _recovered}


def _number_or_off(value: str) -> float | str | None:
    """A threshold; ``off`` is None, and what is no number is left for the model to refuse."""
    try:
        return None if value == "off" else float(value)
    except ValueError:
        return value


def _helm(spec: Spec, allow: Collection[str]) -> Policy:
    from helm_gym.agents.adapter.config import ResidualConfig
    from helm_gym.agents.layers.anchored import Anchor
    from helm_gym.agents.layers.helm import HelmPolicy
    from helm_gym.envs.recovery_config import RecoveryConfig

    said = HelmSettings.of(spec.text)
    tie = {"at": said.anchor} if said.follow is None else {"at": said.anchor, "follow": said.follow}
    return HelmPolicy(
        said.base,
        ResidualConfig() if said.adapter == "on" else None,
        RecoveryConfig() if said.recovery == "on" else None,
        anchor=None if said.anchor is None else Anchor.parse(tie, f"policy {spec.text!r}"),
        allow=allow,
    )


def _settings(spec: Spec, model: type[Frozen], words: Collection[str] = WORDS) -> dict[str, str]:
    """Settings of a spec, whose names are those of a model; of a wrapper those in brackets."""
    where, form = f"policy {spec.text!r}", FORMS[spec.kind]
    if spec.kind in WRAPPERS:
        return parse_settings(spec.inside or "", where, form, model.model_fields, words)
    if spec.inside is not None and spec.argument:
        raise ConfigError(f"{where}: {spec.argument!r} follows its settings; write {form}")
    return parse_settings(spec.settings, where, form, model.model_fields, words)
