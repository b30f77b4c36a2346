"""The leaderboard says what its rows say, and a page that does not is found out."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmark_built import SEEDS, build, failed, save
from typer.testing import CliRunner

from helm_gym import cli
from helm_gym.benchmark import leaderboard
from helm_gym.benchmark.arrange import arrange, load_rows
from helm_gym.benchmark.rows import PUBLISHED
from helm_gym.errors import ConfigError

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

BOUND = {"schedule:found.json": 0.6}

CHECKOUT = Path(__file__).resolve().parents[2]


def table_of(page: str) -> list[list[str]]:
    """Cells of the first table's lines."""
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[1:]]


def test_policies_are_ranked_by_their_true_scores_and_bounds_are_not() -> None:
    true = {"static:best": 1.0, "worse": 1.3, "better": 0.8, **BOUND}
    found = leaderboard.lines(arrange(build(true)))
    ranks = {line.policy: line.rank for line in found}
    assert ranks == {"schedule:found.json": 0, "better": 1, "static:best": 2, "worse": 3}
    assert found[0].policy == "schedule:found.json"
    for line in found:
        assert line.score.mean == pytest.approx(true[line.policy], rel=0.02)
        assert line.held_out.mean == pytest.approx(true[line.policy], rel=0.03)
        assert line.score.low <= true[line.policy] * 1.02
    better = next(line for line in found if line.policy == "better")
    assert better.better.mean == better.next_one == 1.0
    assert better.moved_gb == 42.0  # 40 on misses and 2 by refill


def test_the_page_names_what_searches_found_and_why_policies_failed() -> None:
    rows = build()
    page = leaderboard.markdown(rows + failed(rows, "bad|policy", "act(obs) <returned>\nnan | 1"))
    lines = table_of(page)
    assert lines[0][:2] == ["1", "`better`"]
    assert lines[1][1] == "`static:best` (static:0.45)"
    assert "| `bad\\|policy` | 32 of 32 runs: act(obs) &lt;returned> nan \\| 1 |" in page
    assert "seeds 20000-20003" in page and "code_digest c0de" in page


def test_the_same_rows_in_any_order_give_the_same_page() -> None:
    rows = build()
    assert leaderboard.markdown(rows) == leaderboard.markdown(rows[::-1])


def test_few_seeds_and_mixed_versions_are_said() -> None:
    one = leaderboard.markdown(build(seeds=SEEDS[:1]))
    assert "**With a single seed there are no intervals.**" in one
    assert "With 4 seeds the intervals are much too narrow" in leaderboard.markdown(build())
    rows = build(seeds=range(20_000, 20_005))
    assert "**" not in leaderboard.markdown(rows).split("\n|")[0]
    rows[0]["helm_gym"] = "1.2.4"
    assert "several versions (1.2.3, 1.2.4)" in leaderboard.markdown(rows)


def test_another_reference_can_be_named() -> None:
    found = leaderboard.lines(arrange(build(noise=0.0), "better"))
    scores = {line.policy: line.score.mean for line in found}
    assert scores == pytest.approx({"better": 1.0, "static:best": 1.25, "worse": 1.625})


def test_many_specs_of_a_search_are_counted() -> None:
    rows = build()
    for place, one in enumerate(one for one in rows if one["policy"] == "static:best"):
        one["spec"] = f"static:0.{place % 8 + 1}"
    line = next(li for li in leaderboard.lines(arrange(rows)) if li.policy == "static:best")
    assert line.found == "8 settings"


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(cli.app, ["leaderboard", *map(str, arguments)])
    return result.exit_code, result.output


def test_the_command_writes_and_checks(tmp_path: Path) -> None:
    rows, page = save(build(), tmp_path), tmp_path / "LEADERBOARD.md"
    code, said = run(rows, "--out", page, "--check")
    assert code == 2 and "does not exist; write it with helm-gym leaderboard" in said
    assert run(rows, "--out", page) == (0, f"leaderboard: {page}\n")
    assert page.read_text("utf-8") == leaderboard.markdown(build())
    assert run(tmp_path, "--out", page, "--check")[0] == 0  # the folder holds the same rows
    page.write_text(page.read_text("utf-8").replace("`better` | 0", "`better` | 9"), "utf-8")
    code, said = run(rows, "--out", page, "--check")
    assert code == 2 and "is not what its rows say" in said
    assert "\n-| 1 | `better` | 9." in said and "\n+| 1 | `better` | 0." in said


def test_rows_that_changed_are_found_out(tmp_path: Path) -> None:
    page = tmp_path / "LEADERBOARD.md"
    page.write_text(leaderboard.markdown(build()), "utf-8")
    rows = save(build({"static:best": 1.0, "better": 0.81, "worse": 1.3}), tmp_path)
    with pytest.raises(ConfigError, match="is not what its rows say"):
        leaderboard.check(leaderboard.markdown(load_rows(rows)), page, "this command")


@pytest.mark.parametrize(
    ("command", "page"),
    [(["leaderboard"], "LEADERBOARD.md"), (["suite", "page"], "docs/suite.md")],
)
def test_published_pages_are_what_the_published_rows_give(command: list[str], page: str) -> None:
    result = CliRunner().invoke(cli.app, [*command, "--out", str(CHECKOUT / page), "--check"])
    assert result.exit_code == 0, result.output


def test_published_rows_name_no_file_of_the_machine_that_made_them() -> None:
    for file in PUBLISHED.rglob("*.parquet"):
        rows = load_rows(file)
        assert {row["status"] for row in rows} == {"ok"}
        assert not [row["spec"] for row in rows if "/" in f"{row['spec']}{row['scenario'] or ''}"]
