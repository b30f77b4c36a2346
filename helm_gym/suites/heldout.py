"""The held-out suite: drifts and replays of real logs, for comparison only, never for training.

Three frozen cells take the data sets of the paper suite through sudden flips of the surface mix,
a change that none of its regimes has; each half is loaded in proportion to what its best static
share carries, so that neither half decides alone. Replays come from logs that a user brings:
users, instants and order are the log's; what a log of few users cannot tell, the popularity of
items, is the profile's. Versioned like the paper suite: a change makes a new version.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from helm_gym.config.scenario import SCENARIOS, Scenario
from helm_gym.config.workload import Replay
from helm_gym.errors import ConfigError, nearest
from helm_gym.files import write_text
from helm_gym.suites.paper import (
    CHOICE_SEEDS,
    DATASETS,
    GRID,
    LOAD,
    PREFIX,
    as_file,
    mapper,
    pinned,
    probe,
)
from helm_gym.suites.probe import basin, best_share

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


def _top(scenario: Scenario) -> tuple[float, dict[float, float]]:
    """Highest rate that a static share carries, and that of every share."""
    found = probe(scenario, CHOICE_SEEDS).capacities(GRID, 100.0)
    top = max(found.values())
    if top <= 0.0:
        raise ConfigError(f"{scenario.name}: no static share meets the SLO at any rate")
    return float(f"{top:.3g}"), found


def _measured(job: tuple[str, str]) -> dict[str, Any]:
    dataset, date = job
    halves = {
        name: _top(base_of(dataset).replace({"workload.mix": dict(mix)}))[0]
        for name, mix in HALVES.items()
    }
    data = flips(dataset, halves, f"helm-gym suite freeze --held-out, {date}: this mix alone")
    top, found = _top(Scenario.parse(data, "held-out suite"))
    alike = basin(found, highest=True)
    data["workload"]["capacity_rps_per_node"] = {
        "value": top,
        "unit": "requests/s",
        "source": f"helm-gym suite freeze --held-out, {date}: highest base rate in this regime "
        f"over whole episodes; best static share {best_share(found, highest=True):g} "
        f"({alike[0]:g} to {alike[-1]:g} within 2 %)",
    }
    return data


def freeze(folder: Path = SCENARIOS, *, jobs: int = 2) -> list[Path]:
    """Measure the capacities and write the three files and the table of their digests.

    Args:
        folder: where to.
        jobs: processes.

    Raises:
        ConfigError: the folder cannot be written, or a cell cannot be served.
    """
    date = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    with mapper(jobs) as pool:
        measured = list(pool(_measured, [(dataset, date) for dataset in DATASETS]))
    written, digests = [], {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for data in measured:
            path = folder / f"{data['name']}.yaml"
            write_text(path, as_file(data))
            digests[data["name"]] = Scenario.load(str(path)).digest()
            written.append(path)
        write_text(folder / DIGESTS.name, "".join(f"{d}  {n}\n" for n, d in digests.items()))
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written ({error.strerror or error})") from None
    return written


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
    first, *rest = (part.strip() for part in reference.split(","))
    name, equals, path = (part.strip() for part in first.partition("="))
    if not (name and equals and path):
        raise ConfigError(
            f"--log {reference}: write NAME=PATH, as in taobao=users.parquet,overlay=270"
        )
    settings = dict(_setting(reference, pair) for pair in rest)
    base = settings.pop("base", name if name in DATASETS else DATASETS[0])
    if base not in DATASETS:
        raise ConfigError(f"--log {reference}: base {base!r}{nearest(str(base), DATASETS)}")
    interactions = settings.get("kind", "interactions") == "interactions"
    replay = {"path": path, **({"items": "profile"} if interactions else {}), **settings}
    label = f"{HELD_OUT}-{name}-replay"
    return base_of(str(base)).replace(
        {
            "name": label,
            "version": VERSION,
            "description": f"Held-out suite, version {VERSION}: replays {Path(path).name}.",
            "workload.load": LOAD,
            "workload.replay": replay,
        }
    )


def _setting(reference: str, pair: str) -> tuple[str, Any]:
    key, equals, value = (part.strip() for part in pair.partition("="))
    known = ("base", *(field for field in Replay.model_fields if field != "path"))
    if not equals or key not in known:
        raise ConfigError(f"--log {reference}: {pair!r} is no setting{nearest(key, known)}")
    if key in ("overlay", "compression"):
        try:
            return key, (int if key == "overlay" else float)(value)
        except ValueError:
            raise ConfigError(f"--log {reference}: {key} needs a number, got {value!r}") from None
    return key, value


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
