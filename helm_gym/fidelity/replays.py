"""Replaying Taobao's log against simulating its profile: the same load, users and pace.

One node of ``taobao-steady``. The log's 1,095 users are laid over each other ``COPIES`` times, each
shifted in time, so that the node is loaded while gaps are sped up by 30 only, as those of the
scenario's surfaces are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from helm_gym.config.quantity import Quantity, load_preset
from helm_gym.config.scenario import Scenario
from helm_gym.config.workload import PROFILES, Profile
from helm_gym.fidelity.finding import Effort, Finding, Skipped
from helm_gym.fidelity.workload import (
    CATALOGUE,
    SOURCE,
    USERS_LOG,
    UTC_OFFSET_H,
    steady_scenario,
)
from helm_gym.metrics import EpisodeMetrics
from helm_gym.seeding import streams_from_seed
from helm_gym.sim.simulator import Simulator
from helm_gym.workload.fit import fit_profile
from helm_gym.workload.item_laws import observed_law
from helm_gym.workload.logs import read_interactions
from helm_gym.workload.replay import load_replay

Floats = NDArray[np.float64]

COPIES = 20  # with which the load needs 30 times the log's pace
LOAD = 0.6  # of the best share's capacity; higher ones saturate the outer shares
SHARES, QUICK_SHARES = (0.2, 0.4, 0.6, 0.8), (0.6,)
SEEDS, QUICK_SEEDS = 5, 2
MEASURE_S, QUICK_S = 900.0, 200.0
TARGET = 10.0  # %
MEASURES = {
    "p99_ms": "P99",
    "kv_hit_rate": "KV hit rate",
    "emb_hit_rate": "EMB hit rate",
}


class Pair(NamedTuple):
    """A replay and the simulation it is compared with."""

    compared: str
    replay: Scenario
    simulated: Scenario
    note: str


def checks(effort: Effort) -> Iterator[Finding | Skipped]:
    """P99 and hit rates of the replayed log and of its profile, at several shares."""
    path = effort.find(USERS_LOG)
    if path is None:
        yield Skipped("replay", f"profile taobao against the replay of {SOURCE}", "no such file")
        return
    shares = QUICK_SHARES if effort.quick else SHARES
    seeds = [effort.seed + n for n in range(QUICK_SEEDS if effort.quick else SEEDS)]
    seconds = QUICK_S if effort.quick else MEASURE_S
    measured: dict[str, dict[float, Floats]] = {}
    for pair in pairs(path, effort.quick):
        for scenario in (pair.replay, pair.simulated):
            if scenario.digest() not in measured:
                measured[scenario.digest()] = measure(scenario, shares, seeds, seconds)
        yield from compare(pair, measured[pair.replay.digest()], measured[pair.simulated.digest()])


def pairs(path: Path, quick: bool) -> Iterator[Pair]:
    """What is compared; the first replay takes items from the profile, the others from the log."""
    profile = load_preset(Profile, "taobao", PROFILES, "profile")
    base = steady_scenario(profile, COPIES, LOAD)
    log = {"path": str(path), "overlay": COPIES}
    by_law = base.replace({"workload.replay": {**log, "items": "profile"}})
    factor = load_replay(by_law, np.random.default_rng(0)).compression
    pace = f"{COPIES} copies of the users, compressed {factor:.1f} times; both look the same law up"
    yield Pair(
        "users and pace of the log, items of the profile", by_law, _paced(base, factor), pace
    )
    if quick:
        return
    fitted = fit_profile(
        path, name="taobao", utc_offset_h=UTC_OFFSET_H, catalogue_items=CATALOGUE
    ).profile
    refitted = fitted.model_copy(update={"popularity": profile.popularity})
    yield Pair(
        "the same replay against a profile fitted to the log's users and pace",
        by_law,
        _paced(_with(base, refitted), factor),
        pace,
    )
    by_log = base.replace({"workload.replay": log})
    yield Pair(
        "users, pace and items of the log",
        by_log,
        _paced(base, factor),
        "1,095 users saw 70,145 of 4,162,024 items: a sample hides how skewed demand is",
    )
    seen = _with(base, profile.model_copy(update={"popularity": _law_of_ranks(path, profile)}))
    yield Pair(
        "the same replay against the law of the items that the log saw",
        by_log,
        _paced(seen, factor),
        "as if the 70,145 items were the catalogue, and without interest groups",
    )


def _with(scenario: Scenario, profile: Profile) -> Scenario:
    return scenario.replace({"workload.profile": profile.model_dump(mode="json")})


def _paced(scenario: Scenario, factor: float) -> Scenario:
    """Gaps sped up exactly as the replay's."""
    surfaces = scenario.workload.surfaces
    return scenario.replace(
        {f"workload.surfaces.{n}.gap_scale": 1.0 / factor for n in range(len(surfaces))}
    )


def _law_of_ranks(path: Path, profile: Profile) -> object:
    """The profile's popularity with the law of the ranks that the log shows."""
    log = read_interactions(path)
    law = observed_law(np.bincount(log.item))
    return profile.popularity.model_copy(
        update={
            "catalogue_items": Quantity(value=float(log.item_ids.size), unit="items"),
            "exponent": Quantity(value=law.exponent.value),
            "shift_items": Quantity(value=law.shift.value, unit="items"),
            "own_interest_share": Quantity(value=0.0),
        }
    )


def measure(
    scenario: Scenario, shares: tuple[float, ...], seeds: list[int], seconds: float
) -> dict[float, Floats]:
    """Figures of a scenario at static shares.

    Returns:
        By share, (seeds, MEASURES).
    """
    found: dict[float, list[list[float]]] = {share: [] for share in shares}
    for seed in seeds:
        own = scenario.replace({"structure_seed": seed})
        simulator = Simulator(own)
        for share in shares:
            simulator.reset(0, streams_from_seed(seed), share=share)
            fixed = np.full((1, own.nodes), share)
            metrics = EpisodeMetrics(own)
            for _ in range(round(seconds / own.episode.step_s)):
                metrics.add(simulator.step(fixed), fixed)
            result = metrics.result()
            found[share].append([result[name] for name in MEASURES])
    return {share: np.array(rows) for share, rows in found.items()}


def compare(
    pair: Pair, replay: Mapping[float, Floats], simulated: Mapping[float, Floats]
) -> Iterator[Finding]:
    """One finding per measure: the simulation's largest deviation from the replay, over shares."""
    for column, name in enumerate(MEASURES):
        rows = {
            share: deviation(simulated[share][:, column], replay[share][:, column])
            for share in replay
        }
        worst = max(rows, key=lambda share: abs(rows[share][0]))
        each = "; ".join(f"{s:g}: {off:+.1f} ± {half:.1f} %" for s, (off, half) in rows.items())
        yield Finding(
            f"replay, {MEASURES[name]}",
            pair.compared,
            len(replay) * len(next(iter(replay.values()))),
            "largest deviation of the simulated profile over shares",
            abs(rows[worst][0]),
            "%",
            SOURCE,
            TARGET,
            f"by share {each} (95 %); {pair.note}",
            {
                "shares": list(rows),
                "replay": [replay[share][:, column].tolist() for share in rows],
                "simulated": [simulated[share][:, column].tolist() for share in rows],
            },
        )


def deviation(ours: Floats, theirs: Floats) -> tuple[float, float]:
    """Mean of ``ours`` over that of ``theirs`` minus 1, in %, and half of its 95 % interval."""
    base = float(theirs.mean())
    error = np.sqrt(ours.var(ddof=1) / ours.size + theirs.var(ddof=1) / theirs.size)
    # Welch's degrees of freedom are at least those of the smaller sample.
    quantile = float(student.ppf(0.975, min(ours.size, theirs.size) - 1))
    return 100.0 * (float(ours.mean()) / base - 1.0), 100.0 * quantile * float(error) / base
