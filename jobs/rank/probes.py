"""What the network and the file system do in a second, measured by all ranks of an attempt together."""

import os
import statistics
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from jobs.rank.process_group import RankGroup
from jobs.rank.ranks import Ranks
from jobs.rank.watchdog import WATCHDOG
from launcher.artifacts.site_measurements import Rate

WARM_UPS, REPEATS = 2, 5
_BLOCK = 16 * 2**20
_PREFIX = ".site-check-"


def measure_skew(group: RankGroup) -> float:
    """Return the largest difference between the clocks of two ranks, in seconds. A collective."""
    group.barrier()
    times = group.collect(time.time())
    return max(times) - min(times)


def measure_messages(group: RankGroup, ranks: Ranks, sizes: Sequence[int]) -> tuple[tuple[Rate, ...], tuple[Rate, ...]]:
    """Measure all-reduces inside nodes and between them. A collective.

    In an all-reduce of n ranks each sends at least 2 (n - 1) / n times the message (NVIDIA's nccl-tests, "bus
    bandwidth", https://github.com/NVIDIA/nccl-tests/blob/master/doc/PERFORMANCE.md).

    Args:
        group: All ranks.
        ranks: This rank's place.
        sizes: Bytes of the messages.

    Returns:
        Bytes a second that a rank sends to others of its node, and that a node sends to others, each by size; empty
        where there are no others.
    """
    per_node = ranks.local_world_size
    nodes = ranks.world_size // per_node
    own_node = _own_group([range(node * per_node, (node + 1) * per_node) for node in range(nodes)], ranks.rank)
    same_place = _own_group([range(place, ranks.world_size, per_node) for place in range(per_node)], ranks.rank)
    inside = [Rate(bytes=size, per_second=_rate(group, own_node, per_node, size)) for size in sizes if per_node > 1]
    between = [
        Rate(bytes=size, per_second=per_node * _rate(group, same_place, nodes, size)) for size in sizes if nodes > 1
    ]
    return tuple(inside), tuple(between)


def _own_group(groups: Sequence[range], rank: int) -> Any:
    made = [dist.new_group([*members]) for members in groups]
    return made[next(place for place, members in enumerate(groups) if rank in members)]


def _rate(group: RankGroup, members: Any, count: int, size: int) -> float:
    """Bytes a second that a rank sends, as the slowest rank has it."""
    message = torch.ones(size // 4, device=group.device)
    seconds = []
    for _ in range(WARM_UPS + REPEATS):
        group.barrier()
        began = time.perf_counter()
        dist.all_reduce(message, group=members)
        if group.device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(max(group.collect(time.perf_counter() - began)))
        message.fill_(1)
    return 2 * (count - 1) / count * size / statistics.median(seconds[WARM_UPS:])


def measure_storage(group: RankGroup, folder: Path, size: int) -> tuple[Rate | None, Rate | None]:
    """Let every node write a file, and read back the one of the next node. A collective.

    Returns:
        Bytes a second of all nodes together, for writing and for reading; None if the disk has no room.
    """
    room = os.statvfs(folder)
    writers = [rank for rank, leads in enumerate(group.collect(group.leads_node)) if leads]
    if any(group.any(room.f_bavail * room.f_frsize < 2 * size * len(writers))):
        return None, None
    own = folder / f"{_PREFIX}{group.rank}"
    total = size * len(writers)
    write = total / _slowest(group, lambda: _write(own, size) if group.leads_node else None)
    neighbour = next((rank for rank in writers if rank > group.rank), writers[0])
    read = total / _slowest(group, lambda: _read(folder / f"{_PREFIX}{neighbour}") if group.leads_node else None)
    group.barrier()
    with suppress(FileNotFoundError):
        own.unlink()
    return Rate(bytes=size, per_second=write), Rate(bytes=size, per_second=read)


def _slowest(group: RankGroup, work: Any) -> float:
    group.barrier()
    began = time.perf_counter()
    work()
    return max(group.collect(time.perf_counter() - began))


def _write(path: Path, size: int) -> None:
    block = os.urandom(min(size, _BLOCK))  # some file systems compress zeros
    with path.open("wb", buffering=0) as file:
        for start in range(0, size, _BLOCK):
            file.write(block[: size - start])
            WATCHDOG.heartbeat()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # of nodes that share a machine


def _read(path: Path) -> None:
    with path.open("rb", buffering=0) as file:
        while file.read(_BLOCK):
            WATCHDOG.heartbeat()


def measure_small_files(group: RankGroup, folder: Path, count: int) -> float:
    """Let rank 0 make, sync and remove small files; return how many of them a second. A collective."""
    return count / _slowest(group, lambda: _churn(folder, count) if group.is_main else None)


def _churn(folder: Path, count: int) -> None:
    for number in range(count):
        path = folder / f"{_PREFIX}small-{number}"
        with path.open("wb") as file:
            file.write(b"x" * 100)
            file.flush()
            os.fsync(file.fileno())
        path.unlink()
        WATCHDOG.heartbeat()
