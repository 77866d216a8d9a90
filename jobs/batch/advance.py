"""Letting the pipelines and the sweep go on that a run is a part of: by the launcher, as a program of its own."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from jobs.batch.allocation import BatchJob
from jobs.batch.attempt import tell_slurm
from launcher.run.paths import RunDir
from launcher.run.queued_stages import needs_advance
from launcher.run.slurm_text import outside_job
from launcher.run.sweep_points import sweep_dir
from launcher.run.trials import SearchDir, read_trials
from launcher.run.typed import read_object

TIMEOUT_SECONDS = 300
"""It asks Slurm some questions, each of which may take a minute at a busy site."""


def advance_pipelines(job: BatchJob, has_just_finished: bool, say: Callable[[str], object]) -> None:
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
    _advance("pipeline", job.run.root, say, job.record.pipeline)


def advance_search(folder: Path) -> None:
    """Let the pipelines of a search select its best trial, and go on; anybody can do it later if it fails here.

    The end of a trial does this, too, unless the trial ends without an attempt of its own: its budget was used up, or
    its batch process was killed right after its end. So an element does it once more when there is no further trial.

    Args:
        folder: The search.
    """
    search = SearchDir(folder)
    try:
        pipeline = read_object(search.record).get("pipeline")
        runs = [RunDir(search.runs_root / trial.run) for trial in read_trials(search)] if pipeline else []
    except (OSError, ValueError) as error:
        tell_slurm(f"pipeline: {error}")
        return
    if pipeline:  # any trial tells of all pipelines that share the search
        place = next((run.root for run in reversed(runs) if run.record.is_file()), Path(pipeline))
        _advance("pipeline", place, tell_slurm, pipeline)


def advance_sweep(job: BatchJob, say: Callable[[str], object]) -> None:
    """Queue points of the sweep that there was no room for; anybody can do it later if it fails here."""
    if job.record.sweep is None or job.record.share is not None:
        return
    if sweep_dir(job.run.root.parent, job.record.sweep).waiting.exists():
        _advance("sweep", job.run.root, say, str(job.run.root))


def _advance(what: Literal["pipeline", "sweep"], folder: Path, say: Callable[[str], object], name: str) -> None:
    argv = [sys.executable, "-m", "launcher", what, "advance", str(folder)]
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
