"""Work shared by threads: who does it, who waits for whom, and what happens to errors."""

from __future__ import annotations

import os
import sys
import threading
import time

import pytest

from helm_gym.sim import crew as room
from helm_gym.sim.crew import Crew

LONG_S = 20.0  # at most, where something would otherwise hang


@pytest.fixture(autouse=True)
def helpers_never_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else the machine does."""
    monkeypatch.setattr(room, "PERIOD_S", float("inf"))


@pytest.mark.parametrize("threads", [1, 2, 3, 9])
@pytest.mark.parametrize("count", [1, 2, 16])
def test_every_job_is_done_once_before_the_call_returns(threads: int, count: int) -> None:
    crew, done = Crew(threads), []
    for _ in range(200):
        done.clear()
        crew.run(range(count), done.append)
        assert sorted(done) == list(range(count))
    crew.close()


def test_a_helper_that_comes_late_costs_nothing() -> None:
    """The only helper is kept from working; the caller does all and does not wait for it."""
    crew, held, begun = Crew(2), threading.Event(), threading.Event()
    crew._workers().submit(lambda: (begun.set(), held.wait(LONG_S)))
    assert begun.wait(LONG_S)
    by: list[int] = []
    crew.run(range(4), lambda job: by.append(threading.get_ident()))
    assert not held.is_set() and by == [threading.get_ident()] * 4
    held.set()
    crew.close()


def test_the_caller_waits_for_a_job_that_a_helper_is_at() -> None:
    crew, helped, caller = Crew(2), threading.Event(), threading.get_ident()
    done: list[int] = []

    def work(job: int) -> None:
        if threading.get_ident() == caller:
            assert helped.wait(LONG_S)  # so that the helper has one, too
        else:
            helped.set()
            time.sleep(0.05)
        done.append(job)

    crew.run(range(2), work)
    assert sorted(done) == [0, 1]
    crew.close()


def test_the_first_of_the_jobs_that_fail_is_reported_and_the_rest_is_dropped() -> None:
    for threads in (1, 2, 4):
        crew, done, meet = Crew(threads), [], threading.Barrier(min(threads, 2))

        def work(job: int, meet: threading.Barrier = meet, done: list[int] = done) -> None:
            if job < meet.parties:
                meet.wait(LONG_S)  # both fail, in any order
                raise ValueError(job)
            if job > 8:
                done.append(job)

        with pytest.raises(ValueError, match=r"^0$"):
            crew.run(range(1000), work)
        assert len(done) < 990
        crew.run([9, 10], work)  # the next call begins afresh
        assert sorted(done[-2:]) == [9, 10]
        crew.close()


def test_an_interrupted_caller_returns_when_no_thread_works_any_more() -> None:
    crew, helped, caller = Crew(2), threading.Event(), threading.get_ident()
    done: list[int] = []

    def work(job: int) -> None:
        if threading.get_ident() == caller:
            assert helped.wait(LONG_S)
            raise KeyboardInterrupt
        helped.set()
        time.sleep(0.05)
        done.append(job)

    with pytest.raises(KeyboardInterrupt):
        crew.run(range(50), work)
    assert len(done) == 1
    time.sleep(0.1)
    assert len(done) == 1
    crew.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_child_has_helpers_of_its_own() -> None:
    crew, done = Crew(2), []
    crew.run(range(4), done.append)
    child = os.fork()
    if child == 0:
        done.clear()
        crew.run(range(4), done.append)
        os._exit(0 if sorted(done) == [0, 1, 2, 3] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    crew.close()


def test_threads_that_take_turns_quickly_lose_no_job() -> None:
    """With a switch after almost every instruction."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        crew = Crew(4)
        for _ in range(300):
            done: list[int] = []
            crew.run(range(7), done.append)
            assert sorted(done) == list(range(7))
        crew.close()
    finally:
        sys.setswitchinterval(before)


def test_helpers_rest_while_they_bring_no_more_of_the_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A call takes a second, which is a period; ``cores`` says what it gets with and without."""
    now, used, cores = [0.0], [0.0], {"helped": 1.9, "alone": 1.0}
    monkeypatch.setattr(room, "PERIOD_S", 1.0)
    monkeypatch.setattr(room.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(room.time, "process_time", lambda: used[0])
    crew = Crew(2)

    def helped() -> bool:
        both, by, resting = threading.Barrier(2), set(), crew._resting

        def work(job: int) -> None:
            by.add(threading.get_ident())
            if not resting:
                both.wait(LONG_S)
            if job == 0:
                now[0] += 1.0
                used[0] += cores["alone" if resting else "helped"]

        crew.run(range(2), work)
        return len(by) == 2

    def many() -> int:
        return sum(helped() for _ in range(3 * room.TRY_EVERY))

    assert many() == 3 * room.TRY_EVERY  # cores are free: nothing is tried
    cores.update(helped=0.5, alone=0.5)
    many()
    assert many() == 3  # tried now and then
    cores.update(helped=0.8, alone=0.5)
    many()
    assert many() == 3 * room.TRY_EVERY - 3
    cores.update(helped=1.9, alone=1.0)
    many()
    assert many() == 3 * room.TRY_EVERY
    crew.close()
