"""`python -m jobs.batch.main SUBMISSION_DIR [--local]`: the batch process of one run.

It finds its run, starts the ranks of one attempt, waits, finds out why they ended, and brings the run back.
It runs on the host, where the ranks' container and packages may be out of reach.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from jobs.batch import slurm
from jobs.batch.advance import advance_pipelines, advance_search, advance_sweep
from jobs.batch.allocation import BatchJob, StartRefusedError, find_job, read_job, seconds_of
from jobs.batch.attempt import Journal, close_attempt, last_sign_of_life, open_attempt, read_history, tell_slurm
from jobs.batch.end_reason import find_end_reason
from jobs.batch.evidence import END_SIGNALS, Evidence
from jobs.batch.finish import complete, let_others_go_on, register_run
from jobs.batch.guardian import queue_guardian
from jobs.batch.node_memory import remember_nodes
from jobs.batch.notify import Notifier, event_of
from jobs.batch.requeue import requeue_run
from jobs.batch.restart_policy import batch_exit_code, decide_restart
from jobs.batch.search import come_back, find_search_folder, next_trial
from jobs.batch.supervise import Signals, supervise
from launcher.run.batch_process import BATCH_MODULE, is_batch_process, names_submission
from launcher.run.ledger import Action, Attempt, StopRequest, append_event, read_attempts, read_json_lines
from launcher.run.paths import CONTINUE, FINISHED, RunDir, SubmissionDir
from launcher.run.signs_of_life import seen_lately


def main(argv: Sequence[str] | None = None) -> int:
    """Carry a run out as far as this job lasts; return the exit code of the batch process.

    Slurm starts one process for each run of a submission; without it, one carries out all in turn.
    """
    signals = Signals()
    signals.install()
    parser = argparse.ArgumentParser(prog=f"python -m {BATCH_MODULE}", description="Carry out one run of a submission.")
    parser.add_argument("submission", type=Path, help="folder of the submission")
    parser.add_argument("--local", action="store_true", help="start the ranks as processes of this machine")
    options = parser.parse_args(argv)
    submission, code = SubmissionDir(options.submission.absolute()), CONTINUE
    if search := find_search_folder(submission):
        return _carry_out_trials(search, submission, options.local, signals)
    # At least one run, so that a missing manifest is noticed.
    for index in range(max(1, len(read_json_lines(submission.manifest))) if options.local else 1):
        if signals.wants_end:
            break
        try:
            code, _ = _run(find_job(submission, os.environ, options.local, index), signals)
        except StartRefusedError as refusal:
            tell_slurm(str(refusal))
            code = refusal.exit_code
    return code


def _carry_out_trials(search: Path, submission: SubmissionDir, local: bool, signals: Signals) -> int:
    """Carry out trials of a search as long as there are any, or until this job is to come back."""
    refused: RunDir | None = None
    while not signals.seen:
        run: RunDir | None = None
        try:
            trial = next_trial(search, submission, os.environ, local)
            run = trial.run
            if run is None:
                advance_search(search)
                return trial.exit_code
            code, action = _run(read_job(submission, run, trial.fingerprint, os.environ, local), signals)
            if action not in ("done", "stop"):
                return code
        except StartRefusedError as refusal:
            tell_slurm(str(refusal))
            # A trial that is refused twice would be again. A signal may have ended the program that was asked as well.
            if run in (None, refused) and not signals.seen:
                return refusal.exit_code
            refused = run
    if not local:
        come_back(search, submission, os.environ, signals.seen)
    return CONTINUE


def _run(job: BatchJob, signals: Signals) -> tuple[int, Action]:
    """Carry out one run; return the exit code of this process, and what was decided about the run."""
    notifier = Notifier(job)
    try:
        return _carry_out(job, signals, notifier)
    finally:
        notifier.wait()


def _carry_out(job: BatchJob, signals: Signals, notifier: Notifier) -> tuple[int, Action]:
    while True:
        attempt = _start(job, notifier)
        say = Journal(job.run.batch_log(attempt.number))
        say(f"attempt {attempt.number} of {job.run.root.name}: job {job.id} on {', '.join(job.nodes)}")
        queue_guardian(job, attempt.number, say)
        notifier.tell("started", f"attempt {attempt.number} on {', '.join(job.nodes)}", say)
        evidence = supervise(job, attempt, signals, say)
        end = find_end_reason(evidence)
        decision = decide_restart(evidence.attempts, end, job.policy)
        if decision.action == "done":  # before anybody can read that it is done, and submit the same recipe again
            register_run(job, say)
        try:
            close_attempt(job.run, evidence.attempt, end, decision)
        except OSError as error:  # the next start closes it
            say(f"the ledger cannot take the end of attempt {attempt.number}: {error}; the next start notes it")
        say(f"{end.reason} ({end.source}): {decision.message} -> {decision.action}")
        remember_nodes(job, evidence, end, say)
        notifier.tell(event_of(end.reason, decision), decision.message, say)
        if decision.action == "restart":
            continue
        if decision.action in ("done", "stop"):
            advance_pipelines(job, decision.action == "done", say)
            advance_sweep(job, say)
        if decision.action in ("done", "stop") or not job.local:
            if not requeue_run(job, attempt, end.unfit, decision, say):
                notifier.tell("failed", "it cannot be queued again; `launcher resume` continues it", say)
            return batch_exit_code(end), decision.action


def _start(job: BatchJob, notifier: Notifier) -> Attempt:
    """Open an attempt, unless there is a reason not to.

    A run that cannot write its ledger is not started: each attempt must count, or a full disk would have it
    requeued forever.

    Raises:
        StartRefusedError: With the exit code of this process.
    """
    try:
        attempts = read_attempts(job.run.ledger)
        _check_start(job, attempts, notifier)
        return open_attempt(job, attempts)
    except OSError as error:
        message = f"{job.run.root.name}: not started: {error}; `launcher resume` starts it when that is repaired"
        raise StartRefusedError(message, os.EX_IOERR) from error


def _check_start(job: BatchJob, attempts: Sequence[Attempt], notifier: Notifier) -> None:
    """Check that the run is not over, stopped by a person, running elsewhere, or out of budget.

    Raises:
        StartRefusedError: With exit code 0 if the run is finished, else 1: sites requeue by the codes of ranks, and a
            run that somebody stopped has to stay stopped.
    """
    for attempt in attempts:
        if attempt.ended is None and attempt.reason != "finished":
            _close_earlier(job, attempt, notifier)
    finished = next((attempt for attempt in attempts if attempt.reason == "finished"), None)
    if finished is not None:
        complete(job, finished, notifier)
        raise StartRefusedError(f"{job.run.root.name}: finished in attempt {finished.number}; nothing to do", FINISHED)
    _refuse_stopped(job, attempts)
    request = StopRequest.read(job.run.stop_request)
    if request is not None and request.reason == "time_limit":  # meant for an earlier attempt
        job.run.stop_request.unlink(missing_ok=True)
    elif request is not None:
        message = f"{job.run.root.name}: STOP is there; `launcher resume` removes it and continues the run"
        raise StartRefusedError(message, 1)
    last = attempts[-1] if attempts else None
    if last is not None and last.ended is not None and last.action != "stop" and _is_resumed(job, last):
        _note_resumed(job, last, last.message)  # its job, or the one that was to follow, was cancelled in the queue


def _refuse_stopped(job: BatchJob, attempts: Sequence[Attempt]) -> None:
    """Refuse a run that was stopped but whose job was requeued all the same: some sites requeue by exit code."""
    if job.local or not attempts:  # people start local jobs; after a restart of a container the id may be the same
        return
    last = attempts[-1]
    # After a signal this was no cancelled job, or it would not be back.
    if last.action == "stop" and last.job_id == job.id and last.source not in END_SIGNALS:
        let_others_go_on(job, tell_slurm)
        message = f"{job.run.root.name}: not started again: {last.message}; `launcher resume` starts it again"
        raise StartRefusedError(message, 1)


def _close_earlier(job: BatchJob, attempt: Attempt, notifier: Notifier) -> None:
    """Write the last line of an attempt whose batch process did not live to write it.

    Raises:
        StartRefusedError: The attempt is alive, or its end used up the run's budget.
    """
    if _is_alive(job, attempt):
        where = f" on {attempt.nodes[0]}" if _is_elsewhere(attempt) else ""
        alive = f"attempt {attempt.number} is running as job {attempt.job_id}{where}"
        raise StartRefusedError(f"{job.run.root.name}: {alive}; a run is never started twice at once", 1)
    stop = StopRequest.read(job.run.stop_request)
    # Rank 0 writes `stopped` when all ranks have saved, or the step of their checkpoint: they left with the code that
    # says so. Files and items are noted as they are finished.
    has_saved_step = attempt.last_step is not None and job.policy.counted == "step"
    saved = attempt.reason == "stopped" or (stop is not None and has_saved_step)
    evidence = Evidence(
        attempts=read_history(job.run, attempt),
        exit_code=CONTINUE if saved else None,
        stop=stop,
        logs=(job.slurm_log(attempt.job_id), job.run.batch_log(attempt.number)),
        witnessed=False,
    )
    end = find_end_reason(evidence)
    decision = decide_restart(evidence.attempts, end, job.policy)
    ended = last_sign_of_life(job.run.attempt_logs(attempt.number), attempt.started)
    close_attempt(job.run, evidence.attempt, end, decision, ended)
    tell_slurm(f"attempt {attempt.number} did not tell how it ended: {end.reason} ({end.source})")
    if _is_resumed(job, attempt):
        _note_resumed(job, attempt, decision.message)
    elif decision.action == "stop":
        notifier.tell(event_of(end.reason, decision), decision.message, tell_slurm)
        let_others_go_on(job, tell_slurm)
        raise StartRefusedError(f"{job.run.root.name}: not started again: {decision.message}", 1)


def _is_resumed(job: BatchJob, last: Attempt) -> bool:
    """Tell whether a person started this job, and no earlier one of the run did."""
    is_person = not job.is_trial  # any element of a search takes up what another one left
    return is_person and last.job_id not in (job.id, job.environ.get(slurm.RESUBMITTED_BY))


def _note_resumed(job: BatchJob, last: Attempt, message: str) -> None:
    """Note that a person ended the run with its last attempt, and resumed it, which resets all budgets."""
    append_event(job.run.ledger, last.number, action="stop", message=f"{message}; resumed by job {job.id}")


def _is_alive(job: BatchJob, attempt: Attempt) -> bool:
    if _is_elsewhere(attempt):  # where a process may have the number of this one, or none
        limit = None if job.hang_limit is None else seconds_of(job.hang_limit)
        return seen_lately(job.run, attempt.number, limit) is not None
    if attempt.job_id == job.id:
        return False
    if not attempt.job_id.startswith("local-"):
        return slurm.is_running(attempt.job_id) is True
    try:
        words = Path("/proc", attempt.job_id.removeprefix("local-"), "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    submission = job.record.submission_of(attempt.job_id)
    return is_batch_process(words) and (not submission or names_submission(words, submission))


def _is_elsewhere(attempt: Attempt) -> bool:
    """Tell whether the attempt of a run without Slurm was on another machine."""
    return attempt.job_id.startswith("local-") and attempt.nodes[:1] not in ([], [os.uname().nodename])


if __name__ == "__main__":
    sys.exit(main())
