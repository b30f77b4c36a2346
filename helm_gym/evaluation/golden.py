"""Golden trajectories: short fixed runs whose bits a change of structure must not touch.

``helm-gym golden`` plays them and compares their digests with those in ``golden.json``. Bits are
promised on one machine with one set of versions, so the file names both. Re-keying rows
(:mod:`helm_gym.benchmark.rekey`) is refused unless every digest is equal.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from helm_gym.baselines.registry import RULES
from helm_gym.config.quantity import Frozen
from helm_gym.config.routers import ROUTERS
from helm_gym.config.scenario import Scenario
from helm_gym.envs.vector_env import EmbKvVectorEnv
from helm_gym.errors import ConfigError
from helm_gym.evaluation.specs import make_policy
from helm_gym.files import write_text
from helm_gym.metrics import METRICS
from helm_gym.provenance import code_digest, machine, versions
from helm_gym.runs.rollout import run_policy

GOLDEN = Path(__file__).with_name("golden.json")
STEPS = 6  # windows per episode; shells play on into a second episode
SMALL: Mapping[str, Any] = {
    "nodes": 4,
    "workload.users": 20_000,
    "episode.steps": STEPS,
    "episode.warmup_s": 20.0,
    "episode.warm_starts": 2,
}
REGIMES = ("taobao-steady", "taobao-shift", "taobao-trend", "taobao-burst")
REFILL_MODES = ("naive", "throttled", "paced")
STALENESS_MS = 50.0
REWARD = "paper"  # stated, so that another default leaves the digests alone
POLICIES = (
    "static:0.45", "balance", "balance:control=cluster",
    *(name for name in RULES if name != "kv-emb-opt"), "kv-emb-opt:share=0.3", "ppo:released",
    "ppo:released-continuous", "recurrent-ppo:released", "sac:released", "dqn:released",
    "adapted:ppo:released", "adapted:static:0.5", "recovery:balance", "recovery(strict):aimd",
    "anchored(at=0.4,follow=0.5):ppo:released", "helm", "helm:adapter=off,recovery=off",
)  # fmt: skip
SEEDS = (40_000, 40_001)
FIGURES = sorted((*METRICS, "tail_ms", "reward"))
"""Figures of an episode that count. A later one is made of the same windows and moves no bit."""
POLICY_STEPS = 36  # three minutes: bursts come and go, and the residual learns


class Golden(Frozen):
    """Digests of all golden trajectories, and which states of the code are known to give them."""

    machine: str
    versions: dict[str, str]
    code: tuple[str, ...]  # code digests with these trajectories, the latest last
    trajectories: dict[str, str]  # digest by name

    @classmethod
    def load(cls, path: Path = GOLDEN) -> Golden:
        """Read the file of stored digests.

        Raises:
            ConfigError: it cannot be read.
        """
        try:
            return cls.parse(json.loads(path.read_text("utf-8")), str(path))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: cannot be read ({error}); run helm-gym golden") from None

    @classmethod
    def play(cls) -> Golden:
        """Play all golden trajectories now."""
        return cls(
            machine=machine(),
            versions=versions("numpy", "numba", "gymnasium", "torch"),
            code=(code_digest(),),
            trajectories=trajectories(),
        )

    def save(self, path: Path = GOLDEN) -> None:
        """Write the file of stored digests."""
        write_text(path, json.dumps(self.model_dump(mode="json"), indent=1) + "\n")

    def differences(self, now: Golden) -> list[str]:
        """Names of trajectories that are other ones now, are new, or are gone."""
        names = sorted(self.trajectories.keys() | now.trajectories.keys())
        return [n for n in names if self.trajectories.get(n) != now.trajectories.get(n)]

    def elsewhere(self, now: Golden) -> str:
        """How machine and versions differ, in words; empty if they do not."""
        pairs = {"machine": (self.machine, now.machine)}
        pairs |= {n: (self.versions.get(n, ""), now.versions.get(n, "")) for n in now.versions}
        return ", ".join(f"{n} {a} then, {b} now" for n, (a, b) in pairs.items() if a != b)

    def extended(self) -> Golden:
        """The same digests, known to come out of the present code too."""
        others = tuple(code for code in self.code if code != code_digest())
        return self.model_copy(update={"code": (*others, code_digest())})


def checked(stored: Golden) -> Golden:
    """Play all trajectories, and return ``stored`` with the present code among its states.

    Raises:
        ConfigError: a trajectory is not what it was; the message names the first ones.
    """
    now = Golden.play()
    names = stored.differences(now)
    if names:
        where = stored.elsewhere(now)
        why = f" Stored elsewhere: {where}; bits are promised on one machine." if where else ""
        raise ConfigError(
            f"{len(names)} of {len(stored.trajectories)} golden trajectories are not what they "
            f"were: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}.{why}"
        )
    return stored.extended()


def scenario_of(regime: str = "taobao-shift", **changes: Any) -> Scenario:
    """A small variant of a shipped scenario; dots of paths are written as two underscores."""
    paths = {path.replace("__", "."): value for path, value in changes.items()}
    return Scenario.load(regime).replace({**SMALL, **paths})


def trajectories() -> dict[str, str]:
    """Play every golden trajectory.

    Returns:
        Its digest, 16 hex digits, by name.
    """
    found: dict[str, str] = {}
    for router in ROUTERS:
        for staleness in (0.0, STALENESS_MS):
            scenario = scenario_of(router__name=router, router__staleness_ms=staleness)
            found[f"router/{router}/{staleness:g}ms"] = _vector(scenario)
    for regime in REGIMES:
        for mode in REFILL_MODES:
            found[f"refill/{mode}/{regime}"] = _vector(scenario_of(regime, refill__mode=mode))
        found[f"emb-lru/{regime}"] = _vector(scenario_of(regime, emb__policy="lru"))
    for autoreset in AutoresetMode:
        for control in ("cluster", "per_node", "node"):
            name = f"shell/vector/{control}/{autoreset.name.lower()}"
            found[name] = _vector(scenario_of(), control=control, autoreset_mode=autoreset)
    found["shell/vector/two-threads"] = _vector(scenario_of(), threads=2)
    found["shell/single"] = _single(scenario_of())
    found["shell/sb3"] = _sb3(scenario_of())
    for spec in POLICIES:
        found[f"policy/{spec}"] = _policy(spec)
    return found


def _vector(scenario: Scenario, **settings: Any) -> str:
    """Random shares in a native vector environment, over the end of an episode."""
    settings = {"autoreset_mode": AutoresetMode.SAME_STEP, "observation": "extended", **settings}
    env = EmbKvVectorEnv(2, scenario=scenario, reward=REWARD, **settings)
    rng = np.random.default_rng(0)
    seen = _Digest()
    observations, infos = env.reset(seed=7)
    seen.add(observations, _figures(infos))
    for _ in range(STEPS + 3):
        actions = rng.uniform(0.1, 0.9, env.action_space.shape or ()).astype(np.float32)
        observations, rewards, _, truncated, infos = env.step(actions)
        seen.add(observations, rewards, truncated, _figures(infos))
        if env.autoreset_mode is AutoresetMode.DISABLED and truncated.any():
            observations, infos = env.reset(options={"reset_mask": truncated})
            seen.add(observations, _figures(infos))
    env.close()
    return seen.text()


def _single(scenario: Scenario) -> str:
    env = gym.make("helm_gym:helm_gym/EmbKvAllocation-v0", scenario=scenario, reward=REWARD)
    rng = np.random.default_rng(0)
    seen = _Digest()
    observation, info = env.reset(seed=7)
    seen.add(observation, _figures(info))
    for _ in range(STEPS):
        action = rng.uniform(0.1, 0.9, 1).astype(np.float32)
        observation, reward, _, truncated, info = env.step(action)
        seen.add(observation, reward, truncated, _figures(info))
    env.close()
    return seen.text()


def _sb3(scenario: Scenario) -> str:
    from helm_gym.agents.sb3_vec_env import Sb3VecEnv

    inner = EmbKvVectorEnv(
        2, scenario=scenario, reward=REWARD, autoreset_mode=AutoresetMode.SAME_STEP
    )
    env = Sb3VecEnv(inner)
    env.seed(7)
    rng = np.random.default_rng(0)
    seen = _Digest()
    seen.add(env.reset())
    for _ in range(STEPS + 3):
        observations, rewards, dones, infos = env.step(
            rng.uniform(0.1, 0.9, (2, 1)).astype(np.float32)
        )
        seen.add(observations, rewards, dones, *(_figures(info) for info in infos))
    env.close()
    return seen.text()


def _policy(spec: str) -> str:
    """Episodes of a policy: shares in force, figures, histograms."""
    seen = _Digest()
    scenario = scenario_of("taobao-burst", episode__steps=POLICY_STEPS)
    for episode in run_policy(scenario, make_policy(spec), spec, SEEDS, reward=REWARD):
        figures = [episode.figures[name] for name in FIGURES]
        seen.add(episode.shares, figures, episode.latency, episode.warm)
    return seen.text()


def _figures(info: Mapping[str, Any]) -> NDArray[np.float64]:
    """The metrics in an info, in a fixed order; how infos name other things does not count."""
    return np.array([info[name] for name in METRICS if name in info], np.float64)


class _Digest:
    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, *values: Any) -> None:
        for value in values:
            array = np.asarray(value)
            # Adding 0 makes -0.0 and 0.0 one number.
            array = array + 0 if array.dtype.kind == "f" else array
            self._hash.update(f"{array.dtype.kind}{array.shape}".encode() + array.tobytes())

    def text(self) -> str:
        return self._hash.hexdigest()[:16]
