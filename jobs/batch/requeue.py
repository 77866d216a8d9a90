"""Queueing a run again, as the same job or as a new one, and without nodes that were unfit."""

import signal
import time
from collections.abc import Callable, Mapping, Sequence

from jobs.batch import slurm
from jobs.batch.able_nodes import find_able
from jobs.batch.allocation import BatchJob
from jobs.batch.attempt import Journal
from jobs.batch.dependents import repoint_dependents
from jobs.batch.restart_policy import RestartDecision
from launcher.run.able_nodes import UnknownNodesError
from launcher.run.ledger import Attempt, append_event
from launcher.run.paths import SubmissionDir
from launcher.run.record import RunRecord, Submitted


def requeue_run(job: BatchJob, attempt: Attempt, unfit: Sequence[str], decision: RestartDecision, say: Journal) -> bool:
    """Put the job back into the queue, or a new one where the site does not allow that.

    Returns:
        Whether that succeeded, or was not to be done.
    """
    if decision.action in ("done", "stop"):
        return True
    exclude = nodes_to_exclude(job, unfit, say)
    message = f"{decision.message}; not on {', '.join(unfit)} again" if exclude else decision.message
    if decision.action == "requeue" and requeue_job(job.id, job.restart_count, say):
        if exclude:
            # Slurm refuses this while the job runs, so it follows the requeue.
            answer = slurm.update_job(job.id, "ExcNodeList", exclude)
            say(f"scontrol update ExcNodeList={exclude}: {answer.text or 'done'}")
            if answer.ok:
                _note(job, attempt, say, message=message)
        return True
    answer = resubmit_job(job.submission, job.id, exclude or slurm.excluded_nodes(job.id), say, job.node_count)
    if answer.ok:
        _note(job, attempt, say, new_job=answer.text, action="resubmit", message=message)
        repoint_dependents(job.id, answer.text, say)
    else:
        message = f"{decision.message}; it cannot be queued again: {answer.text}"
        _note(job, attempt, say, action="stop", message=message)
    return answer.ok


def nodes_to_exclude(job: BatchJob, unfit: Sequence[str], say: Journal) -> str | None:
    """Put together the nodes that the job should not be given any more; None if none is added.

    Args:
        job: The job, which keeps the nodes it excludes already: the profile's own, and those of earlier attempts.
        unfit: Nodes that the preflight of this attempt found unfit.
        say: Told why nodes are not excluded.
    """
    unfit = [node for node in unfit if node in job.nodes]
    if not unfit:
        return None
    if len(unfit) == len(job.nodes) > 1:
        say("no node is excluded: all of them have the same fault, so the nodes are probably not its cause")
        return None
    shown = slurm.show_job(job.id)
    earlier = shown.get("ExcNodeList") if shown else job.slurm_options["exclude"]
    exclude = ",".join([*([earlier] if earlier else []), *unfit])
    if not _leaves_enough(job, shown, exclude):
        say(f"{', '.join(unfit)} not excluded: the partition has too few other nodes that the job could run on")
        return None
    return exclude


def _leaves_enough(job: BatchJob, shown: Mapping[str, str], exclude: str) -> bool:
    """Tell whether enough nodes are left: else the job would wait forever, and Slurm would not say why."""
    excluded = {*slurm.hostnames(exclude)}
    if "ReqNodeList" in shown and excluded & {*slurm.hostnames(shown["ReqNodeList"])}:  # it takes no others
        return False
    try:
        able = find_able(shown, job.nodes)
    except UnknownNodesError:
        everywhere = slurm.partition_nodes(shown.get("Partition", ""))
        return not everywhere or len({*everywhere} - excluded) >= job.node_count
    return any(len(its - excluded) >= job.node_count for its in able)


def requeue_job(job: str, restart_count: int, say: Callable[[str], object]) -> bool:
    """Put this process's own job back into the queue; tell whether Slurm does that.

    Args:
        job: Its id.
        restart_count: How many times it was requeued when this process started.
        say: Takes a line for the log.
    """
    # Slurm requeues by ending this job: SIGTERM to every process, and SIGKILL after KillWait. This process and the
    # commands that it starts ignore the first, so that they can finish.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    answer = slurm.requeue(job, restart_count)
    say(f"scontrol requeue: {answer.text}")
    return answer.ok


def resubmit_job(
    submission: SubmissionDir,
    job: str,
    exclude: str | None,
    say: Callable[[str], object],
    nodes: int | None = None,
    patience: float | None = None,
) -> slurm.CommandResult:
    """Queue a new job in place of one; the text of the answer is its id.

    Args:
        submission: What the job was started from.
        job: The job, or one element of an array.
        exclude: Nodes that the new job is not given, those of the profile among them; None: those of the script.
        say: Takes a line for the log.
        nodes: How many it gets; as many as the script says if left out.
        patience: Seconds after which an absent slurmctld is asked no more; Slurm's usual ones if left out.
    """
    index = job.partition("_")[2] or None
    answer = slurm.resubmit(str(submission.script), index, job, nodes, exclude, patience)
    say(f"sbatch: {'new job ' if answer.ok else ''}{answer.text}")
    return answer


def _note(job: BatchJob, attempt: Attempt, say: Journal, new_job: str | None = None, **event: object) -> None:
    try:
        if new_job is not None:
            record = RunRecord.read(job.run.record)
            record.submissions.append(Submitted(new_job, str(job.submission.root), time.time()))
            record.write(job.run.record)
        append_event(job.run.ledger, attempt.number, **event)
    except OSError as error:
        say(f"attempt {attempt.number} cannot be noted in the run directory: {error}")
