"""Train a policy on a scenario: ``train`` begins a run, ``resume`` continues it bit for bit."""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from contextlib import closing
from dataclasses import asdict, dataclass

import numpy as np
from stable_baselines3.common.logger import Logger

from helm_gym.agents.models.files import write_model
from helm_gym.agents.training.build import make_env, make_model, make_validator, torch_threads
from helm_gym.agents.training.checkpoints import (
    capture,
    load_latest,
    newest_decisions,
    remove_checkpoints,
    restore,
    save_checkpoint,
)
from helm_gym.agents.training.interrupt import Interrupt, TrainingInterrupted
from helm_gym.agents.training.monitor import Curve, TensorBoardScalars, Watch, curve_row
from helm_gym.agents.training.plan import (
    Plan,
    RunFolder,
    TrainConfig,
    training_versions,
    typed_names,
)
from helm_gym.agents.training.sb3.algorithms import algorithm_of
from helm_gym.console import progress_bar
from helm_gym.errors import ConfigError
from helm_gym.store import locked

__all__ = ["TrainConfig", "TrainResult", "TrainingInterrupted", "resume", "train"]


@dataclass(frozen=True)
class TrainResult:
    """A finished run."""

    run_dir: str
    model: str  # path of model.zip, for the policy spec ALGORITHM:PATH
    label: str  # what the policy is, for tables
    decisions: int
    updates: int
    chosen_at: int  # decisions after which the model had its weights: the best on validation seeds
    stopped: str  # why training ended
    seconds: float  # of this process
    last: dict[str, float]  # the curve's last row
    algorithm: str = "ppo"
    validation_reward: float | None = None  # of the model, per window; None: nothing was validated


def train(config: TrainConfig, progress: bool = True) -> TrainResult:
    """Train a policy from scratch.

    Args:
        config: what to train, and into which folder. A class of your own that it names as the
            rule to correct is imported.
        progress: show a progress bar on stderr.

    Raises:
        ConfigError: something cannot be used as asked, or the folder holds another run.
        TrainingInterrupted: after Ctrl-C; the message says how to go on.
    """
    folder = RunFolder(config.run_dir)
    folder.check_free(config)  # before scenarios are drawn, which takes minutes
    plan = Plan.of(config, progress)
    algorithm_of(plan.algorithm).check()
    with locked(folder.path):
        folder.begin(config, plan)
        return _Run(folder, config, plan, progress, typed_names(config)).go()


def resume(
    run_dir: str | os.PathLike[str],
    *,
    threads: int | None = None,
    max_minutes: float | None = None,
    progress: bool = True,
    allow: Collection[str] = (),
) -> TrainResult:
    """Continue a run that was interrupted or killed, as if it had not been.

    Args:
        run_dir: its folder.
        threads: simulator threads, if other than the run began with; results do not depend on it.
        max_minutes: stop after so long, counted from now.
        progress: show a progress bar on stderr.
        allow: classes, as ``module:Class``, that may be imported if the folder names one as the
            rule to correct.

    Raises:
        ConfigError: there is no run, it is finished, another process works on it, or it names code
            that is not allowed.
        CheckpointError: none of its checkpoints can be used.
        TrainingInterrupted: after Ctrl-C; the message says how to go on.
    """
    folder = RunFolder(run_dir)
    config, plan, began_with = folder.read()
    if folder.result.is_file():
        raise ConfigError(
            f"{folder.path} is finished ({folder.model.name} is there); train longer in another "
            "folder with a larger --decisions"
        )
    algorithm_of(plan.algorithm).check()
    changes = {"threads": threads or config.threads, "max_minutes": max_minutes}
    with locked(folder.path):
        run = _Run(folder, config.model_copy(update=changes), plan, progress, allow)
        return run.go(_differences(began_with, training_versions(plan.algorithm)))


class _Run:
    """One process's part of a run: round, log, checkpoint, in an order that resumes."""

    def __init__(
        self,
        folder: RunFolder,
        config: TrainConfig,
        plan: Plan,
        progress: bool,
        allow: Collection[str],
    ) -> None:
        self.folder, self.config, self.plan, self.progress = folder, config, plan, progress
        self.id, self.allow = plan.digest(), allow
        self.algorithm = algorithm_of(plan.algorithm)
        self.total = plan.decisions
        self.began = time.monotonic()
        self.last_checkpoint = float("-inf")

    def go(self, notes: tuple[str, ...] = ()) -> TrainResult:
        """Train until the end, from the newest checkpoint if there is one."""
        try:
            with torch_threads(self.plan.torch_threads):
                self.env = make_env(self.plan, self.config.threads, allow=self.allow)
                self.validator = make_validator(self.plan, self.config.threads, self.allow)
                with closing(self.env), closing(self.validator):
                    return self._go(notes)
        except TrainingInterrupted:
            raise
        except KeyboardInterrupt:
            raise TrainingInterrupted(self._how_to_go_on()) from None

    def _go(self, notes: tuple[str, ...]) -> TrainResult:
        loaded = load_latest(self.folder.checkpoints, self.id)
        done = int(loaded.state["decisions"]) if loaded else 0
        self.model = make_model(self.plan, self.env)
        with (
            closing(TensorBoardScalars(self.folder.tensorboard, done)) as log,
            progress_bar(
                "training", self.total, done=done, wanted=self.progress, transient=False
            ) as bar,
        ):
            self.model.set_logger(Logger(None, [log]))
            self.watch = Watch(self.env.venv, bar)
            self.model._setup_learn(self.total, self.watch)
            if loaded:
                restore(self.model, self.env, self.algorithm, loaded.state)
                self.validator.set_state(loaded.state["validation"])
                notes += tuple(f"not used: {reason}" for reason in loaded.skipped)
            for note in notes:
                bar.say(note)
            with Interrupt(bar.say) as interrupt:
                return self._loop(interrupt)

    def _loop(self, interrupt: Interrupt) -> TrainResult:
        model = self.model
        curve = Curve(self.folder.curve, model.num_timesteps)
        if model.num_timesteps == 0 and self.validator.due(0):
            self.validator.consider(model)
        while model.num_timesteps < self.total and not self._out_of_time():
            self.watch.begin_round()
            self.algorithm.play_round(model, self.env, self.watch, self.plan.settings)
            self._log(curve)
            self._checkpoint(at_once=interrupt.requested)
            if interrupt.requested and model.num_timesteps < self.total:
                raise TrainingInterrupted(self._how_to_go_on())
        return self._finish(curve)

    def _log(self, curve: Curve) -> None:
        model, means = self.model, self.watch.means()
        if self.validator.due(self._updates()):
            means["validation/reward"] = self.validator.consider(model)
        for name, value in means.items():
            model.logger.record(name, value)
        learned = dict(model.logger.name_to_value)
        if model.ep_info_buffer:
            returns = [info["r"] for info in model.ep_info_buffer]
            learned["rollout/ep_rew_mean"] = float(np.mean(returns))
        names = self.algorithm.learned
        curve.append(curve_row(model.num_timesteps, self._updates(), means, learned, names))
        model.dump_logs()

    def _checkpoint(self, at_once: bool) -> None:
        if at_once or time.monotonic() - self.last_checkpoint >= self.config.checkpoint_s:
            validation = {"validation": self.validator.get_state()}
            state = {**capture(self.model, self.env, self.algorithm), **validation}
            save_checkpoint(self.folder.checkpoints, self.id, state)
            self.last_checkpoint = time.monotonic()

    def _finish(self, curve: Curve) -> TrainResult:
        model, stopped = self.model, "all decisions made"
        if model.num_timesteps < self.total:
            stopped = (
                f"time limit of {self.config.max_minutes:g} min: how far it came depends on the "
                "machine's speed"
            )
        chosen_at = self.validator.choose(model)
        card = self.plan.card(model.num_timesteps, chosen_at, stopped)
        write_model(self.folder.model, model, self.algorithm.actor(model), card)
        result = TrainResult(
            run_dir=str(self.folder.path),
            model=str(self.folder.model),
            label=card.label,
            decisions=model.num_timesteps,
            updates=self._updates(),
            chosen_at=chosen_at,
            stopped=stopped,
            seconds=time.monotonic() - self.began,
            last={k: float(v) for k, v in curve.rows[-1].items() if v} if curve.rows else {},
            algorithm=self.plan.algorithm,
            validation_reward=self.validator.chosen_reward,
        )
        self.folder.finish(asdict(result))
        remove_checkpoints(self.folder.checkpoints)
        return result

    def _updates(self) -> int:
        return int(self.model.num_timesteps) // self.plan.rollout

    def _out_of_time(self) -> bool:
        limit = self.config.max_minutes
        return limit is not None and time.monotonic() - self.began >= 60.0 * limit

    def _how_to_go_on(self) -> str:
        kept = newest_decisions(self.folder.checkpoints)
        return (
            f"training stopped: {kept:,} of {self.total:,} decisions are kept. "
            f"Continue with: helm-gym train --resume {self.folder.path}"
        )


def _differences(began_with: dict[str, str], now: dict[str, str]) -> tuple[str, ...]:
    """Say which versions changed since the run began."""
    changed = [f"{k} {v} -> {now.get(k)}" for k, v in began_with.items() if now.get(k) != v]
    if not changed:
        return ()
    return (
        f"versions changed since this run began ({', '.join(changed)}): it goes on, but will not "
        "end with the same weights as an uninterrupted one",
    )
