"""Runs as processes of this machine, for cluster profiles with `executor: local`; their job ids are `local-PID`."""

import contextlib
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launcher.cluster import Cluster
from launcher.errors import RunError
from launcher.run.batch_process import is_batch_process, names_submission
from launcher.run.paths import SubmissionDir
from launcher.slurm.command import slurm_environment

_OF_KERNEL = 0x00200000
"""Flag of the kernel's own threads in /proc/PID/stat (PF_KTHREAD in Linux' include/linux/sched.h): they have no command
line either."""


@dataclass(frozen=True)
class LocalQueue:
    """Starts each submission at once, as a process that outlives this one."""

    cluster: Cluster
    has_arrays = False

    def max_elements(self, _wanted: int) -> int:
        """Say how many runs one process may carry out."""
        return 1

    def add(self, submission: SubmissionDir, options: Sequence[str] = ()) -> str:
        """Start a submission and return its job id.

        Raises:
            RunError: There are options, which only Slurm can honour.
        """
        if options:
            raise RunError(
                f"`--after` needs Slurm, and cluster profile `{self.cluster.name}` starts runs at once; submit without "
                "it when that run has finished (`launcher submit --wait` waits for that)"
            )
        log, flags = str(submission.slurm_log("local")), os.O_WRONLY | os.O_CREAT | os.O_APPEND
        opened = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0), (os.POSIX_SPAWN_OPEN, 1, log, flags, 0o644)]
        pid = os.posix_spawn(
            "/bin/bash",
            ["bash", str(submission.script)],
            slurm_environment(self.cluster),
            file_actions=[*opened, (os.POSIX_SPAWN_DUP2, 1, 2)],
            setsid=True,
        )
        return f"local-{pid}"

    def set_conditions(self, job: str, conditions: Sequence[str]) -> None:
        """Do nothing: whatever was started here runs."""

    def element(self, job: str, _index: int, _size: int) -> str:
        """Id of the process that carries out one of a submission's runs: one after the other."""
        return job

    def estimate_start(self, _script: str) -> str:
        """Say when a script would start."""
        return "would start at once on this machine"

    def jobs_of(self, submission: SubmissionDir) -> list[str]:
        """List the processes that carry out a submission."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if is_batch_process(words) and names_submission(words, submission.root):
                    found.append(f"local-{entry.name}")
        return found

    def cancel(self, submission: SubmissionDir) -> None:
        """End the processes that carry out a submission."""
        for job in self.jobs_of(submission):
            end_process(job)


def end_process(job: str) -> None:
    """Ask a local run's process to end."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(int(job.removeprefix("local-")), signal.SIGTERM)


def find_command(job: str) -> tuple[bytes, ...] | None:
    """Find the words of the command line of a local run's process; None if there is no such process.

    Another run's process may have its number by now: `launcher.run.batch_process.names_submission` tells.
    """
    process = Path("/proc") / job.removeprefix("local-")
    try:
        words = (process / "cmdline").read_bytes().split(b"\0")
        state, *_, flags = (process / "stat").read_text().rpartition(")")[2].split()[:7]
    except OSError:
        return () if not Path("/proc/self").exists() and _answers_signal(job) else None
    if state == "Z" or int(flags) & _OF_KERNEL:
        return None
    if words == [b""]:  # one program is becoming another
        return ()
    # Until the script has replaced itself by the batch process it is a shell.
    is_starting = any(word.endswith(b"/submission.sh") for word in words)
    return tuple(words) if is_starting or is_batch_process(words) else None


def _answers_signal(job: str) -> bool:
    try:
        os.kill(int(job.removeprefix("local-")), 0)
    except (OSError, ValueError):
        return False
    return True
