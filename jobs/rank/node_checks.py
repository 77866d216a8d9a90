"""What earlier jobs, or neglect, may have left on a node: no shared memory, GPU memory in use, a wrong clock."""

import os
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - it is looked at only
LEAST_SHARED_MEMORY = 2**30
"""What NCCL and data loaders of a node want, at most a tenth of all of it."""
MOST_LEFT = 2**31
"""Bytes of a GPU that may be in use before the work: this rank's own context needs a part of that, ..."""
MOST_LEFT_SHARE = 0.05
"""... and so may others of a large GPU's memory."""
CLOCK_SECONDS = 60.0
"""A clock that is further off breaks certificates and tickets, and makes logs unreadable."""


def shared_memory_faults(folder: Path = SHARED_MEMORY) -> list[str]:
    """Check that /dev/shm is not full of files that a killed job has left."""
    try:
        space = os.statvfs(folder)
    except OSError:  # a system without it
        return []
    free, total = space.f_bavail * space.f_frsize, space.f_blocks * space.f_frsize
    if free >= min(LEAST_SHARED_MEMORY, total / 10):
        return []
    return [f"{folder} has {free / 2**20:.0f} MiB left of {total / 2**30:.1f} GiB; an earlier job may have left files"]


def leftover_faults(gpu: int, free: int, total: int) -> list[str]:
    """Check that nobody else uses the memory of a GPU.

    Args:
        gpu: Its number on this node.
        free: Bytes that are free.
        total: Bytes that it has.
    """
    used = total - free
    if used <= max(MOST_LEFT, MOST_LEFT_SHARE * total):
        return []
    return [f"GPU {gpu} has {used / 2**30:.1f} GiB in use before the work; an earlier job may still run on it"]


def clock_fault(seconds: float, where: str) -> str | None:
    """Check a clock.

    Args:
        seconds: By how much it is ahead of one that is right.
        where: Name of the node that has this one.
    """
    if abs(seconds) <= CLOCK_SECONDS:
        return None
    return f"its clock is {abs(seconds):.0f} s {'ahead of' if seconds > 0 else 'behind'} that of {where}"
