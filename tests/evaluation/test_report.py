"""The report is one file that asks for nothing, and the demo keeps what it made."""

from __future__ import annotations

import io
import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from helm_gym.config.scenario import Scenario
from helm_gym.errors import ConfigError
from helm_gym.evaluation import demo, report
from helm_gym.evaluation.evaluate import Evaluation, evaluate
from helm_gym.pages import templates
from helm_gym.suites.seeds import EVALUATION_SEEDS

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

CURVE = [
    {"decisions": 10.0, "reward": 0.5, "slo_satisfaction": 0.8},
    {"decisions": 20.0, "reward": 0.7, "slo_satisfaction": 0.9, "validation_reward": 0.6},
]


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    """Two policies on the tiny scenario; one of them with a name that is not nice to HTML."""
    from conftest import TINY

    scenario = Scenario.load(TINY)
    labels = {"balance": "<b>me & you</b>"}
    return evaluate(scenario, ["static:best", "balance"], seeds=EVALUATION_SEEDS[:5], labels=labels)


def data_of(evaluation: Evaluation) -> dict[str, Any]:
    static, balance = evaluation.entries
    section = report.load_section(evaluation, "all of it", [(balance, static)])
    data = {
        "title": "A title",
        "warning": "",
        "scenario": report.scenario_section(evaluation.scenario),
        "loads": [section],
        "curve": CURVE,
        "curve_caption": "How it learned.",
        "about": [["versions", "1.2.3"], ["machine", "a loom"]],
        "assumptions": report.assumption_rows(Scenario.load("taobao-shift")),
    }
    return json.loads(json.dumps(data))  # it has to survive a file


@pytest.fixture(scope="module")
def page(evaluation: Evaluation) -> str:
    return report.render(data_of(evaluation))


def test_the_page_needs_no_other_file_and_no_network(page: str) -> None:
    assert not re.search(r"<(script|link|iframe|img|object|embed)\b", page)
    assert "@import" not in page
    targets = re.findall(r'(?:src|href|url)\s*[=(]\s*["\']?([^"\')>\s]+)', page)
    assert targets and all(target.startswith("#") for target in targets)


def test_figures_are_well_formed_and_share_no_ids(page: str) -> None:
    figures = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(figures) == 5  # time, hit rates, latency; static shares; learning curve
    seen: set[str] = set()
    for figure in figures:
        ids = {e.attrib["id"] for e in ET.fromstring(figure).iter() if "id" in e.attrib}
        shared = {i for i in seen & ids if re.match(r"[mp][0-9a-f]{8,}", i)}
        assert not shared, "a clip path or marker of one figure would be used by another"
        seen |= ids


def test_labels_cannot_break_the_page(page: str) -> None:
    assert "<b>me" not in page
    assert "&lt;b&gt;me &amp; you&lt;/b&gt;" in page


def test_the_page_says_what_was_run_and_what_is_assumed(page: str, evaluation: Evaluation) -> None:
    text = re.sub(r"\s+", " ", page)
    for said in (
        evaluation.scenario.digest(), "seeds 10000-10004", "a loom", "How it learned.",
        "emb.candidate_row_bytes", "512 to 32768", "best static (",
    ):  # fmt: skip
        assert said in text, said
    mean = evaluation.reference.interval("tail_ms").mean
    assert f"<td>{mean:.1f}<br>" in page


def test_every_verdict_of_the_data_is_on_the_page(page: str, evaluation: Evaluation) -> None:
    (sentence,) = data_of(evaluation)["loads"][0]["verdicts"]
    assert re.search(r"better|worse|no difference", sentence)
    plain = sentence.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    assert f'<p class="verdict">{plain}</p>' in page


def test_the_same_data_give_the_same_page(evaluation: Evaluation, page: str) -> None:
    assert report.render(data_of(evaluation)) == page


def test_latency_curves_cross_one_per_cent_at_p99(evaluation: Evaluation) -> None:
    entry = evaluation.entries[0]
    curve = data_of(evaluation)["loads"][0]["policies"][0]["latency"]
    above = [ms for ms, longer in zip(curve["ms"], curve["longer"], strict=True) if longer > 0.01]
    # All seeds together, so the crossing lies among the seeds' own quantiles.
    p99s = entry.values("p99_ms")
    assert 0.98 * min(p99s) <= max(above) <= 1.02 * max(p99s)
    assert curve["longer"] == sorted(curve["longer"], reverse=True)


def test_assumptions_are_exactly_the_scenarios() -> None:
    scenario = Scenario.load("taobao-shift")
    rows = report.assumption_rows(scenario)
    assert [row["path"] for row in rows] == [path for path, _ in scenario.assumptions()]
    by_path = {row["path"]: row for row in rows}
    assert by_path["slo.p99_ms"]["value"] == "30 ms"
    assert by_path["workload.surfaces.0.gap_scale"]["value"] == "0.0333333"


def test_a_missing_package_is_named_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "NEEDED", {"no_such_package_here": "NoSuch"})
    with pytest.raises(ConfigError, match=r"needs NoSuch: pip install 'helm-gym\[report\]'"):
        demo.run_demo("never-made")
    assert not Path("never-made").exists()


# The demo itself, on a scenario and with budgets that take seconds.


@pytest.fixture
def small_demo(
    tiny_scenario: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, Path]:
    """A scenario file and an output folder, with a tiny budget in force."""
    pytest.importorskip("stable_baselines3")
    budget = demo.Budget(
        specs=("static:best", "balance"),
        n_seeds=2,
        overrides={"workload.users": 500},
        settings={"updates": 2, "clusters": 2, "n_steps": 6},
    )
    monkeypatch.setattr(demo, "QUICK", budget)
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(tiny_scenario))
    return file, tmp_path / "out"


def run(small_demo: tuple[Path, Path], **settings: Any) -> str:
    file, out = small_demo
    printed = io.StringIO()
    console = Console(file=printed, width=200)
    settings = {"quick": True, "progress": False, "console": console, **settings}
    demo.run_demo(out, scenario=str(file), **settings)
    return printed.getvalue()


def test_the_demo_writes_a_report_and_a_second_run_replaces_it(
    small_demo: tuple[Path, Path],
) -> None:
    out = small_demo[1]
    first = run(small_demo)
    assert f"Report written: {out / 'report.html'}" in first
    assert "smoke test" in first and "At load 0.95, 2 seeds cannot tell PPO" in first
    page = (out / "report.html").read_text()
    assert "smoke test" in page and "Load 0.7" in page

    second = run(small_demo, seed=1)
    assert "holds an earlier demo; its results are replaced" in second
    assert f"Report replaced: {out / 'report.html'}" in second
    again = (out / "report.html").read_text()
    assert again != page and "seed 1, load 0.95" in again
    assert [p.name for p in out.iterdir() if p.name.startswith(".")] == []  # no leftovers


def test_the_demo_can_be_repeated(small_demo: tuple[Path, Path]) -> None:
    out = small_demo[1]
    results = []
    for _ in range(2):
        run(small_demo)
        data = json.loads((out / "result.json").read_text())
        results.append({key: data[key] for key in ("loads", "curve", "scenario")})
    assert results[0] == results[1]


def test_ctrl_c_while_comparing_keeps_the_model_and_says_so(
    small_demo: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = small_demo[1]
    run(small_demo)
    page = (out / "report.html").read_text()

    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "evaluate", interrupted)
    with pytest.raises(demo.DemoInterrupted) as stopped:
        run(small_demo)
    assert f"the trained model is kept in {out / 'training' / 'model.zip'}" in str(stopped.value)
    assert "is still the earlier demo's" in str(stopped.value)
    assert (out / "report.html").read_text() == page


def test_ctrl_c_while_training_passes_on_how_to_continue(
    small_demo: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from helm_gym.agents.training import train as room

    def interrupted(*args: object, **kwargs: object) -> None:
        raise room.TrainingInterrupted("training stopped: 12 decisions are kept")

    monkeypatch.setattr(room, "train", interrupted)
    with pytest.raises(demo.DemoInterrupted, match="12 decisions are kept") as stopped:
        run(small_demo)
    assert "earlier demo" not in str(stopped.value)
