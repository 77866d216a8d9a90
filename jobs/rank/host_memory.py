"""How much memory the processes of a node can still take."""

from collections.abc import Iterator
from pathlib import Path

import psutil

_PROC = Path("/proc/self/cgroup")
_MOUNT = Path("/sys/fs/cgroup")
_V2 = ("memory.max", "memory.current", "inactive_file")
_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def available_memory(proc: Path = _PROC, mount: Path = _MOUNT) -> int:
    """Return the bytes that this node, and the limits of Slurm or a container on it, still allow.

    A limit counts what files hold in memory as well, although the kernel takes that back first; so it is added again
    (https://docs.kernel.org/admin-guide/cgroup-v2.html#memory-interface-files).

    Args:
        proc: Says in which groups this process is.
        mount: Where the groups' files are.
    """
    machine: int = psutil.virtual_memory().available
    return max(0, min([machine, *_left_by_limits(proc, mount)]))


def _left_by_limits(proc: Path, mount: Path) -> Iterator[int]:
    for folder, (limit, usage, inactive) in _groups(proc, mount):
        try:
            allowed = (folder / limit).read_text().strip()
            used = int((folder / usage).read_text())
            words = (line.split() for line in (folder / "memory.stat").read_text().splitlines())
            reclaimable = next((int(number) for name, number in words if name == inactive), 0)
        except (OSError, ValueError):  # this level has no limit, or its files are not shown here
            continue
        if allowed != "max":
            yield int(allowed) - used + reclaimable


def _groups(proc: Path, mount: Path) -> Iterator[tuple[Path, tuple[str, str, str]]]:
    """The groups of memory that this process is in, the innermost first; each may have a limit."""
    try:
        lines = proc.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root, names = (mount / "memory", _V1) if controllers else (mount, _V2)
        below = Path(path.lstrip("/"))
        for folder in (below, *below.parents):
            yield root / folder, names
