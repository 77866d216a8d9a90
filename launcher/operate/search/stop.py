"""Ending searches on request."""

from launcher.cluster import Cluster
from launcher.operate.stop import cancel_all, refuse_elsewhere, stop_all
from launcher.run.paths import RunDir
from launcher.run.trials import SearchDir, read_trials
from launcher.slurm.query import find_jobs
from launcher.slurm.queue import end_jobs, queue_of
from launcher.submit.searches import alive_elements


def stop_search(folder: SearchDir, cluster: Cluster, at_once: bool) -> int:
    """Let a search start no further trial, and end those that are under way.

    Args:
        folder: The search.
        cluster: The site.
        at_once: Whether what was trained since the last checkpoints is lost.

    Returns:
        How many trials were not over.

    Raises:
        RunError: They are to end at once, and the processes of one are on another machine; nothing was changed.
    """
    if at_once:
        refuse_elsewhere(started_trials(folder), cluster)
    folder.stop_request.touch()
    started = started_trials(folder)
    ended = cancel_all(started, cluster) if at_once else stop_all(started, cluster)
    if at_once:
        for submission in folder.submissions():
            queue_of(cluster).cancel(submission)
        return ended
    elements = alive_elements(folder, cluster)
    jobs = find_jobs(cluster, elements).jobs
    end_jobs([job for job in elements if job in jobs and jobs[job].phase == "queued"], cluster, {})
    return ended


def started_trials(folder: SearchDir) -> list[RunDir]:
    """List the trials of a search that have a run directory."""
    runs = [RunDir(folder.runs_root / trial.run) for trial in read_trials(folder)]
    return [run for run in runs if run.record.is_file()]
