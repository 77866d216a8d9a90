"""The state of a run, from what its ledger and Slurm say."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from launcher.monitor.elsewhere import find_elsewhere
from launcher.monitor.exit_reasons import explain
from launcher.monitor.run_state import RunState
from launcher.slurm.parse import Job
from launcher.slurm.query import QueryResult

State: TypeAlias = Literal[
    "not submitted", "queued", "running", "requeued", "stopped", "finished", "pruned", "failed", "lost"
]  # fmt: skip
"""`requeued` = interrupted and waiting to continue; `lost` = it ended, and no reason was recorded;
`pruned` = a trial of a search that was not worth going on with."""

BLAMELESS = ("stopped", "preempted", "time_limit")
"""Exit reasons after which a run that is not restarted counts as stopped, not failed."""


@dataclass(frozen=True)
class ObservedState:
    """A state, the reason for it, and where it comes from."""

    state: State
    why: str = ""
    source: str = "run directory"


def decide_state(run: RunState, answer: QueryResult) -> ObservedState:
    """Decide on the state of a run."""
    job_id = run.job_id
    if run.is_terminal:
        return _from_ledger(run)
    if not job_id:
        waits = run.record.sweep is not None and not run.stop_requested
        return ObservedState("not submitted", "waits for room in the queue" if waits else "`launcher resume` queues it")
    if job := answer.find(job_id, run.submission):
        return _from_job(run, job)
    if not answer.is_gone(job_id, run.submission):
        return ObservedState(_presumed(run), "Slurm did not answer; this is what the run directory says")
    return _without_job(run)


def _without_job(run: RunState) -> ObservedState:
    if run.stop_requested and run.waits_for_first_start:
        return ObservedState("stopped", "removed from the queue")
    if seen := find_elsewhere(run):
        if run.waits_for_first_start:
            return ObservedState("queued", f"waits for its turn on `{seen.host}`")
        return ObservedState("running", f"asked to stop, {seen}" if run.stop_requested else str(seen))
    return ObservedState("lost", f"job {run.job_id} is gone and left no reason; `launcher resume` continues it")


def _from_ledger(run: RunState) -> ObservedState:
    last = run.last
    assert last is not None  # a terminal state comes from an attempt
    if run.is_finished:
        return ObservedState("finished")
    if last.reason == "pruned":
        return ObservedState("pruned", last.message)
    return ObservedState("stopped" if last.reason in BLAMELESS else "failed", explain(last))


def _from_job(run: RunState, job: Job) -> ObservedState:
    if job.phase == "queued":
        fresh = run.last is None or run.waits_for_first_start
        return ObservedState("queued" if fresh else "requeued", job.explanation, job.source)
    if job.phase != "over":
        return _running(run, job)
    if job.state == "CANCELLED" or run.stop_requested:
        return ObservedState("stopped", f"job {job.id} {job.explanation}", job.source)
    code = f" (exit code {job.exit_code})" if job.exit_code not in ("", "0:0") else ""
    what = f"job {job.id} {job.explanation}{code}; see `launcher logs`; `launcher resume` continues it"
    return ObservedState("failed", what, job.source)


def _running(run: RunState, job: Job) -> ObservedState:
    if run.waits_for_first_start:
        if run.record.group and job.source == "process":  # one process carries out all runs of the group
            return ObservedState("queued", "waits for its turn", job.source)
        return ObservedState("running", "is starting", job.source)
    if run.last and run.last.action in ("requeue", "resubmit"):
        return ObservedState("requeued", explain(run.last), job.source)
    if run.stop_requested:
        return ObservedState("running", "asked to stop", job.source)
    if run.stop_request and run.last and run.stop_request.attempt == run.last.number:
        return ObservedState("running", "asked to save: Slurm is about to end its job", job.source)
    return ObservedState("running", "" if job.state == "RUNNING" else job.explanation, job.source)


def _presumed(run: RunState) -> State:
    if run.waits_for_first_start or run.last is None:
        return "queued"
    return "requeued" if run.last.action in ("requeue", "resubmit") else "running"
