"""Stacks on request: a signal makes a rank write the stacks of its threads into its log, and go on with its work.

A thread waits for the signal, which is blocked everywhere else: no system call of the rank is interrupted, and the
stacks are read while this thread holds the interpreter's lock, without which reading them can crash a process (see
`jobs.rank.watchdog`). If C code keeps the lock, nothing is written. Standard library only.
"""

import os
import signal
import sys
import threading
from contextlib import suppress
from traceback import walk_stack

from launcher.run.files import write_all
from launcher.run.stacks import SIGNAL, write_stacks


def answer_requests() -> None:
    """Answer from now on; call it before other threads are started, since they inherit what is blocked.

    On a terminal the signal means another size, so nobody answers there.
    """
    if sys.stderr.isatty():
        return
    log = os.dup(sys.stderr.fileno())  # whoever redirects stderr later may hang, too
    signal.pthread_sigmask(signal.SIG_BLOCK, {SIGNAL})
    threading.Thread(target=_answer, args=(log,), name="stacks on request", daemon=True).start()


def _answer(log: int) -> None:
    while True:
        signal.sigwait({SIGNAL})
        with suppress(OSError):  # a full disk is reported elsewhere
            write_all(log, write_stacks(_stacks()).encode(errors="replace"))


def _stacks() -> dict[str, list[str]]:
    """The stacks of all threads but this one, that of the main thread first."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    names |= {threading.main_thread().ident: threading.main_thread().name}
    frames = {ident: top for ident, top in sys._current_frames().items() if ident != threading.get_ident()}
    ordered = sorted(frames, key=lambda ident: (ident != threading.main_thread().ident, names.get(ident, "")))
    return {
        f"{names.get(ident, 'without a name')}{'' if place == 0 else f' {place}'}": [
            f'File "{frame.f_code.co_filename}", line {line} in {frame.f_code.co_name}'
            for frame, line in walk_stack(frames[ident])
        ]
        for place, ident in enumerate(ordered)
    }
