"""Files that travel over the network, for minutes or hours, by a library that knows nothing of heartbeats or stops."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import TypeVar

from jobs.rank.stop_flag import STOP
from jobs.rank.watchdog import WATCHDOG

_LOOK_SECONDS = 1.0
_NAME = "transfer"

T = TypeVar("T")


def transfer(work: Callable[[], T]) -> T:
    """Have a thread of its own send or fetch files, and wait for it; return what it returns.

    Bytes that travel count as progress. A stop is heeded at once; the thread then ends with the process, and both sides
    of the Hub's client go on where they were when the same is asked of them again.

    Raises:
        StopRequested: a stop was asked for.
    """
    outcome: Future[T] = Future()

    def carry_out() -> None:
        with WATCHDOG.counting_transfers():
            try:
                outcome.set_result(work())
            except BaseException as error:  # raised where it is waited for
                outcome.set_exception(error)

    thread = Thread(target=carry_out, name=_NAME, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(_LOOK_SECONDS)
        if thread.is_alive():
            STOP.raise_if_requested()
    return outcome.result()


def is_under_way() -> bool:
    """Tell whether a stop left a transfer behind: its threads would keep the process until their files are there."""
    return any(thread.name == _NAME for thread in threading.enumerate())
