"""Bringing the job back: into the queue again or as a new one, and not to nodes that were unfit.

Standard library only.
"""

import signal
import time
from collections.abc import Mapping, Sequence

from jobs.runtime import slurm
from jobs.runtime.attempt import Journal
from jobs.runtime.job import Job
from jobs.runtime.verdict import Ending, Verdict
from launcher.ledger import Attempt, append_event
from launcher.record import RunRecord, Submitted


def come_back(job: Job, attempt: Attempt, ending: Ending, verdict: Verdict, say: Journal) -> None:
    """Put the job back into the queue, or a new one where the site does not allow that."""
    if verdict.action in ("done", "stop"):
        return
    unfit = ending.cause.unfit if ending.cause else ()
    exclude = nodes_to_exclude(job, unfit, say)
    message = f"{verdict.message}; not on {', '.join(unfit)} again" if exclude else verdict.message
    if verdict.action == "requeue" and _requeue(job, say):
        if exclude and _exclude(job, exclude, say):
            _note(job, attempt, say, message=message)
        return
    answer = slurm.resubmit(str(job.submission.script), job.array_index, job.id, job.node_count, exclude)
    say(f"sbatch: {'new job ' if answer.ok else ''}{answer.text}")
    if answer.ok:
        _note(job, attempt, say, new_job=answer.text, action="resubmit", message=message)
        let_others_wait(job.id, answer.text, say)
    else:
        message = f"{verdict.message}; it cannot be queued again: {answer.text}"
        _note(job, attempt, say, action="stop", message=message)


def nodes_to_exclude(job: Job, unfit: Sequence[str], say: Journal) -> str | None:
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
        say("no node is excluded: all of them have the fault, so it is hardly theirs")
        return None
    shown = slurm.show_job(job.id)
    earlier = shown.get("ExcNodeList", job.slurm_options["exclude"] or "(null)")
    exclude = ",".join([*([] if earlier == "(null)" else [earlier]), *unfit])
    if not _leaves_enough(job, shown, exclude):
        say(f"{', '.join(unfit)} not excluded: the partition has too few other nodes")
        return None
    return exclude


def _leaves_enough(job: Job, shown: Mapping[str, str], exclude: str) -> bool:
    """Tell whether the job can still start somewhere: else it would wait for ever, and nobody would be told why."""
    everywhere = slurm.partition_nodes(shown.get("Partition", ""))
    return not everywhere or len(set(everywhere) - set(slurm.hostnames(exclude))) >= job.node_count


def _requeue(job: Job, say: Journal) -> bool:
    # Slurm answers by ending this job: SIGTERM to every process, and SIGKILL after KillWait. The commands that are
    # started until then inherit that they ignore the first.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    answer = slurm.requeue(job.id, job.restart_count)
    say(f"scontrol requeue: {answer.text}")
    return answer.ok


def _exclude(job: Job, nodes: str, say: Journal) -> bool:
    """Keep the job, which waits again, from nodes. Slurm refuses that while it runs."""
    answer = slurm.exclude(job.id, nodes)
    say(f"scontrol update ExcNodeList={nodes}: {answer.text}")
    return answer.ok


def let_others_wait(old: str, new: str, say: Journal) -> None:
    """Have what waits for a job wait for the one that goes on: the end of the old one says nothing of the run."""
    waiting = slurm.waiting_jobs()
    if waiting is None:
        say(f"squeue does not tell what waits for job {old}; it will not wait for job {new}")
        return
    its_own = new.partition("_")[0]
    for job, conditions in waiting.items():
        wanted = slurm.replace_awaited(conditions, old, new)
        if wanted is not None and job.partition("_")[0] != its_own:
            answer = slurm.wait_for(job, wanted)
            say(f"scontrol update Dependency={wanted} of job {job}: {answer.text or 'done'}")


def _note(job: Job, attempt: Attempt, say: Journal, new_job: str | None = None, **event: object) -> None:
    try:
        if new_job is not None:
            record = RunRecord.read(job.run.record)
            record.submissions.append(Submitted(new_job, str(job.submission.root), time.time()))
            record.write(job.run.record)
        append_event(job.run.ledger, attempt.number, **event)
    except OSError as error:
        say(f"the run directory cannot take that: {error}")
