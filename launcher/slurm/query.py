"""The state of many runs' jobs in few calls, from whatever this site has: squeue, sacct, scontrol.

Sites without sacct, with accounting switched off, slow or purged are common, so each source may fail: the next one
is asked, the failure is noted once, and each answer says where it comes from.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from launcher.cluster import Cluster
from launcher.errors import SlurmError
from launcher.slurm.command import TIMEOUT_SECONDS, complaint, run_slurm
from launcher.slurm.local_queue import find_command
from launcher.slurm.parse import (
    SACCT_FORMAT,
    SQUEUE_FORMAT,
    Job,
    Source,
    parse_sacct,
    parse_scontrol_jobs,
    parse_squeue,
)

SCONTROL_LIMIT = 20
"""scontrol takes one job a call, so it is only asked for the newest of those that squeue and sacct do not know."""

_UNKNOWN_JOB = "Invalid job id"
_NO_ACCOUNTING = "accounting storage is disabled"
_AWAY = re.compile("Unable to contact slurm controller|did not answer within")


@dataclass(frozen=True)
class QueryResult:
    """What Slurm knows of some jobs."""

    jobs: Mapping[str, Job]
    """By job id; ids that no source knows are missing."""
    answered: frozenset[Source]
    """Sources that worked."""
    notes: tuple[str, ...] = ()
    """Sources that did not work, and why."""

    def find(self, job_id: str, submission: str = "") -> Job | None:
        """Find a job that carries out a submission; without that any process that has the job's number will do."""
        job = self.jobs.get(job_id)
        return job if job is not None and job.may_carry_out(submission) else None

    def is_gone(self, job_id: str, submission: str = "") -> bool:
        """Tell whether the job is neither waiting nor running; False when nobody could be asked.

        Args:
            job_id: Its id.
            submission: Folder of what it carries out, if that is known; see `find`.
        """
        live: Source = "process" if job_id.startswith("local-") else "squeue"
        job = self.find(job_id, submission)
        return job.phase == "over" if job else live in self.answered


@dataclass
class _Question:
    cluster: Cluster
    open: set[str]
    found: dict[str, Job] = field(default_factory=dict)
    answered: set[Source] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    is_away: bool = False
    """Whether slurmctld let squeue wait in vain. scontrol asks it, too, and would wait as long for each job."""

    def put(self, source: Source, ask: Callable[[Cluster, Sequence[str]], Iterable[Job]]) -> None:
        """Ask one source for what is still open."""
        if not self.open:
            return
        try:
            jobs = ask(self.cluster, sorted({job_id.partition("_")[0] for job_id in self.open}, key=_number))
        except SlurmError as error:
            self.notes.append(_note(source, error))
            self.is_away |= source == "squeue" and bool(_AWAY.search(str(error)))
            return
        self.answered.add(source)
        for job in jobs:
            if job.id in self.open:
                self.found[job.id] = job  # of several starts of a job the last one counts
        self.open -= self.found.keys()


def find_jobs(cluster: Cluster, job_ids: Iterable[str]) -> QueryResult:
    """Find the state of jobs: squeue, then sacct, then scontrol; processes for a local executor.

    Args:
        cluster: The site.
        job_ids: `123`, `123_4` or `local-PID`.
    """
    wanted = {job_id for job_id in job_ids if job_id}
    local = {job_id for job_id in wanted if job_id.startswith("local-")}
    question = _Question(cluster, wanted - local)
    if cluster.executor == "slurm":
        question.put("squeue", _ask_squeue)
        question.put("sacct", _ask_sacct)
        if not question.is_away:
            question.put("scontrol", _ask_scontrol)
    commands = {job_id: command for job_id in local if (command := find_command(job_id)) is not None}
    processes = {job_id: Job(job_id, "RUNNING", "process", command=command) for job_id, command in commands.items()}
    if local:
        question.answered.add("process")
    return QueryResult(question.found | processes, frozenset(question.answered), tuple(question.notes))


def plain_id(job_id: str, cluster: Cluster) -> str:
    """Find the number of its own that an element of an array has: srun takes no `123_4`.

    Raises:
        SlurmError: Slurm does not tell, or the job is gone.
    """
    if "_" not in job_id:
        return job_id
    argv = ["squeue", "--noheader", "--all", f"--jobs={job_id}", "--format=%A"]
    return run_slurm(argv, cluster, TIMEOUT_SECONDS).strip()


def _ask_squeue(cluster: Cluster, base_ids: Sequence[str]) -> list[Job]:
    # --array: squeue cuts the short form of long arrays off. --states=all: jobs that ended minutes ago, too.
    options = ("--all", "--array", "--states=all", "--noheader", f"--format={SQUEUE_FORMAT}")
    argv = ["squeue", *options, f"--jobs={','.join(base_ids)}"]
    try:
        return parse_squeue(run_slurm(argv, cluster, TIMEOUT_SECONDS))
    except SlurmError as error:
        if _UNKNOWN_JOB in str(error):
            return []
        raise


def _ask_sacct(cluster: Cluster, base_ids: Sequence[str]) -> list[Job]:
    options = ("--duplicates", "--allocations", "--parsable2", "--noheader", f"--format={SACCT_FORMAT}")
    return parse_sacct(run_slurm(["sacct", *options, f"--jobs={','.join(base_ids)}"], cluster, TIMEOUT_SECONDS))


def _ask_scontrol(cluster: Cluster, base_ids: Sequence[str]) -> list[Job]:
    jobs: list[Job] = []
    for base_id in base_ids[-SCONTROL_LIMIT:]:
        try:
            jobs += parse_scontrol_jobs(run_slurm(["scontrol", "show", "job", base_id], cluster, TIMEOUT_SECONDS))
        except SlurmError as error:
            if _UNKNOWN_JOB not in str(error):
                raise
    return jobs


def _number(job_id: str) -> tuple[int, str]:
    return len(job_id), job_id


def _note(source: Source, error: SlurmError) -> str:
    is_off = _NO_ACCOUNTING in str(error)
    return f"{source}: {'accounting is switched off at this site' if is_off else complaint(error)}"
