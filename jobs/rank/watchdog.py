"""The watchdog of a rank: a process without progress writes the stacks of its threads into its rank's log.

A heartbeat postpones that by the recipe's `limits.hang`, or by less where the run's own pace is known
(`jobs.rank.pace`), and renews the heartbeat file, by which the batch process sees that the attempt makes progress
(`jobs.batch.hang_monitor`). Standard library only.
"""

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from threading import Event, Thread, Timer, get_ident
from traceback import walk_stack

from jobs.rank.pace import Pace
from jobs.rank.progress_signs import Computing, Transferring
from launcher.run.heartbeat import VARIABLE, Bound, pulse_seconds


class Watchdog:
    """Watches this process. Each process has one, since faulthandler has only one timer.

    A thread writes the stacks while it holds the interpreter's lock: reading them without it can crash a process that
    is running (https://github.com/python/cpython/issues/140815). If C code keeps the lock, no thread can run;
    faulthandler, which needs no lock, then writes them a little later.
    """

    def __init__(self) -> None:
        self.limit = 0.0
        """Seconds without a heartbeat that count as a hang; 0: unlimited."""
        self._file: Path | None = None
        self._pace = Pace(0, 0)
        self._bound = Bound(0)
        self._evidence: list[Callable[[], None]] = []
        self._log = -1
        self._timer: Timer | None = None
        self._dump_at = 0.0
        self._next_pulse = float("inf")
        self._counts_work = False

    def start(self, environ: Mapping[str, str]) -> None:
        """Watch from now on, if the batch process set a limit; call it before anything slow is imported."""
        self._log = os.dup(sys.stderr.fileno())  # whoever redirects stderr later relays it by a thread that hangs, too
        faulthandler.enable(self._log)  # NCCL gives up on a collective by SIGABRT
        self.limit = float(environ.get(VARIABLE) or 0)
        self._pace = Pace(self.limit, time.monotonic())
        if self.limit:
            os.register_at_fork(
                before=self._stop_timers, after_in_parent=self._start_timers, after_in_child=self._clear
            )
            self._renew()

    def on_hang(self, keep: Callable[[], None]) -> None:
        """Have something else called after stacks were written, by a thread of its own: it keeps more evidence."""
        self._evidence.append(keep)

    def set_heartbeat_file(self, path: Path) -> None:
        """Have heartbeats renew a file, in this process and those that it forks."""
        self._file = path
        if self.limit:
            self._renew()

    def heartbeat(self) -> None:
        """Tell that there is progress: all ranks have finished something together, or data was processed."""
        now = time.monotonic()
        self._pace.beat(now)
        if not self._counts_work and now >= self._next_pulse:
            self._renew()

    def turn_to(self, what: str) -> None:
        """Tell that something else begins: `training`, or nothing that is done again and again (empty)."""
        self._pace.turn_to(what, time.monotonic())
        if self.limit and not self._counts_work:
            self._renew()

    @contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """Tell what is done in a `with` block: `saving`, `evaluating`."""
        before = self._pace.doing
        self.turn_to(what)
        try:
            yield
        finally:
            self.turn_to(before)

    @contextmanager
    def counting_work(self) -> Iterator[None]:
        """Take it for progress that this thread computes, while a library runs that cannot give heartbeats.

        A thread that waits forever, for a lock or a file server, computes nothing and still counts as a hang. One that
        computes forever does not. The code within must not fork.
        """
        with self._counting(Computing(get_ident())):
            yield

    @contextmanager
    def counting_transfers(self) -> Iterator[None]:
        """Take it for progress that bytes travel, while a library sends or fetches files.

        A connection over which nothing travels any more still counts as a hang. The code within must not fork.
        """
        with self._counting(Transferring()):
            yield

    @contextmanager
    def _counting(self, sign: Computing | Transferring) -> Iterator[None]:
        self.heartbeat()
        if not self.limit or self._counts_work:
            yield
            return
        over = Event()
        counter = Thread(target=self._count_work, args=(sign, over), daemon=True)
        self._counts_work = True  # two threads must not set the timers
        counter.start()
        try:
            yield
        finally:
            over.set()
            counter.join()
            self._counts_work = False
            self.heartbeat()

    def _count_work(self, sign: Computing | Transferring, over: Event) -> None:
        pulse = pulse_seconds(self._bound.seconds)
        while not over.wait(pulse):
            if sign.went_on(pulse):
                self._renew()

    def pause(self) -> None:
        """Watch no longer, until the next heartbeat: other processes work, and watch themselves."""
        if self.limit:
            self._stop_timers()
            self._clear()

    def _renew(self) -> None:
        now = time.monotonic()
        self._bound = self._pace.bound
        self._next_pulse = now + pulse_seconds(self._bound.seconds)
        self._dump_at = now + self._bound.seconds
        self._stop_timers()
        self._start_timers()
        if self._file is not None:
            with suppress(OSError):  # a full disk is reported elsewhere
                self._bound.write(self._file)

    def _stop_timers(self) -> None:
        # A child that is forked while faulthandler's timer runs waits forever when it touches its own: the timer's
        # thread, which holds the lock, is not there.
        faulthandler.cancel_dump_traceback_later()
        if self._timer is not None:
            self._timer.cancel()
            self._timer.join()

    def _start_timers(self) -> None:
        left = self._dump_at - time.monotonic()
        if left > 0:
            faulthandler.dump_traceback_later(left + self._patience, file=self._log)
            self._timer = Timer(left, self._dump)
            self._timer.daemon = True
            self._timer.start()

    def _dump(self) -> None:
        faulthandler.cancel_dump_traceback_later()
        if time.monotonic() < self._dump_at + self._patience:  # else faulthandler has written them
            os.write(self._log, f"Timeout ({timedelta(seconds=self._bound.seconds)})!\n{_stacks()}".encode())
        for keep in self._evidence:
            with suppress(Exception):  # stacks are there, whatever fails here
                keep()

    @property
    def _patience(self) -> float:
        # Seconds that code may keep the interpreter's lock; shorter than the batch process waits to end the attempt.
        return max(0.25, pulse_seconds(self._bound.seconds))

    def _clear(self) -> None:
        self._dump_at = self._next_pulse = 0.0


def _stacks() -> str:
    """The stacks of all threads but this one, as faulthandler of Python 3.14 writes them, with their names."""
    text, names = "", {thread.ident: thread.name for thread in threading.enumerate()}
    for thread, innermost in sys._current_frames().items():
        if thread != get_ident():
            text += f"Thread {thread:#018x} [{names.get(thread, '')}] (most recent call first):\n"
            for frame, line in walk_stack(innermost):
                text += f'  File "{frame.f_code.co_filename}", line {line} in {frame.f_code.co_name}\n'
            text += "\n"
    return text


WATCHDOG = Watchdog()
