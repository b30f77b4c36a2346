"""What a training run shows and keeps of itself: serving figures, the curve, TensorBoard logs."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter

from helm_gym.agents.sb3_vec_env import Sb3VecEnv
from helm_gym.console import Bar
from helm_gym.envs.infos import TERM_PREFIX
from helm_gym.files import write_text


class Watch(BaseCallback):
    """Averages the windows of a round: serving figures and reward terms.

    Args:
        source: the adapter whose infos are read, as arrays.
        bar: moved by every step.
    """

    def __init__(self, source: Sb3VecEnv, bar: Bar) -> None:
        super().__init__()
        self._source, self._bar = source, bar
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    def begin_round(self) -> None:
        """Forget the windows so far; a round may consist of many of SB3's rollouts."""
        self._sums, self._counts = {}, {}

    def _on_step(self) -> bool:
        for name, values in window_values(self._source.vector_infos):
            known = values[~np.isnan(values)]  # no P99 where nothing was served
            self._sums[name] = self._sums.get(name, 0.0) + float(known.sum())
            self._counts[name] = self._counts.get(name, 0) + known.size
        self._bar.advance(self._source.num_envs, serving(self.means()))
        return True

    def means(self) -> dict[str, float]:
        """Mean over the rows and windows of the round so far, by logged name."""
        return {name: self._sums[name] / n for name, n in self._counts.items() if n}


def window_values(infos: Mapping[str, Any]) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """Yield the figures and reward terms of a window from a vector environment's infos.

    Reward terms are named ``reward/NAME``, all other figures ``serving/NAME``. Rows whose episode
    ended have theirs in ``final_info``; what they have at the top is of the episode that begins.
    """
    final = infos.get("final_info", {})
    ended = np.asarray(infos.get("_final_info", False))
    for name in dict.fromkeys((*infos, *final)):
        if name.startswith("_") or name in {"final_info", "final_obs"}:
            continue
        values = _present(infos, name, ~ended)
        if final:
            values = np.concatenate([values, _present(final, name, ended)])
        term = name.removeprefix(TERM_PREFIX)
        yield f"serving/{name}" if term == name else f"reward/{term}", values


def _present(infos: Mapping[str, Any], name: str, rows: NDArray[np.bool_]) -> NDArray[np.float64]:
    values = np.asarray(infos.get(name, ()))
    if values.ndim != 1 or values.dtype.kind not in "fiu" or not values.size:
        return np.zeros(0)
    return np.asarray(values[rows & np.asarray(infos.get(f"_{name}", True))], np.float64)


class Curve:
    """``curve.csv``: one row per update, rewritten as a whole so that a kill leaves no half row.

    It has no wall-clock, so equal runs have equal curves.

    Args:
        path: the file.
        upto: rows beyond this many decisions belong to updates that will be repeated.
    """

    def __init__(self, path: Path, upto: int) -> None:
        self._path = path
        self.rows: list[dict[str, str]] = []
        if path.is_file():
            with path.open(newline="", encoding="utf-8") as file:
                self.rows = [row for row in csv.DictReader(file) if int(row["decisions"]) <= upto]

    def append(self, row: Mapping[str, float]) -> None:
        """Add an update's row."""
        self.rows.append({name: repr(value) for name, value in row.items()})
        names = dict.fromkeys(name for kept in self.rows for name in kept)
        text = io.StringIO()
        writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_text(self._path, text.getvalue())


def curve_row(
    decisions: int,
    updates: int,
    means: Mapping[str, float],
    learned: Mapping[str, Any],
    names: Iterable[str],
) -> dict[str, float]:
    """One row of the curve, from a round's means and, of SB3's log of the update, ``names``."""
    row: dict[str, float] = {"decisions": decisions, "updates": updates}
    if "rollout/ep_rew_mean" in learned:
        row["episode_return"] = float(learned["rollout/ep_rew_mean"])
    row["reward"] = float(sum(v for name, v in means.items() if name.startswith("reward/")))
    for name, value in means.items():
        prefix, _, plain = name.partition("/")
        row[plain if prefix == "serving" else f"{prefix}_{plain}"] = float(value)
    for name in names:
        if name in learned:
            row[name.partition("/")[2]] = float(learned[name])
    return row


class TensorBoardScalars(KVWriter):
    """SB3's log as TensorBoard scalars.

    Args:
        folder: created if missing.
        decisions: what an earlier, killed process logged after this is hidden.
    """

    def __init__(self, folder: Path, decisions: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder), purge_step=decisions + 1)

    def write(
        self,
        key_values: dict[str, Any],
        key_excluded: dict[str, tuple[str, ...]],
        step: int = 0,
    ) -> None:
        """Log all numbers of an update."""
        for key, value in key_values.items():
            if "tensorboard" not in (key_excluded[key] or ()) and np.isscalar(value):
                self._writer.add_scalar(key, value, step)
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()


def serving(means: Mapping[str, float]) -> str:
    """What a policy achieves now, for the progress bar, from :meth:`Watch.means`."""
    return (
        f"P99 {means.get('serving/p99_ms', float('nan')):.1f} ms  "
        f"SLO {100 * means.get('serving/slo_satisfaction', float('nan')):.1f} %  "
        f"EMB {means.get('serving/emb_share', float('nan')):.2f}"
    )
