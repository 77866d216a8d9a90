"""Worker processes that do numbered tasks, and can be asked to stop between two of them."""

import ctypes
import gc
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from typing import Any, TypeVar

from jobs.runtime.watchdog import WATCHDOG

Result = TypeVar("Result")
_PR_SET_PDEATHSIG = 1
_LOOK_SECONDS = 1.0
_task: Callable[[int], object] | None = None
"""What this worker process does; set when it starts."""


def run_tasks(
    task: Callable[[int], Result],
    numbers: Sequence[int],
    cpus: int,
    is_stop_wanted: Callable[[], bool],
    tell: Callable[[], None] = lambda: None,
) -> Iterator[tuple[int, Result]]:
    """Do tasks in as many processes as there are CPUs; CPUs left over become tokeniser threads.

    A request to stop keeps further tasks from starting; those under way are finished first. datatrove's
    LocalPipelineExecutor cannot stop, and waits for ever when the kernel or a signal kills a worker.

    Args:
        task: Function of a task's number.
        numbers: Tasks to do, started in this order.
        cpus: CPU cores to use.
        is_stop_wanted: Asked about once a second.
        tell: Called about once a second.

    Yields:
        A task's number and its result, in the order they finish.

    Raises:
        concurrent.futures.process.BrokenProcessPool: a worker was killed (out of memory, usually).
    """
    workers = max(1, min(cpus, len(numbers)))
    waiting = deque(numbers)
    running: dict[Future[Any], int] = {}
    # fork: the task need not be pickled, and the stop handlers of this process come along, so that a
    # signal sent to all of a job's processes kills no worker.
    context = multiprocessing.get_context("fork")
    # What is left for the garbage collector may belong to libraries that do not outlive a fork: finalising it in a
    # worker has crashed (https://docs.python.org/3/library/gc.html#gc.freeze). And going through all imported modules
    # again and again is most of what this process does.
    gc.freeze()
    WATCHDOG.rest()  # a file takes hours; each worker watches itself
    with ProcessPoolExecutor(workers, context, _start_worker, (task, os.getpid(), cpus // workers)) as pool:
        while True:
            while waiting and len(running) < workers and not is_stop_wanted():
                number = waiting.popleft()
                running[pool.submit(_do, number)] = number
            tell()
            if not running:
                WATCHDOG.beat()
                return
            done, _ = wait(running, _LOOK_SECONDS, FIRST_COMPLETED)
            for future in done:
                yield running.pop(future), future.result()


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
    WATCHDOG.beat()
    try:
        return _task(number)
    finally:
        WATCHDOG.rest()  # with nothing to do there is nothing to watch
