"""What the assumed numbers decide: every one moved over its range, one at a time.

Variants run in worker processes. Each finished one is a line of ``variants.jsonl``, so that a study
that was stopped, or killed, goes on where it was; a line counts only if everything that its result
depends on is unchanged.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from helm_gym.config.scenario import Scenario
from helm_gym.config.vary import Left, Points, Variant, make_points
from helm_gym.errors import ConfigError
from helm_gym.evaluation.specs import SEARCHES, make_policy
from helm_gym.files import try_lock
from helm_gym.processes import worker_pool
from helm_gym.studies.sensitivity.measure import (
    BEST,
    FULL,
    QUICK,
    Budget,
    Task,
    fingerprint,
    key_of,
    measure,
)

DEFAULT_POLICIES = (BEST, "balance")
ROWS = "variants.jsonl"
SAME = "no effect in this scenario: the simulator gets the same numbers"
Found = dict[str, Any]


class SensitivityInterrupted(KeyboardInterrupt):
    """The user stopped a study; the message says what is kept."""


@dataclass(frozen=True)
class Row:
    """One finished variant."""

    variant: Variant
    found: Found  # see sensitivity_measure.measure
    same: bool  # not simulated, because it cannot differ from the scenario as stated


@dataclass(frozen=True)
class Study:
    """A finished study; the first row is the scenario as stated."""

    scenario: Scenario
    rows: tuple[Row, ...]
    left: tuple[Left, ...]
    specs: tuple[str, ...]
    budget: Budget

    @property
    def base(self) -> Row:
        """The scenario as stated."""
        return self.rows[0]

    @property
    def quick(self) -> bool:
        """Whether this was a smoke test."""
        return self.budget == QUICK


def run_sensitivity(
    scenario: Scenario,
    *,
    only: Sequence[str] = (),
    specs: Sequence[str] = DEFAULT_POLICIES,
    points: int = 3,
    quick: bool = False,
    seeds: int | None = None,
    out: Path = Path("runs/sensitivity"),
    processes: int | None = None,
    progress: bool = False,
    budget: Budget | None = None,
) -> Study:
    """Move every assumed number of a scenario over its range.

    Args:
        scenario: as stated.
        only: paths or their beginnings; all numbers if empty.
        specs: policies to rank; the best static share is always among them.
        points: values per number, 3 or 5, the stated one included.
        quick: a smoke test on a smaller cluster.
        seeds: held-out episodes per policy.
        out: folder of ``variants.jsonl``, which a later call goes on from.
        processes: worker processes; as many as cores by default, at most two.
        progress: show a progress bar on stderr.
        budget: how much is measured per variant, in place of what ``quick`` says.

    Raises:
        ConfigError: something cannot be used as asked.
        SensitivityInterrupted: after Ctrl-C.
    """
    budget = budget or (QUICK if quick else FULL)
    if seeds is not None:
        budget = Budget(**{**vars(budget), "seeds": seeds})
    if scenario.workload.replay is not None:
        raise ConfigError("sensitivity needs generated requests; this scenario replays a log")
    specs = _checked(specs)
    scenario = scenario.replace(budget.overrides)
    planned = make_points(scenario, only, points)
    out.mkdir(parents=True, exist_ok=True)
    with _rows_file(out / ROWS) as file:
        run = _Run(planned, budget, specs, file, processes or min(2, os.cpu_count() or 1))
        try:
            found = run.all(progress)
        except KeyboardInterrupt:
            raise SensitivityInterrupted(
                f"stopped; {run.done} of {run.to_do} variants are kept in {out / ROWS}. Run the "
                "same command again to go on."
            ) from None
    rows = [
        Row(variant, found[run.keys[n]], n > 0 and run.keys[n] == run.keys[0])
        for n, variant in enumerate(planned.variants)
    ]
    return Study(scenario, tuple(rows), planned.left, specs, budget)


def _checked(specs: Sequence[str]) -> tuple[str, ...]:
    """Specs with the best static share first; made once, so that a typo costs no time."""
    for spec in specs:
        if spec == BEST:
            continue
        if spec in SEARCHES:
            raise ConfigError(
                f"policy {spec!r} is a search that would run for every variant; name its winner, "
                "such as balance:gain=0.6,bias=0.05"
            )
        make_policy(spec)
    return tuple(dict.fromkeys((BEST, *specs)))


class _Run:
    """Variants to measure, in worker processes; those on file are not measured again."""

    def __init__(
        self,
        planned: Points,
        budget: Budget,
        specs: tuple[str, ...],
        file: IO[str],
        processes: int,
    ) -> None:
        self.file, self.processes = file, processes
        self.keys: list[str] = []
        self.tasks: dict[str, Task] = {}
        self.labels: dict[str, str] = {}
        prints: dict[str, str] = {}  # what the simulator gets -> key
        for variant in planned.variants:
            task = Task(variant.scenario.to_dict(), budget, specs)
            told = fingerprint(variant.scenario)
            key = prints.setdefault(told, key_of(task, told))
            self.keys.append(key)
            if key not in self.tasks:
                self.tasks[key] = task
                self.labels[key] = f"{variant.number} {variant.value:g}".removesuffix(" nan")
        self.found = {k: v for k, v in _read(file) if k in self.tasks}

    @property
    def done(self) -> int:
        """Variants measured, or found on file."""
        return len(self.found)

    @property
    def to_do(self) -> int:
        """Variants that differ."""
        return len(self.tasks)

    def all(self, progress: bool) -> Mapping[str, Found]:
        """Measure what is missing."""
        missing = [key for key in self.tasks if key not in self.found]
        if not missing:
            return self.found
        with self._bar(progress) as advance, worker_pool(min(self.processes, len(missing))) as pool:
            waiting: dict[Future[Found], str] = {
                pool.submit(measure, self.tasks[key]): key for key in missing
            }
            while waiting:
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    key = waiting.pop(future)
                    self.found[key] = future.result()
                    self._write(key)
                    advance(self.labels[key])
        return self.found

    def _write(self, key: str) -> None:
        line = {"key": key, "variant": self.labels[key], "found": self.found[key]}
        self.file.write(json.dumps(line) + "\n")
        self.file.flush()
        os.fsync(self.file.fileno())

    @contextmanager
    def _bar(self, wanted: bool) -> Iterator[Any]:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.progress import TimeElapsedColumn as Elapsed
        from rich.progress import TimeRemainingColumn as Remaining

        columns = (TextColumn("variants"), BarColumn(20), MofNCompleteColumn(), Elapsed(),
                   TextColumn("left"), Remaining(), TextColumn("{task.description}"))  # fmt: skip
        console = Console(stderr=True)
        with Progress(*columns, console=console, disable=not wanted, transient=True) as bar:
            task = bar.add_task("", total=self.to_do, completed=self.done)
            yield lambda label: bar.update(task, advance=1, description=label)


@contextmanager
def _rows_file(path: Path) -> Iterator[IO[str]]:
    """Open the rows for reading and appending; only one study at a time."""
    try:
        file = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror or error})") from None
    with file:
        if not try_lock(file.fileno()):
            raise ConfigError(f"{path}: another study writes here; choose another --out")
        yield file


def _read(file: IO[str]) -> Iterator[tuple[str, Found]]:
    """Finished variants; a line that a kill tore is cut off."""
    file.seek(0)
    text = file.read()
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        file.truncate(len(whole.encode()))
    for line in whole.splitlines():
        row = json.loads(line)
        yield row["key"], row["found"]
