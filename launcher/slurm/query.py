"""The state of many runs' jobs in few calls, from whatever this site has: squeue, sacct, scontrol.

Sites without sacct, with accounting switched off, slow or purged are common, so each source may fail: the next one
is asked, the failure is noted once, and each answer says where it comes from.
"""

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from launcher.cluster import Cluster
from launcher.errors import RunError, SlurmError
from launcher.facts import RunFacts, read_all_facts
from launcher.slurm.command import run_slurm
from launcher.slurm.parse import (
    SACCT_FORMAT,
    SQUEUE_FORMAT,
    Job,
    Source,
    parse_sacct,
    parse_scontrol_jobs,
    parse_squeue,
)

TIMEOUT_SECONDS = 15
"""A command that takes longer counts as no answer; slurmctld's own MessageTimeout is 10 s."""

SCONTROL_LIMIT = 20
"""scontrol takes one job a call, so it is only asked for the first few that nobody else knows."""

_PROCESSES = (b"jobs.runtime.batch", b"jobs.runtime.interactive")
"""Words of the command line of a local run's process, once it is no longer the shell of its script."""

_UNKNOWN_JOB = "Invalid job id"
_NO_ACCOUNTING = "accounting storage is disabled"


@dataclass(frozen=True)
class Answer:
    """What Slurm knows of some jobs."""

    jobs: Mapping[str, Job]
    """By job id; ids that no source knows are missing."""
    answered: frozenset[Source]
    """Sources that worked."""
    notes: tuple[str, ...] = ()
    """Sources that did not work, and why."""

    def is_gone(self, job_id: str) -> bool:
        """Tell whether the job is neither waiting nor running; False when nobody could be asked."""
        live: Source = "process" if job_id.startswith("local-") else "squeue"
        job = self.jobs.get(job_id)
        return job.phase == "over" if job else live in self.answered


@dataclass
class _Question:
    """The ids still to be found, and what was found so far."""

    cluster: Cluster
    open: set[str]
    found: dict[str, Job] = field(default_factory=dict)
    answered: set[Source] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)

    def put(self, source: Source, ask: Callable[[Cluster, Sequence[str]], Iterable[Job]]) -> None:
        """Ask one source for what is still open."""
        if not self.open:
            return
        try:
            jobs = ask(self.cluster, sorted({job_id.partition("_")[0] for job_id in self.open}, key=_number))
        except SlurmError as error:
            self.notes.append(_note(source, str(error)))
            return
        self.answered.add(source)
        for job in jobs:
            if job.id in self.open:
                self.found[job.id] = job  # of several starts of a job the last one counts
        self.open -= self.found.keys()


def find_jobs(cluster: Cluster, job_ids: Iterable[str]) -> Answer:
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
        question.put("scontrol", _ask_scontrol)
    jobs = question.found | {job_id: Job(job_id, "RUNNING", "process") for job_id in local if _is_alive(job_id)}
    if local:
        question.answered.add("process")
    return Answer(jobs, frozenset(question.answered), tuple(question.notes))


def ask_about(cluster: Cluster, runs: Sequence[RunFacts]) -> tuple[Answer, dict[Path, RunFacts]]:
    """Ask about the jobs of runs, and read a run once more whose job is over: it may have ended since it was read.

    Args:
        cluster: The site.
        runs: What their directories say.

    Returns:
        What Slurm says, and what the run directories say now, by their paths.
    """
    live = [one for one in runs if one.job_id and not one.is_settled]
    answer = find_jobs(cluster, (one.job_id for one in live))
    over = [one for one in live if answer.is_gone(one.job_id)]
    again: list[RunFacts] = []
    with suppress(RunError):  # removed since
        again, _ = read_all_facts([one.run for one in over])
    moved = {one.job_id for one in again if not one.is_settled} - {one.job_id for one in over}
    if moved:  # submitted anew
        answer = replace(answer, jobs={**answer.jobs, **find_jobs(cluster, moved).jobs})
    return answer, {one.run.root: one for one in (*runs, *again)}


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


def _is_alive(job_id: str) -> bool:
    """Tell whether a local batch process runs; another process may have its number by now."""
    process = Path("/proc") / job_id.removeprefix("local-")
    try:
        words = (process / "cmdline").read_bytes().split(b"\0")
        dead = (process / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return not Path("/proc/self").exists() and _answers_signal(job_id)
    return not dead and any(word in _PROCESSES or word.endswith(b"/submission.sh") for word in words)


def _answers_signal(job_id: str) -> bool:
    try:
        os.kill(int(job_id.removeprefix("local-")), 0)
    except (OSError, ValueError):
        return False
    return True


def _number(job_id: str) -> tuple[int, str]:
    return len(job_id), job_id


def _note(source: Source, message: str) -> str:
    if _NO_ACCOUNTING in message:
        return f"{source}: accounting is switched off at this site"
    said = re.sub(r"^`.*?` (failed \(\d+\): )?", "", message.splitlines()[0])
    return f"{source}: {said}"
