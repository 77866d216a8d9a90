"""One process at a time decides what is queued."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from launcher.run.paths import index_root


@contextlib.contextmanager
def one_at_a_time(runs_root: Path) -> Iterator[None]:
    """Hold the lock of all pipelines below a folder of runs.

    Some shared file systems have no locks. Then two processes may queue the same run at once, which does no harm: the
    batch process starts one of two jobs of a run.
    """
    index_root(runs_root).mkdir(parents=True, exist_ok=True)
    descriptor = os.open(index_root(runs_root) / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
