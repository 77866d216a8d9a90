"""Worker processes that do numbered items, and can be stopped between two of them."""

# datatrove's LocalPipelineExecutor prints document text in tracebacks, hangs when a worker is killed, and cannot be
# asked to stop.

import ctypes
import gc
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from typing import Any, TypeVar

from jobs.rank.stop_flag import STOP, StopRequested
from jobs.rank.watchdog import WATCHDOG

Result = TypeVar("Result")
_PR_SET_PDEATHSIG = 1
_LOOK_SECONDS = 1.0
_task: Callable[[int], object] | None = None
"""What this worker process does with each number; set when it starts."""


def run_tasks(
    task: Callable[[int], Result],
    numbers: Sequence[int],
    cpus: int,
    on_progress: Callable[[], None] = lambda: None,
) -> Iterator[tuple[int, Result]]:
    """Do numbered items in as many processes as there are CPUs; spare CPUs become tokeniser threads.

    After a request to stop no further item starts; those under way are finished first. datatrove's
    LocalPipelineExecutor cannot stop, and waits forever when the kernel or a signal kills a worker.

    Args:
        task: Function of an item's number.
        numbers: Items to do, started in this order.
        cpus: CPU cores to use.
        on_progress: Called about once a second.

    Yields:
        An item's number and its result, in the order they finish.

    Raises:
        StopRequested: items were left when a stop was asked for.
        concurrent.futures.process.BrokenProcessPool: a worker was killed (out of memory, usually).
    """
    workers = max(1, min(cpus, len(numbers)))
    waiting = deque(numbers)
    running: dict[Future[Any], int] = {}
    # fork: the task need not be pickled, and workers inherit the stop handlers, so a signal to all processes of a job
    # kills none of them.
    context = multiprocessing.get_context("fork")
    # Workers must not finalise objects of libraries that do not survive a fork: that has crashed
    # (https://docs.python.org/3/library/gc.html#gc.freeze). It also spares this process most of its collections.
    gc.freeze()
    WATCHDOG.pause()  # a file takes hours; each worker watches itself
    with ProcessPoolExecutor(workers, context, _start_worker, (task, os.getpid(), cpus // workers)) as pool:
        while True:
            while waiting and len(running) < workers and not STOP.is_requested():
                number = waiting.popleft()
                running[pool.submit(_do, number)] = number
            on_progress()
            if not running:
                break
            done, _ = wait(running, _LOOK_SECONDS, FIRST_COMPLETED)
            for future in done:
                yield running.pop(future), future.result()
    WATCHDOG.heartbeat()
    if waiting:
        raise StopRequested


def _start_worker(task: Callable[[int], object], parent: int, threads: int) -> None:
    global _task  # noqa: PLW0603 - the one thing a worker process is for
    _task = task
    # The kernel ends this process with its parent: workers of a killed run must not write on.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    os.environ["RAYON_NUM_THREADS"] = str(threads)
    if threads == 1:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"


def _do(number: int) -> object:
    assert _task is not None, "not in a worker process"
    WATCHDOG.heartbeat()
    try:
        return _task(number)
    finally:
        WATCHDOG.pause()  # an idle worker does not hang
