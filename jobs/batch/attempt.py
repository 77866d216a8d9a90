"""One attempt in the ledger, from its first line to its last."""

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs.batch.allocation import BatchJob, StartRefusedError
from jobs.batch.evidence import EndReason
from jobs.batch.restart_policy import RestartDecision
from launcher.run.ledger import Attempt, append_event, read_attempts
from launcher.run.paths import RunDir, published_steps


@dataclass(frozen=True)
class Journal:
    """The batch process's own log: a line with the time each, in the attempt's folder and on stdout."""

    path: Path

    def __call__(self, message: str) -> None:
        """Write a line."""
        line = tell_slurm(message)
        # A full disk must not end the process that requeues the run.
        with contextlib.suppress(OSError), self.path.open("a", encoding="utf-8") as log:
            log.write(line + "\n")


def tell_slurm(message: str) -> str:
    """Print a message with the time into Slurm's log; return that line."""
    line = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {message}"
    with contextlib.suppress(OSError):  # the log may be on a full disk, too
        print(line, flush=True)
    return line


def open_attempt(job: BatchJob, earlier: Sequence[Attempt]) -> Attempt:
    """Make the attempt's log folder and write its first line into the ledger.

    Args:
        job: This start of the batch process.
        earlier: All attempts of the ledger.

    Raises:
        StartRefusedError: Another process has just opened the same attempt.
        OSError: The run directory is full or gone.
    """
    # A process that died between its folder and its first line has used the number up.
    folders = [folder.name.removeprefix("attempt-") for folder in job.run.logs.glob("attempt-*")]
    used = [*(int(digits) for digits in folders if digits.isdecimal()), *(attempt.number for attempt in earlier)]
    number = max(used, default=-1) + 1
    job.run.logs.mkdir(exist_ok=True)  # and not its parents: a run directory that is gone must not come back empty
    try:
        job.run.attempt_logs(number).mkdir()
    except FileExistsError:
        raise StartRefusedError(f"{job.run.root}: another job has just started attempt {number}", 1) from None
    ranks = job.node_count * job.ranks_per_node
    attempt = Attempt(number, job.id, job.restart_count, job.nodes, ranks, time.time())
    names = ("job_id", "restart_count", "nodes", "world_size", "started")
    append_event(job.run.ledger, number, **{name: getattr(attempt, name) for name in names})
    return attempt


def read_history(run: RunDir, attempt: Attempt) -> list[Attempt]:
    """Read all attempts up to this one, with its last step; as given if the ledger does not hold it.

    Raises:
        OSError: The run directory cannot be read.
    """
    known = [entry for entry in read_attempts(run.ledger) if entry.number <= attempt.number]
    if not known or known[-1].number != attempt.number:
        known.append(attempt)
    known[-1].last_step = max([known[-1].last_step or 0, *published_steps(run)]) or None
    return known


def close_attempt(
    run: RunDir, attempt: Attempt, end: EndReason, decision: RestartDecision, ended: float | None = None
) -> None:
    """Write the last line of an attempt into the ledger.

    Raises:
        OSError: The ledger cannot be written.
    """
    append_event(
        run.ledger,
        attempt.number,
        last_step=attempt.last_step,
        ended=ended or time.time(),
        reason=end.reason,
        source=end.source,
        exit_code=end.exit_code,
        action=decision.action,
        message=decision.message,
        **({"max_micro_batch": decision.max_micro_batch} if decision.max_micro_batch else {}),
    )


def last_sign_of_life(logs: Path, started: float) -> float:
    """Unix time at which an attempt last wrote into its logs, or started if it wrote nothing."""
    times = [path.stat().st_mtime for path in logs.glob("*.log")] if logs.is_dir() else []
    return max(times, default=started)
