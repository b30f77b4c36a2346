"""A benchmark in TensorBoard: under HParams, one line per policy and setting, means over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from helm_gym.benchmark.rows import OK, Row
from helm_gym.errors import ConfigError

SETTING = ("cell", "load", "router", "policy")
MAIN = (
    "tail_ms", "p99_ms", "mean_ms", "slo_satisfaction", "goodput_rps", "shed_rate", "kv_hit_rate",
    "emb_hit_rate", "refill_gb", "emb_share", "share_moved", "reward", "decision_p99_us",
)  # fmt: skip


def check_installed() -> None:
    """Say what to install, before any time is spent.

    Raises:
        ConfigError: torch or TensorBoard is missing.
    """
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"--tensorboard needs {error.name}: pip install 'helm-gym[train]'"
        ) from None


def write_hparams(rows: Sequence[Row], folder: Path) -> int:
    """Write a run per policy and setting; ``tensorboard --logdir FOLDER`` shows them.

    Args:
        rows: of a benchmark; failed ones are left out.
        folder: where to; what an earlier benchmark wrote there is replaced.

    Returns:
        How many were written.
    """
    import shutil

    check_installed()
    from torch.utils.tensorboard import SummaryWriter

    groups: dict[tuple[str | float, ...], list[Row]] = {}
    for row in rows:
        if row["status"] == OK:
            groups.setdefault(tuple(row[name] for name in SETTING), []).append(row)
    shutil.rmtree(folder, ignore_errors=True)
    for number, (setting, found) in enumerate(sorted(groups.items())):
        hparams = dict(zip(SETTING, setting, strict=True))
        with SummaryWriter(str(folder), max_queue=1) as writer:
            writer.add_hparams(
                hparams | {"spec": found[0]["spec"], "seeds": len(found)},
                {f"bench/{name}": _mean(found, name) for name in MAIN},
                run_name=f"{number:04d}",
            )
    return len(groups)


def _mean(rows: Sequence[Row], name: str) -> float:
    values = [row[name] for row in rows if row[name] is not None]
    return sum(values) / len(values) if values else math.nan
