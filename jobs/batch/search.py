"""The element of a search: one trial after the other, each carried out exactly as a run on its own.

Which trial comes next says the launcher, as a program of its own: it may need packages that this process must not.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs.batch import slurm
from jobs.batch.allocation import StartRefusedError
from jobs.batch.attempt import tell_slurm
from jobs.batch.evidence import END_SIGNALS
from launcher.run.ledger import read_json_lines
from launcher.run.paths import CONTINUE, FINISHED, RunDir, SubmissionDir
from launcher.run.slurm_text import outside_job
from launcher.run.trials import SearchDir

TIMEOUT_SECONDS = 600
"""It reads all trials, and asks Slurm about the jobs of those that are not over."""


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
    if done.returncode:
        raise StartRefusedError(f"search ask: {done.stderr.strip() or done.stdout.strip()}", 1)
    answer = json.loads(done.stdout.strip().rpartition("\n")[2])
    if answer["run"] is None:
        tell_slurm(f"no further trial: {answer['why']}")
        return NextTrial(None, exit_code=FINISHED if answer["is_done"] else CONTINUE)
    if SearchDir(folder).stop_request.exists():  # meanwhile: whoever stopped it may not have seen this trial
        tell_slurm(f"{Path(answer['run']).name}: not started: the search was stopped")
        return NextTrial(None, exit_code=CONTINUE)
    return NextTrial(RunDir(Path(answer["run"])), answer["fingerprint"])


def come_back(environ: Mapping[str, str], signals: Sequence[str]) -> None:
    """Put an element back into the queue that was told to go between two trials, unless a person cancelled it."""
    job, restarts = slurm.own_id(environ), int(environ.get("SLURM_RESTART_COUNT", 0))
    is_cancelled = any(name in END_SIGNALS for name in signals) and "PreemptTime" not in slurm.show_job(job)
    tell_slurm(f"{', '.join(signals)}: no trial is under way")
    if not is_cancelled:
        tell_slurm(f"scontrol requeue: {slurm.requeue(job, restarts).text}")
