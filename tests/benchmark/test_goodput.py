"""The highest load that a policy sustains, on a scenario that takes seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from helm_gym import cli
from helm_gym.benchmark import goodput as policy_capacity
from helm_gym.benchmark.goodput import measure, search
from helm_gym.config.scenario import Scenario
from helm_gym.errors import ConfigError
from helm_gym.evaluation.specs import make_policy
from helm_gym.runs.rollout import run_policy
from helm_gym.suites.capacity import SATISFACTION

SEEDS = (20_000, 20_001)


def satisfaction(scenario: Scenario, load: float, seed: int) -> float:
    loaded = scenario.replace({"workload.load": load})
    (episode,) = run_policy(loaded, make_policy("static:0.5"), "static:0.5", [seed])
    return episode.figures["slo_satisfaction"]


def test_what_is_sustained_meets_the_slo_and_more_does_not(tiny: Scenario) -> None:
    rows = search(tiny, "static:0.5", SEEDS[0])
    found = rows[0]["sustained"]
    assert found > 0.0
    tried = {row["load"]: row["slo_satisfaction"] for row in rows}
    assert list(tried) == sorted(tried)
    below = max(load for load, inside in tried.items() if load <= found)
    above = min(load for load, inside in tried.items() if load >= found)
    assert tried[below] >= SATISFACTION > tried[above]
    assert above / below < 1.04  # neighbours on the grid of rates
    assert satisfaction(tiny, below, SEEDS[0]) == tried[below]


def test_a_stopped_study_goes_on_and_ends_with_the_same_rows(
    tiny: Scenario, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    specs = ["static:0.5", "balance"]
    whole = measure(tiny, specs, seeds=SEEDS, out=tmp_path / "whole.parquet")
    done: list[tuple[str, int]] = []

    def stops(scenario: Scenario, spec: str, seed: int, allow: Any) -> Any:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append((spec, seed))
        return search(scenario, spec, seed)

    out = tmp_path / "parts.parquet"
    monkeypatch.setattr(policy_capacity, "search", stops)
    with pytest.raises(KeyboardInterrupt):
        measure(tiny, specs, seeds=SEEDS, out=out)
    done[:] = []
    assert measure(tiny, specs, seeds=SEEDS, out=out) == whole
    assert done == [("balance", seed) for seed in SEEDS]
    assert out.read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def test_rows_of_another_scenario_stay_and_are_not_used(tiny: Scenario, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    out = tmp_path / "goodput.parquet"
    slow = tiny.replace({"slo.p99_ms": 12})
    (easy,) = measure(tiny, ["static:0.5"], seeds=SEEDS[:1], out=out)
    (hard,) = measure(slow, ["static:0.5"], seeds=SEEDS[:1], out=out)
    assert hard.loads[SEEDS[0]] < easy.loads[SEEDS[0]]
    digests = pq.read_table(out).column("scenario_digest").to_pylist()
    assert set(digests) == {tiny.digest(), slow.digest()}
    assert measure(tiny, ["static:0.5"], seeds=SEEDS[:1], out=out) == [easy]


def test_it_refuses_what_cannot_be_measured(tiny: Scenario, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="comparisons use 20000 to 29999"):
        measure(tiny, ["balance"], seeds=[5])
    with pytest.raises(ConfigError, match="name at least one policy"):
        measure(tiny, [], seeds=SEEDS)
    with pytest.raises(ConfigError, match="did you mean"):
        measure(tiny, ["balanse"], seeds=SEEDS)
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"cell": ["x"]}), tmp_path / "x.parquet")
    with pytest.raises(ConfigError, match="holds other rows"):
        measure(tiny, ["balance"], seeds=SEEDS, out=tmp_path / "x.parquet")


def test_the_command_resolves_searches_and_workers_find_the_same(
    tiny_scenario: dict[str, Any], tiny: Scenario, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    file, out = tmp_path / "tiny.yaml", tmp_path / "goodput.parquet"
    file.write_text(yaml.safe_dump(tiny_scenario))
    asked = ["goodput", "-s", file, "-p", "static:best", "-p", "static:0.5", "--seeds", 2, "-q"]
    result = CliRunner().invoke(cli.app, [*map(str, asked), "--out", str(out), "--processes", "2"])
    assert result.exit_code == 0, result.output
    (alone,) = measure(tiny, ["static:0.5"], seeds=SEEDS)
    assert f"{alone.interval().mean:.3f}" in result.output
    assert "static:best" in result.output and f"rows: {out}" in result.output
