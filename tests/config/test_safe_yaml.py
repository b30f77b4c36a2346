"""YAML from strangers: bounded in time and memory, and every fault names the file."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from helm_gym.config.safe_yaml import MOST_BYTES, parse_setting, read_yaml
from helm_gym.errors import ConfigError


def bomb(levels: int) -> str:
    """Aliases of aliases: 9 ** levels values in a few hundred bytes."""
    lines = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    for k in range(1, levels):
        lines.append(f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]")
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (bomb(9), "more than 100,000 values, aliases counted"),
        ("a: " + "[" * 20_000 + "]" * 20_000, "nested more than 40 levels"),
        ("nodes: " + "9" * 200_000, "not valid YAML .*digits"),
        ("a: &a [*a]", r"\*a stands inside"),
        ("a: *b", "not valid YAML"),
        ("a: 2026-13-45", "not valid YAML"),
        ("a: !!python/object/apply:os.abort []", "not valid YAML"),
        ("? [a, b]\n: 1", "not valid YAML"),
        ("a: 'open", "not valid YAML"),
        ("# " + "x" * MOST_BYTES, "more than 1,000,000 bytes"),
        ("[" + "1," * 100_001 + "]", "more than 100,000 values"),
    ],
    ids=lambda value: value[:12].strip() if "\n" not in value else "bomb",
)
def test_what_cannot_be_read_is_refused_at_once(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "stranger.yaml"
    path.write_text(text)
    began = time.process_time()
    with pytest.raises(ConfigError, match=words) as refused:
        read_yaml(path)
    assert time.process_time() - began < 5.0
    assert "stranger.yaml" in str(refused.value)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "latin.yaml"
    path.write_bytes(b"name: caf\xe9")
    with pytest.raises(ConfigError, match=r"latin\.yaml: is not valid YAML"):
        read_yaml(path)


def test_a_few_aliases_and_merges_are_as_good_as_before(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("a: &a {x: 1, y: [1, 2]}\nb: *a\nc: {<<: *a, x: 3}\n")
    assert read_yaml(path) == {
        "a": {"x": 1, "y": [1, 2]},
        "b": {"x": 1, "y": [1, 2]},
        "c": {"x": 3, "y": [1, 2]},
    }


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e25", 1e25),
        ("-2E-3", -2e-3),
        (".5e1", 5.0),
        ("1.0e+25", 1e25),
        ("7", 7),
        ("[1, 2]", [1, 2]),
    ],
)
def test_a_setting_in_scientific_notation_is_a_number(text: str, value: object) -> None:
    found = parse_setting(text, "--set x")
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("text", ["e5", "1e", "x1e5", "1e5x", "nan"])
def test_other_texts_stay_texts(text: str) -> None:
    assert parse_setting(text, "--set x") == text
