"""The element of a search: one trial after the other, each carried out exactly as a run on its own.

Which trial comes next says the launcher, as a program of its own: it may need packages that this process must not.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs.batch import slurm
from jobs.batch.allocation import StartRefusedError
from jobs.batch.attempt import tell_slurm
from jobs.batch.dependents import repoint_dependents
from jobs.batch.evidence import END_SIGNALS
from jobs.batch.requeue import requeue_job, resubmit_job
from jobs.batch.slurm_traces import CLOCK_SECONDS
from launcher.run.ledger import read_json_lines
from launcher.run.paths import CONTINUE, FINISHED, RunDir, SubmissionDir
from launcher.run.slurm_text import outside_job, parse_time
from launcher.run.trials import SearchDir
from launcher.run.typed import last_object, read_object

TIMEOUT_SECONDS = 600
"""It reads all trials, and asks Slurm about the jobs of those that are not over."""

_SHOWN = 500
"""How much of what is no answer is put into the log."""

SIGNAL_SECONDS = 1.0
"""A signal to all processes of a job comes to one after the other: when it has ended a child, it soon is here, too."""


@dataclass(frozen=True)
class NextTrial:
    """What an element is to do."""

    run: RunDir | None
    """None: nothing more."""
    fingerprint: str = ""
    """Of the trial's recipe."""
    exit_code: int = FINISHED
    """How the element ends if there is no trial."""


def find_search_folder(submission: SubmissionDir) -> Path | None:
    """Tell which search a submission's elements work for; None if it is of runs."""
    try:
        rows = read_json_lines(submission.manifest)
    except OSError as error:
        raise StartRefusedError(f"the submission cannot be read: {error}", os.EX_IOERR) from error
    return Path(rows[0]["search"]) if rows and "search" in rows[0] else None


def next_trial(folder: Path, submission: SubmissionDir, environ: Mapping[str, str], local: bool) -> NextTrial:
    """Ask for the next trial.

    Raises:
        StartRefusedError: There is no answer; the trials stay as they are, and others take them up.
    """
    job = f"local-{os.getpid()}" if local else slurm.own_id(environ)
    restarts = environ.get("SLURM_RESTART_COUNT", "0")
    argv = [sys.executable, "-m", "launcher", "search", "ask", str(folder), "--submission", str(submission.root)]
    try:
        done = subprocess.run(
            [*argv, "--job", job, "--restarts", restarts],
            env=outside_job(environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StartRefusedError(f"search ask: {error}", 1) from error
    if done.returncode < 0:
        time.sleep(SIGNAL_SECONDS)
        raise StartRefusedError(f"search ask: was ended by {signal.Signals(-done.returncode).name}", 1)
    if done.returncode:
        raise StartRefusedError(f"search ask: {done.stderr.strip() or done.stdout.strip()}", 1)
    try:
        answer = last_object(done.stdout)
        run, trial_fingerprint, why, is_done = (answer[key] for key in ("run", "fingerprint", "why", "is_done"))
    except (ValueError, KeyError) as error:
        raise StartRefusedError(f"search ask: no answer but `{done.stdout.strip()[-_SHOWN:]}`", 1) from error
    if run is None:
        tell_slurm(f"no further trial: {why}")
        return NextTrial(None, exit_code=FINISHED if is_done else CONTINUE)
    if SearchDir(folder).stop_request.exists():  # meanwhile: whoever stopped it may not have seen this trial
        tell_slurm(f"{Path(run).name}: not started: the search was stopped")
        return NextTrial(None, exit_code=CONTINUE)
    return NextTrial(RunDir(Path(run)), trial_fingerprint)


def come_back(folder: Path, submission: SubmissionDir, environ: Mapping[str, str], signals: Sequence[str]) -> None:
    """Queue an element again that was told to go between two trials, unless a person cancelled it.

    Args:
        folder: The search, whose profile says how elements come back.
        submission: What the element was started from.
        environ: The environment of its process.
        signals: Names of the signals that it got.
    """
    job = slurm.own_id(environ)
    tell_slurm(f"{', '.join(signals)}: no trial is under way")
    if any(name in END_SIGNALS for name in signals) and not _was_taken(job):
        return
    policy = _requeue_policy(folder)
    if policy == "never":
        tell_slurm("the cluster profile says `requeue: never`; `launcher resume` continues the search")
    elif policy == "resubmit" or not requeue_job(job, int(environ.get("SLURM_RESTART_COUNT", 0)), tell_slurm):
        answer = resubmit_job(submission, job, slurm.excluded_nodes(job), tell_slurm)
        if answer.ok:
            repoint_dependents(job, answer.text, tell_slurm)


def _requeue_policy(folder: Path) -> str:
    try:
        return str(read_object(SearchDir(folder).record)["cluster"]["slurm"]["requeue"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        tell_slurm(f"the search cannot be read: {error}")
        return "requeue"


def _was_taken(job: str) -> bool:
    """Tell whether Slurm ended a job, or its node did: a job that a person cancelled does not go on running."""
    shown = slurm.show_job(job)
    preempted, started = (parse_time(shown.get(name, "")) for name in ("PreemptTime", "StartTime"))
    is_preempted = preempted is not None and preempted >= (started or 0) - CLOCK_SECONDS
    return is_preempted or shown.get("JobState") == "RUNNING"
