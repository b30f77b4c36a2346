"""Proof by trial that no index of a kernel leaves its array: ``helm-gym check-bounds``.

Kernels run without bounds checks, where a wrong index corrupts memory. A child process compiles
them with checks and plays random scenarios at the ends of their ranges. First it proves that its
checks work, on a kernel that is wrong on purpose.
"""

from __future__ import annotations

import faulthandler
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from helm_gym.envs.vector_env import EmbKvVectorEnv
from helm_gym.errors import ConfigError, HelmGymError
from helm_gym.fidelity.extremes import draw_scenario
from helm_gym.sim.compiled import inlined, kernel

SLOWEST_S = 60.0  # of one scenario; then it is given up and the next one played
DRAWS = 30  # tries to draw numbers that go together
WINDOWS = 3
MODULE = "helm_gym.fidelity.bounds"


@dataclass
class Found:
    """What a check found."""

    played: int = 0
    requests: int = 0
    refused: int = 0  # draws whose numbers exclude each other
    stopped: int = 0  # scenarios that ended in one of the library's own errors
    slow: list[int] = field(default_factory=list)  # scenarios given up after SLOWEST_S
    faults: dict[int, str] = field(default_factory=dict)  # scenario -> what happened
    next: int = 0  # first scenario that was not played


def check_bounds(
    scenarios: int = 1000,
    seed: int = 0,
    first: int = 0,
    minutes: float = 60.0,
    tick: Callable[[Found], None] = lambda found: None,
) -> Found:
    """Play random scenarios in a process whose kernels check every index.

    Args:
        scenarios: how many.
        seed: decides all scenarios; number i is the same whatever else is played.
        first: number of the first one, to go on where a check stopped.
        minutes: after which no further scenario begins.
        tick: called after each one.

    Raises:
        ConfigError: the child process does not check, or cannot run.
    """
    found, end = Found(next=first), time.monotonic() + 60.0 * minutes
    while found.next < first + scenarios and time.monotonic() < end:
        before = found.next
        code = _watch(found, seed, first + scenarios, end, tick)
        if found.next == before and code not in (0, 1):
            raise ConfigError(f"the checking process ended with {code} before it played anything")
    return found


def _watch(found: Found, seed: int, stop: int, end: float, tick: Callable[[Found], None]) -> int:
    """Run one child until it ends; note the scenario that ended it."""
    command = [sys.executable, "-m", MODULE, str(seed), str(found.next), str(stop)]
    environment = {**os.environ, "NUMBA_BOUNDSCHECK": "1"}
    begun = None
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for line in child.stdout:
            event = json.loads(line)
            if "unchecked" in event:
                raise ConfigError("this build of numba does not check bounds; nothing was proved")
            if "begin" in event:
                begun = event["begin"]
                continue
            _note(found, event)
            begun = None
            tick(found)
            if time.monotonic() > end:
                child.terminate()
                return 0
    code = child.returncode
    if begun is not None:
        found.next = begun + 1
        if code == 1:
            found.slow.append(begun)
        else:
            found.faults[begun] = f"the process died with {code}"
        tick(found)
    return code


def _note(found: Found, event: dict[str, Any]) -> None:
    found.next = event["scenario"] + 1
    found.played += 1
    found.requests += event["requests"]
    found.refused += event["refused"]
    found.stopped += event["stopped"]
    if event["fault"]:
        found.faults[event["scenario"]] = event["fault"]


# -- the child process ---------------------------------------------------------------------------
@inlined
def _wrong(values: Any, index: int) -> Any:
    return values[index]


@kernel
def _planted(values: Any, index: int) -> Any:
    """Read beyond an array on purpose, one call deep, as kernels do."""
    return values[0] + _wrong(values, index)


def checks_work() -> bool:
    """Whether an index beyond its array raises in this process."""
    values = np.zeros(4)
    _planted(values, 3)
    try:
        _planted(values, int(values.size))
    except IndexError:
        return True
    return False


def play(seed: int, number: int, folder: Path) -> dict[str, Any]:
    """Play one random scenario and say how that went."""
    rng = np.random.default_rng([seed, number])
    refused, stopped, requests, fault = 0, 0, 0, ""
    for _ in range(DRAWS):
        try:
            scenario = draw_scenario(rng, folder)
            env = EmbKvVectorEnv(
                1, scenario=scenario, observation="extended", control=_control(rng)
            )
        except HelmGymError:
            refused += 1
            continue
        except Exception as error:
            fault = f"{type(error).__name__}: {error}"
            break
        try:
            requests = sum(_windows(env, rng))
        except HelmGymError:
            stopped = 1
        except Exception as error:
            fault = f"{scenario.name}: {type(error).__name__}: {error}"
        env.close()
        break
    told = {"scenario": number, "refused": refused, "stopped": stopped}
    return {**told, "requests": requests, "fault": fault}


def _control(rng: np.random.Generator) -> str:
    return str(rng.choice(["cluster", "per_node", "node"]))


def _windows(env: EmbKvVectorEnv, rng: np.random.Generator) -> Iterator[int]:
    """Requests of a few windows under shares from one end to the other."""
    env.reset(seed=int(rng.integers(1 << 31)))
    simulator, nodes = env.simulator, env.nodes
    for _ in range(WINDOWS):
        env.step(rng.choice([0.0, 1.0, rng.random()], env.action_space.shape).astype(np.float32))
    saved = simulator.snapshot()
    for shares in (np.zeros(nodes), np.ones(nodes), rng.integers(0, 2, nodes), rng.random(nodes)):
        simulator.set_refill_pace(rng.choice([0.0, 1.0, 0.5], (1, nodes)))
        yield len(simulator.record(shares.astype(float), 0))
    simulator.restore(saved)
    yield int(simulator.step(rng.random((1, nodes))).node[:, :, 0].sum())


def main(seed: int, first: int, stop: int) -> None:
    """Play scenarios ``first`` to ``stop - 1``, a line of JSON for each."""
    warnings.simplefilter("ignore")  # of numpy about extreme numbers, and of extrapolation
    np.seterr(all="ignore")
    if not checks_work():
        print(json.dumps({"unchecked": True}), flush=True)
        return
    with tempfile.TemporaryDirectory() as folder:
        for number in range(first, stop):
            print(json.dumps({"begin": number}), flush=True)
            warm = number > first  # the first one compiles
            faulthandler.dump_traceback_later(SLOWEST_S if warm else 600.0, exit=True)
            told = play(seed, number, Path(folder))
            faulthandler.cancel_dump_traceback_later()
            print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
