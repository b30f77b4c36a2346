"""``helm-gym speed --against REV``: the working tree beside another revision, pair by pair.

Each side is a process that stays alive with everything warm. Sides take turns at every figure, and
the order is turned round every round. So whatever slows the machine for a while meets all of them,
and the ratio within a round says more than either figure.
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from scipy import stats

from helm_gym.console import progress_bar
from helm_gym.errors import ConfigError, SimulationError
from helm_gym.runs.stats import LEVEL
from helm_gym.studies.speed import child
from helm_gym.studies.speed.revisions import Commit, Repository

SCRIPT = Path(child.__file__)
ROOMS = tuple(name for name in child.ROOMS if name != "training")
ROUNDS, QUICK_ROUNDS = 21, 6  # six is the fewest that have an interval
OURS, OTHER, CONTROL = "ours", "other", "control"


class Middle(NamedTuple):
    """A median and its interval; the ends are NaN if there are too few values."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Middle:
        """Median with the interval that the sign test gives, at least 95 %."""
        ordered = sorted(values)
        place = int(stats.binom.ppf((1.0 - LEVEL) / 2.0, len(ordered), 0.5))
        ends = (ordered[place - 1], ordered[-place]) if place else (math.nan, math.nan)
        return cls(statistics.median(ordered), *ends)


@dataclass
class Pairs:
    """One figure of all sides, round by round."""

    name: str
    unit: str
    more_is_better: bool
    values: dict[str, list[float]] = field(default_factory=dict)  # by side

    def ratio(self, of: str = OURS) -> Middle:
        """A side's figure to that of the other revision in the same round."""
        return Middle.of(np.divide(self.values[of], self.values[OTHER]).tolist())

    @property
    def verdict(self) -> str:
        """Whether the interval of the ratio lies on one side of one."""
        _, low, high = self.ratio()
        if low > 1.0 or high < 1.0:
            return "better" if (low > 1.0) == self.more_is_better else "worse"
        return ""

    def plain(self) -> dict[str, Any]:
        """Everything as JSON has it."""
        ratio = self.ratio()
        found = {
            "name": self.name, "unit": self.unit, "value": statistics.median(self.values[OURS]),
            "other": statistics.median(self.values[OTHER]),
            "ratio": ratio.value, "low": _number(ratio.low), "high": _number(ratio.high),
        }  # fmt: skip
        if CONTROL in self.values:
            control = self.ratio(CONTROL)
            found["control"] = [control.value, _number(control.low), _number(control.high)]
        return found


@dataclass
class Comparison:
    """What came out."""

    commit: Commit
    dirty: bool  # of the working tree
    rounds: int
    loads: list[float]  # load average at the beginning of each round
    pairs: list[Pairs]
    skipped: dict[str, str]  # room -> which side, and why


class Side:
    """A process that times one tree."""

    def __init__(self, name: str, process: subprocess.Popen[str], errors: IO[str]) -> None:
        self.name = name
        self._process, self._errors = process, errors
        self.package = Path(self._reply()["package"]).parent

    def ask(self, room: str) -> dict[str, Any]:
        """Let it prepare a room, or measure one that is prepared.

        Raises:
            SimulationError: the process died; the message holds its last words.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(room) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the reply says it
        return self._reply()

    def _reply(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            words = self._errors.read().strip().splitlines()[-1:] or ["it said nothing"]
            raise SimulationError(f"the process that times {self.name} ended: {words[0]}")
        reply: dict[str, Any] = json.loads(line)
        return reply


@contextmanager
def side(name: str, tree: Path, script: Path = SCRIPT) -> Iterator[Side]:
    """Start a process that times the package in a folder, and end it with the block.

    Raises:
        SimulationError: it does not start.
        ConfigError: the folder has no package.
    """
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [sys.executable, str(script), str(tree)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=tree,
        )  # fmt: skip
        try:
            started = Side(name, process, errors)
            if not started.package.samefile(tree / "helm_gym"):
                raise ConfigError(f"{name} has no folder helm_gym that could be timed")
            yield started
        finally:
            process.kill()
            process.communicate()


def prepare(
    sides: Sequence[Side], rooms: Sequence[str], say: Callable[[str], None]
) -> tuple[list[str], dict[str, str]]:
    """Warm every side up.

    Returns:
        The rooms that all sides can measure, and by room why the others are left out.
    """
    able: list[str] = []
    skipped: dict[str, str] = {}
    for room in rooms:
        say(f"preparing {room}")
        reasons = {s.name: found["skipped"] for s in sides if "skipped" in (found := s.ask(room))}
        if reasons:
            skipped[room] = "; ".join(f"{name}: {why}" for name, why in reasons.items())
        else:
            able.append(room)
    return able, skipped


def measure_round(
    sides: dict[str, Side], rooms: Sequence[str], turned: bool, pairs: dict[str, Pairs]
) -> None:
    """Add one value of every figure and side.

    Args:
        sides: by role.
        rooms: to measure, one after the other.
        turned: let the last side begin.
        pairs: what is added to, by figure.

    Raises:
        SimulationError: a side can no longer measure a room.
    """
    for room in rooms:
        for role in reversed(sides) if turned else sides:
            found = sides[role].ask(room)
            if "skipped" in found:
                raise SimulationError(f"{sides[role].name}, {room}: {found['skipped']}")
            for name, (value, unit, more) in found.items():
                own = pairs.setdefault(name, Pairs(name, unit, more))
                own.values.setdefault(role, []).append(value)


def compare(
    revision: str,
    *,
    quick: bool = False,
    control: bool = False,
    train: bool = False,
    progress: bool = False,
    load: Callable[[], float] = lambda: math.nan,
    script: Path = SCRIPT,
    repository: Repository | None = None,
) -> Comparison:
    """Measure the working tree, as it is, beside a revision.

    Args:
        revision: of the repository that this package runs from.
        quick: few rounds.
        control: time the revision twice, so that its ratio to itself shows the noise.
        train: train too, for one round per round.
        progress: show a progress bar on stderr.
        load: gives the load average.
        script: what each side runs.
        repository: another one, for tests.

    Raises:
        ConfigError: no git, no checkout, or no such revision.
        SimulationError: a side died.
    """
    repository = repository or Repository.of()
    commit = repository.commit(revision)
    rounds = QUICK_ROUNDS if quick else ROUNDS
    rooms = [*ROOMS, "training"] if train else list(ROOMS)
    pairs: dict[str, Pairs] = {}
    loads: list[float] = []
    with ExitStack() as stack:
        tree = stack.enter_context(repository.checked_out(commit))
        start = stack.enter_context
        sides = {OURS: start(side("the working tree", repository.folder, script))}
        for role in (OTHER, CONTROL) if control else (OTHER,):
            sides[role] = start(side(commit.short, tree, script))
        bar = start(progress_bar("comparing", rounds, wanted=progress))
        able, skipped = prepare(list(sides.values()), rooms, lambda text: bar.show(0, note=text))
        for number in range(rounds):
            loads.append(load())
            measure_round(sides, able, number % 2 == 1, pairs)
            bar.advance(note=f"{number + 1}/{rounds} rounds")
    return Comparison(commit, repository.dirty, rounds, loads, list(pairs.values()), skipped)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
