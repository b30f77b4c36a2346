"""The grammar of specs: any text makes a policy or says in one line why it does not."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from helm_gym.baselines.registry import RULES
from helm_gym.errors import CheckpointError, ConfigError
from helm_gym.evaluation.specs import FORMS, KNOWN, SEARCHES, TRAINED, HelmSettings, make_policy
from helm_gym.policy import Policy
from helm_gym.spec_grammar import parse_settings, parse_spec

PARTS = st.sampled_from(
    (
        *KNOWN, "(", "(", ")", ")", ":", ":", ":", "=", ",", " ", "0.5", "-1", "nan", "inf",
        "1e999", "strict", "released", "at=0.35", "follow", "gain", "up=0.02", "bound=0.1", "base=",
        "off", "adapter=off", "control=node", "\0", "é", "x" * 300, "9" * 5000, "module.of_nobody",
    )
)  # fmt: skip
WRITTEN = st.lists(PARTS, max_size=9).map("".join)


@given(st.one_of(st.text(max_size=40), WRITTEN))
@settings(max_examples=400, deadline=None)
@example("recovery:" * 2000 + "balance")
@example("ppo:" + "x" * 300)
@example("ppo:released-" + "x" * 300)
@example("ppo:\0")
@example("schedule:\ud800")
@example("ppo:\ud800.safetensors")
@example("balance:gain=" + "9" * 5000)
@example("hill:period=" + "9" * 5000)
def test_any_text_makes_a_policy_or_a_plain_error(text: str) -> None:
    try:
        made = make_policy(text)
    except (ConfigError, CheckpointError) as error:
        assert str(error)
    else:
        assert isinstance(made, Policy)


@pytest.mark.parametrize(
    ("mistyped", "meant"),
    [
        ("hlem", "helm"),
        ("hlem:adapter=off", "helm"),
        ("hlem(adapter=off)", "helm"),
        ("helm:bset", "best"),
        ("adpted:balance", "adapted"),
        ("adpted(bound=0.1):balance", "adapted"),
        ("recovry:ppo:released", "recovery"),
        ("anchord(at=0.3):balance", "anchored"),
        ("recurent-ppo:x", "recurrent-ppo"),
        ("static:bets", "static:best"),
        ("aimd:bset", "best"),
        ("shedule:x", "schedule"),
        ("recovery:adapted:balanec", "balance"),
    ],
)
def test_a_mistyped_policy_is_offered_the_one_that_was_meant(mistyped: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=f"did you mean '{meant}'"):
        make_policy(mistyped)


def test_a_text_like_no_policy_is_offered_every_one() -> None:
    with pytest.raises(ConfigError) as error:
        make_policy("zzzzzzzz")
    names = (*RULES, *TRAINED, *SEARCHES, "static", "schedule", "adapted", "recovery", "anchored")
    for name in (*names, "helm", "package.module:Class"):
        assert name in str(error.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("adapted(bound=0.1:balance", "a bracket is not closed"),
        ("adapted(bound=0.1)balance", "'balance' follows the bracket"),
        ("adapted:", "has no base"),
        ("recovery()", "has no base"),
        ("recovery(burst_pce=1):balance", "did you mean 'burst_pace'"),
        ("recovery(burst_pace):balance", "is no setting"),
        ("recovery(burst_pace=fast):balance", "burst_pace"),
        ("recovery(lose):balance", "'lose' is no setting"),
        ("recovery:" * 9 + "balance", "stands inside 8 other policies"),
        ("recovery:static:best", "found by a grid search"),
        ("balance(gain=0.6):node", "'node' follows its settings"),
        ("balance:gain=0.6,gain=0.7", "gain is set twice"),
        ("balance:gain=", "is no setting"),
        ("balance:,", "is no setting"),
        ("helm:adapter=maybe", "'on' or 'off'"),
        ("helm:bse=x", "did you mean 'base'"),
        ("static(0.5)", "needs a share"),
        ("ppo(x):released", "needs a file"),
        ("schedule:", "needs a file"),
    ],
)
def test_what_cannot_be_read_gives_one_line(spec: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        make_policy(spec)
    assert "\n" not in str(error.value)


def test_settings_may_stand_in_brackets_or_after_the_colon() -> None:
    assert make_policy("balance(gain=0.3, control=cluster)") == make_policy(
        "balance:gain=0.3,control=cluster"
    )
    assert HelmSettings.of("helm(anchor=0.3)") == HelmSettings.of("helm:anchor=0.3")


def test_a_spec_is_taken_apart_at_its_first_colon_outside_brackets() -> None:
    spec = parse_spec(" anchored(at=0.3, follow=0.5) : ppo:runs/a(1)/model.zip ")
    assert (spec.kind, spec.inside) == ("anchored", "at=0.3, follow=0.5")
    assert spec.argument == "ppo:runs/a(1)/model.zip"
    assert parse_spec(spec.argument).argument == "runs/a(1)/model.zip"
    assert parse_settings(spec.settings, "x", "y") == {"at": "0.3", "follow": "0.5"}


@pytest.mark.parametrize("kind", [kind for kind in FORMS if kind != "module"])
def test_every_form_names_a_known_kind(kind: str) -> None:
    assert kind in KNOWN and kind in FORMS[kind]
