"""Runs that have a job already, which their run.json does not know."""

import time
from collections.abc import Sequence
from typing import TypeAlias

from launcher.monitor.run_state import read_state
from launcher.run.ledger import read_json_lines
from launcher.run.paths import SubmissionDir
from launcher.slurm.queue import Queue
from launcher.submit.freeze import FrozenRun

Elements: TypeAlias = Sequence[tuple[int, FrozenRun]]
"""Runs of a submission, with their indices there."""


def jobs_of_element(alive: Sequence[str], index: int, size: int) -> list[str]:
    """Choose the jobs that carry out one run of a submission.

    Args:
        alive: The jobs of the submission.
        index: Of the run.
        size: How many runs the submission has.
    """
    return [job for job in alive if size == 1 or job.endswith(f"_{index}")]


def leave_out_queued(queue: Queue, submission: SubmissionDir, elements: Elements) -> tuple[Elements, list[str]]:
    """Leave out the runs that have a job: their `launcher submit` was killed, or another process was quicker.

    Returns:
        The runs without a job, and the jobs of the others, which are noted in their run.json.
    """
    alive = queue.jobs_of(submission)
    if not alive:
        return elements, []
    size, rest, found = len(read_json_lines(submission.manifest)), [], dict[str, None]()
    for index, frozen in elements:
        mine = jobs_of_element(alive, index, size)
        new = [job for job in mine if job not in {entry.job_id for entry in frozen.record.submissions}]
        if new:
            frozen.add_job(new[0], submission, time.time())
        elif not mine or not read_state(frozen.folder).waits_for_first_start:  # Slurm cleans up after the last attempt
            rest.append((index, frozen))
            continue
        found[mine[0].partition("_")[0]] = None
    return rest, [*found]
