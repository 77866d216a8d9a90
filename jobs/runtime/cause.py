"""Why an attempt ended, according to Slurm: its answers where it gives any, else the traces in the logs.

Standard library only. Sites differ in what they let a job ask (sacct is often off or for
administrators), so several sources are tried, and the one that answered is named.
"""

import re
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from jobs.runtime import slurm
from jobs.runtime.verdict import Cause
from launcher.ledger import Attempt, Reason

_MARKER = re.compile(r"\*\*\* (?:JOB|STEP) \S+ ON (\S+) CANCELLED AT (\S+) DUE TO ([A-Z ]+)")
# Without a reason, since Slurm 25.05 with a signal, it is scancel's doing. A step cancelled like that is only
# `--kill-on-bad-exit` at work.
_CANCELLED = re.compile(r"\*\*\* JOB \S+ ON (\S+) CANCELLED AT (\S+) (?:DUE to SIGNAL [^*\n]+ )?(\*\*\*)")
_FIRST_LINE = re.compile(r"^[\d-]+ [\d:]+ attempt (\d+) of ", re.MULTILINE)
"""How the batch process begins an attempt in Slurm's log, which all attempts of a job share, and in its own."""
_MARKED: dict[str, Reason] = {
    "***": "stopped",
    "PREEMPTION": "preempted",
    "JOB REQUEUE": "preempted",
    "NODE FAILURE": "node_failure",
    "TIME LIMIT": "killed",
}
_REQUEUE = "job requeue"
"""How a cause's detail begins when Slurm's log says that somebody requeued the job, perhaps we ourselves."""
_SAID_BY_SRUN: tuple[tuple[str, Reason], ...] = (
    (r"srun: error: Node failure on (\S+)", "node_failure"),
    (r"(?:tasks? \S+: Out Of Memory|[Dd]etected \d+ oom[-_]kill event)", "out_of_memory"),
)
_STATES: dict[str, Reason] = {
    "PREEMPTED": "preempted",
    "CANCELLED": "stopped",
    "NODE_FAIL": "node_failure",
    "BOOT_FAIL": "node_failure",
    "OUT_OF_MEMORY": "out_of_memory",
    "TIMEOUT": "killed",
    "DEADLINE": "killed",
}
_DOWN = re.compile(r"^(DOWN|FAIL|ERROR)|NOT_RESPONDING|\*")

CLOCK_SECONDS = 2
"""Slurm's times are whole seconds, and its clock is the controller's."""


def cause_now(attempt: Attempt, job_id: str, logs: list[Path]) -> Cause | None:
    """Ask why the tasks of the running attempt have just ended; None if Slurm knows of nothing special.

    Args:
        attempt: The attempt.
        job_id: The job, or this element of an array.
        logs: What Slurm and srun wrote, oldest last.
    """
    job = slurm.show_job(job_id)
    return cause_in_job(job, attempt) or cause_in_logs(logs, attempt) or _lost_node(attempt) or _put_back(job, attempt)


def cause_before(attempt: Attempt, logs: list[Path], was_asked: bool) -> Cause | None:
    """Find out why an attempt ended whose batch process did not tell.

    Args:
        attempt: The attempt.
        logs: What Slurm and srun wrote, oldest last.
        was_asked: Whether its batch process was told to stop. If not, a requeue in the logs was that process's own
            work: on a full disk it could not tell, and an end for which nobody pays would be requeued for ever.
    """
    cause = cause_in_logs(logs, attempt)
    if cause is not None and cause.detail.startswith(_REQUEUE) and not was_asked:
        cause = None
    return cause or _cause_in_accounting(attempt) or _lost_node(attempt)


def cause_in_job(job: Mapping[str, str], attempt: Attempt) -> Cause | None:
    """Read the answer of `scontrol show job`."""
    preempted = unix_time(job.get("PreemptTime", ""))
    if preempted is not None and preempted >= attempt.started - CLOCK_SECONDS:
        return Cause("preempted", "scontrol", f"PreemptTime {job['PreemptTime']}")
    state = job.get("JobState", "")
    return Cause(_STATES[state], "scontrol", f"job state {state}") if state in _STATES else None


def cause_in_logs(logs: list[Path], attempt: Attempt) -> Cause | None:
    """Find what Slurm or srun wrote into the logs while the attempt ran."""
    for path in logs:
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError:  # not there, or its disk is gone, which must not end the process that brings the run back
            continue
        cause = _marked(text, attempt) or (_said_by_srun(text) if path.name == "batch.log" else None)
        if cause is not None:
            return cause
    return None


def _marked(text: str, attempt: Attempt) -> Cause | None:
    own = _of_attempt(text, attempt.number)
    for node, when, why in (*_MARKER.findall(own or text), *_CANCELLED.findall(own or text)):
        at = unix_time(when)
        known = next((reason for words, reason in _MARKED.items() if why.startswith(words)), None)
        is_own = at is not None and attempt.started - CLOCK_SECONDS <= at <= (attempt.ended or at)
        if known and (own or is_own):
            said = "scancel" if why == "***" else why.strip().lower()
            return Cause(known, "Slurm's log", f"{said}, said on {node}")
    return None


def _of_attempt(text: str, number: int) -> str | None:
    """What was written from an attempt's first line to the next one's; None if a full disk did not take that line.

    The order of lines is the first choice, since slurmd tells the time of its own time zone, and this process that of
    the person who submitted.
    """
    _, *parts = _FIRST_LINE.split(text)
    return dict(zip(parts[::2], parts[1::2], strict=True)).get(str(number))


def _said_by_srun(text: str) -> Cause | None:
    for pattern, reason in _SAID_BY_SRUN:
        match = re.search(pattern, text)
        if match:
            return Cause(reason, "srun", match[0].removeprefix("srun: error: "))
    return None


def _cause_in_accounting(attempt: Attempt) -> Cause | None:
    """Ask sacct for the incarnation of a requeued job that was this attempt."""
    columns = "--format=Start,State,End"
    answer = slurm.ask("sacct", "--duplicates", "--parsable2", "--noheader", "-X", columns, f"--jobs={attempt.job_id}")
    return parse_accounting(answer.text, attempt) if answer.ok else None


def parse_accounting(text: str, attempt: Attempt) -> Cause | None:
    """Read sacct's lines `Start|State|End`; the attempt began shortly after one of these starts."""
    rows = [line.split("|") for line in text.splitlines() if line.count("|") == 2]
    starts = [(start, row[1].split()[0]) for row in rows if (start := unix_time(row[0])) is not None and row[1]]
    before = [entry for entry in starts if entry[0] <= attempt.started + CLOCK_SECONDS]
    if not before:
        return None
    state = max(before)[1]
    return Cause(_STATES[state], "sacct", f"job state {state}") if state in _STATES else None


def _lost_node(attempt: Attempt) -> Cause | None:
    """Look for a node of the attempt that is down, or was switched on again since."""
    for node in slurm.show_nodes(attempt.nodes):
        name, state = node.get("NodeName", ""), node.get("State", "")
        if _DOWN.search(state):
            return Cause("node_failure", "scontrol show node", f"{name} is {state}")
        booted = unix_time(node.get("BootTime", ""))
        if booted is not None and booted > attempt.started:
            return Cause("node_failure", "scontrol show node", f"{name} was booted at {node['BootTime']}")
    return None


def _put_back(job: Mapping[str, str], attempt: Attempt) -> Cause | None:
    if int(job.get("Restarts", 0)) > attempt.restart_count:
        return Cause("preempted", "scontrol", "Slurm has put the job back into the queue by itself")
    return None


def unix_time(text: str) -> float | None:
    """Turn Slurm's local time into Unix time; None for `None`, `Unknown` and the like."""
    try:
        return datetime.fromisoformat(text).timestamp() if text else None
    except ValueError:
        return None


def last_sign_of_life(logs: Path) -> float:
    """Unix time at which an attempt last wrote into its logs."""
    times = [path.stat().st_mtime for path in logs.glob("*.log")] if logs.is_dir() else []
    return max(times, default=time.time())
