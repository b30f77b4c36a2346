"""What is for training, what for validation and what for test: seeds and scenarios, disjoint.

Seeds are split for everybody. Scenarios are split for whatever is trained once and used in many
cells: those of one data set are held out, in all regimes, and so are the cells beside the suite of
:mod:`helm_gym.suites.heldout`, of whatever data set. Searches such as ``static:best`` are
tuned for a cell by definition, so they see it, but only on validation seeds: they are yardsticks
that know the cell, and a trained policy that does not has to come near them. No data set is for
validation alone: a policy is chosen where it was trained, on validation seeds.

Replays of real logs, which the suite has not, are held out too: :mod:`helm_gym.suites.replays`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

from helm_gym.config.scenario import Scenario
from helm_gym.console import make_table
from helm_gym.errors import ConfigError
from helm_gym.policy import card_of
from helm_gym.suites import heldout, moving
from helm_gym.suites.replays import is_replay
from helm_gym.suites.seeds import EVALUATION_SEEDS, SCORE_SEEDS, TRAINING_SEEDS, TUNING_SEEDS

if TYPE_CHECKING:
    from rich.table import Table

HELD_OUT_DATASET = "amazon-books"


@dataclass(frozen=True)
class Split:
    """One of the three."""

    name: str
    seeds: range
    scenarios: tuple[str, ...]
    use: str


def _cells(datasets: Collection[str]) -> tuple[str, ...]:
    """Files of those data sets, in all regimes and under all routers of the suite."""
    return tuple(moving.name_of(*cell) for cell in moving.CELLS if cell[0] in datasets)


TRAINING = Split(
    "training",
    TRAINING_SEEDS,
    _cells([name for name in moving.DATASETS if name != HELD_OUT_DATASET]),
    "policies learn from these",
)
VALIDATION = Split(
    "validation",
    TUNING_SEEDS,
    (),
    "hyper-parameters and early stopping, in cells for training; searches, in any cell",
)
TEST = Split(
    "test",
    EVALUATION_SEEDS,
    (*_cells([HELD_OUT_DATASET]), *(heldout.name_of(*cell) for cell in heldout.CELLS)),
    "comparisons only",
)
SPLITS = (TRAINING, VALIDATION, TEST)
"""Cells of training are compared too, on test seeds; those of test are held out."""


def substance(scenario: Scenario) -> str:
    """16 hex digits of what a scenario is, whatever its name, load, router and episode length.

    A policy that was trained at load 0.9 has seen the scenario at 0.95 as well, though the digests
    of the two differ.
    """
    data = scenario.to_dict()
    for name in ("name", "version", "description", "router", "episode"):
        del data[name]
    del data["workload"]["load"]
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]


def held_out(scenario: Scenario) -> bool:
    """Whether training and validation never see this scenario."""
    return is_replay(scenario) or scenario.name in TEST.scenarios


def check_splits(splits: Sequence[Split] = SPLITS) -> None:
    """Prove that no seed and no scenario is in two splits.

    Raises:
        ConfigError: one is; the message names it.
    """
    known = {name: substance(Scenario.load(name)) for split in splits for name in split.scenarios}
    for a, b in combinations(splits, 2):
        low, high = max(a.seeds.start, b.seeds.start), min(a.seeds.stop, b.seeds.stop)
        if low < high:
            raise ConfigError(
                f"seeds {low} to {high - 1} are in {a.name} and in {b.name}; give each split its "
                "own range"
            )
        for name, other in ((x, y) for x in a.scenarios for y in b.scenarios):
            if known[name] == known[other]:
                raise ConfigError(
                    f"{name} ({a.name}) and {other} ({b.name}) are the same scenario but for name, "
                    "load, router and episode; keep it in one split"
                )


def check_frozen(scenarios: Mapping[str, Scenario]) -> None:
    """Prove that cells of the suite, and those held out beside it, are those that were frozen.

    Args:
        scenarios: by name, as loaded, before anything was replaced.

    Raises:
        ConfigError: a file of the suite was changed.
    """
    frozen = moving.frozen() | heldout.frozen()
    for name, scenario in scenarios.items():
        if name in frozen and scenario.digest() != frozen[name]:
            raise ConfigError(
                f"{name} has digest {scenario.digest()}, but its suite was frozen with "
                f"{frozen[name]}: its rows would not compare with anybody's; restore the file, or "
                "give the changed scenario another name"
            )


def check_test_seeds(seeds: Sequence[int]) -> None:
    """Refuse to compare on seeds that training or a search may have seen.

    Raises:
        ConfigError: a seed is in another split, or in none.
    """
    for seed in seeds:
        if seed not in TEST.seeds:
            where = [split.name for split in SPLITS if seed in split.seeds]
            where += ["helm-gym score"] if seed in SCORE_SEEDS else ["measuring capacities"]
            raise ConfigError(
                f"seed {seed} is for {where[0]}: a comparison on it would reward what was seen "
                f"before; use {TEST.seeds.start} to {TEST.seeds.stop - 1}"
            )


def check_training(scenario: str, seeds: Sequence[int], spec: str = "training") -> None:
    """Refuse training on what is held out.

    Args:
        scenario: name of the one that is trained on; a name that no split has is allowed.
        seeds: of its clusters.
        spec: what is trained, for the message.

    Raises:
        ConfigError: the scenario or a seed belongs to validation or test.
    """
    for split in (VALIDATION, TEST):
        if scenario in split.scenarios:
            raise ConfigError(
                f"{spec}: trained on {scenario}, which is for {split.name}; train on one of "
                f"{moving.PREFIX}-NAME, NAME being {', '.join(_short(TRAINING.scenarios))}, or on "
                "a scenario outside the suite"
            )
        wrong = [seed for seed in seeds if seed in split.seeds]
        if wrong:
            raise ConfigError(
                f"{spec}: trained on seed {wrong[0]}, which is for {split.name}; train with seeds "
                f"below {TRAINING.seeds.stop}"
            )


def check_policy(spec: str, policy: Any, planned: Mapping[str, str]) -> None:
    """Refuse a trained policy whose model file says that it has seen what is held out.

    Args:
        spec: names it in the message.
        policy: one with a ``card``, as ``ppo:`` policies have, or any other, which says nothing.
        planned: name by digest of the held-out scenarios that will be compared on.
    """
    card = card_of(policy)
    if card is None:
        return
    check_training(str(card.scenario), [int(card.seed)], spec)
    if card.scenario_digest in planned:
        raise ConfigError(
            f"{spec}: trained on {planned[card.scenario_digest]}, under the name {card.scenario}; "
            "it is held out"
        )


def split_table() -> Table:
    """The splits, for people."""
    rows = [
        (
            split.name,
            f"{split.seeds.start}-{split.seeds.stop - 1}",
            "\n".join(_short(split.scenarios)),
            split.use,
        )
        for split in SPLITS
    ]
    title = f"Splits of {moving.PREFIX}, every cell under all of its routers"
    return make_table(("split", "seeds", "scenarios", "for"), rows, title=title, left=4)


def _short(names: Sequence[str]) -> Iterator[str]:
    """Cells without the suite's name, once and not once per router."""
    shown = (*moving.CELL_NAMES, *heldout.CELL_NAMES)
    cells = (name for name in names if name in shown)
    return (name.removeprefix(f"{moving.PREFIX}-") for name in cells)
