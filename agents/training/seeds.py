"""The same training with several seeds, one after another, and the best of them by validation.

``train_seeds`` keeps a run folder ``seed-N`` per seed and a summary, ``seeds.json``. Called again
it skips the seeds that are finished and continues the one that was stopped. Randomised scenarios
are drawn and measured once, for all seeds.

The best of several weights of one run is chosen by validation reward, as ever. Which run is the
best is judged on validation seeds that no run has met, and by the figure that comparisons are
about: the P99 over all arrivals of whole episodes, in SLOs, geometric mean over the scenarios and
loads of the suite. So no run wins by the luck of the episodes that its own weights were chosen on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helm_gym.agents.models.trained import TrainedPolicy
from helm_gym.agents.training.plan import Plan, RunFolder, TrainConfig, typed_names
from helm_gym.agents.training.randomise import LOAD
from helm_gym.agents.training.scenarios import Suite
from helm_gym.agents.training.train import TrainResult, resume, train
from helm_gym.config.scenario import Scenario
from helm_gym.console import make_table, progress_bar
from helm_gym.errors import CheckpointError, ConfigError
from helm_gym.files import write_text
from helm_gym.provenance import code_digest, policy_digest
from helm_gym.runs.rollout import run_policy
from helm_gym.store import digest_of, json_codec, open_store
from helm_gym.suites.splits import VALIDATION

if TYPE_CHECKING:
    from rich.table import Table

SUMMARY = "seeds.json"
SCORES = "scores"  # folder in that of every run
SCORE_SEEDS = tuple(VALIDATION.seeds[1_000:1_003])
"""Far from the first ones, on which runs choose among their own weights and rules are searched."""


@dataclass(frozen=True)
class SeedRun:
    """One finished run and its score."""

    seed: int
    folder: str  # inside the common one
    run: str  # digest of its plan
    decisions: int
    chosen_at: int
    validation_reward: float
    score: float  # tail in SLOs; lower is better
    cells: dict[str, float]  # the same by scenario and load


@dataclass(frozen=True)
class SeedsResult:
    """All runs, and the best of them."""

    folder: str
    algorithm: str
    runs: tuple[SeedRun, ...]

    @property
    def best(self) -> SeedRun:
        """The lowest score."""
        return min(self.runs, key=lambda run: run.score)

    @property
    def spec(self) -> str:
        """Of the best run's policy."""
        return f"{self.algorithm}:{Path(self.folder) / self.best.folder / 'model.zip'}"


def train_seeds(
    config: TrainConfig, seeds: Sequence[int], progress: bool = True, only_missing: bool = True
) -> SeedsResult:
    """Train with every seed, or what is missing of it.

    Args:
        config: what to train; its ``run_dir`` is the folder of all, its ``seed`` is not used.
        seeds: one run each.
        progress: show progress bars on stderr.
        only_missing: False begins all runs anew.

    Raises:
        ConfigError: something cannot be used as asked, or a folder holds a run of other settings.
        TrainingInterrupted: after Ctrl-C; the same call goes on.
    """
    if len(set(seeds)) < len(seeds) or not seeds:
        raise ConfigError(f"need at least one seed, and each only once; got {list(seeds)}")
    folder = Path(config.run_dir)
    common = config.draw_seed if config.draw_seed is not None else min(seeds)
    shared = {"draws": config.draws or str(folder / "draws"), "draw_seed": common}
    asked = [
        config.model_copy(update={**shared, "seed": seed, "run_dir": str(folder / f"seed-{seed}")})
        for seed in seeds
    ]
    plans = [Plan.of(own, progress) for own in asked]  # all, so that a wrong one is told at once
    _check_validated(plans[0])
    runs = []
    for number, (own, plan) in enumerate(zip(asked, plans, strict=True), 1):
        _say(progress, f"seed {own.seed} ({number} of {len(asked)}): {own.run_dir}")
        result = _trained(own, plan, progress, only_missing)
        runs.append(_scored(result, own, plan, progress))
    found = SeedsResult(str(folder), config.algorithm, tuple(runs))
    about = {
        "runs": [asdict(run) for run in runs],
        "chosen": found.best.seed,
        "score_seeds": list(SCORE_SEEDS),
        "draw_seed": common,
    }
    write_text(folder / SUMMARY, json.dumps(about, indent=1) + "\n")
    return found


def read_summary(folder: Path) -> dict[str, Any]:
    """What ``train_seeds`` wrote of all runs.

    Raises:
        CheckpointError: nothing, or it is damaged.
    """
    file = folder / SUMMARY
    try:
        about: dict[str, Any] = json.loads(file.read_text("utf-8"))
        runs = [SeedRun(**run) for run in about["runs"]]
        if about["chosen"] not in [run.seed for run in runs]:
            raise ValueError(f"chosen is {about['chosen']}, which is no run")
    except OSError as error:
        raise CheckpointError(
            f"{file}: cannot be read ({error.strerror or error}); helm-gym train --seeds writes it "
            "when all seeds are trained"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file}: damaged ({error}); run helm-gym train --seeds") from None
    return about


def _check_validated(plan: Plan) -> None:
    chosen = plan.training_set
    if not plan.settings.validate_every or (chosen is not None and not chosen.validation):
        raise ConfigError(
            "several seeds are compared by validation, but nothing is validated; write "
            "validate_every=4, and validation scenarios into the suite"
        )


def _trained(config: TrainConfig, plan: Plan, progress: bool, only_missing: bool) -> TrainResult:
    """The result of a run: as kept, or of the rest of it, or of all of it."""
    folder = RunFolder(config.run_dir)
    if not only_missing or not folder.run_file.is_file():
        return train(config.model_copy(update={"overwrite": True}), progress)
    known = folder.read()[1]
    if known.digest() != plan.digest():
        raise ConfigError(
            f"{folder.path} holds a run of other settings ({known.digest()}, asked for is "
            f"{plan.digest()}); name another folder with --run-dir, or train anew with --overwrite"
        )
    if not folder.result.is_file():
        return resume(
            folder.path, threads=config.threads, progress=progress, allow=typed_names(config)
        )
    try:
        result = TrainResult(**json.loads(folder.result.read_text("utf-8")))
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{folder.result}: damaged ({error}); use --overwrite") from None
    # The folder may have been moved since.
    return TrainResult(
        **{**asdict(result), "run_dir": str(folder.path), "model": str(folder.model)}
    )


def _scored(result: TrainResult, config: TrainConfig, plan: Plan, progress: bool) -> SeedRun:
    model, scenarios, own = Path(result.model), scored_on(config), typed_names(config)
    key = digest_of(
        policy_digest(f"model:{model}", TrainedPolicy(model, own)),
        [scenario.digest() for scenario in scenarios],
        list(SCORE_SEEDS),
        code_digest(),
    )
    with open_store(Path(result.run_dir) / SCORES, json_codec(dict[str, float])) as store:
        cells = store.piece(
            key, lambda: score(model, scenarios, config.threads or 1, progress, own)
        )
    assert result.validation_reward is not None
    return SeedRun(
        seed=config.seed,
        folder=Path(result.run_dir).name,
        run=plan.digest(),
        decisions=result.decisions,
        chosen_at=result.chosen_at,
        validation_reward=result.validation_reward,
        score=_geometric_mean(list(cells.values())),
        cells=cells,
    )


def scored_on(config: TrainConfig) -> list[Scenario]:
    """As stated, never randomised: a suite's scenarios, each once, at its loads."""
    if config.suite is None:
        return [Scenario.load(config.scenario).replace(config.overrides)]
    suite = Suite.load(config.suite)
    loads = suite.loads if LOAD not in config.overrides else (config.overrides[LOAD],)
    others = tuple(own for own in suite.validation if own not in suite.training)
    return [
        Scenario.load(own).replace({**config.overrides, LOAD: load})
        for own, load in product((*suite.training, *others), loads)
    ]


def score(
    model: Path,
    scenarios: Sequence[Scenario],
    threads: int = 1,
    progress: bool = False,
    allow: Collection[str] = (),
) -> dict[str, float]:
    """P99 over all arrivals in SLOs by scenario and load, geometric mean over validation seeds.

    Args:
        model: file of the policy.
        scenarios: where it is judged.
        threads: simulator threads.
        progress: show a progress bar on stderr.
        allow: see :class:`~helm_gym.agents.models.trained.TrainedPolicy`.
    """
    policy = TrainedPolicy(model, allow)
    found = {}
    with progress_bar("scoring", sum(s.episode.steps for s in scenarios), wanted=progress) as bar:
        for scenario in scenarios:
            episodes = run_policy(
                scenario, policy, str(model), SCORE_SEEDS, threads=threads, tick=bar.advance
            )
            slo = scenario.slo.p99_ms.value
            name = f"{scenario.name} at {scenario.workload.load:g}"
            found[name] = _geometric_mean([e.figures["tail_ms"] / slo for e in episodes])
    return found


def seeds_table(result: SeedsResult) -> Table:
    """One row per run, the best one marked."""
    rows = [
        (
            str(run.seed), f"{run.validation_reward:.4f}", f"{run.chosen_at:,}",
            f"{run.score:.4f}", "best" if run is result.best else "",
        )
        for run in result.runs
    ]  # fmt: skip
    return make_table(
        ("seed", "validation reward", "after", "P99 / SLO", ""),
        rows,
        title="Trained with several seeds",
        caption=f"P99 / SLO: on validation seeds {SCORE_SEEDS[0]} to {SCORE_SEEDS[-1]}",
        left=0,
    )


def _geometric_mean(values: Sequence[float]) -> float:
    return math.exp(math.fsum(map(math.log, values)) / len(values))


def _say(wanted: bool, text: str) -> None:
    if wanted:
        from rich.console import Console

        Console(stderr=True).print(text, highlight=False, markup=False)
