"""`python -m jobs.runtime.batch SUBMISSION_DIR [--local]`: the batch process of one run.

It finds its run, starts the tasks of one attempt, waits, judges, and brings the run back. Standard
library only: it runs on the host, where the tasks' container and packages may be out of reach.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from jobs.runtime import slurm
from jobs.runtime.attempt import Journal, close_attempt, judge_attempt, open_attempt, stamped, tell_slurm
from jobs.runtime.cause import cause_before, last_sign_of_life
from jobs.runtime.comeback import come_back
from jobs.runtime.job import Job, StartRefusedError, count_runs, find_job
from jobs.runtime.supervise import Signals, supervise
from jobs.runtime.verdict import Ending, Verdict, batch_exit_code
from launcher.ledger import Attempt, StopRequest, append_event, read_attempts
from launcher.paths import CONTINUE, FINISHED, SubmissionDir


def main(argv: Sequence[str] | None = None) -> int:
    """Carry a run out as far as this job lasts; return the exit code of the batch process.

    Slurm starts one process for each run of a submission; without it, one carries out all in turn.
    """
    signals = Signals()
    signals.install()
    options = _parse(argv)
    submission, code = SubmissionDir(options.submission.absolute()), CONTINUE
    for index in range(count_runs(submission) if options.local else 1):
        if not signals.wants_end:
            code = _carry_out(submission, options.local, index, signals)
    return code


def _carry_out(submission: SubmissionDir, local: bool, index: int, signals: Signals) -> int:
    try:
        return _run(find_job(submission, os.environ, local, index), signals)
    except StartRefusedError as refusal:
        tell_slurm(stamped(str(refusal)))
        return refusal.exit_code


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m jobs.runtime.batch", description="Carry out one run of a submission."
    )
    parser.add_argument("submission", type=Path, help="folder of the submission")
    parser.add_argument("--local", action="store_true", help="start the tasks as processes of this machine")
    return parser.parse_args(argv)


def _run(job: Job, signals: Signals) -> int:
    while True:
        attempt = _start(job)
        say = Journal(job.run.batch_log(attempt.number))
        say(f"attempt {attempt.number} of {job.run.root.name}: job {job.id} on {', '.join(job.nodes)}")
        ending = supervise(job, attempt, signals, say)
        verdict = _close(job, attempt, ending, say)
        say(f"{verdict.reason} ({verdict.source}): {verdict.message} -> {verdict.action}")
        if verdict.action == "restart":
            continue
        if verdict.action in ("done", "stop") or not job.local:
            come_back(job, attempt, ending, verdict, say)
            return batch_exit_code(verdict, ending)


def _start(job: Job) -> Attempt:
    """Open an attempt, unless there is a reason not to.

    A run that cannot write its ledger is not started: each attempt must count, or a full disk would have it
    requeued for ever.

    Raises:
        StartRefusedError: With the exit code of this process.
    """
    try:
        _check_start(job)
        return open_attempt(job)
    except OSError as error:
        message = f"{job.run.root.name}: not started: {error}; `launcher resume` starts it when that is repaired"
        raise StartRefusedError(message, os.EX_IOERR) from error


def _close(job: Job, attempt: Attempt, ending: Ending, say: Journal) -> Verdict:
    """Judge an attempt and note its end, if not now then at the next start (`_close_earlier`)."""
    try:
        return close_attempt(job, attempt, ending)
    except OSError as error:
        say(f"the ledger cannot take the end of attempt {attempt.number}: {error}; the next start notes it")
        return judge_attempt(job, attempt, ending)


def _check_start(job: Job) -> None:
    """Find reasons not to start: the run is over, unwanted, alive elsewhere, or has used up its budget.

    Raises:
        StartRefusedError: With exit code 0 if the run is finished, else 1: sites requeue by the codes of tasks, and a
            run that somebody stopped has to stay stopped.
    """
    attempts = read_attempts(job.run.ledger)
    for attempt in attempts:
        if attempt.ended is None and attempt.reason != "finished":
            _close_earlier(job, attempt)
    finished = next((attempt for attempt in attempts if attempt.reason == "finished"), None)
    if finished is not None:
        _note_finished(job, finished)
        raise StartRefusedError(f"{job.run.root.name}: finished in attempt {finished.number}; nothing to do", FINISHED)
    _refuse_stopped(job)
    _remove_old_request(job)
    if StopRequest.read(job.run.stop_request) is not None:
        message = f"{job.run.root.name}: STOP is there; `launcher resume` removes it and goes on"
        raise StartRefusedError(message, 1)


def _refuse_stopped(job: Job) -> None:
    """Refuse a run that was given up and whose job came back all the same: sites requeue by exit code, too."""
    if job.local:  # only people start those; after a restart of a container the process may have the same number
        return
    last = next(reversed(read_attempts(job.run.ledger)), None)
    if last is not None and last.source in ("SIGTERM", "SIGINT"):  # nobody cancelled the job, or it would not be back
        return
    if last is not None and last.action == "stop" and last.job_id == job.id:
        message = f"{job.run.root.name}: not started again: {last.message}; `launcher resume` starts it anew"
        raise StartRefusedError(message, 1)


def _note_finished(job: Job, attempt: Attempt) -> None:
    if attempt.ended is None:
        ended = last_sign_of_life(job.run.attempt_logs(attempt.number))
        append_event(job.run.ledger, attempt.number, ended=ended, action="done", source="ledger")


def _remove_old_request(job: Job) -> None:
    """Remove a STOP that an earlier attempt got when its time was over."""
    request = StopRequest.read(job.run.stop_request)
    if request is not None and request.reason == "time_limit":
        job.run.stop_request.unlink(missing_ok=True)


def _close_earlier(job: Job, attempt: Attempt) -> None:
    """Write the last line of an attempt whose batch process did not live to write it.

    Raises:
        StartRefusedError: The attempt is alive, or its end used up the run's budget.
    """
    if _is_alive(job, attempt):
        raise StartRefusedError(
            f"{job.run.root.name}: attempt {attempt.number} is running as job {attempt.job_id}; "
            "a run is never started twice at once",
            1,
        )
    logs = [job.slurm_log(attempt.job_id), job.run.batch_log(attempt.number)]
    stop = StopRequest.read(job.run.stop_request)
    # Rank 0 writes `stopped` or its last step when all tasks have saved: they left with the code that says so.
    saved = attempt.reason == "stopped" or (stop is not None and attempt.last_step is not None)
    was_asked = stop is not None and stop.attempt in (attempt.number, None)
    ending = Ending(
        exit_code=CONTINUE if saved else None,
        stop=stop,
        cause=None if attempt.job_id.startswith("local-") else cause_before(attempt, logs, was_asked),
    )
    verdict = close_attempt(job, attempt, ending, last_sign_of_life(job.run.attempt_logs(attempt.number)))
    tell_slurm(f"attempt {attempt.number} did not tell how it ended: {verdict.reason} ({verdict.source})")
    if attempt.job_id not in (job.id, job.resubmitted_by):
        # Another job carries on: a person wanted it, which starts all budgets anew.
        append_event(
            job.run.ledger, attempt.number, action="stop", message=f"{verdict.message}; resumed by job {job.id}"
        )
    elif verdict.action == "stop":
        message = f"{job.run.root.name}: not started again: {verdict.message}"
        raise StartRefusedError(message, 1)


def _is_alive(job: Job, attempt: Attempt) -> bool:
    if attempt.job_id == job.id:
        return False
    if attempt.job_id.startswith("local-"):
        return attempt.nodes == [os.uname().nodename] and _is_batch_process(attempt.job_id.removeprefix("local-"))
    return slurm.is_running(attempt.job_id) is True


def _is_batch_process(pid: str) -> bool:
    try:
        words = Path("/proc", pid, "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return b"jobs.runtime.batch" in words or b"jobs.runtime.interactive" in words


if __name__ == "__main__":
    sys.exit(main())
