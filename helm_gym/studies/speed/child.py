"""One side of ``helm-gym speed --against``: times the package of one folder, piece by piece.

This file is run by its path, in a process of its own, and may meet a package much older than
itself. So it imports nothing of this package at the top, asks for what moved at both places, and
keeps to what has been stable: scenarios, the simulator's ``reset``, ``step`` and ``snapshot``, the
environment, and the controller. It reads one JSON value per line and answers with one.
"""

from __future__ import annotations

import importlib
import json
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import spec_from_file_location
from pathlib import Path
from typing import Any

SHARE = 0.5
MANY = 16  # clusters in turn
ROUTERS = ("predicted_completion", "foresight", "kv_affinity", "round_robin")
WINDOWS = 3  # simulated per timing of one cluster
STEPS, CALLS = 5, 300  # of the environment, of the controller, per timing
TRAINED = {
    "control": "node",
    "settings": {"action": "choice", "bound": 0.06, "gamma": 0.95, "batch_size": 768},
    "clusters": 24,
    "decisions": 9216,  # one round of 24 clusters x 8 nodes x 48 windows
}
"""The released recipe on one scenario: drawing the suite's would take minutes."""

Figures = dict[str, tuple[float, str, bool]]
"""By name: the figure, its unit, and whether more of it is better."""
Timed = Callable[[], Figures]


class OneTree:
    """Finds ``helm_gym`` in one checkout, with the packages that lie beside its folder there.

    What the checkout lacks is missing: an editable installation would lend it of another checkout.
    """

    def __init__(self, tree: Path) -> None:
        self.tree = tree

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """As every finder has it.

        Raises:
            ModuleNotFoundError: the checkout has no such part of the package.
        """
        above, _, inner = name.rpartition(".")
        if name.partition(".")[0] != "helm_gym":
            return None
        beside = above == "helm_gym" and (self.tree / inner / "__init__.py").is_file()
        where = [str(self.tree)] if beside or not above else path
        found = PathFinder.find_spec(inner if beside else name, where)
        if found is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        if not beside:
            return found
        folders = found.submodule_search_locations
        return spec_from_file_location(name, found.origin, submodule_search_locations=folders)


def either(*modules: str) -> Any:
    """The first of some modules that there is; the last one's error if there is none."""
    for module in modules[:-1]:
        try:
            return importlib.import_module(module)
        except ImportError:
            continue
    return importlib.import_module(modules[-1])


def feasibility(router: str = ROUTERS[0]) -> Any:
    """The scenario of all figures, 32 nodes, with a single warm start: they take long to make."""
    room = either("helm_gym.config.scenario", "helm_gym.config")
    changes = {"router.name": router, "episode.warm_starts": 1}
    return room.Scenario.load("feasibility").replace(changes)


class Clusters:
    """Simulators of one scenario that begin alike, made from one warm start."""

    def __init__(self, scenario: Any) -> None:
        self.scenario = scenario
        self.rooms = {
            name: importlib.import_module(f"helm_gym.{name}")
            for name in ("sim.simulator", "sim.layout", "seeding")
        }
        self.first = self.rooms["sim.simulator"].Simulator(scenario, 1)

    def simulator(self, clusters: int, threads: int = 1) -> Any:
        """Clusters with their own streams, one window in."""
        import numpy as np

        rows = []
        for cluster in range(clusters):
            streams = self.rooms["seeding"].streams_from_seed(cluster)
            self.first.reset(0, streams, share=SHARE)
            rows.append(self.first.snapshot())
        made = self.rooms["sim.simulator"].Simulator(self.scenario, clusters, threads)
        made.restore(np.concatenate(rows))
        made.step(np.full((clusters, self.scenario.nodes), SHARE))
        return made

    def ns(self, simulator: Any, windows: int = WINDOWS) -> float:
        """Wall time per request, in ns."""
        import numpy as np

        arrived = self.rooms["sim.layout"].Node.ARRIVED
        shares = np.full((simulator.clusters, self.scenario.nodes), SHARE)
        requests, began = 0.0, time.perf_counter()
        for _ in range(windows):
            requests += float(simulator.step(shares).node[:, :, arrived].sum())
        return 1e9 * (time.perf_counter() - began) / requests


def requests(router: str) -> Timed:
    """One cluster under a router."""
    room = Clusters(feasibility(router))
    one = room.simulator(1)
    return lambda: {f"request, {router}": (room.ns(one), "ns", False)}


def many() -> Timed:
    """Several clusters in turn, and one just before."""
    room = Clusters(feasibility())
    one, turn = room.simulator(1), room.simulator(MANY)

    def timed() -> Figures:
        alone, together = room.ns(one), room.ns(turn, 1)
        return {
            f"request, {MANY} clusters in turn": (together, "ns", False),
            f"request, {MANY} clusters in turn to one": (together / alone, "x", False),
        }

    return timed


def threads() -> Timed:
    """Two clusters on two threads, and the same two in turn just before."""
    room = Clusters(feasibility())
    turn, pair = room.simulator(2), room.simulator(2, threads=2)

    def timed() -> Figures:
        alone, together = room.ns(turn), room.ns(pair)
        return {
            "request, 2 clusters on 2 threads": (together, "ns", False),
            "throughput, 2 threads to one": (alone / together, "x", True),
        }

    return timed


def environment() -> Timed:
    """A step of the environment."""
    import numpy as np

    env = importlib.import_module("helm_gym.envs.vector_env").EmbKvVectorEnv(
        1, scenario=feasibility()
    )
    action = np.full((1, 1), SHARE)

    def timed() -> Figures:
        env.reset(seed=0)
        env.step(action)
        began = time.perf_counter()
        for _ in range(STEPS):
            env.step(action)
        return {"environment step": (1e3 * (time.perf_counter() - began) / STEPS, "ms", False)}

    return timed


def decision() -> Timed:
    """A decision of the controller for 32 nodes, from telemetry to shares."""
    room = either("helm_gym.studies.speed.decisions", "helm_gym.agents.decision_speed")
    controller, seen = room.HelmController(room.SITE, 32), room.example(32)

    def timed() -> Figures:
        began = time.perf_counter()
        for _ in range(CALLS):
            controller.decide(seen)
        return {"decision, 32 nodes": (1e6 * (time.perf_counter() - began) / CALLS, "us", False)}

    return timed


def training() -> Timed:
    """A training of one round, from its start to the stored model."""
    plan = either("helm_gym.agents.training.plan", "helm_gym.agents.run_folder")
    train = either("helm_gym.agents.training.train", "helm_gym.agents.train").train

    def timed() -> Figures:
        with tempfile.TemporaryDirectory() as folder:
            config = plan.TrainConfig(run_dir=f"{folder}/run", threads=1, **TRAINED)
            began = time.perf_counter()
            train(config, progress=False)
            return {"training, one round": (time.perf_counter() - began, "s", False)}

    return timed


ROOMS: dict[str, Callable[[], Timed]] = {
    **{f"router {name}": lambda name=name: requests(name) for name in ROUTERS},  # type: ignore[misc]
    "clusters": many,
    "threads": threads,
    "environment": environment,
    "decision": decision,
    "training": training,
}


def answers(lines: Iterator[str]) -> Iterator[Any]:
    """What each line's room measures; the first time it is prepared and measured without a look.

    A room that this package cannot run answers with the reason, as ``{"skipped": ...}``.
    """
    ready: dict[str, Timed] = {}
    for line in lines:
        name = json.loads(line)
        try:
            if name not in ready:
                ready[name] = ROOMS[name]()
                if name != "training":  # which takes long, and prepares itself
                    ready[name]()
                yield {}
            else:
                yield ready[name]()
        except Exception as error:
            reason = " ".join(str(error).split()) or "without a word"
            yield {"skipped": f"{type(error).__name__}: {reason}"}


def main(arguments: Sequence[str]) -> None:
    """Answer until the other end closes.

    Args:
        arguments: the folder of the checkout to time.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    tree = Path(arguments[0])
    here = Path(__file__).resolve().parent
    sys.path[:] = [str(tree), *(p for p in sys.path if Path(p).resolve() != here)]
    finder: Any = OneTree(tree)
    sys.meta_path.insert(0, finder)
    replies, sys.stdout = sys.stdout, sys.stderr  # whatever a library prints is no reply
    found = importlib.import_module("helm_gym").__file__
    print(json.dumps({"package": found}), file=replies, flush=True)
    for answer in answers(iter(sys.stdin.readline, "")):
        print(json.dumps(answer), file=replies, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
