"""The card: says first what was never validated, resumes, and repeats itself word for word."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from typer.testing import CliRunner

from helm_gym.cli import app
from helm_gym.config.scenario import SCENARIOS, Scenario
from helm_gym.errors import ConfigError
from helm_gym.fidelity import card, figures, page
from helm_gym.fidelity.finding import Effort, Finding, Skipped
from helm_gym.fidelity.never import NEVER
from helm_gym.provenance import imported_modules

PLOT = {
    "x_label": "size",
    "y_label": "rate",
    "log_x": True,
    "series": [
        {"label": "model, heat", "x": [1, 10], "y": np.array([0.1, 0.5])},
        {"label": "LRU", "x": [1, 10], "y": [0.1, np.float64(0.4)]},
        {"label": "mean", "x": [1, 10], "y": [0.1, 0.2], "error": [0.05, 0.05]},
    ],
}
FINDINGS = (
    Finding("A", "form | points", 12, "MAPE", 3.5, "%", "paper, 2024", 4.0, "a | note\nof two"),
    Finding("B", "form < points", 3, "gap", 2.0, "points", "trace", 1.0, details={"plot": PLOT}),
    Finding("C", "x against y", 10_000, "gap", 12345.6, "1", "trace"),
    Skipped("D", "z against w", "nobody measured it"),
)


@pytest.fixture
def rooms(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two rooms that count their runs instead of the real ones."""
    runs: list[str] = []

    def room(name: str, rows: tuple[Finding | Skipped, ...]) -> None:
        def checks(effort: Effort) -> Iterator[Finding | Skipped]:
            runs.append(name)
            yield from rows

        module = ModuleType(name)
        module.checks = checks  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, f"helm_gym.fidelity.{name}", module)

    room("kv", FINDINGS[:2])
    room("queues", FINDINGS[2:])
    monkeypatch.setattr(card, "ROOMS", ("kv", "queues"))
    return runs


def run(out: Path, **options: object) -> card.Results:
    effort = Effort(None, quick=bool(options.pop("quick", False)))
    return card.run(effort, out, processes=1, progress=False, **options)  # type: ignore[arg-type]


def test_finished_rooms_are_not_run_again(tmp_path: Path, rooms: list[str]) -> None:
    first = run(tmp_path)
    assert sorted(rooms) == ["kv", "queues"]
    again = run(tmp_path)
    assert len(rooms) == 2
    assert again.findings[0] == FINDINGS[0] and again.skipped == [FINDINGS[3]]
    assert page.contents(first, "today") == page.contents(again, "today")


def test_other_code_data_or_effort_runs_again(
    tmp_path: Path, rooms: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path)
    run(tmp_path, quick=True)
    assert len(rooms) == 4
    for code in ("1", "2"):
        monkeypatch.setattr(card, "code_digest", lambda module, code=code: code)
        run(tmp_path)
    assert len(rooms) == 8
    data = tmp_path / "data"
    (data / "traces").mkdir(parents=True)
    digests = {card._digest("kv", Effort(data))}
    for text in ("a", "b"):
        (data / "traces" / "log.csv").write_text(text)
        digests.add(card._digest("kv", Effort(data)))
    assert len(digests) == 3


def test_a_stopped_run_goes_on(
    tmp_path: Path, rooms: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(effort: Effort) -> Iterator[Finding]:
        raise KeyboardInterrupt
        yield

    slow, fast = sorted(card.ROOMS, key=card.SLOWEST_FIRST.index)
    with monkeypatch.context() as context:
        context.setattr(sys.modules[f"helm_gym.fidelity.{fast}"], "checks", stopped)
        with pytest.raises(KeyboardInterrupt, match="1 finished pieces are kept"):
            run(tmp_path)
    assert rooms == [slow]
    run(tmp_path)
    assert rooms == [slow, fast]


@pytest.mark.parametrize("broken", ["", "3", '["x"]', '[{"kind": "Finding"}]'])
def test_a_damaged_result_is_run_again(tmp_path: Path, rooms: list[str], broken: str) -> None:
    run(tmp_path)
    (file,) = (tmp_path / "rooms").glob("kv-*.json")
    file.write_text(broken)
    with pytest.warns(UserWarning, match=f"{file.name} is damaged"):
        assert run(tmp_path).rooms["kv"][0] == FINDINGS[0]
    assert rooms.count("kv") == 2 and rooms.count("queues") == 1


def test_results_survive_as_json(tmp_path: Path, rooms: list[str]) -> None:
    run(tmp_path)
    (file,) = (tmp_path / "rooms").glob("kv-*.json")
    series = json.loads(file.read_text())[1]["details"]["plot"]["series"]
    assert [line["y"] for line in series][:2] == [[0.1, 0.5], [0.1, 0.4]]


def pages(tmp_path: Path, date: str = "2024-02-29") -> tuple[str, str]:
    return tuple(path.read_text() for path in page.save(run(tmp_path), tmp_path, date))  # type: ignore[return-value]


def test_the_page_says_first_what_was_never_validated(tmp_path: Path, rooms: list[str]) -> None:
    pytest.importorskip("matplotlib")
    for text in pages(tmp_path):
        places = [text.index(gap.what) for gap in NEVER]
        order = [*places, text.index("nobody measured it"), text.index("Targets missed")]
        assert order == sorted(order)
        assert text.index("What was compared") > text.index("Targets missed")
        assert text.count("2024-02-29") == 1


def test_markdown_tables_hold_together(tmp_path: Path, rooms: list[str]) -> None:
    pytest.importorskip("matplotlib")
    markdown, _ = pages(tmp_path)
    assert "form \\| points" in markdown
    assert "* 1: a \\| note of two" in markdown
    assert "3.5 %" in markdown and "12,346" in markdown
    assert "1 missed their target, 1 met it, 1 have none" in markdown
    for block in re.findall(r"(?:^\|.*\n)+", markdown, flags=re.M):
        columns = {len(re.findall(r"(?<!\\)\|", row)) for row in block.splitlines()}
        assert len(columns) == 1, block


def test_html_stands_alone_and_shows_the_plots(tmp_path: Path, rooms: list[str]) -> None:
    pytest.importorskip("matplotlib")
    _, html = pages(tmp_path)
    assert html.count("<svg") == 1
    assert "form &lt; points" in html
    assert not re.search(r"(?:src|href)=\"(?!#)", html.replace("xlink:href", "href"))
    assert "<script" not in html and "@import" not in html


def test_a_second_run_writes_the_same(tmp_path: Path, rooms: list[str]) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "b").mkdir()
    first, later = pages(tmp_path), pages(tmp_path / "b", "2031-01-01")
    assert [text.replace("2031-01-01", "2024-02-29") for text in later] == list(first)


def test_every_assumption_of_every_scenario_is_listed() -> None:
    listed = {row["path"] for row in page.assumed()}
    for path in SCENARIOS.glob("*.yaml"):
        for name, _ in Scenario.load(path.stem).assumptions():
            assert re.sub(r"\.\d+$", "", name) in listed
    shared = [row for row in page.assumed() if row["path"] == "emb.tick_s"]
    assert [row["scenarios"] for row in shared] == ["all"]


def test_curves_of_other_rooms_are_drawn_too() -> None:
    curves = {"ours": [0.1, 0.2], "real": [0.1, 0.3]}
    for details in ({"sizes": (0.1, 1), **curves}, {"quantiles": curves}):
        plot = figures.plot_of(details)
        assert plot is not None
        assert [line["label"] for line in plot["series"]] == ["real", "model"]
    assert figures.plot_of({"errors": [1, 2]}) is None


def test_a_wrong_room_or_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'queues'"):
        run(tmp_path, only=["queue"])
    with pytest.raises(ConfigError, match="holds calibration/"):
        card.run(Effort(tmp_path / "nothing"), tmp_path, progress=False)


def test_every_room_is_known_everywhere() -> None:
    assert set(card.ROOMS) == set(card.SLOWEST_FIRST) == set(page.TITLES)
    assert list(page.TITLES) == list(card.ROOMS)
    for room in card.ROOMS:
        modules = imported_modules(f"helm_gym.fidelity.{room}")
        assert "helm_gym.fidelity.page" not in modules
        assert not [name for name in modules if name.startswith("helm_gym.agents")]
    assert {"helm_gym.sim.kernel", "helm_gym.sim.simulator"} <= {
        name for room in card.ROOMS for name in imported_modules(f"helm_gym.fidelity.{room}")
    }


def test_the_command_writes_the_card(tmp_path: Path) -> None:
    """In a process of its own per room, without data: nothing of it can be compared."""
    pytest.importorskip("matplotlib")
    asked = ["fidelity", "--quick", "-q", "--out", str(tmp_path)]
    asked += ["--only", "kv", "--only", "links"]
    result = CliRunner().invoke(app, asked, env={"HELM_GYM_DATA": ""})
    assert result.exit_code == 0, result.output
    text = (tmp_path / "FIDELITY.md").read_text()
    assert "Left out of this run: Kernel times, EMB cache, Queues, Workload" in text
    assert "quick subset" in text
    assert (tmp_path / "fidelity.html").is_file()
    refused = CliRunner().invoke(app, [*asked, "--only", "nothing"])
    assert refused.exit_code == 2
