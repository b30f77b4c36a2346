"""Every policy around a policy forwards the whole protocol, and what each remembers goes on."""

from __future__ import annotations

import importlib
import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helm_gym.agents.layers.adapted import AdaptedPolicy
from helm_gym.agents.layers.anchored import Anchor, AnchoredPolicy
from helm_gym.agents.layers.helm import HelmPolicy
from helm_gym.agents.layers.recovered import RecoveredPolicy
from helm_gym.agents.models.card import Card
from helm_gym.baselines.registry import RULES
from helm_gym.baselines.rule import Rule
from helm_gym.baselines.schedule import Schedule, SchedulePolicy
from helm_gym.envs.observation import FEATURES
from helm_gym.errors import ConfigError
from helm_gym.evaluation.specs import TRAINED, make_policy
from helm_gym.policy import Policy, Wrapper, restore_state, state_of, view_of
from helm_gym.runs.bank import Timed
from helm_gym.state_file import read_state, write_state
from helm_gym.suites.splits import TEST, check_policy

NODES, ROWS = 3, 2
PROTOCOL = tuple(name for name in vars(Wrapper) if not name.startswith("_"))
"""Everything that a wrapper forwards."""

WRAPPED: dict[type[Wrapper], Callable[[Policy], Wrapper]] = {
    AdaptedPolicy: AdaptedPolicy,
    AnchoredPolicy: lambda base: AnchoredPolicy(base, Anchor(at=0.4)),
    RecoveredPolicy: RecoveredPolicy,
    HelmPolicy: lambda base: HelmPolicy(base, anchor=Anchor(at=0.45)),
    Timed: lambda base: Timed(base, 100.0, 1000),
}
"""How each wrapper is put around a policy."""

OVERRIDDEN: dict[type[Wrapper], set[str]] = {
    AdaptedPolicy: {"control", "observation", "reset", "act", "state", "restore"},
    AnchoredPolicy: {"initial_share", "act"},
    RecoveredPolicy: {
        "control", "observation", "refill_pace", "reset", "act", "state", "restore",
    },
    HelmPolicy: set(),
    Timed: {"batched", "reset", "act"},
}  # fmt: skip
"""What each wrapper decides itself, on purpose."""


def wrappers() -> set[type[Wrapper]]:
    """All subclasses of Wrapper below helm_gym."""
    for package in ("helm_gym", "helm_gym.envs", "helm_gym.agents", "helm_gym.baselines"):
        folder = Path(str(importlib.import_module(package).__file__)).parent
        for path in folder.rglob("*.py"):
            if re.search(r"^class \w+\(\w*(Wrapper|Policy|Timed)\)", path.read_text("utf-8"), re.M):
                parts = path.relative_to(folder).with_suffix("").parts
                importlib.import_module(".".join((package, *parts)))

    def below(cls: type[Wrapper]) -> Iterator[type[Wrapper]]:
        for found in cls.__subclasses__():
            yield from (found, *below(found))

    return {cls for cls in below(Wrapper) if cls.__module__.startswith("helm_gym.")}


def card(**changes: Any) -> Card:
    """The card of a released model, changed."""
    return make_policy("ppo:released").card.model_copy(update=changes)  # type: ignore[attr-defined,no-any-return]


class Probe:
    """A policy that has everything of the protocol, nothing of it a default."""

    control, observation = "per_node", "extended"
    initial_share, router, names_share = 0.37, "kv_affinity", True
    batched = True

    def __init__(self, card: Any = None) -> None:
        self.card, self.seed, self.seen = card, -1, 0
        self.refill_pace = np.full((ROWS, NODES), 0.25)

    def reset(self, seed: int) -> None:
        self.seed = seed

    def act(self, obs: Any) -> Any:
        self.seen += 1
        return np.full(obs.shape[:2], 0.3 + 0.01 * self.seen)

    def state(self) -> Any:
        return {"seen": self.seen}

    def restore(self, state: Any) -> None:
        self.seen = state["seen"]


def test_the_tables_above_hold_every_wrapper() -> None:
    assert wrappers() == set(WRAPPED) == set(OVERRIDDEN)


def test_the_protocol_is_what_the_policy_and_its_docstring_name() -> None:
    assert set(PROTOCOL) >= {
        "control", "observation", "reset", "act", "initial_share", "router", "card", "batched",
        "names_share", "refill_pace", "state", "restore",
    }  # fmt: skip
    own = {"control", "observation", "reset", "act"}
    assert own == {name for name in vars(Policy) if name in PROTOCOL}
    documented = Policy.__doc__ or ""
    assert [name for name in PROTOCOL if name not in own and f"``{name}" not in documented] == []


@pytest.mark.parametrize("cls", WRAPPED, ids=lambda cls: cls.__name__)
def test_what_a_wrapper_does_not_override_is_the_inner_policys(cls: type[Wrapper]) -> None:
    written = {name for name in PROTOCOL if name in vars(cls)}
    assert written == OVERRIDDEN[cls]
    probe = Probe(card())
    made = WRAPPED[cls](probe)
    assert [name for name in PROTOCOL if name in vars(made)] == []  # none hides a property
    if cls is HelmPolicy:  # it is put together of the others
        assert isinstance(made.base, RecoveredPolicy)
        return
    for name in set(PROTOCOL) - written - {"reset", "act", "state", "restore"}:
        np.testing.assert_array_equal(getattr(made, name), getattr(probe, name), err_msg=name)
    made.reset(7)
    assert probe.seed == 7


@pytest.mark.parametrize("cls", WRAPPED, ids=lambda cls: cls.__name__)
def test_defaults_are_forwarded_too(cls: type[Wrapper]) -> None:
    class Plain:
        def reset(self, seed: int) -> None:
            pass

        def act(self, obs: Any) -> Any:
            return np.full((len(obs), 1), 0.5)

    made = WRAPPED[cls](Plain())  # type: ignore[arg-type]
    assert view_of(made) == ("cluster", "extended")
    assert made.router is None and made.card is None and not made.names_share and made.batched
    assert made.initial_share == {AnchoredPolicy: 0.4, HelmPolicy: 0.45}.get(cls)
    assert made.refill_pace is None
    made.restore(made.state())


@pytest.mark.parametrize(
    "nesting",
    list(itertools.product(WRAPPED, repeat=2)),
    ids=lambda n: "-".join(c.__name__ for c in n),
)
def test_the_held_out_check_sees_the_card_through_every_nesting(
    nesting: tuple[type[Wrapper], ...],
) -> None:
    for held_out in (card(scenario=TEST.scenarios[0]), card(seed=TEST.seeds.start)):
        policy: Policy = Probe(held_out)
        for cls in nesting:
            policy = WRAPPED[cls](policy)
        assert policy.card is held_out  # type: ignore[attr-defined]
        with pytest.raises(ConfigError, match="x: trained on"):
            check_policy("x", policy, {})
    planned = {held_out.scenario_digest: "a cell"}
    with pytest.raises(ConfigError, match="trained on"):
        check_policy("x", WRAPPED[nesting[0]](Probe(card())), planned)


@pytest.mark.parametrize(
    "spec", ["adapted:{}", "recovery:{}", "anchored(at=0.4):{}", "helm:base={}"]
)
def test_the_held_out_check_sees_through_specs(spec: str) -> None:
    policy = make_policy(spec.format("ppo:released"))
    planned = {card().scenario_digest: "a cell"}
    with pytest.raises(ConfigError, match="trained on a cell"):
        check_policy(spec, policy, planned)


@pytest.mark.parametrize("cls", [AdaptedPolicy, RecoveredPolicy])
def test_a_base_that_takes_one_row_at_a_time_is_refused(cls: type[Wrapper]) -> None:
    class OneByOne(Probe):
        batched = False

    with pytest.raises(ConfigError, match="let its act"):
        WRAPPED[cls](OneByOne())
    assert not AnchoredPolicy(OneByOne(), Anchor(at=0.4)).batched  # it hands rows on as they come


# Memory


def a_rule(name: str) -> str:
    """The spec of a registered rule; one rule has no default share."""
    return f"{name}:share=0.3" if name == "kv-emb-opt" else name


BASES = ["static:0.45", "balance", *map(a_rule, RULES), *(f"{name}:released" for name in TRAINED)]
LAYERS = ["{}", "adapted:{}", "recovery:{}", "anchored(at=0.4):{}", "recovery:adapted:{}"]


def observations(policy: Policy, length: int, seed: int = 0) -> list[Any]:
    """What a policy could see, of clusters whose load and caches change all the time."""
    control, observation = view_of(policy)
    nodes = (NODES,) if control == "per_node" else ()
    shape = (length, ROWS, *nodes, len(FEATURES[observation]))
    return list(np.random.default_rng(seed).uniform(0.05, 0.95, shape).astype(np.float32))


def play(policy: Policy, seen: list[Any]) -> list[Any]:
    """Shares and paces of every decision."""
    found = []
    for obs in seen:
        found += [np.array(policy.act(obs)), np.array(getattr(policy, "refill_pace", None), float)]
    return found


def check_goes_on(make: Callable[[], Policy], path: Path) -> None:
    """A state taken mid-stream, through a file, makes another policy go on bit for bit."""
    one, other = make(), make()
    seen = observations(one, 24)
    one.reset(3)
    play(one, seen[:14])
    write_state(path, {"state": state_of(one)})
    expected = play(one, seen[14:])
    play(other, observations(other, 5, seed=1))  # it was busy with something else
    restore_state(other, read_state(path)["state"])
    for mine, theirs in zip(play(other, seen[14:]), expected, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    restore_state(other, read_state(path)["state"])  # the state was not used up
    for mine, theirs in zip(play(other, seen[14:]), expected, strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize("base", BASES)
def test_a_state_goes_on_bit_for_bit(base: str, layers: str, tmp_path: Path) -> None:
    check_goes_on(lambda: make_policy(layers.format(base)), tmp_path / "state")


@pytest.mark.parametrize("cls", WRAPPED, ids=lambda cls: cls.__name__)
def test_a_state_goes_on_through_every_wrapper(cls: type[Wrapper], tmp_path: Path) -> None:
    check_goes_on(lambda: WRAPPED[cls](make_policy("hill:control=node")), tmp_path / "state")


@pytest.mark.parametrize("base", BASES)
def test_a_state_that_was_taken_before_any_decision_begins_anew(base: str) -> None:
    one, other = make_policy(base), make_policy(base)
    one.reset(0)
    state = state_of(one)
    play(other, observations(other, 5, seed=1))
    restore_state(other, state)
    seen = observations(one, 8)
    for mine, theirs in zip(play(other, seen), play(one, seen), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_a_schedule_goes_on_where_it_was(tmp_path: Path) -> None:
    shares = tuple(float(share) for share in np.linspace(0.1, 0.9, 40))
    made = Schedule(scenario="x", scenario_digest="x", seed=0, objective="x", initial_share=0.3,
                    shares=shares)  # fmt: skip
    check_goes_on(lambda: SchedulePolicy(made), tmp_path / "state")


@pytest.mark.parametrize("name", RULES)
def test_a_state_has_every_field_that_a_rule_changes(name: str) -> None:
    """Else a rule that gains a field forgets it."""
    rule = make_policy(a_rule(name))
    assert isinstance(rule, Rule)
    before = set(vars(rule))
    play(rule, observations(rule, 3))
    state = rule.state()
    settings = {f for f in before if not f.startswith("_")}
    assert set(vars(rule)) - settings == set(state)
