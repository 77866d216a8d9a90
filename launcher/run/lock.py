"""One process at a time decides what is queued. Standard library only."""

import contextlib
import fcntl
import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from launcher.run.files import open_lock
from launcher.run.index import make_shared
from launcher.run.paths import index_root

_held = threading.local()


@contextlib.contextmanager
def one_at_a_time(runs_root: Path, on_wait: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Hold the lock of all that is queued below a folder of runs. A thread that holds it may take it once more.

    The kernel lets go of the lock when its holder is killed; over NFS the server does. Some shared file systems have no
    locks, and the lock may be a file of somebody else that only they may open. Then two processes may queue the same
    run at once, which does no harm: the batch process starts one of two jobs of a run.

    Args:
        runs_root: The folder of all runs.
        on_wait: Called before waiting for another process that has the lock.
    """
    mine: set[str] = vars(_held).setdefault("roots", set())
    root = os.path.realpath(runs_root)
    if root in mine:
        yield
        return
    descriptor = _open(runs_root)
    try:
        if descriptor is not None:
            _lock(descriptor, on_wait)
        mine.add(root)
        yield
    finally:
        mine.discard(root)
        if descriptor is not None:
            os.close(descriptor)


def _lock(descriptor: int, on_wait: Callable[[], object]) -> None:
    with contextlib.suppress(OSError):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(descriptor, fcntl.LOCK_EX)


def _open(runs_root: Path) -> int | None:
    """Open the file to lock, which all may open who may use the folder of all runs."""
    runs_root.mkdir(parents=True, exist_ok=True)
    make_shared(index_root(runs_root), runs_root)
    descriptor = open_lock(index_root(runs_root) / ".lock")
    if descriptor is not None:
        found = os.fstat(descriptor)
        if found.st_uid == os.geteuid() and found.st_nlink == 1:  # else it has a name elsewhere, and a mode for that
            os.fchmod(descriptor, stat.S_IMODE(os.stat(runs_root).st_mode) & 0o666)
    return descriptor
