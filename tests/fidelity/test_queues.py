"""The queueing comparison: its theory is right, and it notices a queue that is not what it says."""

from __future__ import annotations

import math

import numpy as np
import pytest

from helm_gym.fidelity import queues
from helm_gym.fidelity.finding import Effort

SERVICE, RATE = 0.007, 100.0


def lindley(service: np.ndarray, seed: int) -> np.ndarray:
    """Latencies of one server in order of arrival, by its recursion."""
    gaps = np.random.default_rng(seed).exponential(1 / RATE, service.size)
    steps = np.concatenate(([0.0], service[:-1] - gaps[1:]))
    walk = np.cumsum(steps)
    return walk - np.minimum.accumulate(walk) + service


def test_a_mixture_of_one_is_mm1() -> None:
    mean, p99 = queues.mixed(SERVICE, queues.EXPONENTIAL)
    assert mean == pytest.approx(SERVICE / (1 - SERVICE * RATE))
    assert p99 == pytest.approx(mean * math.log(100))
    assert queues.erlang_c(SERVICE, 1) == pytest.approx((mean, p99))


@pytest.mark.parametrize("law", ["hyper", "fixed"])
def test_theory_is_what_a_recursion_gives(law: str) -> None:
    rng, count = np.random.default_rng(0), 400_000
    if law == "fixed":
        service, theory = np.full(count, SERVICE), queues.fixed(SERVICE)
    else:
        service = SERVICE * queues.quantiles(queues.HYPER, rng.random(count))
        theory = queues.mixed(SERVICE, queues.HYPER)
    runs = np.array([lindley(rng.permutation(service), seed) for seed in range(8)])
    found = np.stack([runs.mean(axis=1), np.quantile(runs, 0.99, axis=1)], axis=1)
    error = found.std(axis=0, ddof=1) / math.sqrt(8)
    assert (error < 0.02 * np.array(theory)).all(), "too noisy to prove anything"
    assert (np.abs(found.mean(axis=0) - theory) < 4 * error).all()


def test_service_laws_have_mean_one_and_the_stated_variation() -> None:
    for law, cv_square in ((queues.EXPONENTIAL, 1.0), (queues.HYPER, 4.0)):
        draws = queues.quantiles(law, (np.arange(200_000) + 0.5) / 200_000)
        assert draws.mean() == pytest.approx(1.0, rel=1e-3)
        assert draws.var() == pytest.approx(cv_square, rel=5e-3)


def test_the_one_queue_simulation_is_erlangs() -> None:
    runs = np.array([queues.one_queue(np.random.default_rng(n), 0.008, 60.0) for n in range(8)])
    error = runs.std(axis=0, ddof=1) / math.sqrt(8)
    theory = queues.erlang_c(0.008, queues.SERVERS)
    assert (error < 0.02 * np.array(theory)).all()
    assert (np.abs(runs.mean(axis=0) - theory) < 4 * error).all()


def test_every_queue_agrees_with_theory() -> None:
    found = list(queues.checks(Effort(None, quick=True)))
    assert len(found) == 2 * (len(queues.SINGLE) + 2)
    assert [row.compared for row in found if row.status != "met"] == []
    assert all(row.points > 100_000 for row in found)
    assert all("±" in row.note for row in found)


def test_a_service_two_percent_longer_is_noticed() -> None:
    plan = queues.Plan((0.7,), (), 10, 3000.0, 0.0)
    case = queues._single(plan, 0.7, "gpu_fixed", None, 0)
    wrong = queues.Case(0.7, queues.fixed(1.02 * 0.7 / RATE), case.found, case.requests)
    right, faulty = (next(queues._findings("M/D/1", [c], "")) for c in (case, wrong))
    assert (right.status, faulty.status) == ("met", "missed")
