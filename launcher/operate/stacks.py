"""Where the ranks of a running run are right now: their stacks, on request, put together where they are the same."""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from launcher.cluster import Cluster
from launcher.operate.running import RunningAttempt, find_running
from launcher.run.paths import RunDir
from launcher.run.stacks import SIGNAL, SharedStack, group_stacks, parse_stacks
from launcher.slurm.queue import signal_ranks

_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class StackReport:
    """What the ranks of an attempt answered."""

    attempt: int
    stacks: tuple[SharedStack, ...]
    """What fewest ranks are in comes first: in a hang it is the odd one that matters."""
    silent: tuple[int, ...]
    """Ranks that did not answer."""


def ask_for_stacks(run: RunDir, cluster: Cluster, patience: float, all_threads: bool = False) -> StackReport:
    """Ask all ranks of a running run for their stacks; the run goes on.

    Args:
        run: The run.
        cluster: Where it is.
        patience: How many seconds to wait for answers.
        all_threads: Whether ranks that differ in other threads than the main one are told apart.

    Raises:
        RunError: It does not run, or on another machine.
        SlurmError: The request cannot be sent.
    """
    running = find_running(run, cluster)
    logs = {rank: run.rank_log(running.number, rank) for rank in range(running.world_size)}
    offsets = {rank: _size(log) for rank, log in logs.items()}
    _send(running, cluster)
    deadline, found = time.monotonic() + patience, dict[int, Mapping[str, tuple[str, ...]]]()
    while True:
        for rank in logs.keys() - found.keys():
            if (stacks := parse_stacks(_read_from(logs[rank], offsets[rank]))) is not None:
                found[rank] = stacks
        if len(found) == len(logs) or time.monotonic() > deadline:
            break
        time.sleep(_POLL_SECONDS)
    return StackReport(running.number, group_stacks(found, all_threads), tuple(sorted(logs.keys() - found.keys())))


def _send(running: RunningAttempt, cluster: Cluster) -> None:
    if not running.is_local:
        signal_ranks(running.job_id, int(SIGNAL), cluster)
        return
    running.require_this_machine()
    for child in _children(running.process):
        with suppress(ProcessLookupError):  # it has just ended
            os.kill(child, SIGNAL)


def _children(process: str) -> Iterator[int]:
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            _, parent, *_ = stat.read_text().rpartition(")")[2].split()
            if parent == process:
                yield int(stat.parent.name)


def _size(log: Path) -> int:
    return log.stat().st_size if log.is_file() else 0


def _read_from(log: Path, offset: int) -> str:
    if not log.is_file():
        return ""
    with log.open("rb") as file:
        file.seek(offset)
        return file.read().decode(errors="replace")
