"""Replays of logs that users bring, as cells beside the suite: for comparison only.

Users, instants and order are the log's; what a log of few users cannot tell, the popularity of
items, is the profile's. All else is the steady cell's of that data set, whose capacity of half and
half a replay's load refers to.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from helm_gym.config.scenario import Scenario
from helm_gym.config.workload import Replay
from helm_gym.errors import ConfigError, nearest
from helm_gym.spec_grammar import parse_settings
from helm_gym.suites import moving

NAMED = "replay-"
"""What the name of every such cell begins with."""


def steady_base(dataset: str) -> Scenario:
    """The steady cell of the suite under its first router, as a plain stream without a course.

    Args:
        dataset: one of :data:`moving.DATASETS`.
    """
    router = moving.ROUTERS[0]
    cell = moving.frozen_cell(moving.name_of(dataset, "steady", router), router)
    return cell.replace({"workload.regime": {"kind": "steady"}})


def replay_cell(reference: str) -> Scenario:
    """A cell that replays a log, from ``NAME=PATH`` and settings of the replay after commas.

    ``taobao=users.parquet,overlay=270`` replays an interactions log on the steady cell of that data
    set; ``azure=conversations.parquet,base=taobao,kind=arrivals`` takes only instants from a log.

    Args:
        reference: as above. ``base`` is a data set of the suite, by default the name.

    Raises:
        ConfigError: it cannot be read like that.
    """
    form = "NAME=PATH, as in taobao=users.parquet,overlay=270"
    pairs = parse_settings(reference, f"--log {reference}", form)
    if not pairs:
        raise ConfigError(f"--log {reference}: write {form}")
    (name, path), *rest = pairs.items()
    known = ("base", *(field for field in Replay.model_fields if field != "path"))
    settings: dict[str, Any] = dict(rest)
    for key in settings:
        if key not in known:
            raise ConfigError(f"--log {reference}: {key!r} is no setting{nearest(key, known)}")
    datasets = moving.DATASETS
    base = settings.pop("base", name if name in datasets else datasets[0])
    if base not in datasets:
        raise ConfigError(f"--log {reference}: base {base!r}{nearest(base, datasets)}")
    interactions = settings.get("kind", "interactions") == "interactions"
    replay = {"path": path, **({"items": "profile"} if interactions else {}), **settings}
    # Here, so that the error names the option: of texts the model makes the numbers it has.
    said = Replay.parse(replay, f"--log {reference}").model_dump(include=set(replay))
    return steady_base(base).replace(
        {
            "name": f"{NAMED}{name}",
            "description": f"Replays {Path(path).name} on the steady cell of {base}.",
            "workload.replay": said,
        }
    )


def replay_cells(references: Sequence[str]) -> dict[str, Scenario]:
    """:func:`replay_cell` of each, by name.

    Raises:
        ConfigError: one cannot be read, or two have the same name.
    """
    found: dict[str, Scenario] = {}
    for reference in references:
        scenario = replay_cell(reference)
        if scenario.name in found:
            raise ConfigError(f"--log {reference}: a second log of that name; give it another")
        found[scenario.name] = scenario
    return found


def is_replay(scenario: Scenario) -> bool:
    """Whether a scenario is such a cell, as rows and plans know it."""
    return scenario.workload.replay is not None and scenario.name.startswith(NAMED)
