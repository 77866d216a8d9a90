"""The watchdog of a task: a process without progress leaves the stacks of its threads in its rank's log.

A sign of life (`beat`) puts the dump off by the recipe's `limits.hang`, and renews the heartbeat, a file by
which the batch process sees that the attempt is alive (`jobs.runtime.hang`). Standard library only.
"""

import faulthandler
import os
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from threading import Timer, get_ident
from traceback import walk_stack

VARIABLE = "LAUNCHER_HANG_SECONDS"
"""Tells the tasks the limit; 0 or missing: nobody watches (somebody debugs, or the recipe says `null`)."""


def pulse_seconds(limit: float) -> float:
    """How far apart signs of life are passed on: more often would only load a shared file system."""
    return min(5.0, limit / 20)


class Watchdog:
    """Watches over this process. One exists in each, as faulthandler has but one timer.

    A thread writes the stacks, which takes the interpreter's lock: without it, to look at a process that runs after
    all may kill it (https://github.com/python/cpython/issues/140815). If some C code keeps the lock, nothing runs,
    and faulthandler, which needs no lock, writes them a little later.
    """

    def __init__(self) -> None:
        self.limit = 0.0
        """Seconds without a sign of life that mean a hang; 0: unlimited."""
        self._heartbeat: Path | None = None
        self._log = -1
        self._timer: Timer | None = None
        self._dump_at = 0.0
        self._next_pulse = float("inf")

    def start(self, environ: Mapping[str, str]) -> None:
        """Watch from now on, if the batch process told a limit; call it before anything slow is imported."""
        self._log = os.dup(sys.stderr.fileno())  # whoever redirects stderr later relays it by a thread that hangs, too
        faulthandler.enable(self._log)  # NCCL gives up on a collective by SIGABRT
        self.limit = float(environ.get(VARIABLE) or 0)
        if self.limit:
            os.register_at_fork(before=self._pause, after_in_parent=self._go_on, after_in_child=self._forget)
            self._renew()

    def keep(self, heartbeat: Path) -> None:
        """Let signs of life touch a file, in this process and those that it forks."""
        self._heartbeat = heartbeat
        if self.limit:
            self._renew()

    def beat(self) -> None:
        """Give a sign of life: all ranks have got through something together, or data has moved on."""
        if time.monotonic() >= self._next_pulse:
            self._renew()

    def rest(self) -> None:
        """Wait for others, who watch themselves, until the next sign of life."""
        if self.limit:
            self._pause()
            self._forget()

    def _renew(self) -> None:
        now = time.monotonic()
        self._next_pulse = now + pulse_seconds(self.limit)
        self._dump_at = now + self.limit
        self._pause()
        self._go_on()
        if self._heartbeat is not None:
            with suppress(OSError):  # a disk that is full says so elsewhere
                self._heartbeat.touch()

    def _pause(self) -> None:
        # A child that is forked while faulthandler's timer runs waits for ever when it touches its own: the timer's
        # thread, which holds the lock, is not there.
        faulthandler.cancel_dump_traceback_later()
        if self._timer is not None:
            self._timer.cancel()
            self._timer.join()

    def _go_on(self) -> None:
        left = self._dump_at - time.monotonic()
        if left > 0:
            faulthandler.dump_traceback_later(left + self._patience, file=self._log)
            self._timer = Timer(left, self._dump)
            self._timer.daemon = True
            self._timer.start()

    def _dump(self) -> None:
        faulthandler.cancel_dump_traceback_later()
        if time.monotonic() < self._dump_at + self._patience:  # else faulthandler has written them
            os.write(self._log, f"Timeout ({timedelta(seconds=self.limit)})!\n{_stacks()}".encode())

    @property
    def _patience(self) -> float:
        """Seconds that code may keep the interpreter's lock; in time for the batch process, which ends the attempt."""
        return max(0.25, pulse_seconds(self.limit))

    def _forget(self) -> None:
        self._dump_at = self._next_pulse = 0.0


def _stacks() -> str:
    """The stacks of all threads but this one, as faulthandler writes them."""
    text = ""
    for thread, innermost in sys._current_frames().items():
        if thread != get_ident():
            text += f"Thread {thread:#018x} (most recent call first):\n"
            for frame, line in walk_stack(innermost):
                text += f'  File "{frame.f_code.co_filename}", line {line} in {frame.f_code.co_name}\n'
            text += "\n"
    return text


WATCHDOG = Watchdog()
