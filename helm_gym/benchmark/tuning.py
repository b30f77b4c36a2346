"""Rules tuned for a suite: once per cell, once per data set and once for all, and what was found.

Everybody gets the same search: the same number of candidates, the same seeds, and streams that go
through the whole course three times faster. Scores of candidates are kept one by one, so a stopped
command goes on, and the searches share them. Tuning is done at one load between the two that are
compared, so that no rule is tuned to the load that it is judged at. Amazon Books tunes nothing but
the searches that name a cell of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

from helm_gym.baselines.registry import BEST, DATASET, SUITE
from helm_gym.config.quantity import Frozen
from helm_gym.config.scenario import Scenario
from helm_gym.errors import ConfigError
from helm_gym.evaluation.common import (
    SCORES,
    Scores,
    first_seeds,
    scores,
    scores_key,
    search_common,
)
from helm_gym.evaluation.search import CHEAP, grid, shortened
from helm_gym.evaluation.specs import HELM_SEARCH, SEARCHES
from helm_gym.files import write_text
from helm_gym.store import Store, open_store
from helm_gym.suites import moving
from helm_gym.suites.splits import HELD_OUT_DATASET

LOAD = 1.0  # halfway between the loads at which there is something to win
TUNED = Path(__file__).parent / "published" / "tuned.json"
NAMES = tuple(s.partition(":")[0] for s in SEARCHES if s != HELM_SEARCH)
"""Rules, and the static share; the controller is judged as it is."""


class Scope(NamedTuple):
    """What one search is made for."""

    name: str  # rule, or static
    word: str  # best, dataset or suite
    where: str  # cell, data set, or nothing
    router: str


class Found(Frozen):
    """What one search found."""

    name: str
    word: str
    where: str
    router: str
    best: str  # spec of the winner
    ratios: dict[str, float]  # of those compared at the end: mean over cells of tail / lowest tail


class Tuned(Frozen):
    """Everything that was tuned."""

    about: str
    found: tuple[Found, ...]

    def spec(self, asked: str, cell: str, router: str) -> str:
        """The spec that a search such as ``mpc:suite`` stands for in a cell.

        Args:
            asked: as a person writes it.
            cell: name.
            router: name.

        Raises:
            ConfigError: it was not tuned.
        """
        found = self.get(asked, cell, router)
        if found is None:
            raise ConfigError(
                f"{asked} is not tuned for {cell} under {router}; run helm-gym tune, or write the "
                "spec of one setting, such as balance:gain=0.6"
            )
        return found

    def get(self, asked: str, cell: str, router: str) -> str | None:
        """The same; None if it was not tuned."""
        name, _, word = asked.rpartition(":")
        where = {BEST: cell, DATASET: dataset_of(cell), SUITE: ""}.get(word, "")
        for one in self.found:
            if (one.name, one.word, one.where, one.router) == (name, word, where, router):
                return one.best
        return None


def dataset_of(cell: str) -> str:
    """The data set in the name of a cell."""
    return next((d for d in moving.DATASETS if d in cell), "")


def scopes(names: Sequence[str], routers: Sequence[str]) -> Iterator[Scope]:
    """Every search that is made; one share for a data set is a yardstick, one rule is none."""
    for router, name in product(routers, names):
        yield Scope(name, SUITE, "", router)
        if name == "static":
            for dataset in moving.DATASETS:
                yield Scope(name, DATASET, dataset, router)
        for cell in moving.CELL_NAMES:
            yield Scope(name, BEST, cell, router)


def cells_of(scope: Scope) -> list[Scenario]:
    """Scenarios that a search is made over."""
    names = [
        cell
        for cell in moving.CELL_NAMES
        if (scope.word == BEST and cell == scope.where)
        or (scope.word == DATASET and dataset_of(cell) == scope.where)
        or (scope.word == SUITE and dataset_of(cell) != HELD_OUT_DATASET)
    ]
    return [_at_load(name, scope.router) for name in names]


def _at_load(cell: str, router: str) -> Scenario:
    return moving.frozen_cell(cell, router).replace({"workload.load": LOAD})


def tune(
    out: Path,
    *,
    names: Sequence[str] = NAMES,
    routers: Sequence[str] = moving.ROUTERS,
    path: Path = TUNED,
    processes: int = 1,
    progress: bool = False,
) -> Tuned:
    """Make all searches that the folder does not have, and write what was found.

    Args:
        out: folder that keeps scores.
        names: what is tuned, of :data:`NAMES`.
        routers: some or all of the suite's.
        path: where to write; what is there of other names or routers stays.
        processes: cells at a time; results do not depend on it.
        progress: show progress bars on stderr.

    Raises:
        ConfigError: no such name, or the folder cannot be written.
        PolicyError: a candidate failed.
    """
    for name in names:
        if name not in NAMES:
            raise ConfigError(f"{name!r} is not tuned; write some of {', '.join(NAMES)}")
    with open_store(out, SCORES) as store:
        for router, name in product(routers, names):
            _first_look(store, name, router, processes, progress)
            found = [_search(s, store, processes, progress) for s in scopes([name], [router])]
            _keep(path, found)
    return load_tuned(path)


def _first_look(
    store: Store[Scores], name: str, router: str, processes: int, progress: bool
) -> None:
    """Every candidate on the first seed of every cell, side by side: all searches share it."""
    jobs = {}
    for cell in moving.CELL_NAMES:
        scenario, _ = shortened(_at_load(cell, router), CHEAP)
        specs, seeds = grid(scenario, f"{name}:{BEST}"), first_seeds(CHEAP)
        jobs[scores_key(scenario.digest(), specs, seeds)] = (scenario, tuple(specs), seeds)
    title = f"{name}, {router}"
    store.complete(jobs, scores, processes=processes, title=title, progress=progress)


def _search(scope: Scope, store: Store[Scores], processes: int, progress: bool) -> Found:
    found = search_common(
        cells_of(scope), f"{scope.name}:{SUITE}", CHEAP, store=store, processes=processes,
        progress=progress,
    )  # fmt: skip
    return Found(**scope._asdict(), best=found.best, ratios=found.ratios)


def _keep(path: Path, more: Sequence[Found]) -> None:
    """Write what was found into the file, in the place of what was found before."""

    def scope(one: Found) -> tuple[str, str, str, str]:
        return one.router, one.name, one.word, one.where

    known = {scope(one): one for one in load_tuned(path).found} if path.is_file() else {}
    known |= {scope(one): one for one in more}
    about = (
        f"helm-gym tune: load {LOAD:g}, courses {CHEAP.faster:g} times faster, seeds "
        f"{CHEAP.seeds[0]} to {CHEAP.seeds[-1]}"
    )
    written = Tuned(about=about, found=tuple(known[key] for key in sorted(known)))
    write_text(path, json.dumps(written.model_dump(mode="json"), indent=1) + "\n")


def load_tuned(path: Path = TUNED) -> Tuned:
    """Read what was tuned.

    Raises:
        ConfigError: the file is missing or is none of :func:`tune`.
    """
    if not path.is_file():
        raise ConfigError(f"{path} is missing; run helm-gym tune")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path}: is not JSON ({error})") from None
    return Tuned.parse(data, str(path))
