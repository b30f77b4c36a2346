"""Many randomised scenarios: drawn on several processes, kept in files, with a progress bar.

A draw costs seconds, because its capacity is measured, and it depends on nothing but its job. It is
therefore kept under a name made of all that decides it, so that a run that was stopped while
drawing, and runs that differ only in their training seed, measure nothing twice.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from helm_gym.agents.training import capacity as randomise
from helm_gym.config.quantity import Frozen
from helm_gym.config.scenario import Scenario
from helm_gym.errors import CheckpointError
from helm_gym.files import remove_leftovers, write_text
from helm_gym.processes import worker_pool
from helm_gym.provenance import code_digest

DIGITS = 16  # of a file's name


class Job(Frozen):
    """One draw to make."""

    scenario: str | dict[str, Any]  # as stated
    overrides: dict[str, Any]  # dotted paths, replaced before anything is drawn
    spread: float
    seed: tuple[int, ...]  # of the draws, and the number of this one

    def load(self) -> Scenario:
        """The scenario that is drawn around."""
        return Scenario.load(self.scenario).replace(self.overrides)

    def key(self) -> str:
        """Hex digits of everything that decides the draw, the simulator's code included."""
        parts = [
            self.load().digest(),
            self.spread,
            list(self.seed),
            code_digest(randomise.__name__),
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:DIGITS]


def draw_all(
    jobs: Sequence[Job], folder: Path | None = None, processes: int = 1, progress: bool = False
) -> list[dict[str, Any]]:
    """Draw every job, or read it where it was drawn before.

    Args:
        jobs: what to draw; results do not depend on what else is drawn.
        folder: where draws are kept; None keeps none.
        processes: draws at the same time; one draws in this process.
        progress: show a progress bar on stderr.

    Returns:
        Of every job, dotted paths and values that make the drawn scenario of the stated one.

    Raises:
        ConfigError: no draw of a job can be used.
        CheckpointError: a kept draw was damaged.
    """
    if folder is not None and jobs:
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
    files = [None if folder is None else folder / f"{job.key()}.json" for job in jobs]
    found = {n: _read(f) for n, f in enumerate(files) if f is not None and f.is_file()}
    missing = [number for number in range(len(jobs)) if number not in found]
    with _bar(len(jobs), len(found), progress and bool(missing)) as tick:
        for number, changes in _drawn(jobs, missing, processes):
            file = files[number]
            if file is not None:
                kept = {"job": jobs[number].model_dump(mode="json"), "changes": changes}
                write_text(file, json.dumps(kept, indent=1) + "\n")
            found[number] = changes
            tick()
    return [{**jobs[n].overrides, **found[n]} for n in range(len(jobs))]


def _drawn(
    jobs: Sequence[Job], missing: Sequence[int], processes: int
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield numbers of jobs with their draws, as they are made."""
    if processes == 1 or len(missing) < 2:
        for number in missing:
            yield number, _draw(jobs[number])
        return
    with worker_pool(min(processes, len(missing))) as pool:
        numbers = {pool.submit(_draw, jobs[number]): number for number in missing}
        for done in as_completed(numbers):
            yield numbers[done], done.result()


def _draw(job: Job) -> dict[str, Any]:
    return randomise.draw(job.load(), job.spread, job.seed).changes


def _read(file: Path) -> dict[str, Any]:
    try:
        changes: Mapping[str, Any] = json.loads(file.read_text("utf-8"))["changes"]
        return dict(changes)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{file}: is no draw ({type(error).__name__}: {error}); remove it, and it is drawn anew"
        ) from None


@contextmanager
def _bar(total: int, done: int, wanted: bool) -> Iterator[Any]:
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), disable=not wanted) as bar:
        task = bar.add_task("drawing scenarios", total=total, completed=done)
        yield lambda: bar.advance(task)
