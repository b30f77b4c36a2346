"""Turning an interactions log into a workload profile, and saying what the log cannot tell."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import erfinv

from helm_gym.config.quantity import load_preset
from helm_gym.config.workload import PROFILES, Profile
from helm_gym.errors import ConfigError
from helm_gym.workload import fit_laws, item_laws
from helm_gym.workload.fit_laws import Estimate
from helm_gym.workload.fit_report import DAY_S, Draft, Finding, FittedProfile
from helm_gym.workload.logs import YEAR_1990, InteractionLog, TimeUnit, read_interactions
from helm_gym.workload.replay import SESSION_GAP_S, session_starts

Floats = NDArray[np.float64]

ONE_REQUEST_S = 10.0  # events of a user at most this far apart came with one request
COARSEST_S = 10.0  # clock step up to which gaps inside a session can be told
HOUR_S = 3600.0
SESSIONS_NEED_S = 6 * HOUR_S  # shorter logs cut many sessions short
RETURNS_NEED_S = 3 * DAY_S  # users come back after hours and days
ENOUGH = 100  # observations below which a law is not fitted
ENOUGH_USERS = 30
RANKS_KNOWN = 0.98  # coverage from which observed ranks are taken for true ones
HALF = 0.5  # part of a catalogue that a log should have seen to tell its size

SESSION_PATHS = ("session_length", "gap", "between_sessions", "new_items_per_request")
UNSEEN = {
    "popularity.own_interest_share": "a log does not separate own from common interests",
    "popularity.interest_spread": "a log does not separate own from common interests",
    "popularity.interest_groups": "the number of groups is a choice; replay finds members for it",
    "interest_half_life_s": "drift cannot be told from sampling noise in a short log",
}


def fit_profile(
    log: str | Path,
    *,
    name: str,
    time_unit: TimeUnit = "s",
    time_column: str | None = "timestamp",
    base: str = "taobao",
    utc_offset_h: float = 0.0,
    catalogue_items: int | None = None,
) -> FittedProfile:
    """Fit a profile to a log with columns ``user_id``, ``item_id`` and a time.

    Args:
        log: a Parquet or CSV file, see :mod:`helm_gym.workload.logs`.
        name: of the new profile.
        time_unit: unit of the time column.
        time_column: its name; None fits what needs no clock.
        base: profile (name or file) that fills in what the log cannot tell, flagged as assumed.
        utc_offset_h: the users' clock minus UTC, for the table of hours.
        catalogue_items: size of the whole catalogue, if known; else it is estimated.

    Raises:
        LogError: the file cannot be used; names file, column and row.
        ConfigError: a setting is impossible.
    """
    if not -24.0 < utc_offset_h < 24.0:
        raise ConfigError(f"utc_offset_h {utc_offset_h:g} must lie between -24 and 24 hours")
    events = read_interactions(log, time_unit, time_column)
    if catalogue_items is not None and catalogue_items < events.item_ids.size:
        raise ConfigError(
            f"catalogue_items {catalogue_items} is fewer than the {events.item_ids.size} items in "
            f"{log}; leave it out to have it estimated"
        )
    fit = Draft(Path(log).name, load_preset(Profile, base, PROFILES, "profile"))
    fit.notes += events.notes
    fit.facts |= _describe(events)
    _fit_popularity(fit, events, catalogue_items)
    lengths = None
    if time_column is None:
        for path in (*SESSION_PATHS, "hourly"):
            fit.keep(path, "the log was read without its clock")
    else:
        lengths = _fit_clock(fit, events, utc_offset_h)
    _fit_users(fit, events, lengths)
    for path, why in UNSEEN.items():
        fit.keep(path, why)
    return fit.result(name)


def _describe(log: InteractionLog) -> dict[str, float]:
    per_user = np.bincount(log.user)
    median, tenth, hundredth = np.quantile(per_user, [0.5, 0.9, 0.99])
    return {
        "events": float(log.user.size),
        "users": float(log.user_ids.size),
        "items": float(log.item_ids.size),
        "span_days": float(log.time_s[-1] - log.time_s[0]) / DAY_S,
        "events_per_user": float(per_user.mean()),
        "events_per_user_p50": float(median),
        "events_per_user_p90": float(tenth),
        "events_per_user_p99": float(hundredth),
    }


def _fit_popularity(fit: Draft, log: InteractionLog, catalogue: int | None) -> None:
    pairs = np.unique(log.user.astype(np.int64) * log.item_ids.size + log.item)
    viewers = np.bincount(pairs % log.item_ids.size)
    fit.facts["repeated_share"] = 1.0 - pairs.size / log.user.size
    again = int((viewers > 1).sum())
    if again < ENOUGH:
        for path in ("catalogue_items", "exponent", "shift_items"):
            fit.keep(f"popularity.{path}", f"only {again} items were seen by two users")
        return
    covered = item_laws.coverage(viewers)
    fit.facts["coverage"] = covered
    views = np.bincount(log.item)
    if covered >= RANKS_KNOWN:
        how = "likelihood of the ranks"
        law = item_laws.ranked_law(views, catalogue)
    else:
        how = f"likelihood of counts of counts; {covered:.0%} of demand goes to items seen"
        law = item_laws.sampled_law(viewers, catalogue, _viewers_by_part(log, pairs))
    if catalogue is not None:
        fit.state("popularity.catalogue_items", catalogue, "size given by the user")
    elif covered >= RANKS_KNOWN:
        why = f"{views.size:,} items in the log, and Chao's estimate of those not seen"
        fit.state("popularity.catalogue_items", law.items.value, why)
    else:
        fit.set("popularity.catalogue_items", law.items, views.size, f"{how}; a lower bound")
    fit.set("popularity.exponent", law.exponent, views.size, how)
    fit.set("popularity.shift_items", law.shift, views.size, how)
    if catalogue is None and views.size < HALF * law.items.value:
        fit.notes.append(
            f"The log saw {views.size / law.items.value:.0%} of the items that the fit supposes. "
            "Real catalogues are often larger still, and more skewed: if the size is known, give "
            "catalogue_items."
        )
    if viewers.min() > 1:
        fit.notes.append(
            f"No item has fewer than {viewers.min()} viewers: a filter seems to have cut the tail, "
            "and the popularity law is that of the items it left."
        )


def _viewers_by_part(log: InteractionLog, pairs: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """Viewers of each item in groups of users, (USER_GROUPS, items); None for too few users.

    Args:
        log: with I items.
        pairs: distinct user * I + item.
    """
    groups, items = fit_laws.USER_GROUPS, log.item_ids.size
    if log.user_ids.size < 2 * groups:
        return None
    user, item = np.divmod(pairs, items)
    cells = np.bincount(user % groups * items + item, minlength=groups * items)
    return cells.reshape(groups, items)


def _fit_users(fit: Draft, log: InteractionLog, lengths: NDArray[np.int64] | None) -> None:
    facts = fit.facts
    fit.keep(
        "history",
        f"a log starts cold; its users had {facts['events_per_user_p50']:.0f} events (median), "
        f"{facts['events_per_user_p90']:.0f} (90th percentile), a lower bound",
    )
    per_user = np.bincount(log.user)
    index = fit_laws.gini(per_user)
    fit.facts["gini"] = index.value
    if per_user.size < ENOUGH_USERS:
        fit.keep("activity_sigma", f"only {per_user.size} users")
        return
    root = float(erfinv(index.value))
    slope = math.sqrt(math.pi) * math.exp(root * root)
    found = Estimate(2.0 * root, None if index.se is None else slope * index.se)
    how = f"from the Gini index {index.value:.3f} of events per user"
    if lengths is not None and lengths.size >= ENOUGH:
        found = fit_laws.activity(per_user, lengths)
        how += ", less what chance adds to it"
    fit.set("activity_sigma", found, per_user.size, how)


def _fit_clock(fit: Draft, log: InteractionLog, utc_offset_h: float) -> NDArray[np.int64] | None:
    """Fit what needs a clock; return the sessions' lengths if it shows them."""
    step = fit_laws.clock_step(log.time_s)
    fit.facts["clock_step_s"] = step
    _fit_hours(fit, log.time_s, step, utc_offset_h)
    span = float(log.time_s[-1] - log.time_s[0])
    why = ""
    if step > COARSEST_S:
        why = f"the clock steps by {step:,.0f} s, which hides gaps inside a session"
    elif span < SESSIONS_NEED_S:
        why = f"the log spans {span / HOUR_S:.2g} hours, which cuts sessions short"
    if why:
        for path in SESSION_PATHS:
            fit.keep(path, why)
        return None
    order = np.argsort(log.user, kind="stable")
    gaps = np.diff(log.time_s[order])[np.diff(log.user[order]) == 0]
    _fit_gaps(fit, gaps[gaps <= SESSION_GAP_S], step)
    _fit_returns(fit, _silences(log), span)
    _fit_requests(fit, gaps, log.user.size)
    lengths = np.diff(
        np.append(np.flatnonzero(session_starts(log.user, log.time_s)[order]), order.size)
    )
    _fit_lengths(fit, lengths)
    return lengths


def _fit_gaps(fit: Draft, gaps: Floats, step: float) -> None:
    """Gaps inside sessions; the plain moments go into the facts."""
    apart = gaps[gaps > 0]
    if apart.size < ENOUGH or np.ptp(apart) == 0:
        fit.keep("gap", f"only {apart.size} gaps inside sessions, or all alike")
        return
    mu, sigma = fit_laws.log_moments(apart)
    fit.facts |= {"gap_log_mean": mu.value, "gap_log_sd": sigma.value}
    mu, sigma = fit_laws.cut_lognormal(gaps, step, SESSION_GAP_S)
    how = f"maximum likelihood of gaps up to {SESSION_GAP_S:,.0f} s"
    fit.set("gap.log_mean", mu, gaps.size, how)
    fit.set("gap.log_sigma", sigma, gaps.size, how)
    fit.state("gap.cut_s", SESSION_GAP_S, "the threshold of this fit")


def _silences(log: InteractionLog) -> fit_laws.Silences:
    """Every silence long enough to end a session, the one at the end of the log included."""
    order = np.argsort(log.user, kind="stable")
    user, time = log.user[order].astype(np.int64), log.time_s[order]
    last = np.append(np.diff(user) != 0, True)
    length = np.append(time[1:], 0.0) - time
    length[last] = log.time_s[-1] - time[last]
    long = length > SESSION_GAP_S
    return fit_laws.Silences(np.log(length[long]), ~last[long], user[long])


def _fit_returns(fit: Draft, silences: fit_laws.Silences, span: float) -> None:
    """Gaps between sessions; the plain moments go into the facts."""
    seen = silences.logs[silences.ended]
    if span < RETURNS_NEED_S:
        fit.keep("between_sessions", f"the log spans {span / DAY_S:.2g} days, too few for returns")
        return
    if seen.size < ENOUGH or np.ptp(seen) == 0:
        fit.keep("between_sessions", f"only {seen.size} gaps between sessions, or all alike")
        return
    fit.facts |= {"between_log_mean": float(seen.mean()), "between_log_sd": float(seen.std())}
    mu, sigma = fit_laws.returns(silences, SESSION_GAP_S)
    how = f"maximum likelihood of gaps above {SESSION_GAP_S:,.0f} s, open ones at the end included"
    fit.set("between_sessions.log_mean", mu, seen.size, how)
    fit.set("between_sessions.log_sigma", sigma, seen.size, how)


def _fit_requests(fit: Draft, gaps: Floats, events: int) -> None:
    if events < ENOUGH:
        fit.keep("new_items_per_request", f"only {events} events")
        return
    share = 1.0 - float((gaps <= ONE_REQUEST_S).sum()) / events  # of events that open a request
    error = math.sqrt(share * (1.0 - share) / events) / share**2
    how = f"events at most {ONE_REQUEST_S:.0f} s apart are one request"
    fit.set("new_items_per_request", Estimate(1.0 / share, error), events, how)


def _fit_lengths(fit: Draft, lengths: NDArray[np.int64]) -> None:
    fit.facts |= {
        "sessions": float(lengths.size),
        "session_mean": float(lengths.mean()),
        "session_log_mean": float(np.log(lengths).mean()),
        "session_log_sd": float(np.log(lengths).std()),
        "single_event_sessions": float((lengths == 1).mean()),
    }
    law = fit_laws.rounded_up_lognormal(lengths) if lengths.size >= ENOUGH else None
    if law is None:
        few = f"only {lengths.size} sessions" if lengths.size < ENOUGH else "no lognormal fits"
        fit.keep("session_length", f"{few} (mean {lengths.mean():.3g} events)")
        return
    how = f"matches the mean length {lengths.mean():.3g} and the mean logarithm"
    fit.set("session_length.log_mean", law[0], lengths.size, how)
    fit.set("session_length.log_sigma", law[1], lengths.size, how)


def _fit_hours(fit: Draft, time_s: Floats, step: float, utc_offset_h: float) -> None:
    """Rate by hour of day over its mean, each hour weighted by how long the log covers it."""
    if step > HOUR_S:
        fit.keep("hourly", f"the clock steps by {step:,.0f} s, which hides the hour")
        return
    if time_s[-1] - time_s[0] < DAY_S - HOUR_S:
        fit.keep("hourly", "the log spans less than a day")
        return
    local = time_s + utc_offset_h * HOUR_S
    begin, end = float(local[0]), float(local[-1]) + step
    hours = np.arange(math.floor(begin / HOUR_S), math.ceil(end / HOUR_S))
    covered = np.minimum((hours + 1) * HOUR_S, end) - np.maximum(hours * HOUR_S, begin)
    seconds = np.bincount(hours % 24, covered, 24)
    counts = np.bincount((local // HOUR_S).astype(np.int64) % 24, minlength=24)
    rate = counts / np.maximum(seconds, 1e-9)
    rate /= rate.mean()
    zone = f"UTC{utc_offset_h:+g} h"
    for hour, value in enumerate(rate):
        source = f"{fit.file}: events by hour, {zone}, n = {counts[hour]:,}"
        fit.numbers[f"hourly.{hour}"] = {"value": round(float(value), 4), "source": source}
    spread = f"{rate.min():.3g} to {rate.max():.3g}"
    fit.findings.append(
        Finding("hourly", spread, "", "", time_s.size, f"events by hour, {zone}", True)
    )
    if time_s[-1] < YEAR_1990:
        fit.notes.append("The clock starts at 0, so hour 0 is the log's first hour, not midnight.")
