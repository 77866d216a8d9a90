"""Letting the pipelines and the sweep go on that a run is a part of: by the launcher, as a program of its own."""

import os
import subprocess
import sys
from typing import Literal

from jobs.batch.allocation import BatchJob
from jobs.batch.attempt import Journal
from launcher.run.queued_stages import needs_advance
from launcher.run.slurm_text import outside_job
from launcher.run.sweep_points import sweep_dir

TIMEOUT_SECONDS = 300
"""It asks Slurm some questions, each of which may take a minute at a busy site."""


def advance_pipelines(job: BatchJob, has_just_finished: bool, say: Journal) -> None:
    """Queue the stages that this run was waited for by; anybody can do it later if it fails here.

    Args:
        job: This start of the batch process; the ledger says how it ended.
        has_just_finished: Whether the run has, in this process. Then there is often nothing to do, which a look at some
            files tells sooner than a program can start.
        say: Takes what was done.
    """
    if job.record.pipeline is None or job.record.share is not None:
        return
    try:
        if has_just_finished and not job.is_trial and not needs_advance(job.run):
            say("pipeline: all stages are queued")
            return
    except OSError as error:
        say(f"pipeline: {error}")
    _advance("pipeline", job, say, job.record.pipeline)


def advance_sweep(job: BatchJob, say: Journal) -> None:
    """Queue points of the sweep that there was no room for; anybody can do it later if it fails here."""
    if job.record.sweep is None or job.record.share is not None:
        return
    if sweep_dir(job.run.root.parent, job.record.sweep).waiting.exists():
        _advance("sweep", job, say, str(job.run.root))


def _advance(what: Literal["pipeline", "sweep"], job: BatchJob, say: Journal, name: str) -> None:
    argv = [sys.executable, "-m", "launcher", what, "advance", str(job.run.root)]
    try:
        done = subprocess.run(
            argv,
            env=outside_job(os.environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        say(f"{what} advance: {error}")
        return
    said = done.stdout.strip() or "nothing to queue"
    fix = f"; run `launcher {what} advance {name}` on another machine" if done.returncode else ""
    say(f"{what} advance: {said}{fix}")
