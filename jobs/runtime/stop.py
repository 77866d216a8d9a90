"""The request to stop, as a task sees it: a signal that sets a flag, and files that rank 0 looks at. No torch."""

import os
import signal
from types import FrameType

from launcher.paths import RunDir

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
"""SIGTERM is all that a grace-time preemption sends; SIGUSR2 is what the batch process forwards. SIGUSR1 is for
the batch process, but sites that signal whole process trees deliver it here as well, where it would kill."""


class StopFlag:
    """Remembers that somebody wants this task to save and leave.

    A handler runs between two instructions of any code, so it sets a flag and does nothing else. Slurm
    sends some signals twice, which changes nothing.
    """

    def __init__(self) -> None:
        self._signal: str | None = None

    def install(self) -> None:
        """Handle the signals from now on; call it before anything slow is imported."""
        for number in SIGNALS:
            signal.signal(number, self._note)

    @property
    def signal(self) -> str | None:
        """Name of the signal that came; None if none did."""
        return self._signal

    def wanted(self, run: RunDir, is_main: bool) -> bool:
        """Tell whether this task knows of a request to stop; the ranks then agree on it.

        A file system that does not answer for a moment is no request, and no reason to end a training.

        Args:
            run: Whose STOP file counts.
            is_main: Only rank 0 looks at the file: many ranks that ask a network file system at every
                step are a load, and one that knows is enough.
        """
        return self._signal is not None or (is_main and os.path.exists(run.stop_request))

    def save_wanted(self, run: RunDir, is_main: bool) -> bool:
        """Tell whether somebody wants a checkpoint without a stop."""
        return is_main and os.path.exists(run.save_request)

    def _note(self, number: int, _: FrameType | None) -> None:
        self._signal = signal.Signals(number).name
