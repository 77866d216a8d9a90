"""Where submissions go: Slurm's queue, or processes of this machine. Both can be asked what they hold of one."""

import contextlib
import os
import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeAlias

from launcher.cluster import Cluster
from launcher.errors import RunError, SlurmError
from launcher.paths import SubmissionDir
from launcher.render import job_comment
from launcher.slurm.command import call_slurm, run_slurm

SLURM_DEFAULT_ARRAY_SIZE = 1001
"""MaxArraySize where the site sets none (https://slurm.schedmd.com/slurm.conf.html)."""

# What `sbatch --test-only` says on stderr (Slurm 22.05).
_ESTIMATE = re.compile(r"to start at (?P<start>\S+) using .* on nodes? (?P<nodes>\S+) in partition (?P<partition>\S+)")


def dependency(conditions: Sequence[str]) -> list[str]:
    """Options of sbatch that make it wait, and go when what must succeed has failed.

    Args:
        conditions: `afterok:12`, `afterany:13`, ...
    """
    if not conditions:
        return []
    must_succeed = any(condition.startswith("afterok:") for condition in conditions)
    return [f"--dependency={','.join(conditions)}", *(["--kill-on-invalid-dep=yes"] if must_succeed else [])]


@dataclass(frozen=True)
class SlurmQueue:
    """The queue of one site's Slurm."""

    cluster: Cluster
    has_arrays = True
    """Whether runs of one submission are started one by one, and one can wait for another."""

    def max_elements(self, wanted: int) -> int:
        """Say how many runs one sbatch call may queue; asks Slurm, where there is one, if more than one is wanted."""
        if wanted == 1:
            return SLURM_DEFAULT_ARRAY_SIZE
        try:
            config = run_slurm(["scontrol", "show", "config"], self.cluster)
        except SlurmError:  # a script can be rendered anywhere; sbatch will say what is wrong
            return SLURM_DEFAULT_ARRAY_SIZE
        # SchedulerParameters may hold a limit of its own.
        found = re.findall(r"^MaxArraySize\s*=\s*(\d+)|\bmax_array_tasks=(\d+)", config, re.MULTILINE)
        return max(1, min((int(first or second) for first, second in found), default=SLURM_DEFAULT_ARRAY_SIZE))

    def add(self, submission: SubmissionDir, options: Sequence[str] = ()) -> str:
        """Queue a submission and return its job id."""
        from launcher.slurm.executor import RecipeExecutor

        return RecipeExecutor(submission, self.cluster, options).queue()

    def wait_for(self, job: str, others: Sequence[str]) -> None:
        """Have a job that has not started wait until others are over, and no longer for what it waited for."""
        run_slurm(["scontrol", "update", f"JobId={job}", f"Dependency=afterany:{':'.join(others)}"], self.cluster)

    def element(self, job: str, index: int, size: int) -> str:
        """Id of the job that carries out one of a submission's runs."""
        return f"{job}_{index}" if size > 1 else job

    def estimate_start(self, script: str) -> str:
        """Ask Slurm when a script would start, in words; nothing is queued."""
        said = call_slurm(["sbatch", "--test-only"], self.cluster, stdin=script).stderr
        found = _ESTIMATE.search(said)
        if not found:
            return said.strip()
        when = datetime.fromisoformat(found["start"])
        return f"would start {when:%a %d %b %H:%M} on {found['nodes']} (partition {found['partition']})"

    def jobs_of(self, submission: SubmissionDir) -> list[str]:
        """List what is queued or running of a submission, array elements one by one."""
        # --all: partitions may be hidden. The working directory tells apart submissions of one name below two roots.
        argv = ["squeue", "--me", "--all", "--array", "--noheader", "--format=%i|%k|%Z"]
        rows = [line.split("|", 2) for line in run_slurm(argv, self.cluster).splitlines()]
        own, folder = job_comment(submission), os.path.realpath(submission.root)
        return [row[0] for row in rows if row[1:2] == [own] and os.path.realpath(row[2]) == folder]

    def cancel(self, submission: SubmissionDir) -> None:
        """Cancel what is queued or running of a submission."""
        if jobs := {job.partition("_")[0] for job in self.jobs_of(submission)}:
            run_slurm(["scancel", *sorted(jobs)], self.cluster)


@dataclass(frozen=True)
class LocalQueue:
    """Processes of this machine: one for each run, all at once."""

    cluster: Cluster
    has_arrays = False

    def max_elements(self, _wanted: int) -> int:
        """Say how many runs one process may carry out."""
        return 1

    def add(self, submission: SubmissionDir, options: Sequence[str] = ()) -> str:
        """Start a submission and return its job id, `local-PID`.

        Raises:
            RunError: There are options, which only a queue can honour.
        """
        if options:
            raise RunError(
                f"`--after` needs Slurm, and cluster profile `{self.cluster.name}` starts runs at once; submit without "
                "it when that run has finished (`launcher submit --wait` tells)"
            )
        from launcher.slurm.executor import LocalRecipeExecutor

        return LocalRecipeExecutor(submission, self.cluster).queue()

    def element(self, job: str, _index: int, _size: int) -> str:
        """Id of the process that carries out one of a submission's runs: one after the other."""
        return job

    def estimate_start(self, _script: str) -> str:
        """Say when a script would start."""
        return "would start at once on this machine"

    def jobs_of(self, submission: SubmissionDir) -> list[str]:
        """List the processes that carry out a submission."""
        return [f"local-{pid}" for pid in self._processes_of(submission)]

    def cancel(self, submission: SubmissionDir) -> None:
        """End the processes that carry out a submission."""
        for pid in self._processes_of(submission):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

    def _processes_of(self, submission: SubmissionDir) -> list[int]:
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                argv = (entry / "cmdline").read_bytes().split(b"\0")
                if b"jobs.runtime.batch" in argv and os.fsencode(submission.root) in argv:
                    found.append(int(entry.name))
        return found


Queue: TypeAlias = SlurmQueue | LocalQueue


def queue_of(cluster: Cluster) -> Queue:
    """Choose the queue that the cluster profile names."""
    return SlurmQueue(cluster) if cluster.executor == "slurm" else LocalQueue(cluster)
