"""Finding everything that runs on one virtual node, so that the node can lose its power.

slurmstepd detaches itself from slurmd, so ancestry alone does not lead to the job steps. What does: each slurmstepd
listens on a socket in the spool folder of its node, and Slurm gives every task the name of its node and the path of the
cluster's slurm.conf in its environment.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from launcher.devcluster.layout import Layout
from launcher.devcluster.processes import Process, all_pids, kill, wait_until, with_descendants


def cut_power(name: str, slurmd: Process | None, layout: Layout) -> int:
    """Kill all processes of one virtual node at once and return how many there were.

    slurmd and slurmstepd die first: a slurmstepd that outlives its tasks would report their end to slurmctld.
    """
    killed: set[Process] = set()
    daemons = ([slurmd] if slurmd else []) + _living(step_daemons(name, layout))

    def nothing_is_left() -> bool:
        found = _living(node_pids(name, slurmd, layout))
        killed.update(found)
        kill([process for process in found if process in daemons])
        kill(found)
        return not found

    wait_until(nothing_is_left, 20, f"all processes of {name} are killed")
    return len(killed)


def node_pids(name: str, slurmd: Process | None, layout: Layout) -> set[int]:
    """Return the ids of all processes of one virtual node: slurmd, job steps, tasks and their children."""
    roots = step_daemons(name, layout) | marked_processes(name, layout)
    if slurmd is not None and slurmd.is_alive:
        roots.add(slurmd.pid)
    return with_descendants(roots)


def step_daemons(name: str, layout: Layout) -> set[int]:
    """Return the ids of the processes that hold a socket open in the node's spool folder."""
    inodes = _socket_inodes(layout.spool / name)
    return {pid for pid in all_pids() if inodes and not inodes.isdisjoint(_open_files(pid))}


def marked_processes(name: str, layout: Layout) -> set[int]:
    """Return the ids of the processes whose environment says that Slurm started them on this node."""
    marks = {f"SLURM_CONF={layout.slurm_conf}".encode(), f"SLURMD_NODENAME={name}".encode()}
    return {pid for pid in all_pids() if marks <= set(_environment(pid))}


def _socket_inodes(folder: Path) -> set[str]:
    # Columns of /proc/net/unix: ... the inode is the seventh, the path the eighth (man 5 proc).
    rows = (line.split(maxsplit=7) for line in Path("/proc/net/unix").read_text(errors="replace").splitlines())
    return {f"socket:[{row[6]}]" for row in rows if len(row) == 8 and Path(row[7]).parent == folder}


def _open_files(pid: int) -> Iterator[str]:
    folder = f"/proc/{pid}/fd"
    try:
        numbers = os.listdir(folder)
    except OSError:
        return
    for number in numbers:
        try:
            yield os.readlink(f"{folder}/{number}")
        except OSError:
            continue


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def _living(pids: set[int]) -> list[Process]:
    return [process for pid in pids if (process := Process.of(pid)) is not None]
