"""What it takes to start the tasks of an attempt, whoever starts them. Standard library only."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from jobs.runtime import watchdog
from launcher.paths import DOES_NOT_FIT, NEVER_RESTART, RunDir


@dataclass(frozen=True)
class Launch:
    """The tasks of one attempt."""

    run: RunDir
    attempt: int
    nodes: int
    ranks_per_node: int
    cpus_per_task: int
    master_addr: str
    master_port: int
    cluster: Mapping[str, Any]
    """The resolved cluster profile."""
    recipe_folder: str = ""
    hang_seconds: int = 0
    """How long the tasks may go without a sign of life; 0 = for ever."""

    @property
    def world_size(self) -> int:
        """Number of tasks."""
        return self.nodes * self.ranks_per_node

    @property
    def command(self) -> list[str]:
        """What each task runs: the snapshot's code, by the interpreter of this process or of the image."""
        container = self.cluster.get("container")
        python = container["python"] if container else sys.executable
        return [python, "-u", "-m", "jobs", str(self.run.root), "--attempt", str(self.attempt)]

    @property
    def exports(self) -> dict[str, str]:
        """Variables that the tasks get besides those of this process."""
        inherited = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
        exports = {
            "MASTER_ADDR": self.master_addr,
            "MASTER_PORT": str(self.master_port),
            "LAUNCHER_ATTEMPT": str(self.attempt),
            "OMP_NUM_THREADS": str(self.cpus_per_task),
            watchdog.VARIABLE: str(self.hang_seconds),
            # What NCCL's flight recorder saw when a collective gives up; else it goes to a file that all runs share.
            "TORCH_FR_DUMP_TEMP_FILE": str(self.run.attempt_logs(self.attempt) / "nccl-rank-"),
            "PYTHONPATH": os.pathsep.join([str(self.run.code), *inherited]),
            # A folder `jobs` or `wandb` in the working directory must not be taken for ours.
            "PYTHONSAFEPATH": "1",
        }
        return {**exports, **self.cluster.get("environment", {})}


@dataclass(frozen=True)
class Outcome:
    """How the tasks ended."""

    exit_code: int
    """The one that decides; see `deciding_code`."""
    detail: str = ""
    """Which task failed first, on which node, and how."""


class Tasks(Protocol):
    """Running tasks."""

    def poll(self) -> Outcome | None:
        """Tell how the tasks ended; None while any of them runs."""

    def ask_to_stop(self) -> str:
        """Deliver USR2 to every task; return what to say about it."""

    def kill(self, at_once: bool = False) -> None:
        """End the tasks, the hard way if need be.

        Args:
            at_once: Whether they get no time to end by themselves.
        """


@dataclass(frozen=True)
class TaskEnd:
    """How one task (or some tasks of one node) failed."""

    tasks: str
    node: str
    exit_code: int
    said: str
    """In srun's words: `Exited with exit code 1`, `Killed`."""


_BELIEVED = {NEVER_RESTART: 0, DOES_NOT_FIT: 1}


def decide(ends: list[TaskEnd], otherwise: Outcome) -> Outcome:
    """Find the exit code that tells what happened, among those of tasks that were killed because of it.

    The first failure counts, since the end of one task ends the others; but a task that says "never
    restart" or "does not fit" is believed whenever it speaks: the others fail for want of it, and may be
    heard first.

    Args:
        ends: Failed tasks, in the order they failed.
        otherwise: The outcome if no task was reported.
    """
    if not ends:
        return otherwise
    ranked = sorted(ends, key=lambda end: _BELIEVED.get(end.exit_code, len(_BELIEVED)))
    first = ranked[0]
    return Outcome(first.exit_code, f"rank {first.tasks} on {first.node}: {first.said}")
