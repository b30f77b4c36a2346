"""The demo: train PPO on a shifting workload, compare it with the baselines, write a report."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helm_gym.config.scenario import Scenario
from helm_gym.errors import ConfigError
from helm_gym.evaluation import report
from helm_gym.evaluation.evaluate import Evaluation, evaluate, save_rows
from helm_gym.evaluation.tables import result_table, span
from helm_gym.pages.templates import check_installed, write_page
from helm_gym.policy import Policy
from helm_gym.provenance import machine, versions
from helm_gym.suites.seeds import EVALUATION_SEEDS

if TYPE_CHECKING:
    from rich.console import Console

    from helm_gym.agents.training.train import TrainResult

PACKAGES = ("numpy", "numba", "gymnasium", "torch", "stable-baselines3")
MEANING = "of what the best static share of each phase carries"


@dataclass(frozen=True)
class Budget:
    """How much a demo does."""

    specs: tuple[str, ...]  # compared with PPO
    n_seeds: int
    overrides: Mapping[str, Any]  # of the scenario
    settings: Mapping[str, Any]  # of PPO; what is not named comes from agents/training/ppo.yaml
    loads: tuple[float, ...] = (0.95, 0.7)  # trained at the first


FULL = Budget(("static:best", "balance", "balance:best"), 5, {}, {})
# Everything happens once, nothing long enough to mean anything.
QUICK = Budget(
    specs=("static:best", "balance"),
    n_seeds=2,
    overrides={
        "nodes": 4,
        "workload.users": 20_000,
        "episode.steps": 12,
        "episode.warm_starts": 2,
    },
    settings={"updates": 4, "clusters": 4, "n_steps": 12},
)
QUICK_WARNING = (
    "This is a smoke test (--quick): a smaller scenario, seconds of training, two seeds. It shows "
    "that everything runs; its numbers mean nothing."
)


class DemoInterrupted(KeyboardInterrupt):
    """The user stopped the demo; the message says what is kept."""


def run_demo(
    out: str | os.PathLike[str] = "runs/demo",
    *,
    quick: bool = False,
    scenario: str = "taobao-shift",
    seed: int = 0,
    threads: int | None = None,
    progress: bool = True,
    console: Console | None = None,
) -> Path:
    """Train, compare and report.

    Args:
        out: folder of everything that is written; an earlier demo's results in it are replaced at
            the end, each file at once.
        quick: a smoke test of under a minute, and labelled so.
        scenario: where.
        seed: of the training.
        threads: simulator threads; as many as cores, at most two, by default.
        progress: show progress bars on stderr.
        console: where results are printed.

    Returns:
        Path of the report.

    Raises:
        ConfigError: packages are missing, or something cannot be used as asked.
        DemoInterrupted: after Ctrl-C.
    """
    from rich.console import Console

    check_installed()
    console = console or Console()
    demo = _Demo(Path(out), QUICK if quick else FULL, scenario, seed, threads, progress, console)
    try:
        return demo.run()
    except KeyboardInterrupt as error:
        raise DemoInterrupted(demo.what_is_kept(str(error))) from None


class _Demo:
    def __init__(
        self,
        out: Path,
        budget: Budget,
        scenario: str,
        seed: int,
        threads: int | None,
        progress: bool,
        console: Console,
    ) -> None:
        self.out, self.budget, self.seed = out, budget, seed
        self.scenario = Scenario.load(scenario).replace(budget.overrides)
        self.threads = threads or min(2, os.cpu_count() or 1)
        self.progress, self.console = progress, console
        self.training = out / "training"
        self.page = out / "report.html"
        self.again = self.page.exists()
        self.trained: TrainResult | None = None
        self.began = time.monotonic()

    def run(self) -> Path:
        quick = self.budget is QUICK
        if self.again:
            self._say(f"{self.out} holds an earlier demo; its results are replaced at the end.")
        if quick:
            self._say(QUICK_WARNING)
        self.out.mkdir(parents=True, exist_ok=True)
        name, nodes = self.scenario.name, self.scenario.nodes
        self._say(f"1/3 training PPO on {name}, {nodes} nodes, load {self.budget.loads[0]:g}")
        self.trained = self._train()
        evaluations = []
        for number, load in enumerate(self.budget.loads):
            self._say(f"2/3 comparing policies at load {load:g}")
            evaluations.append(self._evaluate(load))
            self.console.print(result_table(evaluations[number], self.console.width))
        self._say("3/3 writing the report")
        self._write(evaluations)
        return self.page

    def what_is_kept(self, training: str) -> str:
        """What a user has after Ctrl-C."""
        kept = []
        if self.trained is not None:
            kept.append(f"the trained model is kept in {self.trained.model}")
        elif training:
            kept.append(training)
        if self.again:
            kept.append(f"{self.page} is still the earlier demo's")
        return "demo stopped: " + ("; ".join(kept) or "nothing was written")

    def _train(self) -> TrainResult:
        try:
            from helm_gym.agents.training.train import TrainConfig, train
        except ImportError as error:
            raise ConfigError(
                f"training needs {error.name}: pip install 'helm-gym[train]'"
            ) from None
        config = TrainConfig(
            scenario=self.scenario.to_dict(),
            overrides={"workload.load": self.budget.loads[0]},
            settings=dict(self.budget.settings),
            seed=self.seed,
            run_dir=str(self.training),
            overwrite=True,
            threads=self.threads,
        )
        return train(config, progress=self.progress)

    def _evaluate(self, load: float) -> Evaluation:
        from helm_gym.agents.models.trained import TrainedPolicy

        assert self.trained is not None
        spec = f"ppo:{self.trained.model}"
        policy: Policy = TrainedPolicy(self.trained.model)
        return evaluate(
            self.scenario.replace({"workload.load": load}),
            [*self.budget.specs, spec],
            seeds=EVALUATION_SEEDS[: self.budget.n_seeds],
            policies={spec: policy},
            labels={spec: self.trained.label},
            threads=self.threads,
            progress=self.progress,
        )

    def _write(self, evaluations: list[Evaluation]) -> None:
        data = self._data(evaluations)
        page = report.render(data)
        save_rows(evaluations, self.out / "rows.parquet")
        write_page(self.out / "result.json", json.dumps(data) + "\n")
        write_page(self.page, page)
        for load in data["loads"]:
            for sentence in load["verdicts"]:
                self._say(sentence)
        done = "replaced" if self.again else "written"
        self._say(f"Report {done}: {self.page} ({time.monotonic() - self.began:.0f} s in all)")

    def _data(self, evaluations: list[Evaluation]) -> dict[str, Any]:
        sections = []
        for evaluation in evaluations:
            *others, ppo = evaluation.entries
            load = evaluation.scenario.workload.load
            meaning = f"{100 * load:.0f} % {MEANING}"
            pairs = [(ppo, other) for other in others]
            sections.append(report.load_section(evaluation, meaning, pairs))
        quick = self.budget is QUICK
        return {
            "title": f"helm-gym demo: {self.scenario.name}" + (" (smoke test)" if quick else ""),
            "warning": QUICK_WARNING if quick else "",
            "scenario": report.scenario_section(evaluations[0].scenario),
            "loads": sections,
            "curve": self._curve(),
            "curve_caption": self._curve_caption(),
            "about": self._about(evaluations),
            "assumptions": report.assumption_rows(self.scenario),
        }

    def _curve(self) -> list[dict[str, float]]:
        import csv

        with (self.training / "curve.csv").open(newline="", encoding="utf-8") as file:
            return [
                {name: float(value) for name, value in row.items() if value not in ("", "nan")}
                for row in csv.DictReader(file)
            ]

    def _curve_caption(self) -> str:
        assert self.trained is not None
        return (
            f"{self.trained.label}, one run with seed {self.seed}: {self.trained.decisions:,} "
            f"decisions in {self.trained.updates} updates; {self.trained.stopped}. The policy with "
            "the best reward on validation episodes is the one compared above."
        )

    def _about(self, evaluations: list[Evaluation]) -> list[list[str]]:
        assert self.trained is not None
        digests = [
            f"{e.scenario.digest()} at load {e.scenario.workload.load:g}" for e in evaluations
        ]
        searched = [s for e in evaluations for s in e.searches]
        return [
            ["scenario", f"{self.scenario.name}, version {self.scenario.version}"],
            ["digest", ", ".join(digests)],
            ["cluster", f"{self.scenario.nodes} nodes, router {self.scenario.router.name}"],
            ["training", f"seed {self.seed}, load {self.budget.loads[0]:g}, {self.trained.label}"],
            ["tuning seeds", span(searched[0].seeds) if searched else "none"],
            ["held-out seeds", span(evaluations[0].seeds)],
            ["versions", ", ".join(f"{n} {v}" for n, v in versions(*PACKAGES).items())],
            ["machine", machine()],
            [
                "time",
                f"{time.monotonic() - self.began:.0f} s, training {self.trained.seconds:.0f} s",
            ],
        ]

    def _say(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)
