"""The guardian: a small job that brings a run back whose batch process was killed, which nothing else notices.

With `slurm.guardian` in the cluster profile, the batch process queues it when an attempt starts. It waits for the job
of the run to fail (`afternotok`), uses no GPU, and does not bring back a run that ended properly. If the run is over,
it does what may be left to do, so that pipelines and sweeps go on:

    python -m jobs.batch.guardian RUN_DIR SUBMISSION_DIR --job JOB
"""

import argparse
import os
import shlex
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from threading import Lock, Thread

from jobs.batch import slurm
from jobs.batch.advance import advance_search
from jobs.batch.allocation import BatchJob, StartRefusedError, read_job
from jobs.batch.attempt import Journal
from jobs.batch.dependents import GUARDIAN, ask_waiting, parse_waiting, repoint_dependents
from jobs.batch.finish import complete, let_others_go_on
from jobs.batch.notify import Notifier
from jobs.batch.requeue import resubmit_job
from jobs.batch.search import find_search_folder
from launcher.run.ledger import Attempt, StopRequest, append_event, read_attempts
from launcher.run.paths import RunDir, SubmissionDir
from launcher.run.record import RunRecord, Submitted
from launcher.run.slurm_text import log_folder, outside_job
from launcher.run.trials import SearchDir, read_trials

PATIENCE_SECONDS = 600
"""How long a guardian goes on asking a slurmctld that is away, with each of two questions; its job has half an hour."""

_OPTIONS = ("--ntasks=1", "--cpus-per-task=1", "--mem=500M", "--time=30", "--no-requeue", "--parsable")
_OF_PROFILE = ("partition", "account", "qos", "reservation")
_QUEUEING = Lock()
"""Held while a guardian is being queued: the next attempt of the same job finds that one, and queues no other."""


def queue_guardian(job: BatchJob, attempt: int, say: Journal) -> None:
    """Queue the guardian of this job, unless it has one: a requeued job keeps it.

    This goes on beside the attempt, for minutes if slurmctld is away.

    Args:
        job: This start of the batch process.
        attempt: Number of the attempt; its part of the ledger says so if there is no guardian.
        say: Takes a line for the log.
    """
    if not job.local and job.slurm_options.get("guardian"):
        Thread(target=_queue, args=(job, attempt, say), daemon=True).start()


def _queue(job: BatchJob, attempt: int, say: Journal) -> None:
    with _QUEUEING:
        answer = slurm.patiently(partial(_queue_once, job))
    if not answer.ok:
        _give_up(job.run, attempt, f"it was not queued: {answer.text}", say)
    elif answer.text:
        say(f"guardian: job {answer.text}")


def _queue_once(job: BatchJob) -> slurm.CommandResult:
    """Queue a guardian if there is none; a slurmctld that was too busy may have taken one without an answer."""
    waiting = ask_waiting()
    if not waiting.ok:
        return waiting
    guardians = [one for one in parse_waiting(waiting.text).values() if one.name.startswith(GUARDIAN)]
    if any(f"afternotok:{job.id}(" in f"{one.conditions}(" for one in guardians):
        return slurm.CommandResult(True, "")
    program = [
        sys.executable,
        "-m",
        "jobs.batch.guardian",
        str(job.run.root),
        str(job.submission.root),
        "--job",
        job.id,
    ]
    places = [f"--{name}={job.slurm_options[name]}" for name in _OF_PROFILE if job.slurm_options.get(name)]
    argv = [
        *("sbatch", *_OPTIONS, *places, f"--job-name={GUARDIAN}{job.record.id}"),
        *(f"--dependency=afternotok:{job.id}", "--kill-on-invalid-dep=yes"),
        *(f"--chdir={job.run.root}", f"--output={log_folder(job.submission.root) / 'guardian-%j.log'}"),
        f"--wrap=exec {shlex.join(program)}",
    ]
    return slurm.ask(*argv, environ=outside_job(os.environ))


def _give_up(run: RunDir, attempt: int, why: str, say: Journal) -> None:
    """Write down why nobody brings this run back, for `launcher why`."""
    say(f"guardian: {why}")
    try:
        append_event(run.ledger, attempt, guardian=why)
    except OSError as error:
        say(f"the ledger cannot take this: {error}")


def main(argv: Sequence[str] | None = None) -> int:
    """Bring the run back if its batch process did not live to do so itself, or to tell others that it has finished."""
    parser = argparse.ArgumentParser(prog="python -m jobs.batch.guardian", description=__doc__)
    parser.add_argument("run", type=Path, help="run directory")
    parser.add_argument("submission", type=Path, help="folder of the submission")
    parser.add_argument("--job", default="", help="Slurm's id of the job that it guards")
    options = parser.parse_args(argv)
    submission = SubmissionDir(options.submission)
    search = _find_search(submission) if options.job else None
    run = RunDir(options.run) if search is None else _find_trial(search, options.job)
    if search is not None and run is None:
        print(f"job {options.job} had no trial under way; none is brought back", flush=True)
        advance_search(search.root)
    if run is None:
        return 0
    last = read_attempts(run.ledger)[-1]
    if _is_over(last) and last.reason != "finished":
        return _go_on_without(run, submission, last)
    say, job = Journal(run.batch_log(last.number)), options.job or last.job_id
    why, states = _why_not(run, job), slurm.CommandResult(True, "")
    if not why:
        states = _ask_states(job, last)
        why = _why_not(run, job) or _why_not_by(states.text if states.ok else "", job)  # minutes may have passed
    if why:
        print(f"{run.root.name}: {why}; nothing to do", flush=True)
        return 0
    if not states.ok:
        _give_up(run, last.number, f"it could not learn whether job {job} was cancelled: {states.text}", say)
        return 1
    carry_on = _complete if last.reason == "finished" else _bring_back
    return carry_on(run, submission, last, say)


def _ask_states(job: str, last: Attempt) -> slurm.CommandResult:
    """Ask for the states of the job; of one that squeue has forgotten, which it does some minutes after its end, sacct.

    If neither knows it, and the attempt ended with the job back in the queue, a person may have cancelled it there.
    """
    answer = slurm.ask_states(job, PATIENCE_SECONDS)
    if not answer.ok or answer.text:
        return answer
    state = slurm.ask_last_state(job)
    if state and not slurm.is_alive_state(state):  # accounting can miss an end
        return slurm.CommandResult(True, state)
    if last.ended is not None and last.action == "requeue":
        why = "it was back in the queue, and Slurm has forgotten it since; `launcher resume` continues the run"
        return slurm.CommandResult(False, why)
    return answer


def _go_on_without(run: RunDir, submission: SubmissionDir, last: Attempt) -> int:
    """Let others go on after a run that ended for good, if its batch process was killed before it did."""
    print(f"{run.root.name}: attempt {last.number} told how it ended ({last.reason}); not brought back", flush=True)
    try:
        job = read_job(submission, run, RunRecord.read(run.record).fingerprint, os.environ, local=False)
    except (StartRefusedError, OSError, ValueError) as error:
        print(f"what waits for it cannot be told: {error}", flush=True)
        return 1
    let_others_go_on(job, Journal(run.batch_log(last.number)))
    return 0


def _complete(run: RunDir, submission: SubmissionDir, last: Attempt, say: Journal) -> int:
    """Do what was left to do after the end of a run; the job of a trial had other trials to carry out as well."""
    try:
        job = read_job(submission, run, RunRecord.read(run.record).fingerprint, os.environ, local=False)
        notifier = Notifier(job)
        complete(job, last, notifier)
    except (StartRefusedError, OSError) as error:
        _give_up(run, last.number, f"it could not tell others that the run has finished: {error}", say)
        return 1
    say(f"guardian: the batch process of job {last.job_id} was killed when the run had finished")
    notifier.wait()
    if job.is_trial:
        return _bring_back(run, submission, last, say)
    repoint_dependents(last.job_id, job.id, say)  # they start when this job has ended, since it ends with 0
    return 0


def _bring_back(run: RunDir, submission: SubmissionDir, last: Attempt, say: Journal) -> int:
    """Queue the job again, unless its batch process has; the next start notes how the attempt ended, and counts it."""
    replacement, how = slurm.find_replacement(str(submission.script), last.job_id), "had queued"
    if replacement is None:
        exclude, how = slurm.excluded_nodes(last.job_id), "was killed; queued again as"
        answer = resubmit_job(submission, last.job_id, exclude, say, len(last.nodes), PATIENCE_SECONDS)
        if not answer.ok:
            _give_up(run, last.number, f"it could not queue the run again: {answer.text}", say)
            return 1
        replacement = answer.text
    say(f"guardian: the batch process of job {last.job_id} {how} job {replacement}")
    if last.reason != "finished":  # the next trials have run directories of their own
        record = RunRecord.read(run.record)
        record.submissions.append(Submitted(replacement, str(submission.root), time.time()))
        record.write(run.record)
    repoint_dependents(last.job_id, replacement, say)
    return 0


def _find_search(submission: SubmissionDir) -> SearchDir | None:
    """Find the search of a submission; None if it is of runs, or cannot be read: then the run tells what is needed."""
    try:
        folder = find_search_folder(submission)
    except StartRefusedError:
        return None
    return None if folder is None else SearchDir(folder)


def _find_trial(search: SearchDir, job: str) -> RunDir | None:
    """Find the trial that an element of a search had under way; None between two trials.

    A job keeps the guardian that was queued with its first run.
    """
    for run in (RunDir(search.runs_root / trial.run) for trial in read_trials(search)):
        attempts = read_attempts(run.ledger)
        if attempts and attempts[-1].job_id == job and not _is_over(attempts[-1]):
            return run
    return None


def _is_over(last: Attempt) -> bool:
    """Tell whether a run was not to be continued; else its batch process may have been killed before it was queued."""
    return last.ended is not None and last.action in ("done", "stop")


def _why_not(run: RunDir, job: str) -> str:
    """Say why the run needs no guardian, as far as its directory tells; empty if it may need one.

    A finished run whose job failed needs one, too: a batch process that lives to do all that follows ends with 0.
    """
    last, submissions = read_attempts(run.ledger)[-1], RunRecord.read(run.record).submissions
    if _is_over(last) and last.reason != "finished":
        return f"attempt {last.number} told how it ended ({last.reason})"
    newest = submissions[-1].job_id if submissions else job
    if newest != job or last.job_id != job:
        return f"it was queued again as job {newest if newest != job else last.job_id}"
    request = StopRequest.read(run.stop_request)
    is_wanted = request is not None and request.reason == "user" and last.reason != "finished"
    return "a person asked it to stop" if is_wanted else ""


def _why_not_by(states: str, job: str) -> str:
    """Say why the run needs no guardian, by the states of its job; empty if they tell nothing against it."""
    if "CANCELLED" in states.split():
        return f"job {job} was cancelled"
    return f"job {job} is queued again, or running" if slurm.is_alive_state(states) else ""


if __name__ == "__main__":
    sys.exit(main())
