"""Measure PPO update settings on this machine: how many decisions per second with learning.

The network is small, so an update's time is mostly the cost of each call, and SB3's default batch
of 64 spends it on calls. This is a measurement to choose defaults from, not a test.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger

from helm_gym.agents.build import make_env, make_model, torch_threads
from helm_gym.agents.run_folder import Plan, TrainConfig
from helm_gym.config import Scenario
from helm_gym.errors import ConfigError

BATCHES = (64, 256, 1024, 4096, 16384)
EPOCHS = (4, 10)
SHAPES = ((2, 256), (8, 64), (32, 16))
"""Clusters and steps: rollouts of the same size, cut differently."""


@dataclass(frozen=True)
class SweepRow:
    """Medians of one setting."""

    clusters: int
    n_steps: int
    rollout: int  # decisions between two updates
    batch: int
    epochs: int
    threads: int  # of torch
    collect_s: float
    update_s: float

    @property
    def fps(self) -> float:
        """Decisions per second with learning."""
        return self.rollout / (self.collect_s + self.update_s)

    @property
    def update_fps(self) -> float:
        """Decisions per second of the update alone."""
        return self.rollout / self.update_s


class _Quiet(BaseCallback):
    def _on_step(self) -> bool:
        return True


def sweep_updates(
    scenario: str | Mapping[str, Any] = "feasibility",
    control: str = "node",
    *,
    shapes: Sequence[tuple[int, int]] = SHAPES,
    batches: Sequence[int] = BATCHES,
    epochs: Sequence[int] = EPOCHS,
    torch_thread_counts: Sequence[int] = (1,),
    threads: int | None = None,
    repeats: int = 3,
    overrides: dict[str, Any] | None = None,
    show: bool = True,
) -> list[SweepRow]:
    """Time rollouts and updates on a scenario, after one of each to warm up.

    Args:
        scenario: what is simulated.
        control: whose rows: "cluster", "node" or "per_node".
        shapes: clusters and steps per rollout; the batches are tried on the first.
        batches: mini-batch sizes; those that do not divide the rollout are left out.
        epochs: passes over a rollout.
        torch_thread_counts: threads of torch to try.
        threads: simulator threads.
        repeats: measurements of which the median is taken.
        overrides: dotted paths into the scenario.
        show: print a table.

    Returns:
        One row per setting.

    Raises:
        ConfigError: no batch divides a rollout.
    """
    rows: list[SweepRow] = []
    loaded = Scenario.load(scenario)
    for index, (clusters, n_steps) in enumerate(shapes):
        plan = Plan.of(
            TrainConfig.parse(
                {
                    "scenario": loaded.to_dict(),
                    "overrides": overrides or {},
                    "control": control,
                    "clusters": clusters,
                    "settings": {"n_steps": n_steps, "batch_size": None},
                },
                "sweep",
            )
        )
        tried = batches if index == 0 else (plan.settings.batch(plan.layout.rows),)
        rows += _sweep_shape(plan, tried, epochs, torch_thread_counts, threads, repeats)
    if not rows:
        raise ConfigError(f"none of the batches {tuple(batches)} divides a rollout")
    if show:
        Console().print(as_table(rows, f"{loaded.name}, control={control}, median of {repeats}"))
    return rows


def as_table(rows: Sequence[SweepRow], title: str) -> Table:
    """The rows as a table to print."""
    names = ("clusters", "steps", "rollout", "batch", "epochs", "threads")
    table = Table(title=title, caption="threads of torch; both rates in decisions/s")
    for name in (*names, "update", "in all"):
        table.add_column(name, justify="right", no_wrap=True)
    for r in rows:
        values = (r.clusters, r.n_steps, r.rollout, r.batch, r.epochs, r.threads)
        table.add_row(*(f"{v:,}" for v in values), f"{r.update_fps:,.0f}", f"{r.fps:,.0f}")
    return table


def _sweep_shape(
    plan: Plan,
    batches: Sequence[int],
    epochs: Sequence[int],
    thread_counts: Sequence[int],
    threads: int | None,
    repeats: int,
) -> list[SweepRow]:
    env = make_env(plan, threads)
    try:
        model = make_model(plan, env)
        model.set_logger(Logger(None, []))
        _, callback = model._setup_learn(1, _Quiet())

        def collect() -> None:
            model.collect_rollouts(env, callback, model.rollout_buffer, model.n_steps)

        collect_s = _median(collect, repeats)
        rollout = env.num_envs * model.n_steps
        rows = []
        for count in thread_counts:
            for n_epochs in epochs:
                for batch in (b for b in batches if rollout % b == 0):
                    model.batch_size, model.n_epochs = batch, n_epochs
                    with torch_threads(count):
                        update_s = _median_update(model, repeats)
                    shape = (plan.settings.clusters, plan.settings.n_steps, rollout)
                    rows.append(SweepRow(*shape, batch, n_epochs, count, collect_s, update_s))
        return rows
    finally:
        env.close()


def _median_update(model: PPO, repeats: int) -> float:
    """Time updates on the same rollout from the same weights."""
    weights = {name: value.clone() for name, value in model.policy.state_dict().items()}
    seconds = _median(model.train, repeats)
    model.policy.load_state_dict(weights)
    model.policy.optimizer.state.clear()
    return seconds


def _median(work: Callable[[], None], repeats: int) -> float:
    work()  # the first call compiles, allocates and fills caches
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


if __name__ == "__main__":
    torch.set_num_threads(1)
    sweep_updates()
