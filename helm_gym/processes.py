"""Worker processes that end with the process that made them, however that ends."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context, parent_process

WATCH_S = 1.0  # how often a worker looks for its parent
_followed: set[int] = set()


@contextmanager
def worker_pool(jobs: int) -> Iterator[ProcessPoolExecutor]:
    """Processes for long jobs, which leave Ctrl-C to their parent.

    They are spawned, not forked: a parent with numba's or BLAS's threads cannot be copied safely.
    """
    pool = ProcessPoolExecutor(
        jobs,
        mp_context=get_context("spawn"),
        initializer=begin_worker,
        initargs=(os.getpid(),),
    )
    try:
        yield pool
    except BaseException:
        # Waiting for what runs would take long, and none of it could be kept.
        for process in list((pool._processes or {}).values()):
            process.terminate()
        pool.shutdown(wait=True, cancel_futures=True)
        raise
    pool.shutdown()


def begin_worker(parent: int | None) -> None:
    """Leave Ctrl-C to the parent, and end with it: killed with -9 it cannot tell its workers.

    Args:
        parent: id of the process that started this one, by whatever library; None if somebody
            else sees to the end of this process.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    if parent is None or parent in _followed:
        return
    _followed.add(parent)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    ours = parent_process()
    if os.name == "posix":
        while os.getppid() == parent:
            time.sleep(WATCH_S)
    elif ours is not None and ours.pid == parent:  # Windows: the parent's id never changes
        ours.join()
    else:
        return
    os._exit(1)
