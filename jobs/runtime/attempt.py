"""One attempt from its first line in the ledger to its last. Standard library only."""

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path

from jobs.runtime.job import Job, StartRefusedError
from jobs.runtime.verdict import Ending, Verdict, judge
from launcher.ledger import Attempt, append_event, read_attempts
from launcher.paths import RunDir, published_steps


@dataclass(frozen=True)
class Journal:
    """The batch process's own log: a line with the time each, in the attempt's folder and on stdout."""

    path: Path

    def __call__(self, message: str) -> None:
        """Say something."""
        line = stamped(message)
        tell_slurm(line)
        # A full disk must not end the process that is to bring the run back.
        with contextlib.suppress(OSError), self.path.open("a", encoding="utf-8") as log:
            log.write(line + "\n")


def stamped(message: str) -> str:
    """Put the time before a message."""
    return f"{time.strftime('%Y-%m-%d %H:%M:%S')} {message}"


def tell_slurm(line: str) -> None:
    """Print a line into Slurm's log, unless that lies on the disk that is full, too."""
    with contextlib.suppress(OSError):
        print(line, flush=True)


def open_attempt(job: Job) -> Attempt:
    """Make the attempt's log folder and write its first line into the ledger.

    Raises:
        StartRefusedError: Another process has just opened the same attempt.
        OSError: The run directory is full or gone.
    """
    number = _next_number(job.run)
    job.run.logs.mkdir(exist_ok=True)  # and not its parents: a run directory that is gone must not come back empty
    try:
        job.run.attempt_logs(number).mkdir()
    except FileExistsError:
        raise StartRefusedError(f"{job.run.root}: another job has just started attempt {number}", 1) from None
    attempt = Attempt(number, job.id, job.restart_count, job.nodes, job.world_size, time.time())
    append_event(
        job.run.ledger,
        number,
        job_id=attempt.job_id,
        restart_count=attempt.restart_count,
        nodes=attempt.nodes,
        world_size=attempt.world_size,
        started=attempt.started,
    )
    return attempt


def _next_number(run: RunDir) -> int:
    # A process that died between its folder and its first line has used the number up.
    folders = [folder.name.removeprefix("attempt-") for folder in run.logs.glob("attempt-*")]
    used = [int(digits) for digits in folders if digits.isdecimal()]
    return max([*used, *(attempt.number for attempt in read_attempts(run.ledger))], default=-1) + 1


def close_attempt(job: Job, attempt: Attempt, ending: Ending, ended: float | None = None) -> Verdict:
    """Judge an attempt that has ended and write its last line into the ledger.

    Raises:
        OSError: The ledger cannot be written.
    """
    attempts = _history(job.run, attempt)
    verdict = judge(attempts, ending, job.policy)
    append_event(
        job.run.ledger,
        attempt.number,
        last_step=attempts[-1].last_step,
        ended=ended or time.time(),
        reason=verdict.reason,
        source=verdict.source,
        exit_code=ending.exit_code,
        action=verdict.action,
        message=verdict.message,
        **({"max_micro_batch": verdict.max_micro_batch} if verdict.max_micro_batch else {}),
    )
    return verdict


def judge_attempt(job: Job, attempt: Attempt, ending: Ending) -> Verdict:
    """Judge an attempt whose end the ledger cannot take."""
    return judge(_history(job.run, attempt), ending, job.policy)


def _history(run: RunDir, attempt: Attempt) -> list[Attempt]:
    """All attempts up to this one: as the ledger tells, else this one as its own batch process knows it."""
    try:
        known = [entry for entry in read_attempts(run.ledger) if entry.number <= attempt.number]
        steps = published_steps(run)
    except OSError:
        known, steps = [], []
    if not known or known[-1].number != attempt.number:
        known.append(attempt)
    known[-1].last_step = max([known[-1].last_step or 0, *steps]) or None
    return known
