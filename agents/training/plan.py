"""What a training run is asked to do, what that resolves to, and the folder that keeps it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, SerializeAsAny, model_validator

from helm_gym.agents.models.card import TITLES, Algorithm, Card
from helm_gym.agents.models.view import View
from helm_gym.agents.training.hyperparameters import (
    Control,
    Settings,
    load_hyperparameters,
    settings_class,
)
from helm_gym.agents.training.scenarios import Suite, TrainingSet, training_set, whole
from helm_gym.config.quantity import Frozen
from helm_gym.config.safe_yaml import read_yaml
from helm_gym.config.scenario import Scenario
from helm_gym.envs.action import Layout
from helm_gym.envs.observation import FEATURES
from helm_gym.envs.reward import DEFAULT, Reward, RewardConfig
from helm_gym.errors import CheckpointError, ConfigError, nearest
from helm_gym.files import write_text
from helm_gym.provenance import code_digest, versions

TRAINS = "helm_gym.agents.training.train"  # the module behind every run
PACKAGES = ("numpy", "numba", "gymnasium", "torch", "stable-baselines3")


class TrainConfig(Frozen):
    """What to train. Defaults come from the algorithm's YAML where a field is ``None``.

    ``scenario`` or ``suite``, not both. In a suite every scenario takes the ``overrides``, the
    number of clusters is rounded up to as many for each scenario and load unless it is given, and
    ``spread`` above 0 randomises what the scenarios assume, as
    :mod:`helm_gym.agents.training.randomise` says.
    """

    algorithm: Algorithm = "ppo"
    scenario: str | dict[str, Any] = "taobao-shift"  # name, YAML path or mapping
    overrides: dict[str, Any] = Field(default_factory=dict)  # dotted paths into the scenario
    suite: str | dict[str, Any] | None = None  # "paper", or a mapping as training_set.Suite has it
    spread: float = Field(default=0.0, ge=0, le=1)  # part of the ranges of assumed numbers
    drawn: float = Field(default=1.0, gt=0, le=1)  # part of the clusters that spread is for
    draw_seed: int | None = Field(default=None, ge=0)  # of what spread draws; None: ``seed``
    draws: str | None = None  # folder that keeps what was drawn; None: draws in ``run_dir``
    control: Control | None = None  # None: "node" for a suite, else "cluster"
    observation: str = "extended"
    reward: str | dict[str, Any] = DEFAULT
    settings: dict[str, Any] = Field(default_factory=dict)  # changes to its YAML entry
    decisions: int | None = Field(default=None, gt=0)  # rows times windows; to whole updates
    clusters: int | None = Field(default=None, gt=0)  # simulated side by side
    seed: int = Field(default=0, ge=0)
    run_dir: str = "runs/ppo"
    overwrite: bool = False  # remove an older run from the folder first
    threads: int | None = Field(default=None, gt=0)  # of the simulator; decides no result
    torch_threads: int = Field(default=1, gt=0)  # two can be slower on a shared machine
    checkpoint_s: float = Field(default=60.0, ge=0)  # seconds between checkpoints; 0: every update
    max_minutes: float | None = Field(default=None, gt=0)  # makes the result depend on the speed


def typed_names(config: TrainConfig) -> tuple[str, ...]:
    """The class that a config names as the rule to correct; whoever made the config typed it."""
    base = config.settings.get("base")
    return (base,) if isinstance(base, str) else ()


class Plan(Frozen):
    """A :class:`TrainConfig` with everything looked up; decides the run's results."""

    scenario: Scenario
    control: Control
    observation: str
    reward: str | dict[str, Any]
    settings: SerializeAsAny[Settings]  # of the algorithm's class
    seed: int
    torch_threads: int
    algorithm: Algorithm = "ppo"
    training_set: TrainingSet | None = None  # of a suite, whose first scenario is ``scenario``

    @model_validator(mode="before")
    @classmethod
    def _settings_of_the_algorithm(cls, data: Any) -> Any:
        settings = data.get("settings")
        if isinstance(settings, Mapping):
            kind = settings_class(data.get("algorithm", "ppo"))
            return {**data, "settings": kind.parse(settings, "settings")}
        return data

    @classmethod
    def of(cls, config: TrainConfig, progress: bool = False) -> Plan:
        """Look up scenario and settings of a config that a person made.

        Args:
            config: what is asked for.
            progress: show a progress bar where scenarios are drawn, which takes minutes.

        Raises:
            ConfigError: something named does not exist or cannot be used.
        """
        changes = dict(config.settings)
        if config.clusters is not None:
            changes["clusters"] = config.clusters
        control = config.control or ("cluster" if config.suite is None else "node")
        settings = load_hyperparameters(control, changes, config.algorithm)
        if config.suite is None:
            if config.spread:
                raise ConfigError("spread randomises a suite; name one, such as --suite paper")
            suite = None
            scenario = Scenario.load(config.scenario).replace(config.overrides)
        else:
            settings, suite = _of_suite(config, settings, changes, progress)
            scenario = suite.scenarios[0]
        plan = cls(
            scenario=scenario,
            control=control,
            observation=config.observation,
            reward=config.reward,
            settings=settings,
            seed=config.seed,
            torch_threads=config.torch_threads,
            algorithm=config.algorithm,
            training_set=suite,
        )
        plan.check(typed_names(config))
        if config.decisions is None:
            return plan
        updates = -(-config.decisions // plan.rollout)
        return plan.model_copy(
            update={"settings": settings.model_copy(update={"updates": updates})}
        )

    @property
    def trained_on(self) -> tuple[str, str]:
        """Name and digest of the scenario, or of the suite and all that is trained on of it."""
        if self.training_set is None:
            return self.scenario.name, self.scenario.digest()
        return self.training_set.name, self.training_set.scenario_digest

    @property
    def layout(self) -> Layout:
        """How the rows map to clusters and nodes."""
        return Layout(self.control, self.settings.clusters, self.scenario.nodes)

    @property
    def rollout(self) -> int:
        """Decisions between two updates."""
        return self.layout.rows * self.settings.n_steps

    @property
    def decisions(self) -> int:
        """Decisions until training ends."""
        return self.settings.updates * self.rollout

    def view(self) -> View:
        """How the network is connected to the environment."""
        settings, episode = self.settings, self.scenario.episode
        if self.observation not in FEATURES:
            hint = nearest(self.observation, FEATURES)
            raise ConfigError(f"observation {self.observation!r} does not exist{hint}")
        values = {
            "control": self.control,
            "observation": self.observation,
            "features": [feature.name for feature in FEATURES[self.observation]],
            "nodes": self.scenario.nodes,
            "action": settings.action,
            "base": settings.base if settings.action == "residual" else "",
            "bound": settings.bound,
            "context": settings.context,
            "share_min": episode.share_min,
            "share_max": episode.share_max,
        }
        return View.parse(values, "agent")

    def label(self) -> str:
        """What a policy is, in a table's words; a residual never passes for a policy of its own."""
        view = self.view()
        rows = {"cluster": "", "node": " per node", "per_node": ", all nodes"}
        name = TITLES[self.algorithm] + rows[view.control]
        return f"{name}, correcting {view.base}" if view.action == "residual" else name

    def card(self, decisions: int, chosen_at: int, stopped: str) -> Card:
        """The card of a model that this plan trained.

        Args:
            decisions: made in training.
            chosen_at: decisions after which the model had its weights.
            stopped: why training ended.
        """
        scenario, digest = self.trained_on
        return Card(
            algorithm=self.algorithm,
            view=self.view(),
            label=self.label(),
            run=self.digest(),
            scenario=scenario,
            scenario_digest=digest,
            decisions=decisions,
            chosen_at=chosen_at,
            seed=self.seed,
            stopped=stopped,
            versions=training_versions(self.algorithm),
        )

    def check(self, allow: Collection[str] = ()) -> None:
        """Raise a :class:`ConfigError` for what would fail only when training begins.

        Args:
            allow: classes, as ``module:Class``, that may be imported as the rule to correct.
        """
        settings = self.settings
        settings.batch(self.layout.rows)
        if settings.clusters % settings.group:
            raise ConfigError(
                f"group {settings.group} does not divide the {settings.clusters} clusters"
            )
        if getattr(settings, "coherence", 0.0) and self.control != "node":
            raise ConfigError(
                f"coherence is of a cluster's nodes, which are rows only with control 'node', not "
                f"{self.control!r}; leave it out"
            )
        self.view().load_base(allow, "the plan")
        if self.training_set is not None:
            self.training_set.check()
        Reward(RewardConfig.load(self.reward), self.scenario, self.layout)


def _of_suite(
    config: TrainConfig, settings: Settings, changes: Mapping[str, Any], progress: bool
) -> tuple[Settings, TrainingSet]:
    """A suite's scenarios, and settings with the clusters that they take."""
    assert config.suite is not None
    suite = Suite.load(config.suite)
    if config.scenario != TrainConfig.model_fields["scenario"].default:
        raise ConfigError(
            f"scenario {config.scenario!r:.40} and suite {suite.name!r}: write one of the two"
        )
    clusters, judging = settings.clusters, settings.validation_clusters
    if "clusters" not in changes:
        clusters = whole(clusters, suite, settings.group)
    if "validation_clusters" not in changes:
        judging = whole(judging, suite, 1, validation=True)
    suite.check(range(config.seed, config.seed + clusters), config.overrides)
    found = training_set(
        suite,
        clusters=clusters,
        validation_clusters=judging,
        group=settings.group,
        overrides=config.overrides,
        spread=config.spread,
        seed=config.seed if config.draw_seed is None else config.draw_seed,
        threads=config.threads or min(2, os.cpu_count() or 1),
        drawn=config.drawn,
        draws=Path(config.draws or Path(config.run_dir) / "draws"),
        progress=progress,
    )
    sizes = {"clusters": clusters, "validation_clusters": judging}
    return settings.model_copy(update=sizes), found


class RunFolder:
    """The files of one run.

    ``run.yaml`` what was asked, what it resolved to, versions; ``curve.csv`` one row per update;
    ``tensorboard/``; ``draws/`` randomised scenarios, of this run and of any other that asks for
    the same; ``checkpoints/`` while it runs; ``model.zip`` and ``result.json`` at the end.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.run_file = self.path / "run.yaml"
        self.curve = self.path / "curve.csv"
        self.tensorboard = self.path / "tensorboard"
        self.checkpoints = self.path / "checkpoints"
        self.model = self.path / "model.zip"
        self.result = self.path / "result.json"

    def check_free(self, config: TrainConfig) -> None:
        """Raise a :class:`ConfigError` if it holds another run that is not to be overwritten."""
        kept = self._kept()
        if kept and not config.overwrite:
            done = "a finished run" if self.result.exists() else "an unfinished run"
            go_on = "" if self.result.exists() else f"continue it with --resume {self.path}, "
            raise ConfigError(
                f"{self.path} holds {done} ({', '.join(p.name for p in kept)}): {go_on}"
                "name another folder with --run-dir, or remove it with --overwrite"
            )

    def begin(self, config: TrainConfig, plan: Plan) -> None:
        """Claim the folder for a new run.

        Raises:
            ConfigError: it holds another run, and ``config.overwrite`` is not set.
        """
        self.check_free(config)
        for old in self._kept():
            shutil.rmtree(old) if old.is_dir() else old.unlink()
        about = {
            "run": plan.digest(),
            "scenario_digest": plan.trained_on[1],
            "versions": training_versions(plan.algorithm),
            "args": config.model_dump(mode="json"),
            "plan": plan.model_dump(mode="json"),
        }
        text = yaml.safe_dump(about, sort_keys=False, allow_unicode=True)
        write_text(self.run_file, text)

    def read(self) -> tuple[TrainConfig, Plan, dict[str, str]]:
        """Read the run that the folder holds.

        Returns:
            What was asked, what it resolved to, and the versions it began with.

        Raises:
            ConfigError: there is no run here.
            CheckpointError: ``run.yaml`` was changed by hand or by a damaged disk.
        """
        if not self.run_file.is_file():
            raise ConfigError(f"{self.path} holds no training run (no {self.run_file.name})")
        about = read_yaml(self.run_file)
        try:
            config = TrainConfig.parse(about["args"], str(self.run_file))
            plan = Plan.parse(about["plan"], str(self.run_file))
            run, began_with = about["run"], dict(about["versions"])
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{self.run_file}: cannot be used ({error})") from None
        if run != plan.digest():
            raise CheckpointError(
                f"{self.run_file}: its plan has digest {plan.digest()}, but it says {run}: it was "
                "changed since the run began. Undo the change, or begin a new run"
            )
        return config, plan, began_with

    def finish(self, result: Mapping[str, Any]) -> None:
        """Mark the run as finished."""
        write_text(self.result, json.dumps(result, indent=1) + "\n")

    def _kept(self) -> list[Path]:
        files = (
            self.run_file, self.curve, self.tensorboard, self.checkpoints, self.model, self.result,
        )  # fmt: skip
        return [path for path in files if path.exists()]


def training_versions(algorithm: str) -> dict[str, str]:
    """What decides the weights that an algorithm ends with, to the last bit.

    Versions of packages, and the digest of all code that trains.
    """
    extra = ("sb3-contrib",) if algorithm == "recurrent-ppo" else ()
    return {**versions(*PACKAGES, *extra), "training code": code_digest(TRAINS)}
