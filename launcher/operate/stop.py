"""Ending and resuming runs on request."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeAlias

from launcher.cluster import Cluster
from launcher.errors import RunError
from launcher.monitor.elsewhere import find_elsewhere
from launcher.monitor.run_state import RunState, read_state
from launcher.monitor.status import RunStatus, compose, read_statuses
from launcher.operate.owners import naming_the_owner
from launcher.run.ledger import StopRequest, append_event
from launcher.run.paths import RunDir, list_shares
from launcher.run.signs_of_life import last_sign_of_life
from launcher.run.trials import search_of
from launcher.slurm.parse import Job
from launcher.slurm.query import QueryResult, find_jobs
from launcher.slurm.queue import end_jobs, release_jobs
from launcher.submit.resubmit import queue_what_fits, resubmit, resubmit_group

StopOutcome: TypeAlias = Literal["asked", "removed from the queue"]


def cancel(run: RunDir, cluster: Cluster) -> list[str]:
    """End a run, and those that work for it, at once; what was trained since its last checkpoint is lost.

    Returns:
        The jobs that were ended.

    Raises:
        RunError: There is nothing to cancel, or its processes are on another machine.
    """
    alive = [one for one in _read_group(run) if not one.is_terminal and one.job_id]
    if alive and _is_trial(alive[0]):
        name, search = run.root.name, alive[0].record.sweep
        fix = f"`launcher stop {name}` ends it, `launcher cancel {search}` all of them"
        raise RunError(f"`{name}`: is a trial of `{search}`, whose job goes on with others; {fix}")
    if not alive:
        raise RunError(f"`{run.root.name}`: is over already; nothing to cancel")
    return _end(alive, cluster)


def cancel_all(runs: Sequence[RunDir], cluster: Cluster) -> int:
    """End several runs at once, with one call of Slurm.

    Returns:
        How many were not over yet.

    Raises:
        RunError: The processes of one of them are on another machine; nothing was ended.
    """
    groups = [[one for one in _read_group(run) if not one.is_terminal] for run in runs]
    everyone = [one for group in groups for one in group]
    _refuse_elsewhere(everyone, cluster)
    _keep_out(everyone)
    _end([one for one in everyone if one.job_id], cluster)
    return sum(map(bool, groups))


def refuse_elsewhere(runs: Sequence[RunDir], cluster: Cluster) -> None:
    """Make sure, before anything is changed, that runs can be cancelled from this machine.

    Args:
        runs: The runs; those that work for them count as well.
        cluster: The site.

    Raises:
        RunError: The processes of one of them are on another machine.
    """
    if cluster.executor == "local":
        _refuse_elsewhere([one for run in runs for one in _read_group(run)], cluster)


def _refuse_elsewhere(runs: Sequence[RunState], cluster: Cluster) -> None:
    for one in runs:
        seen = find_elsewhere(one)
        # A machine may have got another name since.
        if seen and find_jobs(cluster, [one.job_id]).is_gone(one.job_id, one.submission):
            name = one.folder.root.name
            fix = f"type this on `{seen.host}`, or `launcher stop {name}` here, which lets it save"
            raise RunError(f"`{name}`: runs {seen}; {fix}")


def _keep_out(runs: Sequence[RunState]) -> None:
    """Let points of a sweep that wait for room in the queue stay out of it."""
    for one in runs:
        if one.record.sweep and not one.job_id:
            StopRequest().write(one.folder.stop_request)


def _end(alive: Sequence[RunState], cluster: Cluster) -> list[str]:
    jobs = [*dict.fromkeys(one.job_id for one in alive)]
    if not jobs:
        return []
    _refuse_elsewhere(alive, cluster)
    with naming_the_owner(alive[0].folder):
        for one in alive:
            StopRequest().write(one.folder.stop_request)  # so that it ends at once if Slurm requeues it
        known = end_jobs(jobs, cluster, _submissions(alive))
        for one in alive:
            _close(one, known, "launcher cancel", "cancelled")
    return jobs


def _submissions(runs: Sequence[RunState]) -> dict[str, str]:
    return {one.job_id: one.submission for one in runs}


def stop(run: RunDir, cluster: Cluster) -> StopOutcome:
    """Ask a run, and those that work for it, to save and stop.

    A job that waits in the queue is cancelled, for there is nothing to save.

    Raises:
        RunError: The run is over.
    """
    group, statuses = _read_statuses([run], cluster)
    alive = [one for one in group if not statuses[one.folder].is_over]
    if not alive:
        raise RunError(f"`{run.root.name}`: is {statuses[run].state} already; nothing to stop")
    return "asked" if _ask_to_stop(alive, statuses, cluster) else "removed from the queue"


def stop_all(runs: Sequence[RunDir], cluster: Cluster) -> int:
    """Ask several runs to save and stop, with few calls of Slurm.

    Returns:
        How many were not over yet.
    """
    group, statuses = _read_statuses(runs, cluster)
    _keep_out(group)
    _ask_to_stop([one for one in group if not statuses[one.folder].is_over], statuses, cluster)
    return sum(not statuses[run].is_over for run in runs)


def _ask_to_stop(alive: Sequence[RunState], statuses: Mapping[RunDir, RunStatus], cluster: Cluster) -> bool:
    """Ask runs to stop, and take those out of the queue that wait there; return whether some are working."""
    if not alive:
        return False
    waiting = [one for one in alive if statuses[one.folder].state in ("queued", "requeued")]
    working = {one.job_id for one in alive if one not in waiting}
    # Without Slurm one process carries out all of them in turn; the one that works is to save.
    ended = [one.job_id for one in waiting if one.job_id not in working and not _is_trial(one)]
    with naming_the_owner(alive[0].folder):
        for one in alive:  # all of them first: what waits for a share must not start when that has stopped
            StopRequest().write(one.folder.stop_request)
        known = end_jobs([*dict.fromkeys(ended)], cluster, _submissions(waiting))
        for one in waiting:
            _close(one, known, "launcher stop", "removed from the queue")
    return bool(working)


def resume(run: RunDir, cluster: Cluster, nodes: int | None = None) -> list[str]:
    """Queue a stopped, failed or lost run again; of a `prepare` in several tasks, those that did not finish.

    Args:
        run: The run.
        cluster: Where it goes.
        nodes: Number of nodes from now on, if not the recipe's.

    Returns:
        The new jobs.

    Raises:
        RunError: There is nothing to resume; with what to do instead.
    """
    if list_shares(run) and nodes is None:
        return resubmit_group(run, cluster, _find_missing(run, cluster))
    _check_resumable(run, cluster)
    return [resubmit(run, cluster, nodes)]


def resume_all(runs: Sequence[RunDir], cluster: Cluster) -> tuple[int, list[str]]:
    """Queue those of several runs again that are over and have not finished, with one call of Slurm a submission.

    Returns:
        How many there are, and the new jobs.
    """
    statuses, _ = read_statuses(cluster, runs)
    over = [RunDir(Path(one.folder)) for one in statuses if one.is_over and one.state != "finished"]
    jobs, waiting = queue_what_fits(over, cluster)
    return len(over) - len(waiting), jobs


def find_held(run: RunDir, cluster: Cluster) -> dict[RunDir, Job]:
    """Find the jobs of a run, and of those that work for it, that stay in the queue until somebody releases them."""
    alive = [one for one in _read_group(run) if not one.is_terminal]
    jobs = find_jobs(cluster, (one.job_id for one in alive)).jobs
    return {one.folder: jobs[one.job_id] for one in alive if one.job_id in jobs and jobs[one.job_id].is_held}


def release(held: Mapping[RunDir, Job], cluster: Cluster) -> list[str]:
    """Let the jobs that `find_held` found go; each run continues from its newest checkpoint.

    Returns:
        The jobs.

    Raises:
        SlurmError: Slurm refuses.
    """
    jobs = [*dict.fromkeys(job.id for job in held.values())]
    release_jobs(jobs, cluster)
    for run in held:
        StopRequest.withdraw(run.stop_request)
    return jobs


def _find_missing(run: RunDir, cluster: Cluster) -> list[RunDir]:
    group, statuses = _read_statuses([run], cluster)
    last = statuses[run]
    if last.state == "finished":
        raise RunError(f"`{run.root.name}`: is finished; submit the recipe again for a new run")
    if last.state in ("running", "requeued"):
        raise RunError(f"`{run.root.name}`: is making what its tasks did not, in job {last.job_id}; nothing to resume")
    missing = [one.folder for one in group if statuses[one.folder].is_over and not one.is_finished]
    if not missing:
        raise RunError(f"`{run.root.name}`: all that is missing is queued or running; nothing to resume")
    return missing


def _check_resumable(run: RunDir, cluster: Cluster) -> None:
    one = read_state(run)
    if group := one.record.share and one.record.group:
        raise RunError(f"`{run.root.name}`: is one task of `{group}`; `launcher resume {group}` queues what is missing")
    status = compose(one, find_jobs(cluster, [one.job_id]))
    if status.state == "pruned":
        raise RunError(f"`{run.root.name}`: was pruned; submit a recipe with its values if you want it to the end")
    if status.is_over and _is_trial(one) and status.state != "finished":
        search = one.record.sweep
        raise RunError(f"`{run.root.name}`: is a trial of `{search}`; `launcher resume {search}` takes it up again")
    if status.state == "finished":
        raise RunError(f"`{run.root.name}`: is finished; submit the recipe again for a new run")
    if not status.is_over:
        hint = "nothing to resume"
        if one.stop_requested and status.state == "running":
            hint = "it was asked to stop; wait until it has"
        if seen := find_elsewhere(one):
            hint += f"; it is {seen}. If that machine is gone, try again when it has been silent for longer"
        raise RunError(f"`{run.root.name}`: is {status.state} as job {one.job_id}; {hint}")


def _is_trial(run: RunState) -> bool:
    """Tell whether a run is a trial of a search, so that its job is not only its own."""
    return search_of(run.folder, run.record.sweep) is not None


def _read_group(run: RunDir) -> list[RunState]:
    return [read_state(one) for one in (run, *list_shares(run))]


def _read_statuses(runs: Sequence[RunDir], cluster: Cluster) -> tuple[list[RunState], dict[RunDir, RunStatus]]:
    group = [one for run in runs for one in _read_group(run)]
    answer = find_jobs(cluster, (one.job_id for one in group if not one.is_terminal))
    return group, {one.folder: compose(one, answer) for one in group}


def _close(run: RunState, known: QueryResult, source: str, message: str) -> None:
    """Note in the ledger that the run does not come back, and the end of an attempt that was cut off.

    An attempt whose job had been gone or was queued again ended when it last wrote something, maybe days ago.
    """
    last = run.last
    if last is None or run.waits_for_first_start:
        return
    if last.ended is not None:
        append_event(run.folder.ledger, last.number, action="stop", message=f"{last.message}; {message}")
        return
    job = known.find(run.job_id, run.submission)
    is_at_work = job is not None and job.phase not in ("queued", "over")
    ended = time.time() if is_at_work else max(last.started, last_sign_of_life(run.folder))
    closing = {"ended": ended, "reason": "stopped", "source": source, "message": message}
    append_event(run.folder.ledger, last.number, action="stop", **closing)
