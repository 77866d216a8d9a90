"""The guardian: a small job that brings a run back whose batch process was killed, which nothing else notices.

With `slurm.guardian` in the cluster profile, the batch process queues it when an attempt starts. It waits for the job
of the run to fail (`afternotok`), uses no GPU, and does nothing if the run ended properly:

    python -m jobs.batch.guardian RUN_DIR SUBMISSION_DIR
"""

import argparse
import os
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from jobs.batch import slurm
from jobs.batch.allocation import BatchJob
from jobs.batch.attempt import Journal
from jobs.batch.requeue import repoint_dependents
from launcher.run.ledger import Attempt, StopRequest, read_attempts
from launcher.run.paths import RunDir, SubmissionDir
from launcher.run.record import RunRecord, Submitted
from launcher.run.slurm_text import outside_job

_OPTIONS = ("--ntasks=1", "--cpus-per-task=1", "--mem=500M", "--time=15", "--no-requeue", "--parsable")
_OF_PROFILE = ("partition", "account", "qos", "reservation")


def queue_guardian(job: BatchJob, say: Journal) -> None:
    """Queue the guardian of this job, unless it has one: a requeued job keeps it."""
    if job.local or not job.slurm_options.get("guardian"):
        return
    waiting = slurm.waiting_jobs()
    if waiting is None or any(f"afternotok:{job.id}(" in f"{conditions}(" for conditions in waiting.values()):
        return
    program = [sys.executable, "-m", "jobs.batch.guardian", str(job.run.root), str(job.submission.root)]
    places = [f"--{name}={job.slurm_options[name]}" for name in _OF_PROFILE if job.slurm_options.get(name)]
    argv = [
        *("sbatch", *_OPTIONS, *places, f"--job-name=guardian-{job.record.id}"),
        *(f"--dependency=afternotok:{job.id}", "--kill-on-invalid-dep=yes"),
        *(f"--chdir={job.run.root}", f"--output={job.submission.root / 'guardian-%j.log'}"),
        f"--wrap=exec {shlex.join(program)}",
    ]
    answer = slurm.ask(*argv, environ=outside_job(os.environ))
    say(f"guardian: {f'job {answer.text}' if answer.ok else f'not queued: {answer.text}'}")


def main(argv: Sequence[str] | None = None) -> int:
    """Bring the run back if its batch process did not live to say how it ended."""
    parser = argparse.ArgumentParser(prog="python -m jobs.batch.guardian", description=__doc__)
    parser.add_argument("run", type=Path, help="run directory")
    parser.add_argument("submission", type=Path, help="folder of the submission")
    options = parser.parse_args(argv)
    run, submission = RunDir(options.run), SubmissionDir(options.submission)
    last = read_attempts(run.ledger)[-1]
    record = RunRecord.read(run.record)
    if why := _why_not(run, record, last):
        print(f"{run.root.name}: {why}; nothing to do", flush=True)
        return 0
    index = last.job_id.partition("_")[2] or None
    # The next start notes how the attempt ended, and counts it.
    answer = slurm.resubmit(str(submission.script), index, last.job_id, len(last.nodes))
    print(f"{run.root.name}: the batch process of job {last.job_id} was killed; sbatch: {answer.text}", flush=True)
    if not answer.ok:
        return 1
    record.submissions.append(Submitted(answer.text, str(submission.root), time.time()))
    record.write(run.record)
    repoint_dependents(last.job_id, answer.text, lambda text: print(text, flush=True))
    return 0


def _why_not(run: RunDir, record: RunRecord, last: Attempt) -> str | None:
    """Say why the run needs no guardian; None if it does."""
    if last.ended is not None or last.reason == "finished":
        return f"attempt {last.number} told how it ended ({last.reason})"
    if record.submissions and record.submissions[-1].job_id != last.job_id:
        return f"it was queued again as job {record.submissions[-1].job_id}"
    request = StopRequest.read(run.stop_request)
    if request is not None and request.reason == "user":
        return "a person asked it to stop"
    state = slurm.show_job(last.job_id).get("JobState", "")
    if state.startswith("CANCELLED"):
        return f"job {last.job_id} was cancelled"
    if slurm.is_running(last.job_id):
        return f"job {last.job_id} is running"
    return None


if __name__ == "__main__":
    sys.exit(main())
