"""The delayed schedule knows the stretch that it is in, and nothing of the next one."""

from __future__ import annotations

from typing import Any

import pytest

from helm_gym.config.scenario import Scenario
from helm_gym.errors import ConfigError
from helm_gym.hindsight.delayed import delayed, parts
from helm_gym.hindsight.search import FAST
from helm_gym.suites import moving

QUICK = FAST.model_copy(update={"width": 1, "coarse_step": 0.12, "step": 0.06})
THRESHOLD_MS = 25.0


def scenario(*feeds: float, ramp_s: float = 0.0) -> Scenario:
    """Stretches of 15 s with these parts of the feed, on two nodes, ten windows."""
    stretches: list[dict[str, Any]] = [
        {
            "duration_s": 15.0,
            "mix": {"feed": feed, "search": 1.0 - feed},
            "capacity_rps_per_node": 150.0,
            "ramp_s": ramp_s,
        }
        for feed in feeds
    ]
    cell = moving.cell("taobao", "trend")
    return cell.replace(
        {
            "nodes": 2,
            "episode.steps": 10,
            "episode.uncounted_s": 5.0,
            "episode.warmup_s": 10.0,
            "workload.regime": {"kind": "course", "stretches": stretches},
        }
    )


def test_a_plan_begins_so_many_whole_windows_after_a_change() -> None:
    found = list(parts(scenario(0.9, 0.1, 0.5, 0.5), 1))
    assert [(part.first, part.end) for part in found] == [(0, 4), (4, 7), (7, 10)]
    assert next(p.end for p in parts(scenario(0.9, 0.1, 0.5, 0.5), 0)) == 3
    late = list(parts(scenario(0.9, 0.1, 0.5, 0.5), 3))
    assert late[-1].end == 10 and late[0].end == 6


def test_what_is_believed_is_the_past_and_then_the_present_for_ever() -> None:
    second = list(parts(scenario(0.9, 0.1, 0.5, 0.5), 1))[1].scenario.workload.regime
    believed: Any = second
    assert [s.mix["feed"] for s in believed.stretches[:2]] == [0.9, 0.1]
    assert believed.stretches[1].duration_s > 1000.0
    ramp: Any = next(parts(scenario(0.9, 0.1, 0.5, 0.5, ramp_s=15.0), 1)).scenario
    first, then = ramp.workload.regime.stretches[:2]
    assert (first.mix["feed"], first.ramp_s) == (0.9, 15.0), "the ramp is known"
    assert (then.mix["feed"], then.ramp_s) == (0.1, 0.0) and then.duration_s > 1000.0


def test_decisions_before_a_change_is_known_do_not_depend_on_it() -> None:
    one = delayed(scenario(0.9, 0.1, 0.5, 0.5), 3, 1, THRESHOLD_MS, QUICK)
    other = delayed(scenario(0.9, 0.7, 0.5, 0.5), 3, 1, THRESHOLD_MS, QUICK)
    assert len(one) == len(other) == 10
    assert one[:4] == other[:4], "the second stretch begins in window 3 and is known in window 4"
    assert one != other
    steps = [abs(b - a) for a, b in zip((0.5, *one), one, strict=False)]
    assert max(steps) <= 0.06 + 1e-9


def test_errors_say_what_is_wrong() -> None:
    with pytest.raises(ConfigError, match="only courses have stretches"):
        list(parts(Scenario.load("taobao-steady"), 1))
    with pytest.raises(ConfigError, match="before it comes"):
        list(parts(scenario(0.9, 0.1), -1))
