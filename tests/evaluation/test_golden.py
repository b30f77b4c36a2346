"""The bits of short fixed runs are what they were before the code was last moved about."""

from __future__ import annotations

from pathlib import Path

import pytest

from helm_gym.errors import ConfigError
from helm_gym.evaluation import golden
from helm_gym.evaluation.golden import GOLDEN, Golden, checked
from helm_gym.provenance import code_digest


def small(**trajectories: str) -> Golden:
    return Golden(machine="here", versions={}, code=("old",), trajectories=trajectories)


def test_every_trajectory_is_as_it_was_stored() -> None:
    stored, now = Golden.load(), Golden.play()
    elsewhere = stored.elsewhere(now)
    if elsewhere:
        pytest.skip(f"bits are promised on one machine with one set of versions: {elsewhere}")
    assert stored.differences(now) == []


def test_they_cover_all_routers_refill_modes_regimes_shells_and_rules() -> None:
    from helm_gym.baselines.registry import RULES
    from helm_gym.config.routers import ROUTERS

    names = Golden.load().trajectories.keys()
    assert {f"router/{router}/0ms" for router in ROUTERS} <= names
    assert {f"refill/{m}/{r}" for m in golden.REFILL_MODES for r in golden.REGIMES} <= names
    assert {"shell/single", "shell/sb3", "shell/vector/node/next_step"} <= names
    assert {name.split("/")[1].partition(":")[0] for name in names if "policy/" in name} >= {*RULES}


def test_a_changed_bit_is_named_and_the_machine_too(monkeypatch: pytest.MonkeyPatch) -> None:
    now = small(a="1", b="3").model_copy(update={"machine": "there"})
    monkeypatch.setattr(Golden, "play", classmethod(lambda cls: now))
    with pytest.raises(ConfigError, match=r"1 of 2 golden .*: b\. Stored elsewhere: machine here"):
        checked(small(a="1", b="2"))
    assert small(a="1").differences(small(a="1", c="1")) == ["c"]


def test_equal_bits_add_the_present_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Golden, "play", classmethod(lambda cls: small(a="1")))
    known = checked(small(a="1"))
    assert known.code == ("old", code_digest()) == known.extended().code
    known.save(tmp_path / "golden.json")
    assert Golden.load(tmp_path / "golden.json") == known


def test_the_file_is_shipped() -> None:
    assert GOLDEN.is_file()
    with pytest.raises(ConfigError, match="run helm-gym golden"):
        Golden.load(GOLDEN.with_name("missing.json"))
