"""The page of a benchmark is one file that a real browser shows without network and complaint."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from benchmark_built import CELLS, SEEDS, WINDOWS, build, failed, save

from helm_gym.baselines.schedule import Schedule
from helm_gym.benchmark.arrange import arrange, load_schedules
from helm_gym.benchmark.page import page as benchmark_page
from helm_gym.evaluation.report import longer_than
from helm_gym.sim.layout import N_BINS
from helm_gym.sim.stages import bin_edge

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
TRUE = {"static:best": 1.0, "better": 0.8, "worse": 1.3, "<i>odd</i>": 1.1, "hindsight:dp": 0.6}
SCORE = 3  # column of the leaderboard


class Tables(HTMLParser):
    """Text of the cells of every named table."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: dict[str, list[list[str]]] = {}
        self._name, self._cell = "", False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self._name = dict(attrs).get("data-name") or ""
            self.rows[self._name] = []
        elif tag == "tr" and self._name:
            self.rows[self._name].append([])
        elif tag == "td":
            self._cell = True
            self.rows[self._name][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == "td":
            self._cell = False
        elif tag == "table":
            self._name = ""

    def handle_data(self, data: str) -> None:
        if self._cell:
            self.rows[self._name][-1][-1] += data

    def column(self, name: str, place: int) -> list[str]:
        return [row[place] for row in self.rows[name] if row]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows, series, schedules of the optimum, and what policies sustain."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = tmp_path_factory.mktemp("bench")
    rows = build(TRUE)
    save(rows + failed(rows, "broken", "act(obs) returned nan"), folder, series=True)
    schedules = folder / "schedules"
    schedules.mkdir()
    for objective, share in (("paper", 0.2), ("tail", 0.4)):
        Schedule(
            scenario=CELLS[0],
            scenario_digest=f"digest of {CELLS[0]} 0.95 predicted_completion",
            seed=SEEDS[0],
            objective=objective,
            initial_share=share,
            shares=(share,) * WINDOWS,
        ).save(schedules / f"{objective}.json")
    sustained = [
        {"cell": CELLS[0], "spec": "static:0.45", "seed": seed, "sustained": 1.25} for seed in SEEDS
    ]
    pq.write_table(pa.Table.from_pylist(sustained), folder / "goodput.parquet")
    return folder


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return benchmark_page.render(folder)


def test_the_page_needs_no_other_file_and_no_network(page: str) -> None:
    assert not re.search(r"<(link|iframe|img|object|embed)\b|<script[^>]*\bsrc", page)
    assert "@import" not in page and "fetch(" not in page and "XMLHttpRequest" not in page
    targets = re.findall(r'(?:src|href|url)\s*[=(]\s*["\']?([^"\')>\s]+)', page)
    assert targets and all(target.startswith("#") for target in targets)
    assert "default-src 'none'" in page  # the browser would refuse what slipped through


def test_names_cannot_break_the_page(page: str) -> None:
    assert "<i>odd" not in page
    assert "&lt;i&gt;odd&lt;/i&gt;" in page


def test_figures_are_well_formed_and_share_no_ids(page: str) -> None:
    figures = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    # Scores, profiles, goodput, bytes; time and latency of both cells.
    assert len(figures) == 4 + 2 * len(CELLS)
    seen: set[str] = set()
    for figure in figures:
        ids = {e.attrib["id"] for e in ET.fromstring(figure).iter() if "id" in e.attrib}
        shared = {i for i in seen & ids if re.match(r"[mp][0-9a-f]{8,}", i)}
        assert not shared, "a clip path or marker of one figure would be used by another"
        seen |= ids
    assert page.count("optimum in hindsight</text>") == 1  # the schedule is of one cell


def test_tables_say_what_the_rows_say(page: str) -> None:
    tables = Tables(page)
    assert tables.column("leaderboard", 1) == [
        "hindsight:dp", "better", "static:best", "<i>odd</i>", "worse"
    ]  # fmt: skip
    assert tables.column("leaderboard", 0) == ["bound", "1", "2", "3", "4"]
    for shown, true in zip(
        tables.column("leaderboard", SCORE), (0.6, 0.8, 1.0, 1.1, 1.3), strict=True
    ):
        assert float(shown.split()[0]) == pytest.approx(true, rel=0.02)
    assert tables.column("failed", 0) == ["broken"]
    assert "32 of 32 runs: act(obs) returned nan" in tables.column("failed", 1)[0]
    assert tables.rows["sustained"][1] == [CELLS[0], "static:0.45", "1.250", "4"]
    for place in range(len(CELLS)):  # two loads, two routers
        assert len(tables.column(f"cell{place}", 0)) == 4 * len(TRUE)
    assert {"digest of worse", "digest of broken"} <= set(tables.column("policies", 2))
    assert len(tables.column("digests", 3)) == 8
    won = {row[0]: row[1:] for row in tables.rows["pairs"] if row}
    assert won["better"] == ["0.00", "0.50", "1.00", "1.00", "1.00"]


def test_the_page_says_how_to_run_it_again(page: str) -> None:
    said = re.search(r"<pre>(helm-gym bench.*?)</pre>", page, re.DOTALL)
    assert said is not None
    for part in (
        "--suite paper", "--seeds 4", "--loads 0.7,0.95", f"--steps {WINDOWS}", "-p static:best",
        "--routers helm_score,predicted_completion", "-p broken",
    ):  # fmt: skip
        assert part in said[1]
    assert "code_digest c0de" in re.sub(r"\s+", " ", page)


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    rows = save(build({"static:best": 1.0}, loads=(0.95,), seeds=SEEDS[:1]), tmp_path)
    page = benchmark_page.render(rows)
    for said in (
        "no series.parquet lies beside the rows", "No schedules of", "single seed",
        "No cell was run at several loads", "no goodput.parquet", "None: every policy finished",
    ):  # fmt: skip
        assert said in page


def test_the_same_rows_give_the_same_page(folder: Path, page: str) -> None:
    assert benchmark_page.render(folder) == page


def test_of_two_schedules_the_one_for_p99_counts(folder: Path) -> None:
    (shares,) = load_schedules(folder / "schedules").values()
    assert shares.tolist() == [0.4] * WINDOWS


def test_latency_curves_cross_one_per_cent_at_p99() -> None:
    edges_ms = 1e3 * np.array([bin_edge(i) for i in range(N_BINS + 1)])
    counts = np.round(1e6 * np.diff(1.0 - np.exp(-edges_ms / 8.0))).astype(int)
    curve = longer_than(counts)
    crossing = curve["ms"][np.searchsorted(-curve["longer"], -0.01)]
    assert crossing == pytest.approx(8.0 * np.log(100.0), rel=0.02)


def test_figures_draw_the_best_few_and_all_bounds() -> None:
    many = {"static:best": 1.0, "hindsight:dp": 0.5} | {f"p{n}": 0.8 + n / 50 for n in range(20)}
    benchmark = arrange(build(many, noise=0.0))
    looks = benchmark_page._looks(benchmark, benchmark_page.lines(benchmark))
    assert list(looks) == ["hindsight:dp", "p0", "p1", "p2", "p3", "p4", "static:best"]
    assert len({(look["color"], look["ls"]) for look in looks.values()}) == len(looks)


# In a real browser.

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium is on the PATH")


def browse(page: Path, profile: Path, fragment: str = "") -> tuple[str, list[str]]:
    """The page as Chromium leaves it once its script ran, and what it wrote to the console."""
    assert CHROMIUM is not None
    ran = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            "--no-first-run", "--disable-extensions", "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--user-data-dir={profile}", "--enable-logging=stderr", "--dump-dom",
            f"{page.as_uri()}{fragment}",
        ],
        capture_output=True, text=True, timeout=120, env={**os.environ, "HOME": str(profile)},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    said = [line.partition("CONSOLE")[2] for line in ran.stderr.splitlines() if "CONSOLE" in line]
    return ran.stdout, said


@needs_browser
def test_a_browser_shows_it_without_complaint(folder: Path, page: str, tmp_path: Path) -> None:
    shown, said = browse(folder / "bench.html", tmp_path)
    assert said == []
    assert Tables(shown).rows == Tables(page).rows
    assert shown.count("<svg") == page.count("<svg")


@needs_browser
def test_sorting_works_both_ways_and_by_number_or_text(
    folder: Path, page: str, tmp_path: Path
) -> None:
    assert page
    for fragment, place, order in (
        (f"#sort=leaderboard.{SCORE}", SCORE, lambda text: float(text.split()[0])),
        ("#sort=leaderboard.1", 1, str.lower),
    ):
        up, said_up = browse(folder / "bench.html", tmp_path, fragment)
        down, said_down = browse(folder / "bench.html", tmp_path, f"{fragment}.down")
        assert said_up == said_down == []
        rising = Tables(up).column("leaderboard", place)
        assert [order(text) for text in rising] == sorted(order(text) for text in rising)
        assert Tables(down).column("leaderboard", place) == rising[::-1]
        assert up.count('aria-sort="ascending"') == down.count('aria-sort="descending"') == 1
    # The reference has no probability of being better than itself: empty cells come last.
    better, _ = browse(folder / "bench.html", tmp_path, "#sort=leaderboard.5.down")
    assert Tables(better).column("leaderboard", 5)[-1] == ""


@needs_browser
def test_a_fault_in_the_page_would_be_seen(folder: Path, page: str, tmp_path: Path) -> None:
    """What the two tests above rely on: Chromium tells of errors and of refused requests."""
    broken = tmp_path / "broken.html"
    broken.write_text(
        page.replace('"use strict";', '"use strict"; nothing_of_that_name();').replace(
            "</body>", '<img src="http://example.com/x.png"></body>'
        )
    )
    _, said = browse(broken, tmp_path / "profile")
    assert any("ReferenceError" in line for line in said)
    assert any("Content Security Policy" in line for line in said)
