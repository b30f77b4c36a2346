"""The one search for the highest rate: it stays where it may look, and writes suites once."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import yaml

from helm_gym.config.scenario import Scenario
from helm_gym.errors import ConfigError
from helm_gym.suites import heldout, paper
from helm_gym.suites.capacity import STEP, highest_rate


@pytest.mark.parametrize("limit", [41.0, 100.0, 239.0])
@pytest.mark.parametrize("guess", [40.0, 100.0, 240.0])
def test_a_bounded_search_finds_the_rate_and_tries_none_outside(limit: float, guess: float) -> None:
    tried: list[float] = []

    def margin(rate: float) -> float:
        tried.append(rate)
        return limit - rate

    assert highest_rate(margin, guess, 40.0, 250.0) == pytest.approx(limit, rel=1e-3)
    assert 40.0 / STEP <= min(tried) and max(tried) <= 250.0 * STEP
    assert len(tried) == len(set(tried)) < 20


def test_what_lies_outside_is_told_apart() -> None:
    assert highest_rate(lambda rate: 20.0 - rate, 100.0, 40.0, 250.0) == 0.0
    with pytest.raises(ConfigError, match="still meet the SLO"):
        highest_rate(lambda rate: 900.0 - rate, 100.0, 40.0, 250.0)


def test_a_search_from_the_best_so_far_costs_one_simulation_for_a_worse_share() -> None:
    tried: list[float] = []

    def margin(rate: float) -> float:
        tried.append(rate)
        return 50.0 - rate

    assert highest_rate(margin, 100.0, 100.0, 250.0) == 0.0
    assert len(tried) == 1 and math.isclose(tried[0], 100.0, rel_tol=STEP - 1.0)


@pytest.mark.parametrize("room", [paper, heldout])
def test_both_suites_are_written_alike(
    room: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``freeze`` writes one file per cell and a table of their digests, from one function."""
    monkeypatch.setattr(paper, "choose_candidates", lambda pool: (1024, {1024: [0.5]}))
    monkeypatch.setattr(paper, "probe", lambda scenario, seeds: Carried())
    written = room.freeze(tmp_path, jobs=1)  # type: ignore[attr-defined]
    table = room.pinned(tmp_path / room.DIGESTS.name)  # type: ignore[attr-defined]
    assert len(written) == len(table) == len(room.CELLS)  # type: ignore[attr-defined]
    for path in written:
        assert Scenario.load(str(path)).digest() == table[path.stem]
        stated = yaml.safe_load(path.read_text())["workload"]["capacity_rps_per_node"]
        assert stated["value"] == 99.9 and "best static share 0.5 (0.4 to 0.6" in stated["source"]


class Carried:
    """Stands for a probe: the shares around 0.5 carry most."""

    def capacities(self, shares: list[float], guess: float) -> dict[float, float]:
        return {share: 99.9 if 0.35 < share < 0.65 else 50.0 for share in shares}
