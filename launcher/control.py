"""Ending runs and bringing them back, by a person's wish."""

import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Literal, TypeAlias

from launcher.cluster import Cluster
from launcher.errors import RunError
from launcher.facts import RunFacts, read_facts
from launcher.ledger import StopRequest, append_event
from launcher.paths import RunDir, list_shares
from launcher.slurm.command import run_slurm
from launcher.slurm.query import find_jobs
from launcher.status import RunStatus, compose

StopOutcome: TypeAlias = Literal["asked", "taken out of the queue"]


def cancel(run: RunDir, cluster: Cluster) -> list[str]:
    """End a run, and those that work for it, at once; what was trained since its last checkpoint is lost.

    Returns:
        The jobs that were ended.

    Raises:
        RunError: There is nothing to cancel.
    """
    alive = [facts for facts in _read_group(run) if not facts.is_settled and facts.job_id]
    if not alive:
        raise RunError(f"`{run.root.name}`: is over already; nothing to cancel")
    for facts in alive:
        StopRequest().write(facts.run.stop_request)  # so that it does not come back, whoever requeues it
    jobs = _end_jobs(alive, cluster)
    for facts in alive:
        _close(facts, "launcher cancel", "cancelled")
    return jobs


def stop(run: RunDir, cluster: Cluster) -> StopOutcome:
    """Ask a run, and those that work for it, to save and stop.

    What waits in the queue is taken out of it, for there is nothing to save.

    Raises:
        RunError: The run is over.
    """
    group, states = _read_states(run, cluster)
    alive = [facts for facts in group if not states[facts.run].is_over]
    if not alive:
        raise RunError(f"`{run.root.name}`: is {states[run].state} already; nothing to stop")
    for facts in alive:  # all of them first: what waits for a task must not start when that has stopped
        StopRequest().write(facts.run.stop_request)
    waiting = [facts for facts in alive if states[facts.run].state in ("queued", "requeued")]
    working = {facts.job_id for facts in alive if facts not in waiting}
    # Without Slurm one process carries out all of them in turn; the one that works is to save.
    _end_jobs([facts for facts in waiting if facts.job_id not in working], cluster)
    for facts in waiting:
        _close(facts, "launcher stop", "taken out of the queue")
    return "asked" if working else "taken out of the queue"


def find_missing(run: RunDir, cluster: Cluster) -> list[RunDir]:
    """Find which runs of a group have to be queued again: those that are over and did not finish.

    Raises:
        RunError: There is nothing to resume; with what to do instead.
    """
    group, states = _read_states(run, cluster)
    last = states[run]
    if last.state == "finished":
        raise RunError(f"`{run.root.name}`: is finished; submit the recipe again for a new run")
    if last.state in ("running", "requeued"):
        raise RunError(f"`{run.root.name}`: makes what its tasks did not, in job {last.job_id}; nothing to resume")
    missing = [facts.run for facts in group if states[facts.run].is_over and not facts.is_finished]
    if not missing:
        raise RunError(f"`{run.root.name}`: all that is missing is queued or running; nothing to resume")
    return missing


def check_resumable(run: RunDir, cluster: Cluster) -> None:
    """Refuse to resume a run that is finished or still alive.

    Raises:
        RunError: With what to do instead.
    """
    facts = read_facts(run)
    if facts.record.share:
        group = facts.record.group
        raise RunError(f"`{run.root.name}`: is one task of `{group}`; `launcher resume {group}` queues what is missing")
    status = compose(facts, find_jobs(cluster, [facts.job_id]))
    if status.state == "finished":
        raise RunError(f"`{run.root.name}`: is finished; submit the recipe again for a new run")
    if not status.is_over:
        hint = "it is asked to stop, wait until it has" if facts.stop_requested else "nothing to resume"
        raise RunError(f"`{run.root.name}`: is {status.state} as job {facts.job_id}; {hint}")


def _read_group(run: RunDir) -> list[RunFacts]:
    """Read a run, and those that work for it."""
    return [read_facts(one) for one in (run, *list_shares(run))]


def _read_states(run: RunDir, cluster: Cluster) -> tuple[list[RunFacts], dict[RunDir, RunStatus]]:
    group = _read_group(run)
    answer = find_jobs(cluster, (facts.job_id for facts in group if not facts.is_settled))
    return group, {facts.run: compose(facts, answer) for facts in group}


def _end_jobs(runs: Sequence[RunFacts], cluster: Cluster) -> list[str]:
    """End the jobs of runs, that of the first one first."""
    jobs = [*dict.fromkeys(facts.job_id for facts in runs)]
    answer = find_jobs(cluster, jobs)
    alive = [job for job in jobs if not answer.is_gone(job)]
    if slurm_jobs := [job for job in alive if not job.startswith("local-")]:
        run_slurm(["scancel", *slurm_jobs], cluster)
    for job in alive:
        if job.startswith("local-"):
            with suppress(ProcessLookupError):
                os.kill(int(job.removeprefix("local-")), signal.SIGTERM)
    return jobs


def _close(facts: RunFacts, source: str, message: str) -> None:
    """Note in the ledger that the run does not come back, and the end of an attempt that was cut off."""
    last = facts.last
    if last is None or facts.waits_for_first_start:
        return
    if last.ended is not None:
        append_event(facts.run.ledger, last.number, action="stop", message=f"{last.message}; {message}")
        return
    closing = {"ended": time.time(), "reason": "stopped", "source": source, "message": message}
    append_event(facts.run.ledger, last.number, action="stop", **closing)
