"""Names that users choose cannot break a page, nor bring HTML into it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("jinja2")

from helm_gym.errors import ConfigError
from helm_gym.pages.table import Cell, md_cell, md_cells, with_interval
from helm_gym.pages.templates import render, write_page
from helm_gym.studies.adaptation import study as adaptation

BAD = "mine | <script>alert(1)</script>\n# yours"
SAFE = "mine \\| &lt;script>alert(1)&lt;/script> # yours"


def test_a_cell_of_markdown_stays_one_cell() -> None:
    assert md_cell(BAD) == SAFE
    assert md_cell(Cell("0.9", note="[0.8, |1.0]")) == "0.9 [0.8, \\|1.0]"
    assert md_cells(["a", 1, Cell("b")]) == "a | 1 | b"


def sensitivity(name: str) -> str:
    budget = SimpleNamespace(tolerance=0.1, share_step=0.1, tuning_seeds=2, seeds=3)
    scenario = SimpleNamespace(name=name, workload=SimpleNamespace(load=0.9))
    return render(
        "sensitivity.md.j2", scenario=scenario, warning="", budget=budget, alike=5, version="0",
        digest="d", picture="p.svg", findings=[name], headings=["number", name],
        lines=[["x", name]], notes=[], left=[],
    )  # fmt: skip


def adapt(name: str) -> str:
    figures = {key: [1.0, 2.0] for key in adaptation.FIGURES}
    entry = {
        "asked": name,
        "spec": name,
        "figures": figures,
        "reward": [[1.0] * 3] * 2,
        "trips": [],
    }
    return adaptation.markdown([{"drift": name, "entries": [entry]}])


@pytest.mark.parametrize("page", [sensitivity, adapt])
def test_a_name_cannot_break_a_markdown_page(page: Any) -> None:
    text, plain = page(BAD), page("mine")
    assert "<script" not in text
    assert len(text.splitlines()) == len(plain.splitlines())
    for bad, good in zip(text.splitlines(), plain.splitlines(), strict=True):
        assert bad.replace("\\|", "").count("|") == good.count("|")


def test_a_name_cannot_bring_html_into_a_html_page() -> None:
    loads: list[Any] = []
    scenario = {"name": BAD, "digest": BAD, "description": BAD, "yaml": BAD, "step_s": 1}
    figure = {"svg": "", "caption": ""}
    page = render(
        "report.html.j2", title=BAD, warning=BAD, scenario=scenario, loads=loads, basin=figure,
        learning=figure, about=[], assumptions=[],
    )  # fmt: skip
    assert "<script>alert" not in page and "&lt;script&gt;alert" in page


def test_what_a_template_names_has_to_be_given() -> None:
    from jinja2 import UndefinedError

    with pytest.raises(UndefinedError):
        render("leaderboard.md.j2", warnings=[])


@pytest.mark.parametrize(
    ("found", "text"),
    [
        ((0.9123, 0.9, 0.925), "0.912 [0.900, 0.925]"),
        ((0.9, float("nan"), float("nan")), "0.900"),
        ((float("nan"),) * 3, ""),
    ],
)
def test_intervals_say_what_is_known(found: tuple[float, float, float], text: str) -> None:
    assert with_interval(found) == text


def test_a_page_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    write_page(tmp_path / "new" / "page.md", "text")
    assert (tmp_path / "new" / "page.md").read_text() == "text"
    with pytest.raises(ConfigError, match=r"page\.md/x\.md: cannot be written"):
        write_page(tmp_path / "new" / "page.md" / "x.md", "text")
