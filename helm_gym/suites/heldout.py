"""The held-out suite: drifts and replays of real logs, for comparison only, never for training.

Three frozen cells take the data sets of the paper suite through sudden flips of the surface mix,
a change that none of its regimes has; each half is loaded in proportion to what its best static
share carries, so that neither half decides alone. Replays come from logs that a user brings:
users, instants and order are the log's; what a log of few users cannot tell, the popularity of
items, is the profile's. Versioned like the paper suite: a change makes a new version.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from helm_gym.config.scenario import SCENARIOS, Scenario
from helm_gym.config.workload import Replay
from helm_gym.errors import ConfigError, nearest
from helm_gym.spec_grammar import parse_settings
from helm_gym.suites.paper import (
    DATASETS,
    LOAD,
    PREFIX,
    mapper,
    pinned,
    today,
    top_of,
    with_capacity,
    write_frozen,
)

VERSION = 1
HELD_OUT = f"heldout-v{VERSION}"
DIGESTS = SCENARIOS / f"{HELD_OUT}.sha"
REGIME = "flips"
CELLS = tuple(f"{HELD_OUT}-{dataset}-{REGIME}" for dataset in DATASETS)
HALVES: Mapping[str, Mapping[str, float]] = {
    "mostly feed": {"feed": 3.0, "search": 1.0},
    "mostly search": {"feed": 1.0, "search": 3.0},
}
HALF_S = 120.0  # assumed: longer than a cache takes to follow, and five flips in ten minutes
DESCRIPTION = (
    "Held-out suite, version {version}: {dataset}, whose surface mix flips every two minutes from "
    "three in four requests on the feed to three in four on search and back, without a ramp. Real "
    "mixes drift over hours: this is a stress test. Load is a fraction of the highest base rate "
    "that the best static share carries in this very regime (P99 of all arrivals within the SLO). "
    "For comparison only: no policy may be trained or tuned on it but searches that name a cell."
)


def base_of(dataset: str) -> Scenario:
    """The steady cell of the paper suite that a held-out cell differs from."""
    return Scenario.load(f"{PREFIX}-{dataset}-steady")


def flips(dataset: str, capacities: Mapping[str, float], source: str) -> dict[str, Any]:
    """A cell of flips as plain data, its own capacity still that of the steady cell.

    Args:
        dataset: whose profile.
        capacities: requests/s per node that the best static share of each half carries.
        source: of these.
    """
    data = base_of(dataset).to_dict()
    data |= {
        "name": f"{HELD_OUT}-{dataset}-{REGIME}",
        "version": VERSION,
        "description": DESCRIPTION.format(version=VERSION, dataset=dataset),
    }
    phases = [
        {
            "duration_s": HALF_S,
            "mix": dict(mix),
            "capacity_rps_per_node": {
                "value": capacities[name], "unit": "requests/s", "source": source,
            },
        }
        for name, mix in HALVES.items()
    ]  # fmt: skip
    work = data["workload"]
    work["profile"] = dataset
    work["mix"] = dict(next(iter(HALVES.values())))
    work["load"] = LOAD
    work["regime"] = {"kind": "phases", "ramp_s": 0.0, "phases": phases}
    return data


def _measured(job: tuple[str, str]) -> dict[str, Any]:
    dataset, date = job
    halves = {
        name: top_of(base_of(dataset).replace({"workload.mix": dict(mix)}))[0]
        for name, mix in HALVES.items()
    }
    command = "suite freeze --held-out"
    data = flips(dataset, halves, f"helm-gym {command}, {date}: this mix alone")
    return with_capacity(data, command, date)


def freeze(folder: Path = SCENARIOS, *, jobs: int = 2) -> list[Path]:
    """Measure the capacities and write the three files and the table of their digests.

    Args:
        folder: where to.
        jobs: processes.

    Raises:
        ConfigError: the folder cannot be written, or a cell cannot be served.
    """
    with mapper(jobs) as pool:
        measured = list(pool(_measured, [(dataset, today()) for dataset in DATASETS]))
    return write_frozen(measured, folder, DIGESTS.name)


def cells() -> dict[str, Scenario]:
    """The frozen cells by name."""
    return {name: Scenario.load(name) for name in CELLS}


def frozen() -> dict[str, str]:
    """Digest of every frozen cell, by name."""
    return pinned(DIGESTS)


def replay_cell(reference: str) -> Scenario:
    """A cell that replays a log, from ``NAME=PATH`` and settings of the replay after commas.

    ``taobao=users.parquet,overlay=270`` replays an interactions log on the steady cell of that data
    set; ``azure=conversations.parquet,base=taobao,kind=arrivals`` takes only instants from a log.

    Args:
        reference: as above. ``base`` is a data set of the paper suite, by default the name.

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
    base = settings.pop("base", name if name in DATASETS else DATASETS[0])
    if base not in DATASETS:
        raise ConfigError(f"--log {reference}: base {base!r}{nearest(base, DATASETS)}")
    interactions = settings.get("kind", "interactions") == "interactions"
    replay = {"path": path, **({"items": "profile"} if interactions else {}), **settings}
    # Here, so that the error names the option: of texts the model makes the numbers it has.
    said = Replay.parse(replay, f"--log {reference}").model_dump(include=set(replay))
    label = f"{HELD_OUT}-{name}-replay"
    return base_of(base).replace(
        {
            "name": label,
            "version": VERSION,
            "description": f"Held-out suite, version {VERSION}: replays {Path(path).name}.",
            "workload.load": LOAD,
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
