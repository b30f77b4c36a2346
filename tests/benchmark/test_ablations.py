"""Ablations regroup a benchmark's runs: known effects come back, absent ones are not told."""

from __future__ import annotations

import pytest
from benchmark_built import CELLS, LOADS, build

from helm_gym.benchmark.arrange import Benchmark, arrange
from helm_gym.benchmark.page.ablations import by_condition, router_and_split, search_gains
from helm_gym.pages.table import Table

TRUE = {"static:best": 1.0, "aimd": 1.2, "aimd:best": 0.9}
GOOD_ROUTER = 0.7


def column(table: Table | None, heading: str) -> dict[str, float]:
    """Numbers of a column by policy."""
    assert table is not None
    place = [h for h in table.headings].index(heading)
    return {row[0].text: row[place].value or 0.0 for row in table.rows}


@pytest.fixture
def benchmark() -> Benchmark:
    """predicted_completion takes 0.7 of the P99; aimd:best gains nothing in trends."""
    rows = build(TRUE, noise=0.001)
    for row in rows:
        if row["router"] == "predicted_completion":
            row["tail_ms"] *= GOOD_ROUTER
        if row["policy"] == "aimd:best" and row["cell"].endswith("trend"):
            row["tail_ms"] /= TRUE["aimd:best"]
    return arrange(rows)


def test_every_condition_is_judged_by_itself(benchmark: Benchmark) -> None:
    table = by_condition(benchmark, benchmark.policies)
    assert table is not None
    assert table.headings == (
        "policy", "steady", "trend", *(f"load {load:g}" for load in LOADS),
        "helm_score", "predicted_completion",
    )  # fmt: skip
    assert column(table, "steady")["aimd:best"] == pytest.approx(0.9, abs=0.01)
    assert column(table, "trend")["aimd:best"] == pytest.approx(1.0, abs=0.01)
    for heading in table.headings[1:]:  # of one data set there is nothing to tell apart
        assert column(table, heading)["static:best"] == pytest.approx(1.0)
        assert column(table, heading)["aimd"] == pytest.approx(1.2, abs=0.01)


def test_router_and_split_are_taken_apart(benchmark: Benchmark) -> None:
    table = router_and_split(benchmark, benchmark.policies)
    assert table is not None
    alone, both, ratio = table.headings[1:]
    assert "helm_score" in alone and "predicted_completion" in both
    assert column(table, alone)["static:best"] == pytest.approx(1.0)
    assert column(table, both)["static:best"] == pytest.approx(GOOD_ROUTER, abs=0.01)
    assert column(table, alone)["aimd"] == pytest.approx(1.2, abs=0.01)
    assert column(table, both)["aimd"] == pytest.approx(1.2 * GOOD_ROUTER, abs=0.01)
    assert column(table, ratio)["aimd"] == pytest.approx(GOOD_ROUTER, abs=0.01)


def test_a_search_is_compared_with_its_defaults(benchmark: Benchmark) -> None:
    table = search_gains(benchmark)
    assert table is not None
    assert list(column(table, "as it is")) == ["aimd"]  # static has no default to compare with
    assert column(table, "search / as it is")["aimd"] == pytest.approx(0.95 / 1.2, abs=0.02)


def test_what_was_not_varied_has_no_table() -> None:
    rows = build(
        {"static:best": 1.0, "aimd": 1.1}, cells=CELLS[:1], loads=(0.9,), routers=("helm_score",)
    )
    benchmark = arrange(rows)
    assert by_condition(benchmark, benchmark.policies) is None
    assert router_and_split(benchmark, benchmark.policies) is None
    assert search_gains(benchmark) is None
