"""Many randomised scenarios: drawn on several processes, kept in files, with a progress bar.

A draw costs seconds, because its capacity is measured, and it depends on nothing but its job. It is
therefore kept under a name made of all that decides it, so that a run that was stopped while
drawing, and runs that differ only in their training seed, measure nothing twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from helm_gym.agents.training import randomise
from helm_gym.config.quantity import Frozen
from helm_gym.config.scenario import Scenario
from helm_gym.provenance import code_digest
from helm_gym.store import digest_of, json_codec, open_store


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
        """Digest of everything that decides the draw, the simulator's code included."""
        code = code_digest(randomise.__name__)
        return digest_of(self.load().digest(), self.spread, self.seed, code)


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
        ConfigError: no draw of a job can be used, or the folder cannot be written.
    """
    own = {job.key(): job for job in jobs}
    with open_store(folder if jobs else None, json_codec(dict[str, Any]), wait=True) as store:
        found = store.complete(
            own,
            _draw,
            processes=processes,
            title="drawing scenarios",
            progress=progress,
            transient=False,
        )
    return [{**job.overrides, **found[job.key()]} for job in jobs]


def _draw(job: Job) -> dict[str, Any]:
    return randomise.draw(job.load(), job.spread, job.seed).changes
