"""Where submissions go: Slurm's queue, or for a `local` profile processes of this machine."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

from launcher.cluster import Cluster
from launcher.errors import SlurmError
from launcher.run.paths import SubmissionDir
from launcher.slurm.command import call_slurm, run_slurm
from launcher.slurm.local_queue import LocalQueue, end_process
from launcher.slurm.query import QueryResult, find_jobs
from launcher.slurm.site_query import show_config

SLURM_DEFAULT_ARRAY_SIZE = 1001
"""MaxArraySize where the site sets none (https://slurm.schedmd.com/slurm.conf.html)."""

# What `sbatch --test-only` says on stderr (Slurm 22.05; 26.05 has an ` a` before `using`).
_ESTIMATE = re.compile(
    r"to start at (?P<start>\S+)(?: a)? using .* on nodes? (?P<nodes>\S+) in partition (?P<partition>\S+)"
)


def estimate_in_words(printed: str) -> str:
    """Say what `sbatch --test-only` printed about the start of a job; as it is, if it has another form."""
    found = _ESTIMATE.search(printed)
    if not found:
        return printed.strip()
    when = datetime.fromisoformat(found["start"])
    return f"would start {when:%a %d %b %H:%M} on {found['nodes']} (partition {found['partition']})"


def job_comment(submission: SubmissionDir) -> str:
    """Value of `--comment`, by which Slurm's queue can be searched for a submission."""
    return f"launcher {submission.root.name}"


def dependency(conditions: Sequence[str], is_kept: bool = False) -> list[str]:
    """Options of sbatch that make it wait.

    Args:
        conditions: `afterok:12`, `afterany:13`, ...
        is_kept: Whether it stays in the queue when what must succeed has failed; else it goes. A guardian makes it wait
            for the job that it brings the run back as, if it is there.
    """
    if not conditions:
        return []
    if is_kept:
        return [f"--dependency={','.join(conditions)}", "--kill-on-invalid-dep=no"]
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
            config = show_config(self.cluster)
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
        """Replace a pending job's dependencies: it starts when other jobs are over."""
        run_slurm(["scontrol", "update", f"JobId={job}", f"Dependency=afterany:{':'.join(others)}"], self.cluster)

    def set_conditions(self, job: str, conditions: Sequence[str]) -> None:
        """Replace a pending job's conditions (`afterok:12`, ...); it starts at once if there are none."""
        run_slurm(["scontrol", "update", f"JobId={job}", f"Dependency={','.join(conditions)}"], self.cluster)

    def element(self, job: str, index: int, size: int) -> str:
        """Id of the job that carries out one of a submission's runs."""
        return f"{job}_{index}" if size > 1 else job

    def estimate_start(self, script: str) -> str:
        """Ask Slurm when a script would start, in words; nothing is queued."""
        return estimate_in_words(call_slurm(["sbatch", "--test-only"], self.cluster, stdin=script).stderr)

    def jobs_of(self, submission: SubmissionDir) -> list[str]:
        """List what is queued or running of a submission, array elements one by one."""
        # --all: partitions may be hidden. The working directory tells apart submissions of one name below two roots.
        argv = ["squeue", "--me", "--all", "--array", "--noheader", "--format=%i|%k|%Z"]
        rows = [line.split("|", 2) for line in run_slurm(argv, self.cluster).split("\n")]
        own, folder = job_comment(submission), os.path.realpath(submission.root)
        return [row[0] for row in rows if row[1:2] == [own] and os.path.realpath(row[2]) == folder]

    def cancel(self, submission: SubmissionDir) -> None:
        """Cancel what is queued or running of a submission."""
        if jobs := {job.partition("_")[0] for job in self.jobs_of(submission)}:
            run_slurm(["scancel", *sorted(jobs)], self.cluster)


Queue: TypeAlias = SlurmQueue | LocalQueue


def queue_of(cluster: Cluster) -> Queue:
    """Choose the queue that the cluster profile names."""
    return SlurmQueue(cluster) if cluster.executor == "slurm" else LocalQueue(cluster)


def release_jobs(job_ids: Sequence[str], cluster: Cluster) -> None:
    """Let held jobs go.

    Raises:
        SlurmError: Slurm refuses; only an administrator may release a job that one holds.
    """
    run_slurm(["scontrol", "release", ",".join(job_ids)], cluster)


def signal_ranks(job_id: str, number: int, cluster: Cluster) -> None:
    """Send a signal to all ranks of a job; its batch process gets nothing.

    Raises:
        SlurmError: Slurm refuses.
    """
    run_slurm(["scancel", f"--signal={number}", job_id], cluster)


def warn_batch(job_id: str, cluster: Cluster) -> None:
    """Send a job's batch process what Slurm sends it before the time limit; its ranks get nothing.

    Raises:
        SlurmError: Slurm refuses.
    """
    run_slurm(["scancel", "--batch", "--signal=USR1", job_id], cluster)


def end_jobs(job_ids: Sequence[str], cluster: Cluster, submissions: Mapping[str, str]) -> QueryResult:
    """End those of the jobs that are still queued or running, in this order.

    Args:
        job_ids: The jobs.
        cluster: Where they are.
        submissions: Folder of what each of them carries out, where it is known: another run's process may have the
            number of a job without Slurm by now.

    Returns:
        What was known of them before.
    """
    known = find_jobs(cluster, job_ids)
    alive = [job for job in job_ids if not known.is_gone(job, submissions.get(job, ""))]
    if slurm_jobs := [job for job in alive if not job.startswith("local-")]:
        run_slurm(["scancel", *slurm_jobs], cluster)
    for job in alive:
        if job.startswith("local-"):
            end_process(job)
    return known
