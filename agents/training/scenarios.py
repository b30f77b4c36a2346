"""The scenarios that one policy is trained on, at which loads, and how clusters are shared out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

from pydantic import Field

from helm_gym.agents.training.draws import Job, draw_all
from helm_gym.agents.training.randomise import LOAD
from helm_gym.config.quantity import Frozen
from helm_gym.config.scenario import Scenario
from helm_gym.errors import CheckpointError, ConfigError, nearest
from helm_gym.suites import moving
from helm_gym.suites import splits as bench_splits

ALIKE = ("nodes", "episode.steps", "episode.step_s", "episode.share_min", "episode.share_max")
"""What all scenarios that one policy is trained on have in common."""


class Suite(Frozen):
    """Scenarios to train on, others to choose the best weights on, and the loads of both."""

    name: str
    training: tuple[str | dict[str, Any], ...] = Field(min_length=1)  # names, files or mappings
    validation: tuple[str | dict[str, Any], ...] = ()
    loads: tuple[float, ...] = Field(default=moving.LOADS, min_length=1)

    @classmethod
    def load(cls, reference: str | Mapping[str, Any]) -> Suite:
        """A suite by name, or from a mapping.

        Raises:
            ConfigError: there is no such suite, or the mapping is none.
        """
        if not isinstance(reference, str):
            return cls.parse(reference, "suite")
        if reference not in SUITES:
            raise ConfigError(f"suite {reference!r} does not exist{nearest(reference, SUITES)}")
        return SUITES[reference]

    def check(self, seeds: Sequence[int], overrides: Mapping[str, Any]) -> None:
        """Refuse to train on what is held out, whatever it is called.

        Args:
            seeds: of the training clusters.
            overrides: dotted paths that are replaced in every scenario.

        Raises:
            ConfigError: a scenario or a seed belongs to another split, or a file was changed.
        """
        training = [Scenario.load(scenario) for scenario in self.training]
        validation = [Scenario.load(scenario) for scenario in self.validation]
        for scenario in training:
            bench_splits.check_training(scenario.name, seeds, f"suite {self.name}")
        bench_splits.check_frozen({s.name: s for s in (*training, *validation)})
        test = _substances(bench_splits.TEST.scenarios)
        for scenario in validation:
            if bench_splits.held_out(scenario):
                raise ConfigError(
                    f"suite {self.name}: chooses weights on {scenario.name}, which is held out; "
                    f"use one of {', '.join(_CELLS)}"
                )
        for use, scenarios in (("trains", training), ("chooses weights", validation)):
            for scenario in scenarios:
                changed = scenario.replace(overrides)
                held_out = test.get(bench_splits.substance(changed))
                if held_out:
                    raise ConfigError(
                        f"suite {self.name}: {use} on {scenario.name}, which is {held_out} but "
                        "for name, load, router and episode; leave it out"
                    )


_CELLS = tuple(name for name in bench_splits.TRAINING.scenarios if name in moving.CELL_NAMES)
"""Cells for training, once and not once per router: those under the suite's first router."""
SUITES = {"paper": Suite(name=moving.PREFIX, training=_CELLS, validation=_CELLS)}
"""Validation plays the cells that were trained on, with seeds of its own."""


class Part(Frozen):
    """Clusters of one scenario."""

    scenario: str | dict[str, Any]  # as stated
    changes: dict[str, Any]  # dotted paths: load, overrides, and what randomisation drew
    scenario_digest: str  # with the changes
    clusters: int = Field(gt=0)

    @classmethod
    def of(cls, reference: str | dict[str, Any], changes: Mapping[str, Any], clusters: int) -> Part:
        """Clusters of a scenario with changes."""
        digest = Scenario.load(reference).replace(changes).digest()
        return cls(
            scenario=reference, changes=dict(changes), scenario_digest=digest, clusters=clusters
        )

    def load(self) -> Scenario:
        """The scenario with its changes.

        Raises:
            CheckpointError: it is not what it was when the run began.
        """
        scenario = Scenario.load(self.scenario).replace(self.changes)
        if scenario.digest() != self.scenario_digest:
            raise CheckpointError(
                f"scenario {scenario.name} has digest {scenario.digest()}, but the run began with "
                f"{self.scenario_digest}: its file or its presets were changed since. Undo that, "
                "or begin a new run"
            )
        return scenario


class TrainingSet(Frozen):
    """A suite as one run trains on it; decides the run's results."""

    name: str  # of the suite
    spread: float  # of domain randomisation; 0: the scenarios as stated
    training: tuple[Part, ...]
    validation: tuple[Part, ...]

    @cached_property
    def scenarios(self) -> tuple[Scenario, ...]:
        """What is trained on, one per part."""
        return tuple(part.load() for part in self.training)

    @property
    def scenario_digest(self) -> str:
        """16 hex digits of everything that is trained on."""
        text = " ".join(f"{part.clusters}x{part.scenario_digest}" for part in self.training)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def check(self) -> None:
        """Raise a :class:`ConfigError` if one network cannot serve all scenarios."""
        first, *others = (*self.scenarios, *(part.load() for part in self.validation))
        for other in others:
            for path in ALIKE:
                one, two = _at(first, path), _at(other, path)
                if one != two:
                    raise ConfigError(
                        f"suite {self.name}: {first.name} has {path} {one:g}, {other.name} {two:g};"
                        f" give all the same, for example with --set {path}={one:g}"
                    )


def training_set(
    suite: Suite,
    *,
    clusters: int,
    validation_clusters: int,
    group: int,
    overrides: Mapping[str, Any],
    spread: float,
    seed: int,
    threads: int,
    drawn: float = 1.0,
    draws: Path | None = None,
    progress: bool = False,
) -> TrainingSet:
    """Share clusters out over the scenarios and loads of a suite.

    Without randomisation every scenario at every load gets as many clusters as the others, or one
    group more. With it, every group of clusters is a scenario of its own, drawn from a stated one,
    or with ``drawn`` below 1 that part of them, and the rest is as without.

    Args:
        suite: what to train on.
        clusters: in training.
        validation_clusters: in validation, which is never randomised.
        group: clusters that share a request stream, so a scenario too.
        overrides: dotted paths to replace in every scenario.
        spread: of domain randomisation, 0 for none.
        seed: of the draws.
        threads: draws at the same time, each in a process; results do not depend on it.
        drawn: part of the clusters whose scenarios are drawn, where there is a spread.
        draws: folder that keeps what was drawn; None keeps nothing.
        progress: show a progress bar while drawing.

    Raises:
        ConfigError: there are fewer clusters than scenarios and loads, or no draw can be used.
    """
    if spread and LOAD in overrides:
        raise ConfigError(f"{LOAD} is drawn by randomisation; leave it out, or randomise nothing")
    loads = suite.loads if LOAD not in overrides else (overrides[LOAD],)
    pairs = [(own, {**overrides, LOAD: load}) for own, load in product(suite.training, loads)]
    judged = [(own, {**overrides, LOAD: load}) for own, load in product(suite.validation, loads)]
    randomised = round(drawn * (clusters // group)) if spread else 0
    jobs = [
        Job(
            scenario=suite.training[number % len(suite.training)],
            overrides=dict(overrides),
            spread=spread,
            seed=(seed, number),
        )
        for number in range(randomised)
    ]
    stated = clusters - randomised * group
    training = list(_shared_out(suite.name, pairs, stated, group)) if stated >= group else []
    found = draw_all(jobs, draws, threads, progress)
    training += [
        Part.of(job.scenario, changes, group) for job, changes in zip(jobs, found, strict=True)
    ]
    validation = _shared_out(suite.name, judged, validation_clusters, 1) if judged else ()
    return TrainingSet(
        name=suite.name, spread=spread, training=tuple(training), validation=tuple(validation)
    )


Changed = tuple[str | dict[str, Any], dict[str, Any]]


def _shared_out(name: str, pairs: Sequence[Changed], clusters: int, group: int) -> Iterator[Part]:
    units = clusters // group
    if units < len(pairs):
        raise ConfigError(
            f"suite {name}: {clusters} clusters in groups of {group} do not reach all of its "
            f"{len(pairs)} pairs of a scenario and a load; write at least {len(pairs) * group}"
        )
    for number, (own, changes) in enumerate(pairs):
        # The remainder goes to pairs at equal distances, so that no scenario gets all of it.
        mine = (number + 1) * units // len(pairs) - number * units // len(pairs)
        yield Part.of(own, changes, mine * group)


def whole(clusters: int, suite: Suite, group: int, validation: bool = False) -> int:
    """Clusters rounded up to the same number for every scenario and load."""
    cells = suite.validation if validation else suite.training
    pairs = max(1, len(cells)) * len(suite.loads) * group
    return -(-clusters // pairs) * pairs


def _substances(names: Sequence[str]) -> dict[str, str]:
    return {bench_splits.substance(Scenario.load(name)): name for name in names}


def _at(scenario: Scenario, path: str) -> float:
    value: Any = scenario
    for name in path.split("."):
        value = getattr(value, name)
    return float(value)
