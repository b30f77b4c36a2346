"""What a score is measured against in every draw: a schedule that knew the requests, and a share.

The package ships both as they were played. A search takes minutes, so each is a file of its own as
soon as it is done, and a stopped command goes on. A schedule stays one whatever becomes of the
simulator; what it does there is played again when the simulator has changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from helm_gym.baselines.schedule import Schedule, SchedulePolicy
from helm_gym.benchmark.score import REFERENCE
from helm_gym.benchmark.searches import SUITE_SEARCH
from helm_gym.config.quantity import Frozen
from helm_gym.errors import ConfigError
from helm_gym.evaluation.specs import make_policy
from helm_gym.hindsight.objective import TAIL
from helm_gym.hindsight.search import Search, hindsight
from helm_gym.policy import Policy
from helm_gym.provenance import code_digest
from helm_gym.runs.rollout import Episode, run_policy
from helm_gym.store import Codec, json_codec, open_store
from helm_gym.suites.score_draws import Draw

FOLDER = Path(__file__).parent / "published" / "score"
SCHEDULE = "schedule"


class Played(Frozen):
    """What somebody did in one draw; T windows."""

    figures: dict[str, float]  # over the counted windows, as a row of a benchmark has them
    tails: tuple[float, ...]  # (T,) ms; P99 over all arrivals of every window
    shares: tuple[float, ...]  # (T,) mean over nodes of the EMB share in force

    @classmethod
    def of(cls, episode: Episode) -> Played:
        """The part of an episode that a score needs."""
        tails, shares = episode.series["tail_ms"].tolist(), episode.shares.mean(axis=1).tolist()
        return cls(figures=episode.figures, tails=tuple(tails), shares=tuple(shares))


class Yardstick(Frozen):
    """Both ends of what there is to be won in one draw."""

    searched: Schedule
    code_digest: str  # of the simulator that played both
    schedule: Played
    static: Played

    @property
    def current(self) -> bool:
        """Whether the simulator of now played both."""
        return self.code_digest == code_digest()


CODEC: Codec[Yardstick] = json_codec(Yardstick)


def make_yardstick(draw: Draw, how: Search = SUITE_SEARCH) -> Yardstick:
    """Search for a draw's schedule and play both ends."""
    return play(draw, hindsight(draw.scenario, draw.seed, TAIL, how).schedule)


def play(draw: Draw, searched: Schedule) -> Yardstick:
    """Play a schedule and the static share in the simulator of now."""

    def played(policy: Policy, name: str) -> Played:
        (episode,) = run_policy(draw.scenario, policy, name, [draw.seed])
        return Played.of(episode)

    return Yardstick(
        searched=searched,
        code_digest=code_digest(),
        schedule=played(SchedulePolicy(searched), SCHEDULE),
        static=played(make_policy(REFERENCE), REFERENCE),
    )


def play_pair(pair: tuple[Draw, Schedule]) -> Yardstick:
    """:func:`play` with one argument, for worker processes."""
    return play(*pair)


def make_all(
    draws: Sequence[Draw], folder: Path = FOLDER, *, processes: int = 1, progress: bool = False
) -> list[Yardstick]:
    """Make the yardsticks that the folder does not have; play those again that other code played.

    Args:
        draws: such as :func:`~helm_gym.suites.score_draws.draws`.
        folder: holds one file per draw.
        processes: at a time.
        progress: show a progress bar on stderr.

    Raises:
        ConfigError: another process writes there, or nobody can.
    """
    with open_store(folder, CODEC) as store:
        found = store.complete(
            {draw.key: draw for draw in draws}, make_yardstick, processes=processes,
            title="searches", progress=progress,
        )  # fmt: skip
        for draw in draws:
            if not found[draw.key].current:
                found[draw.key] = play(draw, found[draw.key].searched)
                store.put(draw.key, found[draw.key])
    return list(found.values())


def load(draws: Sequence[Draw], folder: Path = FOLDER) -> dict[Draw, Yardstick]:
    """The yardsticks that are there; a draw without one was not searched.

    They are read without a lock, because an installed package may be read-only.

    Args:
        draws: whose yardsticks are wanted.
        folder: holds one file per draw.

    Raises:
        ConfigError: a file is damaged.
    """
    paths = {draw: folder / f"{draw.key}.{CODEC.extension}" for draw in draws}
    return {draw: _read(path) for draw, path in paths.items() if path.is_file()}


def _read(path: Path) -> Yardstick:
    try:
        with path.open("rb") as file:
            return CODEC.read(file)
    except (OSError, ValueError) as error:  # JSON's and pydantic's errors are ValueErrors
        raise ConfigError(
            f"{path} cannot be used ({error}); delete it and run helm-gym score --search"
        ) from None
