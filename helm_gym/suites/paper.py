"""The paper suite: nine frozen cells, three data sets in three regimes, and how they were chosen.

Everything but the data set and the regime is the same in all nine, and nothing is chosen for what a
policy does: the table is in proportion to the data set's published catalogue, and the one free
number, the candidates of the search surface, is the one that puts the optima of most steady cells
inside the range of shares and, of several, their mean nearest to its middle. :func:`freeze`
measures, chooses and writes the files.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from helm_gym.baselines.static import share_grid
from helm_gym.config.scenario import SCENARIOS, Episode, Router, Scenario
from helm_gym.config.workload import PROFILES
from helm_gym.errors import ConfigError
from helm_gym.files import write_text
from helm_gym.processes import worker_pool
from helm_gym.suites.capacity import Probe, basin, best_share

VERSION = 1
PREFIX = f"paper-v{VERSION}"
DATASETS = ("taobao", "amazon-books", "amazon-video-games")
REGIMES = ("steady", "trend", "burst")
LOAD = 0.95
LOADS = (0.7, 0.9, 0.95)
CATALOGUES = {"taobao": 4_162_024, "amazon-books": 2_330_066, "amazon-video-games": 50_210}
"""Items of the whole data sets as published (Tianchi; Amazon 2014), not of the filtered subsets."""
ANCHOR_GB = 200.0  # Taobao's table, as in taobao-shift
TABLE_GB = (20.0, 1000.0)  # the range that every scenario assumes
CANDIDATES = (512, 1024, 2048, 3072, 4096)  # of the search surface; the feed's are the base's
MIDDLE = 0.5
CHOICE_SEEDS = (30_000, 30_001)
PROOF_SEEDS = (30_100, 30_101, 30_102)
DIGESTS = SCENARIOS / f"{PREFIX}.sha"
BASE = "taobao-shift"
GRID = share_grid(0.1, 0.9, 0.1)
FINE = share_grid(0.1, 0.9, 0.05)


@dataclass(frozen=True)
class Cell:
    """One of the nine."""

    dataset: str
    regime: str

    @property
    def name(self) -> str:
        """Of its scenario."""
        return f"{PREFIX}-{self.dataset}-{self.regime}"


CELLS = tuple(Cell(dataset, regime) for dataset in DATASETS for regime in REGIMES)


def table_gb(dataset: str) -> float:
    """A node's slice of the table: in proportion to the catalogue, inside the assumed range."""
    size = ANCHOR_GB * CATALOGUES[dataset] / CATALOGUES["taobao"]
    return float(f"{min(max(size, TABLE_GB[0]), TABLE_GB[1]):.3g}")


def regime_of(name: str) -> dict[str, Any]:
    """Settings of a regime; where its numbers come from is in the shipped file of that regime."""
    shipped = Scenario.load(f"taobao-{name}").workload.regime.model_dump(mode="json")
    if name == "trend":  # from mostly feed to mostly search
        shipped["mix_end"] = {"feed": 1.0, "search": 3.0}
    return shipped


def draft(cell: Cell, candidates: int) -> dict[str, Any]:
    """A cell's scenario as plain data, its capacity still to be measured."""
    data = Scenario.load(BASE).to_dict()
    low, high = TABLE_GB
    data |= {"name": cell.name, "version": VERSION, "description": describe(cell)}
    data["emb"]["table_gb"] = {
        "value": table_gb(cell.dataset), "unit": "GB", "assumed": True, "low": low, "high": high,
        "source": f"assumed: Taobao's 200 GB times this catalogue over Taobao's, within {low:g} to "
                  f"{high:g}",
    }  # fmt: skip
    work = data["workload"]
    work["profile"] = cell.dataset
    search = work["surfaces"][1]
    search["candidates"] |= {
        "value": float(candidates),
        "source": "assumed: chosen by helm-gym suite freeze, the same for all data sets",
    }
    work["mix"] = {"feed": 3.0, "search": 1.0} if cell.regime == "trend" else {
        "feed": 1.0, "search": 1.0,
    }  # fmt: skip
    work["regime"] = regime_of(cell.regime)
    work["load"] = LOAD
    work["capacity_rps_per_node"] = {"value": 100.0, "unit": "requests/s", "source": "to measure"}
    return data


def describe(cell: Cell) -> str:
    """A cell's description."""
    what = {
        "steady": "an unchanging half and half mix of two surfaces",
        "trend": "a rate that follows an evening 75 times faster than the clock, while the mix "
        "moves from three in four requests on the feed to three in four on search and interests "
        "drift",
        "burst": "bursts of 10 to 30 s at 1.7 times the base rate, half of what they add from new "
        "users, half on a few hot items",
    }[cell.regime]
    return (
        f"Paper suite, version {VERSION}: {cell.dataset}, {what}. Load is a fraction of the "
        "highest base rate that the best static share carries in this very regime (P99 of all "
        "arrivals within the SLO). Eight nodes, so that a policy trains in minutes; HELM's cluster "
        "has 32. Frozen: a change makes a new version."
    )


def probe(scenario: Scenario, seeds: Sequence[int]) -> Probe:
    """Measures whole episodes, from the beginning of the schedule."""
    episode = scenario.episode
    return Probe(scenario, seeds, episode.step_s * episode.steps)


def _steady_optimum(job: tuple[str, int]) -> float:
    dataset, candidates = job
    scenario = Scenario.parse(draft(Cell(dataset, "steady"), candidates), "suite")
    found = Probe(scenario, CHOICE_SEEDS, 60.0).capacities(GRID, 120.0)
    # A share that carries nothing is no optimum; a data set that no share serves has none.
    return best_share(found, highest=True) if max(found.values()) > 0.0 else float("nan")


def choose_candidates(pool: Mapper) -> tuple[int, dict[int, list[float]]]:
    """The candidates of the search surface, and the steady optima that each choice leads to."""
    jobs = [(dataset, count) for count in CANDIDATES for dataset in DATASETS]
    optima = list(pool(_steady_optimum, jobs))
    n = len(DATASETS)
    table = {c: optima[i * n : (i + 1) * n] for i, c in enumerate(CANDIDATES)}
    usable = {c: o for c, o in table.items() if all(x == x for x in o)}
    if not usable:
        raise ConfigError("no number of candidates lets every data set meet its SLO")
    return min(usable, key=lambda c: _preference(usable[c])), table


def _preference(optima: Sequence[float]) -> tuple[int, float]:
    """Fewest optima at an end of the range first, then the mean nearest to its middle."""
    at_an_end = sum(not GRID[0] < optimum < GRID[-1] for optimum in optima)
    return at_an_end, abs(sum(optima) / len(optima) - MIDDLE)


def _measured(job: tuple[Cell, int, str]) -> dict[str, Any]:
    cell, candidates, date = job
    return with_capacity(draft(cell, candidates), "suite freeze", date)


def freeze(
    folder: Path = SCENARIOS, *, jobs: int = 2, say: Callable[[str], None] = print
) -> list[Path]:
    """Measure, choose and write the nine files and the table of their digests.

    Args:
        folder: where to.
        jobs: processes.
        say: told what is done.

    Raises:
        ConfigError: the folder cannot be written, or a cell cannot be served.
    """
    date = today()
    with mapper(jobs) as pool:
        say("choosing the candidates from the steady cells")
        candidates, table = choose_candidates(pool)
        for count, optima in table.items():
            mark = " *" if count == candidates else ""
            say(f"  {count} candidates: optima {', '.join(f'{x:g}' for x in optima)}{mark}")
        say("measuring the capacity of the nine cells")
        measured = list(pool(_measured, [(cell, candidates, date) for cell in CELLS]))
    return write_frozen(measured, folder, DIGESTS.name)


def today() -> str:
    """The date in UTC, as files name it."""
    return datetime.datetime.now(datetime.timezone.utc).date().isoformat()


def write_frozen(cells: Sequence[Mapping[str, Any]], folder: Path, digests: str) -> list[Path]:
    """Write the scenario files of a suite and the table of their digests.

    Args:
        cells: scenarios as plain data.
        folder: where to.
        digests: name of the table's file.

    Returns:
        The scenario files.

    Raises:
        ConfigError: the folder cannot be written.
    """
    written = [folder / f"{data['name']}.yaml" for data in cells]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, data in zip(written, cells, strict=True):
            write_text(path, as_file(data))
        lines = [f"{Scenario.load(str(path)).digest()}  {path.stem}\n" for path in written]
        write_text(folder / digests, "".join(lines))
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written ({error.strerror or error})") from None
    return written


def with_capacity(data: dict[str, Any], command: str, date: str) -> dict[str, Any]:
    """A cell with its capacity as measured in its own regime, and where that comes from."""
    top, carried = top_of(Scenario.parse(data, "suite"))
    alike = basin(carried, highest=True)
    data["workload"]["capacity_rps_per_node"] = {
        "value": top,
        "unit": "requests/s",
        "source": f"helm-gym {command}, {date}: highest base rate in this regime over whole "
        f"episodes; best static share {best_share(carried, highest=True):g} "
        f"({alike[0]:g} to {alike[-1]:g} within 2 %)",
    }
    return data


def top_of(scenario: Scenario) -> tuple[float, dict[float, float]]:
    """Highest rate that a static share carries, to three digits, and that of every share.

    Raises:
        ConfigError: none meets the SLO at any rate.
    """
    carried = probe(scenario, CHOICE_SEEDS).capacities(GRID, 100.0)
    top = max(carried.values())
    if top <= 0.0:
        raise ConfigError(f"{scenario.name}: no static share meets the SLO at any rate")
    return float(f"{top:.3g}"), carried


def as_file(data: Mapping[str, Any]) -> str:
    """A scenario as YAML that leaves out what is a preset or a default."""
    kept = {k: v for k, v in data.items() if k not in ("kv", "refill", "router", "structure_seed")}
    router = data["router"]["name"]
    if router != Router().name:
        kept["router"] = {"name": router}
    kept["hardware"] = {k: v["name"] for k, v in data["hardware"].items()}
    profile = kept["workload"]["profile"]
    if not (PROFILES / f"{profile}.yaml").is_file():
        raise ConfigError(f"suite: profile {profile!r} is not shipped")
    episode = data["episode"]
    always = ("step_s", "steps", "warmup_s")
    kept["episode"] = {
        name: episode[name]
        for name, usual in Episode.model_fields.items()
        if name in always or episode.get(name, usual.default) != usual.default
    }
    return "# Written by helm-gym suite freeze.\n" + yaml.safe_dump(
        _without_nothing(kept), sort_keys=False, allow_unicode=True, width=110
    )


def _without_nothing(value: Any) -> Any:
    """Leave out what is None or a false flag: absence means the same."""
    if isinstance(value, Mapping):
        return {
            k: _without_nothing(v) for k, v in value.items() if v is not None and v is not False
        }
    return [_without_nothing(v) for v in value] if isinstance(value, (list, tuple)) else value


def pinned(path: Path = DIGESTS) -> dict[str, str]:
    """Digest of every frozen cell, by name."""
    if not path.is_file():
        raise ConfigError(f"{path}: the suite is not frozen; run helm-gym suite freeze")
    rows = (line.split() for line in path.read_text(encoding="utf-8").splitlines())
    return {name: digest for digest, name in rows}


Mapper = Callable[[Callable[[Any], Any], Sequence[Any]], Iterator[Any]]


@contextmanager
def mapper(jobs: int) -> Iterator[Mapper]:
    """``map`` over so many processes; none but this one if it is one."""
    if jobs == 1:
        yield lambda f, items: map(f, items)
        return
    with worker_pool(jobs) as pool:
        yield lambda f, items: pool.map(f, items)
