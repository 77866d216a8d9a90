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
        line = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {message}"
        print(line, flush=True)
        # A full disk must not end the process that is to bring the run back.
        with contextlib.suppress(OSError), self.path.open("a", encoding="utf-8") as log:
            log.write(line + "\n")


def open_attempt(job: Job) -> Attempt:
    """Make the attempt's log folder and write its first line into the ledger.

    Raises:
        StartRefusedError: Another process has just opened the same attempt.
    """
    number = _next_number(job.run)
    try:
        job.run.attempt_logs(number).mkdir(parents=True)
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
    folders = [int(folder.name.removeprefix("attempt-")) for folder in run.logs.glob("attempt-*")]
    return max([*folders, *(attempt.number for attempt in read_attempts(run.ledger))], default=-1) + 1


def close_attempt(job: Job, number: int, ending: Ending, ended: float | None = None) -> Verdict:
    """Judge an attempt that has ended and write its last line into the ledger."""
    attempts = [attempt for attempt in read_attempts(job.run.ledger) if attempt.number <= number]
    attempts[-1].last_step = max([attempts[-1].last_step or 0, *published_steps(job.run)]) or None
    verdict = judge(attempts, ending, job.policy)
    append_event(
        job.run.ledger,
        number,
        last_step=attempts[-1].last_step,
        ended=ended or time.time(),
        reason=verdict.reason,
        source=verdict.source,
        exit_code=ending.exit_code,
        action=verdict.action,
        message=verdict.message,
    )
    return verdict
