"""Ending runs and bringing them back, by a person's wish."""

import os
import signal
import time
from typing import Literal, TypeAlias

from launcher.cluster import Cluster
from launcher.errors import RunError
from launcher.ledger import StopRequest, append_event
from launcher.paths import RunDir
from launcher.slurm.command import run_slurm
from launcher.slurm.query import find_jobs
from launcher.status import RunFacts, compose, read_facts

StopOutcome: TypeAlias = Literal["asked", "taken out of the queue"]


def cancel(run: RunDir, cluster: Cluster) -> str:
    """End a run at once; what was trained since its last checkpoint is lost.

    Returns:
        The job that was ended.

    Raises:
        RunError: There is nothing to cancel.
    """
    facts = read_facts(run)
    if facts.is_settled or not facts.job_id:
        raise RunError(f"`{run.root.name}`: is over already; nothing to cancel")
    StopRequest().write(run.stop_request)  # so that it does not come back, whoever requeues it
    _end_job(facts.job_id, cluster)
    _close(facts, "launcher cancel", "cancelled")
    return facts.job_id


def stop(run: RunDir, cluster: Cluster) -> StopOutcome:
    """Ask a run to save and stop; one that waits in the queue is taken out of it, for there is nothing to save.

    Raises:
        RunError: The run is over.
    """
    facts = read_facts(run)
    answer = find_jobs(cluster, [facts.job_id])
    status = compose(facts, answer)
    if status.is_over:
        raise RunError(f"`{run.root.name}`: is {status.state} already; nothing to stop")
    StopRequest().write(run.stop_request)
    if status.state not in ("queued", "requeued"):
        return "asked"
    _end_job(facts.job_id, cluster)
    _close(facts, "launcher stop", "taken out of the queue")
    return "taken out of the queue"


def check_resumable(run: RunDir, cluster: Cluster) -> None:
    """Refuse to resume a run that is finished or still alive.

    Raises:
        RunError: With what to do instead.
    """
    facts = read_facts(run)
    status = compose(facts, find_jobs(cluster, [facts.job_id]))
    if status.state == "finished":
        raise RunError(f"`{run.root.name}`: is finished; submit the recipe again for a new run")
    if not status.is_over:
        hint = "it is asked to stop, wait until it has" if facts.stop_requested else "nothing to resume"
        raise RunError(f"`{run.root.name}`: is {status.state} as job {facts.job_id}; {hint}")


def _end_job(job_id: str, cluster: Cluster) -> None:
    if not job_id.startswith("local-"):
        run_slurm(["scancel", job_id], cluster)
    elif find_jobs(cluster, [job_id]).jobs:
        os.kill(int(job_id.removeprefix("local-")), signal.SIGTERM)


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
