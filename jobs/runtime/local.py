"""Starting the tasks as processes of this machine, for a machine without Slurm. Standard library only."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable

from jobs.runtime.tasks import Launch, Outcome, TaskEnd, decide

GRACE_SECONDS = 30
"""From SIGTERM to SIGKILL, as Slurm's KillWait."""


class LocalTasks:
    """Tasks as child processes. `nodes` x `ranks_per_node` of them, all on this machine.

    Args:
        launch: What to start.
        say: Called with one line about what happens.
        grace_seconds: How long the others get to end when one fails.
    """

    def __init__(self, launch: Launch, say: Callable[[str], None], grace_seconds: float = GRACE_SECONDS) -> None:
        self._say = say
        self._grace = grace_seconds
        self._kill_at: float | None = None
        self._ends: list[TaskEnd] = []
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        try:
            for rank in range(launch.world_size):
                self._running[rank] = start_task(launch, rank)
        except OSError:  # the next attempt must not find them at work
            self._signal(signal.SIGKILL)
            for process in self._running.values():
                process.wait()
            raise

    def poll(self) -> Outcome | None:
        """Tell how the tasks ended; None while any runs. One that fails takes the others with it."""
        for rank, process in list(self._running.items()):
            if process.poll() is not None:
                del self._running[rank]
                self._note_end(rank, process.returncode)
        if self._running and self._kill_at is not None and time.monotonic() >= self._kill_at:
            self._signal(signal.SIGKILL)
        return None if self._running else decide(self._ends, Outcome(0))

    def ask_to_stop(self) -> str:
        """Send USR2 to every task."""
        self._signal(signal.SIGUSR2)
        return "USR2 sent to all tasks"

    def kill(self, at_once: bool = False) -> None:
        """Send SIGTERM; SIGKILL follows when the grace time is over, or instead."""
        if at_once:
            self._kill_at = time.monotonic()
        elif self._kill_at is None:
            self._kill_at = time.monotonic() + self._grace
            self._signal(signal.SIGTERM)

    def _note_end(self, rank: int, code: int) -> None:
        if code == 0:
            return
        said = f"Exited with exit code {code}" if code > 0 else (signal.strsignal(-code) or f"signal {-code}")
        self._say(f"task {rank}: {said}")
        self._ends.append(TaskEnd(str(rank), os.uname().nodename, code if code > 0 else 128 - code, said))
        self.kill()

    def _signal(self, number: signal.Signals) -> None:
        for process in self._running.values():
            process.send_signal(number)


def task_environment(launch: Launch, rank: int) -> dict[str, str]:
    """Make the environment of a task: this process's, and its place in torchrun's words."""
    place = {
        "RANK": rank,
        "WORLD_SIZE": launch.world_size,
        "LOCAL_RANK": rank % launch.ranks_per_node,
        "LOCAL_WORLD_SIZE": launch.ranks_per_node,
        "NODE_RANK": rank // launch.ranks_per_node,
    }
    return {**os.environ, **launch.exports, **{name: str(value) for name, value in place.items()}}


def start_task(launch: Launch, rank: int) -> "subprocess.Popen[bytes]":
    """Start a task whose output goes to its rank's log."""
    with launch.run.rank_log(launch.attempt, rank).open("ab") as log:
        return subprocess.Popen(
            [*_bound_to_parent(), *launch.command],
            env=task_environment(launch, rank),
            cwd=launch.run.root,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def _bound_to_parent() -> list[str]:
    """Have the kernel send SIGTERM to a task whose parent is gone: no scheduler would ever end it."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig=TERM", "--"] if setpriv else []
