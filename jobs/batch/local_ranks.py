"""Starting the ranks as processes of this machine, where there is no Slurm."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable

from jobs.batch.launch import Launch, Outcome, RankEnd, deciding_outcome

GRACE_SECONDS = 30
"""From SIGTERM to SIGKILL, as Slurm's KillWait."""


class LocalRanks:
    """Ranks as child processes: `nodes` x `ranks_per_node` of them, all on this machine.

    Args:
        launch: What to start.
        say: Called with one line about what happens.
        grace_seconds: How long the others get to end when one fails.
        without: A rank that somebody else starts.
    """

    def __init__(
        self,
        launch: Launch,
        say: Callable[[str], None],
        grace_seconds: float = GRACE_SECONDS,
        without: int | None = None,
    ) -> None:
        self._say = say
        self._grace = grace_seconds
        self._kill_at: float | None = None
        self._ends: list[RankEnd] = []
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        try:
            for rank in (one for one in range(launch.world_size) if one != without):
                self._running[rank] = _start(launch, rank)
        except OSError:  # no rank may run on beside those of the next attempt
            self._signal(signal.SIGKILL)
            for process in self._running.values():
                process.wait()
            raise

    def poll(self) -> Outcome | None:
        """Tell how the ranks ended; None while any runs. One that fails takes the others with it."""
        for rank, process in list(self._running.items()):
            if process.poll() is not None:
                del self._running[rank]
                self._note_end(rank, process.returncode)
        if self._running and self._kill_at is not None and time.monotonic() >= self._kill_at:
            self._signal(signal.SIGKILL)
        return None if self._running else deciding_outcome(self._ends, Outcome(0))

    def wait(self, seconds: float) -> None:
        """Wait until one of them ends, but no longer than this."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            next(iter(self._running.values())).wait(timeout=seconds)

    def ask_to_stop(self) -> str:
        """Send USR2 to every rank."""
        self._signal(signal.SIGUSR2)
        return "USR2 sent to all ranks"

    def kill(self, at_once: bool = False) -> None:
        """Send SIGTERM, and SIGKILL when the grace time is over; `at_once`: SIGKILL alone."""
        if at_once:
            self._kill_at = time.monotonic()
        elif self._kill_at is None:
            self._kill_at = time.monotonic() + self._grace
            self._signal(signal.SIGTERM)

    def _note_end(self, rank: int, code: int) -> None:
        if code == 0:
            return
        said = f"Exited with exit code {code}" if code > 0 else (signal.strsignal(-code) or f"signal {-code}")
        self._say(f"rank {rank}: {said}")
        self._ends.append(RankEnd(str(rank), os.uname().nodename, code if code > 0 else 128 - code, said))
        self.kill()

    def _signal(self, number: signal.Signals) -> None:
        for process in self._running.values():
            process.send_signal(number)


def rank_environment(launch: Launch, rank: int) -> dict[str, str]:
    """Make the environment of a rank: this process's, and its place."""
    return {**os.environ, **launch.exports, **place_of(launch, rank)}


def place_of(launch: Launch, rank: int) -> dict[str, str]:
    """Tell a rank its place, in torchrun's words."""
    place = {
        "RANK": rank,
        "WORLD_SIZE": launch.world_size,
        "LOCAL_RANK": rank % launch.ranks_per_node,
        "LOCAL_WORLD_SIZE": launch.ranks_per_node,
        "NODE_RANK": rank // launch.ranks_per_node,
    }
    return {name: str(value) for name, value in place.items()}


def _start(launch: Launch, rank: int) -> "subprocess.Popen[bytes]":
    # The kernel sends SIGTERM to a rank whose parent is gone: no scheduler would ever end it.
    setpriv = shutil.which("setpriv")
    bound_to_parent = [setpriv, "--pdeathsig=TERM", "--"] if setpriv else []
    with launch.run.rank_log(launch.attempt, rank).open("ab") as log:
        return subprocess.Popen(
            [*bound_to_parent, *launch.command],
            env=rank_environment(launch, rank),
            cwd=launch.run.root,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
