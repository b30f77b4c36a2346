"""Workload against real logs: do profiles survive a round trip, and does Taobao's look like Taobao?

Three sources are compared with the 1,095 Taobao users: logs drawn from the shipped profile
(:mod:`helm_gym.workload.generate`), logs drawn from a profile fitted to that very log, and what the
simulator's own source emits.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from helm_gym.config.quantity import load_preset, walk
from helm_gym.config.scenario import Scenario
from helm_gym.config.workload import PROFILES, Profile
from helm_gym.fidelity.finding import Effort, Finding, Skipped
from helm_gym.fidelity.streams import (
    CACHE_SIZES,
    SCALES_S,
    TOP_SHARES,
    Figures,
    Stream,
    dispersion,
    distance,
    figures,
    top_mass,
)
from helm_gym.seeding import streams_from_seed
from helm_gym.sim.simulator import Simulator
from helm_gym.workload.fit import fit_profile
from helm_gym.workload.generate import generate_log, write_log
from helm_gym.workload.logs import InteractionLog, read_interactions
from helm_gym.workload.overlay import overlay

Floats = NDArray[np.float64]

USERS_LOG = "traces/taobao_userbehavior_users1095.parquet"
SLICE = "traces/taobao_userbehavior_slice_130min.parquet"
SOURCE = "Taobao UserBehavior, 1,095 whole users, 2017-11-25 to 12-03"
SLICE_SOURCE = "Taobao UserBehavior, 130 minutes of all users, 2017-11-26"
SLICE_KEPT = 0.1045  # part of the events in the slice
USERS, DAYS, UTC_OFFSET_H, CATALOGUE = 1095, 9.0, 8.0, 4_162_024
LOGS, QUICK_LOGS, QUICK_USERS = 12, 3, 400
BEST, LARGEST_Z = "shipped profile", 1.5  # errors are themselves estimates
SCALE = 1.0 / 30.0  # gap_scale of taobao-steady
COPIES = 32  # of the 1,095 users that one simulated node serves
SHARE = 0.6
QUICK_PART = 0.2  # of the nine days
GAP_TARGET, CURVE_TARGET = 0.05, 5.0


def checks(effort: Effort) -> Iterator[Finding | Skipped]:
    """Round trip of the shipped profile, and its logs and requests against Taobao's."""
    profile = load_preset(Profile, "taobao", PROFILES, "profile")
    yield from round_trip(profile, effort)
    path = effort.find(USERS_LOG)
    if path is None:
        yield Skipped("workload", f"profile taobao against {SOURCE}", f"{USERS_LOG} is not here")
        return
    real = read_interactions(path)
    target = figures(_stream(real))
    fitted = fit_profile(
        path, name="fitted", utc_offset_h=UTC_OFFSET_H, catalogue_items=CATALOGUE
    ).profile
    for name, source in ((BEST, profile), ("profile fitted to it", fitted)):
        log = generate_log(source, users=USERS, days=DAYS, seed=effort.seed)
        compared = f"log drawn from the {name} against the real log"
        yield from against(compared, figures(_stream(log)), target)
        yield _popularity(compared, _viewers(log), _viewers(real), SOURCE)
    # The source's rate is steady, so the real users are shifted out of their common day.
    rng = np.random.default_rng(effort.seed)
    spread, time = real.user, real.time_s - real.time_s[0]
    _, spread, time = overlay(spread, time, float(time[-1]) + 1.0, 1, 0.0, rng)
    if effort.quick:
        part = time < QUICK_PART * time[-1]
        spread, time = spread[part], time[part]
    yield from against(
        "requests of the simulator's source against the real users, their days shifted",
        figures(emitted(profile, effort), SCALE),
        figures(Stream(spread.astype(np.int64), time)),
    )
    yield from _slice(profile, effort)


def round_trip(profile: Profile, effort: Effort) -> Iterator[Finding]:
    """Draw logs from a profile, fit them, and compare with what they were drawn from."""
    logs, users = (QUICK_LOGS, QUICK_USERS) if effort.quick else (LOGS, USERS)
    true = {path: q.value for path, q in walk(profile)}
    hours = np.array([q.value for q in profile.hourly])
    deviations: dict[str, list[float]] = {}
    table = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log.parquet"
        for n in range(logs):
            write_log(generate_log(profile, users=users, days=DAYS, seed=effort.seed + n), path)
            catalogue = int(profile.popularity.catalogue_items.value)
            fitted = fit_profile(path, name="again", catalogue_items=catalogue)
            values = dict(walk(fitted.profile))
            for row in fitted.findings:
                if row.se:
                    off = (values[row.setting].value - true[row.setting]) / float(row.se)
                    deviations.setdefault(row.setting, []).append(off)
            table.append([q.value for q in fitted.profile.hourly])
    rms = {name: float(np.sqrt(np.mean(np.square(off)))) for name, off in deviations.items()}
    worst = max(rms, key=lambda name: rms[name])
    yield Finding(
        "profile fit",
        f"{len(rms)} settings fitted to {logs} logs of {users} users drawn from profile "
        f"{profile.name}, and the profile",
        logs,
        "largest root mean square deviation of a setting",
        rms[worst],
        "standard errors",
        "generated logs",
        LARGEST_Z,
        f"largest for {worst}; 1 if a fit is unbiased and its standard error right",
        {"deviations": deviations},
    )
    mean = np.mean(table, axis=0)
    yield Finding(
        "profile fit",
        "hour table of the same logs, and the profile's",
        24 * logs,
        "part of the requests in other hours",
        float(50.0 * np.abs(mean / mean.sum() - hours / hours.sum()).sum()),
        "%",
        "generated logs",
        5.0,
        "sessions last, so the night hears an echo of the evening",
        {"hours": mean.tolist(), "profile": hours.tolist()},
    )


def against(compared: str, ours: Figures, real: Figures) -> Iterator[Finding]:
    """Gaps, returns, lengths, LRU over users and dispersion of two streams."""
    for part, mine, theirs, target in (
        ("gaps inside sessions", ours.gaps, real.gaps, GAP_TARGET),
        ("gaps between sessions", ours.returns, real.returns, 0.1),
        ("session lengths", ours.lengths, real.lengths, 0.1),
    ):
        value, critical = distance(mine, theirs)
        medians = f"medians {np.median(mine):.4g} and {np.median(theirs):.4g}"
        note = f"critical value at 5 % {critical:.3f}; {medians}"
        if part == "session lengths":
            singles = [100.0 * float((x == 1).mean()) for x in (mine, theirs)]
            note += f"; {singles[0]:.0f} and {singles[1]:.0f} % have one event"
        yield Finding(
            part, compared, mine.size, "KS distance", value, "1", SOURCE, target, note,
            {"quantiles": _quantiles(mine, theirs)},
        )  # fmt: skip
    gap = 100.0 * (ours.lru - real.lru)
    at = int(np.argmax(np.abs(gap)))
    yield Finding(
        "LRU over users",
        compared,
        len(CACHE_SIZES),
        "largest gap of hit rates",
        float(np.abs(gap[at])),
        "points",
        SOURCE,
        CURVE_TARGET,
        f"at {100 * CACHE_SIZES[at]:g} % of the users",
        {"sizes": CACHE_SIZES, "ours": ours.lru.tolist(), "real": real.lru.tolist()},
    )
    yield _dispersion(compared, ours.dispersion, real.dispersion, SOURCE)


def _dispersion(compared: str, ours: Floats, real: Floats, source: str, note: str = "") -> Finding:
    pairs = ", ".join(
        f"{scale:g} s {mine:.2f} and {theirs:.2f}"
        for scale, mine, theirs in zip(SCALES_S, ours, real, strict=True)
    )
    return Finding(
        "dispersion of arrivals",
        compared,
        len(SCALES_S),
        "largest difference of the index of dispersion",
        float(np.abs(ours - real).max()),
        "1",
        source,
        None,
        f"{pairs}; inside stretches of 10 minutes{note}",
    )


def _popularity(compared: str, ours: Any, real: Any, source: str) -> Finding:
    mine, theirs = 100.0 * top_mass(ours), 100.0 * top_mass(real)
    at = int(np.argmax(np.abs(mine - theirs)))
    return Finding(
        "popularity of items",
        compared,
        len(TOP_SHARES),
        "largest gap of the views of the top items seen",
        float(np.abs(mine - theirs)[at]),
        "points",
        source,
        CURVE_TARGET,
        f"at the top {100 * TOP_SHARES[at]:g} %; {ours.size:,} and {real.size:,} items seen, a "
        "user counted once",
        {"shares": TOP_SHARES, "ours": mine.tolist(), "real": theirs.tolist()},
    )


def _slice(profile: Profile, effort: Effort) -> Iterator[Finding | Skipped]:
    """The cross-section of all users: popularity, and arrivals on the finest scale."""
    path = effort.find(SLICE)
    if path is None:
        yield Skipped("workload", f"profile taobao against {SLICE_SOURCE}", f"{SLICE} is not here")
        return
    real = read_interactions(path)
    rng = np.random.default_rng(effort.seed)
    law = profile.popularity
    ranks = np.arange(1, int(law.catalogue_items.value) + 1)
    mass = (ranks + law.shift_items.value) ** -law.exponent.value
    ours = rng.poisson(_viewers(real).sum() * mass / mass.sum())
    yield _popularity(
        "the profile's law against the slice", ours[ours > 0], _viewers(real), SLICE_SOURCE
    )
    users = 2000 if effort.quick else 20_000
    log = generate_log(profile, users=users, days=1.0, seed=effort.seed)
    morning = log.time_s % 86_400.0
    inside = (morning >= 9 * 3600) & (morning < 9 * 3600 + 130 * 60)
    yield _dispersion(
        f"mornings of {users:,} users drawn from the profile against the slice",
        dispersion(log.time_s[inside]),
        dispersion(real.time_s, SLICE_KEPT),
        SLICE_SOURCE,
        "; 4 in a minute of 8,000 requests is a common swing of 2 % that no profile holds",
    )


def emitted(profile: Profile, effort: Effort) -> Stream:
    """Requests of one simulated node, of every ``COPIES``-th user.

    The node serves ``COPIES`` times the real log's users at their own rate, sped up by ``SCALE``.
    """
    seconds = DAYS * 86_400.0 * SCALE * (QUICK_PART if effort.quick else 1.0)
    scenario = steady_scenario(profile, COPIES, 0.9).replace({"episode.step_s": 10.0})
    simulator = Simulator(scenario)
    simulator.reset(0, streams_from_seed(effort.seed), share=SHARE)
    kept = []
    for _ in range(round(seconds / scenario.episode.step_s)):
        seen = simulator.record(np.full(1, SHARE), 0, capacity=20_000)
        kept.append(seen[seen[:, 1] % COPIES == 0, :2])
    rows = np.concatenate(kept)
    return Stream(rows[:, 1].astype(np.int64), rows[:, 0])


def steady_scenario(profile: Profile, copies: int, load: float) -> Scenario:
    """One node of taobao-steady that serves ``copies`` times 1,095 users."""
    return Scenario.load("taobao-steady").replace(
        {
            "nodes": 1,
            "workload.profile": profile.model_dump(mode="json"),
            "workload.users": copies * USERS,
            "workload.load": load,
            "episode.warm_starts": 1,
            "episode.warmup_s": 300.0,
        }
    )


def _stream(log: InteractionLog) -> Stream:
    return Stream(log.user.astype(np.int64), log.time_s)


def _viewers(log: InteractionLog) -> NDArray[np.int64]:
    """How many users looked at each item."""
    pairs = np.unique(log.user.astype(np.int64) * log.item_ids.size + log.item)
    return np.bincount(pairs % log.item_ids.size)


def _quantiles(ours: Floats, real: Floats) -> dict[str, list[float]]:
    at = np.linspace(0.01, 0.99, 50)
    return {"ours": np.quantile(ours, at).tolist(), "real": np.quantile(real, at).tolist()}
