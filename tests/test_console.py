"""The progress bar and the tables of a terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from helm_gym.console import make_table, progress_bar


def test_a_bar_goes_to_stderr_with_its_note(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("scoring", 4, wanted=True, note="0/4 rows", transient=False) as bar:
        bar.advance(note="1/4 rows [1 failed]")
        bar.show(4, note="4/4 rows [1 failed]")
    seen = capsys.readouterr()
    assert "scoring" in seen.err and "100%" in seen.err and "4/4 rows [1 failed]" in seen.err
    assert seen.out == ""


def test_a_bar_that_nobody_wants_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("scoring", None, wanted=False) as bar:
        bar.advance()
        bar.show(1, 2, "x")
        assert capsys.readouterr() == ("", "")
        bar.say("[a] line")  # what is said is said
    assert capsys.readouterr().err == "[a] line\n"


def test_a_table_shows_brackets_as_they_are() -> None:
    text = io.StringIO()
    table = make_table(("policy", "[red]P99"), [("a[b]", "1 [0, 2]")], title="t", caption="c")
    Console(width=80, file=text).print(table)
    assert "a[b]" in text.getvalue() and "[red]P99" in text.getvalue()
    assert "1 [0, 2]" in text.getvalue()
    assert [column.justify for column in table.columns] == ["left", "right"]
