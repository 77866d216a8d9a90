"""One process at a time decides what is queued."""

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from launcher.run.files import open_lock
from launcher.run.index import make_shared
from launcher.run.paths import index_root


@contextlib.contextmanager
def one_at_a_time(runs_root: Path) -> Iterator[None]:
    """Hold the lock of all pipelines below a folder of runs.

    Some shared file systems have no locks, and the lock may be a file of somebody else that only they may open. Then
    two processes may queue the same run at once, which does no harm: the batch process starts one of two jobs of a run.
    """
    descriptor = _open(runs_root)
    try:
        if descriptor is not None:
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


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
