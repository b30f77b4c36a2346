"""Threads that share one step's clusters with the thread that asks for it.

The caller works too, and every cluster is claimed on its own. So a thread that the system wakes
late takes nothing, and the caller does its part. The caller waits for a cluster that another
thread is simulating, and never for a thread that has yet to begin.

Where every core is busy with other processes, two threads may get as much of them as one, and
empty each other's caches. So helpers rest while they bring the process no more of the machine.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

Work = Callable[[int], object]
PERIOD_S = 0.25  # of work after which helpers are sent to rest or called back
ONE_CORE = 0.9  # CPU seconds per second from which on nobody asks what the caller alone gets
GAIN = 1.1  # part of the machine with helpers, to that without, below which they rest
TRY_EVERY = 8  # periods after which the other way is tried for one


class Crew:
    """The calling thread and its helpers.

    Args:
        threads: the caller's included; helpers start with the first work that is shared.
    """

    def __init__(self, threads: int) -> None:
        self.helpers = threads - 1
        self._pool: tuple[int, ThreadPoolExecutor] | None = None  # and the process it belongs to
        self._resting = False
        self._cpu_s = self._wall_s = 0.0  # of this period
        self._cores = {False: math.inf, True: math.inf}  # CPU s per s by resting; inf: not yet
        self._periods = 0

    def run(self, jobs: Sequence[int], work: Work) -> None:
        """Do ``work`` for every job, each once; return when all are done.

        Args:
            jobs: what ``work`` is given; claimed in this order.
            work: called in any of the threads; it must give up the GIL for them to gain anything.

        Raises:
            Exception: what ``work`` raised for the first of the jobs that failed, in their order.
                Jobs that nobody had claimed by then are left undone.
        """
        shift = _Shift(jobs, work)
        cpu, wall = time.process_time(), time.perf_counter()
        for _ in range(0 if self._resting else min(self.helpers, len(jobs) - 1)):
            self._workers().submit(shift.help)
        shift.lead()
        self._judge(time.process_time() - cpu, time.perf_counter() - wall)

    def close(self) -> None:
        """Stop the helpers; later work starts new ones."""
        if self._pool is not None:
            self._pool[1].shutdown(wait=False)
            self._pool = None

    def _judge(self, cpu_s: float, wall_s: float) -> None:
        """At the end of a period, decide whether helpers rest in the next one.

        Args:
            cpu_s: what all threads of the process got during the work.
            wall_s: how long it took.
        """
        self._cpu_s += cpu_s
        self._wall_s += wall_s
        if self._wall_s < PERIOD_S:
            return
        got, before = self._cpu_s / self._wall_s, self._cores[self._resting]
        self._cores[self._resting] = got if math.isinf(before) else (got + before) / 2.0
        self._cpu_s = self._wall_s = 0.0
        self._periods += 1
        helped, alone = self._cores[False], self._cores[True]
        tries = self._periods % TRY_EVERY == 0
        self._resting = helped < ONE_CORE and (helped < GAIN * alone) != tries

    def _workers(self) -> ThreadPoolExecutor:
        """Threads of this process; a forked child starts its own."""
        if self._pool is None or self._pool[0] != os.getpid():
            self._pool = os.getpid(), ThreadPoolExecutor(self.helpers)
        return self._pool[1]


class _Shift:
    """The jobs of one :meth:`Crew.run`."""

    def __init__(self, jobs: Sequence[int], work: Work) -> None:
        self._left = deque(enumerate(jobs))  # whose popleft() is safe between threads
        self._work = work
        self._failed: list[tuple[int, BaseException]] = []  # place among the jobs, and error
        self._helped = 0  # jobs that helpers are at now
        self._changed = threading.Condition(threading.Lock())

    def lead(self) -> None:
        """Work as the caller does, then wait for the jobs that helpers are at."""
        try:
            while self._left:
                self._do_next()
        finally:  # an interrupted caller leaves no thread behind that still writes
            self._left.clear()
            try:
                self._wait()
            except BaseException:
                self._wait()
                raise
        if self._failed:
            raise min(self._failed, key=lambda failure: failure[0])[1]

    def help(self) -> None:
        """Work as a helper does, who may come when nothing is left."""
        while self._left:
            with self._changed:  # before the claim: the caller must not miss it
                self._helped += 1
            try:
                self._do_next()
            finally:
                with self._changed:
                    self._helped -= 1
                    self._changed.notify()

    def _do_next(self) -> None:
        try:
            place, job = self._left.popleft()
        except IndexError:  # another thread was faster
            return
        try:
            self._work(job)
        except Exception as error:
            self._left.clear()
            self._failed.append((place, error))

    def _wait(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._helped == 0)
