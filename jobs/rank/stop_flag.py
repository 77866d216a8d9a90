"""The request to stop, as a rank sees it. Standard library only.

Code that can stop between two pieces of its work calls `STOP.raise_if_requested()` there. Training does not: its ranks
agree on the step at which they stop, save together, and then raise `StopRequested` (`jobs.train.stop_callback`).
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from launcher.run.ledger import append_event

if TYPE_CHECKING:  # it imports pydantic, and the signals have to be handled before anything slow is imported
    from jobs.rank.context import Context

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
"""SIGTERM is all that a grace-time preemption sends; SIGUSR2 is what the batch process forwards. SIGUSR1 is for
the batch process, but sites that signal whole process trees deliver it here as well, where it would kill."""


class StopRequested(BaseException):
    """This rank was asked to stop, and what has to be kept is kept; `jobs.__main__` turns it into exit code 75.

    Like KeyboardInterrupt it is no error: no `except Exception` may swallow it.
    """


class StopFlag:
    """Remembers that somebody wants this rank to save and leave.

    A handler runs between two instructions of any code, so it sets a flag and does nothing else. Slurm
    sends some signals twice, which changes nothing.
    """

    def __init__(self) -> None:
        self.signal: str | None = None
        """Name of the signal that came; None if none did."""
        self._sources: list[Callable[[], bool]] = []

    def install(self) -> None:
        """Handle the signals from now on; call it before anything slow is imported."""
        for number in SIGNALS:
            signal.signal(number, self._note)

    @contextmanager
    def heeding(self, source: Callable[[], bool]) -> Iterator[None]:
        """Heed another source of requests, such as a file, for the length of a `with` block."""
        self._sources.append(source)
        try:
            yield
        finally:
            self._sources.remove(source)

    def is_requested(self) -> bool:
        """Tell whether this rank knows of a request to stop; ranks that work together then agree on it."""
        return any(source() for source in self._sources) or self.signal is not None

    def raise_if_requested(self) -> None:
        """Stop here if somebody asked for it.

        Raises:
            StopRequested: somebody did.
        """
        if self.is_requested():
            raise StopRequested

    def _note(self, number: int, _: FrameType | None) -> None:
        self.signal = signal.Signals(number).name


STOP = StopFlag()


@contextmanager
def noting_stop(context: "Context") -> Iterator[None]:
    """Note in the ledger that the work in this block was stopped on request."""
    try:
        yield
    except StopRequested:
        append_event(context.run.ledger, context.attempt, reason="stopped", source=context.recipe.kind)
        raise
