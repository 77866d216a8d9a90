"""What follows once a run is over: the index, the pipelines, the sweep. All of it may be done twice."""

from collections.abc import Callable

from jobs.batch.advance import advance_pipelines, advance_sweep
from jobs.batch.allocation import BatchJob
from jobs.batch.attempt import Journal, last_sign_of_life
from jobs.batch.notify import Notifier
from launcher.run.index import register
from launcher.run.ledger import Attempt, append_event


def register_run(job: BatchJob, say: Journal) -> None:
    """Let later submissions of the same recipe find a finished run."""
    if job.record.share is None and (why := register(job.run)):
        say(f"not in the index of finished runs: {why}")


def let_others_go_on(job: BatchJob, say: Callable[[str], object]) -> None:
    """Let the pipelines and the sweep go on of a run that is over, whose own batch process may not have lived to do so.

    Args:
        job: Does it.
        say: Takes what was done.
    """
    advance_pipelines(job, False, say)
    advance_sweep(job, say)


def complete(job: BatchJob, finished: Attempt, notifier: Notifier) -> Journal:
    """Do what the batch process of a run that has finished did not live to do.

    Args:
        job: Does it; the run's own job is over.
        finished: The attempt in which the run finished, perhaps without an end in the ledger.
        notifier: Tells people of the end if nobody has.

    Returns:
        The attempt's log.

    Raises:
        OSError: The ledger cannot be written.
    """
    is_news, say = finished.ended is None, Journal(job.run.batch_log(finished.number))
    if is_news:
        ended = last_sign_of_life(job.run.attempt_logs(finished.number), finished.started)
        append_event(job.run.ledger, finished.number, ended=ended, action="done", source="ledger")
    register_run(job, say)
    let_others_go_on(job, say)
    notifier.tell("finished" if is_news else None, "", say)
    return say
