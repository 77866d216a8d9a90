"""Files that travel over the network, for minutes or hours, by a library that knows nothing of heartbeats or stops."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from threading import Thread
from typing import TypeAlias, TypeVar

from jobs.rank.progress_signs import Transferring, carried_bytes
from jobs.rank.stop_flag import STOP, StopRequested
from jobs.rank.watchdog import WATCHDOG

_LOOK_SECONDS = 1.0
_NAME = "transfer"

T = TypeVar("T")

Agree: TypeAlias = Callable[..., tuple[bool, ...]]
"""Tells for each claim whether some rank makes it (`RankGroup.any`)."""
_agreements: list[tuple[Agree, frozenset[str]]] = []
"""Each with the connections over which ranks agree, whose bytes are no sign that files travel."""


@contextmanager
def ending_together(agree: Agree) -> Iterator[None]:
    """Have all ranks take part in each transfer within a `with` block: they end it, or leave it, together.

    Every rank asks for the files, since nodes may have caches of their own; the Hub's client has the ranks that share a
    cache wait for one of them.

    Args:
        agree: Asks all ranks.
    """
    _agreements.append((agree, frozenset(carried_bytes())))
    try:
        yield
    finally:
        _agreements.pop()


def transfer(work: Callable[[], T]) -> T:
    """Have a thread of its own send or fetch files, and wait for it; return what it returns. A collective.

    Bytes that travel count as progress, on whichever rank. A stop is heeded at once; the thread then ends with the
    process, and both sides of the Hub's client go on where they were when the same is asked of them again.

    Raises:
        StopRequested: some rank was asked to stop before all had their files; every rank raises it.
    """
    outcome: Future[T] = Future()
    agree, connections = _agreements[-1] if _agreements else (_alone, frozenset[str]())
    sign = Transferring(connections)

    def carry_out() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:  # raised where it is waited for
            outcome.set_exception(error)

    thread = Thread(target=carry_out, name=_NAME, daemon=True)
    WATCHDOG.heartbeat()
    thread.start()
    while True:
        thread.join(_LOOK_SECONDS)
        is_busy, has_moved, is_unwanted = agree(thread.is_alive(), sign.went_on(_LOOK_SECONDS), STOP.is_requested())
        if not is_busy:
            WATCHDOG.heartbeat()
            return outcome.result()
        if is_unwanted:
            raise StopRequested
        if has_moved:
            WATCHDOG.heartbeat()


def _alone(*claims: bool) -> tuple[bool, ...]:
    return claims


def is_under_way() -> bool:
    """Tell whether a stop left a transfer behind: its threads would keep the process until their files are there."""
    return any(thread.name == _NAME for thread in threading.enumerate())
